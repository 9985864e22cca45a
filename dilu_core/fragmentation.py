"""What active GPUs hold free: the fragmentation of a placement by SM request, SM limit and memory.

For a set of active GPUs (those that hold an instance) with capacity C and bookings b of a resource,

    fragmentation = sum(C - b) / sum(C)    over the active GPUs, 0 where there is none

as in Lv et al., "Dilu", ASPLOS 2025 (doi 10.1145/3669940.3707251): the unallocated share of SMs, or of memory, on
active GPUs. Empty GPUs do not count: they can be handed back. Capacities are the caps of the problem's oversubscription
and the memory of the GPU's type; a split instance books its request as its limit.

Some of what is free is stranded: no instance of the mix could use it, because another resource is used up there. The
yardstick is the least request, the least limit and the least memory that any instance of the problem wants on a GPU.
Free request of an active GPU is stranded by memory (or limit) where the least request still fits but the least memory
(or limit) does not; free memory is stranded by request (or limit) likewise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dilu_core import _checks as check
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.slots import Slot, slots_by_name


@dataclass(frozen=True)
class Room:
    """How much of a resource there is on some active GPUs, and how much of it is free."""

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
    """Room on one active GPU, or summed over those of a node or of the cluster; shares in milli-GPU, memory in MiB."""

    active_gpus: int
    request_milli: Room
    limit_milli: Room
    memory_mib: Room

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value."""
        data: dict[str, Any] = {"active_gpus": self.active_gpus}
        for name in ("request_milli", "limit_milli", "memory_mib"):
            room: Room = getattr(self, name)
            data[name] = {"capacity": room.capacity, "free": room.free, "fragmentation": room.fragmentation}
        return data


@dataclass(frozen=True)
class Stranded:
    """Free request and free memory on active GPUs that no instance of the mix could use, by what stands in the way.

    What two resources block counts under both.
    """

    request_milli_by_memory: int
    request_milli_by_limit: int
    memory_mib_by_request: int
    memory_mib_by_limit: int


@dataclass(frozen=True)
class FragmentationReport:
    """Fragmentation of every active GPU, by (node, GPU), of every node with one, and of the cluster."""

    gpus: Mapping[tuple[str, int], Fragmentation]
    nodes: Mapping[str, Fragmentation]
    cluster: Fragmentation
    stranded: Stranded

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value."""
        return {
            "version": 1,
            "cluster": self.cluster.to_dict(),
            "stranded": dict(vars(self.stranded)),
            "nodes": {name: node.to_dict() for name, node in self.nodes.items()},
            "gpus": [{"node": node, "gpu": gpu, **each.to_dict()} for (node, gpu), each in self.gpus.items()],
        }

    def __str__(self) -> str:
        total = self.cluster
        lines = [f"fragmentation of {total.active_gpus} active GPUs on {len(self.nodes)} nodes"]
        for name, room, unit in (
            ("SM request", total.request_milli, "milli"),
            ("SM limit", total.limit_milli, "milli"),
            ("memory", total.memory_mib, "MiB"),
        ):
            lines.append(f"  {name:<10} {room.fragmentation:6.1%}  ({room.free} of {room.capacity} {unit} free)")
        lost = self.stranded
        lines += [
            f"  stranded   {lost.request_milli_by_memory} milli by memory, {lost.request_milli_by_limit} by limit",
            f"             {lost.memory_mib_by_request} MiB by request, {lost.memory_mib_by_limit} by limit",
        ]
        return "\n".join(lines)


def fragmentation(problem: PlacementProblem, placement: Mapping[str, tuple[Slot, ...]]) -> FragmentationReport:
    """The report on `placement`, which must be valid for `problem` (`InvalidArgumentError` says what is not)."""
    placement = slots_by_name("placement", placement)
    broken = verify_placement(problem, placement)
    if broken:
        check.fail("placement", f"is not valid for this problem: {broken[0].message}")
    instances = {instance.name: instance for instance in problem.instances}
    caps = problem.oversubscription
    memory = {node.name: node.gpu_type.memory_mib for node in problem.cluster.nodes}
    booked: defaultdict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for name, slots in placement.items():
        instance = instances[name]
        is_split = instance.gpus == 1 and len(slots) > 1
        for slot in slots:
            sums = booked[slot.node, slot.gpu]
            sums[0] += instance.request_milli
            sums[1] += instance.request_milli if is_split else instance.limit_milli
            sums[2] += slot.memory_mib
    gpus = {
        (node, gpu): Fragmentation(
            1,
            Room(caps.request_milli, caps.request_milli - request),
            Room(caps.limit_milli, caps.limit_milli - limit),
            Room(memory[node], memory[node] - mib),
        )
        for (node, gpu), (request, limit, mib) in sorted(booked.items())
    }
    by_node: defaultdict[str, list[Fragmentation]] = defaultdict(list)
    for (node, _), each in gpus.items():
        by_node[node].append(each)
    nodes = {node: _sum(each) for node, each in by_node.items()}
    return FragmentationReport(gpus, nodes, _sum(gpus.values()), _stranded(problem, gpus.values()))


def _sum(parts: Iterable[Fragmentation]) -> Fragmentation:
    total = Fragmentation(0, Room(0, 0), Room(0, 0), Room(0, 0))
    for part in parts:
        total = Fragmentation(
            total.active_gpus + part.active_gpus,
            total.request_milli + part.request_milli,
            total.limit_milli + part.limit_milli,
            total.memory_mib + part.memory_mib,
        )
    return total


def _stranded(problem: PlacementProblem, gpus: Iterable[Fragmentation]) -> Stranded:
    """What is free on GPUs where the least instance of the mix is kept out by something else."""
    least_request = min((each.request_milli for each in problem.instances), default=1)
    least_limit = min((each.limit_milli for each in problem.instances), default=1)
    least_memory = min((min(each.memory_per_gpu_mib) for each in problem.instances), default=0)
    by_memory = by_limit = mib_by_request = mib_by_limit = 0
    for gpu in gpus:
        request, limit, mib = gpu.request_milli.free, gpu.limit_milli.free, gpu.memory_mib.free
        if request >= least_request:
            by_memory += request if mib < least_memory else 0
            by_limit += request if limit < least_limit else 0
        if mib >= least_memory:
            mib_by_request += mib if request < least_request else 0
            mib_by_limit += mib if limit < least_limit else 0
    return Stranded(by_memory, by_limit, mib_by_request, mib_by_limit)
