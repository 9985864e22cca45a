"""plan(): the whole way from profile samples to a placement and run-time policies, on one page."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from dilu_core import _checks as checks
from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.coscaling.horizontal import HorizontalParams
from dilu_core.functions import FunctionSpec
from dilu_core.placement import Placement, PlacementProblem
from dilu_core.plans import FunctionPlan, Plan
from dilu_core.result import SolveStats
from dilu_core.solvers.configuration import Configuration, configure, instances_for
from dilu_core.solvers.fitting import fit_memory
from dilu_core.solvers.placement.place import place

SIZINGS = ("efficacy", "load")
MOST_INSTANCES = 1_000_000
"""Of one function. A load that needs more is a mistake in units, and would only fill the memory."""


def plan(
    functions: Iterable[FunctionSpec],
    cluster: Cluster,
    *,
    quantile: float | None = 0.95,
    exec_fraction: float = 0.5,
    sizing: str = "efficacy",
    headroom: float = 0.0,
    sm_step_milli: int = 50,
    limit_factor: float | None = 2.0,
    oversubscription: Oversubscription | None = None,
    current: Placement | None = None,
    max_migrations: int | None = None,
    time_limit_s: float = 10.0,
    gap: float = 0.0,
    seed: int = 0,
    backend: str = "auto",
    executor: Executor | None = None,
    price_per_gpu_hour: float | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Plan:
    """Quotas, instance counts, a placement and run-time policies for `functions` on `cluster`.

    Parameters
    ----------
    functions
        What to plan for, with distinct names. May be empty.
    quantile
        A configuration is feasible where this upper bound on latency keeps its budget, and the profile itself does
        not show otherwise. `None` takes the mean prediction.
    exec_fraction
        The part of the SLO that a batch may execute; the rest is for filling the batch and waiting.
    sizing
        "efficacy": each instance gets the configuration with the greatest throughput per share. "load": the one that
        carries the function's load with the least share in all, which saves share on functions with little load.
    headroom
        Capacity kept above the load, as a part of it.
    sm_step_milli
        Step of the shares to choose from, where a function brings no grid; measured shares always belong.
    limit_factor
        An inference function's limit is at most this many times its request (`None`: no such cap; see `LimitRule`).
        The ratio of the two caps of `oversubscription` packs densest, as limits then never bind before requests.
    oversubscription
        Caps on requests and limits per GPU.
    current, max_migrations
        Where instances run now (by the names that `plan` gives, `function#0`, ...), and how many may move.
    time_limit_s, gap, seed, backend, executor, progress
        Passed to `place`.
    price_per_gpu_hour
        Kept for the summary.

    An SLO that nothing meets, a load of zero or a cluster that is too small are results: see `FunctionPlan.detail`,
    `Plan.unplaced` and `Plan.complete`. Raises `InvalidArgumentError`, naming the argument, for misuse.
    """
    started = time.perf_counter()
    specs = checks.instances_of("functions", functions, FunctionSpec)
    checks.distinct("functions", [spec.name for spec in specs])
    _check_options(cluster, quantile, exec_fraction, sizing, headroom, sm_step_milli, limit_factor)
    if oversubscription is None:
        oversubscription = Oversubscription()

    # 1. Samples -> model -> the configuration of each function that keeps its latency budget.
    choices = [
        configure(
            spec,
            quantile=quantile,
            exec_fraction=exec_fraction,
            sizing=sizing,
            headroom=headroom,
            step_milli=sm_step_milli,
            limit_factor=limit_factor,
        )
        for spec in specs
    ]

    # 2. Configuration and load -> how many instances, and what each of them books.
    planned = [_function_plan(spec, choice, headroom, cluster) for spec, choice in zip(specs, choices, strict=True)]
    instances = [
        instance for spec, each in zip(specs, planned, strict=True) for instance in _instances(spec, each, cluster)
    ]

    # 3. Instances -> GPUs, with a proven lower bound.
    problem = PlacementProblem(cluster, tuple(instances), oversubscription, current)
    placed = place(
        problem,
        time_limit_s=time_limit_s,
        gap=gap,
        seed=seed,
        max_migrations=max_migrations,
        backend=backend,
        executor=executor,
        progress=progress,
    )

    # 4. What the run-time policy of each function must know.
    policies = {
        spec.name: _policy(spec, each)
        for spec, each in zip(specs, planned, strict=True)
        if each.config is not None and not spec.is_training
    }
    return Plan(
        functions=tuple(planned),
        problem=problem,
        placement=placed.placement,
        unplaced=dict(placed.unplaced),
        lower_bound=placed.lower_bound,
        bound_proof=placed.bound_proof,
        gap=placed.gap,
        policies=policies,
        termination=placed.termination,
        stats=SolveStats(time.perf_counter() - started, placed.stats.backend, placed.stats.counts),
        price_per_gpu_hour=price_per_gpu_hour,
    )


def _check_options(
    cluster: Cluster,
    quantile: float | None,
    exec_fraction: float,
    sizing: str,
    headroom: float,
    sm_step_milli: int,
    limit_factor: float | None,
) -> None:
    if not isinstance(cluster, Cluster):
        checks.fail("cluster", f"is {cluster!r:.80}; expected a Cluster.")
    if quantile is not None:
        checks.finite("quantile", quantile, above=0.0, at_most=1.0 - 1e-9)
    checks.finite("exec_fraction", exec_fraction, above=0.0, at_most=1.0)
    checks.choice("sizing", sizing, SIZINGS)
    checks.finite("headroom", headroom, at_least=0.0)
    checks.share_milli("sm_step_milli", sm_step_milli)
    if limit_factor is not None:
        checks.finite("limit_factor", limit_factor, at_least=1.0)


def _function_plan(spec: FunctionSpec, choice: Configuration, headroom: float, cluster: Cluster) -> FunctionPlan:
    if choice.config is None:
        return FunctionPlan(
            name=spec.name,
            kind=spec.kind,
            config=None,
            detail=choice.detail,
            slo_ms=spec.slo_ms,
            budget_ms=choice.budget_ms,
            load_rps=spec.load_rps,
            gpus=spec.gpus,
            warnings=choice.warnings,
        )
    memory_mib = spec.memory_mib
    if memory_mib is None:
        memory_mib = fit_memory(spec.samples).memory_mib(choice.config.batch)
    count, detail = _instance_count(spec, choice.config.throughput_rps, headroom)
    if count > MOST_INSTANCES:
        checks.fail(
            "functions", f"holds {spec.name!r}, which would need {count} instances; expected at most {MOST_INSTANCES}."
        )
    return FunctionPlan(
        name=spec.name,
        kind=spec.kind,
        config=choice.config,
        detail=detail,
        slo_ms=spec.slo_ms,
        budget_ms=choice.budget_ms,
        measured_ms=choice.measured_ms,
        evidence=choice.evidence,
        limit_rps=choice.limit_rps,
        load_rps=spec.load_rps,
        memory_mib=memory_mib,
        gpus=spec.gpus,
        instances=tuple(f"{spec.name}#{i}" for i in range(count)),
        whole_gpu_gpus=_whole_gpu_gpus(spec, choice, count, headroom, memory_mib, cluster),
        warnings=choice.warnings,
    )


def _instance_count(spec: FunctionSpec, capacity_rps: float, headroom: float) -> tuple[int, str]:
    if spec.instances is not None:
        return spec.instances, "instances as asked for"
    if spec.is_training:
        return 1, "one job"
    wanted = max(instances_for(spec.load_rps * (1.0 + headroom), capacity_rps), spec.min_instances)
    if spec.max_instances is not None and wanted > spec.max_instances:
        carried = spec.max_instances * capacity_rps
        return spec.max_instances, f"max_instances carries {carried:.1f} of {spec.load_rps:g} requests/s"
    return wanted, "no load: started on demand" if wanted == 0 else "carries the load at its request"


def _whole_gpu_gpus(
    spec: FunctionSpec, choice: Configuration, count: int, headroom: float, memory_mib: int, cluster: Cluster
) -> int:
    """GPUs for the same work with a whole GPU per instance, more where one GPU's memory does not hold it."""
    per_instance = spec.gpus
    if spec.splittable and cluster.gpu_types:
        per_instance = max(1, math.ceil(memory_mib / max(kind.memory_mib for kind in cluster.gpu_types)))
    if spec.instances is None and not spec.is_training and choice.whole_gpu_rps is not None:
        needed = instances_for(spec.load_rps * (1.0 + headroom), choice.whole_gpu_rps)
        count = min(count, max(needed, spec.min_instances))
    return count * per_instance


def _instances(spec: FunctionSpec, planned: FunctionPlan, cluster: Cluster) -> list[Instance]:
    if planned.config is None:
        return []
    gpu_types = spec.gpu_types
    measured_on = spec.samples.gpu_type
    if gpu_types is None and measured_on in {kind.name for kind in cluster.gpu_types}:
        gpu_types = (measured_on,)  # the profile holds for this type of the cluster and says nothing of the others
    return [
        Instance(
            name,
            spec.kind,
            planned.config.request_milli,
            planned.config.limit_milli,
            planned.memory_mib or 0,
            gpus=spec.gpus,
            splittable=spec.splittable,
            function=spec.name,
            affinity=spec.affinity,
            anti_affinity=spec.anti_affinity,
            gpu_types=gpu_types,
        )
        for name in planned.instances
    ]


def _policy(spec: FunctionSpec, planned: FunctionPlan) -> HorizontalParams:
    assert planned.config is not None
    count = len(planned.instances)
    return HorizontalParams(
        planned.config.throughput_rps,
        planned.config.request_milli,
        planned.config.limit_milli,
        slo_ms=spec.slo_ms,
        base_latency_ms=planned.config.latency_ms,
        cold_start_s=spec.cold_start_s,
        min_instances=spec.min_instances,
        max_instances=spec.max_instances if spec.max_instances is not None else max(1, 2 * count, spec.min_instances),
    )
