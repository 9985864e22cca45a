"""The forecasts of the horizontal policy as scalar arithmetic: `dilu_core.coscaling.forecast`, which explains them.

`forecast` (FORECAST,) holds scalars. The first half of `season` (2 LAGS,) is a ring of the latest buckets, and its
entry 2 LAGS - L the error of a period of L buckets, so that both halves are walked in the same direction. What is not
known is NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_in_place, inlined
from dilu_core.kernels.policy_columns import (
    AGE_S,
    AHEAD_RPS,
    BEHIND_RPS,
    BUCKET_RPS,
    BUCKET_S,
    CONFIDENCE,
    DRIFT_RPS,
    FIRST_LAG,
    FORECASTS,
    HELD_BUCKETS,
    HOLD,
    KNOWN_PERIOD,
    LAG,
    LAGS,
    LAST_LAG,
    LAST_RPS,
    LEAST_CONFIDENCE,
    LEVEL_RPS,
    NEWEST,
    NEWEST_RPS,
    NEXT_RPS,
    PENDING,
    SEASON,
    SEEN,
    SOON_RPS,
    SPARE_TRUST,
    STAY_ERROR,
    TREND,
    TREND_CONFIDENCE,
    TREND_ERROR,
    TREND_RPS,
    VOUCHED,
    WINDOW,
    WINDOWS,
    WORST_ERROR,
    forget_forecast,
)
from dilu_core.kernels.policy_hold import FADING, lean_of, weigh

Floats = NDArray[np.float64]

HORIZON = 2  # as in `dilu_core.coscaling.forecast`, like the next six
RETURN = 4
DAMPING = 0.9
_REACH = DAMPING + DAMPING * DAMPING
_LEVEL_GAIN = 0.5
_TREND_GAIN = 0.15
_WHOLE = 1e-9


@inlined
def follow(params: Floats, state: Floats, forecast: Floats, season: Floats, mean_rps: float) -> None:
    """One more second, of which `mean_rps` is the short mean."""
    forecast[BUCKET_RPS] = mean_rps if math.isnan(forecast[BUCKET_RPS]) else max(forecast[BUCKET_RPS], mean_rps)
    forecast[AGE_S] += 1.0
    if forecast[AGE_S] >= params[BUCKET_S] - _WHOLE:
        if forecast[SEEN] > 0.0 and int(params[FORECASTS]) & HOLD:
            lean = lean_of(params, state, params[SPARE_TRUST])
            weigh(params, forecast, season, forecast[BUCKET_RPS], lean, lean_of(params, state, 1.0))
        close_bucket(params, forecast, season, forecast[BUCKET_RPS])
        forecast[BUCKET_RPS] = math.nan
        if forecast[AGE_S] < 2.0 * params[BUCKET_S]:
            forecast[AGE_S] = max(0.0, forecast[AGE_S] - params[BUCKET_S])
        else:
            forecast[AGE_S] = 0.0


@compiled_in_place
def pass_over(params: Floats, forecast: Floats, season: Floats, unknown_s: float) -> None:
    """`unknown_s` seconds of which nothing is known."""
    forecast[AGE_S] += unknown_s
    if forecast[AGE_S] >= params[BUCKET_S] * LAGS:
        forget_forecast(forecast)
    while forecast[AGE_S] >= params[BUCKET_S] - _WHOLE:
        close_bucket(params, forecast, season, forecast[BUCKET_RPS])
        forecast[BUCKET_RPS] = math.nan
        forecast[AGE_S] = max(0.0, forecast[AGE_S] - params[BUCKET_S])


@compiled_in_place
def close_bucket(params: Floats, forecast: Floats, season: Floats, load_rps: float) -> None:
    """One more bucket: its load entered, the next forecast made, and then everybody judged by it."""
    seen, newest, lag = int(forecast[SEEN]), int(forecast[NEWEST]), int(forecast[LAG])
    known = not math.isnan(load_rps)
    if not known:
        if seen == 0:
            return
        load_rps = _at(season, newest + 1 - lag) if lag > 0 else season[newest]
        forecast[PENDING] = 0.0
    else:
        _judge(params, forecast, season, load_rps)
    newest = newest + 1 if newest + 1 < LAGS else 0
    season[newest] = load_rps
    seen = min(seen + 1, 2 * LAGS)
    forecast[NEWEST], forecast[NEWEST_RPS], forecast[SEEN] = newest, load_rps, seen
    _expect(params, forecast, season, newest)
    if known:
        _trust(params, forecast, season, seen)


@inlined
def recent_rps(forecast: Floats) -> float:
    """The greatest load of the running bucket and the one before."""
    running = 0.0 if math.isnan(forecast[BUCKET_RPS]) else forecast[BUCKET_RPS]
    return float(max(running, forecast[NEWEST_RPS]))


@inlined
def _at(season: Floats, position: int) -> float:
    return float(season[position if position >= 0 else position + LAGS])


@inlined
def _judge(params: Floats, forecast: Floats, season: Floats, load: float) -> None:
    """The errors with those of one more bucket, and the trend with its load."""
    seen, newest, expected = int(forecast[SEEN]), int(forecast[NEWEST]), math.nan
    if forecast[PENDING] == HORIZON:
        expected = forecast[NEXT_RPS]
    if seen > 0:
        damped = DAMPING * forecast[TREND_RPS]
        surprise = load - (forecast[LEVEL_RPS] + damped)
        forecast[LEVEL_RPS] = forecast[LEVEL_RPS] + damped + _LEVEL_GAIN * surprise
        forecast[TREND_RPS] = damped + _TREND_GAIN * surprise
    else:
        forecast[LEVEL_RPS] = load
        season[LAGS:] = 0.0
    forecast[NEXT_RPS] = forecast[LAST_RPS]
    forecast[LAST_RPS] = max(0.0, forecast[LEVEL_RPS] + _REACH * forecast[TREND_RPS])
    forecast[PENDING] = min(forecast[PENDING] + 1.0, float(HORIZON))
    if seen < HORIZON:
        return
    stayed = load - _at(season, newest + 1 - HORIZON)
    stayed *= stayed
    drifted = stayed if math.isnan(expected) else (load - expected) * (load - expected)
    forecast[STAY_ERROR] = forecast[STAY_ERROR] * FADING + stayed
    forecast[WORST_ERROR] = max(forecast[WORST_ERROR] * FADING, stayed)
    forecast[TREND_ERROR] = forecast[TREND_ERROR] * FADING + drifted
    if int(params[FORECASTS]) & SEASON:
        first, last = int(params[FIRST_LAG]), int(params[LAST_LAG])
        # the periods of up to newest + 1 buckets look at the front of the ring, the longer ones at its end
        wrapped = max(first, newest + 2)
        _judge_periods(season, load, first, min(last, newest + 1), newest + 1)
        if seen >= LAGS:
            _judge_periods(season, load, wrapped, last, newest + 1 + LAGS)
        elif wrapped <= last:
            unable = season[2 * LAGS - last : 2 * LAGS - wrapped + 1]
            for k in range(unable.shape[0]):
                unable[k] = unable[k] * FADING + stayed


@inlined
def _judge_periods(season: Floats, load: float, first: int, last: int, end: int) -> None:
    """The errors of periods `first` to `last` with that of `load`; the bucket one period ago stands at `end` - L."""
    if first <= last:
        judged, past = season[2 * LAGS - last : 2 * LAGS - first + 1], season[end - last : end - first + 1]
        for k in range(judged.shape[0]):
            judged[k] = judged[k] * FADING + (load - past[k]) * (load - past[k])


@inlined
def _expect(params: Floats, forecast: Floats, season: Floats, newest: int) -> None:
    """What is now expected by whom the buckets before the newest one trusted."""
    lag, soon, ahead, drift, behind = int(forecast[LAG]), 0.0, 0.0, 0.0, 0.0
    held = int(forecast[WINDOW]) if int(params[FORECASTS]) & HOLD else WINDOWS - 1
    for k in range(min(int(forecast[SEEN]), int(params[HELD_BUCKETS + held]) + 1, LAGS)):
        behind = max(behind, _at(season, newest - k))
    if lag > 0:
        for k in range(min(lag, RETURN)):
            returning = _at(season, newest + 1 - lag + k)
            ahead = max(ahead, returning)
            if k < HORIZON:
                soon = max(soon, returning)
    trusted = int(params[FORECASTS]) & TREND and forecast[TREND_CONFIDENCE] >= 0.5 * params[LEAST_CONFIDENCE]
    if trusted and forecast[PENDING] > 0.0 and forecast[TREND_RPS] > 0.0:
        drift = forecast[LAST_RPS]
    forecast[SOON_RPS], forecast[AHEAD_RPS], forecast[DRIFT_RPS] = soon, ahead, drift
    forecast[BEHIND_RPS], forecast[VOUCHED] = behind, forecast[CONFIDENCE]


@inlined
def _trust(params: Floats, forecast: Floats, season: Floats, seen: int) -> None:
    """The period and the confidences that count from now on."""
    forecast[LAG] = forecast[CONFIDENCE] = forecast[TREND_CONFIDENCE] = 0.0
    worst, total = forecast[WORST_ERROR], forecast[STAY_ERROR] + forecast[WORST_ERROR]
    if not total > 0.0:
        return
    forecast[TREND_CONFIDENCE] = 1.0 - (forecast[TREND_ERROR] + worst) / total
    rounds, least = 2, params[LEAST_CONFIDENCE]
    if params[KNOWN_PERIOD] > 0.0:
        rounds, least = 1, 0.0
    first, longest = int(params[FIRST_LAG]), min(int(params[LAST_LAG]), seen // rounds)
    if longest < first or not int(params[FORECASTS]) & SEASON:
        return
    judged = season[2 * LAGS - longest : 2 * LAGS - first + 1]
    best = 0
    for k in range(judged.shape[0]):
        if judged[k] <= judged[best]:
            best = k
    lag, saved = longest - best, forecast[STAY_ERROR] - judged[best]
    if saved < least * (saved + worst):
        return  # not even if it had been right whenever it was judged
    while_judged = max(saved, forecast[STAY_ERROR] - _stay_error_before(forecast, season, seen, lag))
    confidence = saved / (while_judged + worst)
    if confidence >= least:
        forecast[LAG], forecast[CONFIDENCE] = lag, confidence


@inlined
def _stay_error_before(forecast: Floats, season: Floats, seen: int, lag: int) -> float:
    """The part of the error of staying from when a period of `lag` buckets could not be judged yet."""
    count, error = min(seen, LAGS), 0.0
    oldest, unjudged = int(forecast[NEWEST]) + 1 - count, lag - (seen - count)
    for k in range(HORIZON, count):
        changed = _at(season, oldest + k) - _at(season, oldest + k - HORIZON) if k < unjudged else 0.0
        error = error * FADING + changed * changed
    return error
