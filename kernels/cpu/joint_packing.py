"""Three weights in one 64-bit word, so that one subtraction tells whether all three fit.

Each of request, limit and memory takes 20 bits and a clear guard bit above them. Setting the guards of the room before
subtracting a weight leaves each guard set exactly where that dimension did not borrow, which is where it fits (the
"partitioned" arithmetic of Lamport, Multiple byte processing with full-word instructions, CACM 1975,
doi 10.1145/360933.360994).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, inlined

FIELD_BITS = 21
"""Bits from one weight to the next: 20 of the number and its guard."""

LARGEST_CAPACITY = (1 << (FIELD_BITS - 1)) - 2
"""The greatest capacity of a dimension, 1,048,574 (memory in MiB: one TiB); one more marks what fits nowhere."""

FIELD = (1 << (FIELD_BITS - 1)) - 1
"""The 20 bits of the first number."""

_GUARDS = (1 << 20) | (1 << 41) | (1 << 62)


@inlined
def packed(request: int, limit: int, memory: int) -> int:
    """The three numbers, each 0..LARGEST_CAPACITY, in one int64."""
    return request | (limit << 21) | (memory << 42)


@inlined
def fits(room: int, weight: int) -> bool:
    """Whether `weight` is at most `room` in every dimension; both packed."""
    return ((room | _GUARDS) - weight) & _GUARDS == _GUARDS


@compiled
def lightest(load: NDArray[np.int64], count: int) -> int:
    """The least weight in each dimension among the first `count` of `load`, packed."""
    r, s, t = FIELD, FIELD, FIELD
    for k in range(count):
        each = load[k]
        r, s, t = min(r, each & FIELD), min(s, (each >> 21) & FIELD), min(t, (each >> 42) & FIELD)
    return packed(r, s, t)
