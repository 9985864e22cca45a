"""The order in which to carry out moves whose ends are known, so that every step has room.

A move is carried out as soon as its target has room beside everything that is still where it was. Moves that wait for
one another in a circle are broken: one of them goes by way of a spare place, which costs a move more, or, where pauses
are allowed, is stopped first and started at the end. What cannot be ordered is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dilu_core.solvers.placement.bookings import Booking
from dilu_core.solvers.placement.choose import Chooser
from dilu_core.solvers.placement.moving import Draft, Step


def carry_out_all(
    draft: Draft, wanted: Mapping[str, Booking], newcomers: Sequence[Booking], *, may_pause: bool
) -> None:
    """Move what can be ordered of `wanted` (by name) within the budget; then let in whom there is room for."""
    mark, steps = draft.ledger.mark(), len(draft.steps)
    may_pause = may_pause and len(wanted) <= draft.moves_left  # or something might be left stopped
    while not _order(draft, dict(wanted), may_pause=may_pause):
        draft.ledger.rollback(mark)
        del draft.steps[steps:]
        may_pause = False
    draft.ledger.release(mark)
    for booking in newcomers:
        if draft.ledger.fits(booking):
            draft.admit(booking)


def _order(draft: Draft, waiting: dict[str, Booking], *, may_pause: bool) -> bool:
    """Carry out what can be; whether everything that was stopped runs again."""
    down: dict[str, Booking] = {}
    while waiting or down:
        if _advance(draft, waiting, down):
            continue
        if not waiting or draft.moves_left <= 0:
            break
        if may_pause:
            name = min(waiting, key=lambda each: (draft.gpu_seconds(waiting[each]), waiting[each].request_milli, each))
            draft.steps.append(Step(draft.ledger.cancel(name), None))
            down[name] = waiting.pop(name)
        elif not _detour(draft, waiting):
            break
    return not down


def _advance(draft: Draft, waiting: dict[str, Booking], down: dict[str, Booking]) -> bool:
    """Carry out what can be; whether anything could."""
    done = False
    for name, booking in sorted(down.items()):
        if draft.ledger.fits(booking):
            _start(draft, booking)
            del down[name]
            done = True
    for name, booking in list(waiting.items()):
        if draft.moves_left > 0 and draft.carry_out([booking]):
            del waiting[name]
            done = True
    return done


def _start(draft: Draft, booking: Booking) -> None:
    draft.ledger.book(*booking.fields)
    draft.steps.append(Step(None, booking))


def _detour(draft: Draft, waiting: dict[str, Booking]) -> bool:
    """Move one of those that wait to a spare place, so that another can go; whether that helped."""
    ledger = draft.ledger
    if draft.moves_left < len(waiting) + 1:
        return False
    chooser = Chooser(ledger)
    for name in sorted(waiting, key=lambda each: (draft.gpu_seconds(waiting[each]), each)):
        held = ledger.by_name[name]
        choice = chooser.choose(held.instance)
        if choice is None:
            continue
        spare = Booking(held.instance, choice.gpus, choice.memory_mib, choice.configuration, choice.mig)
        mark = ledger.mark()
        ledger.move(name, *spare.fields[1:])
        helps = any(ledger.fits(booking) for other, booking in waiting.items() if other != name)
        ledger.rollback(mark)
        ledger.release(mark)
        if helps and draft.carry_out([spare]):
            return True
    return False
