"""What the horizontal policy remembers of one more observation: samples, held needs, what instances delivered.

The part of `kernels.policy_step` that writes the state; its arrays and units are explained there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_in_place, inlined
from dilu_core.kernels.policy_columns import (
    BURST,
    CAPACITY_RPS,
    CLEAR_S,
    DELIVERED,
    FILLED_S,
    FORECASTS,
    HELD,
    HELD_OVER,
    IN_FLIGHT,
    IS_LAZY,
    KEPT_PEAKS,
    KNOWN_S,
    LAZY_SAMPLES,
    OLDEST,
    PARTIAL_REQUESTS,
    PARTIAL_S,
    PEAKS,
    QUIET_S,
    READY,
    RUNNING,
    SAMPLES,
    SCALE_IN_LOAD,
    SHORT_S,
    SHOWN,
    SINCE_CHANGE_S,
    SPARE_MILLI,
    SPARE_TRUST,
    STRETCH_S,
    TIME_S,
    USUAL_MS,
    WANTED_S,
    WINDOW_S,
)
from dilu_core.kernels.policy_forecast import follow, pass_over
from dilu_core.kernels.policy_hold import held_over, lean_of, stretches_held

Floats = NDArray[np.float64]

MOST_NEED = 1e9  # as in `dilu_core.coscaling.rules`, like the next one
NOISE = 1e-9
_STANDING = 0.02  # as in `dilu_core.coscaling.delivery`
_LEAST_DELIVERED = 0.1  # as in `dilu_core.coscaling.state`
_WHOLE = 1e-9  # as in `dilu_core.coscaling.horizontal`
_BEYOND_COUNTING = 1e15  # instances; what is beyond fits no integer and is out of bounds anyway


@inlined
def ceil_instances(instances: float) -> int:
    """Whole instances for a need, but for rounding."""
    return math.ceil(min(instances - NOISE * max(1.0, instances), _BEYOND_COUNTING))


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
def short_mean(params: Floats, state: Floats, samples: Floats) -> float:
    """The mean rate of the samples."""
    kept, at, total = int(params[SHORT_S]), int(state[OLDEST]), 0.0
    for _ in range(int(state[SAMPLES])):
        total += samples[at]
        at = at + 1 if at + 1 < kept else 0
    return float(total / max(1.0, state[SAMPLES]))


@compiled_in_place
def _hold_peak(
    params: Floats, state: Floats, samples: Floats, peaks: Floats, per_instance: float, backlog: float
) -> float:
    """Enter the need of the second that `samples` ends with; its short mean."""
    mean = short_mean(params, state, samples)
    need = min(mean / per_instance, MOST_NEED)
    if backlog > 0.0:
        ceiling = ceil_instances(need / (0.5 + 0.5 * params[SCALE_IN_LOAD]))
        need = max(need, min(need + backlog / per_instance, float(ceiling)))
    if state[PEAKS] == 0.0 or state[FILLED_S] >= params[STRETCH_S]:
        state[RUNNING] = state[RUNNING] + 1.0 if state[RUNNING] + 1.0 < params[KEPT_PEAKS] else 0.0
        state[PEAKS] = min(state[PEAKS] + 1.0, params[KEPT_PEAKS])
        state[FILLED_S] = 0.0
        peaks[int(state[RUNNING])] = need
        state[HELD_OVER] = -1.0  # to be taken anew
    elif need > peaks[int(state[RUNNING])]:
        peaks[int(state[RUNNING])] = need
        state[HELD] = max(state[HELD], need)
    state[FILLED_S] += 1.0
    return mean


@inlined
def remember(
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
    lean = lean_of(params, state, params[SPARE_TRUST])
    per_instance = params[CAPACITY_RPS] * lean
    entered = min(seconds, 1 + int(max(float(kept), params[WINDOW_S])))
    if seconds > entered and params[FORECASTS] > 0.0:
        pass_over(params, forecast, season, float(seconds - entered))
    for k in range(entered):
        _enter_sample(state, samples, kept, arrivals if k > 0 else first_rps)
        if not lazy:
            mean_rps = _hold_peak(params, state, samples, peaks, per_instance, backlog)
            if params[FORECASTS] > 0.0:
                follow(params, state, forecast, season, mean_rps)
    stretches = stretches_held(params, forecast)
    if stretches != state[HELD_OVER]:
        state[HELD_OVER] = stretches
        state[HELD] = held_over(params, state, peaks)
    return lean, backlog
