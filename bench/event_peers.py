"""Online packers to compare with on the event logs: first fit, best fit, and the published rule with its faults mended.

All three work in whole milli and MiB and release exactly what they booked. Their steps are those of the published
scheduler (Lv et al., ASPLOS 2025, as its code has them; its faults, floats and leaking releases, are left out):

    gang       k GPUs of one node, active ones first; the node whose GPUs score least
    one GPU    the active GPU of least score, else an LLM instance is split by memory over active GPUs of one node,
               its request charged on each part and no burst, else the first empty GPU of a node in use is opened

    first fit  score = number of the GPU
    best fit   score = rest of request, limit and memory, each as a share of the GPU's, equally weighted
    published  score = 0.6 of the rest of request + 0.4 of the rest of memory

Written with numpy over the whole cluster at once; nothing is shared with the library.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Instance

CAPACITY = np.array([1000, 1500, 40960], np.int64)
WEIGHTS = {
    "first fit": np.zeros(3),
    "best fit": np.full(3, 1 / 3),
    "published, mended": np.array([0.6, 0.0, 0.4]),
}
OPENING = 1e6  # an empty GPU costs more than any score

Rows = list[tuple[int, int]]  # GPU, memory there


class Packer:
    """GPUs of a homogeneous cluster, and what each holds."""

    def __init__(self, rule: str, nodes: int, gpus_per_node: int) -> None:
        self.weight = WEIGHTS[rule] / CAPACITY
        self.per_node = gpus_per_node
        self.free: NDArray[np.int64] = np.tile(CAPACITY, (nodes * gpus_per_node, 1))
        self.held = np.zeros(nodes * gpus_per_node, np.int64)
        self.number = np.arange(nodes * gpus_per_node)
        self.booked: dict[str, list[tuple[int, NDArray[np.int64]]]] = {}

    def place(self, instance: Instance) -> Rows:
        """Book an instance; where it sits and with how much memory, nothing where there is no room."""
        memory = max(instance.memory_per_gpu_mib)
        demand = np.array([instance.request_milli, instance.limit_milli, memory])
        fits = (self.free >= demand).all(axis=1)
        score = self._score(demand)
        if instance.gpus > 1:
            rows = self._gang(fits, score, instance.gpus)
            return self._book(instance.name, [(row, demand) for row in rows])
        active = np.flatnonzero(fits & (self.held > 0))
        if active.size:
            return self._book(instance.name, [(int(active[np.argmin(score[active])]), demand)])
        if instance.splittable:
            parts = self._split(instance.request_milli, memory)
            if parts:
                request = instance.request_milli
                return self._book(instance.name, [(row, np.array([request, request, part])) for row, part in parts])
        empty = np.flatnonzero(self.held == 0)
        in_use = np.repeat(self.held.reshape(-1, self.per_node).any(axis=1), self.per_node)[empty]
        chosen = empty[in_use] if in_use.any() else empty
        return self._book(instance.name, [(int(chosen[0]), demand)] if chosen.size else [])

    def _score(self, demand: NDArray[np.int64]) -> NDArray[np.float64]:
        """Less is better."""
        if not self.weight.any():
            return self.number / self.number.size
        found: NDArray[np.float64] = (self.free - demand) @ self.weight
        return found

    def _gang(self, fits: NDArray[np.bool_], score: NDArray[np.float64], size: int) -> list[int]:
        cost = np.where(fits, score + OPENING * (self.held == 0), np.inf).reshape(-1, self.per_node)
        order = np.argsort(cost, axis=1, kind="stable")[:, :size]
        total = np.take_along_axis(cost, order, axis=1).sum(axis=1)
        node = int(np.argmin(total))
        return (node * self.per_node + order[node]).tolist() if np.isfinite(total[node]) else []

    def _split(self, request: int, memory: int) -> Rows:
        """Parts on the active GPUs of the node where they are fewest, then where least memory is left over."""
        able = (self.held > 0) & (self.free[:, :2] >= request).all(axis=1)
        usable = np.minimum(self.free[:, 2], memory - 1)  # so that there are two parts at least
        room = np.where(able, usable, 0).reshape(-1, self.per_node)
        nodes = np.flatnonzero(room.sum(axis=1) >= memory)
        if not nodes.size:
            return []
        most_first = -np.sort(-room[nodes], axis=1)
        parts = (np.cumsum(most_first, axis=1) < memory).sum(axis=1) + 1
        node = int(nodes[np.lexsort([room[nodes].sum(axis=1), parts])[0]])
        found, rest = [], memory
        for gpu in np.argsort(-room[node], kind="stable").tolist():
            if rest:
                part = min(rest, int(room[node, gpu]))
                found.append((node * self.per_node + gpu, part))
                rest -= part
        return found

    def _book(self, name: str, amounts: list[tuple[int, NDArray[np.int64]]]) -> Rows:
        for row, amount in amounts:
            self.free[row] -= amount
            self.held[row] += 1
        self.booked[name] = amounts
        return [(row, int(amount[2])) for row, amount in amounts]

    def remove(self, name: str) -> None:
        """Give back all that an instance booked."""
        for row, amount in self.booked.pop(name):
            self.free[row] += amount
            self.held[row] -= 1
