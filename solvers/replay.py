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
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, Policy
from dilu_core.kernels.cpu.replay import advance_queue
from dilu_core.solvers.replay_results import Clock, Conduct, ReplayResult, ReplayTimeline, replay_result
from dilu_core.solvers.replay_setup import (
    asked,
    check_function,
    clock,
    cold_steps,
    initial_count,
    most_share,
    rate_table,
)
from dilu_core.traces import ArrivalTrace

__all__ = ["ReplayResult", "ReplayTimeline", "replay"]


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
    check_function(trace, policy, params)
    step_s, per_control = clock(trace, step_s, control_s)
    arrivals = trace.resampled(step_s).rates_rps * step_s
    rates = rate_table(rate_rps, params)
    most_milli = most_share(spare_milli, trace, params, arrivals.size, step_s)
    fleet = _Fleet(initial_count(initial_instances, trace, params), cold_steps(params, step_s))

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
            change, state = asked("policy", policy, state, observation)
            fleet.change(change, first)
        instances[period] = fleet.ready + fleet.starting
        while first < stop:  # an instance that becomes ready within the period divides it
            end = int(min(stop, fleet.next_start))
            backlog = advance_queue(
                arrivals, most_milli, rates, step_s, fleet.ready, first, end, backlog, backlog_after, used_milli
            )
            ready[first:end] = ready_at_end[period] = fleet.ready
            first = end
            fleet.start(first)

    seen = Conduct(
        arrivals=arrivals,
        backlog_after=backlog_after,
        execution_s=base_s,
        instances=instances,
        ready=ready_at_end,
        used=np.add.reduceat(used_milli * ready, edges),
        ready_steps=np.add.reduceat(ready, edges),
        borrowed=float((np.maximum(used_milli - params.request_milli, 0.0) * ready).sum()),
        launched=fleet.launched,
        flips=fleet.flips,
    )
    return replay_result(params, Clock(step_s, arrivals.size, edges), seen, time.perf_counter() - started)


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
