"""Replanning a running cluster by few moves: free GPUs, make room for one instance, or let in as many as possible.

    plan_drain        fewest GPUs for what runs                       dilu_core.solvers.placement.drain
    plan_room         one instance that fits nowhere                  dilu_core.solvers.placement.room
    plan_admission    the greatest share of many pending instances    dilu_core.solvers.placement.admission

All plan on a copy of the ledger and write down each step they carry out there, so every state between two steps is one
the ledger allowed. One worker and deterministic limits: a plan depends on the state and the arguments alone, unless it
is cut by time. An interrupt (Ctrl-C) ends the search, and the plan made so far is returned.

A plan values the GPUs of this moment over `horizon_s`. An instance about to leave is better left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from dilu_core import _checks as check
from dilu_core.arrival_mix import TaskMix
from dilu_core.cluster import Instance
from dilu_core.result import Limit, Termination, TerminationReason
from dilu_core.solvers.placement.admission import admit
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.drain import drain
from dilu_core.solvers.placement.migration_plan import Admission, HostMove, MigrationPlan, Move
from dilu_core.solvers.placement.move_cost import MoveCost
from dilu_core.solvers.placement.moving import Draft
from dilu_core.solvers.placement.reasons import refusal, why_never
from dilu_core.solvers.placement.room import make_room

__all__ = [
    "MigrationPlan", "Move", "MoveCost", "chosen_names", "plan_admission", "plan_drain", "plan_room", "start_draft",
]  # fmt: skip

T = TypeVar("T")

Exempt = Iterable[str] | Callable[[Instance], bool]
"""Instances that never move: their names, or what tells whether an instance is one of them."""

_HOUR_S = 3600.0


def start_draft(
    ledger: Bookings,
    *,
    max_migrations: int,
    cost: MoveCost | None = None,
    horizon_s: float = _HOUR_S,
    exempt: Exempt = (),
    mix: TaskMix | None = None,
) -> Draft:
    """An empty plan over a copy of `ledger`; `InvalidArgumentError` names an argument that makes no sense."""
    most = check.integer("max_migrations", max_migrations, at_least=0)
    horizon = check.finite("horizon_s", horizon_s, at_least=0.0)
    if cost is not None and not isinstance(cost, MoveCost):
        check.fail("cost", f"is {cost!r:.120}; expected a MoveCost or None.")
    if mix is not None and not isinstance(mix, TaskMix):
        check.fail("mix", f"is {mix!r:.120}; expected a TaskMix or None.")
    fixed = chosen_names("exempt", exempt, {name: booking.instance for name, booking in ledger.by_name.items()})
    return Draft(ledger.copy(), most, fixed, horizon, cost, mix)


def chosen_names(argument: str, given: Iterable[str] | Callable[[T], bool], known: Mapping[str, T]) -> set[str]:
    """The names of `known` that a caller gave or that their function tells; one that is not `known` is refused."""
    if callable(given):
        return {name for name, each in known.items() if given(each)}
    found = check.names(argument, given)
    for i, name in enumerate(found):
        if name not in known:
            check.fail(f"{argument}[{i}]", f"is {name!r}, which is not placed here.")
    return set(found)


def plan_drain(ledger: Bookings, draft: Draft, *, time_limit_s: float) -> MigrationPlan:
    """The moves that free most GPUs within the draft's budget; `ledger` is not changed."""
    deadline = time.perf_counter() + time_limit_s
    try:
        limit = None if drain(draft, deadline) else Limit.TIME
    except KeyboardInterrupt:
        limit = Limit.INTERRUPTED
    if limit is None and draft.moves_left <= 0:
        limit = Limit.MIGRATIONS
    return finish(ledger, draft, Termination(TerminationReason.FEASIBLE, limit))


def plan_room(
    ledger: Bookings, draft: Draft, instance: Instance, direct: Booking | None, *, time_limit_s: float
) -> MigrationPlan:
    """The fewest moves that let `instance` in, or none and the reason; `direct` is its place where it needs none."""
    if direct is not None:
        draft.admit(direct)
        return finish(ledger, draft, Termination(TerminationReason.OPTIMAL, None, "it fits without any move"))
    never = why_never(ledger.cluster, ledger.oversubscription, instance)
    if never is not None:
        return finish(ledger, draft, Termination(TerminationReason.INFEASIBLE, None, never))
    deadline = time.perf_counter() + time_limit_s
    limit = None
    try:
        found = make_room(draft, instance, deadline)
    except KeyboardInterrupt:
        return finish(ledger, draft, Termination(TerminationReason.NO_SOLUTION_FOUND, Limit.INTERRUPTED))
    if time.perf_counter() >= deadline:
        limit = Limit.TIME
    if draft.let_in(found.moves, found.place):
        reason = TerminationReason.OPTIMAL if found.is_proven else TerminationReason.FEASIBLE
        return finish(ledger, draft, Termination(reason, limit))
    proven = found.is_proven and found.place is None
    reason = TerminationReason.INFEASIBLE if proven else TerminationReason.NO_SOLUTION_FOUND
    said = "no" if proven else "found no"
    detail = f"{said} sequence of at most {draft.most_moves} moves that lets it in: {refusal(ledger, instance).reason}"
    return finish(ledger, draft, Termination(reason, limit or Limit.MIGRATIONS, detail))


def plan_admission(
    ledger: Bookings,
    draft: Draft,
    pending: Sequence[Instance],
    *,
    time_limit_s: float,
    reservations: set[str],
    may_pause: bool,
    seed: int,
) -> MigrationPlan:
    """The moves that let in the greatest GPU share of `pending`; `ledger` is not changed."""
    deadline = time.perf_counter() + time_limit_s
    try:
        ended = admit(draft, pending, deadline, reservations=reservations, may_pause=may_pause, seed=seed)
        limit = None if ended else Limit.TIME
    except KeyboardInterrupt:
        limit = Limit.INTERRUPTED
    return finish(ledger, draft, Termination(TerminationReason.FEASIBLE, limit))


def finish(ledger: Bookings, draft: Draft, termination: Termination) -> MigrationPlan:
    """The draft as a plan; its steps are replayed, so that an interrupt amid one cannot leave a wrong count."""
    replay = ledger.copy()
    host_moves = []
    for host_step in draft.host_steps:
        source, target = (ledger.cluster.nodes[each.node].name for each in host_step)
        host_moves.append(HostMove(host_step.held.name, source, target))
        replay.unreserve(host_step.held.name)
        replay.reserve(host_step.wanted)
    moves = []
    for step in draft.steps:
        cost = 0.0 if step.held is None else draft.gpu_seconds(step.held)
        saved = (step.freed * draft.horizon_s - cost) / _HOUR_S
        before = () if step.held is None else replay.slots(step.held)
        after = () if step.wanted is None else replay.slots(step.wanted)
        moves.append(Move(step.name, before, after, cost, saved))
        if step.held is not None:
            replay.cancel(step.name)
        if step.wanted is not None:
            replay.book(*step.wanted.fields)
    admissions = []
    for booking in draft.admitted:
        replay.book(*booking.fields)
        admissions.append(Admission(booking.instance, replay.slots(booking)))
    return MigrationPlan(
        tuple(moves), ledger.gpus_used, replay.gpus_used, tuple(admissions), termination, tuple(host_moves)
    )
