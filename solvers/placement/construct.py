"""Placements built in one pass: put the instances in an order, then give each the place `choose` finds.

Big things first: gangs need several GPUs of one node at once, instances that may be split take what gangs left over
together, and small ones fill the holes. Within each class sizes decrease by several measures, because none is best on
every mix; each order is tried with splitting before and after opening a GPU, and so is plain decreasing size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Instance
from dilu_core.placement import PlacementProblem
from dilu_core.result import Limit
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.choose import Chooser
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.value import Value, value


@dataclass(frozen=True)
class Construction:
    """A ledger with all that found a place, its value, how many recipes were tried, and what cut them short, if any."""

    ledger: Bookings
    value: Value
    tried: int
    limit: Limit | None = None


def construct(
    problem: PlacementProblem,
    instances: Sequence[Instance],
    objective: Objective,
    *,
    stay: Mapping[str, Booking],
    current: Mapping[str, Booking],
    deadline: float,
) -> Construction:
    """The best of the one-pass placements of `instances` that can be tried before `deadline` (at least one is).

    Those in `stay` keep their bookings and the others are added to them; `current` is what moves are counted against.
    An interrupt ends the work with the best placement so far, or with the part of the first that stands.
    """
    best: Construction | None = None
    new = [instance for instance in instances if instance.name not in stay]
    tried, limit = 0, None
    ledger = ledger_of(problem, {})
    try:
        for order, split_last in _recipes(problem, new):
            if best is not None and time.perf_counter() >= deadline:
                limit = Limit.TIME
                break
            ledger = ledger_of(problem, stay)
            fill(ledger, [new[i] for i in order], split_last=split_last)
            tried += 1
            found = value(ledger, instances, current)
            if best is None or objective.key(found) < objective.key(best.value):
                best = Construction(ledger, found, tried)
    except KeyboardInterrupt:
        limit = Limit.INTERRUPTED
    if best is None:  # the columns may be half written, but whoever is in the index was found a place first
        ledger = ledger_of(problem, {**stay, **ledger.by_name})
        best = Construction(ledger, value(ledger, instances, current), tried)
    return replace(best, tried=tried, limit=limit)


def ledger_of(problem: PlacementProblem, held: Mapping[str, Booking]) -> Bookings:
    """A new ledger with these bookings."""
    ledger = Bookings(problem.cluster, problem.oversubscription)
    for booking in held.values():
        ledger.book(booking.instance, booking.gpus, booking.memory_mib, booking.configuration, booking.mig)
    return ledger


def fill(ledger: Bookings, instances: Sequence[Instance], *, split_last: bool = False) -> None:
    """Book `instances` one after another where `choose` puts them; those without a place are left out."""
    chooser = Chooser(ledger, split_last=split_last)
    for instance in instances:
        choice = chooser.choose(instance)
        if choice is not None:
            ledger.book(instance, choice.gpus, choice.memory_mib)


def _recipes(problem: PlacementProblem, instances: Sequence[Instance]) -> Iterator[tuple[list[int], bool]]:
    """Orders (positions in `instances`) and whether splitting comes last, the most promising first."""
    sizes = _sizes(problem, instances)
    gpus = np.array([instance.gpus for instance in instances], np.int64)
    splits = np.array([instance.splittable for instance in instances], np.bool_)
    # a tight GPU type must be filled before those who could go elsewhere take it
    choosy = np.array([instance.gpu_types is None for instance in instances], np.int64)
    for split_last in (False, True) if splits.any() else (False,):
        for typed in (True, False):
            for size in sizes:
                keys = [-size, ~splits, -gpus, choosy] if typed else [-size, choosy]
                yield np.lexsort(keys).tolist(), split_last


def _sizes(problem: PlacementProblem, instances: Sequence[Instance]) -> list[NDArray[np.float64]]:
    """Measures of size, each (n_instances,): greatest share of a GPU, sum of shares, then each share alone."""
    caps = problem.oversubscription
    most = max((kind.memory_mib for kind in problem.cluster.gpu_types), default=1)
    demand = np.array(
        [(each.request_milli, each.limit_milli, max(each.memory_per_gpu_mib)) for each in instances], np.float64
    ).reshape(-1, 3)
    share = demand / [caps.request_milli, caps.limit_milli, most]
    return [share.max(axis=1, initial=0.0), share.sum(axis=1), share[:, 0], share[:, 1], share[:, 2]]
