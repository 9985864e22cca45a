"""What a pod must ask for so that a GPU-sharing scheme of Kubernetes gives it an instance's share, and what is lost.

A scheme knows one number where we know two (request and limit), or none at all; `PodResources.notes` says which
promise it does not keep. Sources of the formats:

- HAMi: `nvidia.com/gpu`, `gpucores` (per cent) and `gpumem` (MiB) on each GPU, GPU_CORE_UTILIZATION_POLICY:
  https://github.com/Project-HAMi/HAMi/blob/master/docs/config.md, examples/nvidia/default_use.yaml; without
  neighbours the cap is lifted: https://github.com/Project-HAMi/HAMi/issues/737
- KAI-Scheduler: https://github.com/kai-scheduler/KAI-Scheduler/blob/main/docs/gpu-sharing/README.md
- MIG, mixed strategy, and MPS sharing of the device plugin: https://github.com/NVIDIA/k8s-device-plugin#readme
- MPS variables: https://docs.nvidia.com/deploy/mps/latest/appendix-environment-variables.html
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from dilu_core import _checks as check
from dilu_core.adapters.manifests import listed, mapping
from dilu_core.instances import Configuration, Instance, mib
from dilu_core.mig import GEOMETRIES, MigGeometry
from dilu_core.quota import Quota, QuotaConfig
from dilu_core.units import FULL_GPU_MILLI

SCHEMES = ("hami", "kai", "mig", "mps")
"""Ways to share a GPU between pods."""

INSTANCE_ANNOTATION = "dilu-core/instance"
"""Holds the instance as JSON, so that `instance_from_pod` reads back exactly what `pod_resources` was given."""

CORE_POLICIES = ("default", "force", "disable")
"""HAMi's: cap cores unless alone on the GPU; always; never."""


@dataclass(frozen=True)
class PodResources:
    """Additions to a pod: of one `container` its `limits`, `requests` and `env`, and of the pod the rest.

    Values are strings as in a manifest. `notes` say what the scheme loses of the instance's request, limit and memory.
    """

    scheme: str
    container: str
    limits: Mapping[str, str]
    requests: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    scheduler_name: str | None = None
    notes: tuple[str, ...] = ()

    def applied_to(self, pod: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A copy of `pod` (or of a pod template) with these additions; without `pod`, a fragment of one.

        Raises `InvalidArgumentError` where the pod has no container of that name, or is no pod.
        """
        made: dict[str, Any] = copy.deepcopy(dict(mapping("pod", pod)))
        metadata = made["metadata"] = dict(mapping("pod.metadata", made.get("metadata")))
        spec = made["spec"] = dict(mapping("pod.spec", made.get("spec")))
        for key, added in (("annotations", self.annotations), ("labels", self.labels)):
            if added:
                metadata[key] = {**mapping(f"pod.metadata.{key}", metadata.get(key)), **added}
        if self.scheduler_name is not None:
            spec["schedulerName"] = self.scheduler_name
        if spec.get("containers") is None:
            spec["containers"] = [{"name": self.container}]
        containers = cast(list[dict[str, Any]], listed("pod.spec.containers", spec["containers"]))
        mine = next((each for each in containers if each.get("name") == self.container), None)
        if mine is None:
            names = ", ".join(str(each.get("name")) for each in containers)
            check.fail("pod", f"has no container {self.container!r}; found {names or 'none'}.")
        resources = mine["resources"] = dict(mapping("resources", mine.get("resources")))
        for key, added in (("limits", self.limits), ("requests", self.requests)):
            if added:
                resources[key] = {**mapping(key, resources.get(key)), **added}
        if self.env:
            kept = [each for each in listed("env", mine.get("env")) if each.get("name") not in self.env]
            mine["env"] = kept + [{"name": name, "value": value} for name, value in self.env.items()]
        return made


class _Demand(NamedTuple):
    request: int
    limit: int
    memory_mib: int
    gpus: int

    @property
    def request_percent(self) -> int:
        """Demands round up."""
        return -(-self.request // 10)

    @property
    def limit_percent(self) -> int:
        """Caps round down, but never below the request."""
        return max(self.limit // 10, self.request_percent)


def pod_resources(
    config: Instance | Configuration | QuotaConfig | Quota,
    scheme: str = "hami",
    *,
    container: str = "main",
    memory_mib: int | None = None,
    core_policy: str = "default",
    memory_unit_mib: int = 1,
    gpu_memory_mib: int | None = None,
    queue: str = "default-queue",
    geometry: MigGeometry | str | None = None,
    mps_replicas: int | None = None,
    mps_resource: str = "nvidia.com/gpu",
) -> PodResources:
    """What a pod's `container` asks for under `scheme`, one of `SCHEMES`.

    Arguments:
        config: an instance, or its quota; a `Quota` and a `QuotaConfig` need `memory_mib` as well.
        core_policy, memory_unit_mib: HAMi's GPU_CORE_UTILIZATION_POLICY and `memoryFactor`.
        gpu_memory_mib: KAI: the memory of the GPUs; then a fraction covers both the request and the memory, else
            memory alone is asked for. `queue`: KAI's queue.
        geometry: MIG: how the GPUs may be partitioned, or its name in `dilu_core.mig.GEOMETRIES`. The smallest
            profile with the request and the memory is taken.
        mps_replicas: MPS: the device plugin's `sharing.mps.resources[].replicas`, which caps each share at one of
            them; `None` where a node agent runs the daemon. `mps_resource`: the shared resource's name.
    Raises `InvalidArgumentError` naming the argument where the scheme cannot hold the instance at all.
    """
    demand, booked = _demand_of(config, memory_mib)
    check.choice("scheme", scheme, SCHEMES)
    check.text("container", container)
    if scheme == "hami":
        check.choice("core_policy", core_policy, CORE_POLICIES)
        unit = check.integer("memory_unit_mib", memory_unit_mib, at_least=1)
        made = _hami(demand, container, core_policy, unit)
    elif scheme == "kai":
        made = _kai(demand, container, check.text("queue", queue), gpu_memory_mib)
    elif scheme == "mig":
        made = _mig(demand, container, _geometry(geometry))
    else:
        made = _mps(demand, container, mps_replicas, check.text("mps_resource", mps_resource))
    if not isinstance(config, Instance):
        return made
    notes, requests = list(made.notes), dict(booked)
    if not isinstance(config.memory_mib, int):
        notes.append(f"every GPU of the gang gets the most any of them needs, {demand.memory_mib} MiB")
    if config.splittable:
        notes.append("the instance is not split: its memory must fit on one GPU")
    annotations = {**made.annotations, INSTANCE_ANNOTATION: json.dumps(config.to_dict())}
    return PodResources(
        made.scheme, container, made.limits, {**made.requests, **requests}, made.env, annotations, made.labels,
        made.scheduler_name, tuple(notes),
    )  # fmt: skip


def _demand_of(config: object, memory_mib: int | None) -> tuple[_Demand, dict[str, str]]:
    """The demand on each GPU, and what is asked of the host."""
    if isinstance(config, Instance):
        host = {}
        if config.cpu_milli:
            host["cpu"] = f"{config.cpu_milli}m"
        if config.host_memory_mib:
            host["memory"] = f"{config.host_memory_mib}Mi"
        most = max(config.memory_per_gpu_mib) if memory_mib is None else mib("memory_mib", memory_mib)
        return _Demand(config.request_milli, config.limit_milli, most, config.gpus), host
    if isinstance(config, Configuration) and memory_mib is None:
        listed = (config.memory_mib,) if isinstance(config.memory_mib, int) else config.memory_mib
        return _Demand(config.request_milli, config.limit_milli, max(listed), len(listed)), {}
    if not isinstance(config, Configuration | Quota | QuotaConfig):
        check.fail("config", f"is {config!r:.120}; expected an Instance, a Configuration, a QuotaConfig or a Quota.")
    if memory_mib is None:
        check.fail("memory_mib", "is None, and a quota says nothing of memory; expected MiB on each GPU.")
    return _Demand(config.request_milli, config.limit_milli, mib("memory_mib", memory_mib), 1), {}


def _hami(demand: _Demand, container: str, policy: str, unit_mib: int) -> PodResources:
    cores, notes = demand.request_percent, []
    if demand.limit > demand.request:
        says = {
            "default": "bursts beyond it only while alone on the GPU",
            "force": "does not burst",
            "disable": "is not capped at all, so that neighbours lose their guarantee",
        }
        notes.append(f"HAMi books and caps gpucores by one number: {cores} %, from the request; it {says[policy]}")
    elif policy != "force":
        how = "while others share the GPU" if policy == "default" else "never, so that neighbours lose their guarantee"
        notes.append(f"the limit of {demand.limit} milli is enforced {how}")
    if cores == 100:
        notes.append("100 % of the cores is an exclusive GPU in HAMi")
    if 10 * cores > demand.request:
        notes.append(f"the request of {demand.request} milli is rounded up to whole per cent, {cores}")
    notes.append("gpucores throttles kernel launches after the fact, it does not reserve SMs")
    memory = max(1, -(-demand.memory_mib // unit_mib))
    limits = {
        "nvidia.com/gpu": str(demand.gpus),
        "nvidia.com/gpucores": str(cores),
        "nvidia.com/gpumem": str(memory),
    }
    env = {} if policy == "default" else {"GPU_CORE_UTILIZATION_POLICY": policy}
    return PodResources("hami", container, limits, env=env, notes=tuple(notes))


def _kai(demand: _Demand, container: str, queue: str, gpu_memory_mib: int | None) -> PodResources:
    labels, annotations, notes = {"kai.scheduler/queue": queue}, {}, []
    limits: dict[str, str] = {}
    if gpu_memory_mib is None:
        annotations["gpu-memory"] = str(max(1, demand.memory_mib))
        notes.append(f"KAI books memory alone: the request of {demand.request} milli is not booked")
    else:
        size = mib("gpu_memory_mib", gpu_memory_mib, at_least=1)
        if demand.memory_mib > size:
            check.fail("gpu_memory_mib", f"is {size}, and the instance needs {demand.memory_mib} MiB on each GPU.")
        milli = max(demand.request, -(-demand.memory_mib * FULL_GPU_MILLI // size))
        if milli < FULL_GPU_MILLI:
            annotations["gpu-fraction"] = f"{milli / FULL_GPU_MILLI:.3f}".rstrip("0")
            notes.append(f"KAI books one number: {milli} milli covers the request and the memory")
        else:
            limits["nvidia.com/gpu"] = str(demand.gpus)
            notes.append("a fraction must be below 1, so whole GPUs are asked for")
    if not limits:
        annotations["gpu-fraction-container-name"] = container
        if demand.gpus > 1:
            annotations["gpu-fraction-num-devices"] = str(demand.gpus)
        notes.append("neither request nor limit is enforced: pods on a GPU take turns (or share SMs under MPS)")
        notes.append("memory is enforced in the modes HamiCore and NvFractions only")
    return PodResources("kai", container, limits, {}, {}, annotations, labels, "kai-scheduler", tuple(notes))


def _mig(demand: _Demand, container: str, geometry: MigGeometry) -> PodResources:
    if demand.gpus > 1:
        check.fail("config", f"is a gang of {demand.gpus} GPUs; partitions do not form gangs.")
    enough = geometry.sufficient(demand.request, demand.memory_mib)
    if not enough:
        check.fail("geometry", f"has no profile with {demand.request} milli and {demand.memory_mib} MiB.")
    profile, notes = enough[0], []
    if profile.share_milli < demand.limit:
        notes.append(f"no burst beyond the partition: {profile.share_milli} of the limit of {demand.limit} milli")
    spare_milli, spare_mib = profile.share_milli - demand.request, profile.memory_mib - demand.memory_mib
    if spare_milli or spare_mib:
        notes.append(f"{spare_milli} milli and {spare_mib} MiB of {profile.name} beyond the request are nobody else's")
    return PodResources("mig", container, {f"nvidia.com/mig-{profile.name}": "1"}, notes=tuple(notes))


def _mps(demand: _Demand, container: str, replicas: int | None, resource: str) -> PodResources:
    if demand.gpus > 1:
        check.fail("config", f"is a gang of {demand.gpus} GPUs; the device plugin gives a pod one shared GPU.")
    percent = demand.limit_percent
    notes = [f"MPS caps at {percent} % of the threads, from the limit, and reserves nothing: the request holds only"
             " while the caps on a GPU add up to 100 %"]  # fmt: skip
    if replicas is not None:
        count = check.integer("mps_replicas", replicas, at_least=1)
        share = 100 // count
        if demand.request_percent > share:
            check.fail("mps_replicas", f"is {count}, which caps each at {share} %, below the request's share.")
        if percent > share:
            notes.append(f"{count} replicas cap it at {share} % of the threads")
            percent = share
        notes.append(f"the device plugin gives each replica 1/{count} of the memory at most")
    notes.append("the percentage is fixed when the process starts")
    env = {
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(percent),
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={max(1, demand.memory_mib)}M",
    }
    return PodResources("mps", container, {resource: "1"}, env=env, notes=tuple(notes))


def _geometry(geometry: object) -> MigGeometry:
    found = GEOMETRIES.get(geometry) if isinstance(geometry, str) else geometry
    if not isinstance(found, MigGeometry):
        check.fail("geometry", f"is {geometry!r:.80}; expected a MigGeometry, or one of {', '.join(GEOMETRIES)}.")
    return found
