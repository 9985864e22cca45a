"""The ledger of a cluster: what every instance books on every GPU, kept as integer columns that kernels can read.

`Bookings` only writes down and crosses out; choosing a place is `dilu_core.solvers.placement.choose`. Integers make it
exact: crossing out everything leaves the columns of an empty cluster, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.mig import MigSlice
from dilu_core.slots import Placement, Slot


@dataclass(frozen=True, slots=True)
class Booking:
    """An instance, the rows of its GPUs, the memory it takes on each, its configuration and, if any, its partition."""

    instance: Instance
    gpus: tuple[int, ...]
    memory_mib: tuple[int, ...]
    configuration: int = 0
    mig: tuple[MigSlice, ...] = ()

    @property
    def is_split(self) -> bool:
        """Whether its memory is divided over several GPUs."""
        return self.instance.gpus == 1 and len(self.gpus) > 1

    @property
    def request_milli(self) -> int:
        """What it books as request on each of its GPUs."""
        if self.configuration == 0:
            return self.instance.request_milli
        return self.instance.configurations[self.configuration].request_milli

    @property
    def limit_milli(self) -> int:
        """What it books as limit on each of its GPUs, partitions aside; a split instance does not burst."""
        if self.is_split:
            return self.request_milli
        if self.configuration == 0:
            return self.instance.limit_milli
        return self.instance.configurations[self.configuration].limit_milli


class Bookings:
    """Rows are GPUs, node after node in the cluster's order; columns are described in `kernels.cpu.packing`."""

    def __init__(self, cluster: Cluster, oversubscription: Oversubscription) -> None:
        sizes = [node.gpus for node in cluster.nodes]
        memory = np.repeat(np.array([node.gpu_type.memory_mib for node in cluster.nodes], np.int64), sizes)
        self.cluster = cluster
        self.oversubscription = oversubscription
        self.node_start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.node_of = np.repeat(np.arange(len(sizes)), sizes)
        self.capacity = np.empty((memory.size, 3), np.int64)
        self.capacity[:, 0] = oversubscription.request_milli
        self.capacity[:, 1] = oversubscription.limit_milli
        self.capacity[:, 2] = memory
        self.free = self.capacity.copy()
        self.held = np.zeros(memory.size, np.int64)
        self.gpus_used = 0
        self.by_name: dict[str, Booking] = {}
        self.on_gpu: list[dict[str, Booking]] = [{} for _ in range(memory.size)]
        # function -> row -> how many instances there are of that function, and how many refuse it
        self.function_on: dict[str, dict[int, int]] = {}
        self.refused_on: dict[str, dict[int, int]] = {}
        self.gangs_on: dict[int, dict[str, Booking]] = {}  # row -> the training gangs on it
        self.node_number = {node.name: i for i, node in enumerate(cluster.nodes)}
        self._type_of = np.array([cluster.gpu_types.index(node.gpu_type) for node in cluster.nodes], np.int64)[
            self.node_of
        ]
        self._other_types: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    def book(self, instance: Instance, gpus: Iterable[int], memory_mib: Iterable[int]) -> Booking:
        """Write `instance` down on the rows `gpus`; the caller has made sure that it fits and is not there yet."""
        booking = Booking(instance, tuple(gpus), tuple(memory_mib))
        self.by_name[instance.name] = booking
        self._write(booking, 1)
        return booking

    def cancel(self, name: str) -> Booking:
        """Cross out the instance `name` and give its booking back."""
        booking = self.by_name.pop(name)
        self._write(booking, -1)
        return booking

    def move(self, name: str, gpus: Iterable[int], memory_mib: Iterable[int]) -> bool:
        """Put the instance `name` on other rows where it fits there; otherwise change nothing and return `False`."""
        held = self.by_name[name]
        wanted = Booking(held.instance, tuple(gpus), tuple(memory_mib))
        self._write(held, -1)
        fits = self.fits(wanted)
        landed = wanted if fits else held
        self.by_name[name] = landed
        self._write(landed, 1)
        return fits

    def _write(self, booking: Booking, sign: int) -> None:
        """Add a booking to (sign 1) or take it from (sign -1) every column and index."""
        instance, free, held = booking.instance, self.free, self.held
        request, limit = sign * instance.request_milli, sign * booking.limit_milli
        is_gang = instance.gpus > 1 and instance.kind == "training"
        for gpu, memory in zip(booking.gpus, booking.memory_mib, strict=True):
            free[gpu, 0] -= request
            free[gpu, 1] -= limit
            free[gpu, 2] -= sign * memory
            before = int(held[gpu])
            held[gpu] = before + sign
            self.gpus_used += (before + sign > 0) - (before > 0)
            if sign > 0:
                self.on_gpu[gpu][instance.name] = booking
            else:
                del self.on_gpu[gpu][instance.name]
            if is_gang:
                self._count_gang(gpu, booking, sign)
        if instance.function or instance.anti_affinity:
            self._count_functions(booking, sign)

    def _count_gang(self, gpu: int, booking: Booking, sign: int) -> None:
        gangs = self.gangs_on.setdefault(gpu, {})
        if sign > 0:
            gangs[booking.instance.name] = booking
        else:
            del gangs[booking.instance.name]
        if not gangs:
            del self.gangs_on[gpu]

    def _count_functions(self, booking: Booking, sign: int) -> None:
        """Keep the two indices of anti-affinity; nothing that counts to zero stays behind."""
        instance = booking.instance
        indices = [(self.function_on, instance.function)] if instance.function else []
        indices += [(self.refused_on, refused) for refused in instance.anti_affinity]
        for index, function in indices:
            rows = index.setdefault(function, {})
            for gpu in booking.gpus:
                rows[gpu] = rows.get(gpu, 0) + sign
                if rows[gpu] == 0:
                    del rows[gpu]
            if not rows:
                del index[function]

    def node_ranges(self) -> Iterator[tuple[int, int]]:
        """First row of each node, and one past its last."""
        return itertools.pairwise(self.node_start.tolist())

    def functions_of(self, gpu: int) -> set[str]:
        """The functions that have an instance on this row."""
        return {booking.instance.function for booking in self.on_gpu[gpu].values()}

    def rows_of_other_types(self, gpu_types: tuple[str, ...]) -> NDArray[np.bool_]:
        """A mask over rows: the GPUs that are of none of these types."""
        if gpu_types not in self._other_types:
            wanted = [i for i, kind in enumerate(self.cluster.gpu_types) if kind.name in gpu_types]
            self._other_types[gpu_types] = ~np.isin(self._type_of, wanted)
        return self._other_types[gpu_types]

    def rows_refusing(self, instance: Instance) -> set[int]:
        """Rows where anti-affinity, by either side's word, keeps `instance` out."""
        rows: set[int] = set()
        for refused in instance.anti_affinity:
            rows.update(self.function_on.get(refused, ()))
        if instance.function:
            rows.update(self.refused_on.get(instance.function, ()))
        return rows

    def fits(self, booking: Booking) -> bool:
        """Whether the rows of `booking` have room for it now."""
        instance = booking.instance
        barred = self.rows_refusing(instance)
        other_type = None if instance.gpu_types is None else self.rows_of_other_types(instance.gpu_types)
        return all(
            self.free[gpu, 0] >= instance.request_milli
            and self.free[gpu, 1] >= booking.limit_milli
            and self.free[gpu, 2] >= memory
            and gpu not in barred
            and (other_type is None or not other_type[gpu])
            for gpu, memory in zip(booking.gpus, booking.memory_mib, strict=True)
        )

    def slots(self, booking: Booking) -> tuple[Slot, ...]:
        """The slots of a booking, by node name."""
        node = int(self.node_of[booking.gpus[0]])
        name, start = self.cluster.nodes[node].name, int(self.node_start[node])
        return tuple(
            Slot(name, gpu - start, memory) for gpu, memory in zip(booking.gpus, booking.memory_mib, strict=True)
        )

    def rows(self, slots: Iterable[Slot]) -> tuple[int, ...]:
        """The rows of slots whose nodes are in the cluster."""
        return tuple(int(self.node_start[self.node_number[slot.node]]) + slot.gpu for slot in slots)

    def placement(self) -> Placement:
        """Everything booked, as a placement."""
        return Placement({name: self.slots(booking) for name, booking in self.by_name.items()})
