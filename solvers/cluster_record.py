"""What is written down during a cluster replay, and the figures made of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core._checks import read_only
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.solvers.cluster_clock import Clock, Stay
from dilu_core.solvers.cluster_fleet import Fleet
from dilu_core.solvers.cluster_measures import (
    ClusterReplayResult,
    ClusterTimeline,
    FunctionOutcome,
    late_requests,
)
from dilu_core.solvers.cluster_pools import Pools
from dilu_core.solvers.cluster_quotas import Menu
from dilu_core.units import FULL_GPU_MILLI

Floats = NDArray[np.float64]


class Record:
    """Columns `(functions, steps)` of arrivals, served requests and execution times, and a row per control period.

    `efficient` holds the menus of the most efficient configurations, which say what an instance needs.
    """

    def __init__(self, fleet: Fleet, clock: Clock, stays: list[Stay], efficient: list[Menu]) -> None:
        self.fleet, self.clock, self.stays = fleet, clock, stays
        self._needed_milli = [menu[0].request_milli if menu else FULL_GPU_MILLI for menu in efficient]
        self.arrivals = np.zeros((len(stays), clock.steps))
        for f, (function, stay) in enumerate(zip(fleet.functions, stays, strict=True)):
            if function.trace is not None:
                mine = self.arrivals[f, clock.span(stay.first, stay.stop)]
                column = function.trace.resampled(clock.step_s).rates_rps[: mine.size] * clock.step_s
                mine[: column.size] = column
        self.served = np.zeros_like(self.arrivals)
        self.execution_ms = np.zeros_like(self.arrivals)
        self.deployed = [0] * len(stays)  # instances that served from the arrival of their function
        self._rows: list[tuple[float, ...]] = []

    def note(self, period: int, pools: Pools, served: Floats, execution_ms: Floats) -> None:
        """What a control period came to."""
        span, fleet = self.clock.span(period, period + 1), self.fleet
        self.served[:, span], self.execution_ms[:, span] = served, execution_ms
        ledger = fleet.bookings
        active = ledger.held > 0
        gpus = float(active.sum())
        request, _, memory = ledger.capacity[active].sum(axis=0).tolist()
        request_free, _, memory_free = ledger.free[active].sum(axis=0).tolist()
        needed = sum(
            min(each.request_milli, self._needed_milli[each.function]) * len(each.booking.gpus)
            for each in fleet.members.values()
        )
        self._rows.append(
            (gpus, request, request_free, request - needed, memory, memory_free,
             FULL_GPU_MILLI * gpus - pools.used_milli, pools.borrowed_milli, len(fleet.members), len(fleet.waiting),
             (span.stop - span.start) * self.clock.step_s)
        )  # fmt: skip

    def result(self, pools: Pools, seconds: float) -> ClusterReplayResult:
        """The figures of the whole."""
        clock, fleet = self.clock, self.fleet
        late = np.zeros(clock.steps)
        outcomes = tuple(self._outcome(f, pools, late) for f in range(len(self.stays)))
        (gpus, request, request_free, unneeded, memory, memory_free, idle, borrowed, instances, waiting, span_s) = (
            np.array(self._rows).T
        )
        whole_milli = FULL_GPU_MILLI * gpus
        edges = np.arange(0, clock.steps, clock.per_control)

        def total(column: Floats) -> float:
            return float(column @ span_s)

        def part(column: Floats, of: Floats) -> float:
            return total(column) / total(of) if total(of) > 0.0 else 0.0

        timeline = ClusterTimeline(
            time_s=read_only(edges * clock.step_s),
            gpus=read_only(gpus.astype(np.int64)),
            request_free=_parts(request_free, request),
            request_unneeded=_parts(unneeded, request),
            memory_free=_parts(memory_free, memory),
            idle=_parts(idle, whole_milli),
            instances=read_only(instances.astype(np.int64)),
            waiting=read_only(waiting.astype(np.int64)),
            arrivals=read_only(np.add.reduceat(self.arrivals.sum(axis=0), edges)),
            late=read_only(np.add.reduceat(late, edges)),
        )
        duration_s = clock.steps * clock.step_s
        return ClusterReplayResult(
            system=fleet.system.name,
            duration_s=duration_s,
            gpu_seconds=total(gpus),
            gpus_peak=int(gpus.max()),
            request_free=part(request_free, request),
            request_unneeded=part(unneeded, request),
            memory_free=part(memory_free, memory),
            idle=part(idle, whole_milli),
            borrowed_gpu_seconds=total(borrowed) / FULL_GPU_MILLI,
            waiting_s=total(waiting),
            moves=fleet.moves,
            functions=outcomes,
            timeline=timeline,
            termination=Termination(TerminationReason.FEASIBLE, detail=f"replayed {duration_s:g} s"),
            stats=SolveStats(
                seconds, counts={"periods": clock.periods, "steps": clock.steps, "launched": sum(fleet.launched)}
            ),
        )

    def _outcome(self, f: int, pools: Pools, late: Floats) -> FunctionOutcome:
        """The figures of one function; its late requests are added to `late` by step of arrival."""
        function, clock, stay = self.fleet.functions[f], self.clock, self.stays[f]
        span = clock.span(stay.first, stay.stop)
        requests = missed = trained_s = asked_s = 0.0
        if function.slo_ms is None:
            trained_s = float(pools.trained[f]) / function.full_rate
            asked_s = (span.stop - span.start) * clock.step_s * function.gpus
        else:
            arrivals, served, execution_ms = (
                column[f, span] for column in (self.arrivals, self.served, self.execution_ms)
            )
            mine = late_requests(
                arrivals, served, execution_ms, clock.step_s, function.slo_ms, cut_off=span.stop < clock.steps
            )
            late[span] += mine
            requests, missed = float(arrivals.sum()), float(mine.sum())
        return FunctionOutcome(
            name=function.name,
            kind=function.kind,
            requests=requests,
            late=missed,
            trained_s=trained_s,
            asked_s=asked_s,
            cold_starts=self.fleet.launched[f] - self.deployed[f],
            refused=self.fleet.refused[f],
            configured=bool(self.fleet.menus[f]),
        )


def _parts(column: Floats, of: Floats) -> Floats:
    return read_only(np.divide(column, of, out=np.zeros_like(column), where=of > 0.0))
