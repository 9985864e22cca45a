"""What a replayed queue tells: waits by inversion of the served count, weighted percentiles, means of stretches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def waits_s(arrivals: NDArray[np.float64], backlog_after: NDArray[np.float64], step_s: float) -> NDArray[np.float64]:
    """How long the middle request of each step waits, in seconds `(steps,)`: the inverse of the served count.

    First in, first out: the request that came as number a leaves when the count of served requests reaches a.
    """
    came = np.concatenate(([0.0], np.cumsum(arrivals)))
    left = came.copy()
    left[1:] -= backlog_after
    left = np.maximum.accumulate(left)  # rounding must not let it fall
    number = 0.5 * (came[:-1] + came[1:])
    at = np.searchsorted(left, number, side="left")  # left[at - 1] < number <= left[at]
    inside = np.clip(at, 1, left.size - 1)
    within = (number - left[inside - 1]) / np.maximum(left[inside] - left[inside - 1], 1e-300)
    leaves = (inside - 1 + within) * step_s
    last_rps = (left[-1] - left[-2]) / step_s
    never = at >= left.size
    if never.any():
        leaves[never] = np.inf
        if last_rps > 0.0:
            leaves[never] = (left.size - 1) * step_s + (number[never] - left[-1]) / last_rps
    wait = leaves - (np.arange(arrivals.size) + 0.5) * step_s
    waits: NDArray[np.float64] = np.where(arrivals > 0.0, np.maximum(wait, 0.0), 0.0)
    return waits


def percentiles(
    values: NDArray[np.float64], weights: NDArray[np.float64], levels: tuple[float, ...]
) -> tuple[float, ...]:
    """Weighted percentiles; NaN where all weights are 0."""
    counted = weights > 0.0
    if not counted.any():
        return (math.nan,) * len(levels)
    order = np.argsort(values[counted], kind="stable")
    ranked, mass = values[counted][order], np.cumsum(weights[counted][order])
    at = np.searchsorted(mass, np.array(levels) * mass[-1], side="left")
    return tuple(float(ranked[min(i, ranked.size - 1)]) for i in at)


def stretch_means(
    sums: NDArray[np.float64], weights: NDArray[Any], edges: NDArray[np.int64], *, empty: float = 0.0
) -> NDArray[np.float64]:
    """Weighted means of the stretches that start at `edges`."""
    total = np.add.reduceat(weights, edges).astype(np.float64)
    value = np.add.reduceat(sums, edges)
    means: NDArray[np.float64] = np.full(total.shape, empty)
    np.divide(value, total, out=means, where=total > 0.0)
    return means
