"""For how long the horizontal policy holds a peak, as scalar arithmetic: `dilu_core.coscaling.hold`, which explains it.

The arrays are those of `kernels.policy_step`; what each window would have done is kept at the end of `forecast`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_in_place, inlined
from dilu_core.kernels.policy_columns import (
    BUCKETS,
    BURST,
    DELIVERED,
    HELD_BUCKETS,
    HELD_FOR,
    HELD_OVER,
    HELD_RPS,
    KEPT_PEAKS,
    KEPT_RPS,
    LAGS,
    LATE_WEIGHT,
    LEAN,
    LOAD_SUM,
    MISSED_RPS,
    NEWEST,
    NEXT_WINDOW,
    PEAKS,
    REQUEST_MILLI,
    RUNNING,
    SEEN,
    SOON_RPS,
    SPARE_MILLI,
    STRETCHES,
    WINDOW,
    WINDOWS,
)

Floats = NDArray[np.float64]

FADING = 1.0 - 1.0 / LAGS  # as in `dilu_core.coscaling.hold`, like the next two
_EQUAL = 1.0 + 1e-9
_LEAST_SAVING = 0.05


@inlined
def lean_of(params: Floats, state: Floats, trust: float) -> float:
    """The load over capacity that an instance carries with the part `trust` of its spare share."""
    spare_milli, delivered, lean = state[SPARE_MILLI], state[DELIVERED], params[LEAN]
    if not math.isnan(spare_milli):
        lean = 1.0 + trust * spare_milli / params[REQUEST_MILLI]
    lean = min(lean, params[BURST])
    return float(lean if math.isnan(delivered) else min(lean, delivered))


@inlined
def stretches_held(params: Floats, forecast: Floats) -> float:
    """How many full stretches of the window count, besides the running one."""
    if params[LATE_WEIGHT] > 0.0:
        return float(params[HELD_FOR + int(forecast[WINDOW])])
    return float(STRETCHES)


@inlined
def held_over(params: Floats, state: Floats, peaks: Floats) -> float:
    """The greatest need of the running stretch and the HELD_OVER before it."""
    held, at, kept = 0.0, int(state[RUNNING]), int(params[KEPT_PEAKS])
    for _ in range(min(int(state[HELD_OVER]) + 1, int(state[PEAKS]))):
        held = max(held, peaks[at])
        at = at - 1 if at > 0 else kept - 1
    return held


@compiled_in_place
def weigh(params: Floats, forecast: Floats, season: Floats, load: float, lean: float, full: float) -> None:
    """The windows by what each would have done with `load`, and the one that is in force from now on."""
    newest, count = int(forecast[NEWEST]), min(int(forecast[SEEN]), LAGS)
    peak = load
    for k in range(count):  # the ring is filled from its beginning
        peak = max(peak, season[k])
    before, greatest, k = forecast[BUCKETS], 0.0, 0
    load_sum, buckets = forecast[LOAD_SUM] * FADING + load, before * FADING + 1.0
    forecast[LOAD_SUM], forecast[BUCKETS], forecast[WINDOW] = load_sum, buckets, forecast[NEXT_WINDOW]
    least, best = math.inf, int(forecast[NEXT_WINDOW])
    for w in range(WINDOWS):
        while k < min(int(params[HELD_BUCKETS + w]), count):
            greatest = max(greatest, season[newest - k if k <= newest else newest - k + LAGS])
            k += 1
        held, launched, late = max(greatest, forecast[SOON_RPS]) / lean, 0.0, 0.0
        if before > 0.0:
            launched = max(0.0, held - forecast[HELD_RPS + w])
        if load > held * full * _EQUAL:
            late = load
        kept = forecast[KEPT_RPS + w] * FADING + held + launched
        missed = forecast[MISSED_RPS + w] * FADING + late
        forecast[HELD_RPS + w], forecast[KEPT_RPS + w], forecast[MISSED_RPS + w] = held, kept, missed
        if peak > 0.0:
            loss = kept / (buckets * peak)
            if w < WINDOWS - 1:
                missed += peak * max(0.0, 1.0 - buckets / LAGS)
            if load_sum > 0.0:
                loss += params[LATE_WEIGHT] * missed / load_sum
            least = min(least, loss)
            if loss <= least * (1.0 + _LEAST_SAVING):
                best = w
    forecast[NEXT_WINDOW] = best
