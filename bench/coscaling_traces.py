"""Cost and lateness of scaling policies on arrival traces, ours beside widely used ones, in one run.

    python bench/coscaling_traces.py [TRACE.txt ...]

Without arguments, every trace of the measured data (DILU_DATA or ../shared/data). Each trace is scaled to a fleet: an
instance (request 0.3, limit 0.6 of a GPU, 10 s cold start) serves an eighth of the 99.5th percentile of the 3 s mean
load, and there are at most 16, or as many as the peak second needs. GPU-seconds include borrowed share and stand
relative to a fixed fleet for the peak second. Neighbours: two instances of the same function on the GPU under the same
policy, with its load shifted by a third of the trace each ("shifted"), with the same load at the same time ("in
phase"), or so greedy that nothing can be borrowed ("none"). The last is also where shares are fixed quotas, which is
how the other autoscalers come: they know of no share that could be lent.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scaling_baselines import BASELINES

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Policy
from dilu_core.solvers.replay import ReplayResult, replay
from dilu_core.traces import ArrivalTrace, read_trace

SHARE, LIMIT = 300, 600
MOST_INSTANCES = 16
ROUNDS = 20  # at most so many replays until neighbours' use and our own agree; most need fewer
SETTLED_MILLI = 5.0  # they do where what is left differs by less than this on average

MakePolicy = Callable[[HorizontalParams], Policy[Any]]


def main() -> int:
    """Print one line per policy and neighbourhood, and one per trace for the default policy."""
    paths = [Path(argument) for argument in sys.argv[1:]] or recorded()
    if not paths:
        print("no traces: give files, or set DILU_DATA to a folder that holds traces/*.txt", file=sys.stderr)
        return 2
    traces = [read_trace(path) for path in paths]
    policies: dict[str, MakePolicy] = {
        **BASELINES,
        "dilu lazy": lambda params: CoScaler(replace(params, rule="lazy")),
        "co-scaling": CoScaler,
    }
    print(f"{len(traces)} traces, {sum(trace.duration_s for trace in traces) / 3600:.1f} h; means over traces")
    print(f"{'policy':28s}{'neighbours':12s}{'GPU-s / peak':>13s}{'late':>9s}{'cold/h':>8s}{'turns/h':>9s}{'s':>7s}")
    for name, make in policies.items():
        for neighbours in ("none", "shifted", "in phase"):
            started = time.perf_counter()
            rows = [figures(trace, make, neighbours) for trace in traces]
            line = f"{name:28s}{neighbours:12s}" + columns(np.mean(rows, axis=0))
            print(f"{line}{time.perf_counter() - started:7.1f}", flush=True)
    print("\nco-scaling beside shifted neighbours, per trace")
    for trace in traces:
        print(f"{trace.name:40.40s}" + columns(np.array(figures(trace, CoScaler, "shifted"))))
    return 0


def recorded() -> list[Path]:
    """The recorded traces, if the measured data is here."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return sorted((Path(os.environ.get("DILU_DATA", default)) / "traces").glob("*.txt"))


def columns(row: NDArray[np.float64]) -> str:
    """One row of figures."""
    cost, late, cold, turns = row
    return f"{cost:13.3f}{late:9.2%}{cold:8.0f}{turns:9.1f}"


def function_of(trace: ArrivalTrace) -> HorizontalParams:
    """A function whose fleet peaks at about eight instances on this trace; LLM traces get LLM latencies."""
    slow = "llm" in trace.name
    return HorizontalParams(
        capacity_rps(trace),
        SHARE,
        LIMIT,
        slo_ms=2000.0 if slow else 300.0,
        base_latency_ms=500.0 if slow else 100.0,
        max_instances=max(MOST_INSTANCES, peak_fleet(trace)),
    )


def capacity_rps(trace: ArrivalTrace) -> float:
    """What an instance serves at its request."""
    three_s = (
        np.convolve(trace.rates_rps, np.full(3, 1.0 / 3.0), "valid") if trace.rates_rps.size > 3 else trace.rates_rps
    )
    return max(float(np.percentile(three_s, 99.5)), 1.5 * trace.mean_rps, 1e-3) / 8.0


def peak_fleet(trace: ArrivalTrace) -> int:
    """Instances that serve the peak second at their request."""
    return max(1, math.ceil(trace.peak_rps() / capacity_rps(trace)))


def fixed_gpu_s(trace: ArrivalTrace) -> float:
    """GPU-seconds of a fleet for the peak second."""
    return peak_fleet(trace) * SHARE / 1000.0 * trace.duration_s


def figures(trace: ArrivalTrace, make: MakePolicy, neighbours: str) -> tuple[float, float, float, float]:
    """GPU-seconds over those of the fixed fleet, part of requests late, cold starts and turn-rounds per hour."""
    result = settled_replay(trace, make, function_of(trace), neighbours)
    hours = trace.duration_s / 3600.0
    return (
        result.gpu_seconds / fixed_gpu_s(trace),
        result.violation_rate,
        result.cold_starts / hours,
        result.direction_flips / hours,
    )


def settled_replay(trace: ArrivalTrace, make: MakePolicy, params: HorizontalParams, neighbours: str) -> ReplayResult:
    """A replay beside neighbours under the same policy, once what they leave is what they were taken to leave.

    A policy that counts on spare share has fewer and busier instances where neighbours leave more, and then leaves
    less itself. Answering in full each time would swing between the two; going half the way settles, or has all but
    settled after `ROUNDS`.
    """
    initial = None
    if make is BASELINES["fixed peak"]:
        initial = peak_fleet(trace)
        params = replace(params, max_instances=initial)
    result = replay(trace, make(params), params, spare_milli=0.0, initial_instances=initial)
    if neighbours == "none":
        return result
    spare = spare_beside(result, neighbours)
    for _ in range(ROUNDS):
        result = replay(trace, make(params), params, spare_milli=spare, initial_instances=initial)
        left = spare_beside(result, neighbours)
        if np.abs(left - spare).mean() < SETTLED_MILLI:
            break
        spare = 0.5 * (spare + left)
    return result


def spare_beside(result: ReplayResult, neighbours: str) -> NDArray[np.float64]:
    """What two such neighbours leave to an instance beyond its request, per second."""
    used = result.timeline.used_milli
    if neighbours == "shifted":
        return np.maximum(1000.0 - SHARE - np.roll(used, used.size // 3) - np.roll(used, 2 * used.size // 3), 0.0)
    return (1000.0 - 3.0 * np.minimum(used, SHARE)) / 3.0  # all want more at once: each has a third of what is left


if __name__ == "__main__":
    sys.exit(main())
