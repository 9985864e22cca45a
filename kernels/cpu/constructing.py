"""First fit over many bins at once: quick packings to start better methods from.

First fit looks at bins in order. So that it need not look at each, bins go in blocks, and for every block the most that
is free of each resource in any of its bins is kept; a block where that does not suffice is passed over. It is brought
up to date when a look into the block finds nothing, so it never says less than there is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.annealing import may_join
from dilu_core.kernels.cpu.compiled import compiled

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BLOCK = 64


@compiled
def first_fit_ordered(demand: Ints, order: Ints, free: Ints, bins: Ints, blocked: Bools, group: Ints) -> Ints:
    """The bin of each item, (n_items,), taken in `order`; -1 where none has room. Takes its demand from `free`.

    Arguments:
        demand: (n_items, 3) what an item takes of three resources.
        order: rows of `demand`, each at most once.
        free: (n_bins, 3) what is left of the resources, changed in place.
        bins: the bins in the order in which they are tried.
        blocked: (n_groups, n_bins) where items of that group must not go.
        group: (n_items,) the group of each item.
    """
    blocks = (bins.size + _BLOCK - 1) // _BLOCK
    most = np.zeros((blocks, 3), np.int64)
    for k in range(bins.size):
        for r in range(3):
            most[k // _BLOCK, r] = max(most[k // _BLOCK, r], free[bins[k], r])
    where = np.full(demand.shape[0], -1, np.int64)
    for i in order:
        request, limit, memory = demand[i, 0], demand[i, 1], demand[i, 2]
        for block in range(blocks):
            if most[block, 0] < request or most[block, 1] < limit or most[block, 2] < memory:
                continue
            request_most = limit_most = memory_most = 0
            for k in range(block * _BLOCK, min((block + 1) * _BLOCK, bins.size)):
                b = bins[k]
                if free[b, 0] >= request and free[b, 1] >= limit and free[b, 2] >= memory and not blocked[group[i], b]:
                    where[i] = b
                    break
                request_most = max(request_most, free[b, 0])
                limit_most = max(limit_most, free[b, 1])
                memory_most = max(memory_most, free[b, 2])
            if where[i] >= 0:
                break
            most[block, 0], most[block, 1], most[block, 2] = request_most, limit_most, memory_most
        if where[i] >= 0:
            free[where[i], 0] -= request
            free[where[i], 1] -= limit
            free[where[i], 2] -= memory
    return where


@compiled
def first_fit_ties(
    demand: Ints, ties: Ints, has_ties: bool, order: Ints, members: Ints, count: Ints, free: Ints, bars: Ints
) -> int:
    """Put the items in `order` into the first bins that take them; returns how many find none, which then lead `order`.

    Columns are those of `kernels.cpu.annealing`, changed in place.
    """
    left = 0
    for k in range(order.size):
        item = order[k]
        placed = False
        for b in range(count.size):
            if free[b, 0] < demand[item, 0] or free[b, 1] < demand[item, 1] or free[b, 2] < demand[item, 2]:
                continue
            if count[b] == members.shape[1]:
                continue
            if has_ties and not may_join(ties, members, count, bars, b, item, -1, -1):
                continue
            members[b, count[b]] = item
            count[b] += 1
            for r in range(3):
                free[b, r] -= demand[item, r]
            placed = True
            break
        if not placed:
            order[left] = item
            left += 1
    return left
