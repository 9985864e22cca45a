"""The stages of an attempt that run beside column generation: ruin and recreate, then local search.

Ruin and recreate gets its time by the share of what local search cannot move: gangs, splits and the like.
Local search starts on shares of a GPU. Once the pattern program has converged it is offered its rounded optimum, and
goes on by prices.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from dilu_core.solvers.placement.bins import Bins, bins_of, normalised, repacked, write_back
from dilu_core.solvers.placement.bookings import Booking
from dilu_core.solvers.placement.bound_race import BoundRace
from dilu_core.solvers.placement.construct import ledger_of
from dilu_core.solvers.placement.local_search import LocalSearch, RunParts, anneal_part, parts_on_cores
from dilu_core.solvers.placement.neighbourhood import Search
from dilu_core.solvers.placement.recreate import RuinRecreate, leaves_lesser
from dilu_core.solvers.placement.task import Report, Task

_PACK_SHARE = 0.8  # of the time left; neighbourhoods get the rest, and what the stages leave over
_ALL_PACK_SHARE = 0.97  # the same where every instance may move, so that neighbourhoods have little to add
_OTHERS_WEIGH, _MOST_RECREATE = 2.0, 0.95  # of that for ruin and recreate, per share of what else there is; at most
_LESSER_SHARE = 0.5  # the same, at least, where only it can improve the lesser aims
_SHARE_STEPS, _MOST_SHARE_STEPS = 1_000, 30_000_000  # per item and in all, while column generation runs


class Stages:
    """The stages, on the ledger of `search`; tells of every better number of GPUs or bound."""

    def __init__(self, task: Task, search: Search, report: Report | None) -> None:
        self.task, self.search, self.bound = task, search, task.bound
        self.counts = {"recreations": 0, "local_search_steps": 0}
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
        movable, now = len(bins_of(search.ledger)[1]), time.perf_counter()
        all_move = movable == len(task.wanted)
        pause = now + (_ALL_PACK_SHARE if all_move else _PACK_SHARE) * max(0.0, deadline - now)
        others = 1 - movable / max(1, sum(each.gpus for each in task.wanted))  # of the places on GPUs
        hard = min(_OTHERS_WEIGH * others, _MOST_RECREATE)
        if leaves_lesser(task.objective, search.value):
            hard = max(hard, _LESSER_SHARE)
        if movable < 2:
            hard = 1.0
        with BoundRace(task.problem, task.wanted, known=self.bound, deadline=pause) as race:
            if hard:
                self._recreate(race, now + hard * (pause - now))
            if movable > 1 and not task.enough(search.value, self.bound.value):
                self._pack(race, pause, executor)

    def _look(self, race: BoundRace, gpus: int) -> None:
        """Take a better bound from the race."""
        if race.best.value > self.bound.value:
            self.bound = race.best
            self.tell(gpus)

    def _recreate(self, race: BoundRace, pause: float) -> None:
        """Ruin and recreate from the ledger of `search`, and take its best."""
        task, search = self.task, self.search
        ruin = RuinRecreate(search.ledger, task.wanted, task.objective, task.seed, self.tell)

        def stop() -> bool:
            self._look(race, ruin.value.gpus)
            return False

        try:
            ruin.run(enough=lambda found: task.enough(found, self.bound.value), deadline=pause, stop=stop)
        finally:
            self.counts["recreations"] = ruin.steps
            search.ledger = ruin.best
            search.keep()
        search.was_cut |= ruin.was_cut

    def _pack(self, race: BoundRace, pause: float, executor: Executor | None) -> None:
        """Local search from the ledger of `search`, and take its best."""
        search = self.search
        bins, movable = bins_of(search.ledger)
        others = search.value.gpus - bins.used  # GPUs without anything that may move, and partitioned ones
        local = LocalSearch(bins, self.task.seed, lambda used: self.tell(others + used))
        try:
            self._local_search(local, movable, others, race, pause, executor)
        finally:
            self.counts["local_search_steps"] = local.steps
            self._accept(local.best, movable)

    def _local_search(
        self,
        local: LocalSearch,
        movable: list[Booking],
        others: int,
        race: BoundRace,
        pause: float,
        executor: Executor | None,
    ) -> None:
        task, search = self.task, self.search

        def target() -> int:
            return task.fewest(self.bound.value) - others

        def look() -> bool:
            self._look(race, others + local.best.used)
            return search.value.unplaced == 0 and local.best.used <= target()

        steps = min(_SHARE_STEPS, _MOST_SHARE_STEPS // len(movable))
        with _running(executor, spare=1) as run_parts:
            local.run(run_parts, target=target(), deadline=pause, steps_per_item=steps, stop=look)
            if not look() and not race.is_over:  # no use in idling; whatever this gains is due to a clock
                waited = local.best
                local.run(run_parts, target=target(), deadline=pause, stop=lambda: look() or race.is_over)
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
        search.was_cut |= local.was_cut or not race.has_converged

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
