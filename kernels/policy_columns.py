"""Where the horizontal policy's numbers stand in the arrays of its scalar step: parameters by row, memory by entry."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import inlined

Floats = NDArray[np.float64]

# Columns of a row of parameters: `HorizontalParams` by name. NaN: not known.
CAPACITY_RPS, REQUEST_MILLI, LIMIT_MILLI, SLO_MS, BASE_LATENCY_MS, MIN_INSTANCES, MAX_INSTANCES = range(7)
IS_LAZY, LEAN, SPARE_TRUST, SHORT_S, CLEAR_S, WINDOW_S, SCALE_IN_LOAD, COOLDOWN_S = range(7, 15)
LAZY_SAMPLES, LAZY_OUT, LAZY_IN, ZERO_DELAY_S, STALE_AFTER_S, COLD_STEPS = range(15, 21)
MAX_STEP_OUT, MAX_STEP_IN, OUT_COOLDOWN_S, FROM_ZERO_S, FORECASTS, LEAST_CONFIDENCE = range(21, 27)
BUCKET_S, FIRST_LAG, LAST_LAG, KNOWN_PERIOD = range(27, 31)
LATE_WEIGHT, BURST, USUAL_MS, STRETCH_S, KEPT_PEAKS, HELD_BUCKETS = range(31, 37)  # the last five by `derive`
WINDOWS = 5  # columns from HELD_BUCKETS and from HELD_FOR on: buckets, and stretches besides the running one, of each
HELD_FOR, PARAMETERS = HELD_BUCKETS + WINDOWS, HELD_BUCKETS + 2 * WINDOWS

# Values of FORECASTS
TREND, SEASON, HOLD = 1, 2, 4  # bits; the last one where a window is learnt
FORECASTS_BY_NAME = {"off": 0, "trend": TREND, "season": SEASON, "both": TREND + SEASON}

# Entries of `state`: `HorizontalState` by name; a ring's count, and where its oldest sample or running peak stands.
TIME_S, PARTIAL_S, PARTIAL_REQUESTS, SAMPLES, OLDEST, PEAKS, RUNNING, FILLED_S, HELD = range(9)
KNOWN_S, QUIET_S, SINCE_CHANGE_S, SPARE_MILLI, DELIVERED, SHOWN, IN_FLIGHT, READY, WANTED_S = range(9, 18)
HELD_OVER, STATE = 18, 19  # the stretches besides the running one that HELD is the greatest need of

# Entries of `forecast`: `Forecast` by name, where the newest bucket stands in the ring of the history, and its load.
AGE_S, BUCKET_RPS, SEEN, NEWEST, NEWEST_RPS, LEVEL_RPS, TREND_RPS, PENDING, NEXT_RPS, LAST_RPS = range(10)
STAY_ERROR, WORST_ERROR, TREND_ERROR, LAG, CONFIDENCE, TREND_CONFIDENCE = range(10, 16)
SOON_RPS, AHEAD_RPS, BEHIND_RPS, DRIFT_RPS, VOUCHED, LOAD_SUM, BUCKETS, WINDOW, NEXT_WINDOW, HELD_RPS = range(16, 26)
KEPT_RPS, MISSED_RPS, FORECAST = HELD_RPS + WINDOWS, HELD_RPS + 2 * WINDOWS, HELD_RPS + 3 * WINDOWS  # of each window

# Reasons, as positions in `REASONS`.
REASONS = (
    "steady", "load", "backlog", "from-zero", "spare-capacity", "to-zero", "below-minimum", "above-maximum", "holding",
    "learning", "no-data", "clock", "predicted",
)  # fmt: skip
STEADY, LOAD, BACKLOG, FROM_ZERO, SPARE, TO_ZERO, BELOW, ABOVE, HOLDING, LEARNING, NO_DATA, CLOCK, PREDICTED = range(13)

# Bounds that clip a decision, as positions in `BOUNDS`.
BOUNDS = (None, "min_instances", "max_instances", "max_step_out", "max_step_in")
NO_BOUND, LEAST, MOST, STEP_OUT, STEP_IN = range(5)

STRETCHES = 12  # as in `dilu_core.coscaling.params`, like the next one
HELD_STRETCHES = (1, 2, 3, 6, STRETCHES)
MOST_PEAKS = STRETCHES + 1
LAGS = 128  # as in `dilu_core.coscaling.params`


def derive(rows: Floats) -> None:
    """Fill the columns of `rows` (sets, PARAMETERS) that follow from the others, once instead of at every step."""
    rows[:, BURST] = rows[:, LIMIT_MILLI] / rows[:, REQUEST_MILLI]
    rows[:, USUAL_MS] = np.fmax(rows[:, SLO_MS], rows[:, BASE_LATENCY_MS])  # NaN only where neither is known
    rows[:, STRETCH_S] = np.ceil(rows[:, WINDOW_S] / STRETCHES)
    rows[:, KEPT_PEAKS] = np.ceil(rows[:, WINDOW_S] / rows[:, STRETCH_S]) + 1.0
    for k, stretches in enumerate(HELD_STRETCHES):
        windows_s = np.minimum(rows[:, WINDOW_S], stretches * rows[:, STRETCH_S])
        rows[:, HELD_BUCKETS + k] = np.minimum(np.ceil(windows_s / rows[:, BUCKET_S]), LAGS)
        rows[:, HELD_FOR + k] = stretches


@inlined
def forget(state: Floats) -> None:
    """Nothing seen yet."""
    for k in range(STATE):
        state[k] = 0.0
    state[RUNNING], state[HELD_OVER] = -1.0, STRETCHES
    state[TIME_S] = state[SINCE_CHANGE_S] = state[SPARE_MILLI] = math.nan
    state[DELIVERED] = state[SHOWN] = state[IN_FLIGHT] = state[READY] = math.nan


@inlined
def forget_forecast(forecast: Floats) -> None:
    """No bucket seen yet."""
    for k in range(FORECAST):
        forecast[k] = 0.0
    forecast[BUCKET_RPS] = math.nan
    forecast[NEWEST] = -1.0
    forecast[WINDOW] = forecast[NEXT_WINDOW] = WINDOWS - 1.0
