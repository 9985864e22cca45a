"""What a Ray Serve replica counts of itself, as its deployment class answers it in `record_autoscaling_stats`.

Serve calls that method every min(0.2 look_back_period_s, metrics_interval_s) seconds, keeps the values of the look-back
period as one time series per key, and sends them to its controller every metrics_interval_s. Its own aggregate of a
series is a mean over the look-back period; a policy that reads the series itself loses nothing to that smoothing.
Arrivals are therefore a running total: the rate over any stretch is a difference of two samples, exact whatever was
sampled in between, and a report that is lost or late loses no arrival.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from dilu_core._checks import fail, finite, integer
from dilu_core.coscaling.policy import known_number

ARRIVALS = "dilu_arrivals_total"
"""Requests that began on the replica since its metrics were made."""
AGE_S = "dilu_age_s"
"""Seconds since its metrics were made: what tells a new replica's first sample from an old replica's."""
IN_FLIGHT = "dilu_in_flight"
"""Requests on the replica now."""
LATENCY_P95_MS = "dilu_latency_p95_ms"
"""Of the requests answered lately; left out while none was."""
SPARE_MILLI = "dilu_spare_milli"
"""Share that the replica could have borrowed beyond its request; left out where it is not known."""


class ReplicaMetrics:
    """Arrivals, requests in flight and latencies of one replica; safe among threads and coroutines.

    Wrap every request, and answer Serve with `stats`:

        async def __call__(self, request):
            with self.metrics.request():
                ...

        def record_autoscaling_stats(self):
            return self.metrics.stats()

    The latency quantile is that of the requests answered in the last `latency_window_s`, of the newest `most_latencies`
    at most. `spare_milli` is asked for the replica's spare share at every sample; it may answer `None`.
    Serve switches the metrics of a replica off for good when the first sample is no dictionary of numbers, so what is
    not known is left out.
    """

    def __init__(
        self,
        *,
        spare_milli: Callable[[], float | None] | None = None,
        latency_window_s: float = 10.0,
        most_latencies: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if spare_milli is not None and not callable(spare_milli):
            fail("spare_milli", f"is {spare_milli!r:.80}; expected a function without arguments, or None.")
        self._window_s = finite("latency_window_s", latency_window_s, above=0.0)
        self._latencies: deque[tuple[float, float]] = deque(
            maxlen=integer("most_latencies", most_latencies, at_least=1)
        )  # (answered at, latency in ms)
        self._spare_milli = spare_milli
        self._clock = clock
        self._made_s = clock()
        self._arrivals = 0
        self._in_flight = 0
        self._lock = threading.Lock()

    def request(self) -> MeasuredRequest:
        """A context manager around one request. One that raises is no longer in flight, and has no latency."""
        return MeasuredRequest(self)

    def stats(self) -> dict[str, float]:
        """The values for `record_autoscaling_stats`."""
        now = self._clock()
        with self._lock:
            sample = {
                ARRIVALS: float(self._arrivals),
                AGE_S: max(0.0, now - self._made_s),
                IN_FLIGHT: float(self._in_flight),
            }
            while self._latencies and self._latencies[0][0] < now - self._window_s:
                self._latencies.popleft()
            latencies = [latency_ms for _, latency_ms in self._latencies]
        if latencies:
            latencies.sort()
            sample[LATENCY_P95_MS] = latencies[math.ceil(0.95 * len(latencies)) - 1]
        spare = self._spare()
        if spare is not None:
            sample[SPARE_MILLI] = spare
        return sample

    def _spare(self) -> float | None:
        if self._spare_milli is None:
            return None
        try:
            return known_number(self._spare_milli())
        except Exception:  # a sensor that fails knows nothing; the other metrics must go out all the same
            return None

    def _began(self) -> float:
        with self._lock:
            self._arrivals += 1
            self._in_flight += 1
        return self._clock()

    def _ended(self, began_s: float, answered: bool) -> None:
        now = self._clock()
        with self._lock:
            self._in_flight -= 1
            if answered:
                self._latencies.append((now, 1000.0 * max(0.0, now - began_s)))


class MeasuredRequest:
    """One request in flight: entered when it begins, left when it is answered or has failed."""

    __slots__ = ("_began_s", "_metrics")

    def __init__(self, metrics: ReplicaMetrics) -> None:
        self._metrics = metrics
        self._began_s = math.nan

    def __enter__(self) -> MeasuredRequest:
        self._began_s = self._metrics._began()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._metrics._ended(self._began_s, answered=kind is None)
