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

from dilu_core._checks import fail, finite, float_column, integer, read_only
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, Policy
from dilu_core.kernels.cpu.replay import advance_queue
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.traces import ArrivalTrace
from dilu_core.units import FULL_GPU_MILLI

_MOST_STEPS = 50_000_000  # what memory of a few GiB holds; a longer replay belongs in slices
_FIRST_LOOK_S = 10.0  # the initial instances fit the mean load of this long a beginning


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
    step_s, steps_per_control = _clock(trace, step_s, control_s)
    arrivals = trace.resampled(step_s).rates_rps * step_s
    rates = _rate_table(rate_rps, params)
    most_milli = _most_milli(spare_milli, trace, params, arrivals.size, step_s)
    instances = _initial(initial_instances, trace, params)

    steps = arrivals.size
    periods = math.ceil(steps / steps_per_control)
    backlog_after, used_milli = np.zeros(steps), np.zeros(steps)
    ready_steps = np.zeros(steps, dtype=np.int64)
    counted, ready_at_end = np.zeros(periods, dtype=np.int64), np.zeros(periods, dtype=np.int64)
    starting: deque[int] = deque()  # the step at which each serves, oldest first
    cold_steps = math.ceil(params.cold_start_s / step_s - 1e-9)
    base_s = (params.base_latency_ms or 0.0) / 1000.0
    state = policy.initial_state()
    ready, backlog, cold_starts, flips, direction = instances, 0.0, 0, 0, 0

    for period in range(periods):
        first, stop = period * steps_per_control, min(steps, (period + 1) * steps_per_control)
        while starting and starting[0] <= first:
            starting.popleft()
            ready += 1
        if period:
            before = slice(first - steps_per_control, first)
            arrived = float(arrivals[before].sum())
            capable = float(rates[most_milli[first - 1]]) * ready * control_s
            observation = Observation(
                time_s=first * step_s,
                arrivals_rps=arrived / control_s,
                ready=ready,
                starting=len(starting),
                in_flight=backlog + min(arrived, capable) / control_s * base_s,
                spare_milli=float(most_milli[before].mean()) - params.request_milli,
            )
            decision, state = policy.decide(state, observation)
            change = max(decision.change, -(ready + len(starting)))
            for _ in range(change):
                starting.append(first + cold_steps)
            for _ in range(-change):
                if starting:
                    starting.pop()
                else:
                    ready -= 1
            cold_starts += max(0, change)
            if change:
                flips += direction * change < 0
                direction = 1 if change > 0 else -1
            while starting and starting[0] <= first:
                starting.popleft()
                ready += 1
        counted[period] = ready + len(starting)
        at = first
        while at < stop:  # a start within the period divides it
            end = min(stop, starting[0]) if starting else stop
            backlog = advance_queue(
                arrivals, most_milli, rates, step_s, ready, at, end, backlog, backlog_after, used_milli
            )
            ready_steps[at:end] = ready
            at = end
            while starting and starting[0] <= at < stop:
                starting.popleft()
                ready += 1
        ready_at_end[period] = ready

    edges = np.arange(0, steps, steps_per_control)
    span_s = np.diff(np.append(edges, steps)) * step_s
    reserved = float((counted * span_s).sum()) * params.request_milli / FULL_GPU_MILLI
    beyond = np.maximum(used_milli - params.request_milli, 0.0)
    borrowed = float((beyond * ready_steps).sum()) * step_s / FULL_GPU_MILLI
    latency_ms = _latencies(arrivals, backlog_after, step_s) * 1000.0 + base_s * 1000.0
    total = float(arrivals.sum())
    p50, p95, p99 = _percentiles(latency_ms, arrivals, (0.50, 0.95, 0.99))
    violation_rate = math.nan
    if params.slo_ms is not None and total > 0.0:
        violation_rate = float(arrivals[latency_ms > params.slo_ms * (1.0 + 1e-9)].sum()) / total

    came = np.add.reduceat(arrivals, edges)
    waiting = backlog_after[np.append(edges[1:], steps) - 1]
    timeline = ReplayTimeline(
        time_s=read_only(edges * step_s),
        arrivals=read_only(came),
        served=read_only(came - np.diff(waiting, prepend=0.0)),
        instances=read_only(counted),
        ready=read_only(ready_at_end),
        backlog=read_only(waiting),
        used_milli=read_only(_mean(used_milli * ready_steps, ready_steps, edges)),
        latency_ms=read_only(_mean(latency_ms * arrivals, arrivals, edges, empty=math.nan)),
    )
    return ReplayResult(
        gpu_seconds=reserved + borrowed,
        reserved_gpu_seconds=reserved,
        borrowed_gpu_seconds=borrowed,
        violation_rate=violation_rate,
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        cold_starts=cold_starts,
        direction_flips=flips,
        peak_instances=int(counted.max()),
        requests=total,
        backlog_left=backlog,
        timeline=timeline,
        termination=Termination(TerminationReason.FEASIBLE, detail=f"replayed {trace.duration_s:g} s"),
        stats=SolveStats(time.perf_counter() - started, counts={"decisions": periods - 1, "steps": steps}),
    )


def _clock(trace: ArrivalTrace, step_s: float, control_s: float) -> tuple[float, int]:
    """The step, and the steps in a control period."""
    step_s = finite("step_s", step_s, above=0.0)
    control_s = finite("control_s", control_s, above=0.0)
    per_control = round(control_s / step_s)
    if per_control < 1 or abs(per_control * step_s - control_s) > 1e-9 * control_s:
        fail("control_s", f"is {control_s}; expected a whole number of steps of step_s, {step_s}.")
    if trace.duration_s / step_s > _MOST_STEPS:
        fail(
            "step_s", f"is {step_s}; {trace.duration_s:g} s would take more than {_MOST_STEPS} steps. Slice the trace."
        )
    return step_s, per_control


def _rate_table(rate_rps: Callable[[int], float] | ArrayLike | None, params: HorizontalParams) -> NDArray[np.float64]:
    """What one instance serves at every share from 0 to its limit, `(limit + 1,)`."""
    shares = params.limit_milli + 1
    if rate_rps is None:
        return np.arange(shares, dtype=np.float64) * (params.capacity_rps / params.request_milli)
    if callable(rate_rps):
        rate_rps = [0.0] + [rate_rps(share) for share in range(1, shares)]
    table = float_column("rate_rps", rate_rps)
    if table.size != shares:
        fail("rate_rps", f"has {table.size} entries; expected {shares}, for every share from 0 to limit_milli.")
    steps = np.diff(table)
    if not np.isfinite(table).all() or table[0] != 0.0 or (steps < 0.0).any():
        fail("rate_rps", "must start with 0 at share 0, be finite and never fall as the share grows.")
    return table


def _most_milli(
    spare_milli: float | ArrayLike | None, trace: ArrivalTrace, params: HorizontalParams, steps: int, step_s: float
) -> NDArray[np.int64]:
    """The greatest share each instance may use, per step."""
    room = params.limit_milli - params.request_milli
    if spare_milli is None:
        return np.full(steps, params.limit_milli, dtype=np.int64)
    spare = float_column("spare_milli", np.atleast_1d(np.asarray(spare_milli, dtype=np.float64)))
    bad = ~np.isfinite(spare) | (spare < 0.0)
    if bad.any():
        i = int(np.argmax(bad))
        fail(f"spare_milli[{i}]", f"is {spare[i]}; expected a finite share of at least 0.")
    if spare.size not in (1, trace.rates_rps.size):
        fail("spare_milli", f"has {spare.size} values; expected one, or one per period ({trace.rates_rps.size}).")
    whole = params.request_milli + np.minimum(np.floor(spare), room).astype(np.int64)
    if whole.size == 1:
        return np.full(steps, whole[0], dtype=np.int64)
    period = np.floor((np.arange(steps) + 0.5) * step_s / trace.period_s).astype(np.int64)
    return np.ascontiguousarray(whole[np.minimum(period, whole.size - 1)])


def _initial(initial_instances: int | None, trace: ArrivalTrace, params: HorizontalParams) -> int:
    if initial_instances is not None:
        return integer("initial_instances", initial_instances, at_least=0)
    periods = max(1, round(_FIRST_LOOK_S / trace.period_s))
    needed = math.ceil(float(trace.rates_rps[:periods].mean()) / params.capacity_rps - 1e-9)
    return min(max(needed, params.min_instances), params.max_instances)


def _latencies(arrivals: NDArray[np.float64], backlog_after: NDArray[np.float64], step_s: float) -> NDArray[np.float64]:
    """How long the middle request of each step waits, in seconds `(steps,)`: the inverse of the served count.

    First in, first out: the request that came as number a leaves when the count of served requests reaches a.
    """
    came = np.concatenate(([0.0], np.cumsum(arrivals)))
    left = came.copy()
    left[1:] -= backlog_after
    left = np.maximum.accumulate(left)  # rounding must not let it fall
    number = 0.5 * (came[:-1] + came[1:])
    at = np.searchsorted(left, number, side="left")  # left[at - 1] < number <= left[at]
    inside = np.clip(at, 1, left.size - 1)
    within = (number - left[inside - 1]) / np.maximum(left[inside] - left[inside - 1], 1e-300)
    leaves = (inside - 1 + within) * step_s
    last_rps = (left[-1] - left[-2]) / step_s
    never = at >= left.size
    if never.any():
        leaves[never] = np.inf
        if last_rps > 0.0:
            leaves[never] = (left.size - 1) * step_s + (number[never] - left[-1]) / last_rps
    wait = leaves - (np.arange(arrivals.size) + 0.5) * step_s
    waits: NDArray[np.float64] = np.where(arrivals > 0.0, np.maximum(wait, 0.0), 0.0)
    return waits


def _percentiles(
    values: NDArray[np.float64], weights: NDArray[np.float64], levels: tuple[float, ...]
) -> tuple[float, ...]:
    """Weighted percentiles; NaN where all weights are 0."""
    counted = weights > 0.0
    if not counted.any():
        return (math.nan,) * len(levels)
    order = np.argsort(values[counted], kind="stable")
    ranked, mass = values[counted][order], np.cumsum(weights[counted][order])
    at = np.searchsorted(mass, np.array(levels) * mass[-1], side="left")
    return tuple(float(ranked[min(i, ranked.size - 1)]) for i in at)


def _mean(
    sums: NDArray[np.float64], weights: NDArray[Any], edges: NDArray[np.int64], *, empty: float = 0.0
) -> NDArray[np.float64]:
    """Weighted means of the stretches that start at `edges`."""
    total = np.add.reduceat(weights, edges).astype(np.float64)
    value = np.add.reduceat(sums, edges)
    means: NDArray[np.float64] = np.full(total.shape, empty)
    np.divide(value, total, out=means, where=total > 0.0)
    return means
