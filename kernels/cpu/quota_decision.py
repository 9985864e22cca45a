"""Whether a cell's bound is within the budget, decided without evaluating it where that is clear.

With the terms of `kernels.cpu.quota_point`, t exp(k sigma) <= T if k^2 sigma^2 <= log(T / t)^2 for k > 0. On the left,
the gradient needs no power but the one that the latency took: its parts of the work, launch and stream are the ratios
in which they make up the norm, and those of launch and stream within the floor hold for all shares of a batch. Both
sides are known to some 1e-12; what is not decided by a margin of `MARGIN` is left to the bound itself, to the bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_ieee, inlined
from dilu_core.kernels.cpu.elementary import exp_of, log_of
from dilu_core.kernels.cpu.quota_point import BANDWIDTH, COMPUTE, FIXED, HOST, LOG_LAUNCH, ROOT, SHARPNESS, log_or_zero

Floats = NDArray[np.float64]

MARGIN = 1e-9

WIDEST = 1e200
"""Budgets of so many latencies are left to the bound itself."""


@inlined
def leverage_of(c: Floats, d0: float, d1: float, d2: float, d3: float, d4: float, d5: float) -> float:
    """d' C d of a packed covariance (21,), as in `bound_factor_at`."""
    v = (c[0] * d0) * d0
    v = v + (c[1] * d0 + c[2] * d1) * d1
    v = v + ((c[3] * d0 + c[4] * d1) + c[5] * d2) * d2
    v = v + (((c[6] * d0 + c[7] * d1) + c[8] * d2) + c[9] * d3) * d3
    row = ((c[10] * d0 + c[11] * d1) + c[12] * d2) + c[13] * d3
    v = v + (row + c[14] * d4) * d4
    row = ((c[15] * d0 + c[16] * d1) + c[17] * d2) + c[18] * d3
    return v + ((row + c[19] * d4) + c[20] * d5) * d5


@compiled_ieee
def point_at(c: Floats, batch: float, log_work: float, log_floor: float, log_share: float) -> tuple[float, float, float]:
    """`latency_at`, to the bit; the log of its norm; and by how much the lesser power falls short of the greater."""
    scaled = log_work - log_share
    apart = exp_of(c[SHARPNESS] * (min(log_floor, scaled) - max(log_floor, scaled)))
    log_norm = max(log_floor, scaled) + log_of(1.0 + apart) * c[ROOT]
    return c[HOST] * batch + exp_of(log_norm), log_norm, apart


@compiled_ieee
def clearly(
    c: Floats, covariance: Floats, level: float, scatter: float, cap: float, floor: float, batch: float,
    log_work: float, log_floor: float, log_share: float, latency: float, log_norm: float, apart: float, budget: float,
) -> int:  # fmt: skip
    """1 where the bound at the point is within `budget`, -1 where it is beyond, 0 where that is too close to tell."""
    if not (level > 0.0 and budget < latency * WIDEST):
        return 0
    room = log_of(budget / latency)
    launch, scaled, stream = c[LOG_LAUNCH], log_work - log_share, log_or_zero(c[BANDWIDTH] * batch)
    most = 1.0 / (1.0 + apart)
    of_scaled, of_floor = (apart * most, most) if log_floor >= scaled else (most, apart * most)
    of_launch = of_floor * exp_of(c[SHARPNESS] * (launch - log_floor))
    of_stream = of_floor * exp_of(c[SHARPNESS] * (stream - log_floor))
    host = c[HOST] * batch
    part = (latency - host) / latency
    work = c[FIXED] + c[COMPUTE] * batch
    of_fixed = c[FIXED] / work if work > 0.0 else 0.0
    bend = of_launch * (launch - log_norm) + of_scaled * (scaled - log_norm) + of_stream * (stream - log_norm)
    d0, d1, d4, d5 = part * of_launch, host / latency, part * of_stream, part * bend
    d2, d3 = part * of_scaled * of_fixed, part * of_scaled * (1.0 - of_fixed)
    v = leverage_of(covariance, d0, d1, d2, d3, d4, d5)
    trace = covariance[0] + covariance[2] + covariance[5] + covariance[9] + covariance[14] + covariance[20]
    doubt = MARGIN * trace * (1.0 + d5 * d5)
    squared = level * level
    least = squared * (scatter * scatter * min(max(v - doubt, 0.0), cap) + floor * floor)
    greatest = squared * (scatter * scatter * min(max(v + doubt, 0.0), cap) + floor * floor)
    near = MARGIN * (1.0 + room)
    if least > (room + near) * (room + near):
        return -1
    return 1 if room > near and greatest < (room - near) * (room - near) else 0
