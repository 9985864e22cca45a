"""The ledger of a cluster: what every instance books on every GPU and node, kept as columns that kernels can read.

`Bookings` only writes down and crosses out; choosing a place is `dilu_core.solvers.placement.choose`. Integers make it
exact: crossing out everything leaves the columns of an empty cluster, bit for bit. It keeps an undo log on demand, so
that a search tries on the ledger itself instead of on copies: `mark`, change, `rollback`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.kernels.cpu.ledger import ALIKE_UNTIL, CHANGES, GPUS_USED, write, write_all
from dilu_core.mig import MigSlice
from dilu_core.slots import Placement, Slot
from dilu_core.solvers.placement.interning import FunctionBits
from dilu_core.solvers.placement.partitions import Partitions
from dilu_core.solvers.placement.unchecked import unchecked

UNLIMITED = 2**62
"""Host CPU and memory of a node that states no limit; what is booked there leaves it beyond every demand."""


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

    @property
    def fields(self) -> tuple[Instance, tuple[int, ...], tuple[int, ...], int, tuple[MigSlice, ...]]:
        """What `Bookings.book` takes to write it down again."""
        return self.instance, self.gpus, self.memory_mib, self.configuration, self.mig


class HostBooking(NamedTuple):
    """CPU and host memory reserved on a node by what uses no GPU."""

    name: str
    node: int
    cpu_milli: int
    memory_mib: int


_Change = tuple[Booking | HostBooking | None, Booking | HostBooking | None]
"""What a change crossed out, and what it wrote down."""


class Bookings:
    """Rows are GPUs, node after node in the cluster's order; columns are described in `kernels.cpu.packing`."""

    def __init__(self, cluster: Cluster, oversubscription: Oversubscription) -> None:
        sizes = [node.gpus for node in cluster.nodes]
        memory = np.repeat(np.array([node.gpu_type.memory_mib for node in cluster.nodes], np.int64), sizes)
        self.cluster = cluster
        self.oversubscription = oversubscription
        self.node_start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.node_of = np.repeat(np.arange(len(sizes)), sizes)
        self.node_type = np.array([cluster.gpu_types.index(node.gpu_type) for node in cluster.nodes], np.int64)
        self.capacity = np.empty((memory.size, 3), np.int64)
        self.capacity[:, 0] = oversubscription.request_milli
        self.capacity[:, 1] = oversubscription.limit_milli
        self.capacity[:, 2] = memory
        self.free = self.capacity.copy()
        self.held = np.zeros(memory.size, np.int64)
        self.node_state = np.zeros((len(sizes), 3), np.int64)
        self.node_state[:, ALIKE_UNTIL] = _alike_until(np.array(sizes), self.node_type)
        self.totals = np.zeros(2, np.int64)
        self.host_capacity = np.array(
            [[_or_unlimited(node.cpu_milli), _or_unlimited(node.memory_mib)] for node in cluster.nodes], np.int64
        ).reshape(-1, 2)
        self.host_free = self.host_capacity.copy()
        self.functions = FunctionBits(memory.size)
        self.partitions = Partitions(cluster, self.node_type, self.node_of)
        self.by_name: dict[str, Booking] = {}
        self.reserved: dict[str, HostBooking] = {}
        self.on_gpu: list[dict[str, Booking]] = [{} for _ in range(memory.size)]
        self.gangs_on: dict[int, dict[str, Booking]] = {}  # row -> the training gangs on it
        self.node_number = {node.name: i for i, node in enumerate(cluster.nodes)}
        self._node_names = [node.name for node in cluster.nodes]
        self._first_row: list[int] = self.node_start.tolist()
        self._node_of: list[int] = self.node_of.tolist()
        self._rows = np.zeros(max(sizes, default=0), np.int64)
        self._memory = np.zeros(max(sizes, default=0), np.int64)
        self._barred: dict[tuple[tuple[str, ...] | None, bool, bool], NDArray[np.bool_]] = {}
        self._other_types: dict[tuple[str, ...], NDArray[np.bool_]] = {}
        self._log: list[_Change] | None = None

    @property
    def gpus_used(self) -> int:
        """GPUs that hold at least one instance."""
        return int(self.totals[GPUS_USED])

    @property
    def function_on(self) -> dict[str, dict[int, int]]:
        """Function -> row -> how many instances of that function are there."""
        return self.functions.function_on

    @property
    def refused_on(self) -> dict[str, dict[int, int]]:
        """Function -> row -> how many instances there refuse that function."""
        return self.functions.refused_on

    def book(
        self,
        instance: Instance,
        gpus: Iterable[int],
        memory_mib: Iterable[int],
        configuration: int = 0,
        mig: tuple[MigSlice, ...] = (),
    ) -> Booking:
        """Write `instance` down on the rows `gpus`; the caller has made sure that it fits and is not there yet."""
        booking = booked(instance, tuple(gpus), tuple(memory_mib), configuration, mig)
        self._columns(booking, 1)
        self.note(booking)
        return booking

    def note(self, booking: Booking) -> None:
        """Take up a booking whose amounts a kernel has written into the GPU columns already."""
        self.by_name[booking.instance.name] = booking
        self._index(booking, 1)
        if self._log is not None:
            self._log.append((None, booking))

    def cancel(self, name: str) -> Booking:
        """Cross out the instance `name` and give its booking back."""
        booking = self.by_name.pop(name)
        self._columns(booking, -1)
        self._index(booking, -1)
        if self._log is not None:
            self._log.append((booking, None))
        return booking

    def move(
        self,
        name: str,
        gpus: Iterable[int],
        memory_mib: Iterable[int],
        configuration: int | None = None,
        mig: tuple[MigSlice, ...] = (),
    ) -> bool:
        """Put the instance `name` on other rows where it fits there; otherwise change nothing and return `False`.

        It keeps its configuration unless another is given. `mig` is the partition it takes there, if any.
        """
        held = self.by_name[name]
        number = held.configuration if configuration is None else configuration
        wanted = Booking(held.instance, tuple(gpus), tuple(memory_mib), number, mig)
        self._columns(held, -1)
        self._index(held, -1)
        fits = self.fits(wanted)
        landed = wanted if fits else held
        self.by_name[name] = landed
        self._columns(landed, 1)
        self._index(landed, 1)
        if fits and self._log is not None:
            self._log.append((held, wanted))
        return fits

    def reserve(self, booking: HostBooking) -> None:
        """Book CPU and host memory of a node; the caller has made sure that they are free."""
        self.reserved[booking.name] = booking
        self._host(booking.node, booking.cpu_milli, booking.memory_mib)
        if self._log is not None:
            self._log.append((None, booking))

    def unreserve(self, name: str) -> HostBooking:
        """Give back what `reserve` booked under `name`."""
        booking = self.reserved.pop(name)
        self._host(booking.node, -booking.cpu_milli, -booking.memory_mib)
        if self._log is not None:
            self._log.append((booking, None))
        return booking

    def mark(self) -> int:
        """A point to which `rollback` can return; marks may be nested. Changes are recorded until `release`."""
        if self._log is None:
            self._log = []
        return len(self._log)

    def rollback(self, mark: int) -> None:
        """Undo every change since `mark`, which stays valid: all columns and indices are again as they were.

        Only the order in which `by_name` and `on_gpu` list an instance that was crossed out and is back may differ.
        """
        log, self._log = self._log, None
        if log is None or not 0 <= mark <= len(log):
            raise ValueError(f"mark {mark} is not on record")
        try:
            while len(log) > mark:
                self._undo(log.pop())
        finally:
            self._log = log

    def _undo(self, changed: _Change) -> None:
        taken, given = changed
        if isinstance(taken, HostBooking) or isinstance(given, HostBooking):
            if isinstance(given, HostBooking):
                self.unreserve(given.name)
            if isinstance(taken, HostBooking):
                self.reserve(taken)
            return
        if given is not None:
            self._columns(given, -1)
            self._index(given, -1)
        if taken is not None:
            self._columns(taken, 1)
            self._index(taken, 1)
            self.by_name[taken.instance.name] = taken
        elif given is not None:
            del self.by_name[given.instance.name]

    def release(self, mark: int) -> None:
        """Keep the changes since `mark`. Releasing the outermost mark ends the recording."""
        if mark == 0:
            self._log = None

    def copy(self) -> Bookings:
        """A ledger of its own with the same bookings; the undo log does not go along."""
        other = object.__new__(Bookings)
        other.__dict__.update(self.__dict__)
        for column in ("free", "held", "node_state", "totals", "host_free"):
            setattr(other, column, getattr(self, column).copy())
        other.functions, other.partitions = self.functions.copy(), self.partitions.copy()
        other.by_name, other.reserved = dict(self.by_name), dict(self.reserved)
        other.on_gpu = [here.copy() for here in self.on_gpu]
        other.gangs_on = {row: gangs.copy() for row, gangs in self.gangs_on.items()}
        other._rows, other._memory = self._rows.copy(), self._memory.copy()
        other._log = None
        return other

    def _columns(self, booking: Booking, sign: int) -> None:
        """Add a booking to (sign 1) or take it from (sign -1) the columns of its GPUs."""
        request, limit = booking.request_milli, booking.limit_milli
        if booking.mig:
            limit = min(limit, self.partitions.share_milli(booking.gpus[0], booking.mig[0]))
        gpus, columns = booking.gpus, (self.free, self.held, self.node_of, self.node_state, self.totals)
        if len(gpus) == 1:
            write(*columns, gpus[0], request, limit, booking.memory_mib[0], sign)
        else:
            rows, memory = self._rows, self._memory
            rows[: len(gpus)] = gpus
            memory[: len(gpus)] = booking.memory_mib
            write_all(*columns, rows, memory, len(gpus), request, limit, sign)

    def _index(self, booking: Booking, sign: int) -> None:
        """Keep everything but the columns of the GPUs; nothing that counts to zero stays behind."""
        instance, name = booking.instance, booking.instance.name
        on_gpu = self.on_gpu
        for gpu in booking.gpus:
            if sign > 0:
                on_gpu[gpu][name] = booking
            else:
                del on_gpu[gpu][name]
        if instance.gpus > 1 and instance.kind == "training":
            gangs_on = self.gangs_on
            for gpu in booking.gpus:
                if sign > 0:
                    gangs_on.setdefault(gpu, {})[name] = booking
                else:
                    del gangs_on[gpu][name]
                    if not gangs_on[gpu]:
                        del gangs_on[gpu]
        if instance.function or instance.anti_affinity:
            self.functions.count(instance, booking.gpus, sign)
        if instance.cpu_milli or instance.host_memory_mib:
            self._host(self._node_of[booking.gpus[0]], sign * instance.cpu_milli, sign * instance.host_memory_mib)
        if booking.mig:
            self.partitions.flip(booking.gpus[0], booking.mig[0])

    def _host(self, node: int, cpu_milli: int, memory_mib: int) -> None:
        """Take this much of the node's CPU and host memory."""
        self.host_free[node, 0] -= cpu_milli
        self.host_free[node, 1] -= memory_mib
        self.node_state[node, CHANGES] += 1

    def node_ranges(self) -> Iterator[tuple[int, int]]:
        """First row of each node, and one past its last."""
        return itertools.pairwise(self._first_row)

    def functions_of(self, gpu: int) -> set[str]:
        """The functions that have an instance on this row."""
        return {booking.instance.function for booking in self.on_gpu[gpu].values()}

    def nodes_barred(
        self, gpu_types: tuple[str, ...] | None, *, whole: bool = True, partitioned: bool = True
    ) -> NDArray[np.bool_]:
        """A mask over nodes: those of none of these types, and those whose GPUs are whole, or partitioned, if not asked
        for."""
        key = (gpu_types, whole, partitioned)
        found = self._barred.get(key)
        if found is None:
            of_type = [
                (gpu_types is not None and kind.name not in gpu_types)
                or not (whole if kind.mig is None else partitioned)
                for kind in self.cluster.gpu_types
            ]
            found = self._barred[key] = np.array(of_type, np.bool_)[self.node_type]
        return found

    def rows_of_other_types(self, gpu_types: tuple[str, ...]) -> NDArray[np.bool_]:
        """A mask over rows: the GPUs that are of none of these types."""
        if gpu_types not in self._other_types:
            self._other_types[gpu_types] = self.nodes_barred(gpu_types)[self.node_of]
        return self._other_types[gpu_types]

    def rows_refusing(self, instance: Instance) -> set[int]:
        """Rows where anti-affinity, by either side's word, keeps `instance` out."""
        rows: set[int] = set()
        for refused in instance.anti_affinity:
            rows.update(self.function_on.get(refused, ()))
        if instance.function:
            rows.update(self.refused_on.get(instance.function, ()))
        return rows

    def refuses(self, row: int, instance: Instance) -> bool:
        """Whether anti-affinity, by either side's word, keeps `instance` off this row."""
        function_on = self.functions.function_on
        return any(row in function_on.get(refused, ()) for refused in instance.anti_affinity) or (
            bool(instance.function) and row in self.functions.refused_on.get(instance.function, ())
        )

    def host_has_room(self, row: int, instance: Instance) -> bool:
        """Whether the node of this row has the CPU and host memory that `instance` takes."""
        if not instance.cpu_milli and not instance.host_memory_mib:
            return True
        cpu, memory = self.host_free[self._node_of[row]].tolist()
        return bool(cpu >= instance.cpu_milli and memory >= instance.host_memory_mib)

    def fits(self, booking: Booking) -> bool:
        """Whether the rows of `booking` have room for it now, and its node for what it takes of the host."""
        instance = booking.instance
        request, limit = booking.request_milli, booking.limit_milli
        first = booking.gpus[0]
        if not self.host_has_room(first, instance):
            return False
        if self.partitions.any_there and self.partitions.is_partitioned(first):
            if len(booking.gpus) > 1 or len(booking.mig) != 1 or instance.gpus > 1:
                return False
            if not self.partitions.has_room(first, booking.mig[0], request, booking.memory_mib[0]):
                return False
            limit = min(limit, self.partitions.share_milli(first, booking.mig[0]))
        elif booking.mig:
            return False
        types, free = instance.gpu_types, self.free
        if types is not None and self.nodes_barred(types)[self._node_of[first]]:
            return False
        return all(
            free[gpu, 0] >= request
            and free[gpu, 1] >= limit
            and free[gpu, 2] >= memory
            and not self.refuses(gpu, instance)
            for gpu, memory in zip(booking.gpus, booking.memory_mib, strict=True)
        )

    def slots(self, booking: Booking) -> tuple[Slot, ...]:
        """The slots of a booking, by node name."""
        node = self._node_of[booking.gpus[0]]
        name, start, number = self._node_names[node], self._first_row[node], booking.configuration
        if len(booking.gpus) == 1:
            mig = booking.mig[0] if booking.mig else None
            return (_slot(name, booking.gpus[0] - start, booking.memory_mib[0], number, mig),)
        return tuple(
            _slot(name, gpu - start, memory, number, None)
            for gpu, memory in zip(booking.gpus, booking.memory_mib, strict=True)
        )

    def booking(self, instance: Instance, slots: Iterable[Slot]) -> Booking:
        """The booking that `slots` describe; their nodes are in the cluster."""
        slots = tuple(slots)
        mig = tuple(slot.mig for slot in slots if slot.mig is not None)
        memory = tuple(slot.memory_mib for slot in slots)
        return Booking(instance, self.rows(slots), memory, slots[0].configuration, mig)

    def rows(self, slots: Iterable[Slot]) -> tuple[int, ...]:
        """The rows of slots whose nodes are in the cluster."""
        return tuple(self._first_row[self.node_number[slot.node]] + slot.gpu for slot in slots)

    def gpu_name(self, row: int) -> str:
        """How people name the GPU of this row."""
        node = self._node_of[row]
        return f"{self._node_names[node]}/{row - self._first_row[node]}"

    def placement(self) -> Placement:
        """Everything booked, as a placement."""
        return Placement({name: self.slots(booking) for name, booking in self.by_name.items()})


def _alike_until(sizes: NDArray[np.int64], node_type: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each node, the first after it of another size or GPU type."""
    changes = np.flatnonzero((np.diff(sizes) != 0) | (np.diff(node_type) != 0)) + 1
    stops = np.append(changes, sizes.size)
    return stops[np.searchsorted(changes, np.arange(sizes.size), side="right")].astype(np.int64)


def _or_unlimited(value: int | None) -> int:
    return UNLIMITED if value is None else value


_slot = unchecked(Slot)
booked = unchecked(Booking)
"""A `Booking` of all its fields."""
