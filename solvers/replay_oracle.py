"""The reference of the replays: single requests, real batches, one event after the other; slow and obviously right.

`oracle_replay` and `oracle_shared_replay` answer the questions of `replay` and `replay_shared` without a fluid, without
steps and without a line of their kernels. What the two must agree on, and where a fluid cannot follow, is said in
`tests/solvers/test_replay_oracle.py`. Use these to check a replay, or to see what randomness adds; they take
microseconds per request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core._checks import choice, integer, read_only
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Policy
from dilu_core.solvers.replay_actors import Function, OwnSpare, SharedDivision
from dilu_core.solvers.replay_events import Simulation
from dilu_core.solvers.replay_setup import initial_count, spare_steps
from dilu_core.solvers.shared_tenants import ReplayTenant
from dilu_core.traces import ArrivalTrace
from dilu_core.units import FULL_GPU_MILLI

SPACINGS = ("even", "poisson")
"""How the requests of a trace come: evenly spaced, or at random with the trace's rate."""


@dataclass(frozen=True, eq=False)
class OracleReplay:
    """What happened to one function; the fields are those of `ReplayResult`, counted request by request.

    `latencies_ms` `(requests,)` are in the order of completion, infinite for those never served. `samples` is what
    training did.
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
    requests: int
    backlog_left: int
    samples: float
    latencies_ms: NDArray[np.float64]


def oracle_replay(
    trace: ArrivalTrace,
    policy: Policy[Any],
    params: HorizontalParams,
    *,
    spare_milli: float | ArrayLike | None = None,
    rate_rps: Callable[[int], float] | ArrayLike | None = None,
    initial_instances: int | None = None,
    control_s: float = 1.0,
    batch: int = 1,
    spacing: str = "even",
    seed: int = 0,
) -> OracleReplay:
    """`replay` of single requests in batches of up to `batch`, which take batch / rate at the share of the moment.

    An instance executes at its request, and as far as the spare share goes up to its limit while requests wait. The
    latency is the time from arrival to completion, so the base latency of `params` plays no part in it. `spacing` and
    `seed` say how the requests of the trace come. The other arguments are those of `replay`.
    """
    tenant = ReplayTenant("function", params, trace, policy, rate_rps=rate_rps, instances=initial_instances)
    periods = trace.rates_rps.size
    spare = spare_steps("spare_milli", spare_milli, trace, periods, trace.period_s)
    division = OwnSpare(spare.tolist(), trace.period_s)
    return _simulated([tenant], division, [[]], {"function": batch}, control_s, spacing, seed)["function"]


def oracle_shared_replay(
    tenants: Iterable[ReplayTenant],
    *,
    gpus: int,
    sharing: str = "work-conserving",
    seating: Mapping[str, Sequence[int]] | None = None,
    control_s: float = 1.0,
    batches: Mapping[str, int] | None = None,
    spacing: str = "even",
    seed: int = 0,
) -> dict[str, OracleReplay]:
    """`replay_shared` of single requests, by tenant; a GPU is divided anew whenever an instance starts or stops work.

    `batches` gives the batch of some tenants, 1 by default. While requests of its function wait, an instance wants its
    limit, and else its request; under hard caps always its limit. The other arguments are those of `replay_shared` and
    `oracle_replay`.
    """
    everyone = list(tenants)
    own = [list((seating or {}).get(tenant.name, range(gpus))) for tenant in everyone]
    return _simulated(everyone, SharedDivision(sharing), own, dict(batches or {}), control_s, spacing, seed)


def arrival_times(trace: ArrivalTrace, spacing: str, seed: int) -> NDArray[np.float64]:
    """When the single requests of `trace` come, in seconds, ascending: where the count that has come passes a mark.

    "even" marks every whole request in its middle, "poisson" at exponential distances of mean 1.
    """
    came = np.concatenate(([0.0], np.cumsum(trace.rates_rps * trace.period_s)))
    clock = np.arange(came.size) * trace.period_s
    if choice("spacing", spacing, SPACINGS) == "even":
        marks = np.arange(math.floor(came[-1] + 0.5)) + 0.5
    else:
        random = np.random.default_rng(integer("seed", seed, at_least=0))
        many = int(came[-1] + 10.0 * math.sqrt(came[-1]) + 50.0)
        marks = np.cumsum(random.exponential(size=many))
    times: NDArray[np.float64] = np.interp(marks[marks < came[-1]], came, clock)
    return times


def _simulated(
    tenants: list[ReplayTenant],
    division: OwnSpare | SharedDivision,
    seats: list[list[int]],
    batches: Mapping[str, int],
    control_s: float,
    spacing: str,
    seed: int,
) -> dict[str, OracleReplay]:
    functions = []
    for number, (tenant, gpus) in enumerate(zip(tenants, seats, strict=True)):
        times = [] if tenant.trace is None else arrival_times(tenant.trace, spacing, seed + number).tolist()
        batch = integer("batch", batches.get(tenant.name, 1), at_least=1)
        functions.append(Function(tenant, gpus, times, batch))
    end_s = max(tenant.trace.duration_s for tenant in tenants if tenant.trace is not None)
    simulation = Simulation(functions, division, control_s, end_s)
    for function in sorted(functions, key=lambda each: not each.tenant.trains):
        tenant = function.tenant
        first = tenant.instances or 1
        if tenant.trace is not None:
            first = initial_count(tenant.instances, tenant.trace, tenant.params)
        simulation.launch(function, first, cold=False)
    simulation.run()
    return {function.tenant.name: _reported(function, end_s) for function in functions}


def _reported(function: Function, end_s: float) -> OracleReplay:
    params = function.tenant.params
    latencies = np.array(function.latencies_s + [math.inf] * len(function.queue)) * 1000.0
    ranked = np.sort(latencies)
    p50, p95, p99 = (
        float(ranked[max(0, math.ceil(level * ranked.size) - 1)]) if ranked.size else math.nan
        for level in (0.50, 0.95, 0.99)
    )
    late = math.nan
    if params.slo_ms is not None and ranked.size:
        late = float((latencies > params.slo_ms * (1.0 + 1e-9)).mean())
    reserved = function.paid_s(end_s) * params.request_milli / FULL_GPU_MILLI
    borrowed = function.borrowed / FULL_GPU_MILLI
    return OracleReplay(
        gpu_seconds=reserved + borrowed,
        reserved_gpu_seconds=reserved,
        borrowed_gpu_seconds=borrowed,
        violation_rate=late,
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        cold_starts=function.launched,
        direction_flips=function.flips,
        peak_instances=function.peak,
        requests=latencies.size,
        backlog_left=function.waiting_at_end,
        samples=function.samples,
        latencies_ms=read_only(latencies),
    )
