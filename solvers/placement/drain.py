"""Free GPUs by few moves: empty the least filled ones into room that others have, or can be given by a further move.

Rounds repeat on the planned state until the budget is spent or nothing more can be freed. Each round tries, in order:

    greedy        the emptiest GPUs one by one, each instance to its best fit
    one layer     CP-SAT chooses which of many GPUs to empty, into room that is free now
    two layers    CP-SAT on a few GPUs, where what is in the way moves first

and carries out the better of the first two, or else the third. A small cluster is solved whole instead, exactly, in as
many layers as there may be moves (four at most).
"""

from __future__ import annotations

import time

import numpy as np

from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.layers import Layout, Mover, solve_layers
from dilu_core.solvers.placement.movers import is_small, movable, movers
from dilu_core.solvers.placement.moving import Draft, can_move
from dilu_core.solvers.placement.pricing import Prices

_SOURCES, _TARGETS = 60, 150
_CHAIN_TARGETS = 10
_CHAIN_TRIES = 12
_DETERMINISTIC_S = 1.0
_DETERMINISTIC_CHAIN_S = 0.2
_SMALL_LAYERS = 4


def drain(draft: Draft, deadline: float) -> bool:
    """Add the moves that free GPUs to the draft until `deadline` (of perf_counter); whether it ran to its end."""
    small = is_small(draft.ledger)
    while draft.moves_left > 0:
        if time.perf_counter() >= deadline:
            return False
        if not (_whole(draft, deadline) if small else _round(draft, deadline)):
            break
        if small:
            break
    return time.perf_counter() < deadline or draft.moves_left <= 0


def _whole(draft: Draft, deadline: float) -> bool:
    """The whole cluster as one exact model."""
    ledger, prices = draft.ledger, Prices.of(draft)
    rows = list(range(ledger.held.size))
    layers = min(draft.moves_left, _SMALL_LAYERS)
    return _carry_out(draft, _solve(draft, movers(draft, movable(draft, rows), rows, prices, deadline, now=False),
                                    prices, layers, 20 * _DETERMINISTIC_S, deadline))  # fmt: skip


def _round(draft: Draft, deadline: float) -> bool:
    """Carry out one round of moves; whether there was anything to gain."""
    sources, targets = _candidates(draft)
    if not sources:
        return False
    prices = Prices.of(draft)
    greedy = _greedy(draft, sources, deadline)
    leaving = {name: booking for row in sources for name, booking in movable(draft, [row]).items()}
    rows = sorted({*sources, *targets})
    found = _solve(
        draft, movers(draft, leaving, rows, prices, deadline, now=True), prices, 1, _DETERMINISTIC_S, deadline
    )
    chosen = _flat(found)
    if _gain(draft, greedy) > _gain(draft, chosen):
        chosen = greedy
    if chosen and draft.carry_out(chosen):
        return True
    return _chain(draft, sources, targets, deadline)


def _chain(draft: Draft, sources: list[int], targets: list[int], deadline: float) -> bool:
    """Two layers on one GPU to empty and some with room, for the emptiest GPUs in turn."""
    ledger, prices = draft.ledger, Prices.of(draft)
    for source in sources[:_CHAIN_TRIES]:
        if time.perf_counter() >= deadline:
            return False
        near = [row for row in targets if row != source][:_CHAIN_TARGETS]
        empty = np.flatnonzero(ledger.held == 0)[:1].tolist()
        rows = [source, *near]
        found = _solve(draft, movers(draft, movable(draft, rows), rows + empty, prices, deadline, now=False), prices, 2,
                       _DETERMINISTIC_CHAIN_S, deadline)  # fmt: skip
        if _carry_out(draft, found):
            return True
    return False


def _solve(
    draft: Draft, found: list[Mover], prices: Prices, layers: int, deterministic_s: float, deadline: float
) -> Layout | None:
    left = deadline - time.perf_counter()
    if left <= 0 or not any(mover.ways for mover in found):
        return None
    return solve_layers(
        draft.ledger, found, (), layers=layers, most_moves=draft.moves_left, gpu_price=prices.gpu,
        deterministic_s=deterministic_s, time_limit_s=left,
    )  # fmt: skip


def _flat(layout: Layout | None) -> list[Booking]:
    return [] if layout is None else [booking for layer in layout.layers for booking in layer]


def _carry_out(draft: Draft, layout: Layout | None) -> bool:
    wanted = _flat(layout)
    return bool(wanted) and draft.carry_out(wanted)


def _gain(draft: Draft, wanted: list[Booking]) -> tuple[float, int]:
    """What these moves save in GPU-seconds (GPUs, where moves are free), then how few they are."""
    if not wanted:
        return 0.0, 0
    ledger = draft.ledger
    leaving: dict[int, int] = {}
    coming: dict[int, int] = {}
    for booking in wanted:
        for row in ledger.by_name[booking.instance.name].gpus:
            leaving[row] = leaving.get(row, 0) + 1
        for row in booking.gpus:
            coming[row] = coming.get(row, 0) + 1
    freed = sum(1 for row, count in leaving.items() if count == ledger.held[row] and row not in coming)
    freed -= sum(1 for row in coming if ledger.held[row] == 0)
    if draft.cost is None:
        return float(freed), -len(wanted)
    return freed * draft.horizon_s - sum(draft.gpu_seconds(each) for each in wanted), -len(wanted)


def _candidates(draft: Draft) -> tuple[list[int], list[int]]:
    """Rows worth emptying (few and small instances first, all of them movable), and rows with most room to receive."""
    ledger = draft.ledger
    active = np.flatnonzero(ledger.held)
    room = (ledger.free[active] / np.maximum(ledger.capacity[active], 1)).min(axis=1)
    order = np.lexsort([active, -room, ledger.held[active]])
    sources = [
        row
        for row in active[order].tolist()
        if len(ledger.on_gpu[row]) <= draft.moves_left and not draft.fixed.intersection(ledger.on_gpu[row])
    ][:_SOURCES]
    targets = active[np.argsort(-room, kind="stable")][:_TARGETS].tolist()
    return sources, targets


def _greedy(draft: Draft, sources: list[int], deadline: float) -> list[Booking]:
    """Moves that empty one source after another, each instance of one GPU to its best fit; nothing is changed.

    Sources not looked at by `deadline` are left alone.
    """
    ledger, wanted = draft.ledger, list[Booking]()
    received: set[int] = set()
    outer = ledger.mark()
    budget = draft.moves_left
    for source in sources:
        if time.perf_counter() >= deadline:
            break
        leaving = list(ledger.on_gpu[source].values())
        worth = draft.horizon_s - sum(draft.gpu_seconds(each) for each in leaving)
        if source in received or len(leaving) > budget or any(len(each.gpus) > 1 or each.mig for each in leaving):
            continue
        if draft.cost is not None and worth <= 0:
            continue
        mark, taken = ledger.mark(), list[Booking]()
        for held in sorted(leaving, key=lambda each: (-each.request_milli, each.instance.name)):
            goes = _best_fit(ledger, held, source)
            if goes is None:
                break
            ledger.move(goes.instance.name, *goes.fields[1:])
            taken.append(goes)
        if len(taken) < len(leaving):
            ledger.rollback(mark)
            continue
        wanted += taken
        received.update(booking.gpus[0] for booking in taken)
        budget -= len(taken)
    ledger.rollback(outer)
    ledger.release(outer)
    return wanted


def _best_fit(ledger: Bookings, held: Booking, source: int) -> Booking | None:
    """The active GPU other than `source` that suits this instance best now."""
    free = ledger.free
    able = np.flatnonzero(
        (ledger.held > 0)
        & (free[:, 0] >= held.request_milli)
        & (free[:, 1] >= held.limit_milli)
        & (free[:, 2] >= held.memory_mib[0])
    )
    rest = (free[able] / np.maximum(ledger.capacity[able], 1)).sum(axis=1)
    for row in able[np.argsort(rest, kind="stable")].tolist():
        wanted = Booking(held.instance, (row,), held.memory_mib, held.configuration)
        if row != source and can_move(ledger, wanted):
            return wanted
    return None
