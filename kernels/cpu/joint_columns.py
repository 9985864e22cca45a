"""Joint problems as the narrow columns that a GPU searches: 12 bytes per option instead of 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_parallel
from dilu_core.kernels.cpu.joint_packing import FIELD, FIELD_BITS, packed

DROPPED = FIELD | (FIELD << FIELD_BITS) | (FIELD << 2 * FIELD_BITS)
"""The packed weight of an option that fits no room: above the greatest capacity in every dimension."""

MOST_GAIN = 1 << 30
"""A problem whose gains can sum up to this does not fit 32 bits."""


@dataclass(frozen=True)
class JointColumns:
    """Problems for `kernels/cuda/joint.cu`: see the kernel for the meaning of each column.

    `base` (problems,) is what to add to a gain for the value; `narrow` (problems,) says whose gains fit 32 bits.
    """

    functions: NDArray[np.int32]
    options: NDArray[np.int32]
    starts: NDArray[np.int64]
    gains: NDArray[np.int32]
    loads: NDArray[np.uint64]
    capacities: NDArray[np.uint64]
    base: NDArray[np.int64]
    narrow: NDArray[np.bool_]


@compiled_parallel
def _pack(
    functions: NDArray[np.int32],
    options: NDArray[np.int32],
    starts: NDArray[np.int64],
    value: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: NDArray[np.int64],
    gains: NDArray[np.int32],
    loads: NDArray[np.int64],
    capacities: NDArray[np.int64],
    base: NDArray[np.int64],
    narrow: NDArray[np.bool_],
) -> None:
    for p in numba.prange(functions.shape[0]):
        c0, c1, c2 = capacity[p, 0], capacity[p, 1], capacity[p, 2]
        capacities[p] = packed(c0, c1, c2)
        base[p], greatest = 0, 0
        for i in range(functions[p]):
            start = starts[p] + i * options[p]
            stop = start + options[p]
            lowest, highest, alive = 0, 0, False
            for at in range(start, stop):
                if weight[at, 0] <= c0 and weight[at, 1] <= c1 and weight[at, 2] <= c2:
                    loads[at] = packed(weight[at, 0], weight[at, 1], weight[at, 2])
                    lowest = min(lowest, value[at]) if alive else value[at]
                    highest = max(highest, value[at]) if alive else value[at]
                    alive = True
                else:
                    loads[at] = DROPPED
            base[p] += lowest
            greatest += highest - lowest
            for at in range(start, stop):
                gains[at] = np.int32(value[at] - lowest) if loads[at] != DROPPED else np.int32(0)
        narrow[p] = greatest < MOST_GAIN


def joint_columns(
    functions: NDArray[np.int64],
    options: NDArray[np.int64],
    value: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: NDArray[np.int64],
    *,
    empty: Any = np.empty,
) -> JointColumns:
    """The columns of problems laid out as for `joint_search.search_many`; `empty` allocates (pinned, for a GPU)."""
    problems = functions.shape[0]
    starts = np.zeros(problems, dtype=np.int64)
    np.cumsum((functions * options)[:-1], out=starts[1:])
    gains, loads = empty(value.shape[0], dtype=np.int32), empty(value.shape[0], dtype=np.int64)
    capacities, base = np.empty(problems, dtype=np.int64), np.empty(problems, dtype=np.int64)
    narrow = np.empty(problems, dtype=np.bool_)
    n, k = functions.astype(np.int32), options.astype(np.int32)
    _pack(n, k, starts, value, weight, capacity, gains, loads, capacities, base, narrow)
    return JointColumns(n, k, starts, gains, loads.view(np.uint64), capacities.view(np.uint64), base, narrow)
