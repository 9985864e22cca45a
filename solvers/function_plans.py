"""From a configuration and a load to instances: how many, what each books, and what the run-time policy must know."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dilu_core import _checks as checks
from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.functions import FunctionSpec
from dilu_core.plans import FunctionPlan
from dilu_core.solvers.configuration import Configuration, instances_for
from dilu_core.solvers.memory_fit import fit_memory
from dilu_core.units import demand_units

MOST_INSTANCES = 1_000_000
"""Of one function. A load that needs more is a mistake in units, and would only fill the memory."""

MOST_LOAD_FOR_TTFT = 0.7
"""Part of an LLM instance's capacity up to which waiting seldom takes more than half of the TTFT SLO."""


def function_plan(spec: FunctionSpec, choice: Configuration, headroom: float, cluster: Cluster) -> FunctionPlan:
    """How many instances of `choice` carry the load of `spec`, what each takes, and what whole GPUs would take."""
    unplanned = FunctionPlan(
        name=spec.name,
        kind=spec.kind,
        config=None,
        detail=choice.detail,
        slo_ms=spec.request_slo_ms,
        budget_ms=choice.budget_ms,
        load_rps=spec.load_rps,
        gpus=spec.gpus,
        warnings=choice.warnings,
        tokens=choice.tokens,
    )
    if choice.config is None:
        return unplanned
    memory_mib = spec.memory_mib
    if memory_mib is None:
        memory_mib = fit_memory(spec.samples).memory_mib(choice.config.batch) + _prompt_memory_mib(spec)
    wanted_rps = spec.load_rps * (1.0 + headroom)
    count, detail = _instance_count(spec, choice.config.throughput_rps, wanted_rps)
    if count > MOST_INSTANCES:
        checks.fail(
            "functions", f"holds {spec.name!r}, which would need {count} instances; expected at most {MOST_INSTANCES}."
        )
    return replace(
        unplanned,
        config=choice.config,
        detail=detail,
        measured_ms=choice.measured_ms,
        evidence=choice.evidence,
        limit_rps=choice.limit_rps,
        memory_mib=memory_mib,
        instances=tuple(f"{spec.name}#{i}" for i in range(count)),
        whole_gpu_gpus=_whole_gpu_gpus(spec, choice, count, wanted_rps, memory_mib, cluster),
        warnings=choice.warnings + _elsewhere(spec, cluster) + _crowded(spec, count * choice.config.throughput_rps),
    )


def _prompt_memory_mib(spec: FunctionSpec) -> int:
    """What the prompt in prefill takes on top of weights and caches, by the slope of the prefill samples' memory."""
    if spec.phases is None:
        return 0
    samples = spec.phases.prefill_samples
    if samples.memory_mib is None or np.isnan(samples.memory_mib).all():
        return 0
    return demand_units(fit_memory(samples).per_sample_mib * spec.phases.promised_tokens)


def _elsewhere(spec: FunctionSpec, cluster: Cluster) -> tuple[str, ...]:
    """A warning where the profile comes from a GPU type that the cluster does not have."""
    measured_on = spec.samples.gpu_type
    if not measured_on or measured_on in {kind.name for kind in cluster.gpu_types}:
        return ()
    return (f"Profiled on {measured_on}, which this cluster does not have; its latencies may not hold here.",)


def _crowded(spec: FunctionSpec, capacity_rps: float) -> tuple[str, ...]:
    """A warning where the wait for a slot may use up the rest of a TTFT SLO; measured by `bench/llm_serving.py`."""
    if spec.phases is None or not capacity_rps or spec.load_rps <= MOST_LOAD_FOR_TTFT * capacity_rps:
        return ()
    part, headroom = spec.load_rps / capacity_rps, 1.0 / MOST_LOAD_FOR_TTFT - 1.0
    return (
        f"Its instances run at {part:.0%} of their capacity. Where requests arrive at random, nearly all first tokens "
        f"keep their SLO up to about {MOST_LOAD_FOR_TTFT:.0%}: plan with a headroom of {headroom:.2f}.",
    )


def _instance_count(spec: FunctionSpec, capacity_rps: float, wanted_rps: float) -> tuple[int, str]:
    if spec.is_training:
        return (1, "one job") if spec.instances is None else (spec.instances, "jobs as asked for")
    needed = instances_for(wanted_rps, capacity_rps)
    count = max(needed, spec.min_instances)
    if spec.max_instances is not None:
        count = min(count, spec.max_instances)
    if spec.instances is not None:
        count = spec.instances
    if count < needed:
        return count, f"{count} instances carry {count * capacity_rps:,.1f} of {wanted_rps:,.1f} requests/s wanted"
    return count, "no load: started on demand" if count == 0 else "carries the load at its request"


def _whole_gpu_gpus(
    spec: FunctionSpec, choice: Configuration, count: int, wanted_rps: float, memory_mib: int, cluster: Cluster
) -> int:
    """GPUs for the same work with a whole GPU per instance, more where one GPU's memory does not hold it."""
    per_instance = spec.gpus
    if spec.splittable and cluster.gpu_types:
        per_instance = max(1, math.ceil(memory_mib / _most_memory(cluster)))
    whole = choice.whole_gpu.config if choice.whole_gpu is not None else None
    if spec.instances is None and whole is not None:
        count = min(count, max(instances_for(wanted_rps, whole.throughput_rps), spec.min_instances))
    return count * per_instance


def gpus_alone(planned: FunctionPlan, cluster: Cluster, caps: Oversubscription) -> int:
    """GPUs that the instances of one function take among themselves."""
    if planned.config is None or not planned.instances:
        return 0
    room = [caps.request_milli // planned.config.request_milli, caps.limit_milli // planned.config.limit_milli]
    if planned.memory_mib:
        room.append(_most_memory(cluster) // planned.memory_mib)
    return math.ceil(len(planned.instances) / max(1, min(room))) * planned.gpus


def _most_memory(cluster: Cluster) -> int:
    return max((kind.memory_mib for kind in cluster.gpu_types), default=1)


def instances_of(spec: FunctionSpec, planned: FunctionPlan, cluster: Cluster) -> list[Instance]:
    """The instances that `planned` asks for."""
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


def policy_of(spec: FunctionSpec, planned: FunctionPlan, cluster: Cluster) -> HorizontalParams:
    """Parameters of the horizontal policy. Without a bound of its own a function may grow to the whole cluster.

    Of an LLM with two phases, SLO and base latency are those of a whole request: first token and all the others.
    """
    assert planned.config is not None
    count = len(planned.instances)
    most = max(1, 2 * count, spec.min_instances, cluster.gpus)
    return HorizontalParams(
        planned.config.throughput_rps,
        planned.config.request_milli,
        planned.config.limit_milli,
        slo_ms=spec.request_slo_ms,
        base_latency_ms=planned.config.latency_ms,
        cold_start_s=spec.cold_start_s,
        min_instances=spec.min_instances,
        max_instances=max(count, spec.max_instances) if spec.max_instances is not None else most,
    )
