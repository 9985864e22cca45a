"""What every active GPU of a placement holds, as rows for tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass

from dilu_core.instances import Instance
from dilu_core.mig import MigSlice
from dilu_core.placement import Placement, PlacementProblem
from dilu_core.slots import Slot


@dataclass(frozen=True)
class Booking:
    """What one instance books on one GPU; `part` of `parts` where it sits on several, `mig` its partition if any."""

    name: str
    function: str
    request_milli: int
    limit_milli: int
    memory_mib: int
    part: int
    parts: int
    mig: MigSlice | None = None


@dataclass(frozen=True)
class GpuBookings:
    """One active GPU: where it is, the memory it has, and the bookings on it."""

    node: str
    gpu: int
    memory_mib: int
    bookings: tuple[Booking, ...]

    @property
    def request_milli(self) -> int:
        return sum(each.request_milli for each in self.bookings)

    @property
    def limit_milli(self) -> int:
        return sum(each.limit_milli for each in self.bookings)

    @property
    def booked_mib(self) -> int:
        return sum(each.memory_mib for each in self.bookings)


def gpu_bookings(problem: PlacementProblem, placement: Placement) -> tuple[GpuBookings, ...]:
    """The active GPUs in the cluster's order.

    Every slot books the request and limit of the configuration it names. A split instance books its request as its
    limit on every part; on a partition the limit is at most the partition's share.
    """
    instances = {instance.name: instance for instance in problem.instances}
    held = placement.by_gpu
    found = []
    for node in problem.cluster.nodes:
        geometry = node.gpu_type.mig
        for gpu in range(node.gpus):
            bookings = []
            for name in held.get((node.name, gpu), ()):
                slots = placement.slots(name)
                part = next(i for i, slot in enumerate(slots) if (slot.node, slot.gpu) == (node.name, gpu))
                slot = slots[part]
                request, limit = _quota(instances[name], slots, slot)
                profile = geometry.profile(slot.mig.profile) if geometry is not None and slot.mig is not None else None
                if profile is not None:
                    limit = min(limit, profile.share_milli)
                function = instances[name].function
                bookings.append(
                    Booking(name, function, request, limit, slot.memory_mib, part + 1, len(slots), slot.mig)
                )
            if bookings:
                found.append(GpuBookings(node.name, gpu, node.gpu_type.memory_mib, tuple(bookings)))
    return tuple(found)


def _quota(instance: Instance, slots: tuple[Slot, ...], slot: Slot) -> tuple[int, int]:
    """Request and limit at a slot, before a partition cuts the limit."""
    configuration = instance.configurations[slot.configuration]
    is_split = instance.gpus == 1 and len(slots) > 1
    return configuration.request_milli, configuration.request_milli if is_split else configuration.limit_milli
