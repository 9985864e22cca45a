"""Robust maximum a-posteriori fits of the p-norm roofline, many functions in one call, on one core.

What is minimised, and how, stands in `kernels.roofline_objective` and `kernels.roofline_descent`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.roofline_descent import Workspace, fit_roofline
from dilu_core.kernels.roofline_objective import PARAMETERS


class FitResults(NamedTuple):
    """What `fit_rooflines` fills, in its order, one row per function."""

    logs: NDArray[np.float64]
    curvatures: NDArray[np.float64]
    costs: NDArray[np.float64]
    noises: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.int64]


def empty_results(count: int) -> FitResults:
    """Room for the results of `count` functions."""
    return FitResults(
        np.empty((count, PARAMETERS)),
        np.empty((count, PARAMETERS, PARAMETERS)),
        np.empty(count),
        np.empty(count),
        np.empty(count, np.int64),
        np.empty(count, np.int64),
    )


@compiled
def fit_rooflines(
    log_batch: NDArray[np.float64],
    log_share: NDArray[np.float64],
    log_latency: NDArray[np.float64],
    first: NDArray[np.int64],
    with_bandwidth: NDArray[np.int64],
    centers: NDArray[np.float64],
    precisions: NDArray[np.float64],
    starts: NDArray[np.float64],
    corner: float,
    noise: float,
    belief: float,
    max_iterations: int,
    tolerance: float,
    logs: NDArray[np.float64],
    curvatures: NDArray[np.float64],
    costs: NDArray[np.float64],
    noises: NDArray[np.float64],
    iterations: NDArray[np.int64],
    converged: NDArray[np.int64],
) -> None:
    """Fit F functions; the samples of function f are rows `first[f]:first[f + 1]`.

    `centers` (F, 6) and `precisions` (F, 6, 6) are the priors of the log parameters, with zero rows and columns for the
    bandwidth where a function does without; `starts` (S, 6) are offsets from the centre to start from. Fills `logs`
    (F, 6), `curvatures` (F, 6, 6) in units of `noise`, symmetric, `costs`, the estimated `noises`, `iterations` in all
    and `converged` (F,).
    """
    square = (PARAMETERS, PARAMETERS)
    work = Workspace(
        np.empty(PARAMETERS),
        np.empty(PARAMETERS),
        np.empty(PARAMETERS),
        np.empty(PARAMETERS),
        np.empty(PARAMETERS),
        np.empty(PARAMETERS),
        np.empty(square),
    )
    for f in range(costs.shape[0]):
        low, high = first[f], first[f + 1]
        costs[f], noises[f], iterations[f], settled = fit_roofline(
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
        converged[f] = 1 if settled else 0
