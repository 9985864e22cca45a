"""What is shared and who wants it: GPUs in nodes in a cluster, and instances with their demands.

Every quantity is an integer in the unit its name ends in. An instance books `request_milli`, `limit_milli` and memory
on each GPU it sits on; a GPU takes instances while the sums stay within `Oversubscription` and its type's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from dilu_core import _checks as check
from dilu_core.units import FULL_GPU_MILLI

InstanceKind = Literal["inference", "llm-inference", "training"]
"""What an instance does, and so how it is placed: see `Instance.kind`."""

INSTANCE_KINDS: tuple[str, ...] = get_args(InstanceKind)

MOST_GPUS_PER_NODE, MOST_NODES, MOST_MEMORY_MIB = 1024, 1_000_000, 2**40
"""Bounds that no machine and no cluster come near: a greater number is a mistake in units, and sums stay exact."""

_VERSION = 1


@dataclass(frozen=True)
class GpuType:
    """A model of GPU: its `name` and the memory each such GPU offers, in MiB."""

    name: str
    memory_mib: int

    def __post_init__(self) -> None:
        check.text("name", self.name)
        object.__setattr__(self, "memory_mib", _mib("memory_mib", self.memory_mib, at_least=1))


@dataclass(frozen=True)
class Node:
    """A machine with `gpus` GPUs of one type, numbered from 0.

    `cpu_milli` and `memory_mib` describe the host; `None` means not known. Instances state no host demand, so placement
    leaves them alone: they are there for schedulers that carry them along.
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
            object.__setattr__(self, "cpu_milli", check.integer("cpu_milli", self.cpu_milli, at_least=0))
        if self.memory_mib is not None:
            object.__setattr__(self, "memory_mib", _mib("memory_mib", self.memory_mib))


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
                    f"{known.memory_mib} MiB. Give the two types distinct names, such as 'A100-40GB' and 'A100-80GB'.",
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
            "gpu_types": [{"name": kind.name, "memory_mib": kind.memory_mib} for kind in self.gpu_types],
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
            kind = check.build(where, entry, GpuType, required=("name", "memory_mib"))
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
class Instance:
    """One running copy of a function, and what it books.

    Arguments:
        name: distinct within a problem or a cluster's state.
        kind: `"inference"`, `"llm-inference"` or `"training"`.
        request_milli, limit_milli: share of the SMs guaranteed, and the most it may burst to, on every GPU it sits on;
            1 <= request <= limit <= 1000.
        memory_mib: memory on each GPU of a gang (one number, or one per GPU); of the whole instance where `gpus` is 1.
        gpus: a gang of that many distinct GPUs of one node.
        splittable: its memory may be divided over several GPUs of one node (only with `gpus=1`). Each part then books
            the request, and the request again as its limit: a split instance does not burst.
        function: the function it is a copy of; `""` for none.
        affinity: functions it would rather share a GPU with (soft).
        anti_affinity: functions it must not share a GPU with (hard, and binding on both sides). Its own function here
            spreads the copies over GPUs.
        gpu_types: names of the GPU types it runs on; `None` for any.
    """

    name: str
    kind: InstanceKind
    request_milli: int
    limit_milli: int
    memory_mib: int | tuple[int, ...]
    _: KW_ONLY
    gpus: int = 1
    splittable: bool = False
    function: str = ""
    affinity: tuple[str, ...] = ()
    anti_affinity: tuple[str, ...] = ()
    gpu_types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check.text("name", self.name)
        check.choice("kind", self.kind, INSTANCE_KINDS)
        set_field = object.__setattr__
        set_field(self, "request_milli", check.share_milli("request_milli", self.request_milli))
        set_field(self, "limit_milli", check.share_milli("limit_milli", self.limit_milli))
        if self.limit_milli < self.request_milli:
            check.fail("limit_milli", f"is {self.limit_milli}, below request_milli {self.request_milli}.")
        set_field(self, "gpus", check.integer("gpus", self.gpus, at_least=1, at_most=MOST_GPUS_PER_NODE))
        set_field(self, "memory_mib", _memory(self.memory_mib, self.gpus))
        set_field(self, "splittable", check.flag("splittable", self.splittable))
        if self.splittable and self.gpus > 1:
            check.fail("splittable", f"is True with gpus={self.gpus}; only an instance of one GPU can be split.")
        check.text("function", self.function, empty=True)
        set_field(self, "affinity", check.names("affinity", self.affinity))
        set_field(self, "anti_affinity", check.names("anti_affinity", self.anti_affinity))
        both = [name for name in self.affinity if name in self.anti_affinity]
        if both:
            check.fail("affinity", f"names {both[0]!r}, which anti_affinity names too; keep one of the two.")
        if self.gpu_types is not None:
            set_field(self, "gpu_types", check.names("gpu_types", self.gpu_types))
            if not self.gpu_types:
                check.fail("gpu_types", "is empty, so no GPU would do; expected names of GPU types, or None for any.")

    @property
    def memory_per_gpu_mib(self) -> tuple[int, ...]:
        """Memory on each of the `gpus` GPUs of an instance that is not split."""
        memory = self.memory_mib
        return (memory,) * self.gpus if isinstance(memory, int) else memory

    @property
    def total_memory_mib(self) -> int:
        """Memory over all its GPUs."""
        return sum(self.memory_per_gpu_mib)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back; what has its default is left out."""
        data: dict[str, Any] = {
            "version": _VERSION,
            "name": self.name,
            "kind": self.kind,
            "request_milli": self.request_milli,
            "limit_milli": self.limit_milli,
            "memory_mib": self.memory_mib if isinstance(self.memory_mib, int) else list(self.memory_mib),
        }
        if self.gpus != 1:
            data["gpus"] = self.gpus
        if self.splittable:
            data["splittable"] = True
        if self.function:
            data["function"] = self.function
        for field in ("affinity", "anti_affinity", "gpu_types"):
            if getattr(self, field):
                data[field] = list(getattr(self, field))
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Instance:
        """The instance `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        return check.build(
            "instance",
            check.document("instance", data, version=_VERSION),
            cls,
            required=("name", "kind", "request_milli", "limit_milli", "memory_mib"),
            optional=("gpus", "splittable", "function", "affinity", "anti_affinity", "gpu_types"),
        )


def _mib(argument: str, value: object, *, at_least: int = 0) -> int:
    return check.integer(argument, value, at_least=at_least, at_most=MOST_MEMORY_MIB)


def _memory(value: object, gpus: int) -> int | tuple[int, ...]:
    """Memory as one integer where all GPUs of the gang want the same, else as one per GPU, in the order given."""
    unordered = isinstance(value, str | bytes | bytearray | Set | Mapping)
    if unordered or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        return _mib("memory_mib", value)
    each = tuple(_mib(f"memory_mib[{i}]", item) for i, item in enumerate(value))
    if len(each) != gpus:
        check.fail("memory_mib", f"has {len(each)} numbers for gpus={gpus}; expected one number, or one per GPU.")
    return each[0] if len(set(each)) == 1 else each


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
