"""Carrying out a plan on a ledger: each step is checked against the state it finds, and all or none of them remain."""

from __future__ import annotations

from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.migration_plan import HostMove, MigrationPlan, Move
from dilu_core.solvers.placement.moving import move
from dilu_core.verification import violations


def carry_out(ledger: Bookings, plan: MigrationPlan) -> str | None:
    """Carry out `plan`, or change nothing and return what no longer fits.

    It is tried on a copy first: undoing a stop would leave the ledger's instances in another order.
    """
    reason = _steps(ledger.copy(), plan)
    if reason is not None:
        return reason
    mark = ledger.mark()
    try:
        return _steps(ledger, plan)
    except BaseException:
        ledger.rollback(mark)
        raise
    finally:
        ledger.release(mark)


def _steps(ledger: Bookings, plan: MigrationPlan) -> str | None:
    for each in plan.host_moves:
        reason = _move_host(ledger, each)
        if reason is not None:
            return reason
    stopped: dict[str, Booking] = {}
    for step in plan.moves:
        reason = _obstacle(ledger, step, stopped)
        if reason is not None:
            return reason
        if step.stops:
            stopped[step.name] = ledger.cancel(step.name)
            continue
        held = stopped.get(step.name) or ledger.by_name[step.name]
        wanted = ledger.booking(held.instance, step.target)
        if step.starts:
            fits = ledger.fits(wanted)
            if fits:
                ledger.book(*wanted.fields)
                del stopped[step.name]
        else:
            fits = move(ledger, wanted)
        if not fits:
            return f"{step.name!r} no longer fits where it was to go"
    if stopped:
        return f"{next(iter(stopped))!r} is stopped and never started again"
    for admission in plan.admissions:
        instance = admission.instance
        if instance.name in ledger.by_name or instance.name in ledger.reserved:
            return f"{instance.name!r}, which was to be let in, is placed already"
        broken = violations(ledger.cluster, (instance,), ledger.oversubscription, {instance.name: admission.slots})
        if broken:
            return broken[0].message.rstrip(".")
        wanted = ledger.booking(instance, admission.slots)
        if not ledger.fits(wanted):
            return f"{instance.name!r} no longer fits where it was to be let in"
        ledger.book(*wanted.fields)
    return None


def _move_host(ledger: Bookings, step: HostMove) -> str | None:
    """Move a reservation whose target has room beside what it holds now, or say why not."""
    held = ledger.reserved.get(step.name)
    if held is None:
        return f"{step.name!r} reserves nothing any more"
    if step.source not in ledger.node_number or step.target not in ledger.node_number:
        return f"{step.name!r} goes from {step.source!r} to {step.target!r}, not both of which are in the cluster"
    if held.node != ledger.node_number[step.source]:
        return f"{step.name!r} has moved meanwhile"
    wanted = held._replace(node=ledger.node_number[step.target])
    if (ledger.host_free[wanted.node] < (held.cpu_milli, held.memory_mib)).any():
        return f"{step.name!r} no longer fits where it was to go"
    ledger.unreserve(held.name)
    ledger.reserve(wanted)
    return None


def _obstacle(ledger: Bookings, step: Move, stopped: dict[str, Booking]) -> str | None:
    """What makes `step` meaningless in this state, room aside."""
    held = stopped.get(step.name) if step.starts else ledger.by_name.get(step.name)
    if held is None:
        return f"{step.name!r} is not {'stopped' if step.starts else 'placed any more'}"
    if not step.starts and ledger.slots(held) != step.source:
        return f"{step.name!r} has moved meanwhile"
    if step.stops:
        return None
    broken = violations(ledger.cluster, (held.instance,), ledger.oversubscription, {step.name: step.target})
    return broken[0].message.rstrip(".") if broken else None
