"""Dual feasible functions: weights of items by one resource that no GPU can hold more of than its own.

A function f >= 0 that is nondecreasing and superadditive gives sum(f(w_i)) <= f(sum(w_i)) <= f(C) for the items of one
GPU of capacity C, so sum(f(w)) / f(C) GPUs are needed. Families: Martello and Toth (as in their bound L2), u_k and f_2
(Clautiaux, Alves, Valerio de Carvalho, "A survey of dual-feasible and superadditive functions", Annals of OR 2010, doi
10.1007/s10479-008-0453-8).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_FUNCTIONS_PER_FAMILY = 64


def dual_feasible(weights: Ints, capacities: Ints) -> Iterator[tuple[str, int, Ints]]:
    """(family, sum of f over the items, f of each GPU's capacity) for the functions worth trying; all in integers."""
    largest = int(capacities[0])
    sizes, counts = np.unique(weights, return_counts=True)
    kinds, where = np.unique(capacities, return_inverse=True)
    marks = np.unique(np.concatenate([sizes, largest - sizes]))
    marks = marks[(marks >= 1) & (2 * marks <= largest)]
    marks = marks[np.linspace(0, marks.size - 1, min(marks.size, _FUNCTIONS_PER_FAMILY)).astype(int)]
    for family, function, parameters in (
        ("Martello-Toth L2", martello_toth, marks.tolist()),
        ("dual feasible function u_k", staircase, range(1, 21)),
        ("dual feasible function f_2", halves, marks.tolist()),
    ):
        for parameter in parameters:
            total = int((function(sizes, largest, parameter) * counts).sum())
            yield family, total, function(kinds, largest, parameter)[where]


def martello_toth(w: Ints, capacity: int, smallest: int) -> Ints:
    """Items above `capacity - smallest` fill a GPU, items below `smallest` vanish; 2 `smallest` <= `capacity`."""
    return np.where(w > capacity - smallest, capacity, np.where(w < smallest, 0, w))


def staircase(w: Ints, capacity: int, k: int) -> Ints:
    """u_k, scaled by k times the capacity: k w where (k + 1) w is a multiple of the capacity, else rounded down."""
    return np.where((k + 1) * w % capacity == 0, k * w, (k + 1) * w // capacity * capacity)


def halves(w: Ints, capacity: int, k: int) -> Ints:
    """f_2: twice the whole multiples of k, counted from above for items over half a GPU; 2 k <= capacity."""
    small = 2 * (w // k)
    large = 2 * (capacity // k - (capacity - w) // k)
    return np.where(2 * w > capacity, large, np.where(2 * w == capacity, capacity // k, small))
