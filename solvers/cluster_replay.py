"""Replay of a cluster: functions arrive and leave, are placed, and scale in both directions at once.

Time goes in steps, in which the kernel divides every GPU anew among the instances that have work, and in control
periods, at whose beginning the system acts: functions leave, functions arrive and get a quota and first instances,
horizontal policies see the last period and add or give up instances, and what waits for a place is tried again.

The first instances of a function serve from its arrival (they are deployed before it is opened); all others after the
cold start. They book their shares from launch. A GPU counts while it holds an instance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from dilu_core import _checks as check
from dilu_core.cluster import Cluster, Instance
from dilu_core.correlation_estimator import CorrelationEstimator
from dilu_core.coscaling.policy import Observation
from dilu_core.quota import QuotaGrid
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.slots import Placement
from dilu_core.solvers.cluster_fleet import Fleet
from dilu_core.solvers.cluster_measures import (
    ClusterReplayResult,
    ClusterTimeline,
    FunctionOutcome,
    late_requests,
)
from dilu_core.solvers.cluster_pools import Pools
from dilu_core.solvers.cluster_quotas import Menu, most_efficient
from dilu_core.solvers.cluster_scaling import Scaler
from dilu_core.solvers.cluster_systems import ClusterSystem
from dilu_core.solvers.cluster_workload import ClusterFunction
from dilu_core.solvers.replay_setup import first_look_rps
from dilu_core.units import FULL_GPU_MILLI

_MOST_CELLS = 200_000_000  # functions times steps
_LEARN_S, _SPREAD_S = 10.0, 60.0  # how often loads are observed, and placement told which rise together


@dataclass(frozen=True)
class ClusterMoment:
    """The cluster at the beginning of a control period, after the system has acted."""

    time_s: float
    placement: Placement
    instances: tuple[Instance, ...]
    waiting: int


def replay_cluster(
    workload: Iterable[ClusterFunction],
    cluster: Cluster,
    system: ClusterSystem,
    *,
    duration_s: float | None = None,
    step_s: float = 0.1,
    control_s: float = 1.0,
    observer: Callable[[ClusterMoment], None] | None = None,
) -> ClusterReplayResult:
    """What `system` makes of `workload` on `cluster`.

    Arguments:
        workload: functions with distinct names, in any order.
        duration_s: how long; `None` until the last function has left or its trace is over.
        step_s, control_s: step of the queues and GPUs, and control period, a whole number of steps. Arrivals and
            departures of functions take effect at the next control period.
        observer: called with a `ClusterMoment` in every control period.

    Pure and reproducible. Raises `InvalidArgumentError` naming the argument.
    """
    started = time.perf_counter()
    functions = check.instances_of("workload", workload, ClusterFunction)
    check.distinct("workload", [each.name for each in functions])
    if not isinstance(cluster, Cluster):
        check.fail("cluster", f"is {cluster!r:.80}; expected a Cluster.")
    if not isinstance(system, ClusterSystem):
        check.fail("system", f"is {system!r:.80}; expected a ClusterSystem.")
    if observer is not None and not callable(observer):
        check.fail("observer", f"is {observer!r:.80}; expected a function of a ClusterMoment, or None.")
    length_s = _length_s(functions) if duration_s is None else check.finite("duration_s", duration_s, above=0.0)
    clock = _clock(length_s, step_s, control_s, len(functions))
    run = _Run(functions, cluster, system, clock)
    for period in range(clock.periods):
        run.act(period)
        if observer is not None:
            moment = ClusterMoment(
                period * clock.control_s, run.fleet.placement(), run.fleet.instances(), len(run.fleet.waiting)
            )
            observer(moment)
        run.advance(period)
    return run.result(time.perf_counter() - started)


@dataclass(frozen=True)
class _Clock:
    step_s: float
    control_s: float
    steps: int
    per_control: int

    @property
    def periods(self) -> int:
        return -(-self.steps // self.per_control)

    def period_at(self, seconds: float) -> int:
        """The first control period that begins at or after this time."""
        return math.ceil(min(seconds / self.control_s, self.periods) - 1e-9)


class _Run:
    """A replay under way."""

    def __init__(
        self, functions: tuple[ClusterFunction, ...], cluster: Cluster, system: ClusterSystem, clock: _Clock
    ) -> None:
        self.functions, self.system, self.clock = functions, system, clock
        menus = _menus(functions, system.quotas)
        self.fleet = Fleet(cluster, functions, menus, system)
        self.pools = Pools(self.fleet, clock.step_s)
        efficient = _menus(functions, most_efficient)
        self._needed_milli = [menu[0].request_milli if menu else FULL_GPU_MILLI for menu in efficient]
        self._cold_steps = [math.ceil(min(each.cold_start_s / clock.step_s, 2.0**40) - 1e-9) for each in functions]
        self._arrives = [clock.period_at(each.arrives_s) for each in functions]
        self._leaves = [
            clock.periods if each.leaves_s is None else clock.period_at(each.leaves_s) for each in functions
        ]
        self._arrivals = np.zeros((len(functions), clock.steps))
        for f, each in enumerate(functions):
            if each.trace is not None:
                first = self._arrives[f] * clock.per_control
                stop = min(clock.steps, self._leaves[f] * clock.per_control)
                column = each.trace.resampled(clock.step_s).rates_rps[: max(0, stop - first)] * clock.step_s
                self._arrivals[f, first : first + column.size] = column
        self._served = np.zeros_like(self._arrivals)
        self._execution = np.zeros_like(self._arrivals)
        self._scalers: dict[int, Scaler] = {}
        self._deployed = [0] * len(functions)
        self._estimator = CorrelationEstimator(most_functions=max(1, len(functions))) if system.apart else None
        self._rows: list[tuple[float, ...]] = []
        self._events: dict[int, tuple[list[int], list[int]]] = {}  # period -> who leaves, who arrives
        for f in range(len(functions)):
            if self._arrives[f] < self._leaves[f]:
                self._events.setdefault(self._leaves[f], ([], []))[0].append(f)
                self._events.setdefault(self._arrives[f], ([], []))[1].append(f)

    def act(self, period: int) -> None:
        """What the system does at the beginning of a control period."""
        step = period * self.clock.per_control
        leaving, arriving = self._events.get(period, ([], []))
        for f in leaving:
            self.fleet.dissolve(f)
            self.pools.drop(f)
            self._scalers.pop(f, None)
        self.fleet.retry(step, self._cold_steps)
        if period:
            self._scale(period, step)
            self._learn(period)
        for f in arriving:
            self._deploy(f, step)

    def _deploy(self, f: int, step: int) -> None:
        function, menu = self.functions[f], self.fleet.menus[f]
        if not menu:
            return
        if function.trace is None:
            self._deployed[f] += self.fleet.launch(f, 0, step)
            return
        scaler = self._scalers[f] = self.system.scaler(function, menu)
        for configuration, count in enumerate(scaler.initial(first_look_rps(function.trace))):
            for _ in range(count):
                self._deployed[f] += self.fleet.launch(f, configuration, step)

    def _scale(self, period: int, step: int) -> None:
        """Every horizontal policy in turn, on what the last period showed."""
        clock = self.clock
        last = slice(step - clock.per_control, step)
        came = self._arrivals[:, last].sum(axis=1).tolist()
        out = self._served[:, last]
        busy_s = (out * self._execution[:, last]).sum(axis=1).tolist()  # request-milliseconds
        for f, scaler in self._scalers.items():
            ready = sum(member.ready_at <= step for member in self.fleet.of(f).values())
            spare = float(self.pools.spare_milli[f])
            seen = Observation(
                time_s=period * clock.control_s,
                arrivals_rps=came[f] / clock.control_s,
                ready=ready,
                starting=sum(self.fleet.planned[f]) - ready,
                in_flight=float(self.pools.backlog[f]) + busy_s[f] / 1000.0 / clock.control_s,
                spare_milli=None if math.isnan(spare) else spare,
            )
            for configuration, change in enumerate(scaler.change(seen, self.fleet.planned[f])):
                if change < 0:
                    self.fleet.give_up(f, configuration, -change, step)
                for _ in range(change):
                    self.fleet.launch(f, configuration, step + self._cold_steps[f])

    def _learn(self, period: int) -> None:
        """Which loads rise together, from what has come so far."""
        clock, estimator = self.clock, self._estimator
        every, told = (max(1, round(seconds / clock.control_s)) for seconds in (_LEARN_S, _SPREAD_S))
        if estimator is None or period % every:
            return
        last = slice((period - every) * clock.per_control, period * clock.per_control)
        rates = self._arrivals[:, last].sum(axis=1) / (every * clock.control_s)
        here = {self.functions[f].name: float(rates[f]) for f in self._scalers if self._arrives[f] <= period - every}
        estimator.observe(period * clock.control_s, here)
        if period % told == 0:
            self.fleet.keep_apart(estimator.correlation())

    def advance(self, period: int) -> None:
        """Run the steps of a control period and note what the cluster looked like."""
        clock, fleet, pools = self.clock, self.fleet, self.pools
        span = slice(period * clock.per_control, min(clock.steps, (period + 1) * clock.per_control))
        served, execution = pools.advance(span.start, np.ascontiguousarray(self._arrivals[:, span]))
        self._served[:, span], self._execution[:, span] = served, execution
        ledger = fleet.bookings
        active = ledger.held > 0
        request, _, memory = ledger.capacity[active].sum(axis=0).tolist()
        request_free, _, memory_free = ledger.free[active].sum(axis=0).tolist()
        needed = sum(
            min(each.booking.request_milli, self._needed_milli[each.function]) * len(each.booking.gpus)
            for each in fleet.members.values()
        )
        self._rows.append(
            (float(active.sum()), request, request_free, request - needed, memory, memory_free,
             FULL_GPU_MILLI * float(active.sum()) - pools.used_milli, len(fleet.members), len(fleet.waiting),
             pools.borrowed_milli, span.stop - span.start)
        )  # fmt: skip

    def result(self, seconds: float) -> ClusterReplayResult:
        """The figures of the whole."""
        clock = self.clock
        late = np.zeros(clock.steps)
        outcomes = tuple(self._outcome(f, late) for f in range(len(self.functions)))
        rows = np.array(self._rows)
        gpus, request, request_free, unneeded, memory, memory_free, idle, instances, waiting, borrowed, steps = rows.T
        span_s = steps * clock.step_s
        edges = np.arange(0, clock.steps, clock.per_control)

        def part(free: np.ndarray, whole: np.ndarray) -> float:
            total = float(whole @ span_s)
            return float(free @ span_s) / total if total > 0.0 else 0.0

        def parts(free: np.ndarray, whole: np.ndarray) -> np.ndarray:
            return check.read_only(np.divide(free, whole, out=np.zeros_like(free), where=whole > 0.0))

        return ClusterReplayResult(
            system=self.system.name,
            duration_s=clock.steps * clock.step_s,
            gpu_seconds=float(gpus @ span_s),
            gpus_peak=int(gpus.max()),
            request_free=part(request_free, request),
            request_unneeded=part(unneeded, request),
            memory_free=part(memory_free, memory),
            idle=part(idle, FULL_GPU_MILLI * gpus),
            borrowed_gpu_seconds=float(borrowed @ span_s) / FULL_GPU_MILLI,
            waiting_s=float(waiting @ span_s),
            functions=outcomes,
            timeline=ClusterTimeline(
                time_s=check.read_only(edges * clock.step_s),
                gpus=check.read_only(gpus.astype(np.int64)),
                request_free=parts(request_free, request),
                request_unneeded=parts(unneeded, request),
                memory_free=parts(memory_free, memory),
                idle=parts(idle, FULL_GPU_MILLI * gpus),
                instances=check.read_only(instances.astype(np.int64)),
                waiting=check.read_only(waiting.astype(np.int64)),
                arrivals=check.read_only(np.add.reduceat(self._arrivals.sum(axis=0), edges)),
                late=check.read_only(np.add.reduceat(late, edges)),
            ),
            termination=Termination(TerminationReason.FEASIBLE, detail=f"replayed {clock.steps * clock.step_s:g} s"),
            stats=SolveStats(
                seconds,
                counts={"periods": clock.periods, "steps": clock.steps, "launched": sum(self.fleet.launched)},
            ),
        )

    def _outcome(self, f: int, late: np.ndarray) -> FunctionOutcome:
        """The figures of one function; its late requests are added to `late` by step of arrival."""
        function, clock = self.functions[f], self.clock
        first, stop = (min(clock.steps, each * clock.per_control) for each in (self._arrives[f], self._leaves[f]))
        span = slice(first, max(first, stop))
        requests = missed = trained_s = asked_s = 0.0
        if function.slo_ms is not None:
            arrivals = self._arrivals[f, span]
            columns = arrivals, self._served[f, span], self._execution[f, span]
            mine = late_requests(*columns, clock.step_s, function.slo_ms, cut_off=stop < clock.steps)
            late[span] += mine
            requests, missed = float(arrivals.sum()), float(mine.sum())
        else:
            trained_s = float(self.pools.trained[f]) / function.full_rate
            asked_s = (span.stop - span.start) * clock.step_s * function.gpus
        return FunctionOutcome(
            function.name,
            function.kind,
            requests,
            missed,
            trained_s,
            asked_s,
            self.fleet.launched[f] - self._deployed[f],
            self.fleet.refused[f],
            bool(self.fleet.menus[f]),
        )


def _menus(functions: tuple[ClusterFunction, ...], rule: Callable[[ClusterFunction], Menu]) -> list[Menu]:
    """The menu of every function; functions of one model, grid and objective share it."""
    known: dict[tuple[int, QuotaGrid, float | None], Menu] = {}
    menus = []
    for each in functions:
        key = (id(each.model), each.grid, each.slo_ms)
        if key not in known:
            known[key] = rule(each)
        menus.append(known[key])
    return menus


def _length_s(functions: tuple[ClusterFunction, ...]) -> float:
    """Until the last departure, or the end of the trace of what never leaves."""
    ends = []
    for each in functions:
        if each.leaves_s is not None:
            ends.append(each.leaves_s)
        elif each.trace is not None:
            ends.append(each.arrives_s + each.trace.duration_s)
    if not ends:
        check.fail("duration_s", "is None, but nothing in the workload ends; say how long to replay.")
    return max(ends)


def _clock(length_s: float, step_s: float, control_s: float, functions: int) -> _Clock:
    step_s = check.finite("step_s", step_s, above=0.0)
    control_s = check.finite("control_s", control_s, above=0.0)
    if length_s / step_s * max(1, functions) > _MOST_CELLS:
        check.fail("step_s", f"is {step_s}; {functions} functions over {length_s:g} s would take too many steps.")
    per_control = round(control_s / step_s)
    if per_control < 1 or abs(per_control * step_s - control_s) > 1e-9 * control_s:
        check.fail("control_s", f"is {control_s}; expected a whole number of steps of step_s, {step_s}.")
    return _Clock(step_s, control_s, max(1, math.ceil(length_s / step_s - 1e-9)), per_control)
