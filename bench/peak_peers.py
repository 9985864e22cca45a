"""One-pass peers for instances of every kind: gangs on one node, LLMs whose memory may be divided over one node.

All open a GPU only where no active one (nor, where splits are allowed, the active ones of one node together) has room.
They differ in the order they take instances in and in which GPU they take. Plain numpy, written apart from the library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, Instance
from dilu_core.slots import Placement, Slot

CAPACITY = np.array([1000.0, 1500.0, 40960.0])
PUBLISHED = np.array([0.6, 0.0, 0.4])  # price of what is left over in request, limit and memory (Dilu, ASPLOS 2025)
EVEN = np.full(3, 1 / 3)
FIRST = np.zeros(3)  # no price: the first GPU with room

Floats = NDArray[np.float64]


class OnePass:
    """Packs instances in the order given onto nodes of equal GPUs; least priced rest wins, the first among equals."""

    def __init__(self, cluster: Cluster, price: Floats, *, splits: bool) -> None:
        self.price, self.splits = price / CAPACITY, splits
        self.names = [node.name for node in cluster.nodes]
        self.free = np.tile(CAPACITY, (len(cluster.nodes), cluster.nodes[0].gpus, 1))
        self.active = np.zeros(self.free.shape[:2], np.bool_)
        self.slots: dict[str, tuple[Slot, ...]] = {}

    def pack(self, instances: Sequence[Instance]) -> Placement:
        """The placement of all instances; fails where one finds no place."""
        for each in instances:
            memory = np.array(sorted(each.memory_per_gpu_mib, reverse=True), np.float64)
            demand = np.array([each.request_milli, each.limit_milli, memory[0]], np.float64)
            room = (self.free >= demand).all(axis=2)
            rest = (self.free - demand) @ self.price
            if each.gpus > 1:
                self._gang(each, memory, room, rest)
            elif (room & self.active).any():
                self._take(each, [self._best(room & self.active, rest)], memory, each.limit_milli)
            elif not (self.splits and each.splittable and self._split(each)):
                self._take(each, [self._best(room & ~self.active, rest)], memory, each.limit_milli)
        return Placement(self.slots)

    @staticmethod
    def _best(allowed: NDArray[np.bool_], rest: Floats) -> tuple[int, int]:
        n, g = np.unravel_index(int(np.argmin(np.where(allowed, rest, np.inf))), rest.shape)
        return int(n), int(g)

    def _gang(self, each: Instance, memory: Floats, room: NDArray[np.bool_], rest: Floats) -> None:
        """The node that opens the fewest GPUs, then of the least priced rest; within it likewise."""
        key = np.where(room, rest + 1e3 * ~self.active, np.inf)
        order = np.argsort(key, axis=1, kind="stable")[:, : each.gpus]
        n = int(np.argmin(np.take_along_axis(key, order, axis=1).sum(axis=1)))
        self._take(each, [(n, int(g)) for g in order[n]], memory, each.limit_milli)

    def _split(self, each: Instance) -> bool:
        """Divide over the active GPUs of the node with the fewest parts, most memory first; whether any could."""
        able = self.active & (self.free[:, :, :2] >= each.request_milli).all(axis=2)
        memory = np.where(able, np.minimum(self.free[:, :, 2], each.total_memory_mib - 1), 0.0)  # 2 parts at least
        order = np.argsort(-memory, axis=1, kind="stable")
        reach = np.cumsum(np.take_along_axis(memory, order, axis=1), axis=1)
        parts = (reach < each.total_memory_mib).sum(axis=1) + 1
        n = int(np.argmin(parts))
        if parts[n] > memory.shape[1]:
            return False
        taken = [(n, int(g)) for g in order[n, : parts[n]]]
        each_part = [memory[gpu] for gpu in taken[:-1]]
        self._take(each, taken, np.array([*each_part, each.total_memory_mib - sum(each_part)]), each.request_milli)
        return True

    def _take(self, each: Instance, gpus: list[tuple[int, int]], memory: Floats, limit: int) -> None:
        for gpu, mib in zip(gpus, memory, strict=True):
            assert (self.free[gpu] >= [each.request_milli, limit, mib]).all(), f"no place for {each.name}"
            self.free[gpu] -= [each.request_milli, limit, mib]
            self.active[gpu] = True
        self.slots[each.name] = tuple(
            Slot(self.names[n], g, int(mib)) for (n, g), mib in zip(gpus, memory.tolist(), strict=True)
        )


def decreasing(norm: str) -> Callable[[Sequence[Instance]], list[Instance]]:
    """Puts instances in decreasing order of a norm of their share of one GPU."""
    measure = {"L1": np.sum, "L2": np.linalg.norm, "Linf": np.max}[norm]

    def order(instances: Sequence[Instance]) -> list[Instance]:
        def size(each: Instance) -> float:
            demand = np.array([each.request_milli, each.limit_milli, max(each.memory_per_gpu_mib)])
            return float(measure(demand / CAPACITY))

        return sorted(instances, key=lambda each: -size(each))

    return order


PEERS: dict[str, tuple[Floats, Callable[[Sequence[Instance]], Sequence[Instance]]]] = {
    "first fit": (FIRST, list),
    "best fit": (EVEN, list),
    "published rule": (PUBLISHED, list),
    "first fit decreasing, L1": (FIRST, decreasing("L1")),
    "first fit decreasing, L2": (FIRST, decreasing("L2")),
    "first fit decreasing, Linf": (FIRST, decreasing("Linf")),
    "best fit decreasing, Linf": (EVEN, decreasing("Linf")),
}
"""Name -> price of what is left over, and the order of the instances."""
