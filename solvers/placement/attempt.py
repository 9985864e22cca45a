"""One seeded attempt at a placement: construct, squeeze, search. Attempts share nothing, so several may run at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

from dilu_core._checks import LARGEST
from dilu_core.cluster import Instance
from dilu_core.placement import PlacementProblem
from dilu_core.result import Limit
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.construct import Construction, construct
from dilu_core.solvers.placement.local_search import squeeze
from dilu_core.solvers.placement.neighbourhood import Search, improve, is_small
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.value import Value

ATTEMPTS = 4
"""Seeds tried where an executor is given."""

_SQUEEZE_SHARE = 0.8  # of the time left; neighbourhoods get the rest, and what local search leaves over

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
    objective: Objective = field(default_factory=Objective)

    @property
    def fewest(self) -> int:
        """GPUs on which a placement of everything is good enough."""
        return math.floor(min(self.bound * (1 + self.gap) + 1e-9, LARGEST))

    def key(self, found: Value) -> tuple[int, ...]:
        """What placements are compared by."""
        return self.objective.key(found)

    def enough(self, found: Value) -> bool:
        """Whether the GPUs used are as few as asked for, everything being placed."""
        return found.unplaced == 0 and found.gpus <= self.fewest


@dataclass(frozen=True)
class Outcome:
    """The best placement of an attempt, whether it is proven best, what cut the attempt short, and counts of work.

    `proves_gpus` is stronger than `is_exact`: best among all placements, not only within a budget of migrations.
    """

    bookings: Mapping[str, Booking]
    value: Value
    is_exact: bool
    proves_gpus: bool
    limit: Limit | None
    counts: Mapping[str, int]


def run_attempts(task: Task, executor: Executor | None, report: Report | None) -> Outcome:
    """The best outcome of one attempt here, or of `ATTEMPTS` with consecutive seeds on `executor`."""
    if executor is None:
        return attempt(task, report)
    tasks = [replace(task, seed=task.seed + i) for i in range(ATTEMPTS)]
    outcomes = list(executor.map(attempt, tasks))
    best = min(outcomes, key=lambda outcome: (not outcome.is_exact, task.key(outcome.value)))
    counts: dict[str, int] = {}
    for outcome in outcomes:
        for what, count in outcome.counts.items():
            counts[what] = counts.get(what, 0) + count
    return replace(best, counts=counts)


def attempt(task: Task, report: Report | None = None) -> Outcome:
    """Construct, squeeze by local search, then search neighbourhoods; an interrupt ends it with what it has."""
    deadline = time.perf_counter() + task.seconds
    current = _current(task.problem)
    built = _build(task, current, deadline)
    search = Search(built.ledger, task.wanted, current, task.max_migrations, task.objective)
    steps, limit = 0, built.limit
    try:
        if report:
            report(search.value.gpus)
        if limit is not Limit.INTERRUPTED:
            if not current and task.seconds and not is_small(search) and not task.enough(search.value):
                pause = deadline - (1 - _SQUEEZE_SHARE) * max(0.0, deadline - time.perf_counter())
                steps, search.was_cut = squeeze(search.ledger, target=task.fewest, deadline=pause, seed=task.seed)
                search.keep()
            limit = improve(search, enough=task.enough, deadline=deadline, seed=task.seed, report=report)
    except KeyboardInterrupt:
        limit = Limit.INTERRUPTED
    if limit in (None, Limit.ITERATIONS) and (built.limit is Limit.TIME or search.was_cut):
        limit = Limit.TIME  # another run may get further in the same time: only this says that the answer may differ
    if limit is None and search.value.unplaced == 0 and search.value.gpus > task.bound and not search.is_exact:
        limit = Limit.GAP
    counts = {"constructions": built.tried, "local_search_steps": steps, "neighbourhoods": search.neighbourhoods}
    rationed = bool(current) and task.max_migrations is not None
    if search.is_exact and rationed and not task.enough(search.value):
        limit = Limit.MIGRATIONS
    return Outcome(search.best, search.value, search.is_exact, search.is_exact and not rationed, limit, counts)


def _build(task: Task, current: Mapping[str, Booking], deadline: float) -> Construction:
    """The better of building on what runs and of building afresh, which only counts where it puts nobody out."""
    built = construct(task.problem, task.wanted, task.objective, stay=current, current=current, deadline=deadline)
    if not current or task.max_migrations is not None or not task.seconds or task.enough(built.value):
        return built
    if built.limit is Limit.INTERRUPTED:
        return built
    afresh = construct(task.problem, task.wanted, task.objective, stay={}, current=current, deadline=deadline)
    keeps_all = all(name in afresh.ledger.by_name for name in current)
    best = min(built, afresh, key=lambda each: task.key(each.value)) if keeps_all else built
    return replace(best, tried=built.tried + afresh.tried, limit=afresh.limit or built.limit)


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
