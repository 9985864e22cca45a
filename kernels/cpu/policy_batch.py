"""One decision for each of many functions: the walk over the rows of a batch, on one core."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_in_place, inlined
from dilu_core.kernels.policy_columns import (
    HELD_OVER,
    IS_LAZY,
    KEPT_PEAKS,
    LAG,
    LAGS,
    LAZY_SAMPLES,
    NEWEST,
    NEXT_WINDOW,
    OLDEST,
    PEAKS,
    RUNNING,
    SAMPLES,
    SEEN,
    SHORT_S,
    STRETCHES,
    WINDOW,
    WINDOWS,
    forget,
    forget_forecast,
)
from dilu_core.kernels.policy_step import policy_step

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_BEYOND_COUNTING = 2.0**31  # as in `dilu_core.coscaling.policy`, like the next
_BEYOND_MEASURE = 1e12


@inlined
def _number(value: float) -> float:
    return value if 0.0 <= value < _BEYOND_MEASURE else math.nan


@inlined
def _count(value: float) -> float:
    return value if 0.0 <= value < _BEYOND_COUNTING and value == math.floor(value) else math.nan


@inlined
def _within(position: float, least: float, most: float) -> bool:
    return least <= position <= most  # False where it is NaN


@compiled_in_place
def forget_rows(state: Floats, forecast: Floats) -> None:
    """Nothing seen yet, in any row of `state` (n, STATE) and `forecast` (n, FORECAST)."""
    for i in range(state.shape[0]):
        forget(state[i])
        forget_forecast(forecast[i])


@compiled_in_place
def first_unfit(params: Floats, state: Floats, forecast: Floats) -> int:
    """The first row with a position or a count outside of the rings that its parameters have, or -1."""
    for i in range(params.shape[0]):
        kept = params[i, LAZY_SAMPLES] if params[i, IS_LAZY] > 0.0 else params[i, SHORT_S]
        fits = (
            _within(state[i, SAMPLES], 0, kept)
            and _within(state[i, OLDEST], 0, kept - 1)
            and _within(state[i, PEAKS], 0, params[i, KEPT_PEAKS])
            and _within(state[i, RUNNING], -1, params[i, KEPT_PEAKS] - 1)
            and _within(state[i, HELD_OVER], -1, STRETCHES)
            and _within(forecast[i, SEEN], 0, 2 * LAGS)
            and _within(forecast[i, NEWEST], -1, LAGS - 1)
            and _within(forecast[i, LAG], 0, LAGS)
            and _within(forecast[i, WINDOW], 0, WINDOWS - 1)
            and _within(forecast[i, NEXT_WINDOW], 0, WINDOWS - 1)
        )
        if not fits:
            return i
    return -1


@compiled_in_place
def decide_rows(
    params: Floats,
    state: Floats,
    samples: Floats,
    peaks: Floats,
    forecast: Floats,
    season: Floats,
    time_s: Floats,
    arrivals_rps: Floats,
    ready: Floats,
    starting: Floats,
    in_flight: Floats,
    spare_milli: Floats,
    p95_ms: Floats,
    answers: Integers,
) -> None:
    """Row i of `answers` (n, 4) is what `policy_step` says for row i of the rest, whose memory moves on in place.

    What a sensor could not have meant counts as not known, as in `CoScaler.decide`.
    """
    for i in range(params.shape[0]):
        now = time_s[i] if math.isfinite(time_s[i]) else math.nan
        answers[i, 0], answers[i, 1], answers[i, 2], answers[i, 3] = policy_step(
            params[i],
            state[i],
            samples[i],
            peaks[i],
            forecast[i],
            season[i],
            now,
            _number(arrivals_rps[i]),
            _count(ready[i]),
            _count(starting[i]),
            _number(in_flight[i]),
            _number(spare_milli[i]),
            _number(p95_ms[i]),
        )
