"""What a Ray Serve autoscaling context says about a deployment, as an `Observation`; contexts are read, never made.

Serve's context has no arrival rate. Replicas report a running total of arrivals (`ReplicaMetrics`), and what waits at
the deployment handles, unseen by any replica yet, is added through the growth of that queue:

    arrivals = sum over replicas of (total now - total a window ago) / window + growth of the queue / elapsed

Replicas of one deployment may sit on nodes whose clocks differ: a rate uses the stamps of one replica only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dilu_core.adapters.ray_serve_metrics import AGE_S, ARRIVALS, IN_FLIGHT, LATENCY_P95_MS, SPARE_MILLI
from dilu_core.coscaling.policy import Observation, known_count, known_number, known_time

_LEAST_FRESH_S = 10.0
"""A report of this age still counts, whatever the intervals are: a busy node sends late, and clocks differ."""

Series = Sequence[tuple[float, float]]
"""(time stamp in s, value), oldest first."""


def observe(context: Any, *, window_s: float, queued_before: float | None, elapsed_s: float | None) -> Observation:
    """The observation that `context` holds.

    `ready` are the running replicas that are to stay, `starting` those missing to Serve's target. Arrivals are `None`
    where fewer than half of the running replicas have reported them lately, and 0 where no replica runs and no request
    waits. `queued_before` is `queued_requests` of the last observation, `elapsed_s` ago (`None`: not known). The
    latency is the greatest of the replicas' 95th percentiles, which the percentile of all requests never exceeds; the
    spare share is the mean over the replicas that know theirs.
    """
    now = known_time(context.current_time)
    running, target = known_count(context.current_num_replicas), known_count(context.target_num_replicas)
    ready = None if running is None or target is None else min(running, target)
    reports = _fresh_reports(context, now)
    in_flight = known_number(context.total_num_requests)
    if in_flight is None and reports[IN_FLIGHT]:
        in_flight = sum(_latest(reports[IN_FLIGHT]))
    latencies, spares = _latest(reports[LATENCY_P95_MS]), _latest(reports[SPARE_MILLI])
    arrivals = 0.0 if running == 0 and in_flight == 0.0 else _started_rps(reports, running, window_s)
    queued = queued_requests(context)
    if arrivals is not None and queued is not None and queued_before is not None and elapsed_s and elapsed_s > 0.0:
        arrivals = max(0.0, arrivals + (queued - queued_before) / elapsed_s)
    return Observation(
        time_s=now,
        arrivals_rps=arrivals,
        ready=ready,
        starting=None if target is None or ready is None else target - ready,
        in_flight=in_flight,
        spare_milli=sum(spares) / len(spares) if spares else None,
        latency_p95_ms=max(latencies, default=None),
    )


def queued_requests(context: Any) -> float | None:
    """Requests that wait at the deployment's handles."""
    return known_number(getattr(context, "total_queued_requests", None))


def rate_rps(totals: Series, ages: Series, window_s: float) -> float | None:
    """Arrivals per second over the last `window_s` of a running total, or `None` where it cannot be known.

    A replica younger than its series is long began with a total of 0 at its birth.
    """
    if not totals:
        return None
    points = list(totals)
    last_s, last = points[-1]
    if ages:
        born_s = ages[-1][0] - ages[-1][1]
        if 0.0 < points[0][0] - born_s <= window_s:
            points.insert(0, (born_s, 0.0))
    first_s, first = points[0]
    for stamp_s, total in points:
        if stamp_s <= last_s - window_s:
            first_s, first = stamp_s, total
    if last_s <= first_s or last < first:
        return None
    return (last - first) / (last_s - first_s)


def _started_rps(reports: Mapping[str, Mapping[Any, Series]], running: int | None, window_s: float) -> float | None:
    rates = [
        rate_rps(totals, reports[AGE_S].get(replica, ()), window_s) for replica, totals in reports[ARRIVALS].items()
    ]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known and running is not None and 2 * len(known) >= running else None


def _fresh_reports(context: Any, now: float | None) -> dict[str, dict[Any, Series]]:
    """Of our keys, the series of every replica that has reported lately."""
    raw = context.raw_metrics or {}
    config = context.config
    interval_s = known_number(getattr(config, "metrics_interval_s", None)) or 0.0
    look_back_s = known_number(getattr(config, "look_back_period_s", None)) or 0.0
    oldest_s = None if now is None else now - max(_LEAST_FRESH_S, 3.0 * interval_s + look_back_s)
    reports: dict[str, dict[Any, Series]] = {}
    for key in (ARRIVALS, AGE_S, IN_FLIGHT, LATENCY_P95_MS, SPARE_MILLI):
        series = {replica: _points(samples) for replica, samples in raw.get(key, {}).items()}
        reports[key] = {
            replica: points
            for replica, points in series.items()
            if points and (oldest_s is None or points[-1][0] >= oldest_s)
        }
    return reports


def _points(samples: Iterable[Any]) -> Series:
    """The samples that can be true."""
    pairs = ((known_time(sample.timestamp), known_number(sample.value)) for sample in samples)
    return [(stamp_s, value) for stamp_s, value in pairs if stamp_s is not None and value is not None]


def _latest(series: Mapping[Any, Series]) -> list[float]:
    return [points[-1][1] for points in series.values()]
