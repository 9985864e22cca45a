"""One decision of the horizontal policy as scalar arithmetic on a state of constant size, for replays by the thousand.

The rules of `dilu_core.coscaling` (`CoScaler.decide`), which explains them; here without words: numbers in, numbers
out, nothing allocated, so that one text serves the CPU kernel and a GPU thread. "Not known" is NaN. The state is five
arrays: `state` (STATE,) of scalars, the rings `samples` and `peaks` of the latest seconds and of held needs, and
`forecast` and `season` (`kernels.policy_forecast`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_in_place, inlined
from dilu_core.kernels.policy_columns import (
    ABOVE,
    AHEAD_RPS,
    BACKLOG,
    BEHIND_RPS,
    BELOW,
    CAPACITY_RPS,
    CLOCK,
    COOLDOWN_S,
    DELIVERED,
    DRIFT_RPS,
    FORECASTS,
    FROM_ZERO,
    FROM_ZERO_S,
    HELD,
    HELD_OVER,
    HOLDING,
    IN_FLIGHT,
    IS_LAZY,
    KNOWN_S,
    LAZY_IN,
    LAZY_OUT,
    LAZY_SAMPLES,
    LEARNING,
    LEAST,
    LEAST_CONFIDENCE,
    LOAD,
    MAX_INSTANCES,
    MAX_STEP_IN,
    MAX_STEP_OUT,
    MIN_INSTANCES,
    MOST,
    NO_BOUND,
    NO_DATA,
    OLDEST,
    OUT_COOLDOWN_S,
    PEAKS,
    PREDICTED,
    QUIET_S,
    RUNNING,
    SAMPLES,
    SCALE_IN_LOAD,
    SHOWN,
    SINCE_CHANGE_S,
    SLO_MS,
    SOON_RPS,
    SPARE,
    STALE_AFTER_S,
    STEADY,
    STEP_IN,
    STEP_OUT,
    STRETCH_S,
    TIME_S,
    TO_ZERO,
    VOUCHED,
    WANTED_S,
    WINDOW_S,
    ZERO_DELAY_S,
    forget,
    forget_forecast,
)
from dilu_core.kernels.policy_forecast import pass_over, recent_rps
from dilu_core.kernels.policy_memory import MOST_NEED, NOISE, ceil_instances, remember, short_mean

Floats = NDArray[np.float64]

_FIRST_PERIOD_S = 1.0  # as in `dilu_core.coscaling.horizontal`


@inlined
def _lazy_rule(params: Floats, state: Floats, samples: Floats, ready: int, starting: int) -> tuple[int, int]:
    planned, kept, at = ready + starting, int(params[LAZY_SAMPLES]), int(state[OLDEST])
    all_serve = planned * params[CAPACITY_RPS] * (1.0 + NOISE)
    one_fewer_serves = (ready - 1) * params[CAPACITY_RPS] * (1.0 - NOISE)
    above = below = 0
    for _ in range(int(state[SAMPLES])):
        above += 1 if samples[at] > all_serve else 0
        below += 1 if samples[at] < one_fewer_serves else 0
        at = at + 1 if at + 1 < kept else 0
    if above >= params[LAZY_OUT]:
        return planned + 1, LOAD
    if planned > 1 and starting == 0 and below >= params[LAZY_IN]:
        return planned - 1, SPARE
    return planned, STEADY


@inlined
def _coming(params: Floats, forecast: Floats, lean: float) -> float:
    return float(min(max(forecast[SOON_RPS], forecast[DRIFT_RPS]) / (params[CAPACITY_RPS] * lean), MOST_NEED))


@inlined
def _scale_out(
    params: Floats,
    state: Floats,
    samples: Floats,
    planned: int,
    target: int,
    per_instance: float,
    held: float,
    backlog: float,
) -> tuple[int, int]:
    if state[SINCE_CHANGE_S] < params[OUT_COOLDOWN_S]:  # False where nothing has changed yet
        return planned, HOLDING
    if ceil_instances(held) <= planned:
        return target, PREDICTED
    lately = min(short_mean(params, state, samples) / per_instance, MOST_NEED)
    if backlog > 0.0 and ceil_instances(lately) <= planned:
        return target, BACKLOG
    return target, LOAD


@inlined
def _co_scaling_rule(
    params: Floats,
    state: Floats,
    samples: Floats,
    forecast: Floats,
    lean: float,
    backlog: float,
    arrivals: float,
    planned: int,
    starting: int,
    p95_ms: float,
) -> tuple[int, int, float]:
    """The number of instances, the reason, and the need that is held from now on (NaN: as before)."""
    per_instance, held, coming = params[CAPACITY_RPS] * lean, state[HELD], _coming(params, forecast, lean)
    target = max(ceil_instances(held), ceil_instances(coming))
    if target > planned:
        target, reason = _scale_out(params, state, samples, planned, target, per_instance, held, backlog)
        return target, reason, math.nan
    proven = lean if math.isnan(state[SHOWN]) else min(lean, state[SHOWN])
    forgets_to = math.nan
    if forecast[VOUCHED] >= 0.5 + 0.5 * params[LEAST_CONFIDENCE] and backlog == 0.0:
        recent = recent_rps(forecast)
        known, behind = max(recent, forecast[AHEAD_RPS]), max(recent, forecast[BEHIND_RPS])
        if known < behind:
            held = forgets_to = held * (known / behind)
    need = max(held, coming, min(arrivals / per_instance, MOST_NEED))
    survivors = max(1, ceil_instances(need * (lean / proven) / params[SCALE_IN_LOAD]))
    if survivors >= planned:
        return planned, STEADY, math.nan
    cooling = state[SINCE_CHANGE_S] < params[COOLDOWN_S]  # False where nothing has changed yet
    window_s = min(params[WINDOW_S], state[HELD_OVER] * params[STRETCH_S])
    if state[KNOWN_S] < window_s or starting > 0 or cooling or p95_ms > params[SLO_MS]:
        return planned, HOLDING, math.nan
    return survivors, SPARE, forgets_to


@inlined
def _propose(
    params: Floats,
    state: Floats,
    samples: Floats,
    forecast: Floats,
    lean: float,
    backlog: float,
    arrivals: float,
    ready: int,
    starting: int,
    in_flight: float,
    p95_ms: float,
) -> tuple[int, int, float]:
    lazy, anything = params[IS_LAZY] > 0.0, arrivals > 0.0 or in_flight > 0.0
    planned, coming, reason, forgets_to = ready + starting, 0.0, STEADY, math.nan
    if not lazy:
        coming = _coming(params, forecast, lean)
    if planned == 0 and not anything:
        if coming == 0.0:
            return 0, STEADY, math.nan
        per_instance = params[CAPACITY_RPS] * lean
        target, reason = _scale_out(
            params, state, samples, 0, max(1, ceil_instances(coming)), per_instance, 0.0, backlog
        )
        return target, reason, math.nan
    if planned == 0 and state[WANTED_S] < params[FROM_ZERO_S]:
        return 0, HOLDING, math.nan
    if lazy:
        target, reason = _lazy_rule(params, state, samples, ready, starting)
    else:
        target, reason, forgets_to = _co_scaling_rule(
            params, state, samples, forecast, lean, backlog, arrivals, planned, starting, p95_ms
        )
    if planned == 0:
        return max(1, target), FROM_ZERO, math.nan
    if ready == 1 and planned == 1 and params[MIN_INSTANCES] == 0.0 and not anything and coming == 0.0:
        if state[QUIET_S] >= params[ZERO_DELAY_S]:
            return 0, TO_ZERO, math.nan
        return 1, HOLDING, math.nan
    return target, reason, forgets_to


@compiled_in_place
def policy_step(
    params: Floats,
    state: Floats,
    samples: Floats,
    peaks: Floats,
    forecast: Floats,
    season: Floats,
    time_s: float,
    arrivals_rps: float,
    ready: float,
    starting: float,
    in_flight: float,
    spare_milli: float,
    p95_ms: float,
) -> tuple[int, int, int, int]:
    """`CoScaler.decide` on numbers: instances or -1 if not known, change, positions in `REASONS` and in `BOUNDS`.

    The observation's numbers may be NaN, "not known"; what else a sensor could not have meant is for the caller to sort
    out. Changes `state`, `samples` (at least LAZY_SAMPLES or SHORT_S entries), `peaks` (MOST_PEAKS), `forecast`
    (FORECAST) and `season` (2 LAGS; any size where nothing is forecast) in place.
    """
    fleet_known = not (math.isnan(ready) or math.isnan(starting))
    planned = int(ready) + int(starting) if fleet_known else -1
    if math.isnan(time_s):
        return planned, 0, CLOCK, NO_BOUND
    elapsed_s = _FIRST_PERIOD_S if math.isnan(state[TIME_S]) else time_s - state[TIME_S]
    if elapsed_s <= 0.0:
        if elapsed_s < 0.0:
            state[TIME_S], state[IN_FLIGHT] = time_s, math.nan
        return planned, 0, CLOCK, NO_BOUND
    if elapsed_s > params[STALE_AFTER_S]:
        forget(state)
        forget_forecast(forecast)
        state[TIME_S] = time_s
        return planned, 0, LEARNING, NO_BOUND
    if math.isnan(arrivals_rps):
        state[TIME_S], state[IN_FLIGHT] = time_s, math.nan
        state[SINCE_CHANGE_S] += elapsed_s
        if params[FORECASTS] > 0.0:
            pass_over(params, forecast, season, elapsed_s)
        return planned, 0, NO_DATA, NO_BOUND
    lean, backlog = remember(
        params,
        state,
        samples,
        peaks,
        forecast,
        season,
        time_s,
        elapsed_s,
        arrivals_rps,
        ready if fleet_known else math.nan,
        starting,
        in_flight,
        spare_milli,
    )
    if not fleet_known:
        return -1, 0, NO_DATA, NO_BOUND
    proposed, reason, forgets_to = _propose(
        params, state, samples, forecast, lean, backlog, arrivals_rps, int(ready), int(starting), in_flight, p95_ms
    )
    target, bound = proposed, NO_BOUND
    if target - planned > params[MAX_STEP_OUT]:  # False where the bound is not known, like the next
        target, bound = planned + int(params[MAX_STEP_OUT]), STEP_OUT
    elif planned - target > params[MAX_STEP_IN]:
        target, bound = planned - int(params[MAX_STEP_IN]), STEP_IN
    if target < params[MIN_INSTANCES]:
        target, bound = int(params[MIN_INSTANCES]), LEAST
    elif target > params[MAX_INSTANCES]:
        target, bound = int(params[MAX_INSTANCES]), MOST
    change = target - planned
    if change > 0 and proposed <= planned:
        reason = BELOW
    elif change < 0 and proposed >= planned:
        reason = ABOVE
    if change != 0:
        state[SINCE_CHANGE_S] = 0.0
        if params[IS_LAZY] > 0.0:
            state[SAMPLES] = state[OLDEST] = 0.0
        if change < 0:
            state[DELIVERED] = math.nan
            if not math.isnan(forgets_to):
                state[PEAKS], state[RUNNING], state[HELD] = 1.0, 0.0, forgets_to
                peaks[0] = forgets_to
    return target, change, reason, bound
