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

from dilu_core.kernels.cpu.compiled import compiled, inlined
from dilu_core.kernels.policy_columns import (
    ABOVE,
    AHEAD_RPS,
    BACKLOG,
    BEHIND_RPS,
    BELOW,
    BURST,
    CAPACITY_RPS,
    CLEAR_S,
    CLOCK,
    COOLDOWN_S,
    DELIVERED,
    DRIFT_RPS,
    FILLED_S,
    FORECASTS,
    FROM_ZERO,
    FROM_ZERO_S,
    HELD,
    HOLDING,
    IN_FLIGHT,
    IS_LAZY,
    KEPT_PEAKS,
    KNOWN_S,
    LAZY_IN,
    LAZY_OUT,
    LAZY_SAMPLES,
    LEAN,
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
    PARTIAL_REQUESTS,
    PARTIAL_S,
    PEAKS,
    PREDICTED,
    QUIET_S,
    READY,
    REQUEST_MILLI,
    RUNNING,
    SAMPLES,
    SCALE_IN_LOAD,
    SHORT_S,
    SHOWN,
    SINCE_CHANGE_S,
    SLO_MS,
    SOON_RPS,
    SPARE,
    SPARE_MILLI,
    SPARE_TRUST,
    STALE_AFTER_S,
    STEADY,
    STEP_IN,
    STEP_OUT,
    STRETCH_S,
    TIME_S,
    TO_ZERO,
    USUAL_MS,
    VOUCHED,
    WANTED_S,
    WINDOW_S,
    ZERO_DELAY_S,
    forget,
    forget_forecast,
)
from dilu_core.kernels.policy_forecast import follow, pass_over, recent_rps

Floats = NDArray[np.float64]

_STANDING = 0.02  # as in `dilu_core.coscaling.rules`, like the next three
_MOST_NEED = 1e9
_NOISE = 1e-9
_LEAST_DELIVERED = 0.1
_FIRST_PERIOD_S = 1.0  # as in `dilu_core.coscaling.horizontal`, like the next
_WHOLE = 1e-9
_BEYOND_COUNTING = 1e15  # instances; what is beyond fits no integer and is out of bounds anyway


@inlined
def _ceil(instances: float) -> int:
    return math.ceil(min(instances - _NOISE * max(1.0, instances), _BEYOND_COUNTING))


@inlined
def _trusted_lean(params: Floats, spare_milli: float, delivered: float) -> float:
    lean = params[LEAN]
    if not math.isnan(spare_milli):
        lean = 1.0 + params[SPARE_TRUST] * spare_milli / params[REQUEST_MILLI]
    lean = min(lean, params[BURST])
    return float(lean if math.isnan(delivered) else min(lean, delivered))


@inlined
def _seen_delivery(
    params: Floats, state: Floats, elapsed_s: float, arrivals: float, ready: float, in_flight: float, usual: float
) -> float:
    before, queue = state[DELIVERED], state[IN_FLIGHT]
    if not (ready > 0.0 and ready == state[READY] and queue > usual and in_flight > usual):
        return float(before)
    growth = (in_flight - queue) / elapsed_s
    if abs(growth) <= _STANDING * arrivals:
        return float(before)
    rate = arrivals - growth
    seen = min(max(rate / (ready * params[CAPACITY_RPS]), _LEAST_DELIVERED), params[BURST])
    return float(seen if math.isnan(before) else before + (seen - before) * min(1.0, elapsed_s / params[SHORT_S]))


@inlined
def _shown_load(
    params: Floats,
    state: Floats,
    elapsed_s: float,
    arrivals: float,
    ready: float,
    in_flight: float,
    usual: float,
    delivered: float,
) -> float:
    before, queue = state[SHOWN], state[IN_FLIGHT]
    if math.isnan(queue) or math.isnan(in_flight) or math.isnan(usual) or ready == 0.0 or ready != state[READY]:
        return float(before)
    if not math.isnan(delivered) and delivered != state[DELIVERED]:
        return float(delivered)
    queued_rps = (in_flight - queue) / elapsed_s if in_flight > queue else 0.0
    carried = min((arrivals - queued_rps) / (ready * params[CAPACITY_RPS]), params[BURST])
    return float(max(1.0 if math.isnan(before) else before, carried))


@inlined
def _enter_sample(state: Floats, samples: Floats, kept: int, rate: float) -> None:
    """The newest of at most `kept` samples."""
    count, oldest = int(state[SAMPLES]), int(state[OLDEST])
    at = oldest + count
    samples[at - kept if at >= kept else at] = rate
    if count < kept:
        state[SAMPLES] = count + 1
    else:
        state[OLDEST] = oldest + 1 if oldest + 1 < kept else 0


@inlined
def _short_mean(params: Floats, state: Floats, samples: Floats) -> float:
    """The mean rate of the samples."""
    kept, at, total = int(params[SHORT_S]), int(state[OLDEST]), 0.0
    for _ in range(int(state[SAMPLES])):
        total += samples[at]
        at = at + 1 if at + 1 < kept else 0
    return float(total / max(1.0, state[SAMPLES]))


@compiled
def _hold_peak(
    params: Floats, state: Floats, samples: Floats, peaks: Floats, per_instance: float, backlog: float
) -> float:
    """Enter the need of the second that `samples` ends with; its short mean."""
    mean = _short_mean(params, state, samples)
    need = min(mean / per_instance, _MOST_NEED)
    if backlog > 0.0:
        ceiling = _ceil(need / (0.5 + 0.5 * params[SCALE_IN_LOAD]))
        need = max(need, min(need + backlog / per_instance, float(ceiling)))
    if state[PEAKS] == 0.0 or state[FILLED_S] >= params[STRETCH_S]:
        state[RUNNING] = state[RUNNING] + 1.0 if state[RUNNING] + 1.0 < params[KEPT_PEAKS] else 0.0
        state[PEAKS] = min(state[PEAKS] + 1.0, params[KEPT_PEAKS])
        state[FILLED_S] = 0.0
        peaks[int(state[RUNNING])] = need
        held = need
        for k in range(int(state[PEAKS])):
            held = max(held, peaks[k])
        state[HELD] = held
    elif need > peaks[int(state[RUNNING])]:
        peaks[int(state[RUNNING])] = need
        state[HELD] = max(state[HELD], need)
    state[FILLED_S] += 1.0
    return mean


@inlined
def _remember(
    params: Floats,
    state: Floats,
    samples: Floats,
    peaks: Floats,
    forecast: Floats,
    season: Floats,
    time_s: float,
    elapsed_s: float,
    arrivals: float,
    ready: float,
    starting: float,
    in_flight: float,
    spare_milli: float,
) -> tuple[float, float]:
    """One more stretch of `elapsed_s` known seconds, cut into whole seconds; `ready` NaN: no fleet known.

    Returns the load over capacity that an instance is now trusted with, and the rate that clears the backlog.
    """
    lazy = params[IS_LAZY] > 0.0
    partial_s = state[PARTIAL_S] + elapsed_s
    partial_requests = state[PARTIAL_REQUESTS] + arrivals * elapsed_s
    first_rps = state[PARTIAL_REQUESTS] + arrivals * (1.0 - state[PARTIAL_S])
    seconds = int(partial_s + _WHOLE)
    if seconds > 0:
        partial_s = max(0.0, partial_s - seconds)
        partial_requests = arrivals * partial_s
    state[PARTIAL_S], state[PARTIAL_REQUESTS] = partial_s, partial_requests
    if not (math.isnan(spare_milli) or math.isnan(state[SPARE_MILLI])):
        spare_milli = state[SPARE_MILLI] + (spare_milli - state[SPARE_MILLI]) * min(1.0, elapsed_s / params[SHORT_S])
    delivered, shown, backlog = state[DELIVERED], state[SHOWN], 0.0
    usual = arrivals * params[USUAL_MS] / 1000.0 + ready
    if not math.isnan(ready):
        delivered = _seen_delivery(params, state, elapsed_s, arrivals, ready, in_flight, usual)
        shown = _shown_load(params, state, elapsed_s, arrivals, ready, in_flight, usual, delivered)
        excess = in_flight - usual
        if starting == 0.0 and excess > 0.0:
            backlog = excess / params[CLEAR_S]
    kept = int(params[LAZY_SAMPLES]) if lazy else int(params[SHORT_S])
    lean = _trusted_lean(params, spare_milli, delivered)
    per_instance = params[CAPACITY_RPS] * lean
    entered = min(seconds, 1 + int(max(float(kept), params[WINDOW_S])))
    if seconds > entered and params[FORECASTS] > 0.0:
        pass_over(params, forecast, season, float(seconds - entered))
    for k in range(entered):
        _enter_sample(state, samples, kept, arrivals if k > 0 else first_rps)
        if not lazy:
            mean_rps = _hold_peak(params, state, samples, peaks, per_instance, backlog)
            if params[FORECASTS] > 0.0:
                follow(params, forecast, season, mean_rps)
    state[TIME_S] = time_s
    state[KNOWN_S] = min(params[WINDOW_S], state[KNOWN_S] + seconds)
    state[QUIET_S] = state[QUIET_S] + elapsed_s if arrivals == 0.0 else 0.0
    state[SINCE_CHANGE_S] += elapsed_s
    state[SPARE_MILLI], state[DELIVERED], state[SHOWN] = spare_milli, delivered, shown
    state[IN_FLIGHT] = math.nan if math.isnan(ready) else in_flight
    state[READY] = ready
    if not math.isnan(ready):
        none = ready == 0.0 and starting == 0.0
        state[WANTED_S] = state[WANTED_S] + elapsed_s if none and (arrivals > 0.0 or in_flight > 0.0) else 0.0
    return lean, backlog


@inlined
def _lazy_rule(params: Floats, state: Floats, samples: Floats, ready: int, starting: int) -> tuple[int, int]:
    planned, kept, at = ready + starting, int(params[LAZY_SAMPLES]), int(state[OLDEST])
    all_serve = planned * params[CAPACITY_RPS] * (1.0 + _NOISE)
    one_fewer_serves = (ready - 1) * params[CAPACITY_RPS] * (1.0 - _NOISE)
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
    return float(min(max(forecast[SOON_RPS], forecast[DRIFT_RPS]) / (params[CAPACITY_RPS] * lean), _MOST_NEED))


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
    if _ceil(held) <= planned:
        return target, PREDICTED
    lately = min(_short_mean(params, state, samples) / per_instance, _MOST_NEED)
    if backlog > 0.0 and _ceil(lately) <= planned:
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
    target = max(_ceil(held), _ceil(coming))
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
    need = max(held, coming, min(arrivals / per_instance, _MOST_NEED))
    survivors = max(1, _ceil(need * (lean / proven) / params[SCALE_IN_LOAD]))
    if survivors >= planned:
        return planned, STEADY, math.nan
    cooling = state[SINCE_CHANGE_S] < params[COOLDOWN_S]  # False where nothing has changed yet
    if state[KNOWN_S] < params[WINDOW_S] or starting > 0 or cooling or p95_ms > params[SLO_MS]:
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
        target, reason = _scale_out(params, state, samples, 0, max(1, _ceil(coming)), per_instance, 0.0, backlog)
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


@compiled
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
    lean, backlog = _remember(
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
