"""Time of a replay: the compiled queue beside the same queue in plain Python, and beside packets in a list."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation
from dilu_core.kernels.cpu.replay import advance_queue
from dilu_core.solvers.replay import replay
from dilu_core.traces import ArrivalTrace

SECONDS = 3600
TRACE = ArrivalTrace(50.0 + 30.0 * np.sin(np.arange(SECONDS) / 300.0))
PARAMS = HorizontalParams(10.0, 300, 600, slo_ms=200.0, base_latency_ms=50.0)


def packets(trace: ArrivalTrace, params: HorizontalParams) -> int:
    """The same hour as one packet per 0.1 s in a deque: what a direct simulation costs."""
    scaler = CoScaler(params)
    state, queue, late = scaler.initial_state(), deque[list[float]](), 0
    ready_at = [0.0] * 6
    for tick in range(trace.rates_rps.size * 10):
        now = tick / 10.0
        ready = sum(at <= now for at in ready_at)
        if tick and tick % 10 == 0:
            rate = float(trace.rates_rps[tick // 10 - 1])
            seen = Observation(now, rate, ready, len(ready_at) - ready, sum(p[1] for p in queue))
            decision, state = scaler.decide(state, seen)
            ready_at += [now + params.cold_start_s] * max(0, decision.change)
            del ready_at[len(ready_at) + min(0, decision.change) :]
        queue.append([now, float(trace.rates_rps[tick // 10]) / 10.0])
        budget = ready * params.capacity_rps * params.burst / 10.0
        while queue and budget > 0.0:
            part = min(budget, queue[0][1])
            queue[0][1] -= part
            budget -= part
            if queue[0][1] <= 1e-12:
                late += now - queue.popleft()[0] > 0.15
    return late


@pytest.mark.benchmark(group="replay: one hour under co-scaling")
def test_replay(benchmark: Any) -> None:
    """Ours: the policy in Python, the queue compiled."""
    replay(TRACE.slice(0, 20), CoScaler(PARAMS), PARAMS)  # compiles
    result = benchmark(replay, TRACE, CoScaler(PARAMS), PARAMS)
    assert result.violation_rate < 0.05


@pytest.mark.benchmark(group="replay: one hour under co-scaling")
def test_packets(benchmark: Any) -> None:
    """The baseline: packets in a deque, plain Python, without percentiles, spare share or a timeline."""
    benchmark(packets, TRACE, PARAMS)


@pytest.mark.benchmark(group="replay: one hour of the queue alone")
@pytest.mark.parametrize("way", ["compiled", "plain"])
def test_queue(benchmark: Any, way: str) -> None:
    """36,000 steps of the fluid queue in one call, compiled and as plain Python."""
    steps = SECONDS * 10
    arrivals = TRACE.resampled(0.1).rates_rps * 0.1
    most, rates = np.full(steps, 600, dtype=np.int64), np.arange(601.0) / 30.0
    after, used = np.zeros(steps), np.zeros(steps)
    advance: Any = advance_queue if way == "compiled" else getattr(advance_queue, "py_func", advance_queue)
    advance(arrivals, most, rates, 0.1, 4, 0, 10, 0.0, after, used)
    benchmark(advance, arrivals, most, rates, 0.1, 4, 0, steps, 0.0, after, used)
