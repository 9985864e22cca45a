"""What measurements prove about cells nobody measured, if latency is monotone.

Latency rises in the batch and falls in the share, and neither more than in proportion: twice the batch takes at most
twice as long, half the share at most doubles the time. So a measured (b', s', t') bounds every other cell:

    t' min(1, b / b') min(1, s' / s)  <=  t(b, s)  <=  t' max(1, b / b') max(1, s' / s)

Real tables break this by some per cent, which `largest_violation` measures; callers loosen the bounds by it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


def monotone_bounds(
    seen_batch: Column, seen_milli: Column, seen_ms: Column, batch: Column, sm_milli: Column
) -> tuple[Column, Column]:
    """(n,) least and greatest latency in ms of n cells, from m measured ones; 0 and infinite where m is 0."""
    if seen_ms.size == 0:
        return np.zeros(batch.shape), np.full(batch.shape, np.inf)
    growth = batch[None, :] / seen_batch[:, None]
    thinning = seen_milli[:, None] / sm_milli[None, :]
    lower = seen_ms[:, None] * np.minimum(growth, 1.0) * np.minimum(thinning, 1.0)
    upper = seen_ms[:, None] * np.maximum(growth, 1.0) * np.maximum(thinning, 1.0)
    return lower.max(axis=0), upper.min(axis=0)


def dominated_ms(seen_batch: Column, seen_milli: Column, seen_ms: Column, batch: Column, sm_milli: Column) -> Column:
    """(n,) greatest latency measured at a batch no greater on a share no smaller: a bound by monotonicity alone, which
    takes nothing to be in proportion. 0 where there is none."""
    below = (seen_batch[:, None] <= batch[None, :]) & (seen_milli[:, None] >= sm_milli[None, :])
    return np.asarray(np.where(below, seen_ms[:, None], 0.0).max(axis=0, initial=0.0))


def largest_violation(seen_batch: Column, seen_milli: Column, seen_ms: Column) -> float:
    """By what part of itself some measurement lies below the bound that another one gives it; 0: all agree."""
    if seen_ms.size < 2:
        return 0.0
    lower, _ = monotone_bounds(seen_batch, seen_milli, seen_ms, seen_batch, seen_milli)
    return max(0.0, float((1.0 - seen_ms / lower).max()))
