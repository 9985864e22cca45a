"""One seeded attempt at a placement: construct, pack beside column generation, search neighbourhoods.

    construct -> ruin and recreate, where there are gangs, splits and the like; column generation raises the bound
                 in another thread
              -> local search on shares of a GPU, then on the prices of the converged program
              -> neighbourhoods by CP-SAT

Attempts share nothing but the time limit, so several may run at once. One that starts late, for want of workers, has
what is left of the time, and one that has not started in time is not waited for. Step counts, not clocks, end each
stage, unless the time limit does: then the outcome says so, as another run may get further in the same time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Executor, wait
from dataclasses import dataclass, replace

from dilu_core.placement import PlacementProblem
from dilu_core.result import Limit
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.bounds import Bound
from dilu_core.solvers.placement.construct import Construction, construct
from dilu_core.solvers.placement.neighbourhood import Search, improve, is_small
from dilu_core.solvers.placement.stages import Stages
from dilu_core.solvers.placement.task import Report, Task
from dilu_core.solvers.placement.value import Value

ATTEMPTS = 4
"""Seeds tried where an executor is given."""

PARTITIONED = 10_000
"""Instances beyond which an executor anneals parts of one search, instead of searching with several seeds."""

_BUILD_SHARE = 0.1  # of the time for trying several constructions
_AFTERWARDS_S = 4e-5  # per instance: to write the placement down when the search is over


@dataclass(frozen=True)
class Outcome:
    """The best placement of an attempt, whether it is proven best, what cut the attempt short, best bound, and counts.

    `proves_best` is stronger than `is_exact`: best among all placements, not only within a budget of migrations.
    """

    bookings: Mapping[str, Booking]
    value: Value
    is_exact: bool
    proves_best: bool
    limit: Limit | None
    bound: Bound
    counts: Mapping[str, int]


def run_attempts(task: Task, executor: Executor | None, report: Report | None) -> Outcome:
    """The best outcome of an attempt here; `executor` runs the parts of it, or `ATTEMPTS` seeds if it is small."""
    if executor is None or len(task.wanted) > PARTITIONED or not task.seconds:
        return attempt(task, report, executor)
    outcomes = _attempts_on(executor, [replace(task, seed=task.seed + i) for i in range(ATTEMPTS)])
    if not outcomes:  # its workers were busy all the time
        return attempt(replace(task, seconds=0.0), report)
    best = min(outcomes, key=lambda outcome: (not outcome.is_exact, task.key(outcome.value)))
    bound = max((outcome.bound for outcome in outcomes), key=lambda bound: bound.value)
    counts: dict[str, int] = {}
    for outcome in outcomes:
        for what, count in outcome.counts.items():
            counts[what] = counts.get(what, 0) + count
    was_cut = len(outcomes) < ATTEMPTS or any(outcome.limit is Limit.TIME for outcome in outcomes)
    if was_cut and best.limit is Limit.ITERATIONS:
        best = replace(best, limit=Limit.TIME)  # another attempt could have been the best with more time
    return replace(best, bound=bound, counts=counts)


def _attempts_on(executor: Executor, tasks: list[Task]) -> list[Outcome]:
    """The outcomes of those attempts that started while there was time, in the order of `tasks`."""
    seconds = tasks[0].seconds
    until = time.time() + seconds
    futures = [executor.submit(_attempt_until, task, until) for task in tasks]
    try:
        wait(futures, seconds)
        started = [future for future in futures if not future.cancel()]
        return [future.result() for future in started]
    finally:
        for future in futures:
            future.cancel()


def _attempt_until(task: Task, until: float) -> Outcome:
    """An attempt that ends by `until`, of the wall clock, which workers in other processes read as well."""
    return attempt(replace(task, seconds=min(task.seconds, max(0.0, until - time.time()))))


def attempt(task: Task, report: Report | None = None, executor: Executor | None = None) -> Outcome:
    """Construct, pack, then search neighbourhoods; an interrupt ends it with what it has."""
    deadline = time.perf_counter() + max(0.0, task.seconds - _AFTERWARDS_S * len(task.wanted))
    current = _current(task.problem)
    built = _build(task, current, deadline)
    search = Search(built.ledger, task.wanted, current, task.max_migrations, task.objective)
    packing = Stages(task, search, report)
    limit = built.limit
    try:
        packing.tell()
        if limit is not Limit.INTERRUPTED:
            if (
                not current
                and task.seconds
                and not is_small(search)
                and not task.enough(search.value, task.bound.value)
            ):
                packing.run(deadline, executor)
            limit = improve(
                search,
                enough=lambda found: task.enough(found, packing.bound.value),
                deadline=deadline,
                seed=task.seed,
                report=lambda gpus: packing.tell(),
            )
    except KeyboardInterrupt:
        limit = Limit.INTERRUPTED
    if limit in (None, Limit.ITERATIONS) and (built.limit is Limit.TIME or search.was_cut):
        limit = Limit.TIME  # another run may get further in the same time: only this says that the answer may differ
    best, bound = search.value, packing.bound
    if limit is None and best.unplaced == 0 and best.gpus > bound.value and not search.is_exact:
        limit = Limit.GAP
    if task.objective.gpus_first and best.unplaced == 0 and best.gpus == bound.value and limit is Limit.TIME:
        limit = None  # it is proven that no other run uses fewer GPUs
    rationed = bool(current) and task.max_migrations is not None
    if search.is_exact and rationed and not task.enough(best, bound.value):
        limit = Limit.MIGRATIONS
    counts = {"constructions": built.tried, **packing.counts, "neighbourhoods": search.neighbourhoods}
    return Outcome(search.best, best, search.is_exact, search.is_exact and not rationed, limit, bound, counts)


def _build(task: Task, current: Mapping[str, Booking], deadline: float) -> Construction:
    """The better of building on what runs and of building afresh, which only counts where it puts nobody out."""
    deadline = time.perf_counter() + _BUILD_SHARE * max(0.0, deadline - time.perf_counter())
    built = construct(task.problem, task.wanted, task.objective, stay=current, current=current, deadline=deadline)
    if not current or task.max_migrations is not None or not task.seconds or task.enough(built.value, task.bound.value):
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
    return {name: ledger.booking(instances[name], slots) for name, slots in problem.current.items()}
