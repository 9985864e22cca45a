"""Replay of an arrival trace under a scaling policy: what it costs, whom it keeps waiting, how often it turns round.

A fluid first-in-first-out queue stands before the ready instances. Each serves at its request and bursts up to its
limit as far as the spare share of its GPU allows. The policy is called once per control period with what a real
controller sees; a launched instance holds its share at once and serves after the cold start; a removed one is gone.
The latency of a request is its wait plus the base latency.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core._checks import LARGEST, fail, read_only
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, Policy, fault_of
from dilu_core.kernels.cpu.replay import advance_queue
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.solvers.replay_measures import percentiles, stretch_means, waits_s
from dilu_core.solvers.replay_setup import clock, initial_count, most_share, rate_table
from dilu_core.traces import ArrivalTrace
from dilu_core.units import FULL_GPU_MILLI

_ROUNDING = 1e-9  # relative; a latency of exactly the SLO meets it


@dataclass(frozen=True, eq=False)
class ReplayTimeline:
    """One row per control period, as read-only columns `(periods,)`.

    `time_s`: its start. `arrivals`, `served`: requests that came and that left in it. `instances`, `ready`: those
    paid for, and those serving at its end. `backlog`: requests waiting at its end. `used_milli`: mean share that a
    ready instance used. `latency_ms`: mean latency of the requests that came in it (NaN where none came).
    """

    time_s: NDArray[np.float64]
    arrivals: NDArray[np.float64]
    served: NDArray[np.float64]
    instances: NDArray[np.int64]
    ready: NDArray[np.int64]
    backlog: NDArray[np.float64]
    used_milli: NDArray[np.float64]
    latency_ms: NDArray[np.float64]


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


def replay(
    trace: ArrivalTrace,
    policy: Policy[Any],
    params: HorizontalParams,
    *,
    spare_milli: float | ArrayLike | None = None,
    rate_rps: Callable[[int], float] | ArrayLike | None = None,
    initial_instances: int | None = None,
    step_s: float = 0.1,
    control_s: float = 1.0,
) -> ReplayResult:
    """Run `policy` on `trace` for the function that `params` describes.

    `params` gives the capacity, the shares, the cold start, the base latency (0 if unknown) and the SLO. `spare_milli`
    is the share that neighbours leave to each instance beyond its request: a constant, or one value per period of the
    trace; the default lets it burst to its limit. `rate_rps` is what an instance serves by share: a function of the
    share in milli-GPU, or a table `(limit_milli + 1,)` from share 0; the default is proportional to the share. The
    replay starts with `initial_instances` ready, by default as many as the first seconds need at their request.
    The policy decides every `control_s` seconds, a whole number of `step_s`, first after one period.

    Pure and reproducible. An exception of the policy is passed on (wrap it in `StagedPolicy` to survive it). Raises
    `InvalidArgumentError` for arguments that do not fit together.
    """
    started = time.perf_counter()
    _check(trace, policy, params)
    step_s, per_control = clock(trace, step_s, control_s)
    arrivals = trace.resampled(step_s).rates_rps * step_s
    rates = rate_table(rate_rps, params)
    most_milli = most_share(spare_milli, trace, params, arrivals.size, step_s)
    fleet = _Fleet(
        initial_count(initial_instances, trace, params), math.ceil(min(params.cold_start_s / step_s, LARGEST) - 1e-9)
    )

    edges = np.arange(0, arrivals.size, per_control)
    came = np.add.reduceat(arrivals, edges)
    # what the policy will be told of each period, as plain numbers: it is called once per period
    told_rps = (came / control_s).tolist()
    told_spare = (np.add.reduceat(most_milli, edges) / per_control - params.request_milli).tolist()
    told_most_rps = rates[most_milli[np.append(edges[1:], arrivals.size) - 1]].tolist()
    backlog_after, used_milli = np.zeros(arrivals.size), np.zeros(arrivals.size)
    ready, ready_at_end, instances = (np.zeros(n, dtype=np.int64) for n in (arrivals.size, edges.size, edges.size))
    base_s = (params.base_latency_ms or 0.0) / 1000.0
    state, backlog = policy.initial_state(), 0.0
    for period, first in enumerate(edges.tolist()):
        stop = min(arrivals.size, first + per_control)
        fleet.start(first)
        if period:
            arrivals_rps = told_rps[period - 1]
            served_rps = min(arrivals_rps, told_most_rps[period - 1] * fleet.ready)
            observation = Observation(
                time_s=first * step_s,
                arrivals_rps=arrivals_rps,
                ready=fleet.ready,
                starting=fleet.starting,
                in_flight=backlog + served_rps * base_s,
                spare_milli=told_spare[period - 1],
            )
            answer = policy.decide(state, observation)
            fault = fault_of(answer)
            if fault is not None:
                fail("policy", f"{fault}, at {observation.time_s:g} s. Wrap it in StagedPolicy to survive that.")
            decision, state = answer
            fleet.change(decision.change, first)
        instances[period] = fleet.ready + fleet.starting
        while first < stop:  # an instance that becomes ready within the period divides it
            end = int(min(stop, fleet.next_start))
            backlog = advance_queue(
                arrivals, most_milli, rates, step_s, fleet.ready, first, end, backlog, backlog_after, used_milli
            )
            ready[first:end] = ready_at_end[period] = fleet.ready
            first = end
            fleet.start(first)

    span_s = np.diff(np.append(edges, arrivals.size)) * step_s
    reserved = float((instances * span_s).sum()) * params.request_milli / FULL_GPU_MILLI
    beyond = np.maximum(used_milli - params.request_milli, 0.0)
    borrowed = float((beyond * ready).sum()) * step_s / FULL_GPU_MILLI
    latency_ms = (waits_s(arrivals, backlog_after, step_s) + base_s) * 1000.0
    p50, p95, p99 = percentiles(latency_ms, arrivals, (0.50, 0.95, 0.99))
    waiting = backlog_after[np.append(edges[1:], arrivals.size) - 1]
    timeline = ReplayTimeline(
        time_s=read_only(edges * step_s),
        arrivals=read_only(came),
        served=read_only(came - np.diff(waiting, prepend=0.0)),
        instances=read_only(instances),
        ready=read_only(ready_at_end),
        backlog=read_only(waiting),
        used_milli=read_only(stretch_means(used_milli * ready, ready, edges)),
        latency_ms=read_only(stretch_means(latency_ms * arrivals, arrivals, edges, empty=math.nan)),
    )
    return ReplayResult(
        gpu_seconds=reserved + borrowed,
        reserved_gpu_seconds=reserved,
        borrowed_gpu_seconds=borrowed,
        violation_rate=_late(latency_ms, arrivals, params.slo_ms),
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        cold_starts=fleet.launched,
        direction_flips=fleet.flips,
        peak_instances=int(instances.max()),
        requests=float(arrivals.sum()),
        backlog_left=backlog,
        timeline=timeline,
        termination=Termination(TerminationReason.FEASIBLE, detail=f"replayed {trace.duration_s:g} s"),
        stats=SolveStats(
            time.perf_counter() - started, counts={"decisions": edges.size - 1, "steps": int(arrivals.size)}
        ),
    )


class _Fleet:
    """Instances of one function: how many are ready, how many are starting, and at which steps those will be ready."""

    def __init__(self, ready: int, cold_steps: int) -> None:
        self.ready = ready
        self.starting = 0
        self.cold_steps = cold_steps
        self.launched = self.flips = 0
        self._launches: deque[tuple[int, int]] = deque()  # step of readiness and count, oldest first
        self._last_change = 0

    @property
    def next_start(self) -> float:
        """The step at which the next starting ones are ready; infinite if none is starting."""
        return self._launches[0][0] if self._launches else math.inf

    def start(self, step: int) -> None:
        """Those whose cold start is over by `step` are ready."""
        while self._launches and self._launches[0][0] <= step:
            count = self._launches.popleft()[1]
            self.ready += count
            self.starting -= count

    def change(self, by: int, step: int) -> None:
        """Launch `by` instances, or give up -`by`: starting ones first, the youngest of them first."""
        by = max(by, -(self.ready + self.starting))
        self.flips += by * self._last_change < 0
        self._last_change = by or self._last_change
        if by > 0:
            self._launches.append((step + self.cold_steps, by))
            self.starting += by
            self.launched += by
        while by < 0 and self._launches:
            ready_at, count = self._launches.pop()
            given_up = min(-by, count)
            if given_up < count:
                self._launches.append((ready_at, count - given_up))
            self.starting -= given_up
            by += given_up
        self.ready += min(by, 0)
        self.start(step)


def _late(latency_ms: NDArray[np.float64], weights: NDArray[np.float64], slo_ms: float | None) -> float:
    """The part of requests above the SLO; NaN where there is no SLO or no request."""
    total = float(weights.sum())
    if slo_ms is None or total == 0.0:
        return math.nan
    return float(weights[latency_ms > slo_ms * (1.0 + _ROUNDING)].sum()) / total


def _check(trace: object, policy: object, params: object) -> None:
    if not isinstance(trace, ArrivalTrace):
        fail("trace", f"is {trace!r:.80}; expected an ArrivalTrace (see dilu_core.traces.read_trace).")
    if not callable(getattr(policy, "decide", None)) or not callable(getattr(policy, "initial_state", None)):
        fail("policy", f"is {policy!r:.80}; expected an object with initial_state() and decide(state, observation).")
    if not isinstance(params, HorizontalParams):
        fail("params", f"is {params!r:.80}; expected HorizontalParams.")
