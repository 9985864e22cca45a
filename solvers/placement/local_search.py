"""Local search over active GPUs: close some, and anneal their instances into the others; repeat while it succeeds.

    close the least filled GPUs, half as many as the bound may allow
    -> rounds: deal GPUs out into parts at random, anneal each part apart (on as many cores as there are), put together
    -> what is left without a GPU gets new ones; if they are fewer than were closed, that is the new incumbent
    -> close more while it succeeds, fewer when it fails; at one GPU, ever longer rounds

Parts make the search work at any size: theirs is a number of GPUs that stays in a core's cache, and the answer does not
depend on how many cores share them (partitioned optimization: Narayanan et al., "Solving large-scale granular resource
allocation problems efficiently with POP", SOSP 2021, doi 10.1145/3477132.3483588; here parts are dealt anew each round,
which repairs what a partition spoils). At millions of steps a second and core this is the strongest improver for many
small instances; what involves gangs, splits, affinity and partitions stays put, and is left to CP-SAT.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dilu_core.kernels.cpu.annealing import anneal
from dilu_core.solvers.placement.bins import Bins, bins_of, write_back
from dilu_core.solvers.placement.bookings import Bookings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_CHUNK = 500_000  # steps between looks at the clock
_PART = 2_000  # bins of a part, about
_LEAST_PART = 300  # bins below which a part is not worth dividing
_ROUND = 1_000  # steps per item in a round
_MOST_ROUND = 40_000_000  # steps in all in a round
_LONGEST = 8  # times that, for rounds that try to close a single GPU
_HOT, _COLD = 0.02, 0.002

PACKED_STEPS = 60_000
"""Steps per item after which a search without a clock takes the GPUs it has for few enough."""


@dataclass
class Part:
    """A part of the bins with the items in them, as arrays of their own, and how to anneal them: all a worker needs.

    It is annealed `until` a time of the wall clock, which workers in other processes read as well.
    """

    demand: Ints
    size: Floats
    ties: Ints
    has_ties: bool
    members: Ints
    count: Ints
    free: Ints
    fill: Floats
    bars: Ints
    homeless: Ints
    steps: int
    seed: int
    until: float
    done: int = 0


def anneal_part(part: Part, stop: threading.Event | None = None) -> Part:
    """Anneal a part in place, and give it back; `stop` or the clock ends it early."""
    homeless = np.zeros(part.demand.shape[0], np.int64)
    waiting = part.homeless.size
    homeless[:waiting] = part.homeless
    random = np.array([part.seed % 2147483646 + 1], np.int64)
    while waiting and part.done < part.steps and time.time() < part.until and not (stop and stop.is_set()):
        steps = min(_CHUNK, part.steps - part.done)
        hot, cold = (_HOT * (_COLD / _HOT) ** (at / part.steps) for at in (part.done, part.done + steps))
        waiting, made = anneal(
            part.demand, part.size, part.ties, part.has_ties, part.members, part.count, part.free, part.fill,
            part.bars, homeless, waiting, steps, hot, cold, random,
        )  # fmt: skip
        part.done += made
    part.homeless = homeless[:waiting].copy()
    return part


RunParts = Callable[[list[Part]], Iterable[Part]]


@contextmanager
def parts_on_cores(*, spare: int = 0) -> Iterator[RunParts]:
    """Runs parts on the cores of this machine, all but some that others need; leaving it early makes them stop."""
    stop = threading.Event()
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - spare)) as pool:
        try:
            yield lambda parts: pool.map(lambda part: anneal_part(part, stop), parts)
        finally:
            stop.set()


@dataclass
class LocalSearch:
    """A search over bins that goes on where it was left: `best` is its incumbent, whatever happens to the work.

    `steps` made so far; `was_cut` says that a clock ended the last run (else it depends on bins and seed alone).
    """

    best: Bins
    seed: int
    report: Callable[[int], None] | None = None
    steps: int = 0
    was_cut: bool = False
    _random: Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def run(
        self,
        run_parts: RunParts,
        *,
        target: int,
        deadline: float,
        steps_per_item: int = PACKED_STEPS,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Close GPUs until `target` are left, the steps are made, the deadline passes, or `stop()` between rounds."""
        n = self.best.demand.shape[0]
        budget = self.steps + steps_per_item * n
        self.was_cut = False
        closing, longer = self._half_way(target), 1
        while n > 1 and self.best.used > max(target, 1) and self.steps < budget:
            work = self.best.copy()
            if not work.close(min(closing, self.best.used - max(target, 1))):
                break
            fails = 0
            while work.homeless.size and self.steps < budget:
                if time.perf_counter() >= deadline or (stop is not None and stop()):
                    self.was_cut = True
                    return
                steps = min(min(_ROUND * n, _MOST_ROUND) * longer, budget - self.steps)
                self._round(run_parts, work, steps, deadline)
                fails += 1
                if not work.homeless.size or not self._open(work) or fails == 2 or self.best.used - work.used <= 1:
                    break
            if not work.homeless.size:
                self._take(work)
                longer = 1
                closing = max(1, min(closing, self._half_way(target)))
            elif closing > 1:
                closing = max(1, min(closing // 2, self._half_way(target)))
            else:
                longer = min(2 * longer, _LONGEST)

    def offer(self, bins: Bins) -> None:
        """Take `bins`, of the same items, as the incumbent where they are fewer."""
        if bins.used < self.best.used:
            self._take(bins)

    def resize(self, size: Floats) -> None:
        """Go on with other sizes of the items, 1 on average."""
        self.best = replace(self.best, size=size)

    def _half_way(self, target: int) -> int:
        return max(1, (self.best.used - target) // 2)

    def _open(self, work: Bins) -> bool:
        """Whether opening GPUs for those without one gives a better incumbent; if so it is taken."""
        trial = work.copy()
        if trial.open_for_homeless() and trial.used < self.best.used:
            self._take(trial)
            return True
        return False

    def _take(self, bins: Bins) -> None:
        self.best = bins
        if self.report:
            self.report(bins.used)

    def _round(self, run_parts: RunParts, work: Bins, steps: int, deadline: float) -> None:
        """Deal the used bins out into parts, anneal each with its share of the homeless, and put them together."""
        number = max(2 if work.used >= 2 * _LEAST_PART else 1, round(work.used / _PART))
        chosen = np.array_split(self._random.permutation(work.used), number)
        homeless = np.array_split(self._random.permutation(work.homeless), number)
        seeds = self._random.integers(1 << 30, size=number)
        items, parts = [], []
        for bins, waiting, seed in zip(chosen, homeless, seeds.tolist(), strict=True):
            ids, part = _part(work, bins, waiting, steps // number, seed, deadline)
            items.append(ids)
            parts.append(part)
        left = []
        for bins, ids, part in zip(chosen, items, run_parts(parts), strict=True):
            work.members[bins] = ids[part.members] if ids.size else 0
            work.count[bins], work.free[bins] = part.count, part.free
            left.append(ids[part.homeless] if ids.size else part.homeless)
            self.steps += part.done
        work.homeless = np.concatenate(left)


def _part(work: Bins, bins: Ints, homeless: Ints, steps: int, seed: int, deadline: float) -> tuple[Ints, Part]:
    """The items (by number in `work`) of some bins and of those that wait, and the part they make."""
    members, count = work.members[bins], work.count[bins]
    inside = np.arange(members.shape[1]) < count[:, None]
    items = np.concatenate([members[inside], homeless])
    local = np.zeros_like(members)
    local[inside] = np.arange(items.size - homeless.size)
    size = work.size[items]
    fill = np.where(inside, size[local], 0.0).sum(axis=1) if items.size else np.zeros(bins.size)
    return items, Part(
        work.demand[items], size, work.ties[items], work.has_ties, local, count, work.free[bins], fill,
        work.bars[bins], np.arange(items.size - homeless.size, items.size), steps, seed,
        time.time() + deadline - time.perf_counter(),
    )  # fmt: skip


def squeeze(ledger: Bookings, *, target: int, deadline: float, seed: int) -> tuple[int, bool]:
    """Empty GPUs of `ledger` until `target` are left, one proves too hard, or the deadline.

    Returns the steps made, and whether the deadline cut them short (else they depend on ledger and seed alone).
    """
    bins, movable = bins_of(ledger)
    with parts_on_cores() as run_parts:
        search = LocalSearch(bins, seed)
        search.run(run_parts, target=target - (ledger.gpus_used - bins.used), deadline=deadline)
    write_back(ledger, movable, search.best)
    return search.steps, search.was_cut and search.best.used > max(target, 1)
