"""What a function's load will be when an instance launched now can serve: its trend, and the return of its past.

The load is remembered as the greatest short mean of each of the last `LAGS` buckets of `bucket_s` seconds, of which one
covers a cold start; what matters is the load `HORIZON` buckets ahead. Two forecasts of it are kept, and each is judged
by what it would have been worth. With x[t] the load of bucket t, "nothing changes" would have erred by x[t] - x[t - 2];
a period of L buckets by x[t] - x[t - L]; a damped trend (Holt's linear method with the trend shrinking by `DAMPING` per
bucket; Gardner and McKenzie, Management Science 31, 1985) by x[t] less what it said two buckets before. Squares of
these errors are summed over the buckets that could be forecast, older ones fading within `LAGS` buckets, and

    confidence = 1 - (error + w) / (error of "nothing changes" + w),

with w the greatest squared error of "nothing changes" in memory: as if everyone had missed the greatest jump once more,
so that one coincidence of two peaks convinces nobody. Of the periods, the one that saves most error is looked at, and
it counts once two rounds of it were seen. (What it could not forecast is left out as far as it is remembered and was
observed; errors older than that, or filled in for gaps, make it less exact.) Forecasts that fail lose their confidence
within a period or two, and with it their say: nothing else has to be forgotten.

Forecasts are made with the confidence that the buckets before the newest one gave. So more load now, all else equal,
never lowers a forecast where every bucket is observed; and a load in other units leads to the same confidence. (No
learnt period can be monotone in all of the past: a load that is raised where it used to be low may no longer be
periodic.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dilu_core._checks import fail, finite, integer, shown
from dilu_core.coscaling.hold import FADING, Carried, Hold, weighed, window_held_s
from dilu_core.coscaling.params import LAGS, HorizontalParams

HORIZON = 2  # buckets, one of which covers the cold start: the other passes until the next forecast
RETURN = 4  # buckets; what is needed again within them is not let go, because starting it anew costs more
DAMPING = 0.9
_REACH = DAMPING + DAMPING * DAMPING  # how many trends the load moves within the horizon
_LEVEL_GAIN = 0.5
_TREND_GAIN = 0.15
_WHOLE = 1e-9  # seconds; ten periods of 0.1 s must make one second in spite of rounding


class Forecast(NamedTuple):
    """The memory of one function's forecast, of constant size.

    `age_s` is how much of the running bucket is over and `running_rps` its greatest short mean so far (`None`: nothing
    is known of it). `history_rps` holds those of the last `LAGS` buckets, oldest first, and `seen` counts buckets up to
    2 `LAGS`. `level_rps` and `trend_rps` (per bucket) are those of the damped trend, and `pending_rps` what it said of
    the next buckets. `errors` holds the faded sum of squared errors of each period, the shortest first, where those of
    "nothing changes" stand in for what it could not forecast yet; with it go those of "nothing changes", the greatest
    of these, and those of the trend.

    `lag` is the period trusted for the next forecast, in buckets (0: none), with its `confidence`. `soon_rps` is the
    greatest load that it expects until an instance launched at the next forecast serves, `ahead_rps` that of the next
    `RETURN` buckets, and `drift_rps` what the trend expects; 0 where nothing is forecast. `behind_rps` is the greatest
    load of the window that is over. `period`, in buckets, and `vouched`, its confidence, are what `soon_rps` and
    `ahead_rps` rest on. `hold` weighs the windows for which peaks may be held.
    """

    age_s: float = 0.0
    running_rps: float | None = None
    seen: int = 0
    history_rps: tuple[float, ...] = ()
    level_rps: float = 0.0
    trend_rps: float = 0.0
    pending_rps: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    stay_error: float = 0.0
    worst_error: float = 0.0
    trend_error: float = 0.0
    lag: int = 0
    confidence: float = 0.0
    trend_confidence: float = 0.0
    soon_rps: float = 0.0
    ahead_rps: float = 0.0
    behind_rps: float = 0.0
    drift_rps: float = 0.0
    period: int = 0
    vouched: float = 0.0
    hold: Hold = Hold()

    @property
    def recent_rps(self) -> float:
        """The greatest load of the running bucket and the one before."""
        return max(self.running_rps or 0.0, self.history_rps[-1] if self.history_rps else 0.0)

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `from_dict` gives the memory back, bit for bit."""
        columns = {name: list(getattr(self, name)) for name in _COLUMNS}
        return {**self._asdict(), **columns, "hold": self.hold.to_dict()}

    @classmethod
    def from_dict(cls, data: object) -> Forecast:
        """The memory that `to_dict` wrote. Raises `InvalidArgumentError` for anything else."""
        if not isinstance(data, Mapping) or data.keys() != set(cls._fields):
            fail("data['forecast']", f"is {shown(data, 80)}; expected what Forecast.to_dict wrote.")
        known = {
            name: finite(f"data['forecast'][{name!r}]", data[name], at_least=least, at_most=most)
            for name, (least, most) in _BOUNDS.items()
            if name != "running_rps" or data[name] is not None
        }
        counts = {
            name: integer(f"data['forecast'][{name!r}]", data[name], at_least=0, at_most=most)
            for name, most in _COUNTS.items()
        }
        columns = {name: _column(data, name, *limits) for name, limits in _COLUMNS.items()}
        if counts["lag"] > len(columns["history_rps"]):
            fail(
                "data['forecast']['lag']",
                f"is {counts['lag']}; expected no more than there are buckets in history_rps.",
            )
        hold = Hold.from_dict("data['forecast']['hold']", data["hold"])
        return cls(**{**known, **counts, **columns}, hold=hold)  # type: ignore[arg-type]


MOST_RPS = 1e15
"""More than any rate in a memory: observed ones are below 10^12. Squares of these, and their sums, stay finite."""

_MOST_ERROR = 128 * MOST_RPS**2
# Of the fields that `from_dict` reads: length and greatest entry, greatest count, and least and greatest number.
_COLUMNS = {"history_rps": (LAGS, MOST_RPS), "pending_rps": (HORIZON, MOST_RPS), "errors": (LAGS, _MOST_ERROR)}
_COUNTS = {"seen": 2 * LAGS, "lag": LAGS, "period": LAGS}
_BOUNDS: Mapping[str, tuple[float | None, float]] = {
    "age_s": (0.0, 1e9),
    **dict.fromkeys(("running_rps", "soon_rps", "ahead_rps", "behind_rps", "drift_rps"), (0.0, MOST_RPS)),
    **dict.fromkeys(("level_rps", "trend_rps"), (-MOST_RPS, MOST_RPS)),
    **dict.fromkeys(("stay_error", "worst_error", "trend_error"), (0.0, _MOST_ERROR)),
    **dict.fromkeys(("confidence", "trend_confidence", "vouched"), (None, 1.0)),
}


def followed(params: HorizontalParams, forecast: Forecast, means_rps: Iterable[float], carried: Carried) -> Forecast:
    """`forecast` after further seconds of the short means `means_rps`, with instances that carry `carried`."""
    bucket_s, age_s, running = params.bucket_s, forecast.age_s, forecast.running_rps
    for mean in means_rps:
        running = mean if running is None else max(running, mean)
        age_s += 1.0
        if age_s >= bucket_s - _WHOLE:
            forecast, running = _closed(params, forecast, running, carried), None
            age_s = max(0.0, age_s - bucket_s) if age_s < 2.0 * bucket_s else 0.0  # an age of longer buckets is over
    return forecast._replace(age_s=age_s, running_rps=running)


def passed(params: HorizontalParams, forecast: Forecast, unknown_s: float) -> Forecast:
    """`forecast` after `unknown_s` seconds of which nothing is known: the clock of a period goes on.

    A bucket of which nothing is known counts as forecast, or else as the one before, and judges nobody; one that ends
    unknown weighs no window.
    """
    bucket_s, age_s = params.bucket_s, forecast.age_s + unknown_s
    if age_s >= bucket_s * LAGS:
        return Forecast()
    while age_s >= bucket_s - _WHOLE:
        forecast, age_s = _closed(params, forecast, forecast.running_rps, None), max(0.0, age_s - bucket_s)
        forecast = forecast._replace(running_rps=None)
    return forecast._replace(age_s=age_s)


def _closed(params: HorizontalParams, before: Forecast, load_rps: float | None, carried: Carried | None) -> Forecast:
    """`before` with one more bucket: its load entered, the next forecast made, and then everybody judged by it."""
    history = before.history_rps
    if load_rps is None:
        if not history:
            return before
        load = history[-before.lag] if before.lag else history[-1]
        after = before._replace(pending_rps=())
    else:
        load = load_rps
        after = _judged(params, before, load)
        if carried is not None:
            after = after._replace(hold=weighed(params, before.hold, history, load, before.soon_rps, carried))
    history = (*history, load)[-LAGS:]
    seen = min(before.seen + 1, 2 * LAGS)
    after = after._replace(history_rps=history, seen=seen)
    after = _expecting(params, after, before)
    return _trusting(params, after, load_rps is not None)


def _judged(params: HorizontalParams, before: Forecast, load: float) -> Forecast:
    """The errors with those of one more bucket, and the trend with its load."""
    history, (first, last) = before.history_rps, params.lags
    errors, periods = before.errors, last - first + 1 if _seeks_periods(params) else 0
    if len(errors) != periods:
        errors = (before.stay_error,) * periods
    level, trend = before.level_rps, before.trend_rps
    if history:
        damped = DAMPING * trend
        surprise = load - (level + damped)
        level, trend = level + damped + _LEVEL_GAIN * surprise, damped + _TREND_GAIN * surprise
    else:
        level = load
    pending = (*before.pending_rps, max(0.0, level + _REACH * trend))[-HORIZON:]
    moved = before._replace(level_rps=level, trend_rps=trend, pending_rps=pending, errors=errors)
    if len(history) < HORIZON:
        return moved
    stayed = _square(load - history[-HORIZON])
    drifted = _square(load - before.pending_rps[0]) if len(before.pending_rps) == HORIZON else stayed
    return moved._replace(
        stay_error=before.stay_error * FADING + stayed,
        worst_error=max(before.worst_error * FADING, stayed),
        trend_error=before.trend_error * FADING + drifted,
        errors=tuple(
            error * FADING + (_square(load - history[-lag]) if lag <= len(history) else stayed)
            for lag, error in enumerate(errors, first)
        ),
    )


def _expecting(params: HorizontalParams, after: Forecast, before: Forecast) -> Forecast:
    """`after` with what is now expected by whom `before` trusted."""
    history, lag = after.history_rps, before.lag
    soon = ahead = drift = 0.0
    window = -(-window_held_s(params, after.hold) // params.bucket_s)
    behind = max(history[-window - 1 :])
    if lag:
        returning = history[len(history) - lag :][:RETURN]
        soon, ahead = max(returning[:HORIZON]), max(returning)
    if params.predict in ("trend", "both") and before.trend_confidence >= 0.5 * params.least_confidence:
        drift = after.pending_rps[-1] if after.pending_rps and after.trend_rps > 0.0 else 0.0
    expected = after._replace(soon_rps=soon, ahead_rps=ahead, behind_rps=behind, drift_rps=drift)
    return expected._replace(period=lag, vouched=before.confidence)


def _trusting(params: HorizontalParams, forecast: Forecast, judged: bool) -> Forecast:
    """`forecast` with the period and the confidences that count from now on."""
    if not judged:
        return forecast
    total = forecast.stay_error + forecast.worst_error
    if not total > 0.0:
        return forecast._replace(lag=0, confidence=0.0, trend_confidence=0.0)
    trend_confidence = 1.0 - (forecast.trend_error + forecast.worst_error) / total
    first, last = params.lags
    rounds, least = (2, params.least_confidence) if params.period_s is None else (1, 0.0)
    longest = min(last, forecast.seen // rounds)
    if longest < first or not _seeks_periods(params):
        return forecast._replace(lag=0, confidence=0.0, trend_confidence=trend_confidence)
    judged_lags = forecast.errors[: longest - first + 1]
    error = min(judged_lags)
    lag = first + judged_lags.index(error)
    saved = forecast.stay_error - error
    while_judged = max(saved, forecast.stay_error - _stay_error_before(forecast, lag))
    confidence = saved / (while_judged + forecast.worst_error)
    if confidence < least:
        return forecast._replace(lag=0, confidence=0.0, trend_confidence=trend_confidence)
    return forecast._replace(lag=lag, confidence=confidence, trend_confidence=trend_confidence)


def _stay_error_before(forecast: Forecast, lag: int) -> float:
    """The part of `stay_error` from when a period of `lag` buckets could not be judged yet, as far as remembered."""
    history, error = forecast.history_rps, 0.0
    unjudged = lag - (forecast.seen - len(history))
    for k in range(HORIZON, len(history)):
        error = error * FADING + (_square(history[k] - history[k - HORIZON]) if k < unjudged else 0.0)
    return error


def _seeks_periods(params: HorizontalParams) -> bool:
    return params.predict in ("season", "both")


def _square(error: float) -> float:
    return error * error


def _column(data: Mapping[str, object], name: str, length: int, most: float) -> tuple[float, ...]:
    values, where = data[name], f"data['forecast'][{name!r}]"
    if not isinstance(values, list | tuple) or len(values) > length:
        fail(where, f"is {shown(values, 80)}; expected a list of at most {length} numbers.")
    return tuple(finite(f"{where}[{i}]", each, at_least=0.0, at_most=most) for i, each in enumerate(values))
