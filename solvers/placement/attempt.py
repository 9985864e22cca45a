"""One seeded attempt at a placement: construct, then search. Attempts share nothing, so several may run at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from dilu_core.cluster import Instance
from dilu_core.placement import PlacementProblem
from dilu_core.result import Limit
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.construct import construct
from dilu_core.solvers.placement.neighbourhood import Search, improve
from dilu_core.solvers.placement.value import Value

ATTEMPTS = 4
"""Seeds tried where an executor is given."""

Report = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """What an attempt needs to know. `seconds` count from when it starts; all `wanted` fit the cluster one by one."""

    problem: PlacementProblem
    wanted: tuple[Instance, ...]
    bound: int
    gap: float
    max_migrations: int | None
    seconds: float
    seed: int

    def enough(self, found: Value) -> bool:
        """Whether the GPUs used are as few as asked for, everything being placed."""
        return found.unplaced == 0 and found.gpus_used - self.bound <= self.gap * self.bound


@dataclass(frozen=True)
class Outcome:
    """The best placement of an attempt, whether it is proven best, what cut the attempt short, and counts of work."""

    bookings: Mapping[str, Booking]
    value: Value
    is_exact: bool
    limit: Limit | None
    counts: Mapping[str, int]


def run_attempts(task: Task, executor: Executor | None, report: Report | None) -> Outcome:
    """The best outcome of one attempt here, or of `ATTEMPTS` with consecutive seeds on `executor`."""
    if executor is None:
        return attempt(task, report)
    tasks = [replace(task, seed=task.seed + i) for i in range(ATTEMPTS)]
    outcomes = list(executor.map(attempt, tasks))
    best = min(outcomes, key=lambda outcome: (not outcome.is_exact, outcome.value))
    counts: dict[str, int] = {}
    for outcome in outcomes:
        for what, count in outcome.counts.items():
            counts[what] = counts.get(what, 0) + count
    return replace(best, counts=counts)


def attempt(task: Task, report: Report | None = None) -> Outcome:
    """Construct, then search neighbourhoods; an interrupt ends the search with what it has."""
    deadline = time.perf_counter() + task.seconds
    current = _current(task.problem)
    built = construct(task.problem, task.wanted, stay=current, current=current, deadline=deadline)
    tried = built.tried
    if current and task.max_migrations is None and task.seconds and not task.enough(built.value):
        afresh = construct(task.problem, task.wanted, stay={}, current=current, deadline=deadline)
        tried += afresh.tried
        if all(name in afresh.ledger.by_name for name in current):  # nobody who runs is put out
            built = min(built, afresh, key=lambda each: each.value)
    search = Search(built.ledger, task.wanted, current, task.max_migrations)
    try:
        if report:
            report(search.value.gpus_used)
        limit = improve(search, enough=task.enough, deadline=deadline, seed=task.seed, report=report)
    except KeyboardInterrupt:
        limit = Limit.INTERRUPTED
    if limit is None and search.value.unplaced == 0 and search.value.gpus_used > task.bound and not search.is_exact:
        limit = Limit.GAP
    counts = {"constructions": tried, "neighbourhoods": search.neighbourhoods}
    return Outcome(search.best, search.value, search.is_exact, limit, counts)


def _current(problem: PlacementProblem) -> dict[str, Booking]:
    """The bookings of the instances that run now."""
    if problem.current is None:
        return {}
    ledger = Bookings(problem.cluster, problem.oversubscription)
    instances = {instance.name: instance for instance in problem.instances}
    return {
        name: Booking(instances[name], ledger.rows(slots), tuple(slot.memory_mib for slot in slots))
        for name, slots in problem.current.items()
    }
