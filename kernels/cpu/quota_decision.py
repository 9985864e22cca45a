"""Whether a cell's bound is within the budget, decided without evaluating it where that is clear.

With the terms of `kernels.cpu.quota_point`, t exp(k sigma) <= T if k^2 sigma^2 <= log(T / t)^2 for k > 0. On the left,
the gradient needs no powers but those that the latency and the batch's floor took: launch, stream and work have their
parts of it in the ratios in which they make up the norm. Both sides are known to some 1e-12; what is not decided by a
margin of `MARGIN` is left to the bound itself, to the bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_ieee
from dilu_core.kernels.cpu.elementary import log_of
from dilu_core.kernels.cpu.quota_point import (
    COMPUTE,
    FIXED,
    HOST,
    LOG_LAUNCH,
    bound_factor_at,
    leverage_of,
)

Floats = NDArray[np.float64]

SCATTER, CAP, FLOOR = 0, 1, 2
"""Columns of `errors`."""

MARGIN = 1e-9

WIDEST = 1e200
"""Budgets of so many latencies are left to the bound itself."""


@compiled_ieee
def upper_at(
    constants: Floats, covariance: Floats, error: Floats, level: float, batch: float, log_work: float,
    log_share: float, latency: float,
) -> float:  # fmt: skip
    """The bound that decides whether a cell is feasible; the latency itself where level and covariance say nothing."""
    if covariance.shape[0] == 0:
        return latency
    return latency * bound_factor_at(
        constants, covariance, level, error[SCATTER], error[CAP], error[FLOOR], batch, log_work, log_share
    )


@compiled_ieee
def clearly(
    c: Floats, covariance: Floats, error: Floats, level: float, batch: float, log_floor: float, stream: float,
    apart_floor: float, scaled: float, latency: float, log_norm: float, apart: float, budget: float,
) -> int:  # fmt: skip
    """1 where the bound at the point is within `budget`, -1 where it is beyond, 0 where that is too close to tell."""
    if not (level > 0.0 and budget < latency * WIDEST):
        return 0
    room = log_of(budget / latency)
    launch = c[LOG_LAUNCH]
    most = 1.0 / (1.0 + apart)
    of_scaled, of_floor = (apart * most, most) if log_floor >= scaled else (most, apart * most)
    greater = of_floor / (1.0 + apart_floor)
    lesser = apart_floor * greater
    of_launch, of_stream = (greater, lesser) if launch >= stream else (lesser, greater)
    part = (latency - c[HOST] * batch) / latency
    work = c[FIXED] + c[COMPUTE] * batch
    of_fixed = c[FIXED] / work if work > 0.0 else 0.0
    bend = of_launch * (launch - log_norm) + of_scaled * (scaled - log_norm) + of_stream * (stream - log_norm)
    d0, d1, d4, d5 = part * of_launch, 1.0 - part, part * of_stream, part * bend
    d2, d3 = part * of_scaled * of_fixed, part * of_scaled * (1.0 - of_fixed)
    v = leverage_of(covariance, d0, d1, d2, d3, d4, d5)
    trace = covariance[0] + covariance[2] + covariance[5] + covariance[9] + covariance[14] + covariance[20]
    doubt = MARGIN * trace * (1.0 + d5 * d5)
    scatter, floor = level * error[SCATTER], level * error[FLOOR]
    least = scatter * scatter * min(max(v - doubt, 0.0), error[CAP]) + floor * floor
    greatest = scatter * scatter * min(max(v + doubt, 0.0), error[CAP]) + floor * floor
    near = MARGIN * (1.0 + room)
    if least > (room + near) * (room + near):
        return -1
    return 1 if room > near and greatest < (room - near) * (room - near) else 0


@compiled_ieee
def bound_within(
    c: Floats, covariance: Floats, error: Floats, level: float, batch: float, log_work: float, log_floor: float,
    stream: float, apart_floor: float, log_share: float, latency: float, log_norm: float, apart: float, budget: float,
) -> bool:  # fmt: skip
    """Whether `upper_at` is within `budget`; `stream` and `apart_floor` as by `prepare_row`.

    `latency`, `log_norm` and `apart` are those of `point_at`.
    """
    clear = clearly(
        c, covariance, error, level, batch, log_floor, stream, apart_floor, log_work - log_share, latency, log_norm,
        apart, budget,
    )  # fmt: skip
    if clear != 0:
        return clear > 0
    return upper_at(c, covariance, error, level, batch, log_work, log_share, latency) <= budget
