"""Which options of a level may fit: bit sets per dimension and range of the room, so that three lookups pass over many.

The room of a dimension, counted from what the lightest options take, falls in one of `BUCKETS` ranges of a power of
two. For each the options that are not above it form a bit set; what may fit all dimensions is the intersection. Options
within the range of the room itself may still be too heavy, so a member is yet to be tested.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, inlined
from dilu_core.kernels.cpu.joint_packing import FIELD, FIELD_BITS, fits

Shifts = tuple[int, int, int, int]

BLOCK = 63
"""Options per bit set: an int64 that is never negative."""

BUCKETS = 64

SETS = 4 * BUCKETS
"""Bit sets of one block: request, limit, memory, and the weight that follows from them (`beyond_lightest`)."""


@inlined
def first_of(bits: int) -> int:
    """The number of the lowest bit set in `bits` > 0: the exponent of that power of two."""
    return int((np.float64(bits & -bits).view(np.int64) >> 52) - 1023)


@inlined
def may_fit(sets: NDArray[np.int64], at: int, room: int, left: int, shifts: Shifts) -> int:
    """The options of the block whose sets start at `sets[at]` that may fit the packed `room` and `left`."""
    return int(
        sets[at + ((room & FIELD) >> shifts[0])]
        & sets[at + BUCKETS + (((room >> 21) & FIELD) >> shifts[1])]
        & sets[at + 2 * BUCKETS + ((room >> 42) >> shifts[2])]
        & sets[at + 3 * BUCKETS + (left >> shifts[3])]
    )


@compiled
def _shift_of(most: int) -> int:
    """By how many bits to shift numbers up to `most` so that they number a bucket."""
    shift = 0
    while (most >> shift) >= BUCKETS:
        shift += 1
    return shift


@compiled
def bit_sets(
    count: NDArray[np.int64], load: NDArray[np.int64], excess: NDArray[np.int64], spare: int, most_excess: int
) -> tuple[NDArray[np.int64], int, Shifts]:
    """The sets of all levels in one column, how many entries a level has, and the shifts from a room to its bucket.

    `load` (n, K) is packed and counted from the lightest of its level, `spare` what those leave; `excess` and
    `most_excess` are those of `beyond_lightest`, not negative. Block b of level d starts at d * entries + b * `SETS`.
    Options that do not fit in `spare` or `most_excess` are in no set.
    """
    levels = count.shape[0]
    entries = (count.max() + BLOCK - 1) // BLOCK * SETS
    request, limit = _shift_of(spare & FIELD), _shift_of((spare >> FIELD_BITS) & FIELD)
    memory, further = _shift_of(spare >> (2 * FIELD_BITS)), _shift_of(most_excess)
    sets = np.zeros(levels * entries, dtype=np.int64)
    for level in range(levels):
        for k in range(count[level]):
            each = load[level, k]
            if not fits(spare, each) or excess[level, k] > most_excess:
                continue
            block = k // BLOCK
            at, bit = level * entries + block * SETS, 1 << (k - block * BLOCK)
            sets[at + ((each & FIELD) >> request)] |= bit
            sets[at + BUCKETS + (((each >> 21) & FIELD) >> limit)] |= bit
            sets[at + 2 * BUCKETS + ((each >> 42) >> memory)] |= bit
            sets[at + 3 * BUCKETS + (excess[level, k] >> further)] |= bit
    for start in range(0, sets.shape[0], BUCKETS):
        below = 0
        for at in range(start, start + BUCKETS):
            below |= sets[at]
            sets[at] = below
    return sets, entries, (request, limit, memory, further)
