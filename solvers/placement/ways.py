"""The places an instance could take on a node: what CP-SAT chooses among when it plans moves.

    one GPU        every GPU with room (on a partitioned GPU: every legal partition)
    gang           every set of GPUs with room, at most `_MOST_SETS` of a node
    split          sets of two or three GPUs, each part as large as its GPU has room for, the last the rest

Room is judged on the ledger as it stands, so a caller who means to move others first crosses them out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from dilu_core.cluster import Instance
from dilu_core.mig import MigSlice
from dilu_core.solvers.placement.bookings import Booking, Bookings

_MOST_SETS = 24
_MOST_PARTS = 3


def ways_on(
    ledger: Bookings, instance: Instance, rows: Iterable[int], configuration: int = 0, *, splits: bool = True
) -> Iterator[Booking]:
    """Bookings of `instance` on GPUs among `rows`, which are of one node, each of which fits now."""
    chosen = instance.configurations[configuration]
    single = chosen.memory_mib if isinstance(chosen.memory_mib, int) else 0
    here = list(rows)
    if instance.gpus == 1:
        for row in here:
            yield from _whole(ledger, instance, row, single, configuration)
        if splits and instance.splittable and single > 1:
            yield from _split(ledger, instance, here, single, configuration)
        return
    memory = chosen.memory_mib
    each = (memory,) * instance.gpus if isinstance(memory, int) else tuple(sorted(memory, reverse=True))
    suitable = [row for row in here if not _is_partitioned(ledger, row)]
    suitable.sort(key=lambda row: (ledger.held[row] == 0, -int(ledger.free[row, 2]), row))
    found = 0
    for combination in itertools.combinations(suitable, instance.gpus):
        booking = Booking(instance, combination, each, configuration)
        if ledger.fits(booking):
            yield booking
            found += 1
            if found == _MOST_SETS:
                return


def nodes_for(ledger: Bookings, instance: Instance) -> np.ndarray:
    """Numbers of the nodes whose GPU type the instance runs on."""
    if instance.gpu_types is None:
        return np.arange(ledger.node_type.size)
    return np.flatnonzero(~ledger.nodes_barred(instance.gpu_types))


def _is_partitioned(ledger: Bookings, row: int) -> bool:
    return ledger.partitions.any_there and ledger.partitions.is_partitioned(row)


def _whole(ledger: Bookings, instance: Instance, row: int, memory: int, configuration: int) -> Iterator[Booking]:
    if not _is_partitioned(ledger, row):
        booking = Booking(instance, (row,), (memory,), configuration)
        if ledger.fits(booking):
            yield booking
        return
    geometry = ledger.cluster.gpu_types[int(ledger.node_type[ledger.node_of[row]])].mig
    for profile in geometry.profiles if geometry else ():
        for start in profile.starts:
            booking = Booking(instance, (row,), (memory,), configuration, (MigSlice(profile.name, start),))
            if ledger.fits(booking):
                yield booking


def _split(ledger: Bookings, instance: Instance, rows: list[int], memory: int, configuration: int) -> Iterator[Booking]:
    able = [row for row in rows if ledger.free[row, 2] > 0 and not _is_partitioned(ledger, row)]
    able.sort(key=lambda row: (ledger.held[row] == 0, -int(ledger.free[row, 2]), row))
    found = 0
    for count in range(2, min(len(able), _MOST_PARTS) + 1):
        for combination in itertools.combinations(able, count):
            parts, rest = [], memory
            for i, row in enumerate(combination):
                part = min(int(ledger.free[row, 2]), rest - (count - 1 - i))
                parts.append(part)
                rest -= part
            if rest > 0 or min(parts) < 1:
                continue
            booking = Booking(instance, combination, tuple(parts), configuration)
            if ledger.fits(booking):
                yield booking
                found += 1
                if found == _MOST_SETS:
                    return
