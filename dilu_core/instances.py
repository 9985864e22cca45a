"""What wants to sit on GPUs: instances of functions, and the quota configurations each may run in.

Every quantity is an integer in the unit its name ends in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from dilu_core import _checks as check

InstanceKind = Literal["inference", "llm-inference", "training"]
"""What an instance does, and so how it is placed: see `Instance.kind`."""

INSTANCE_KINDS: tuple[str, ...] = get_args(InstanceKind)

MOST_GPUS_PER_NODE, MOST_MEMORY_MIB, MOST_CPU_MILLI = 1024, 2**40, 2**40
"""Bounds that no machine comes near: a greater number is a mistake in units, and sums stay exact."""

_VERSION = 1


@dataclass(frozen=True)
class Configuration:
    """A quota configuration an instance may run in: request, limit and memory, as in `Instance`."""

    request_milli: int
    limit_milli: int
    memory_mib: int | tuple[int, ...]

    def __post_init__(self) -> None:
        request = check.share_milli("request_milli", self.request_milli)
        limit = check.share_milli("limit_milli", self.limit_milli)
        if limit < request:
            check.fail("limit_milli", f"is {limit}, below request_milli {request}.")
        object.__setattr__(self, "request_milli", request)
        object.__setattr__(self, "limit_milli", limit)
        memory = self.memory_mib
        object.__setattr__(self, "memory_mib", _memory(memory, len(memory) if isinstance(memory, tuple | list) else 1))

    def memory_per_gpu_mib(self, gpus: int) -> tuple[int, ...]:
        """Memory on each GPU of an instance of `gpus` that is not split."""
        memory = self.memory_mib
        return (memory,) * gpus if isinstance(memory, int) else memory

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value whose keys are the fields."""
        memory = self.memory_mib
        listed = memory if isinstance(memory, int) else list(memory)
        return {"request_milli": self.request_milli, "limit_milli": self.limit_milli, "memory_mib": listed}


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
        cpu_milli, host_memory_mib: what the whole instance takes of its node's CPU and host memory.
        alternatives: other quota configurations that would serve as well, such as points of a Pareto front with the
            same throughput. Placement may choose any; `configurations` numbers them, its own being 0.
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
    cpu_milli: int = 0
    host_memory_mib: int = 0
    alternatives: tuple[Configuration, ...] = ()

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
        set_field(self, "cpu_milli", check.integer("cpu_milli", self.cpu_milli, at_least=0, at_most=MOST_CPU_MILLI))
        set_field(self, "host_memory_mib", mib("host_memory_mib", self.host_memory_mib))
        alternatives = check.instances_of("alternatives", self.alternatives, Configuration)
        if alternatives:
            set_field(self, "alternatives", tuple(_for_gpus(i, each, self.gpus) for i, each in enumerate(alternatives)))

    @cached_property
    def configurations(self) -> tuple[Configuration, ...]:
        """Its own configuration and the alternatives, in order of preference."""
        return (Configuration(self.request_milli, self.limit_milli, self.memory_mib), *self.alternatives)

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
        for field in ("cpu_milli", "host_memory_mib"):
            if getattr(self, field):
                data[field] = getattr(self, field)
        if self.alternatives:
            data["alternatives"] = [each.to_dict() for each in self.alternatives]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Instance:
        """The instance `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        fields = dict(check.document("instance", data, version=_VERSION))
        if "alternatives" in fields:
            fields["alternatives"] = tuple(
                check.build(where, entry, Configuration, required=("request_milli", "limit_milli", "memory_mib"))
                for where, entry in check.entries("instance", fields, "alternatives")
            )
        return check.build(
            "instance",
            fields,
            cls,
            required=("name", "kind", "request_milli", "limit_milli", "memory_mib"),
            optional=(
                "gpus", "splittable", "function", "affinity", "anti_affinity", "gpu_types", "cpu_milli",
                "host_memory_mib", "alternatives",
            ),
        )  # fmt: skip


def mib(argument: str, value: object, *, at_least: int = 0) -> int:
    return check.integer(argument, value, at_least=at_least, at_most=MOST_MEMORY_MIB)


def _memory(value: object, gpus: int) -> int | tuple[int, ...]:
    """Memory as one integer where all GPUs of the gang want the same, else as one per GPU, in the order given."""
    unordered = isinstance(value, str | bytes | bytearray | Set | Mapping)
    if unordered or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        return mib("memory_mib", value)
    each = tuple(mib(f"memory_mib[{i}]", item) for i, item in enumerate(value))
    if len(each) != gpus:
        check.fail("memory_mib", f"has {len(each)} numbers for gpus={gpus}; expected one number, or one per GPU.")
    return each[0] if len(set(each)) == 1 else each


def _for_gpus(number: int, configuration: Configuration, gpus: int) -> Configuration:
    """The configuration with its memory checked against the instance's number of GPUs."""
    memory = configuration.memory_mib
    if not isinstance(memory, int) and len(memory) != gpus:
        check.fail(f"alternatives[{number}].memory_mib", f"has {len(memory)} numbers for gpus={gpus}.")
    return configuration
