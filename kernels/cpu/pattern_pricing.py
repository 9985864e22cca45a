"""Exact pricing of patterns: of all the sets of items that fit on one GPU, the one of greatest value.

A pattern is a multiset of items whose demands stay within a capacity in every resource. For each anchor item the best
pattern that holds it is found by depth-first search over the other items, greatest value first. A node of the search
holds some items and has room left; it is cut off when no completion can beat the best pattern of the anchor:

    count x best single    at most c items still fit, none worth more than the best item that fits the room
    fractional             room priced linearly: value <= (greatest value per priced demand) x (priced room)

The best single item for any room is read from a table. Where the room has few enough distinct values it is exact,
and the last item of a pattern need not be searched at all. Else its cells are coarse: the demands round down and the
room rounds down, so an item that fits is never missed, and the table is an upper bound.

Values are integers, so nothing is decided by a tolerance. A search that runs out of its budget of nodes reports the
greatest bound of what it left open, which keeps every conclusion valid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_DIRECTIONS = 4  # linear prices of room
_MANY = 3  # items that may still fit from which on the fractional bound is worth its time
_SAFE = 1.0 + 1e-9  # covers the rounding of the fractional bound, the only place with floating point


@compiled
def best_single(demand: Ints, value: Ints, width: Ints, shape: Ints) -> tuple[Ints, Ints]:
    """Greatest value of one item whose rounded-down demand is within each cell, and that item (-1: none).

    Arguments:
        demand: (n_items, 3) within the capacity.
        value: (n_items,) positive.
        width, shape: (3,) extent of a cell, and cells, per resource; both results are flat (shape.prod(),).
    """
    most = np.zeros(shape[0] * shape[1] * shape[2], np.int64)
    item = np.full(most.size, -1, np.int64)
    for i in range(value.size):
        cell = ((demand[i, 0] // width[0]) * shape[1] + demand[i, 1] // width[1]) * shape[2] + demand[i, 2] // width[2]
        if value[i] > most[cell]:
            most[cell] = value[i]
            item[cell] = i
    steps = (shape[1] * shape[2], shape[2], 1)
    cell = 0
    for a in range(shape[0]):
        for b in range(shape[1]):
            for c in range(shape[2]):
                if a > 0 and most[cell - steps[0]] > most[cell]:
                    most[cell] = most[cell - steps[0]]
                    item[cell] = item[cell - steps[0]]
                if b > 0 and most[cell - steps[1]] > most[cell]:
                    most[cell] = most[cell - steps[1]]
                    item[cell] = item[cell - steps[1]]
                if c > 0 and most[cell - 1] > most[cell]:
                    most[cell] = most[cell - 1]
                    item[cell] = item[cell - 1]
                cell += 1
    return most, item


@compiled
def _worth_per_room(demand: Ints, value: Ints, price: Floats) -> float:
    """The greatest value of an item per its demand at prices (3,)."""
    ratio = 0.0
    for i in range(value.size):
        priced = price[0] * demand[i, 0] + price[1] * demand[i, 1] + price[2] * demand[i, 2]
        ratio = max(ratio, value[i] / priced)
    return ratio


@compiled
def _linear_prices(demand: Ints, value: Ints, capacity: Ints) -> tuple[Floats, Floats]:
    """Prices of room (k, 3), and the worth per priced demand of each suffix of items (n + 1, k).

    The first prices make an empty GPU cheapest, as found by a search with shrinking steps; the others are fixed.
    """
    n = value.size
    share = np.empty((_DIRECTIONS, 3))
    share[0] = np.array([1.0, 1.0, 1.0]) / 3.0
    share[1] = np.array([1.0, 0.0, 0.0])
    share[2] = np.array([0.02, 0.98, 0.0])
    share[3] = np.array([0.02, 0.0, 0.98])
    scale = 1.0 / np.maximum(capacity, 1)
    least = _worth_per_room(demand, value, share[0] * scale)
    step = 0.5
    while step > 0.001:
        improved = False
        for a in range(3):
            for b in range(3):
                moved = min(step, share[0, a] - (0.01 if a == 0 else 0.0))  # requests keep a price: they are positive
                if a == b or moved <= 0.0:
                    continue
                share[0, a] -= moved
                share[0, b] += moved
                found = _worth_per_room(demand, value, share[0] * scale)
                if found < least:
                    least = found
                    improved = True
                else:
                    share[0, a] += moved
                    share[0, b] -= moved
        if not improved:
            step /= 2
    prices = share * scale
    suffix = np.zeros((n + 1, _DIRECTIONS))
    for i in range(n - 1, -1, -1):
        for k in range(_DIRECTIONS):
            priced = prices[k, 0] * demand[i, 0] + prices[k, 1] * demand[i, 1] + prices[k, 2] * demand[i, 2]
            suffix[i, k] = max(suffix[i + 1, k], value[i] / priced)
    return prices, suffix


@compiled
def _fractional(prices: Floats, suffix: Floats, p: int, room: Ints) -> int:
    """Upper bound on the value of items from `p` on within `room`."""
    least = 2.0**62
    for k in range(prices.shape[0]):
        priced = prices[k, 0] * room[0] + prices[k, 1] * room[1] + prices[k, 2] * room[2]
        least = min(least, suffix[p, k] * priced)
    return int(least * _SAFE) + 1


@compiled
def _most_items(room: Ints, smallest: Ints) -> int:
    """Items no smaller than `smallest` that fit in `room`."""
    most = 2**40
    for k in range(3):
        if smallest[k] > 0:
            most = min(most, int(room[k] // smallest[k]))
    return most


@compiled
def _first_at_most(value: Ints, bound: int) -> int:
    """The first item, of items by decreasing value, that is worth at most `bound`."""
    low = 0
    high = value.size
    while low < high:
        middle = (low + high) // 2
        if value[middle] > bound:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def best_patterns(
    demand: Ints,
    value: Ints,
    capacity: Ints,
    anchors: Ints,
    base: int,
    threshold: int,
    width: Ints,
    shape: Ints,
    most_items: int,
    budget: int,
) -> tuple[Ints, Ints, Ints]:
    """For every anchor: the best value above `threshold` of a pattern with it, the pattern, and an upper bound.

    Arguments:
        demand: (n_items, 3); request (the first) positive, all within the capacity.
        value: (n_items,) positive and decreasing, below 2**52 for any pattern.
        capacity: (3,).
        anchors: (n_anchors,) rows of `demand`.
        base: added to the value of every pattern.
        width, shape: cells of the table of best single items; all widths 1 make it exact.
        most_items: longest pattern searched.
        budget: nodes of the search over all anchors, shared evenly; what one does not use goes to those after it.

    The value is `threshold` where no pattern beats it; then the row of the pattern is all -1. The upper bound equals
    the value where the search was complete.
    """
    n = value.size
    best_value = np.full(anchors.size, threshold, np.int64)
    upper = np.full(anchors.size, threshold, np.int64)
    best_pattern = np.full((anchors.size, most_items), -1, np.int64)
    is_exact = width[0] == 1 and width[1] == 1 and width[2] == 1
    single, which = best_single(demand, value, width, shape)
    prices, suffix = _linear_prices(demand, value, capacity)
    smallest = np.empty((n + 1, 3), np.int64)
    smallest[n] = capacity + 1
    for i in range(n - 1, -1, -1):
        for k in range(3):
            smallest[i, k] = min(int(smallest[i + 1, k]), int(demand[i, k]))
    chosen = np.zeros(most_items + 2, np.int64)
    at = np.zeros(most_items + 2, np.int64)
    fitting = np.zeros(most_items + 2, np.int64)
    reach = np.zeros(most_items + 2, np.int64)
    total = np.zeros(most_items + 2, np.int64)
    room = np.zeros((most_items + 2, 3), np.int64)
    for row in range(anchors.size):
        best = threshold
        allowed = budget // (anchors.size - row)
        nodes = 0
        depth = 0
        room[0] = capacity
        total[0] = base
        adding = anchors[row]
        start = 0
        left_open = np.int64(0)
        while True:
            # open the node that adds one item to the node at `depth`
            depth += 1
            nodes += 1
            chosen[depth - 1] = adding
            total[depth] = total[depth - 1] + value[adding]
            for k in range(3):
                room[depth, k] = room[depth - 1, k] - demand[adding, k]
            if total[depth] > best:
                best = total[depth]
                best_pattern[row, :depth] = chosen[:depth]
                best_pattern[row, depth:] = -1
            cell = ((room[depth, 0] // width[0]) * shape[1] + room[depth, 1] // width[1]) * shape[2] + room[
                depth, 2
            ] // width[2]
            reach[depth] = single[cell]
            fitting[depth] = 0
            at[depth] = n
            if reach[depth] > 0:
                if is_exact and depth < most_items and total[depth] + reach[depth] > best:
                    best = total[depth] + reach[depth]
                    best_pattern[row, :depth] = chosen[:depth]
                    best_pattern[row, depth] = which[cell]
                    best_pattern[row, depth + 1 :] = -1
                count = _most_items(room[depth], smallest[start])
                fitting[depth] = count
                known = 1 if is_exact and depth < most_items else 0
                if count > known and total[depth] + count * reach[depth] > best:
                    first = max(start, _first_at_most(value, reach[depth]))
                    if count < _MANY or total[depth] + _fractional(prices, suffix, first, room[depth]) > best:
                        at[depth] = first
            if depth >= most_items or nodes >= allowed:
                # what this node (and, out of budget, those above it) has not tried stays open: bound it
                for d in range(1 if nodes >= allowed else depth, depth + 1):
                    if at[d] < n:
                        most = min(
                            fitting[d] * min(reach[d], value[at[d]]), _fractional(prices, suffix, at[d], room[d])
                        )
                        left_open = max(left_open, total[d] + most)
                at[depth] = n
                if nodes >= allowed:
                    break
            # the next item of the deepest node that has one
            adding = -1
            while depth >= 1:
                p = at[depth]
                while p < n:
                    if total[depth] + fitting[depth] * value[p] <= best:
                        p = n
                        break
                    if (
                        demand[p, 0] <= room[depth, 0]
                        and demand[p, 1] <= room[depth, 1]
                        and demand[p, 2] <= room[depth, 2]
                    ):
                        break
                    p += 1
                if p < n:
                    at[depth] = p + 1
                    adding = p
                    start = p
                    break
                depth -= 1
            if adding < 0:
                break
        budget -= nodes
        best_value[row] = best
        upper[row] = max(int(best), int(left_open))
    return best_value, best_pattern, upper
