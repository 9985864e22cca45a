"""What a replica counts of itself."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core import InvalidArgumentError
from dilu_core.adapters.ray_serve import ReplicaMetrics
from dilu_core.adapters.ray_serve_metrics import AGE_S, ARRIVALS, IN_FLIGHT, LATENCY_P95_MS, SPARE_MILLI


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_request_is_in_flight_until_it_ends() -> None:
    """It counts when it begins; when it has failed it is no longer in flight, and its latency counts for nothing."""
    clock = Clock()
    metrics = ReplicaMetrics(clock=clock)
    with metrics.request():
        clock.now_s += 0.05
        assert metrics.stats() == {ARRIVALS: 1.0, AGE_S: pytest.approx(0.05), IN_FLIGHT: 1.0}
    assert metrics.stats()[LATENCY_P95_MS] == pytest.approx(50.0)

    def fail() -> None:
        with metrics.request():
            clock.now_s += 60.0
            raise ValueError("of the test")

    with pytest.raises(ValueError, match="of the test"):
        fail()
    assert metrics.stats() == {ARRIVALS: 2.0, AGE_S: pytest.approx(60.05), IN_FLIGHT: 0.0}


@given(latencies=st.lists(st.floats(0.001, 10.0), min_size=1, max_size=200))
def test_the_percentile_is_that_of_the_newest_answers(latencies: list[float]) -> None:
    """Of the answers in the window, of the newest `most_latencies` at most: the least that 95 % do not exceed."""
    clock = Clock()
    metrics = ReplicaMetrics(clock=clock, latency_window_s=1e6, most_latencies=100)
    for latency in latencies:
        with metrics.request():
            clock.now_s += latency
    newest = sorted(latencies[-100:])
    p95 = metrics.stats()[LATENCY_P95_MS]
    assert sum(1000.0 * latency <= p95 + 1e-3 for latency in newest) >= math.ceil(0.95 * len(newest))
    assert sum(1000.0 * latency < p95 - 1e-3 for latency in newest) < math.ceil(0.95 * len(newest))


def test_old_answers_leave_the_window() -> None:
    """A latency that nobody has seen for the length of the window is not known any more."""
    clock = Clock()
    metrics = ReplicaMetrics(clock=clock, latency_window_s=5.0)
    with metrics.request():
        clock.now_s += 0.1
    clock.now_s += 5.1
    assert LATENCY_P95_MS not in metrics.stats()


def raising() -> float:
    raise OSError("of the test")


@pytest.mark.parametrize(
    ("spare", "known"), [(lambda: 120, 120.0), (lambda: None, None), (lambda: math.nan, None), (raising, None)]
)
def test_the_spare_share_is_left_out_where_it_is_not_known(spare: Any, known: float | None) -> None:
    """Serve switches the metrics off for good at the first value that is no number."""
    sample = ReplicaMetrics(spare_milli=spare).stats()
    assert sample.get(SPARE_MILLI) == known
    assert all(type(value) is float for value in sample.values())


def test_threads_and_coroutines_lose_no_request() -> None:
    """Eight threads with an event loop each, and no count is off by one."""
    metrics = ReplicaMetrics()

    async def request() -> None:
        with metrics.request():
            await asyncio.sleep(0)

    async def requests() -> None:
        await asyncio.gather(*(request() for _ in range(200)))

    threads = [threading.Thread(target=lambda: asyncio.run(requests())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sample = metrics.stats()
    assert (sample[ARRIVALS], sample[IN_FLIGHT]) == (1600.0, 0.0)


def test_misuse_is_named() -> None:
    """What cannot be meant is refused where the replica is made."""
    with pytest.raises(InvalidArgumentError, match="spare_milli"):
        ReplicaMetrics(spare_milli=3.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="latency_window_s"):
        ReplicaMetrics(latency_window_s=0.0)
