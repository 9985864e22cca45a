"""One seeded attempt at a placement: construct, pack by local search beside column generation, search neighbourhoods.

    construct -> local search on shares of a GPU, while column generation raises the bound in another thread
              -> local search on the prices of the converged program, from where the search on shares ended
              -> neighbourhoods by CP-SAT

Attempts share nothing, so several may run at once. Step counts, not clocks, end each stage, unless the time limit does:
then the outcome says so, as another run may get further in the same time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from dilu_core._checks import LARGEST
from dilu_core.cluster import Instance
from dilu_core.placement import PlacementProblem
from dilu_core.result import Limit
from dilu_core.solvers.placement.bins import Bins, bins_of, normalised, repacked, write_back
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.bound_race import BoundRace
from dilu_core.solvers.placement.bounds import Bound
from dilu_core.solvers.placement.construct import Construction, construct, ledger_of
from dilu_core.solvers.placement.local_search import LocalSearch, RunParts, anneal_part, parts_on_cores
from dilu_core.solvers.placement.neighbourhood import Search, improve, is_small
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.value import Value

ATTEMPTS = 4
"""Seeds tried where an executor is given."""

PARTITIONED = 10_000
"""Instances beyond which an executor anneals parts of one search, instead of searching with several seeds."""

_BUILD_SHARE = 0.1  # of the time for trying several constructions
_PACK_SHARE = 0.8  # of the time left; neighbourhoods get the rest, and what local search leaves over
_ALL_PACK_SHARE = 0.97  # the same where every instance may move, so that neighbourhoods have little to add
_AFTERWARDS_S = 4e-5  # per instance: to write the placement down when the search is over
_SHARE_STEPS, _MOST_SHARE_STEPS = 1_000, 30_000_000  # per item and in all, while column generation runs

Report = Callable[[int, int], None]
"""Told the GPUs of the incumbent and the bound."""


@dataclass(frozen=True)
class Task:
    """What an attempt needs to know. `seconds` count from when it starts; all `wanted` fit the cluster one by one."""

    problem: PlacementProblem
    wanted: tuple[Instance, ...]
    bound: Bound
    gap: float
    max_migrations: int | None
    seconds: float
    seed: int
    objective: Objective = field(default_factory=Objective)

    def key(self, found: Value) -> tuple[int, ...]:
        """What placements are compared by."""
        return self.objective.key(found)

    def fewest(self, bound: int) -> int:
        """GPUs on which a placement of everything is good enough, by a bound."""
        return math.floor(min(bound * (1 + self.gap) + 1e-9, LARGEST))

    def enough(self, found: Value, bound: int) -> bool:
        """Whether the GPUs used are as few as asked for, everything being placed."""
        return self.objective.gpus_first and found.unplaced == 0 and found.gpus <= self.fewest(bound)


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
    if executor is None or len(task.wanted) > PARTITIONED:
        return attempt(task, report, executor)
    tasks = [replace(task, seed=task.seed + i) for i in range(ATTEMPTS)]
    outcomes = list(executor.map(attempt, tasks))
    best = min(outcomes, key=lambda outcome: (not outcome.is_exact, task.key(outcome.value)))
    bound = max((outcome.bound for outcome in outcomes), key=lambda bound: bound.value)
    counts: dict[str, int] = {}
    for outcome in outcomes:
        for what, count in outcome.counts.items():
            counts[what] = counts.get(what, 0) + count
    return replace(best, bound=bound, counts=counts)


def attempt(task: Task, report: Report | None = None, executor: Executor | None = None) -> Outcome:
    """Construct, pack, then search neighbourhoods; an interrupt ends it with what it has."""
    deadline = time.perf_counter() + max(0.0, task.seconds - _AFTERWARDS_S * len(task.wanted))
    current = _current(task.problem)
    built = _build(task, current, deadline)
    search = Search(built.ledger, task.wanted, current, task.max_migrations, task.objective)
    packing = _Packing(task, search, report)
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
    counts = {
        "constructions": built.tried, "local_search_steps": packing.steps, "neighbourhoods": search.neighbourhoods
    }  # fmt: skip
    return Outcome(search.best, best, search.is_exact, search.is_exact and not rationed, limit, bound, counts)


class _Packing:
    """Local search on the ledger of `search`, with column generation beside it; tells of every better GPU or bound."""

    def __init__(self, task: Task, search: Search, report: Report | None) -> None:
        self.task, self.search, self.bound, self.steps = task, search, task.bound, 0
        self._report, self._told = report, (-1, -1)

    def tell(self, gpus: int | None = None, bound: int | None = None) -> None:
        """Tell the GPUs and the bound, where either is new."""
        now = self.search.value.gpus if gpus is None else gpus, self.bound.value if bound is None else bound
        if self._report and now != self._told:
            self._told = now
            self._report(*now)

    def run(self, deadline: float, executor: Executor | None) -> None:
        """Search until it is enough, the steps of every stage are made, or its share of the time is over."""
        task, search = self.task, self.search
        bins, movable = bins_of(search.ledger)
        if len(movable) < 2:
            return
        share = _ALL_PACK_SHARE if len(movable) == len(task.wanted) else _PACK_SHARE
        pause = deadline - (1 - share) * max(0.0, deadline - time.perf_counter())
        others = search.value.gpus - bins.used  # GPUs without anything that may move, and partitioned ones
        local = LocalSearch(bins, task.seed, lambda used: self.tell(others + used))
        try:
            self._stages(local, movable, others, pause, executor)
        finally:
            self.steps = local.steps
            self._accept(local.best, movable)

    def _stages(
        self, local: LocalSearch, movable: list[Booking], others: int, pause: float, executor: Executor | None
    ) -> None:
        task, search = self.task, self.search

        def target() -> int:
            return task.fewest(self.bound.value) - others

        with BoundRace(task.problem, task.wanted, known=self.bound, deadline=pause) as race:

            def look() -> bool:
                if race.best.value > self.bound.value:
                    self.bound = race.best
                    self.tell(others + local.best.used)
                return search.value.unplaced == 0 and local.best.used <= target()

            steps = min(_SHARE_STEPS, _MOST_SHARE_STEPS // len(movable))
            with _running(executor, spare=1) as run_parts:
                local.run(run_parts, target=target(), deadline=pause, steps_per_item=steps, stop=look)
                if not look() and not race.is_over:  # no use in idling; whatever this gains is due to a clock
                    waited = local.best
                    local.run(
                        run_parts, target=target(), deadline=pause, stop=lambda: look() or race.is_over
                    )  # fmt: skip
                    search.was_cut |= local.best is not waited
            while not look() and not race.is_over and time.perf_counter() < pause:
                time.sleep(0.005)
            price = race.prices() if not look() else None
            if price is not None:
                number = {each.name: i for i, each in enumerate(task.wanted)}
                items = [number[booking.instance.name] for booking in movable]
                self._dive(race, local, items, pause)
                local.resize(normalised(price[items]))
                with _running(executor) as run_parts:
                    local.run(run_parts, target=target(), deadline=pause, stop=look)
            converged = race.has_converged
        search.was_cut |= local.was_cut or not converged

    def _dive(self, race: BoundRace, local: LocalSearch, items: list[int], pause: float) -> None:
        """Offer the rounded optimum of the pattern program to the local search, where it has all of the items."""
        packing = race.packing(pause) if len(items) == len(self.task.wanted) else None
        if packing is None:
            return
        at = {instance: item for item, instance in enumerate(items)}
        bins = repacked(local.best, [[at[instance] for instance in gpu] for gpu in packing])
        if bins is not None:
            local.offer(bins)

    def _accept(self, best: Bins, movable: list[Booking]) -> None:
        """Write what local search found into the ledger, and take it back where the objective likes it less."""
        search = self.search
        write_back(search.ledger, movable, best)
        before, kept = search.value, search.best
        search.keep()
        if self.task.key(search.value) > self.task.key(before):
            search.ledger = ledger_of(self.task.problem, kept)
            search.keep()


@contextmanager
def _running(executor: Executor | None, *, spare: int = 0) -> Iterator[RunParts]:
    """Runs parts on an executor, or on the cores of this machine but some to spare."""
    if executor is not None:
        yield lambda parts: executor.map(anneal_part, parts)
        return
    with parts_on_cores(spare=spare) as run_parts:
        yield run_parts


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
