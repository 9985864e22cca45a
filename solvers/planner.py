"""plan(): the whole way from profile samples to a placement and run-time policies, on one page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from dilu_core import _checks as checks
from dilu_core.cluster import Cluster, Oversubscription
from dilu_core.functions import FunctionSpec
from dilu_core.interference import InterferenceModel, Tenant
from dilu_core.performance import RooflineModel
from dilu_core.placement import Placement, PlacementProblem
from dilu_core.plans import FunctionPlan, Plan
from dilu_core.quota import QuotaConfig
from dilu_core.result import SolveStats
from dilu_core.solvers.backends import resolved
from dilu_core.solvers.configuration import Configuration, configure
from dilu_core.solvers.function_plans import function_plan, gpus_alone, instances_of, policy_of
from dilu_core.solvers.interference_margin import (
    SharingMargin,
    interference_model,
    placed_slowdowns,
    sharing_margins,
    with_slowdown_warnings,
)
from dilu_core.solvers.llm_configuration import configure_llm
from dilu_core.solvers.placement.place import PlacementResult, place

SIZINGS = ("efficacy", "load")


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
    interference: InterferenceModel | str | None = None,
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
        The part of the SLO that a batch may execute; the rest is for filling the batch and waiting. Where an LLM has
        objectives for its two phases, this is the part of the TTFT that is not for waiting; TPOT is used in full.
    sizing
        "efficacy": each instance gets the configuration with the greatest throughput per share. "load": one that
        carries the function's load with the least share in all, by request or by the scarcer cap, if that takes fewer
        GPUs; it saves share on functions with little load.
    headroom
        Capacity kept above the load, as a part of it.
    sm_step_milli
        Step of the shares to choose from, where a function brings no grid; measured shares always belong.
    limit_factor
        An inference function's limit is at most this many times its request (`None`: no such cap; see `LimitRule`).
        The ratio of the two caps of `oversubscription` packs densest, as limits then never bind before requests.
    interference
        How neighbours on a GPU slow each other: a fitted `InterferenceModel`, or "default" for the pooled one (see
        `InterferenceModel.default`). Inference then keeps its budget even beside the heaviest neighbours that the caps
        leave room for, at `quantile`; on a whole GPU it has none. After placement `Plan.slowdowns` tells what each
        instance meets, and a warning where that exceeds the budget. Rates stay those of instances alone: leave
        `headroom` for what neighbours cost. `None` takes a share to be as good beside neighbours as alone.
    oversubscription
        Caps on requests and limits per GPU.
    current, max_migrations
        Where instances run now (by the names that `plan` gives, `function#0`, ...), and how many may move.
    time_limit_s, gap, seed, backend, executor, progress
        Passed to `place`.
    price_per_gpu_hour
        Kept for the summary.

    Where such instances would take more GPUs than a whole GPU for each (large requests may leave no room for each
    other's limits), functions get whole GPUs instead. An SLO that nothing meets, no load or a cluster that is too
    small are results: see `FunctionPlan.detail`, `Plan.unplaced` and `Plan.complete`. Raises `InvalidArgumentError`,
    naming the argument, for misuse.
    """
    started = time.perf_counter()
    specs = checks.instances_of("functions", functions, FunctionSpec)
    checks.distinct("functions", [spec.name for spec in specs])
    _check_options(cluster, quantile, exec_fraction, sizing, headroom, sm_step_milli, limit_factor)
    limit_s = checks.finite("time_limit_s", time_limit_s, at_least=0.0)
    price = price_per_gpu_hour
    if price is not None:
        price = checks.finite("price_per_gpu_hour", price, at_least=0.0)
    caps = Oversubscription() if oversubscription is None else oversubscription
    if not isinstance(caps, Oversubscription):
        checks.fail("oversubscription", f"is {caps!r:.80}; expected an Oversubscription.")
    ran_on = resolved(backend)

    beside = interference_model(interference)

    # 1. Samples -> model -> the configuration of each function that keeps its latency budget.
    def configured(margins: Sequence[SharingMargin | None]) -> list[Configuration]:
        return [
            (configure if spec.phases is None else configure_llm)(
                spec,
                caps,
                quantile=quantile,
                exec_fraction=exec_fraction,
                sizing=sizing,
                headroom=headroom,
                step_milli=sm_step_milli,
                limit_factor=limit_factor,
                margin=margin,
            )
            for spec, margin in zip(specs, margins, strict=True)
        ]

    choices = configured([None] * len(specs))
    models = {spec.name: choice.model for spec, choice in zip(specs, choices, strict=True)}
    if beside is not None:  # now with a margin for the neighbours that these configurations make
        configs = [choice.config for choice in choices]
        tenants = {spec.name: _tenant(spec.name, config, models) for spec, config in zip(specs, configs, strict=True)}
        choices = configured(sharing_margins(specs, configs, tenants, beside, caps, quantile))

    # 2. Configuration and load -> how many instances, and what each of them books.
    # 3. Instances -> GPUs, with a proven lower bound.
    def attempt(tried: Sequence[Configuration], seconds: float) -> _Attempt:
        planned = [function_plan(spec, each, headroom, cluster) for spec, each in zip(specs, tried, strict=True)]
        instances = [
            instance
            for spec, each in zip(specs, planned, strict=True)
            for instance in instances_of(spec, each, cluster)
        ]
        problem = PlacementProblem(cluster, tuple(instances), caps, current)
        placed = place(
            problem,
            time_limit_s=seconds,
            gap=gap,
            seed=seed,
            max_migrations=max_migrations,
            backend=ran_on,
            executor=executor,
            progress=progress if seconds else None,
        )
        return _Attempt(planned, problem, placed)

    def left() -> float:
        return max(0.0, limit_s - (time.perf_counter() - started))

    ways = _ways(choices)
    if len(ways) > 1:  # a quick look at each, the time for the best
        choices = min(ways, key=lambda way: attempt(way, 0.0).rank())
    best = attempt(choices, left())
    if best.loses_to_whole_gpus:
        others = _with_whole_gpus(best.functions, choices, cluster, caps)
        best = min((best, *(attempt(other, left()) for other in others)), key=_Attempt.rank)

    # 4. What the run-time policy of each function must know.
    policies = {
        spec.name: policy_of(spec, each, cluster)
        for spec, each in zip(specs, best.functions, strict=True)
        if each.config is not None and not spec.is_training
    }
    placed = best.placed
    slowdowns: dict[str, float] = {}
    if beside is not None:  # 5. What each instance's actual neighbours cost it.
        tenants = {each.name: _tenant(each.name, each.config, models) for each in best.functions}
        slowdowns = placed_slowdowns(best.problem, placed.placement, tenants, beside, quantile)
    return Plan(
        functions=tuple(with_slowdown_warnings(each, slowdowns) for each in best.functions),
        problem=best.problem,
        placement=placed.placement,
        unplaced=dict(placed.unplaced),
        lower_bound=placed.lower_bound,
        bound_proof=placed.bound_proof,
        gap=placed.gap,
        policies=policies,
        termination=placed.termination,
        stats=SolveStats(time.perf_counter() - started, ran_on, placed.stats.counts),
        price_per_gpu_hour=price,
        slowdowns=slowdowns,
    )


def _tenant(name: str, config: QuotaConfig | None, models: Mapping[str, RooflineModel | None]) -> Tenant:
    """The function at its request, as its neighbours see it; the worst case where it has no model."""
    model = models[name]
    if config is None or model is None:
        return Tenant(name)
    return Tenant.of(name, model, config.batch, config.request_milli)


@dataclass(frozen=True)
class _Attempt:
    """One set of configurations, and how its instances could be placed."""

    functions: list[FunctionPlan]
    problem: PlacementProblem
    placed: PlacementResult

    def rank(self) -> tuple[int, int]:
        """Fewest instances left out, then fewest GPUs."""
        return len(self.placed.unplaced), self.placed.gpus_used

    @property
    def loses_to_whole_gpus(self) -> bool:
        """Whether one instance per GPU would do better: large requests may leave no room for each other's limits."""
        return self.rank() > (0, sum(each.whole_gpu_gpus for each in self.functions))


def _ways(choices: list[Configuration]) -> list[list[Configuration]]:
    """The choices, and the alternatives of the same kind for every function that has them; no two ways alike."""
    most = max((len(choice.alternatives) for choice in choices), default=0)
    ways = [choices]
    for k in range(most):
        way = [
            replace(choice.alternatives[k], whole_gpu=choice.whole_gpu) if choice.alternatives else choice
            for choice in choices
        ]
        if all([each.config for each in way] != [each.config for each in other] for other in ways):
            ways.append(way)
    return ways


def _with_whole_gpus(
    functions: Sequence[FunctionPlan], choices: Sequence[Configuration], cluster: Cluster, caps: Oversubscription
) -> list[list[Configuration]]:
    """Choices to try instead: whole GPUs for those functions that alone do better with them, and for all."""
    alone = [gpus_alone(each, cluster, caps) > each.whole_gpu_gpus for each in functions]
    masks = [alone] if all(alone) or not any(alone) else [alone, [True] * len(alone)]
    return [
        [
            choice.whole_gpu if wanted and choice.whole_gpu is not None else choice
            for wanted, choice in zip(mask, choices, strict=True)
        ]
        for mask in masks
        if any(choice.whole_gpu is not None for wanted, choice in zip(mask, choices, strict=True) if wanted)
    ]


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
    checks.finite("headroom", headroom, at_least=0.0, at_most=1000.0)
    checks.share_milli("sm_step_milli", sm_step_milli)
    if limit_factor is not None:
        checks.finite("limit_factor", limit_factor, at_least=1.0, at_most=1000.0)
