"""What is shared and who wants it: GPUs in nodes in a cluster, and instances with their demands.

Every quantity is an integer in the unit its name ends in. An instance books `request_milli`, `limit_milli` and memory
on each GPU it sits on; a GPU takes instances while the sums stay within `Oversubscription` and its type's memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dilu_core import _checks as check
from dilu_core.instances import (
    INSTANCE_KINDS,
    MOST_CPU_MILLI,
    MOST_GPUS_PER_NODE,
    MOST_MEMORY_MIB,
    Configuration,
    Instance,
    InstanceKind,
    mib,
)
from dilu_core.mig import MigGeometry
from dilu_core.units import FULL_GPU_MILLI

__all__ = [
    "INSTANCE_KINDS", "MOST_GPUS_PER_NODE", "MOST_MEMORY_MIB", "MOST_NODES", "Cluster", "Configuration", "GpuType",
    "Instance", "InstanceKind", "Node", "Oversubscription",
]  # fmt: skip

MOST_NODES = 1_000_000
"""A bound that no cluster comes near: a greater number is a mistake."""

_VERSION = 1


@dataclass(frozen=True)
class GpuType:
    """A model of GPU: its `name` and the memory each such GPU offers, in MiB.

    With `mig` every GPU of this type is partitioned: each instance on it takes a partition of its own, which gives at
    least its request and its memory, and beyond which it cannot burst. Gangs and split instances go elsewhere.
    """

    name: str
    memory_mib: int
    mig: MigGeometry | None = None

    def __post_init__(self) -> None:
        check.text("name", self.name)
        object.__setattr__(self, "memory_mib", mib("memory_mib", self.memory_mib, at_least=1))
        if self.mig is not None and not isinstance(self.mig, MigGeometry):
            check.fail(
                "mig", f"is {self.mig!r:.120}; expected a MigGeometry, such as dilu_core.mig.A100_40GB, or None."
            )


@dataclass(frozen=True)
class Node:
    """A machine with `gpus` GPUs of one type, numbered from 0.

    `cpu_milli` and `memory_mib` are what the host offers to instances, never oversubscribed; `None` means no limit.
    """

    name: str
    gpu_type: GpuType
    gpus: int
    cpu_milli: int | None = None
    memory_mib: int | None = None

    def __post_init__(self) -> None:
        check.text("name", self.name)
        if not isinstance(self.gpu_type, GpuType):
            check.fail("gpu_type", f"is {self.gpu_type!r}; expected a GpuType, such as GpuType('A100', 40960).")
        object.__setattr__(self, "gpus", check.integer("gpus", self.gpus, at_least=1, at_most=MOST_GPUS_PER_NODE))
        if self.cpu_milli is not None:
            object.__setattr__(
                self, "cpu_milli", check.integer("cpu_milli", self.cpu_milli, at_least=0, at_most=MOST_CPU_MILLI)
            )
        if self.memory_mib is not None:
            object.__setattr__(self, "memory_mib", mib("memory_mib", self.memory_mib))


@dataclass(frozen=True)
class Cluster:
    """The nodes instances may be placed on. No nodes is a legal cluster, on which nothing fits.

    Raises `InvalidArgumentError` where two nodes share a name, or two GPU types share a name but not their memory.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        nodes = check.instances_of("nodes", self.nodes, Node)
        check.distinct("nodes", [node.name for node in nodes])
        types: dict[str, GpuType] = {}
        for i, node in enumerate(nodes):
            known = types.setdefault(node.gpu_type.name, node.gpu_type)
            if known != node.gpu_type:
                check.fail(
                    f"nodes[{i}].gpu_type",
                    f"is {node.gpu_type.name!r} with {node.gpu_type.memory_mib} MiB, but an earlier node has it with "
                    f"{known.memory_mib} MiB, or with other partitions. Give the two types distinct names, such as "
                    "'A100-40GB' and 'A100-80GB'.",
                )
        object.__setattr__(self, "nodes", nodes)

    @classmethod
    def homogeneous(cls, nodes: int, gpus_per_node: int, gpu_type: GpuType) -> Cluster:
        """`nodes` equal nodes named node-0, node-1, ... of `gpus_per_node` GPUs each."""
        count = check.integer("nodes", nodes, at_least=0, at_most=MOST_NODES)
        check.integer("gpus_per_node", gpus_per_node, at_least=1, at_most=MOST_GPUS_PER_NODE)
        if not isinstance(gpu_type, GpuType):
            check.fail("gpu_type", f"is {gpu_type!r}; expected a GpuType, such as GpuType('A100', 40960).")
        return cls(tuple(Node(f"node-{i}", gpu_type, gpus_per_node) for i in range(count)))

    @property
    def gpus(self) -> int:
        """GPUs of the whole cluster."""
        return sum(node.gpus for node in self.nodes)

    @cached_property
    def gpu_types(self) -> tuple[GpuType, ...]:
        """The distinct GPU types, in order of first appearance."""
        return tuple(dict.fromkeys(node.gpu_type for node in self.nodes))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "version": _VERSION,
            "gpu_types": [
                {"name": kind.name, "memory_mib": kind.memory_mib}
                | ({} if kind.mig is None else {"mig": kind.mig.to_dict()})
                for kind in self.gpu_types
            ],
            "nodes": [
                {
                    "name": node.name,
                    "gpu_type": node.gpu_type.name,
                    "gpus": node.gpus,
                    "cpu_milli": node.cpu_milli,
                    "memory_mib": node.memory_mib,
                }
                for node in self.nodes
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cluster:
        """The cluster `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("cluster", data, version=_VERSION)
        types: dict[str, GpuType] = {}
        for where, entry in check.entries("cluster", document, "gpu_types"):
            mig = entry.get("mig")
            geometry = None if mig is None else MigGeometry.from_dict(mig, argument=f"{where}.mig")
            fields = {**entry, "mig": geometry}
            kind = check.build(where, fields, GpuType, required=("name", "memory_mib", "mig"))
            types[kind.name] = kind
        nodes = []
        for where, entry in check.entries("cluster", document, "nodes"):
            name = check.text(f"{where}.gpu_type", check.item(where, entry, "gpu_type"))
            if name not in types:
                check.fail(f"{where}.gpu_type", f"is {name!r}; expected one of gpu_types: {', '.join(types)}.")
            fields = {**entry, "gpu_type": types[name]}
            required = ("name", "gpu_type", "gpus")
            nodes.append(check.build(where, fields, Node, required=required, optional=("cpu_milli", "memory_mib")))
        return cls(tuple(nodes))


@dataclass(frozen=True)
class Oversubscription:
    """Caps per GPU: the sum of requests stays within `request_milli`, the sum of limits within `limit_milli`.

    Requests are guarantees, so their cap is at most a whole GPU (less, to keep a reserve). Limits may overlap: a cap of
    1500 lets bursts share half a GPU more than there is. Memory is never oversubscribed.
    """

    request_milli: int = FULL_GPU_MILLI
    limit_milli: int = 1500

    def __post_init__(self) -> None:
        request = check.share_milli("request_milli", self.request_milli)
        limit = check.integer("limit_milli", self.limit_milli, at_least=1)
        if limit < request:
            check.fail(
                "limit_milli", f"is {limit}, below the cap on requests, {request}; raise it or lower request_milli."
            )
        object.__setattr__(self, "request_milli", request)
        object.__setattr__(self, "limit_milli", limit)
