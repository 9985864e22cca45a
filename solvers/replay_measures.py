"""What a replayed queue tells: waits by inversion of the served count, weighted percentiles, means of stretches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ROUNDING = 1e-9  # relative; a latency of exactly the SLO meets it


def waits_s(arrivals: Floats, backlog_after: Floats, step_s: float) -> tuple[Floats, NDArray[np.int64]]:
    """How long the middle request of each step waits, in seconds `(steps,)`, and the step in which it leaves.

    The inverse of the served count. First in, first out: the request that came as number a leaves when the count of
    served requests reaches a. One that never leaves waits until it would if the service of the last step went on.
    """
    came = np.concatenate(([0.0], np.cumsum(arrivals)))
    left = came.copy()
    left[1:] -= backlog_after
    left = np.maximum.accumulate(left)  # rounding must not let it fall
    number = 0.5 * (came[:-1] + came[1:])
    at = np.searchsorted(left, number, side="left")  # left[at - 1] < number <= left[at]
    inside = np.clip(at, 1, left.size - 1)
    never = at >= left.size
    within = (number - left[inside - 1]) / np.maximum(np.where(never, 1.0, left[inside] - left[inside - 1]), 1e-300)
    leaves = (inside - 1 + within) * step_s
    last_rps = (left[-1] - left[-2]) / step_s
    if never.any():
        leaves[never] = np.inf
        if last_rps > 0.0:
            leaves[never] = (left.size - 1) * step_s + (number[never] - left[-1]) / last_rps
    wait = leaves - (np.arange(arrivals.size) + 0.5) * step_s
    return np.where(arrivals > 0.0, np.maximum(wait, 0.0), 0.0), inside - 1


def latencies_s(arrivals: Floats, backlog_after: Floats, execution_s: Floats | float, step_s: float) -> Floats:
    """The latency of the middle request of each step: its wait, and the execution time of the step in which it leaves.

    `execution_s` is one for all, or one per step.
    """
    waits, leaves_in = waits_s(arrivals, backlog_after, step_s)
    executions: Floats = np.broadcast_to(execution_s, arrivals.shape)[leaves_in]
    return waits + executions


def late_part(latency_ms: Floats, weights: Floats, slo_ms: float | None) -> float:
    """The part of requests above the SLO; NaN where there is no SLO or no request."""
    total = float(weights.sum())
    if slo_ms is None or total == 0.0:
        return math.nan
    return float(weights[latency_ms > slo_ms * (1.0 + _ROUNDING)].sum()) / total


def percentiles(values: Floats, weights: Floats, levels: tuple[float, ...]) -> tuple[float, ...]:
    """Weighted percentiles; NaN where all weights are 0."""
    counted = weights > 0.0
    if not counted.any():
        return (math.nan,) * len(levels)
    order = np.argsort(values[counted], kind="stable")
    ranked, mass = values[counted][order], np.cumsum(weights[counted][order])
    at = np.searchsorted(mass, np.array(levels) * mass[-1], side="left")
    return tuple(float(ranked[min(i, ranked.size - 1)]) for i in at)


def stretch_means(sums: Floats, weights: NDArray[Any], edges: NDArray[np.int64], *, empty: float = 0.0) -> Floats:
    """Weighted means of the stretches that start at `edges`."""
    total = np.add.reduceat(weights, edges).astype(np.float64)
    value = np.add.reduceat(sums, edges)
    means: Floats = np.full(total.shape, empty)
    np.divide(value, total, out=means, where=total > 0.0)
    return means
