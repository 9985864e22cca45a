"""The integer columns of a ledger: what is free on every GPU and host of a cluster, and how its nodes are laid out.

Rows are GPUs, node after node in the cluster's order; the columns are described in `kernels.cpu.packing`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.kernels.cpu.ledger import ALIKE_UNTIL, CHANGES, GPUS_USED, write, write_all
from dilu_core.slots import Slot
from dilu_core.solvers.placement.booking import Booking
from dilu_core.solvers.placement.partitions import Partitions
from dilu_core.solvers.placement.unchecked import unchecked

UNLIMITED = 2**62
"""Host CPU and memory of a node that states no limit; what is booked there leaves it beyond every demand."""

_slot = unchecked(Slot)


class LedgerColumns:
    """The columns of an empty cluster; who writes in them says so in indices of its own."""

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
        self.partitions = Partitions(cluster, self.node_type, self.node_of)
        self.node_number = {node.name: i for i, node in enumerate(cluster.nodes)}
        self._node_names = [node.name for node in cluster.nodes]
        self._first_row: list[int] = self.node_start.tolist()
        self._node_of: list[int] = self.node_of.tolist()
        self._make_scratch()
        self._barred: dict[tuple[tuple[str, ...] | None, bool, bool], NDArray[np.bool_]] = {}
        self._other_types: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    def _make_scratch(self) -> None:
        """Where the rows and memory of a booking on several GPUs are handed over; views are quicker to fill."""
        largest = int(np.diff(self.node_start).max(initial=0))
        self._rows, self._memory = np.zeros(largest, np.int64), np.zeros(largest, np.int64)
        self._row_view, self._memory_view = self._rows.data, self._memory.data

    @property
    def gpus_used(self) -> int:
        """GPUs that hold at least one instance."""
        return int(self.totals[GPUS_USED])

    def _copy_columns(self, other: LedgerColumns) -> None:
        """Give `other`, which shares everything with this one, columns of its own with the same content."""
        for column in ("free", "held", "node_state", "totals", "host_free"):
            setattr(other, column, getattr(self, column).copy())
        other._make_scratch()
        other.partitions = self.partitions.copy()

    def _write(self, booking: Booking, sign: int) -> None:
        """Add a booking to (sign 1) or take it from (sign -1) the columns of its GPUs."""
        gpus, memory_mib = booking.gpus, booking.memory_mib
        request, limit = booking.quota_milli
        if booking.mig:
            limit = min(limit, self.partitions.share_milli(gpus[0], booking.mig[0]))
        if len(gpus) == 1:
            write(
                self.free, self.held, self.node_of, self.node_state, self.totals, gpus[0], request, limit,
                memory_mib[0], sign,
            )  # fmt: skip
            return
        rows, memory = self._row_view, self._memory_view
        for k, gpu in enumerate(gpus):
            rows[k] = gpu
            memory[k] = memory_mib[k]
        write_all(
            self.free, self.held, self.node_of, self.node_state, self.totals, self._rows, self._memory, len(gpus),
            request, limit, sign,
        )  # fmt: skip

    def _host(self, node: int, cpu_milli: int, memory_mib: int) -> None:
        """Take this much of the node's CPU and host memory."""
        self.host_free[node, 0] -= cpu_milli
        self.host_free[node, 1] -= memory_mib
        self.node_state[node, CHANGES] += 1

    def node_ranges(self) -> Iterator[tuple[int, int]]:
        """First row of each node, and one past its last."""
        return itertools.pairwise(self._first_row)

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

    def host_has_room(self, row: int, instance: Instance) -> bool:
        """Whether the node of this row has the CPU and host memory that `instance` takes."""
        if not instance.cpu_milli and not instance.host_memory_mib:
            return True
        cpu, memory = self.host_free[self._node_of[row]].tolist()
        return bool(cpu >= instance.cpu_milli and memory >= instance.host_memory_mib)

    def slots(self, booking: Booking) -> tuple[Slot, ...]:
        """The slots of a booking, by node name."""
        gpus, memory, number = booking.gpus, booking.memory_mib, booking.configuration
        node = self._node_of[gpus[0]]
        name, start = self._node_names[node], self._first_row[node]
        if len(gpus) == 1:
            mig = booking.mig[0] if booking.mig else None
            return (_slot(name, gpus[0] - start, memory[0], number, mig),)
        return tuple([_slot(name, gpu - start, memory[k], number, None) for k, gpu in enumerate(gpus)])

    def rows(self, slots: Iterable[Slot]) -> tuple[int, ...]:
        """The rows of slots whose nodes are in the cluster."""
        return tuple(self._first_row[self.node_number[slot.node]] + slot.gpu for slot in slots)

    def gpu_name(self, row: int) -> str:
        """How people name the GPU of this row."""
        node = self._node_of[row]
        return f"{self._node_names[node]}/{row - self._first_row[node]}"


def _alike_until(sizes: NDArray[np.int64], node_type: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each node, the first after it of another size or GPU type."""
    changes = np.flatnonzero((np.diff(sizes) != 0) | (np.diff(node_type) != 0)) + 1
    stops = np.append(changes, sizes.size)
    return stops[np.searchsorted(changes, np.arange(sizes.size), side="right")].astype(np.int64)


def _or_unlimited(value: int | None) -> int:
    return UNLIMITED if value is None else value
