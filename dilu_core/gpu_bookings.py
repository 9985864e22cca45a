"""What every active GPU of a placement holds, as rows for tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass

from dilu_core.placement import Placement, PlacementProblem


@dataclass(frozen=True)
class Booking:
    """What one instance books on one GPU; `part` of `parts` where it sits on several."""

    name: str
    function: str
    request_milli: int
    limit_milli: int
    memory_mib: int
    part: int
    parts: int


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
    """The active GPUs in the cluster's order. A split instance books its request as its limit on every part."""
    instances = {instance.name: instance for instance in problem.instances}
    held = placement.by_gpu
    found = []
    for node in problem.cluster.nodes:
        for gpu in range(node.gpus):
            bookings = []
            for name in held.get((node.name, gpu), ()):
                instance, slots = instances[name], placement.slots(name)
                part = next(i for i, slot in enumerate(slots) if (slot.node, slot.gpu) == (node.name, gpu))
                split = len(slots) > 1 and instance.gpus == 1
                bookings.append(
                    Booking(
                        name,
                        instance.function,
                        instance.request_milli,
                        instance.request_milli if split else instance.limit_milli,
                        slots[part].memory_mib,
                        part + 1,
                        len(slots),
                    )
                )
            if bookings:
                found.append(GpuBookings(node.name, gpu, node.gpu_type.memory_mib, tuple(bookings)))
    return tuple(found)
