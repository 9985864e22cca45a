"""Diving: the optimum of the pattern program, rounded to whole GPUs step by step.

Each step takes every pattern as often as the whole part of its value says, then those with most of a GPU left over, or
at least the most valued ones; it fills their places with instances, and solves the program again for those that
remain, with columns priced for them. A place stands for a type. When none of that type is left, the dearest of those it
dominates takes it, as the exchange columns of the program had planned. The last few instances go by best fit.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.dominance import dearest_dominated
from dilu_core.solvers.placement.column_generation import ColumnBound, ColumnGeneration, Stop

Ints = NDArray[np.int64]

_NEARLY = 0.7  # of a GPU: such values round up
_LEAST = 0.05  # of the patterns in use are rounded up where none is nearly whole
_REST = 0.01  # of the items are left to best fit
_TRACE = 1e-6  # of a GPU or an item is none
_HALF = 0.5
_PRICINGS = 2  # rounds of pricing per step


def dive(bound: ColumnBound, *, deadline: float, stop: Stop | None = None) -> list[list[int]]:
    """A packing of the instances of a bound: for each GPU, the indices of those that sit there, all whole.

    Uses up the bound's programs: they cannot be run on afterwards. See `round_columns` for what it promises.
    """
    return [
        [members[i] for i in gpu]
        for generation, members in bound.generations
        for gpu in round_columns(generation, deadline=deadline, stop=stop)
    ]


def round_columns(generation: ColumnGeneration, *, deadline: float, stop: Stop | None = None) -> list[list[int]]:
    """The packing of the instances of one program: for each GPU, the indices of those that sit there, all whole.

    An instance stands in the packing once for each of its GPUs. What cannot be whole on any GPU is left out; nodes,
    numbers of GPUs, anti-affinity and gangs are left to the caller. At the deadline the rest goes by best fit.
    """
    dive = _Dive(generation)
    while dive.left > _REST * generation.types.count.sum():
        seconds = deadline - time.perf_counter()
        if seconds <= 0 or (stop is not None and stop()) or not dive.step(seconds):
            break
    dive.best_fit()
    return [gpu for _, gpu, _ in dive.gpus]


class _Dive:
    """The instances that remain, by type, and the GPUs filled so far: type of GPU, instances, and room left."""

    def __init__(self, generation: ColumnGeneration) -> None:
        self.generation, self.types = generation, generation.types
        types = self.types
        self.members: list[list[int]] = [[] for _ in range(types.n_whole)]
        for t, owner in zip(types.type_of.tolist(), types.owner.tolist(), strict=True):
            self.members[t].append(owner)
        homes = np.unique(np.concatenate([types.fits(kind) for kind in range(types.gpus.size)]))
        self.remaining = np.zeros(types.n_whole, np.int64)
        whole = homes[homes < types.n_whole]
        self.remaining[whole] = types.count[whole]
        self.gpus: list[tuple[int, list[int], Ints]] = []
        self._dearest = np.arange(types.n_whole)
        self._exchanged: dict[int, dict[int, float]] = {}
        generation.master.keep_whole()

    @property
    def left(self) -> int:
        """Items that remain."""
        return int(self.remaining.sum())

    def step(self, seconds: float) -> bool:
        """Fix some patterns; whether the program could be solved and any was fixed."""
        master = self.generation.master
        master.demand(self.remaining.tolist())
        if not master.solve(seconds):
            return False
        for _ in range(_PRICINGS if self.gpus else 0):
            if not self.generation.improve(self.remaining) or not master.solve(seconds):
                break
        values = master.values
        self._dearest = np.argsort(-master.item_price[: self.types.n_whole], kind="stable")
        self._exchanged = {}
        for (small, large), amount in zip(master.exchanges, master.exchanged.tolist(), strict=True):
            if amount > _TRACE and large < self.types.n_whole:
                self._exchanged.setdefault(large, {})[small] = amount
        whole = np.floor(values + _TRACE).astype(np.int64)
        fixed = 0
        for c in np.flatnonzero(whole).tolist():
            for _ in range(whole[c]):
                fixed += self._fill(c)
        rest = values - whole
        order = np.argsort(-rest, kind="stable")
        nearly = order[rest[order] >= _NEARLY]
        if not fixed and not nearly.size:
            nearly = order[: max(1, int(_LEAST * (rest > _TRACE).sum()))]
        for c in nearly.tolist():
            fixed += self._fill(c)
        return fixed > 0

    def _fill(self, c: int) -> bool:
        """Put instances into the places of one GPU with a pattern, if each place finds one."""
        column = self.generation.master.columns[c]
        taken: list[int] = []
        for place in column.items:
            t = self._taker(place)
            if t < 0:
                for each in taken:
                    self.remaining[each] += 1
                return False
            taken.append(t)
            self.remaining[t] -= 1
        room = self.types.capacity[column.kind] - self.types.demand[taken].sum(axis=0)
        self.gpus.append((column.kind, [self.members[t].pop() for t in taken], room))
        return True

    def _taker(self, place: int) -> int:
        """The type that takes a place: the program's exchanges are followed where they are greatest; -1 for none."""
        if place >= self.types.n_whole:
            return -1
        t = place
        while True:
            options = self._exchanged.get(t, {})
            small = max(options, key=options.__getitem__, default=-1)
            if small < 0 or options[small] <= min(_HALF, self.remaining[t] - _HALF):
                break
            options[small] -= 1.0
            t = small
        if self.remaining[t]:
            return t
        types = self.types
        return dearest_dominated(place, self._dearest, self.remaining, types.demand, types.group, types.freer)

    def best_fit(self) -> None:
        """What remains, the largest first, where it leaves least room; on new GPUs where there is none."""
        types = self.types
        largest = np.maximum(types.capacity.max(axis=0), 1)
        rest = np.flatnonzero(self.remaining)
        rest = rest[np.argsort(-(types.demand[rest] / largest).max(axis=1), kind="stable")]
        n = len(self.gpus)
        spare = self.left
        room = np.concatenate([np.array([room for _, _, room in self.gpus], np.int64).reshape(-1, 3),
                               np.zeros((spare, 3), np.int64)])  # fmt: skip
        kinds = np.array([kind for kind, _, _ in self.gpus] + [-1] * spare, np.int64)
        held = [gpu for _, gpu, _ in self.gpus]
        for t in rest.tolist():
            homes = types.allowed[types.group[t]]
            for _ in range(int(self.remaining[t])):
                fits = np.flatnonzero((room[:n] >= types.demand[t]).all(axis=1) & homes[kinds[:n]])
                if fits.size:
                    at = int(fits[np.argmin((room[fits] / largest).sum(axis=1))])
                else:
                    at, kind = n, min(k for k in np.flatnonzero(homes).tolist()
                                      if (types.capacity[k] >= types.demand[t]).all())  # fmt: skip
                    kinds[at], room[at] = kind, types.capacity[kind]
                    held.append([])
                    n += 1
                room[at] -= types.demand[t]
                held[at].append(self.members[t].pop())
            self.remaining[t] = 0
        self.gpus = [(int(kinds[i]), held[i], room[i]) for i in range(n)]
