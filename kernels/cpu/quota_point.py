"""The roofline at one point of a quota grid, by operations that round the same on every back end.

The formulas are those of `kernels.formulas`, in logs, with `exp` and `log` of `kernels.cpu.elementary`. A function is
given by a row of constants, a batch by the log of its work m + w b and of its floor F = [L^p + (d b)^p]^(1/p), a share
s by log s. With x the greater and y the lesser of log F and log (m + w b) - log s,

    t(b, s) = h b + exp(x + log(1 + exp(p (y - x))) / p)

`kernels/cuda/quota_point.cuh` repeats each function operation by operation.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_ieee, inlined
from dilu_core.kernels.cpu.elementary import exp_of, log_of

HOST, FIXED, COMPUTE, BANDWIDTH, SHARPNESS, LOG_LAUNCH, ROOT = 0, 1, 2, 3, 4, 5, 6
"""Entries of a row of constants: h, m, w, d, p, log L, 1 / p."""

N_CONSTANTS = 7

LOG_ZERO = -1e18
"""The log of a time of zero: far enough below every other that its power vanishes."""

TRIANGLE = 21
"""Entries of a packed symmetric (6, 6) matrix C by rows of its lower triangle, those off the diagonal doubled."""

NEAR = 1e-9
"""Relative margin by which the inverse of the roofline is distrusted; rounding stays far below it."""

SLACK = 1e-12
"""What rounding may take from R = T - h b, in parts of T, and from 1 - (F / R)^p; and more."""


@inlined
def log_or_zero(x: float) -> float:
    """log x, or `LOG_ZERO` where x is zero."""
    logarithm: float = log_of(x)  # before the choice, which then needs no branch
    return logarithm if x > 0.0 else LOG_ZERO


@compiled_ieee
def fill_constants(model: NDArray[np.float64], constants: NDArray[np.float64]) -> None:
    """The constants of a model (L, h, m, w, d, p)."""
    constants[HOST] = model[1]
    constants[FIXED] = model[2]
    constants[COMPUTE] = model[3]
    constants[BANDWIDTH] = model[4]
    constants[SHARPNESS] = model[5]
    constants[LOG_LAUNCH] = log_or_zero(model[0])
    constants[ROOT] = 1.0 / model[5]


@inlined
def log_norm_of(sharpness: float, root: float, log_x: float, log_y: float) -> tuple[float, float]:
    """log [x^p + y^p]^(1/p), and the lesser of the two powers as a part of the greater."""
    apart = exp_of(sharpness * (min(log_x, log_y) - max(log_x, log_y)))
    return max(log_x, log_y) + log_of(1.0 + apart) * root, apart


@compiled_ieee
def point_at(
    c: NDArray[np.float64], batch: float, log_work: float, log_floor: float, log_share: float
) -> tuple[float, float, float]:
    """t(b, s) in ms, and both numbers of its norm."""
    log_norm, apart = log_norm_of(c[SHARPNESS], c[ROOT], log_floor, log_work - log_share)
    return c[HOST] * batch + exp_of(log_norm), log_norm, apart


@compiled_ieee
def latency_at(c: NDArray[np.float64], batch: float, log_work: float, log_floor: float, log_share: float) -> float:
    """t(b, s) in ms."""
    return float(point_at(c, batch, log_work, log_floor, log_share)[0])


@inlined
def rest_of(host_ms: float, batch: float, budget_ms: float) -> float:
    """R = T - h b, and a little more than rounding may take from it."""
    return (budget_ms - host_ms * batch) + budget_ms * SLACK


@inlined
def left_of(sharpness: float, log_floor: float, log_rest: float) -> float:
    """1 - (F / R)^p, and a little more than rounding may take from it."""
    return (1.0 - exp_of(sharpness * (log_floor - log_rest))) + SLACK


@inlined
def share_of(log_work: float, log_rest: float, log_left: float, root: float) -> float:
    """(m + w b) / [R^p - F^p]^(1/p), and a little less."""
    return exp_of((log_work - log_rest) - log_left * root) * (1.0 - NEAR)


@compiled_ieee
def least_share_at(c: NDArray[np.float64], batch: float, log_work: float, log_floor: float, budget_ms: float) -> float:
    """A share, as a fraction of a GPU, below which no latency is within `budget_ms`; infinite where there is none.

    `formulas.roofline_least_share`, less what rounding might have added to it.
    """
    rest = rest_of(c[HOST], batch, budget_ms)
    log_rest = log_of(rest)
    left = left_of(c[SHARPNESS], log_floor, log_rest)
    share = share_of(log_work, log_rest, log_of(left), c[ROOT])
    return share if min(rest, left) > 0.0 else math.inf


@inlined
def leverage_of(c: NDArray[np.float64], d0: float, d1: float, d2: float, d3: float, d4: float, d5: float) -> float:
    """d' C d of a packed covariance (21,)."""
    v = (c[0] * d0) * d0
    v = v + (c[1] * d0 + c[2] * d1) * d1
    v = v + ((c[3] * d0 + c[4] * d1) + c[5] * d2) * d2
    v = v + (((c[6] * d0 + c[7] * d1) + c[8] * d2) + c[9] * d3) * d3
    row = ((c[10] * d0 + c[11] * d1) + c[12] * d2) + c[13] * d3
    v = v + (row + c[14] * d4) * d4
    row = ((c[15] * d0 + c[16] * d1) + c[17] * d2) + c[18] * d3
    return float(v + ((row + c[19] * d4) + c[20] * d5) * d5)


@compiled_ieee
def bound_factor_at(
    c: NDArray[np.float64],
    covariance: NDArray[np.float64],
    level: float,
    scatter: float,
    leverage_cap: float,
    floor: float,
    batch: float,
    log_work: float,
    log_share: float,
) -> float:
    """exp(k sigma) at the point: what its upper bound has over its latency.

    `covariance` (21,) of log(L, h, m, w, d, p) in units of the noise variance, packed (see `TRIANGLE`).
    """
    launch, scaled, stream = c[LOG_LAUNCH], log_work - log_share, log_or_zero(c[BANDWIDTH] * batch)
    top = max(max(launch, scaled), stream)
    p = c[SHARPNESS]
    of_launch = exp_of(p * (launch - top))
    of_scaled = exp_of(p * (scaled - top))
    of_stream = exp_of(p * (stream - top))
    total = (of_launch + of_scaled) + of_stream
    log_norm = top + log_of(total) * c[ROOT]
    norm, host = exp_of(log_norm), c[HOST] * batch
    latency = host + norm
    part = (norm / latency) / total
    work = c[FIXED] + c[COMPUTE] * batch
    of_fixed = c[FIXED] / work if work > 0.0 else 0.0
    bend = (of_launch * (launch - log_norm) + of_scaled * (scaled - log_norm)) + of_stream * (stream - log_norm)
    d0, d1, d4, d5 = part * of_launch, host / latency, part * of_stream, part * bend
    d2 = (part * of_scaled) * of_fixed
    d3 = (part * of_scaled) * (1.0 - of_fixed)
    v = leverage_of(covariance, d0, d1, d2, d3, d4, d5)
    spread = math.sqrt((scatter * scatter) * min(max(v, 0.0), leverage_cap) + floor * floor)
    return exp_of(level * spread)
