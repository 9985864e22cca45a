"""On which node CPU and host memory hurt the GPUs least: the inner loop of `solvers.placement.host_room`.

Columns are those of `kernels.cpu.packing` and `kernels.cpu.ledger`.
"""

# pyright: reportArgumentType=false
# (to pyright an array indexed by an element of an array is an array; numba knows better)

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PER_MILLI = 1000.0
"""Losses are compared as whole numbers of 1 / PER_MILLI milli-GPU, in which rounding errors vanish."""


@compiled
def least_hurt(
    free: Ints, node_start: Ints, host_free: Ints, candidates: Ints, cpu: int, memory: int, per_milli: Floats
) -> int:
    """The first of the nodes `candidates` by free share stranded, then free share, then CPU left; -1 for none.

    `per_milli` (2,) is the CPU and host memory that a milli-GPU needs; what a host has left beyond `cpu` and `memory`
    cannot serve the free share of its GPUs that would need more.
    """
    best = -1
    best_lost = np.inf
    best_share = 0
    for n in candidates:
        share = 0
        for g in range(node_start[n], node_start[n + 1]):
            share += free[g, 0]
        before = _stranded(host_free[n, 0], host_free[n, 1], share, per_milli)
        after = _stranded(host_free[n, 0] - cpu, host_free[n, 1] - memory, share, per_milli)
        lost = np.floor((after - before) * PER_MILLI + 0.5)
        better = lost < best_lost or (
            lost == best_lost and (share < best_share or (share == best_share and host_free[n, 0] < host_free[best, 0]))
        )
        if best < 0 or better:
            best, best_lost, best_share = n, lost, share
    return best


@compiled
def _stranded(cpu: int, memory: int, share: int, per_milli: Floats) -> float:
    served = np.inf
    if per_milli[0] > 0.0:
        served = min(served, cpu / per_milli[0])
    if per_milli[1] > 0.0:
        served = min(served, memory / per_milli[1])
    return max(0.0, share - served)
