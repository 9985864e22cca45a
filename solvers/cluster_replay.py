"""Replay of a cluster: functions arrive and leave, are placed, and scale in both directions at once.

Time goes in steps, in which the kernel divides every GPU anew among the instances that have work, and in control
periods, at whose beginning the system acts: functions leave, functions arrive and get a quota and first instances,
horizontal policies see the last period and add or give up instances, what waits for a place is tried again, and, where
the system moves instances, some go elsewhere.

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
from dilu_core.slots import Placement
from dilu_core.solvers.cluster_clock import Clock, Stay
from dilu_core.solvers.cluster_fleet import Fleet
from dilu_core.solvers.cluster_measures import ClusterReplayResult
from dilu_core.solvers.cluster_moves import Mover
from dilu_core.solvers.cluster_pools import Pools
from dilu_core.solvers.cluster_quotas import Menu, most_efficient
from dilu_core.solvers.cluster_record import Record
from dilu_core.solvers.cluster_scaling import Scaler
from dilu_core.solvers.cluster_systems import ClusterSystem
from dilu_core.solvers.cluster_workload import ClusterFunction
from dilu_core.solvers.replay_setup import first_look_rps

_LEARN_S, _SPREAD_S = 10.0, 60.0  # how often loads are observed, and placement told which rise together


@dataclass(frozen=True)
class ClusterMoment:
    """The cluster at the beginning of a control period, when the system has acted; to be looked at only then."""

    time_s: float
    fleet: Fleet

    @property
    def placement(self) -> Placement:
        """Where every instance sits."""
        return self.fleet.placement()

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The placed instances as they were asked for."""
        return self.fleet.instances()

    @property
    def waiting(self) -> int:
        """Instances that wait for a place."""
        return len(self.fleet.waiting)


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
        cluster: the GPUs.
        system: how functions get quotas, places and instances, such as one of `cluster_systems.CLUSTER_SYSTEMS`.
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
    clock = Clock.of(functions, duration_s, step_s, control_s)
    run = _Run(functions, cluster, system, clock)
    for period in range(clock.periods):
        run.act(period)
        if observer is not None:
            observer(ClusterMoment(period * clock.control_s, run.fleet))
        run.advance(period)
    return run.record.result(run.pools, time.perf_counter() - started)


class _Run:
    """A replay under way."""

    def __init__(
        self, functions: tuple[ClusterFunction, ...], cluster: Cluster, system: ClusterSystem, clock: Clock
    ) -> None:
        stays = [Stay.of(each, clock) for each in functions]
        self.functions, self.system, self.clock = functions, system, clock
        self.fleet = Fleet(cluster, functions, _menus(functions, system.quotas), system)
        self.pools = Pools(self.fleet, clock.step_s)
        self.record = Record(self.fleet, clock, stays, _menus(functions, most_efficient))
        self._cold_steps = [clock.steps_in(each.cold_start_s) for each in functions]
        self._scalers: dict[int, Scaler] = {}
        self._mover = None if system.replan is None else Mover(self.fleet, system.replan, clock, self._cold_steps)
        self._estimator = CorrelationEstimator(most_functions=max(1, len(functions))) if system.apart else None
        self._leaving: dict[int, list[int]] = {}
        self._arriving: dict[int, list[int]] = {}
        for f, stay in enumerate(stays):
            if stay.first < stay.stop:
                self._arriving.setdefault(stay.first, []).append(f)
                self._leaving.setdefault(stay.stop, []).append(f)

    def act(self, period: int) -> None:
        """What the system does at the beginning of a control period."""
        step = period * self.clock.per_control
        for f in self._leaving.get(period, ()):
            self.fleet.dissolve(f)
            self.pools.drop(f)
            self._scalers.pop(f, None)
        self.fleet.retry(step, self._cold_steps)
        if self._scalers:
            self._scale(period, step)
            self._learn(period)
        for f in self._arriving.get(period, ()):
            self._deploy(f, step)
        if self._mover is not None:
            self._mover.act(period, step)

    def advance(self, period: int) -> None:
        """Run the steps of a control period, and note what the cluster looked like."""
        span = self.clock.span(period, period + 1)
        arrivals = np.ascontiguousarray(self.record.arrivals[:, span])
        self.record.note(period, self.pools, *self.pools.advance(span.start, arrivals))

    def _deploy(self, f: int, step: int) -> None:
        """A quota and first instances for a function that arrives; a training job is one instance."""
        function, menu = self.functions[f], self.fleet.menus[f]
        if not menu:
            return
        if function.trace is None:
            first = [1]
        else:
            scaler = self._scalers[f] = self.system.scaler(function, menu)
            first = scaler.initial(first_look_rps(function.trace))
        for configuration, count in enumerate(first):
            self.record.deployed[f] += self.fleet.launch(f, configuration, step, count)

    def _scale(self, period: int, step: int) -> None:
        """Every horizontal policy in turn, on what the last period showed."""
        control_s, record, fleet = self.clock.control_s, self.record, self.fleet
        last = self.clock.span(period - 1, period)
        came = record.arrivals[:, last].sum(axis=1).tolist()
        executing = ((record.served[:, last] * record.execution_ms[:, last]).sum(axis=1) / 1000.0 / control_s).tolist()
        for f, scaler in self._scalers.items():
            ready = sum(member.ready_at <= step for member in fleet.of(f).values())
            spare = float(self.pools.spare_milli[f])
            seen = Observation(
                time_s=period * control_s,
                arrivals_rps=came[f] / control_s,
                ready=ready,
                starting=sum(fleet.planned[f]) - ready,
                in_flight=float(self.pools.backlog[f]) + executing[f],
                spare_milli=None if math.isnan(spare) else spare,
            )
            for configuration, change in enumerate(scaler.change(seen, fleet.planned[f])):
                if change < 0:
                    fleet.give_up(f, configuration, -change, step)
                elif change > 0:
                    fleet.launch(f, configuration, step + self._cold_steps[f], change)

    def _learn(self, period: int) -> None:
        """Which loads rise together, from what has come so far."""
        clock, estimator = self.clock, self._estimator
        every, told = (max(1, round(seconds / clock.control_s)) for seconds in (_LEARN_S, _SPREAD_S))
        if estimator is None or period % every:
            return
        rates = self.record.arrivals[:, clock.span(period - every, period)].sum(axis=1) / (every * clock.control_s)
        whole = (f for f in self._scalers if self.record.stays[f].first <= period - every)
        estimator.observe(period * clock.control_s, {self.functions[f].name: float(rates[f]) for f in whole})
        if period % told == 0:
            self.fleet.keep_apart(estimator.correlation())


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
