"""One decision of the horizontal policy as scalar arithmetic on a state of constant size, for replays by the thousand.

The rules of `dilu_core.coscaling` (`CoScaler.decide`), which explains them; here without words: numbers in, numbers
out, nothing allocated, so that one text serves the CPU kernel and a GPU thread. "Not known" is NaN. The state is three
arrays: `state` (STATE,) of scalars, and the rings `samples` and `peaks` of the latest seconds and of held needs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, inlined

Floats = NDArray[np.float64]

# Columns of a row of parameters: `HorizontalParams` by name. NaN: not known.
CAPACITY_RPS, REQUEST_MILLI, LIMIT_MILLI, SLO_MS, BASE_LATENCY_MS, MIN_INSTANCES, MAX_INSTANCES = range(7)
IS_LAZY, LEAN, SPARE_TRUST, SHORT_S, CLEAR_S, WINDOW_S, SCALE_IN_LOAD, COOLDOWN_S = range(7, 15)
LAZY_SAMPLES, LAZY_OUT, LAZY_IN, ZERO_DELAY_S, STALE_AFTER_S, COLD_STEPS = range(15, 21)
BURST, USUAL_MS, STRETCH_S, KEPT_PEAKS, PARAMETERS = range(21, 26)  # the first four by `derive`

# Entries of `state`: `HorizontalState` by name; a ring's count, and where its oldest sample or running peak stands.
TIME_S, PARTIAL_S, PARTIAL_REQUESTS, SAMPLES, OLDEST, PEAKS, RUNNING, FILLED_S, HELD = range(9)
KNOWN_S, QUIET_S, SINCE_CHANGE_S, SPARE_MILLI, DELIVERED, SHOWN, IN_FLIGHT, READY = range(9, 17)
STATE = 17

# Reasons, as positions in `REASONS`.
REASONS = (
    "steady", "load", "backlog", "from-zero", "spare-capacity", "to-zero", "below-minimum", "above-maximum", "holding",
    "learning", "no-data", "clock",
)  # fmt: skip
_STEADY, _LOAD, _BACKLOG, _FROM_ZERO, _SPARE, _TO_ZERO, _BELOW, _ABOVE, _HOLDING, _LEARNING, _NO_DATA, _CLOCK = range(
    12
)

STRETCHES = 12  # as in `dilu_core.coscaling.rules`, like the next five
MOST_PEAKS = STRETCHES + 1
_STANDING = 0.02
_MOST_NEED = 1e9
_NOISE = 1e-9
_LEAST_DELIVERED = 0.1
_FIRST_PERIOD_S = 1.0  # as in `dilu_core.coscaling.horizontal`, like the next
_WHOLE = 1e-9
_BEYOND_COUNTING = 1e15  # instances; what is beyond fits no integer and is out of bounds anyway


@inlined
def _ceil(instances: float) -> int:
    return math.ceil(min(instances - _NOISE * max(1.0, instances), _BEYOND_COUNTING))


def derive(rows: Floats) -> None:
    """Fill the columns of `rows` (sets, PARAMETERS) that follow from the others, once instead of at every step."""
    rows[:, BURST] = rows[:, LIMIT_MILLI] / rows[:, REQUEST_MILLI]
    rows[:, USUAL_MS] = np.fmax(rows[:, SLO_MS], rows[:, BASE_LATENCY_MS])  # NaN only where neither is known
    rows[:, STRETCH_S] = np.ceil(rows[:, WINDOW_S] / STRETCHES)
    rows[:, KEPT_PEAKS] = np.ceil(rows[:, WINDOW_S] / rows[:, STRETCH_S]) + 1.0


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


@compiled
def _hold_peak(
    params: Floats, state: Floats, samples: Floats, peaks: Floats, per_instance: float, backlog: float
) -> None:
    """Enter the need of the second that `samples` ends with."""
    kept, at, total = int(params[SHORT_S]), int(state[OLDEST]), 0.0
    for _ in range(int(state[SAMPLES])):
        total += samples[at]
        at = at + 1 if at + 1 < kept else 0
    need = min(total / state[SAMPLES] / per_instance, _MOST_NEED)
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


@inlined
def _remember(
    params: Floats,
    state: Floats,
    samples: Floats,
    peaks: Floats,
    time_s: float,
    elapsed_s: float,
    arrivals: float,
    ready: float,
    starting: float,
    in_flight: float,
    spare_milli: float,
) -> float:
    """One more stretch of `elapsed_s` known seconds, cut into whole seconds; `ready` NaN: no fleet known.

    Returns the load over capacity that an instance is now trusted with.
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
    for k in range(min(seconds, 1 + int(max(float(kept), params[WINDOW_S])))):
        _enter_sample(state, samples, kept, arrivals if k > 0 else first_rps)
        if not lazy:
            _hold_peak(params, state, samples, peaks, per_instance, backlog)
    state[TIME_S] = time_s
    state[KNOWN_S] = min(params[WINDOW_S], state[KNOWN_S] + seconds)
    state[QUIET_S] = state[QUIET_S] + elapsed_s if arrivals == 0.0 else 0.0
    state[SINCE_CHANGE_S] += elapsed_s
    state[SPARE_MILLI], state[DELIVERED], state[SHOWN] = spare_milli, delivered, shown
    state[IN_FLIGHT] = math.nan if math.isnan(ready) else in_flight
    state[READY] = ready
    return lean


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
        return planned + 1, _LOAD
    if planned > 1 and starting == 0 and below >= params[LAZY_IN]:
        return planned - 1, _SPARE
    return planned, _STEADY


@inlined
def _co_scaling_rule(
    params: Floats, state: Floats, lean: float, planned: int, starting: int, p95_ms: float
) -> tuple[int, int]:
    held = state[HELD]
    out = _ceil(held)
    if out > planned:
        return out, _LOAD
    proven = lean if math.isnan(state[SHOWN]) else min(lean, state[SHOWN])
    survivors = max(1, _ceil(held * (lean / proven) / params[SCALE_IN_LOAD]))
    if survivors >= planned:
        return planned, _STEADY
    cooling = state[SINCE_CHANGE_S] < params[COOLDOWN_S]  # False where nothing has changed yet
    if state[KNOWN_S] < params[WINDOW_S] or starting > 0 or cooling or p95_ms > params[SLO_MS]:
        return planned, _HOLDING
    return survivors, _SPARE


@inlined
def _propose(
    params: Floats,
    state: Floats,
    samples: Floats,
    lean: float,
    arrivals: float,
    ready: int,
    starting: int,
    in_flight: float,
    p95_ms: float,
) -> tuple[int, int]:
    anything = arrivals > 0.0 or in_flight > 0.0
    planned = ready + starting
    if planned == 0 and not anything:
        return 0, _STEADY
    if params[IS_LAZY] > 0.0:
        target, reason = _lazy_rule(params, state, samples, ready, starting)
    else:
        target, reason = _co_scaling_rule(params, state, lean, planned, starting, p95_ms)
    if planned == 0:
        return max(1, target), _FROM_ZERO
    if ready == 1 and planned == 1 and params[MIN_INSTANCES] == 0.0 and not anything:
        if state[QUIET_S] >= params[ZERO_DELAY_S]:
            return 0, _TO_ZERO
        return 1, _HOLDING
    return target, reason


@inlined
def forget(state: Floats) -> None:
    """Nothing seen yet."""
    for k in range(STATE):
        state[k] = 0.0
    state[RUNNING] = -1.0
    state[TIME_S] = state[SINCE_CHANGE_S] = state[SPARE_MILLI] = math.nan
    state[DELIVERED] = state[SHOWN] = state[IN_FLIGHT] = state[READY] = math.nan


@compiled
def policy_step(
    params: Floats,
    state: Floats,
    samples: Floats,
    peaks: Floats,
    time_s: float,
    arrivals_rps: float,
    ready: float,
    starting: float,
    in_flight: float,
    spare_milli: float,
    p95_ms: float,
) -> tuple[int, int, int]:
    """`CoScaler.decide` on numbers: (instances or -1 if not known, change, position of the reason in `REASONS`).

    The observation's numbers may be NaN, "not known"; what else a sensor could not have meant is for the caller to sort
    out. Changes `state`, `samples` (at least LAZY_SAMPLES or SHORT_S entries) and `peaks` (MOST_PEAKS) in place.
    """
    fleet_known = not (math.isnan(ready) or math.isnan(starting))
    planned = int(ready) + int(starting) if fleet_known else -1
    if math.isnan(time_s):
        return planned, 0, _CLOCK
    elapsed_s = _FIRST_PERIOD_S if math.isnan(state[TIME_S]) else time_s - state[TIME_S]
    if elapsed_s <= 0.0:
        if elapsed_s < 0.0:
            state[TIME_S], state[IN_FLIGHT] = time_s, math.nan
        return planned, 0, _CLOCK
    if elapsed_s > params[STALE_AFTER_S]:
        forget(state)
        state[TIME_S] = time_s
        return planned, 0, _LEARNING
    if math.isnan(arrivals_rps):
        state[TIME_S], state[IN_FLIGHT] = time_s, math.nan
        state[SINCE_CHANGE_S] += elapsed_s
        return planned, 0, _NO_DATA
    lean = _remember(
        params,
        state,
        samples,
        peaks,
        time_s,
        elapsed_s,
        arrivals_rps,
        ready if fleet_known else math.nan,
        starting,
        in_flight,
        spare_milli,
    )
    if not fleet_known:
        return -1, 0, _NO_DATA
    proposed, reason = _propose(
        params, state, samples, lean, arrivals_rps, int(ready), int(starting), in_flight, p95_ms
    )
    target = min(max(proposed, int(params[MIN_INSTANCES])), int(params[MAX_INSTANCES]))
    change = target - planned
    if change > 0 and proposed <= planned:
        reason = _BELOW
    elif change < 0 and proposed >= planned:
        reason = _ABOVE
    if change != 0:
        state[SINCE_CHANGE_S] = 0.0
        if params[IS_LAZY] > 0.0:
            state[SAMPLES] = state[OLDEST] = 0.0
        if change < 0:
            state[DELIVERED] = math.nan
    return target, change, reason
