"""Items that dominate one another: at least as demanding in every resource, and no freer in where they may go.

In any packing a dominating item can be replaced by the one it dominates, so prices of items need never fall along the
order, which stabilises column generation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@compiled
def nearest_dominated(demand: Ints, group: Ints, freer: Bools, most: int) -> Ints:
    """(k, 2) pairs (i, j): i is dominated by j with none of the pairs found for j between, at most `most` per j.

    Arguments:
        demand, group: (n, 3) and (n,) distinct items, the most demanding first, so that none dominates one before it.
    """
    n = demand.shape[0]
    pairs = np.empty((n * most, 2), np.int64)
    k = 0
    for j in range(n):
        first = k
        for i in range(j + 1, n):
            if (
                demand[i, 0] > demand[j, 0]
                or demand[i, 1] > demand[j, 1]
                or demand[i, 2] > demand[j, 2]
                or not freer[group[i], group[j]]
            ):
                continue
            is_between = False
            for q in range(first, k):
                p = pairs[q, 0]
                if (
                    demand[i, 0] <= demand[p, 0]
                    and demand[i, 1] <= demand[p, 1]
                    and demand[i, 2] <= demand[p, 2]
                    and freer[group[i], group[p]]
                ):
                    is_between = True
                    break
            if not is_between:
                pairs[k, 0] = i
                pairs[k, 1] = j
                k += 1
                if k - first == most:
                    break
    return pairs[:k].copy()


@compiled
def dearest_dominated(place: int, dearest: Ints, remaining: Ints, demand: Ints, group: Ints, freer: Bools) -> int:
    """The first of the types `dearest` (n,) of which some remain and that item `place` dominates; -1 for none."""
    for i in dearest:
        if (
            remaining[i] > 0
            and demand[i, 0] <= demand[place, 0]
            and demand[i, 1] <= demand[place, 1]
            and demand[i, 2] <= demand[place, 2]
            and freer[group[i], group[place]]
        ):
            return int(i)
    return -1
