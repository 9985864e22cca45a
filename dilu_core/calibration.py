"""How wrong a fitted roofline is on cells it has not seen: the constants behind `LatencyFit.upper_ms`.

Split-conformal calibration, pooled over the 20 functions of three published profile tables (two A100s, one V100). Each
was fitted from 1 to 20 of its cells, chosen well, at random, in one batch only or at one share only, and every held-out
cell scored

    z = log(measured / predicted) / sqrt(sigma^2 min(v, LEVERAGE_CAP) + SPREAD_FLOOR^2).

`_LEVELS` are the quantiles of z, each function weighing the same; few or badly placed samples show in v, and need no
quantiles of their own. Coverage is an average over functions, not a promise for one. Produced by
`python bench/fit_calibration.py`, which also prints the coverage with each table left out in turn.
"""

from __future__ import annotations

import bisect
import math

from dilu_core import _checks as check

NOISE = 0.05
"""Log-latency noise of one measurement that the fit assumes, and the unit of leverage."""

NOISE_BELIEF = 4.0
"""How many samples' worth of belief stands behind NOISE where it is estimated anew from residuals."""

CORNER = 0.05
"""Log residual beyond which a sample pulls linearly, no longer quadratically (soft-L1)."""

LEVERAGE_CAP = 64.0
"""Leverage counts up to here: the samples say nothing about such a point, and more of nothing is the same."""

SPREAD_FLOOR = 0.05
"""Misfit of the model form that remains however many samples there are."""

_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
_LEVELS = (-8.13, -3.6, -2.14, -0.79, -0.14, 0.34, 0.95, 1.48, 2.03, 2.8)


def error_quantile(quantile: float) -> float:
    """The calibrated quantile of the normalised log error.

    Linear in logit(quantile) between the calibrated ones, and on beyond them with the slope of the last two. Increasing
    in `quantile`, never negative from 0.5 on. Raises `InvalidArgumentError` naming `quantile` outside (0, 1).
    """
    level = check.finite("quantile", quantile)
    if not 0.0 < level < 1.0:
        check.fail("quantile", f"is {quantile!r}; expected a probability strictly between 0 and 1.")
    place = _logit(level)
    right = min(max(bisect.bisect_left(_QUANTILES, level), 1), len(_QUANTILES) - 1)
    low, high = _logit(_QUANTILES[right - 1]), _logit(_QUANTILES[right])
    slope = (_LEVELS[right] - _LEVELS[right - 1]) / (high - low)
    value = _LEVELS[right - 1] + slope * (place - low)
    return max(value, 0.0) if level >= 0.5 else value


def _logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))
