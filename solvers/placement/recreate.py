"""Ruin and recreate: clear a few nodes, and let those who were there find new places, in another order each time.

    closing    the least filled GPU is closed, and its instances wait; steps go on until all have a place on the GPUs
               that are left, which is the new incumbent, and the next GPU is closed
    polishing  nobody may wait; steps go on to what the objective likes better on as many GPUs

A step clears one to four nodes, with or without their gangs, and places whom it cleared and who waits again, one by
one as `choose` says: whoever is harder to place first, but with noise; by weights of best fit drawn from a few; and
those who may be split at times only where they fit nowhere whole. A worse state is taken with probability
exp(-worsening / temperature), the unit being about a GPU. All rules hold at every step, as `choose` keeps them, so
this works for gangs, splits, affinity, hosts, types, partitions and configurations alike.

Schrimpf, Schneider, Stamm-Wilbrandt and Dueck, "Record breaking optimization results using the ruin and recreate
principle", J. Computational Physics 2000 (doi 10.1006/jcph.1999.6413); waiting instances as the measure of a state on
too few vehicles: Christiaens and Vanden Berghe, "Slack induction by string removals for vehicle routing problems",
Transportation Science 2020 (doi 10.1287/trsc.2019.0914).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Instance
from dilu_core.kernels.cpu.ledger import ACTIVE
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.choose import PUBLISHED_WEIGHTS, WEIGHTS, Chooser
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.value import Value, value

STALLED = 40_000
"""Steps without a better placement, after which a search without a clock ends."""

_PHASE = 8_000  # steps of closing or polishing, then again from the incumbent
_GPUS_FIRST, _MIXED = ("close", "close", "close", "polish"), ("polish", "close")
_TEMPERATURE = 0.03  # of a GPU
_LESSER = 0.1  # of a GPU: price of a term less important than GPUs, while GPUs are as few as they must be
_GREATER = 4.0  # GPUs: price of a term that is more important
_MOST_NODES = 4
_MOST_LEAVING = 40
_GANGS_LEAVE, _RELUCTANT, _UNTYPED = 0.6, 0.3, 0.1  # how often
_NOISE = 0.15
_REST = 0.3  # weight of the sum of shares beside one of them, in a measure of size
_WEIGHTS = (WEIGHTS, PUBLISHED_WEIGHTS, (0.4, 0.1, 0.5), (0.3, 0.5, 0.2))


@dataclass(frozen=True)
class _Prices:
    """What a state costs beside the size of those who wait, in GPUs: of every GPU, node, split and so on."""

    gpus: float = 0.0
    nodes: float = 0.0
    splits: float = 0.0
    split_parts: float = 0.0
    configurations: float = 0.0

    def of(self, bookings: Iterable[Booking]) -> float:
        """The cost of some bookings."""
        cost = 0.0
        for booking in bookings:
            if booking.is_split:
                cost += self.splits + self.split_parts * len(booking.gpus)
            cost += self.configurations * booking.configuration
        return cost


_TERMS = frozenset(each.name for each in fields(_Prices))


class RuinRecreate:
    """A search from the state of `ledger`, which is not changed; `best`, a ledger, and `value` are its incumbent.

    `steps` made so far; `was_cut` says that a clock ended the last run (else it depends on ledger and seed alone).
    """

    def __init__(
        self,
        ledger: Bookings,
        wanted: Sequence[Instance],
        objective: Objective,
        seed: int,
        report: Callable[[int], None] | None = None,
    ) -> None:
        self.best, self.value = ledger.copy(), value(ledger, wanted, {})
        self.steps, self.was_cut = 0, False
        self._wanted, self._objective, self._report = wanted, objective, report
        self._random = np.random.default_rng(seed)
        self._number = {each.name: i for i, each in enumerate(wanted)}
        self._whole = [replace(each, splittable=False) if each.splittable else each for each in wanted]
        self._size, self._rank = _sizes(ledger, wanted), _ranks(wanted)
        self._mean = {each.name: float(size) for each, size in zip(wanted, self._size.mean(axis=1), strict=True)}
        self._gained_at = 0

    def run(
        self,
        *,
        enough: Callable[[Value], bool],
        deadline: float,
        stalled: int = STALLED,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Search until the incumbent is `enough`, so many steps brought nothing, the deadline passes, or `stop()`."""
        self.was_cut = False
        self._gained_at = self.steps
        phases = _GPUS_FIRST if self._objective.gpus_first else _MIXED
        length = max(1, min(_PHASE, stalled // len(phases)))
        phase = itertools.cycle(phases)
        while self.steps - self._gained_at < stalled and not enough(self.value):
            walk = _Walk(self, self.best.copy())
            polish = next(phase) == "polish" and leaves_lesser(self._objective, self.value)
            if not (walk.polish() if polish else walk.close()):
                if not leaves_lesser(self._objective, self.value):
                    return
                continue
            for _ in range(length):
                if time.perf_counter() >= deadline or (stop is not None and stop()):
                    self.was_cut = True
                    return
                self.steps += 1
                gained = walk.step()
                if gained and enough(self.value):
                    return
                if self.steps - self._gained_at >= stalled or (not walk.waiting and not polish and not walk.close()):
                    break

    def offer(self, ledger: Bookings) -> bool:
        """Take the state of a ledger where the objective likes it better than the incumbent."""
        found = value(ledger, self._wanted, {})
        if self._objective.key(found) >= self._objective.key(self.value):
            return False
        self.best, self.value = ledger.copy(), found
        self._gained_at = self.steps
        if self._report:
            self._report(found.gpus)
        return True


class _Walk:
    """A walk over states from the incumbent of a search: a ledger, who waits, and how many GPUs may be used."""

    def __init__(self, search: RuinRecreate, ledger: Bookings) -> None:
        self._search, self._ledger, self._random = search, ledger, search._random
        self._choosers = [Chooser(ledger, weights=weights) for weights in _WEIGHTS]
        self._prices = _Prices()
        self.waiting = [each.name for each in search._wanted if each.name not in ledger.by_name]
        self._most = int(ledger.held.size)
        self._may_wait = True
        self._ledger.mark()

    def close(self) -> bool:
        """Begin to close a GPU, or to place who waits already; `False` where there is nothing to close."""
        ledger = self._ledger
        self._prices = _prices(self._search._objective, lesser=0.0)
        if self.waiting:
            return True
        if ledger.gpus_used < 2:
            return False
        rows = np.flatnonzero(ledger.held > 0)
        fill = [self._fill(row) for row in rows.tolist()]
        row = int(rows[int(self._random.choice(np.argsort(fill, kind="stable")[:3]))])
        self._most = ledger.gpus_used - 1
        self.waiting = list(ledger.on_gpu[row])
        for name in self.waiting:
            ledger.cancel(name)
        self._keep()
        return True

    def polish(self) -> bool:
        """Begin to look for what is better on as many GPUs, or on one more where that may pay."""
        self._prices = _prices(self._search._objective, lesser=_LESSER)
        self._most = self._ledger.gpus_used + (not self._search._objective.gpus_first)
        self._may_wait = False
        return True

    def step(self) -> bool:
        """Clear some nodes and place again; whether that gave a better incumbent."""
        ledger, draw = self._ledger, self._random
        leaving = self._leaving()
        changed = [*leaving, *self.waiting]
        before = self._cost(changed) + self._size(self.waiting)
        for name in leaving:
            ledger.cancel(name)
        lost = self._recreate(changed)
        worse = self._cost(changed) + self._size(lost) - before
        if (lost and not self._may_wait) or (worse > 0 and draw.random() >= math.exp(-worse / _TEMPERATURE)):
            ledger.rollback(0)
            return False
        promising = len(lost) < len(self.waiting) or (worse < 0 and not lost)
        self.waiting = lost
        self._keep()
        return promising and len(lost) <= self._search.value.unplaced and self._search.offer(ledger)

    def _keep(self) -> None:
        """Make this the state to come back to."""
        self._ledger.release(0)
        self._ledger.mark()

    def _leaving(self) -> list[str]:
        """The names of those who are cleared from a few active nodes."""
        ledger, draw = self._ledger, self._random
        active = np.flatnonzero(ledger.node_state[:, ACTIVE] > 0)
        if not active.size:
            return []
        gangs_leave = draw.random() < _GANGS_LEAVE
        leaving: dict[str, None] = {}
        for n in active[draw.integers(active.size, size=int(draw.integers(1, _MOST_NODES + 1)))]:
            for row in range(int(ledger.node_start[n]), int(ledger.node_start[n + 1])):
                for name, booking in ledger.on_gpu[row].items():
                    if gangs_leave or booking.instance.gpus == 1:
                        leaving[name] = None
            if len(leaving) >= _MOST_LEAVING:
                break
        return list(leaving)

    def _recreate(self, names: Sequence[str]) -> list[str]:
        """Place all of these that can be, and return the others."""
        search, ledger, draw = self._search, self._ledger, self._random
        numbers = np.array([search._number[name] for name in names], np.int64)
        size = search._size[numbers, int(draw.integers(search._size.shape[1]))]
        rank = np.where(draw.random(numbers.size) < _UNTYPED, 0, search._rank[numbers])
        order = np.lexsort([-size * (1 + draw.normal(0.0, _NOISE, numbers.size)), rank])
        chooser = self._choosers[int(draw.integers(len(self._choosers)))]
        reluctant = draw.random() < _RELUCTANT
        lost = []
        for i in order.tolist():
            instance = search._wanted[int(numbers[i])]
            whole_first = (search._whole[numbers[i]],) if reluctant and instance.splittable else ()
            for asked in (*whole_first, instance):
                choice = chooser.choose(asked)
                if choice is not None and ledger.gpus_used + choice.opened <= self._most:
                    ledger.book(instance, choice.gpus, choice.memory_mib, choice.configuration, choice.mig)
                    break
            else:
                lost.append(names[i])
        return lost

    def _cost(self, names: Iterable[str]) -> float:
        """The part of the cost that depends on these, of those who are placed, and on the cluster as a whole."""
        ledger, prices = self._ledger, self._prices
        cost = prices.gpus * ledger.gpus_used + prices.of(ledger.by_name[n] for n in names if n in ledger.by_name)
        return cost + (prices.nodes * int((ledger.node_state[:, ACTIVE] > 0).sum()) if prices.nodes else 0.0)

    def _size(self, names: Iterable[str]) -> float:
        mean = self._search._mean
        return sum(mean[name] for name in names)

    def _fill(self, row: int) -> float:
        """How full a GPU is, gangs counting more, as several GPUs must be found for them."""
        return self._size(self._ledger.on_gpu[row])


def leaves_lesser(objective: Objective, found: Value) -> bool:
    """Whether a placement on as many GPUs could be better."""
    return any(getattr(found, term) for term in objective.terms if term in _TERMS and term != "gpus")


def _prices(objective: Objective, *, lesser: float) -> _Prices:
    """Prices in GPUs: by weight, or by order, where terms after GPUs cost `lesser`, `lesser`**2 and so on."""
    if objective.weights is not None:
        unit = objective.weights.get("gpus", 0) or max(objective.weights.values())
        return _Prices(**{term: weight / unit for term, weight in objective.weights.items() if term in _TERMS})
    terms = [term for term in objective.order if term in _TERMS]
    at = terms.index("gpus") if "gpus" in terms else len(terms)
    return _Prices(
        **{
            term: _GREATER ** (at - i) if i < at else lesser ** (i - at)  # of GPUs itself: 1
            for i, term in enumerate(terms)
        }
    )


def _sizes(ledger: Bookings, instances: Sequence[Instance]) -> NDArray[np.float64]:
    """Measures of how hard each is to place, (n_instances, 3): by the greatest share of a GPU, memory, and request."""
    demand = np.array(
        [(each.request_milli, each.limit_milli, max(each.memory_per_gpu_mib)) for each in instances], np.float64
    ).reshape(-1, 3)
    share = demand / np.maximum(ledger.capacity.max(axis=0, initial=1), 1)
    gpus = np.array([each.gpus for each in instances], np.float64)[:, None]
    main = np.stack([share.max(axis=1), share[:, 2], share[:, 0]], axis=1)
    measures: NDArray[np.float64] = gpus * (main + _REST * share.sum(axis=1, keepdims=True))
    return measures


def _ranks(instances: Sequence[Instance]) -> NDArray[np.int64]:
    """Classes in the order they are placed: choosy about GPU types, then gangs, the largest first, then splittable."""
    kind = [(each.gpu_types is None, -each.gpus, not each.splittable) for each in instances]
    of = {each: i for i, each in enumerate(sorted(set(kind)))}
    return np.array([of[each] for each in kind], np.int64)
