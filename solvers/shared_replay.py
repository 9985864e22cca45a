"""Replay of several functions whose instances share GPUs, each with its own trace and horizontal policy.

As in `solvers.replay`, a fluid queue stands before each function, and its policy is called once per control period. But
the spare share is no assumption here: in every step each GPU is divided among those who have work on it
(`kernels.cpu.shared_gpus`), training takes what is left, and a policy is told what its instances could really have
borrowed. The latency of a request is its wait plus the execution time of a batch at the share granted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dilu_core._checks import choice, distinct, instances_of, integer, read_only
from dilu_core.coscaling.policy import Observation
from dilu_core.kernels.cpu.gpu_division import HARD_CAPS, TIME_SLICES, WORK_CONSERVING
from dilu_core.kernels.cpu.shared_gpus import SharedInstances, advance_shared
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.solvers.replay_results import Clock, Conduct, ReplayResult, replay_result
from dilu_core.solvers.replay_setup import asked
from dilu_core.solvers.shared_results import SharedReplayResult, TrainingReplay
from dilu_core.solvers.shared_seats import Seating, seated_tenants
from dilu_core.solvers.shared_tenants import ReplayTenant, loads_of
from dilu_core.units import FULL_GPU_MILLI

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SHARING = {"work-conserving": WORK_CONSERVING, "hard-caps": HARD_CAPS, "time-slices": TIME_SLICES}
"""How a GPU is divided: lent by need (vertical co-scaling), capped at limits (static MPS), or fixed at requests."""


def replay_shared(
    tenants: Iterable[ReplayTenant],
    *,
    gpus: int,
    sharing: str = "work-conserving",
    seating: Mapping[str, Sequence[int]] | None = None,
    step_s: float = 0.1,
    control_s: float = 1.0,
) -> SharedReplayResult:
    """Run every tenant's policy on its trace, all of them on the same `gpus` GPUs.

    The traces must cover the same time; shift, correlate or repeat them as the question needs
    (`ArrivalTrace.shifted`). `sharing` is a key of `SHARING`. `seating` names for some tenants the GPUs (from 0) that
    their instances may use; of those, a launch takes the one with the fewest instances of the same function where its
    request has room, and is refused where none has. Training is seated first. `step_s` and `control_s` are as in
    `replay`. A policy is told of one control period: mean arrivals, its instances, the requests waiting or executed,
    and the mean share that a ready instance could have borrowed (`None` if none was ready).

    Pure and reproducible. Raises `InvalidArgumentError` naming the argument, also where the instances at the start do
    not fit; an exception of a policy is passed on.
    """
    started = time.perf_counter()
    everyone = instances_of("tenants", tenants, ReplayTenant)
    distinct("tenants", [tenant.name for tenant in everyone])
    gpus = integer("gpus", gpus, at_least=1, at_most=100_000)
    rule = SHARING[choice("sharing", sharing, tuple(SHARING))]
    ticks, arrivals, per_control = loads_of(everyone, step_s, control_s)
    seats = seated_tenants(everyone, gpus, seating, ticks.step_s)
    run = _Run(everyone, seats, ticks, arrivals, gpus, rule)
    for period, first in enumerate(ticks.edges.tolist()):
        if period:
            run.decide(period, first, control_s)
        run.advance(period, first, min(ticks.steps, first + per_control))
    return run.result(started)


class _Run:
    """The state of a shared replay, and what it has seen."""

    def __init__(
        self, tenants: tuple[ReplayTenant, ...], seats: Seating, ticks: Clock, arrivals: Floats, gpus: int, rule: int
    ) -> None:
        functions, periods = len(tenants), ticks.edges.size
        self.tenants, self.seats, self.ticks, self.arrivals, self.gpus, self.rule = (
            *(tenants, seats, ticks),
            *(arrivals, gpus, rule),
        )
        self.rates = np.stack([tenant.rates for tenant in tenants])
        self.executions = np.stack([tenant.executions for tenant in tenants])
        self.trains = np.array([tenant.trains for tenant in tenants], dtype=np.int64)
        self.states = [None if tenant.policy is None else tenant.policy.initial_state() for tenant in tenants]
        self.backlog, self.trained = np.zeros(functions), np.zeros(functions)
        self.served, self.execution = np.zeros(arrivals.shape), np.zeros(arrivals.shape)
        self.used, self.borrowed, self.spare, self.samples = (np.zeros((functions, periods)) for _ in range(4))
        self.ready_steps, self.instances, self.ready = (np.zeros((functions, periods), np.int64) for _ in range(3))
        self.gpu_used, self.gpu_booked = np.zeros((periods, gpus)), np.zeros((periods, gpus), np.int64)
        seated, _ = seats.columns(0)
        self.alone = np.array([self._alone(function, seated) for function in range(functions)])

    def _alone(self, function: int, rows: SharedInstances) -> float:
        """The samples per second of a training tenant whose neighbours are gone."""
        if not self.trains[function]:
            return 0.0
        own = SharedInstances(*(np.ascontiguousarray(column[rows.function_of == function]) for column in rows))
        samples = np.zeros(len(self.tenants))
        nothing = np.zeros((len(self.tenants), 1))
        measured = (np.zeros(own.gpu_of.size) for _ in range(3))
        advance_shared(
            *(0, 1, 1.0, self.rule, self.gpus, nothing, self.rates, self.executions, self.trains, own),
            *(np.zeros(len(self.tenants)), samples, nothing.copy(), nothing.copy(), *measured),
        )
        return float(samples[function])

    def decide(self, period: int, step: int, control_s: float) -> None:
        """Ask every policy, with what was seen in the period before `period`, and carry out what it says."""
        last = slice(int(self.ticks.edges[period - 1]), step)
        came_rps = self.arrivals[:, last].sum(axis=1) / control_s
        left = self.served[:, last]
        left_rps = left.sum(axis=1) / control_s
        busy_s = (left * self.execution[:, last]).sum(axis=1) / 1000.0  # request-seconds of execution
        for function, tenant in enumerate(self.tenants):
            if tenant.policy is None:
                continue
            crew = self.seats.crews[function]
            ready, ready_steps = crew.ready(step), int(self.ready_steps[function, period - 1])
            execution_s = busy_s[function] / (left_rps[function] * control_s) if left_rps[function] > 0.0 else 0.0
            in_execution = min(came_rps[function], left_rps[function]) * execution_s
            observation = Observation(
                time_s=step * self.ticks.step_s,
                arrivals_rps=float(came_rps[function]),
                ready=ready,
                starting=len(crew.seats) - ready,
                in_flight=float(self.backlog[function] + in_execution),
                spare_milli=float(self.spare[function, period - 1]) / ready_steps if ready_steps else None,
            )
            change, self.states[function] = asked(
                f"tenants[{function}].policy", tenant.policy, self.states[function], observation
            )
            self.seats.change(function, change, step)

    def advance(self, period: int, first: int, stop: int) -> None:
        """Run the steps of one control period; an instance that becomes ready within divides it."""
        trained = self.trained.copy()
        self.instances[:, period] = [len(crew.seats) for crew in self.seats.crews]
        while first < stop:
            rows, changes_at = self.seats.columns(first)
            end = int(min(stop, changes_at))
            count = rows.function_of.size
            used, borrowed, spare = np.zeros(count), np.zeros(count), np.zeros(count)
            advance_shared(
                *(first, end, self.ticks.step_s, self.rule, self.gpus),
                *(self.arrivals, self.rates, self.executions, self.trains, rows),
                *(self.backlog, self.trained, self.served, self.execution, used, borrowed, spare),
            )
            ready = self._per_function(rows, rows.ready).astype(np.int64)
            for column, seen in ((self.used, used), (self.borrowed, borrowed), (self.spare, spare)):
                column[:, period] += self._per_function(rows, seen)
            self.ready_steps[:, period] += ready * (end - first)
            self.ready[:, period] = ready
            self.gpu_used[period] += np.bincount(rows.gpu_of, weights=used, minlength=self.gpus)
            self.gpu_booked[period] = np.bincount(rows.gpu_of, weights=rows.request, minlength=self.gpus)
            first = end
        self.samples[:, period] = self.trained - trained

    def _per_function(self, rows: SharedInstances, values: NDArray[Any]) -> Floats:
        sums: Floats = np.bincount(rows.function_of, weights=values, minlength=len(self.tenants)).astype(np.float64)
        return sums

    def result(self, started: float) -> SharedReplayResult:
        """The reports on all tenants."""
        seconds = time.perf_counter() - started
        ticks, everyone = self.ticks, list(enumerate(self.tenants))
        steps_of = ticks.span_s / ticks.step_s
        return SharedReplayResult(
            functions=MappingProxyType({t.name: self._inference(f, t, seconds) for f, t in everyone if not t.trains}),
            training=MappingProxyType({t.name: self._training(f, t) for f, t in everyone if t.trains}),
            refused=MappingProxyType({t.name: self.seats.crews[f].refused for f, t in everyone}),
            time_s=read_only(ticks.edges * ticks.step_s),
            gpu_used_milli=read_only(self.gpu_used / steps_of[:, None]),
            gpu_booked_milli=read_only(self.gpu_booked),
            termination=Termination(TerminationReason.FEASIBLE, detail=f"replayed {ticks.steps * ticks.step_s:g} s"),
            stats=SolveStats(seconds, counts={"decisions": ticks.edges.size - 1, "steps": ticks.steps}),
        )

    def _inference(self, function: int, tenant: ReplayTenant, seconds: float) -> ReplayResult:
        arrivals, crew = self.arrivals[function], self.seats.crews[function]
        waiting = np.cumsum(arrivals) - np.cumsum(self.served[function])
        waiting[-1] = self.backlog[function]
        seen = Conduct(
            arrivals=arrivals,
            backlog_after=np.maximum(waiting, 0.0),
            execution_s=self.execution[function] / 1000.0,
            instances=self.instances[function],
            ready=self.ready[function],
            used=self.used[function],
            ready_steps=self.ready_steps[function],
            borrowed=float(self.borrowed[function].sum()),
            launched=crew.launched,
            flips=crew.flips,
        )
        return replay_result(tenant.params, self.ticks, seen, seconds)

    def _training(self, function: int, tenant: ReplayTenant) -> TrainingReplay:
        span_s, alone = self.ticks.span_s, float(self.alone[function])
        throughput = float(self.trained[function] / span_s.sum())
        reserved = float((self.instances[function] * span_s).sum()) * tenant.params.request_milli / FULL_GPU_MILLI
        borrowed = float(self.borrowed[function].sum()) * self.ticks.step_s / FULL_GPU_MILLI
        return TrainingReplay(
            samples=float(self.trained[function]),
            throughput_rps=throughput,
            alone_rps=alone,
            loss=1.0 - throughput / alone if alone > 0.0 else float("nan"),
            gpu_seconds=reserved + borrowed,
            reserved_gpu_seconds=reserved,
            borrowed_gpu_seconds=borrowed,
            rates_rps=read_only(self.samples[function] / span_s),
        )
