"""What a replay reports of one function: costs, waits and turn-rounds, gathered from what happened step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core._checks import read_only
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.solvers.replay_measures import late_part, latencies_s, percentiles, stretch_means
from dilu_core.units import FULL_GPU_MILLI

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ReplayTimeline:
    """One row per control period, as read-only columns `(periods,)`.

    `time_s`: its start. `arrivals`, `served`: requests that came and that left in it. `instances`, `ready`: those
    paid for, and those serving at its end. `backlog`: requests waiting at its end. `used_milli`: mean share that a
    ready instance used. `latency_ms`: mean latency of the requests that came in it (NaN where none came).
    """

    time_s: Floats
    arrivals: Floats
    served: Floats
    instances: Integers
    ready: Integers
    backlog: Floats
    used_milli: Floats
    latency_ms: Floats


@dataclass(frozen=True, eq=False)
class ReplayResult:
    """What a policy did with a trace.

    `gpu_seconds` is `reserved_gpu_seconds` (requests of all instances, from launch) plus `borrowed_gpu_seconds` (used
    beyond the request). `violation_rate` is the part of requests whose latency exceeded `slo_ms`, NaN without an SLO
    or without requests; the percentiles weigh every request alike. `direction_flips` counts scale-ins that follow a
    scale-out and the reverse. `requests` arrived, `backlog_left` of them still waited at the end of the trace; their
    latency assumes that the service of the last step goes on (infinite where nothing served).
    """

    gpu_seconds: float
    reserved_gpu_seconds: float
    borrowed_gpu_seconds: float
    violation_rate: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    cold_starts: int
    direction_flips: int
    peak_instances: int
    requests: float
    backlog_left: float
    timeline: ReplayTimeline
    termination: Termination
    stats: SolveStats


class Clock(NamedTuple):
    """The steps of a replay: their length, their number, and the first step of every control period."""

    step_s: float
    steps: int
    edges: Integers

    @property
    def span_s(self) -> Floats:
        """The length of every control period; the last may be cut short."""
        return np.diff(np.append(self.edges, self.steps)) * self.step_s

    @property
    def last(self) -> Integers:
        """The last step of every control period."""
        return np.append(self.edges[1:], self.steps) - 1


class Conduct(NamedTuple):
    """What was seen of one function. Per step: `arrivals`, `backlog_after`, and the `execution_s` of what left in it.

    Per control period: `instances` paid for and `ready` ones at its end; `used`, the milli-GPU steps used, and
    `ready_steps`, the steps that instances were ready. In all: `borrowed` milli-GPU steps, `launched` instances and
    `flips` of direction.
    """

    arrivals: Floats
    backlog_after: Floats
    execution_s: Floats | float
    instances: Integers
    ready: Integers
    used: Floats
    ready_steps: Integers
    borrowed: float
    launched: int
    flips: int


def replay_result(params: HorizontalParams, clock: Clock, seen: Conduct, seconds: float) -> ReplayResult:
    """The report on `seen`, of a replay that took `seconds` to compute."""
    arrivals, edges = seen.arrivals, clock.edges
    reserved = float((seen.instances * clock.span_s).sum()) * params.request_milli / FULL_GPU_MILLI
    borrowed = seen.borrowed * clock.step_s / FULL_GPU_MILLI
    latency_ms = latencies_s(arrivals, seen.backlog_after, seen.execution_s, clock.step_s) * 1000.0
    p50, p95, p99 = percentiles(latency_ms, arrivals, (0.50, 0.95, 0.99))
    came, waiting = np.add.reduceat(arrivals, edges), seen.backlog_after[clock.last]
    used_milli = np.divide(seen.used, seen.ready_steps, out=np.zeros(edges.size), where=seen.ready_steps > 0)
    timeline = ReplayTimeline(
        time_s=read_only(edges * clock.step_s),
        arrivals=read_only(came),
        served=read_only(came - np.diff(waiting, prepend=0.0)),
        instances=read_only(seen.instances),
        ready=read_only(seen.ready),
        backlog=read_only(waiting),
        used_milli=read_only(used_milli),
        latency_ms=read_only(stretch_means(latency_ms * arrivals, arrivals, edges, empty=math.nan)),
    )
    return ReplayResult(
        gpu_seconds=reserved + borrowed,
        reserved_gpu_seconds=reserved,
        borrowed_gpu_seconds=borrowed,
        violation_rate=late_part(latency_ms, arrivals, params.slo_ms),
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        cold_starts=seen.launched,
        direction_flips=seen.flips,
        peak_instances=int(seen.instances.max()),
        requests=float(arrivals.sum()),
        backlog_left=float(seen.backlog_after[-1]),
        timeline=timeline,
        termination=Termination(TerminationReason.FEASIBLE, detail=f"replayed {clock.steps * clock.step_s:g} s"),
        stats=SolveStats(seconds, counts={"decisions": edges.size - 1, "steps": clock.steps}),
    )
