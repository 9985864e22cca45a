"""Random columns of a placement ledger, as the packing kernels read them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from dilu_core.kernels.cpu.ledger import ACTIVE, ALIKE_UNTIL, GPUS_USED, REACH

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

WEIGHT = (0.5, 0.3, 0.2)


@dataclass
class Columns:
    """Up to 4 nodes of 1-4 GPUs in any state; `kernels.cpu.packing` describes the columns."""

    free: Ints
    weight: Floats
    held: Ints
    preference: Ints
    penalty: Floats
    node_start: Ints
    node_of: Ints
    node_state: Ints
    totals: Ints

    @property
    def ranges(self) -> list[range]:
        """The rows of each node."""
        return [range(a, b) for a, b in itertools.pairwise(self.node_start.tolist())]

    def empties(self, node: int) -> int:
        """GPUs of the node that hold nothing."""
        return sum(1 for g in self.ranges[node] if self.held[g] == 0)

    def has_room(self, g: int, request: int, limit: int, memory: int) -> bool:
        """Whether all three are left on GPU `g`."""
        return bool((self.free[g] >= [request, limit, memory]).all())

    def liked(self, g: int, special: bool) -> int:
        """How GPU `g` is liked, or -1 where the instance must not go."""
        return int(self.preference[g]) if special else 0

    def score(self, g: int, demand: tuple[int, int, int], special: bool) -> float:
        """The priced rest of GPU `g` with a demand on it, and its penalty."""
        rest = float(sum((self.free[g, i] - demand[i]) * self.weight[g, i] for i in range(3)))
        return rest + (float(self.penalty[g]) if special else 0.0)


def state_of(held: Ints, sizes: list[int], kinds: list[int]) -> tuple[Ints, Ints]:
    """`node_state` and `totals` counted from scratch."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    state = np.zeros((len(sizes), 3), np.int64)
    for n, (a, b) in enumerate(itertools.pairwise(starts.tolist())):
        state[n, ACTIVE] = int((held[a:b] > 0).sum())
        alike = n + 1
        while alike < len(sizes) and (sizes[alike], kinds[alike]) == (sizes[n], kinds[n]):
            alike += 1
        state[n, ALIKE_UNTIL] = alike
    totals = np.zeros(2, np.int64)
    totals[GPUS_USED] = int((held > 0).sum())
    totals[REACH] = max((n + 1 for n in range(len(sizes)) if state[n, ACTIVE]), default=0)
    return state, totals


@st.composite
def _columns(draw: st.DrawFn) -> Columns:
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([4, 6])), min_size=1, max_size=4))
    sizes, memory = [size for size, _ in shapes], [kind for _, kind in shapes]
    n = sum(sizes)
    capacity = np.array([(6, 8, mib) for size, mib in shapes for _ in range(size)], np.int64)
    held = np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.int64)
    free = np.array(draw(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=n, max_size=n)), np.int64)
    free = np.where(held[:, None] > 0, np.minimum(free, capacity), capacity)
    # nothing on an empty GPU can be liked, or cost anything
    liked = draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))
    penalty = np.array(draw(st.lists(st.sampled_from([0.0, 0.25, 2.0]), min_size=n, max_size=n)))
    node_state, totals = state_of(held, sizes, memory)
    return Columns(
        free=free,
        weight=np.broadcast_to(WEIGHT, (n, 3)).copy(),
        held=held,
        preference=np.where(held > 0, liked, np.minimum(liked, 0)),
        penalty=np.where(held > 0, penalty, 0.0),
        node_start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        node_of=np.repeat(np.arange(len(sizes)), sizes),
        node_state=node_state,
        totals=totals,
    )


@pytest.fixture(scope="session")
def columns() -> st.SearchStrategy[Columns]:
    """Columns of small clusters of two GPU types; empty GPUs have all their capacity."""
    return _columns()
