"""Which cells to measure: where to start, and what would tell most next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.latency_residual import AMPLITUDE, covariance, scaled_points
from dilu_core.performance import RooflineModel
from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples
from dilu_core.units import FULL_GPU_MILLI

_INSET = 0.1  # of the log range: a corner's neighbour, if it lies this near, stands for more cells than the corner


def first_cells(grid: QuotaGrid, count: int = 4) -> tuple[tuple[int, int], ...]:
    """The cells (batch, sm_milli) to measure before anything is known: near the corners of the grid, in log scales.

    The small batch at a great share and the great batch at a small one come first, as they differ most; up to four
    cells. From there `LatencyFit.measure_next` goes on.
    """
    if not isinstance(grid, QuotaGrid):
        check.fail("grid", f"is {grid!r:.80}; expected a QuotaGrid.")
    wanted = check.integer("count", count, at_least=1, at_most=4)
    batches, shares = np.array(grid.batches), np.array(grid.sm_milli)
    low, high = _near(batches, _INSET), _near(batches, 1.0 - _INSET)
    little, much = _near(shares, _INSET), _near(shares, 1.0 - _INSET)
    corners = [(low, much), (high, little), (low, little), (high, much)]
    return tuple(dict.fromkeys(corners))[:wanted]


def _near(values: NDArray[np.int64], place: float) -> int:
    logs = np.log(values)
    wanted = logs[0] + place * (logs[-1] - logs[0])
    return int(values[np.argmin(np.abs(logs - wanted))])


def farthest_cells(
    roofline: RooflineModel,
    parameter_covariance: NDArray[np.float64],
    scatter: float,
    samples: ProfileSamples,
    grid: QuotaGrid,
    count: int,
) -> tuple[tuple[int, int], ...]:
    """Greedily, the cells of `grid` whose log latency is least certain given the samples and the cells chosen before.

    The variance of a cell is J C J^T of the roofline and that of a smooth deviation from it (`latency_residual`), both
    conditioned on what is measured, with the noise `scatter` in each measurement. `parameter_covariance` (6, 6) is C.
    """
    cells = np.array([(batch, share) for batch in grid.batches for share in grid.sm_milli])
    measured = {(int(batch), int(share)) for batch, share in samples.cells()}
    fresh = np.array([(int(batch), int(share)) not in measured for batch, share in cells])
    gradient = roofline.log_gradient(cells[:, 0], cells[:, 1])
    here = scaled_points(cells[:, 0].astype(np.float64), cells[:, 1] / FULL_GPU_MILLI)
    seen = samples.cells().astype(np.float64)
    there = scaled_points(seen[:, 0], seen[:, 1] / FULL_GPU_MILLI)
    amplitude, noise = (AMPLITUDE * scatter) ** 2, scatter**2
    # A grid may have ten thousand cells: their covariance is written out for one chosen cell at a time; what is told
    # of the others, by the measured cells and then by each chosen one, is kept as a column whose products it is.
    factor = np.linalg.cholesky(amplitude * covariance(there, there) + noise * np.eye(len(there)))
    told = np.linalg.solve(factor, amplitude * covariance(there, here)).T
    unsure = gradient @ parameter_covariance
    variance = amplitude + (unsure * gradient).sum(axis=1) - (told**2).sum(axis=1)
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count and fresh.any():
        best = int(np.argmax(np.where(fresh, variance, -np.inf)))
        chosen.append((int(cells[best, 0]), int(cells[best, 1])))
        fresh[best] = False
        with_best = amplitude * covariance(here, here[best : best + 1])[:, 0] + unsure @ gradient[best]
        column = (with_best - told @ told[best]) / np.sqrt(variance[best] + noise)
        told = np.column_stack([told, column])
        variance = variance - column**2
    return tuple(chosen)
