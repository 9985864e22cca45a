"""How wrong a fitted roofline is on cells it has not seen: the constants behind `LatencyFit.upper_ms`.

Split-conformal calibration, pooled over published profile tables. Each table was fitted from n of its cells, for many
designs (space-filling, random, one batch only, one share only), and every held-out cell scored

    z = log(measured / predicted) / sqrt(sigma^2 min(v, LEVERAGE_CAP) + SPREAD_FLOOR^2).

`_LEVELS[i][j]` is the quantile `_QUANTILES[j]` of z for n = `_CELLS[i]`, each table weighing the same. Coverage is
therefore an average over tables, not a promise for one function. Produced by `python bench/fit_calibration.py`, which
also prints the coverage with each table left out in turn.
"""

from __future__ import annotations

import math

import numpy as np

from dilu_core import _checks as check

NOISE = 0.05
"""Log-latency noise of one measurement that the fit assumes, and the unit of leverage."""

CORNER = 0.05
"""Log residual beyond which a sample pulls linearly, no longer quadratically (soft-L1)."""

LEVERAGE_CAP = 64.0
"""Leverage counts up to here: the samples say nothing about such a point, and more of nothing is the same."""

SPREAD_FLOOR = 0.05
"""Misfit of the model form that remains however many samples there are."""

_CELLS = (1, 8)
_QUANTILES = (0.05, 0.5, 0.95)
_LEVELS = ((-1.6, 0.0, 2.2), (-1.2, 0.0, 1.5))


def error_quantile(quantile: float, n_cells: int) -> float:
    """The calibrated quantile of the normalised log error, after a fit to `n_cells` distinct cells.

    Linear in log n between the calibrated rows and constant beyond them; linear in logit(quantile) between the
    columns, and on beyond them with the slope of the last two. Increasing in `quantile`, never negative from 0.5 on.
    Raises `InvalidArgumentError` naming `quantile` outside (0, 1).
    """
    level = check.finite("quantile", quantile)
    if not 0.0 < level < 1.0:
        check.fail("quantile", f"is {quantile!r}; expected a probability strictly between 0 and 1.")
    place = _logit(level)
    knots = [_logit(q) for q in _QUANTILES]
    position = math.log(max(1, n_cells))
    rows = np.log(np.array(_CELLS, dtype=np.float64))
    levels = [float(np.interp(position, rows, column)) for column in zip(*_LEVELS, strict=True)]
    right = min(max(int(np.searchsorted(knots, place)), 1), len(knots) - 1)
    slope = (levels[right] - levels[right - 1]) / (knots[right] - knots[right - 1])
    value = levels[right - 1] + slope * (place - knots[right - 1])
    return max(value, 0.0) if level >= 0.5 else value


def _logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))
