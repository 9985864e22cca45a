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
from dilu_core.kernels.cpu.constructing import first_fit_ordered
from dilu_core.placement import PlacementProblem
from dilu_core.result import Limit
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.choose import Chooser
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.value import Value, value

_MANY = 2_000  # simple instances from which first fit over arrays is worth its lesser quality


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
        for recipe in _recipes(problem, new):
            if best is not None and time.perf_counter() >= deadline:
                limit = Limit.TIME
                break
            ledger = ledger_of(problem, stay)
            fill(ledger, [new[i] for i in recipe.order], split_last=recipe.split_last, splits=recipe.splits)
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


def fill(
    ledger: Bookings, instances: Sequence[Instance], *, split_last: bool = False, splits: int | None = None
) -> None:
    """Book `instances` one after another where `choose` puts them; those without a place are left out.

    Only the first `splits` of those that may be split are (`None`: all). Many simple instances at the end go by first
    fit over arrays, which takes a moment where choosing one by one takes a minute.
    """
    chooser = Chooser(ledger, split_last=split_last)
    simple_from = len(instances)
    while simple_from and is_simple(ledger, instances[simple_from - 1]):
        simple_from -= 1
    if len(instances) - simple_from < _MANY:
        simple_from = len(instances)
    for instance in instances[:simple_from]:
        asked = instance
        if instance.splittable and splits is not None:
            splits -= 1
            asked = instance if splits >= 0 else replace(instance, splittable=False)
        choice = chooser.choose(asked)
        if choice is not None:
            ledger.book(instance, choice.gpus, choice.memory_mib, choice.configuration, choice.mig)
    if simple_from < len(instances):
        first_fit(ledger, instances[simple_from:])


def is_simple(ledger: Bookings, instance: Instance) -> bool:
    """Whether all that matters for the place of an instance is room on a GPU and the GPU's type."""
    return (
        instance.gpus == 1
        and not (instance.splittable or instance.affinity or instance.anti_affinity or instance.alternatives)
        and not (instance.cpu_milli or instance.host_memory_mib)
        and not (instance.function and (ledger.gangs_on or instance.function in ledger.refused_on))
    )


def first_fit(ledger: Bookings, instances: Sequence[Instance]) -> None:
    """Book simple instances on the first GPU with room: those in use, then empty ones, the least memory first."""
    group_of: dict[tuple[str, ...] | None, int] = {}
    group = np.array([group_of.setdefault(each.gpu_types, len(group_of)) for each in instances], np.int64)
    whole = np.array([node.gpu_type.mig is None for node in ledger.cluster.nodes], np.bool_)[ledger.node_of]
    blocked = np.zeros((len(group_of), whole.size), np.bool_)
    for gpu_types, i in group_of.items():
        blocked[i] = ~whole if gpu_types is None else ~whole | ledger.rows_of_other_types(gpu_types)
    demand = np.array([(e.request_milli, e.limit_milli, e.total_memory_mib) for e in instances], np.int64)
    bins = np.lexsort((np.arange(whole.size), ledger.capacity[:, 2], ledger.held == 0))
    where = first_fit_ordered(demand, np.arange(len(instances)), ledger.free.copy(), bins, blocked, group)
    for instance, row in zip(instances, where.tolist(), strict=True):
        if row >= 0:
            ledger.book(instance, (row,), (instance.total_memory_mib,))


@dataclass(frozen=True)
class Recipe:
    """An order (positions among the instances), whether splitting comes last, and how many may be split at most."""

    order: list[int]
    split_last: bool
    splits: int | None = None


def _recipes(problem: PlacementProblem, instances: Sequence[Instance]) -> Iterator[Recipe]:
    """What to try, the most promising first."""
    sizes = _sizes(problem, instances)
    gpus = np.array([instance.gpus for instance in instances], np.int64)
    splits = np.array([instance.splittable for instance in instances], np.bool_)
    # a tight GPU type must be filled before those who could go elsewhere take it
    choosy = np.array([instance.gpu_types is None for instance in instances], np.int64)
    for split_last in (False, True) if splits.any() else (False,):
        for typed in (True, False) if len(instances) < _MANY else (True,):
            for size in sizes:
                keys = [-size, ~splits, -gpus, choosy] if typed else [-size, choosy]
                yield Recipe(np.lexsort(keys).tolist(), split_last)
    order = np.lexsort([-sizes[0], ~splits, -gpus, choosy]).tolist()
    for eighths in range(7, -1, -1) if splits.any() else ():
        yield Recipe(order, False, int(splits.sum()) * eighths // 8)


def _sizes(problem: PlacementProblem, instances: Sequence[Instance]) -> list[NDArray[np.float64]]:
    """Measures of size, each (n_instances,): greatest share of a GPU, sum of shares, then each share alone."""
    caps = problem.oversubscription
    most = max((kind.memory_mib for kind in problem.cluster.gpu_types), default=1)
    demand = np.array(
        [(each.request_milli, each.limit_milli, max(each.memory_per_gpu_mib)) for each in instances], np.float64
    ).reshape(-1, 3)
    share = demand / [caps.request_milli, caps.limit_milli, most]
    return [share.max(axis=1, initial=0.0), share.sum(axis=1), share[:, 0], share[:, 1], share[:, 2]]
