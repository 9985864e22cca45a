"""Robust maximum a-posteriori fits of the p-norm roofline on the GPU, one thread per function.

The mathematics is that of the CPU (`kernels.roofline_descent`), compiled for the device; sums are contracted and
exponentials round otherwise there, so that objectives agree to rounding and parameters as far as samples decide them.
"""

from __future__ import annotations

import numpy as np
from numba import float64
from numpy.typing import NDArray

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu.roofline_fit import fit_rooflines
from dilu_core.kernels.cuda.chunks import in_chunks
from dilu_core.kernels.cuda.device import require_device
from dilu_core.kernels.cuda.numba_kernels import NumbaKernel, cuda, numba_kernel
from dilu_core.kernels.cuda.selftest import self_test
from dilu_core.kernels.roofline_descent import Workspace, fit_roofline
from dilu_core.kernels.roofline_objective import PARAMETERS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK = 64
"""Threads per block: functions need different numbers of iterations, and small blocks let others in as they end."""

SIGNATURE = (
    "void(float64[::1], float64[::1], float64[::1], int64[::1], int64[::1], float64[:,::1], float64[:,:,::1], "
    "float64[:,::1], float64, float64, float64, int64, float64, float64[:,::1], float64[:,:,::1], float64[::1], "
    "float64[::1], int64[::1], int64[::1])"
)

_SQUARE = (PARAMETERS, PARAMETERS)
_BYTES_EACH = 8 * (2 * PARAMETERS + 2 * PARAMETERS * PARAMETERS + 6)  # of a function, without its samples


def fit_kernel(
    log_batch: Floats,
    log_share: Floats,
    log_latency: Floats,
    first: Integers,
    with_bandwidth: Integers,
    centers: Floats,
    precisions: Floats,
    starts: Floats,
    corner: float,
    noise: float,
    belief: float,
    max_iterations: int,
    tolerance: float,
    logs: Floats,
    curvatures: Floats,
    costs: Floats,
    noises: Floats,
    iterations: Integers,
    converged: Integers,
) -> None:
    """`fit_rooflines` for the function of this thread: arguments as there."""
    f = cuda.grid(1)
    if f >= costs.shape[0]:
        return
    work = Workspace(
        cuda.local.array(PARAMETERS, float64),
        cuda.local.array(PARAMETERS, float64),
        cuda.local.array(PARAMETERS, float64),
        cuda.local.array(PARAMETERS, float64),
        cuda.local.array(PARAMETERS, float64),
        cuda.local.array(PARAMETERS, float64),
        cuda.local.array(_SQUARE, float64),
    )
    low, high = first[f], first[f + 1]
    cost, estimate, steps, settled = fit_roofline(
        log_batch[low:high],
        log_share[low:high],
        log_latency[low:high],
        with_bandwidth[f] != 0,
        centers[f],
        precisions[f],
        starts,
        corner,
        noise,
        belief,
        max_iterations,
        tolerance,
        logs[f],
        curvatures[f],
        work,
    )
    costs[f], noises[f], iterations[f] = cost, estimate, steps
    converged[f] = 1 if settled else 0
