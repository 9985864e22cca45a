"""Placing by fragmentation gradient: on the node where the share that arrivals will not be able to use grows least.

The score and what is kept of it are in `dilu_core.kernels.cpu.fgd_placing`; the mix of arrivals it expects is given, or
learnt: after 16 arrivals, at each doubling of their number, and from 1024 on at every 1024th, but then only if a tenth
of it is not as expected, since all scores have to be worked out anew. A gang takes the tightest GPUs of a node, and its
score there is that of these GPUs: others of the node may add less, and are not tried. Among configurations the first
that fits anywhere is taken. Partitioned GPUs and splits stay with best fit, for what fits no whole GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dilu_core.arrival_mix import TaskMix
from dilu_core.cluster import Configuration, Instance
from dilu_core.kernels.cpu.fgd_placing import least_gradient
from dilu_core.mix_estimator import MixEstimator
from dilu_core.solvers.placement.bookings import Bookings
from dilu_core.solvers.placement.choice import Choice, Rule, demands_of

if TYPE_CHECKING:
    from dilu_core.solvers.placement.choose import Chooser

_KNOWN_DEMANDS, _KNOWN_SCORES = 512, 4_000_000
_FIRST_LEARNT, _LEARN_EVERY, _OUTDATED = 16, 1024, 0.1

NO_MIX = TaskMix([], [], [], [], [], [], [])


class Gradient:
    """Chooses by a mix. With an `estimator` the mix is learnt from what `observe` is told; `mix` is the one in use."""

    def __init__(
        self, bookings: Bookings, *, mix: TaskMix | None = None, estimator: MixEstimator | None = None
    ) -> None:
        self.bookings = bookings
        self.estimator = estimator
        nodes = len(bookings.cluster.nodes)
        demands = max(1, min(_KNOWN_DEMANDS, _KNOWN_SCORES // max(1, nodes)))
        self._known = np.zeros((demands, nodes))
        self._known_row = np.zeros((demands, nodes), np.int64)
        self._known_at = np.full((demands, nodes), -1, np.int64)
        self._number: dict[tuple[object, ...], int] = {}
        self._next = 0
        self._demand = np.zeros(6, np.int64)
        self._demand_view = self._demand.data  # quicker to fill
        self._chosen = np.zeros(int(np.diff(bookings.node_start).max(initial=0)) + 1, np.int64)
        self.expect(NO_MIX if mix is None else mix)

    def expect(self, mix: TaskMix) -> None:
        """Use another mix from now on."""
        self.mix = mix
        self.host_per_milli = _host_per_milli(mix)
        self._known_at.fill(-1)

    def observe(self, instance: Instance) -> None:
        """Count an arrival, where the mix is learnt."""
        if self.estimator is None:
            return
        self.estimator.observe(instance)
        seen = self.estimator.arrivals
        if seen <= _LEARN_EVERY:
            if seen >= _FIRST_LEARNT and seen & (seen - 1) == 0:
                self.expect(self.estimator.mix())
        elif seen % _LEARN_EVERY == 0:
            learnt = self.estimator.mix()
            if _distance(self.mix, learnt) > _OUTDATED:
                self.expect(learnt)

    def choose(self, instance: Instance, special: bool, chooser: Chooser) -> Choice | None:
        """The place on whole GPUs that adds least; `special` says that the chooser's scratch columns are to be read."""
        b, size = self.bookings, instance.gpus
        if size > chooser.largest_node:
            return None
        barred = b.nodes_barred(instance.gpu_types, partitioned=False)
        for number, each in enumerate(demands_of(instance)):
            demand = self.demand_of(instance, each, chooser)
            memory = tuple(chooser.gang_memory_column[:size].tolist())
            key = (each.request_milli, each.limit_milli, memory, size, instance.cpu_milli, instance.host_memory_mib)
            node = self._least(key, demand, barred, chooser, special)
            if node >= 0:
                rows = tuple(self._chosen[:size].tolist())
                opened = sum(1 for row in rows if not b.on_gpu[row])
                liked = max(0, int(chooser.preference[rows[0]])) if special else 0
                return Choice(rows, memory, Rule.GRADIENT, opened, liked, number)
        return None

    def demand_of(self, instance: Instance, each: Instance | Configuration, chooser: Chooser) -> NDArray[np.int64]:
        """The scratch column of a demand, filled in; the memory of a gang stands in the chooser's."""
        memory = chooser.gang_memory(each, instance.gpus)
        demand = self._demand_view
        demand[0], demand[1], demand[2] = each.request_milli, each.limit_milli, memory[0]
        demand[3], demand[4], demand[5] = instance.gpus, instance.cpu_milli, instance.host_memory_mib
        return self._demand

    def _least(
        self, key: tuple[object, ...], demand: NDArray[np.int64], barred: NDArray[np.bool_], chooser: Chooser,
        special: bool,
    ) -> int:  # fmt: skip
        """The node where the demand adds least, its rows in the scratch column, or -1."""
        b = self.bookings
        number = self._number.get(key)
        if number is None:
            number = self._take_number(key)
        node = least_gradient(
            b.free, b.node_start, b.node_state, b.host_free, barred, chooser.preference, chooser.penalty, special,
            self.mix.shapes, self.mix.weight, demand, chooser.gang_memory_column, self._known[number],
            self._known_row[number], self._known_at[number], self._chosen,
        )  # fmt: skip
        return int(node)

    def _take_number(self, key: tuple[object, ...]) -> int:
        """A row for the scores of a demand not seen lately; the one that came first makes room."""
        number = self._next
        self._next = (number + 1) % len(self._known)
        if len(self._number) == len(self._known):
            del self._number[next(iter(self._number))]
        self._number[key] = number
        self._known_at[number] = -1
        return number


def _host_per_milli(mix: TaskMix) -> NDArray[np.float64]:
    """CPU and host memory that the tasks of a mix ask for, per milli-GPU that they ask for; zeros for an empty mix."""
    shapes = mix.shapes.astype(np.float64)
    asked = float((mix.weight * shapes[:, 0] * shapes[:, 3]).sum())
    host = (mix.weight[:, np.newaxis] * shapes[:, 4:6]).sum(axis=0)
    return np.asarray(host / asked) if asked > 0.0 else np.zeros(2)


def _distance(one: TaskMix, other: TaskMix) -> float:
    """What part of the arrivals of one mix is not in the other, 0..1."""
    weights: list[dict[tuple[int, ...], float]] = [
        {tuple(shape): weight for shape, weight in zip(mix.shapes.tolist(), mix.weight.tolist(), strict=True)}
        for mix in (one, other)
    ]
    return 1.0 - sum(min(weight, weights[1].get(shape, 0.0)) for shape, weight in weights[0].items())
