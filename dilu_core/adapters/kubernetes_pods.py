"""Kubernetes pods as our instances, read from plain dictionaries.

A pod made with `pod_resources` reads back exactly; any other is understood from what it asks for. Sources of the
formats: those of `dilu_core.adapters.pod_resources`; what a pod asks for in all:
https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from dilu_core import _checks as check
from dilu_core.adapters.manifests import listed, mapping
from dilu_core.adapters.pod_resources import INSTANCE_ANNOTATION
from dilu_core.adapters.quantities import demand_cpu_milli, demand_mib, parse_quantity, whole_quantity
from dilu_core.instances import INSTANCE_KINDS, Instance, InstanceKind, mib
from dilu_core.units import FULL_GPU_MILLI

KIND_LABEL, FUNCTION_LABEL = "dilu-core/kind", "dilu-core/function"
"""Labels of a pod that say what it does and which function it is a copy of."""

_FUNCTION_LABELS = (FUNCTION_LABEL, "app.kubernetes.io/name", "app")
_WHOLE = ("nvidia.com/gpu", "nvidia.com/gpu.shared")
_HAMI = ("nvidia.com/gpucores", "nvidia.com/gpumem", "nvidia.com/gpumem-percentage")
_PARTITIONS = "nvidia.com/mig-"
_PARTITION = re.compile(r"([1-7])g\.([1-9]\d*)gb([.-][a-z]+)*")
"""Slices, memory, and attributes such as `.me` that change neither."""
_PERCENTAGE, _PINNED = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"

_Booked = tuple[int, int, int, int]  # request and limit in milli, memory on each GPU in MiB, GPUs


def pod_name(pod: Mapping[str, Any]) -> str:
    """`namespace/name`, which names the pod's instance."""
    metadata = mapping("pod.metadata", mapping("pod", pod).get("metadata"))
    return f"{metadata.get('namespace') or 'default'}/{check.text('pod.metadata.name', metadata.get('name'))}"


def instance_from_pod(pod: Mapping[str, Any], *, gpu_memory_mib: int | None = None) -> Instance | None:
    """The instance that `pod` is, named `namespace/name`; `None` for a pod that asks for no GPU.

    What `pod_resources` annotated is taken as it is. Otherwise: HAMi's cores are request and limit, KAI's fraction is
    the request and nothing limits, a MIG profile and an MPS percentage are both; a pod that asks for whole GPUs has
    all their SMs. Where the share is not said, the request is the least (1 milli) and the limit a whole GPU.
    `gpu_memory_mib` turns parts of a GPU's memory into MiB.

    Raises `InvalidArgumentError` naming what cannot be read: a part of the memory without `gpu_memory_mib`, two
    containers that ask for GPUs, a quantity that is none.
    """
    name = pod_name(pod)
    metadata, spec = mapping("pod.metadata", pod["metadata"]), mapping("pod.spec", pod.get("spec"))
    annotations = mapping("pod.metadata.annotations", metadata.get("annotations"))
    labels = mapping("pod.metadata.labels", metadata.get("labels"))
    if INSTANCE_ANNOTATION in annotations:
        return replace(_annotated(annotations[INSTANCE_ANNOTATION]), name=name)
    size = None if gpu_memory_mib is None else mib("gpu_memory_mib", gpu_memory_mib, at_least=1)
    booked = _fraction(annotations, size) or _extended(spec, size)
    if booked is None:
        return None
    request, limit, memory, gpus = booked
    kind = cast(InstanceKind, check.choice(KIND_LABEL, labels.get(KIND_LABEL, "inference"), INSTANCE_KINDS))
    function = next((str(labels[label]) for label in _FUNCTION_LABELS if labels.get(label)), "")
    cpu, host = host_demand(pod)
    return Instance(
        name, kind, request, limit, memory, gpus=gpus, function=function, cpu_milli=cpu, host_memory_mib=host
    )


def host_demand(pod: Mapping[str, Any]) -> tuple[int, int]:
    """CPU in milli and memory in MiB that the pod asks of its node.

    The sum over its containers and sidecars, or the most any initial container asks for, plus its overhead.
    """
    spec = mapping("pod.spec", pod.get("spec"))
    initial = listed("pod.spec.initContainers", spec.get("initContainers"))
    once = [_host(each) for each in initial if each.get("restartPolicy") != "Always"]
    sidecars = [each for each in initial if each.get("restartPolicy") == "Always"]
    running = [_host(each) for each in (*listed("pod.spec.containers", spec.get("containers")), *sidecars)]
    extra = mapping("pod.spec.overhead", spec.get("overhead"))
    cpu = max(sum(each[0] for each in running), max((each[0] for each in once), default=0))
    memory = max(sum(each[1] for each in running), max((each[1] for each in once), default=0))
    return (
        cpu + demand_cpu_milli("pod.spec.overhead.cpu", extra.get("cpu", 0)),
        memory + demand_mib("pod.spec.overhead.memory", extra.get("memory", 0)),
    )


def _annotated(text: object) -> Instance:
    where = f"pod.metadata.annotations[{INSTANCE_ANNOTATION!r}]"
    try:
        data = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):  # no JSON, or brackets nested without end
        data = None
    if not isinstance(data, Mapping):
        check.fail(where, f"is {text!r:.80}; expected JSON as pod_resources writes it.")
    return Instance.from_dict(data)


def _fraction(annotations: Mapping[str, Any], size: int | None) -> _Booked | None:
    """What KAI-Scheduler's annotations ask for."""
    gpus = max(1, whole_quantity("gpu-fraction-num-devices", annotations.get("gpu-fraction-num-devices", 1)))
    if "gpu-fraction" in annotations:
        part = parse_quantity("gpu-fraction", annotations["gpu-fraction"])
        if not 0 < part <= 1:
            check.fail("gpu-fraction", f"is {annotations['gpu-fraction']!r:.80}; expected a number above 0, up to 1.")
        memory = -int(-part * _needed(size, "gpu-fraction is a part of it") // 1)
        return -int(-part * FULL_GPU_MILLI // 1), FULL_GPU_MILLI, memory, gpus
    if "gpu-memory" in annotations:
        return 1, FULL_GPU_MILLI, whole_quantity("gpu-memory", annotations["gpu-memory"]), gpus
    return None


def _extended(spec: Mapping[str, Any], size: int | None) -> _Booked | None:
    """What the one container that asks for GPUs as resources asks for."""
    asking = []
    for container in listed("pod.spec.containers", spec.get("containers")):
        resources = mapping("resources", container.get("resources"))
        both = {**mapping("requests", resources.get("requests")), **mapping("limits", resources.get("limits"))}
        asked = {key: whole_quantity(key, value) for key, value in both.items() if _is_of_gpus(key)}
        if any(asked.values()):
            asking.append((asked, _environment(container)))
    if len(asking) > 1:
        check.fail("pod.spec.containers", f"has {len(asking)} containers that ask for GPUs; one is understood.")
    if not asking:
        return None
    asked, env = asking[0]
    partitions = {key: count for key, count in asked.items() if count and key.startswith(_PARTITIONS)}
    if partitions:
        return _one_partition(partitions)
    gpus = max((asked[key] for key in _WHOLE if key in asked), default=1)
    if any(key in asked for key in _HAMI):
        return *_cores_and_memory(asked, env, size), gpus
    if _PERCENTAGE in env:
        share = _share(_PERCENTAGE, env[_PERCENTAGE])
        return share, share, _pinned_mib(env, size), gpus
    return FULL_GPU_MILLI, FULL_GPU_MILLI, size or 0, gpus


def _is_of_gpus(resource: object) -> bool:
    return isinstance(resource, str) and (resource in _WHOLE or resource in _HAMI or resource.startswith(_PARTITIONS))


def _one_partition(partitions: Mapping[str, int]) -> _Booked:
    """What a MIG profile books; seven slices are a whole GPU's SMs."""
    key, count = next(iter(partitions.items()))
    profile = _PARTITION.fullmatch(key.removeprefix(_PARTITIONS))
    if profile is None:
        check.fail(key, "names no MIG profile; expected one such as 'nvidia.com/mig-3g.20gb'.")
    if sum(partitions.values()) != 1:
        also = f", beside {len(partitions) - 1} other profiles" if len(partitions) > 1 else ""
        check.fail(key, f"is {count}{also}; an instance takes one partition.")
    share = FULL_GPU_MILLI * int(profile[1]) // 7
    return share, share, int(profile[2]) * 1024, 1


def _cores_and_memory(asked: Mapping[str, int], env: Mapping[str, str], size: int | None) -> tuple[int, int, int]:
    """HAMi's request, limit and memory on each GPU."""
    cores = asked.get("nvidia.com/gpucores", 0)
    share = _share("nvidia.com/gpucores", cores) if cores else 1
    uncapped = cores == 0 or env.get("GPU_CORE_UTILIZATION_POLICY", "").lower() == "disable"
    memory = asked.get("nvidia.com/gpumem")
    if memory is None:
        percent = asked.get("nvidia.com/gpumem-percentage", 100)
        memory = -(-percent * _needed(size, "nvidia.com/gpumem is not given") // 100)
    return share, FULL_GPU_MILLI if uncapped else share, memory


def _share(argument: str, percent: object) -> int:
    return check.share_milli(argument, -int(-parse_quantity(argument, percent) * 10 // 1))


def _pinned_mib(env: Mapping[str, str], size: int | None) -> int:
    """The memory limit of device 0, such as `0=8192M` or `0=8G`; else the whole GPU's."""
    for entry in env.get(_PINNED, "").split(","):
        device, _, limit = entry.partition("=")
        if device.strip() == "0":
            return demand_mib(_PINNED, limit.strip() + "i")
    return _needed(size, f"{_PINNED} says nothing of device 0")


def _needed(size: int | None, why: str) -> int:
    if size is None:
        check.fail("gpu_memory_mib", f"is None, but {why}; give the memory of the GPUs.")
    return size


def _host(container: Mapping[str, Any]) -> tuple[int, int]:
    resources = mapping("resources", container.get("resources"))
    asked = {**mapping("limits", resources.get("limits")), **mapping("requests", resources.get("requests"))}
    return demand_cpu_milli("cpu", asked.get("cpu", 0)), demand_mib("memory", asked.get("memory", 0))


def _environment(container: Mapping[str, Any]) -> dict[str, str]:
    entries = listed("env", container.get("env"))
    return {str(each.get("name")): str(each["value"]) for each in entries if each.get("value") is not None}
