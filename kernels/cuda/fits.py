"""Robust maximum a-posteriori fits of the p-norm roofline on the GPU, one thread per function.

The mathematics is that of the CPU (`kernels.roofline_descent`), compiled for the device; sums are contracted and
exponentials round otherwise there, so that objectives agree to rounding and parameters as far as samples decide them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numba import float64
from numpy.typing import NDArray

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu.roofline_fit import empty_results, fit_rooflines
from dilu_core.kernels.cuda.chunks import in_chunks
from dilu_core.kernels.cuda.device import require_device
from dilu_core.kernels.cuda.numba_kernels import cuda, launch, numba_kernel
from dilu_core.kernels.cuda.selftest import self_test
from dilu_core.kernels.roofline_descent import Workspace, fit_roofline
from dilu_core.kernels.roofline_objective import BANDWIDTH, PARAMETERS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK = 64
"""Threads per block: functions need different numbers of iterations, and small blocks let others in as they end."""

SIGNATURE = (
    "void(float64[::1], float64[::1], float64[::1], int64[::1], int64[::1], float64[:,::1], float64[:,:,::1], "
    "float64[:,::1], float64, float64, float64, int64, float64, float64[:,::1], float64[:,:,::1], float64[::1], "
    "float64[::1], int64[::1], int64[::1])"
)

_INPUTS = 13  # arguments of `fit_rooflines` before its results
_SQUARE = (PARAMETERS, PARAMETERS)
_KEPT = (2 * PARAMETERS, BLOCK)


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
    # what lives through the evaluation of the objective, but is not used in it, would spill from registers
    kept = cuda.shared.array(_KEPT, float64)
    thread = cuda.threadIdx.x
    work = Workspace(
        gradient=kept[:PARAMETERS, thread],
        tried_gradient=cuda.local.array(PARAMETERS, float64),
        logs=kept[PARAMETERS:, thread],
        tried=cuda.local.array(PARAMETERS, float64),
        step=cuda.local.array(PARAMETERS, float64),
        slope=cuda.local.array(PARAMETERS, float64),
        tried_curvature=cuda.local.array(_SQUARE, float64),
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


def device_kernels() -> dict[str, tuple[Callable[..., None], str]]:
    """The kernels of this module by name, with the signatures they are compiled for."""
    return {"fit": (fit_kernel, SIGNATURE)}


def fit_rooflines_on_gpu(*arguments: Any) -> RunRecord:
    """`kernels.cpu.roofline_fit.fit_rooflines`, arguments and all, on the GPU; returns what it ran on.

    Raises `BackendUnavailableError` where there is no GPU, `DeviceMemoryError` where not one function fits it.
    """
    device = require_device()
    kernel, compile_s = numba_kernel(fit_kernel, SIGNATURE)
    first, results = arguments[3], arguments[_INPUTS:]
    count, most = first.size - 1, int(np.diff(first).max(initial=0))
    rows = sum(column.nbytes for column in (*arguments[4:7], *results))

    def run(start: int, stop: int) -> None:
        start_kernel, found = _prepared(kernel, arguments, start, stop)
        start_kernel()
        for column, part in zip(results, found, strict=True):
            column[start:stop] = part.get()

    chunks = in_chunks(count, 24 * most + 8 + rows // max(1, count), run)
    return RunRecord("cuda", device.name, chunks, compile_s)


def on_device(*arguments: Any) -> Callable[[], None]:
    """A function that fits what `fit_rooflines` is given, from inputs on the device to results that stay there."""
    require_device()
    kernel, _ = numba_kernel(fit_kernel, SIGNATURE)
    return _prepared(kernel, arguments, 0, arguments[3].size - 1)[0]


def _prepared(kernel: Any, arguments: Sequence[Any], start: int, stop: int) -> tuple[Callable[[], None], list[Any]]:
    """The launch for functions `start` to `stop`, inputs copied, and the device arrays that it will fill."""
    import cupy

    first, starts = arguments[3], arguments[7]
    samples = [cupy.asarray(column[int(first[start]) : int(first[stop])]) for column in arguments[:3]]
    offsets = cupy.asarray(first[start : stop + 1] - first[start])
    priors = [cupy.asarray(column[start:stop]) for column in arguments[4:7]]
    found = [cupy.empty(column[start:stop].shape, column.dtype) for column in arguments[_INPUTS:]]
    columns = (*samples, offsets, *priors, cupy.asarray(starts), *arguments[8:_INPUTS], *found)
    return lambda: launch(kernel, stop - start, BLOCK, columns), found


def sample_problem(count: int, each: int, *, seed: int = 0) -> Any:
    """The arguments of `fit_rooflines` but for the results: `count` functions, two families, `each` noisy samples."""
    random = np.random.default_rng(seed)
    batch, share = random.choice([1.0, 2.0, 8.0, 32.0], (count, each)), random.integers(1, 11, (count, each)) / 10.0
    log_latency = np.log(1.0 + batch / share) + 0.05 * random.standard_normal((count, each))
    family = np.arange(count) % 2
    precisions = np.tile(0.25 * np.eye(PARAMETERS), (count, 1, 1))
    precisions[family == 0, BANDWIDTH, BANDWIDTH] = 0.0
    centers = np.tile([-1.0, -4.5, -3.0, -3.0, -4.0, 1.1], (count, 1))
    samples = (np.log(batch).ravel(), np.log(share).ravel(), log_latency.ravel(), np.arange(count + 1) * each)
    return (*samples, family, centers, precisions, np.zeros((1, PARAMETERS)), 0.05, 0.05, 10.0, 200, 1e-10)


@self_test("fits")
def _agrees_with_the_cpu() -> None:
    """Sixteen functions with nine samples each: the same objectives to 1e-6, and the same estimated noise to 1e-3."""
    arguments, on_cpu = sample_problem(16, 9), cast(Any, fit_rooflines)
    here, there = empty_results(16), empty_results(16)
    on_cpu(*arguments, *here)
    fit_rooflines_on_gpu(*arguments, *there)
    np.testing.assert_allclose(there.costs, here.costs, rtol=1e-6)
    np.testing.assert_allclose(there.noises, here.noises, rtol=1e-3)
