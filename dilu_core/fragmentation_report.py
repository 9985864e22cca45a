"""The fragmentation of a placement as values: of GPUs, nodes and the cluster, and its change between two placements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dilu_core import _checks as check
from dilu_core.arrival_mix import TaskMix
from dilu_core.cluster import MOST_GPUS_PER_NODE, MOST_NODES

_VERSION = 2
_MOST = check.LARGEST * MOST_NODES * MOST_GPUS_PER_NODE  # of any GPU, over every GPU of a cluster
_RESOURCES = (("request_milli", "SM request", "milli"), ("limit_milli", "SM limit", "milli"),
              ("memory_mib", "memory", "MiB"))  # fmt: skip


@dataclass(frozen=True)
class Room:
    """How much of a resource there is on some GPUs, and how much of it is free."""

    capacity: int
    free: int

    @property
    def fragmentation(self) -> float:
        """The free share, 0..1."""
        return self.free / self.capacity if self.capacity else 0.0

    def __add__(self, other: Room) -> Room:
        return Room(self.capacity + other.capacity, self.free + other.free)


@dataclass(frozen=True)
class Fragmentation:
    """Room on one GPU, or summed over those of a node or of the cluster; shares in milli-GPU, memory in MiB.

    `unusable_milli` is the part of the free request that the mix is expected not to be able to use (FGD).
    """

    active_gpus: int
    request_milli: Room
    limit_milli: Room
    memory_mib: Room
    unusable_milli: float = 0.0

    @property
    def unusable_share(self) -> float:
        """The unusable part of the free request, 0..1."""
        free = self.request_milli.free
        return self.unusable_milli / free if free else 0.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        data: dict[str, Any] = {"active_gpus": self.active_gpus}
        for name, _, _ in _RESOURCES:
            room: Room = getattr(self, name)
            data[name] = {"capacity": room.capacity, "free": room.free, "fragmentation": room.fragmentation}
        return data | {"unusable_milli": self.unusable_milli, "unusable_share": self.unusable_share}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, argument: str = "fragmentation") -> Fragmentation:
        """The value `to_dict` wrote; `InvalidArgumentError` names what of `argument` is missing or wrong."""
        if not isinstance(data, Mapping):
            check.fail(argument, f"is {data!r:.120}; expected a mapping.")
        active = check.integer(f"{argument}.active_gpus", check.item(argument, data, "active_gpus"), at_least=0)
        rooms = []
        for name, _, _ in _RESOURCES:
            where, room = f"{argument}.{name}", check.item(argument, data, name)
            if not isinstance(room, Mapping):
                check.fail(where, f"is {room!r:.120}; expected a mapping.")
            capacity = _read_sum(where, room, "capacity", _MOST)
            rooms.append(Room(capacity, _read_sum(where, room, "free", capacity)))
        unusable = check.item(argument, data, "unusable_milli")
        request, limit, memory = rooms
        return cls(active, request, limit, memory, check.finite(f"{argument}.unusable_milli", unusable, at_least=0.0))


def _read_sum(argument: str, data: Mapping[str, Any], key: str, most: int) -> int:
    """A sum over GPUs, which may exceed the greatest integer that the library takes for one."""
    value = check.item(argument, data, key)
    if isinstance(value, int) and check.LARGEST < value <= most:
        return value
    return check.integer(f"{argument}.{key}", value, at_least=0, at_most=most)


@dataclass(frozen=True)
class Stranded:
    """Free request and free memory on active GPUs that no instance of the problem could use, by what stands in the way.

    It does not depend on the mix. What two resources block counts under both.
    """

    request_milli_by_memory: int
    request_milli_by_limit: int
    memory_mib_by_request: int
    memory_mib_by_limit: int


@dataclass(frozen=True)
class FragmentationReport:
    """Fragmentation of GPUs, by (node, GPU), of their nodes, and of both together.

    `gpus`, `nodes` and their sum `cluster` cover the active GPUs (those that hold an instance), or all of them where
    the report was asked for with `over="all"`. `everywhere` is the sum over all GPUs in either case, which is what FGD
    counts. `mix` is what `unusable_milli` was measured for.
    """

    gpus: Mapping[tuple[str, int], Fragmentation]
    nodes: Mapping[str, Fragmentation]
    cluster: Fragmentation
    stranded: Stranded
    everywhere: Fragmentation
    mix: TaskMix

    def change_from(self, before: FragmentationReport) -> FragmentationChange:
        """What became of fragmentation since `before`, which may be of another cluster or mix."""
        if not isinstance(before, FragmentationReport):
            check.fail("before", f"is {before!r:.120}; expected a FragmentationReport.")
        return FragmentationChange(before, self)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "version": _VERSION,
            "cluster": self.cluster.to_dict(),
            "everywhere": self.everywhere.to_dict(),
            "stranded": dict(vars(self.stranded)),
            "nodes": {name: node.to_dict() for name, node in self.nodes.items()},
            "gpus": [{"node": node, "gpu": gpu, **each.to_dict()} for (node, gpu), each in self.gpus.items()],
            "mix": self.mix.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FragmentationReport:
        """The report `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("report", data, version=_VERSION)
        gpus = {}
        for where, entry in check.entries("report", document, "gpus"):
            node = check.text(f"{where}.node", check.item(where, entry, "node"))
            gpu = check.integer(f"{where}.gpu", check.item(where, entry, "gpu"), at_least=0)
            gpus[node, gpu] = Fragmentation.from_dict(entry, argument=where)
        nodes, stranded = check.item("report", document, "nodes"), check.item("report", document, "stranded")
        for name, value in (("nodes", nodes), ("stranded", stranded)):
            if not isinstance(value, Mapping):
                check.fail(f"report.{name}", f"is {value!r:.120}; expected a mapping.")
        lost = [_read_sum("report.stranded", stranded, field.name, _MOST) for field in fields(Stranded)]
        cluster, everywhere = (
            Fragmentation.from_dict(check.item("report", document, name), argument=f"report.{name}")
            for name in ("cluster", "everywhere")
        )
        return cls(
            gpus,
            {name: Fragmentation.from_dict(each, argument=f"report.nodes[{name!r}]") for name, each in nodes.items()},
            cluster,
            Stranded(*lost),
            everywhere,
            TaskMix.from_dict(check.item("report", document, "mix")),
        )

    def __str__(self) -> str:
        total, whole = self.cluster, self.everywhere
        lines = [f"fragmentation of {total.active_gpus} active GPUs on {len(self.nodes)} nodes"]
        for name, title, unit in _RESOURCES:
            room: Room = getattr(total, name)
            lines.append(f"  {title:<10} {room.fragmentation:6.1%}  ({room.free} of {room.capacity} {unit} free)")
        lost = self.stranded
        return "\n".join(
            [
                *lines,
                f"  stranded   {lost.request_milli_by_memory} milli by memory, {lost.request_milli_by_limit} by limit",
                f"             {lost.memory_mib_by_request} MiB by request, {lost.memory_mib_by_limit} by limit",
                f"  unusable   {total.unusable_share:6.1%}  ({total.unusable_milli:.0f} of {total.request_milli.free} "
                f"milli free, expected over {len(self.mix)} shapes)",
                f"  all GPUs   {whole.unusable_share:6.1%}  ({whole.unusable_milli:.0f} of {whole.request_milli.free} "
                "milli free)",
            ]
        )


@dataclass(frozen=True)
class FragmentationChange:
    """Fragmentation before and after; printed, a table of both and their difference."""

    before: FragmentationReport
    after: FragmentationReport

    def rows(self) -> tuple[tuple[str, float, float], ...]:
        """(measure, before, after): the GPUs in use, the free shares of what the reports cover, the unusable shares."""
        was, now = self.before, self.after
        found = [("active GPUs", float(was.cluster.active_gpus), float(now.cluster.active_gpus))]
        found += [
            (f"{title} free", getattr(was.cluster, name).fragmentation, getattr(now.cluster, name).fragmentation)
            for name, title, _ in _RESOURCES
        ]
        for title, a, b in (
            ("unusable milli", was.cluster, now.cluster),
            ("unusable milli, all GPUs", was.everywhere, now.everywhere),
        ):
            found.append((title, a.unusable_milli, b.unusable_milli))
            found.append((title.replace("milli", "share"), a.unusable_share, b.unusable_share))
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value: measure -> before, after and change."""
        rows = {title: {"before": a, "after": b, "change": b - a} for title, a, b in self.rows()}
        return {"version": 1, "rows": rows}

    def __str__(self) -> str:
        lines = [f"{'fragmentation':<26}{'before':>12}{'after':>12}{'change':>12}"]
        for title, before, after in self.rows():
            if title.startswith(("active", "unusable milli")):
                lines.append(f"{title:<26}{before:>12.0f}{after:>12.0f}{after - before:>+12.0f}")
            else:
                lines.append(f"{title:<26}{before:>12.1%}{after:>12.1%}{100 * (after - before):>+9.1f} pp")
        return "\n".join(lines)
