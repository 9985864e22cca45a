"""Repeated, synchronised timing of one operation: median, 95th percentile, and whether the host was the limit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

LEAST_REPEATS, GREATEST_REPEATS = 5, 60
_FEWER_BEYOND_S, _ONCE_BEYOND_S = 0.4, 2.0  # runs this long are repeated three times, or not at all
_WARM_BEYOND_S = 0.1  # one warm-up is enough for runs this long
_HOST_BOUND = 0.8


class Clock(Protocol):
    """Times one run from an idle device to its last result."""

    def once(self, run: Callable[[], object]) -> tuple[float, float]:
        """(latency in ms as the device saw it, ms the host took to issue the run)."""
        ...


@dataclass(frozen=True)
class Timing:
    """Latencies of repeated runs, in ms."""

    median_ms: float
    p95_ms: float
    least_ms: float
    host_ms: float
    repeats: int

    @property
    def host_bound(self) -> bool:
        """Whether issuing the run took so long that the device must have waited for it."""
        return self.host_ms >= _HOST_BOUND * self.median_ms


def measure(run: Callable[[], object], clock: Clock, *, target_s: float, warm_ups: int = 2) -> Timing:
    """`run` timed for about `target_s` seconds, after `warm_ups` runs that do not count.

    At least 5 and at most 60 repeats; 3 suffice where one run takes longer than 0.4 s, 1 beyond 2 s.
    """
    spent_ms = 0.0
    for _ in range(warm_ups):
        spent_ms, _ = clock.once(run)
        if spent_ms > 1000 * _WARM_BEYOND_S:
            break
    least = LEAST_REPEATS if spent_ms <= 1000 * _FEWER_BEYOND_S else 3 if spent_ms <= 1000 * _ONCE_BEYOND_S else 1
    latencies: list[float] = []
    hosts: list[float] = []
    while len(latencies) < least or (sum(latencies) < 1000 * target_s and len(latencies) < GREATEST_REPEATS):
        latency_ms, host_ms = clock.once(run)
        latencies.append(latency_ms)
        hosts.append(host_ms)
    return summarised(latencies, hosts)


def summarised(latencies: list[float], hosts: list[float]) -> Timing:
    """The statistics of repeated runs; the 95th percentile is the nearest rank (the greatest of fewer than 20)."""
    ranked = sorted(latencies)
    rank = -(-95 * len(ranked) // 100)
    return Timing(statistics.median(ranked), ranked[rank - 1], ranked[0], statistics.median(hosts), len(ranked))


class CpuClock:
    """The wall clock, for dry runs; there is no host apart from the device."""

    def once(self, run: Callable[[], object]) -> tuple[float, float]:
        started = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - started), 0.0


class CudaClock:
    """CUDA events around a run on one stream, synchronised after each."""

    def __init__(self, stream: Any) -> None:
        import torch

        self._torch = torch
        self._stream = stream
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def once(self, run: Callable[[], object]) -> tuple[float, float]:
        with self._torch.cuda.stream(self._stream):
            self._start.record(self._stream)
            started = time.perf_counter()
            run()
            host_ms = 1000 * (time.perf_counter() - started)
            self._end.record(self._stream)
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)), host_ms
