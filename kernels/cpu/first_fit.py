"""First fit of items into equal bins: a quick packing to start better methods from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled

Ints = NDArray[np.int64]


@compiled
def first_fit(demand: Ints, order: Ints, capacity: Ints) -> tuple[Ints, int]:
    """The bin of each item, taken in `order` (rows of `demand`, each of which fits an empty bin), and how many bins.

    Arguments:
        demand: (n_items, 3) what an item takes of three resources.
        order: (n,) rows of `demand`; a row may come more than once, so bins are given per entry.
        capacity: (3,) of every bin.
    """
    where = np.empty(order.size, np.int64)
    free = np.empty((order.size, 3), np.int64)
    bins = 0
    for k in range(order.size):
        item = order[k]
        b = 0
        while b < bins and (
            free[b, 0] < demand[item, 0] or free[b, 1] < demand[item, 1] or free[b, 2] < demand[item, 2]
        ):
            b += 1
        if b == bins:
            free[b] = capacity
            bins += 1
        for r in range(3):
            free[b, r] -= demand[item, r]
        where[k] = b
    return where, bins
