"""Kubernetes nodes as our nodes, read from plain dictionaries.

Sources of the formats: labels of GPU Feature Discovery,
https://github.com/NVIDIA/k8s-device-plugin/blob/main/docs/gpu-feature-discovery/README.md, and HAMi's annotation,
https://github.com/Project-HAMi/HAMi/blob/master/docs/develop/protocol.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dilu_core import _checks as check
from dilu_core.adapters.manifests import mapping
from dilu_core.adapters.quantities import offered_cpu_milli, offered_mib, whole_quantity
from dilu_core.cluster import GpuType, Node
from dilu_core.mig import MigGeometry

_REGISTER = "hami.io/node-nvidia-register"


def node_from_kubernetes(
    node: Mapping[str, Any],
    *,
    gpu_type: GpuType | None = None,
    gpus: int | None = None,
    mig: MigGeometry | None = None,
) -> Node | None:
    """The node with its physical GPUs and what it offers of CPU and memory; `None` for a node without GPUs.

    GPUs, their product and memory come from the labels of GPU Feature Discovery, else from HAMi's annotation;
    `gpu_type` and `gpus` overrule them, and `mig` says how the GPUs may be partitioned. Of `allocatable`, CPU and
    memory are read; the count of `nvidia.com/gpu` there is not, as sharing multiplies it.

    Raises `InvalidArgumentError` for labels that describe partitions of one size (the "single" MIG strategy), or that
    are incomplete.
    """
    if gpu_type is not None and not isinstance(gpu_type, GpuType):
        check.fail("gpu_type", f"is {gpu_type!r:.80}; expected a GpuType or None.")
    metadata = mapping("node.metadata", mapping("node", node).get("metadata"))
    name = check.text("node.metadata.name", metadata.get("name"))
    offered = mapping("node.status.allocatable", mapping("node.status", node.get("status")).get("allocatable"))
    if gpu_type is None or gpus is None:
        found = _discovered(mapping("node.metadata.labels", metadata.get("labels")))
        found = found or _registered(mapping("node.metadata.annotations", metadata.get("annotations")))
        if found is None and any(str(key).startswith("nvidia.com/") for key in offered):
            check.fail("node.metadata.labels", f"of {name!r} lack nvidia.com/gpu.product; give gpu_type and gpus.")
        if found is None:
            return None
        gpu_type, gpus = gpu_type or found[0], found[1] if gpus is None else gpus
    return Node(
        name,
        gpu_type if mig is None else replace(gpu_type, mig=mig),
        gpus,
        cpu_milli=offered_cpu_milli("node.status.allocatable.cpu", offered["cpu"]) if "cpu" in offered else None,
        memory_mib=offered_mib("node.status.allocatable.memory", offered["memory"]) if "memory" in offered else None,
    )


def _discovered(labels: Mapping[str, Any]) -> tuple[GpuType, int] | None:
    """GPU type and count by the labels of GPU Feature Discovery, which appends -SHARED where GPUs are shared."""
    product = labels.get("nvidia.com/gpu.product")
    if product is None:
        return None
    if "-MIG-" in str(product):
        check.fail("nvidia.com/gpu.product", f"is {product!r}, which describes partitions; give gpu_type and gpus.")
    count, memory = (
        whole_quantity(key, check.item("node.metadata.labels", labels, key))
        for key in ("nvidia.com/gpu.count", "nvidia.com/gpu.memory")
    )
    return GpuType(str(product).removesuffix("-SHARED"), memory), count


def _registered(annotations: Mapping[str, Any]) -> tuple[GpuType, int] | None:
    """GPU type and count by HAMi's annotation: a GPU's fields are UUID, splits, MiB, cores, type, NUMA, health, ..."""
    text = annotations.get(_REGISTER)
    if not isinstance(text, str):
        return None
    rows = [entry.split(",") for entry in text.split(":") if entry.strip()]
    if any(len(row) < 7 for row in rows):
        check.fail(_REGISTER, f"is {text!r:.80}; expected GPUs of seven or more fields, each ended by a colon.")
    healthy = [row for row in rows if row[6].strip().lower() == "true"]
    types = {(row[4], whole_quantity(_REGISTER, row[2])) for row in healthy}
    if len(types) > 1:
        check.fail(_REGISTER, f"names {len(types)} types of GPU; a node has one. Give gpu_type and gpus.")
    if not types:
        return None
    name, memory = types.pop()
    return GpuType(name, memory), len(healthy)
