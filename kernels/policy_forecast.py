"""The forecasts of the horizontal policy as scalar arithmetic: `dilu_core.coscaling.forecast`, which explains them.

`history` (LAGS,) is a ring of the latest buckets; `errors` (LAGS,) holds the error of a period of L buckets in entry
LAGS - L, so that both are walked in the same direction. What is not known is NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, inlined
from dilu_core.kernels.policy_columns import (
    AGE_S,
    AHEAD,
    AHEAD_RPS,
    BUCKET_RPS,
    BUCKET_S,
    CONFIDENCE,
    DRIFT_RPS,
    FIRST_LAG,
    FORECASTS,
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
    STAY_ERROR,
    TREND,
    TREND_CONFIDENCE,
    TREND_ERROR,
    TREND_RPS,
    VOUCHED,
    WORST_ERROR,
    forget_forecast,
)

Floats = NDArray[np.float64]

HORIZON = 2  # as in `dilu_core.coscaling.forecast`, like the next six
DAMPING = 0.9
_REACH = DAMPING + DAMPING * DAMPING
_LEVEL_GAIN = 0.5
_TREND_GAIN = 0.15
_FADING = 1.0 - 1.0 / LAGS
_WHOLE = 1e-9


@inlined
def follow(params: Floats, state: Floats, history: Floats, errors: Floats, mean_rps: float) -> None:
    """One more second, of which `mean_rps` is the short mean."""
    state[BUCKET_RPS] = mean_rps if math.isnan(state[BUCKET_RPS]) else max(state[BUCKET_RPS], mean_rps)
    state[AGE_S] += 1.0
    if state[AGE_S] >= params[BUCKET_S] - _WHOLE:
        close_bucket(params, state, history, errors, state[BUCKET_RPS])
        state[BUCKET_RPS] = math.nan
        state[AGE_S] = max(0.0, state[AGE_S] - params[BUCKET_S])


@compiled
def pass_over(params: Floats, state: Floats, history: Floats, errors: Floats, unknown_s: float) -> None:
    """`unknown_s` seconds of which nothing is known."""
    state[AGE_S] += unknown_s
    if state[AGE_S] >= params[BUCKET_S] * LAGS:
        forget_forecast(state)
    while state[AGE_S] >= params[BUCKET_S] - _WHOLE:
        close_bucket(params, state, history, errors, state[BUCKET_RPS])
        state[BUCKET_RPS] = math.nan
        state[AGE_S] = max(0.0, state[AGE_S] - params[BUCKET_S])


@compiled
def close_bucket(params: Floats, state: Floats, history: Floats, errors: Floats, load_rps: float) -> None:
    """One more bucket: its load entered, the next forecast made, and then everybody judged by it."""
    seen, newest, lag = int(state[SEEN]), int(state[NEWEST]), int(state[LAG])
    known = not math.isnan(load_rps)
    if not known:
        if seen == 0:
            return
        load_rps = _at(history, newest + 1 - lag) if lag > 0 else history[newest]
        state[PENDING] = 0.0
    else:
        _judge(params, state, history, errors, load_rps)
    newest = newest + 1 if newest + 1 < LAGS else 0
    history[newest] = load_rps
    seen = min(seen + 1, 2 * LAGS)
    state[NEWEST], state[NEWEST_RPS], state[SEEN] = newest, load_rps, seen
    _expect(params, state, history, newest)
    if known:
        _trust(params, state, errors, seen)


@inlined
def recent_rps(state: Floats) -> float:
    """The greatest load of the running bucket and the one before."""
    running = 0.0 if math.isnan(state[BUCKET_RPS]) else state[BUCKET_RPS]
    return float(max(running, state[NEWEST_RPS]))


@inlined
def _at(history: Floats, position: int) -> float:
    return float(history[position if position >= 0 else position + LAGS])


@inlined
def _judge(params: Floats, state: Floats, history: Floats, errors: Floats, load: float) -> None:
    """The errors with those of one more bucket, and the trend with its load."""
    seen, newest, expected = int(state[SEEN]), int(state[NEWEST]), math.nan
    if state[PENDING] == HORIZON:
        expected = state[NEXT_RPS]
    if seen > 0:
        damped = DAMPING * state[TREND_RPS]
        surprise = load - (state[LEVEL_RPS] + damped)
        state[LEVEL_RPS] = state[LEVEL_RPS] + damped + _LEVEL_GAIN * surprise
        state[TREND_RPS] = damped + _TREND_GAIN * surprise
    else:
        state[LEVEL_RPS] = load
        errors[:] = 0.0
    state[NEXT_RPS] = state[LAST_RPS]
    state[LAST_RPS] = max(0.0, state[LEVEL_RPS] + _REACH * state[TREND_RPS])
    state[PENDING] = min(state[PENDING] + 1.0, float(HORIZON))
    if seen < HORIZON:
        return
    stayed = load - _at(history, newest + 1 - HORIZON)
    stayed *= stayed
    drifted = stayed if math.isnan(expected) else (load - expected) * (load - expected)
    state[STAY_ERROR] = state[STAY_ERROR] * _FADING + stayed
    state[WORST_ERROR] = max(state[WORST_ERROR] * _FADING, stayed)
    state[TREND_ERROR] = state[TREND_ERROR] * _FADING + drifted
    if int(params[FORECASTS]) & SEASON:
        first, last = int(params[FIRST_LAG]), int(params[LAST_LAG])
        # the periods of up to newest + 1 buckets look at the front of the ring, the longer ones at its end
        wrapped = max(first, newest + 2)
        _judge_periods(errors, history, load, first, min(last, newest + 1), newest + 1)
        if seen >= LAGS:
            _judge_periods(errors, history, load, wrapped, last, newest + 1 + LAGS)
        elif wrapped <= last:
            unable = errors[LAGS - last : LAGS - wrapped + 1]
            for k in range(unable.shape[0]):
                unable[k] = unable[k] * _FADING + stayed


@inlined
def _judge_periods(errors: Floats, history: Floats, load: float, first: int, last: int, end: int) -> None:
    """The errors of periods `first` to `last` with that of `load`; the bucket one period ago stands at `end` - L."""
    if first <= last:
        judged, past = errors[LAGS - last : LAGS - first + 1], history[end - last : end - first + 1]
        for k in range(judged.shape[0]):
            judged[k] = judged[k] * _FADING + (load - past[k]) * (load - past[k])


@inlined
def _expect(params: Floats, state: Floats, history: Floats, newest: int) -> None:
    """What is now expected by whom the buckets before the newest one trusted."""
    lag, soon, ahead, drift = int(state[LAG]), 0.0, 0.0, 0.0
    if lag > 0:
        for k in range(min(lag, int(params[AHEAD]))):
            returning = _at(history, newest + 1 - lag + k)
            ahead = max(ahead, returning)
            if k < HORIZON:
                soon = max(soon, returning)
    trusted = int(params[FORECASTS]) & TREND and state[TREND_CONFIDENCE] >= 0.5 * params[LEAST_CONFIDENCE]
    if trusted and state[PENDING] > 0.0 and state[TREND_RPS] > 0.0:
        drift = state[LAST_RPS]
    state[SOON_RPS], state[AHEAD_RPS], state[DRIFT_RPS], state[VOUCHED] = soon, ahead, drift, state[CONFIDENCE]


@inlined
def _trust(params: Floats, state: Floats, errors: Floats, seen: int) -> None:
    """The period and the confidences that count from now on."""
    state[LAG] = state[CONFIDENCE] = state[TREND_CONFIDENCE] = 0.0
    worst, total = state[WORST_ERROR], state[STAY_ERROR] + state[WORST_ERROR]
    if not total > 0.0:
        return
    state[TREND_CONFIDENCE] = 1.0 - (state[TREND_ERROR] + worst) / total
    rounds, least = 2, params[LEAST_CONFIDENCE]
    if params[KNOWN_PERIOD] > 0.0:
        rounds, least = 1, 0.0
    first, longest = int(params[FIRST_LAG]), min(int(params[LAST_LAG]), seen // rounds)
    if longest < first or not int(params[FORECASTS]) & SEASON:
        return
    judged = errors[LAGS - longest : LAGS - first + 1]
    best = 0
    for k in range(judged.shape[0]):
        if judged[k] <= judged[best]:
            best = k
    confidence = 1.0 - (judged[best] + worst) / total
    if confidence >= least:
        state[LAG], state[CONFIDENCE] = longest - best, confidence
