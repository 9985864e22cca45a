"""Times of repeated runs: with the device's events for a kernel alone, with the wall clock for a call end to end."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Times:
    """Median and least of `runs` repeated runs, in seconds, and the slowest for the spread."""

    median_s: float
    min_s: float
    max_s: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))

    def __str__(self) -> str:
        return f"median {readable(self.median_s)}, min {readable(self.min_s)} of {self.runs}"


def wall(run: Callable[[], object], *, warm: int = 1, most: int = 30, limit_s: float = 10.0) -> Times:
    """Wall-clock times of `run()` after `warm` runs: at least once, then until `most` runs or `limit_s` seconds."""
    return _repeated(lambda: _wall_seconds(run), run, warm, most, limit_s)


def on_device(launch: Callable[[], object], *, warm: int = 3, most: int = 100, limit_s: float = 10.0) -> Times:
    """Times of what `launch()` puts on the device's current stream, between two of its events."""
    import cupy

    return _repeated(lambda: _event_seconds(cupy, launch), launch, warm, most, limit_s)


def launch_cost(count: int = 200) -> dict[str, Times]:
    """What launching an empty kernel costs: on the device between two events, and for the host that launches it."""
    import cupy

    kernel = cupy.RawKernel('extern "C" __global__ void empty() {}', "empty")

    def launch() -> None:
        kernel((1,), (32,), ())

    device = on_device(launch, most=count)
    host = Times.of([_wall_seconds(launch) for _ in range(count)])
    cupy.cuda.Device().synchronize()
    return {"device": device, "host": host}


def readable(seconds: float) -> str:
    """Three digits and a fitting unit: 0.000123 -> "123 us"."""
    if not math.isfinite(seconds):
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"
    raise AssertionError("the last unit takes everything")


def _repeated(measure: Callable[[], float], run: Callable[[], object], warm: int, most: int, limit_s: float) -> Times:
    for _ in range(warm):
        run()
    seconds: list[float] = []
    started = time.perf_counter()
    while not seconds or (len(seconds) < most and time.perf_counter() - started < limit_s):
        seconds.append(measure())
    return Times.of(seconds)


def _wall_seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _event_seconds(cupy: Any, launch: Callable[[], object]) -> float:
    before, after = cupy.cuda.Event(), cupy.cuda.Event()
    before.record()
    launch()
    after.record()
    after.synchronize()
    return float(cupy.cuda.get_elapsed_time(before, after)) / 1e3
