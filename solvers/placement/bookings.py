"""The ledger of a cluster: what every instance books on every GPU and node, kept as columns that kernels can read.

`Bookings` only writes down and crosses out; choosing a place is `dilu_core.solvers.placement.choose`. Integers make it
exact: crossing out everything leaves the columns of an empty cluster, bit for bit. It keeps an undo log on demand, so
that a search tries on the ledger itself instead of on copies: `mark`, change, `rollback`.
"""

from __future__ import annotations

from collections.abc import Iterable

from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.mig import MigSlice
from dilu_core.slots import Placement, Slot
from dilu_core.solvers.placement.booking import Booking, HostBooking, booked
from dilu_core.solvers.placement.interning import FunctionBits
from dilu_core.solvers.placement.ledger_columns import LedgerColumns

__all__ = ["Booking", "Bookings", "HostBooking", "booked"]

_Change = tuple[Booking | HostBooking | None, Booking | HostBooking | None]
"""What a change crossed out, and what it wrote down."""


class Bookings(LedgerColumns):
    """Who is where on an empty cluster's columns, by name, by GPU and by function."""

    def __init__(self, cluster: Cluster, oversubscription: Oversubscription) -> None:
        super().__init__(cluster, oversubscription)
        self.functions = FunctionBits(self.held.size)
        self.by_name: dict[str, Booking] = {}
        self.reserved: dict[str, HostBooking] = {}
        self.on_gpu: list[dict[str, Booking]] = [{} for _ in range(self.held.size)]
        self.gangs_on: dict[int, int] = {}  # row -> how many training gangs are on it
        self._log: list[_Change] | None = None

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
        self._write(booking, 1)
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
        self._write(booking, -1)
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
        self._write(held, -1)
        self._index(held, -1)
        fits = self.fits(wanted)
        landed = wanted if fits else held
        self.by_name[name] = landed
        self._write(landed, 1)
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
            self._write(given, -1)
            self._index(given, -1)
        if taken is not None:
            self._write(taken, 1)
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
        self._copy_columns(other)
        other.functions = self.functions.copy()
        other.by_name, other.reserved = dict(self.by_name), dict(self.reserved)
        other.on_gpu = [here.copy() for here in self.on_gpu]
        other.gangs_on = dict(self.gangs_on)
        other._log = None
        return other

    def _index(self, booking: Booking, sign: int) -> None:
        """Keep everything but the columns of the GPUs; nothing that counts to zero stays behind."""
        instance, on_gpu = booking.instance, self.on_gpu
        name = instance.name
        if sign > 0:
            for gpu in booking.gpus:
                on_gpu[gpu][name] = booking
        else:
            for gpu in booking.gpus:
                del on_gpu[gpu][name]
        if booking.is_training_gang:
            gangs_on = self.gangs_on
            for gpu in booking.gpus:
                number = gangs_on.get(gpu, 0) + sign
                if number:
                    gangs_on[gpu] = number
                else:
                    del gangs_on[gpu]
        if instance.function or instance.anti_affinity:
            self.functions.count(instance, booking.gpus, sign)
        if instance.cpu_milli or instance.host_memory_mib:
            self._host(self._node_of[booking.gpus[0]], sign * instance.cpu_milli, sign * instance.host_memory_mib)
        if booking.mig:
            self.partitions.flip(booking.gpus[0], booking.mig[0])

    def functions_of(self, gpu: int) -> set[str]:
        """The functions that have an instance on this row."""
        return {booking.instance.function for booking in self.on_gpu[gpu].values()}

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

    def booking(self, instance: Instance, slots: Iterable[Slot]) -> Booking:
        """The booking that `slots` describe; their nodes are in the cluster."""
        slots = tuple(slots)
        mig = tuple(slot.mig for slot in slots if slot.mig is not None)
        memory = tuple(slot.memory_mib for slot in slots)
        return Booking(instance, self.rows(slots), memory, slots[0].configuration, mig)

    def placement(self) -> Placement:
        """Everything booked, as a placement."""
        return Placement({name: self.slots(booking) for name, booking in self.by_name.items()})
