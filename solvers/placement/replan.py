"""Free GPUs of a running cluster by few migrations: drain the least filled GPUs into room that others have now.

CP-SAT chooses which GPUs to empty and where their instances go. Every instance moves into room that is free before any
of the moves, so they may be carried out one by one in any order with no step over capacity. Only instances on a single
GPU move; gangs and split instances stay. Rounds repeat on the planned state until the budget of migrations is spent or
nothing more can be freed. One worker and deterministic limits: the plan depends on the state alone, unless cut by time.

A plan values the GPUs of this moment. An instance about to leave is better left alone: replan in quiet periods.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from dilu_core import _checks as check
from dilu_core.slots import Slot
from dilu_core.solvers.placement.bookings import Booking, Bookings

_SOURCES = 60
_TARGETS = 150
_DETERMINISTIC_S = 1.0
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Move:
    """The instance `name` goes from its `source` slots to its `target` slots."""

    name: str
    source: tuple[Slot, ...]
    target: tuple[Slot, ...]

    def __post_init__(self) -> None:
        check.text("name", self.name)
        for field in ("source", "target"):
            object.__setattr__(self, field, check.instances_of(field, getattr(self, field), Slot))


@dataclass(frozen=True)
class MigrationPlan:
    """Moves to carry out in order, each keeping every GPU within capacity, and the GPUs used before and after."""

    moves: tuple[Move, ...]
    gpus_before: int
    gpus_after: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "moves", check.instances_of("moves", self.moves, Move))
        for field in ("gpus_before", "gpus_after"):
            object.__setattr__(self, field, check.integer(field, getattr(self, field), at_least=0))

    @property
    def gpus_freed(self) -> int:
        """GPUs that hold nothing once the moves are done."""
        return self.gpus_before - self.gpus_after

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value; a slot is [node, GPU, memory in MiB]."""
        return {
            "version": _VERSION,
            "moves": [
                {"name": move.name, "source": _rows(move.source), "target": _rows(move.target)} for move in self.moves
            ],
            "gpus_before": self.gpus_before,
            "gpus_after": self.gpus_after,
        }


def _rows(slots: tuple[Slot, ...]) -> list[list[Any]]:
    return [[slot.node, slot.gpu, slot.memory_mib] for slot in slots]


def plan_drain(ledger: Bookings, *, max_migrations: int, time_limit_s: float) -> MigrationPlan:
    """The moves that free most GPUs with at most `max_migrations`, fewest among equals; `ledger` is not changed."""
    deadline = time.perf_counter() + time_limit_s
    planned = copy_ledger(ledger)
    moves: list[Move] = []
    moved: set[str] = set()
    while len(moves) < max_migrations:
        left = deadline - time.perf_counter()
        if left <= 0:
            break
        found = _drain(planned, moved, max_migrations - len(moves), left)
        if not found:
            break
        for booking, row in found:
            name = booking.instance.name
            source = planned.slots(booking)
            planned.move(name, (row,), booking.memory_mib)
            moves.append(Move(name, source, planned.slots(planned.by_name[name])))
            moved.add(name)
    return MigrationPlan(tuple(moves), ledger.gpus_used, planned.gpus_used)


def copy_ledger(ledger: Bookings) -> Bookings:
    """A ledger of its own with the same bookings."""
    copy = Bookings(ledger.cluster, ledger.oversubscription)
    for booking in ledger.by_name.values():
        copy.book(booking.instance, booking.gpus, booking.memory_mib)
    return copy


def _drain(ledger: Bookings, moved: set[str], most_moves: int, time_limit_s: float) -> list[tuple[Booking, int]]:
    """One round: (booking, row it goes to) for each move."""
    sources, targets = _candidates(ledger, moved, most_moves)
    model = cp_model.CpModel()
    emptied = {row: model.new_bool_var("") for row in sources}
    arrivals: defaultdict[int, list[tuple[Booking, Any]]] = defaultdict(list)
    for row in sources:
        for _, booking in sorted(ledger.on_gpu[row].items()):
            ways = []
            for target in targets:
                if target != row and ledger.fits(Booking(booking.instance, (target,), booking.memory_mib)):
                    goes = model.new_bool_var("")
                    ways.append(goes)
                    arrivals[target].append((booking, goes))
                    if target in emptied:
                        model.add_implication(goes, ~emptied[target])
            model.add(sum(ways) == emptied[row])
    for target, coming in arrivals.items():
        demands = [(b.instance.request_milli, b.limit_milli, b.memory_mib[0]) for b, _ in coming]
        for resource in range(3):
            load = sum(demand[resource] * goes for demand, (_, goes) in zip(demands, coming, strict=True))
            model.add(load <= int(ledger.free[target, resource]))
        for i, (one, one_goes) in enumerate(coming):
            for other, other_goes in coming[:i]:
                if _refuse(one, other):
                    model.add_at_most_one(one_goes, other_goes)
    going = [goes for coming in arrivals.values() for _, goes in coming]
    model.add(sum(going) <= most_moves)
    model.maximize((len(going) + 1) * sum(emptied.values()) - sum(going))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_deterministic_time = _DETERMINISTIC_S
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.catch_sigint_signal = False
    if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return []
    return [(b, target) for target, coming in arrivals.items() for b, goes in coming if solver.boolean_value(goes)]


def _candidates(ledger: Bookings, moved: set[str], most_moves: int) -> tuple[list[int], list[int]]:
    """Rows worth emptying (few and small instances first, all of them movable), and rows with most room to receive."""
    active = np.flatnonzero(ledger.held)
    room = (ledger.free[active] / ledger.capacity[active]).min(axis=1)
    order = np.lexsort([active, -room, ledger.held[active]])
    sources = [
        row
        for row in active[order].tolist()
        if len(ledger.on_gpu[row]) <= most_moves
        and all(len(b.gpus) == 1 and b.instance.name not in moved for b in ledger.on_gpu[row].values())
    ][:_SOURCES]
    targets = active[np.argsort(-room, kind="stable")][:_TARGETS].tolist()
    return sources, targets


def _refuse(one: Booking, other: Booking) -> bool:
    a, b = one.instance, other.instance
    return b.function in a.anti_affinity or a.function in b.anti_affinity
