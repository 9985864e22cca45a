"""The places an instance could take on a node: what CP-SAT chooses among when it plans moves.

    one GPU        every GPU with room (on a partitioned GPU: every legal partition)
    gang           sets of GPUs with room, each of its amounts of memory on one of them
    split          sets of GPUs, each with a part of the memory

Room is judged on the ledger as it stands, so a caller who means to move others first crosses them out.

A neighbourhood takes a few of them (`ways_on`), a proof needs all that matter (`every_way_on`). How memory may be
divided matters only at extreme points: with the rest of a state given, every GPU has some room r for a part, parts are
between 1 and r, and their sum is given. Where there is such a split, there is one of which all parts but one are 1 or
their r. And r is what is free, less the sum of what some of the others hold there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dilu_core.cluster import Instance
from dilu_core.mig import MigSlice
from dilu_core.solvers.placement.bookings import Booking, Bookings

_MOST_SETS = 24  # of GPUs of a node, in a neighbourhood
_MOST_PARTS = 3  # likewise
_MOST_TRIED = 8192  # on a node, where all are wanted


def ways_on(ledger: Bookings, instance: Instance, rows: Iterable[int], configuration: int = 0) -> Iterator[Booking]:
    """Some bookings of `instance` on GPUs among `rows`, which are of one node, each of which fits now.

    Of gangs and splits only those on the GPUs in use with most memory, a split of two or three parts, each as large as
    its GPU has room for, the last the rest.
    """
    here = list(rows)
    if instance.gpus == 1:
        whole = _whole(ledger, instance, here, configuration)
        yield from (booking for booking in whole if ledger.fits(booking))
        several = _greedy_splits(ledger, instance, here, configuration)
    else:
        several = _gangs(ledger, instance, here, configuration, every_order=False)
    yield from itertools.islice((booking for booking in several if ledger.fits(booking)), _MOST_SETS)


def every_way_on(
    ledger: Bookings, instance: Instance, rows: Iterable[int], configuration: int, taken: Sequence[int], most: int
) -> tuple[list[Booking], bool]:
    """All bookings of `instance` on GPUs among `rows` that matter, and whether these are all.

    `taken` are the amounts of memory in MiB that others may come to hold on a GPU together, 0 among them. Where there
    are more than `most` on several GPUs, they are those of `ways_on`.
    """
    here = list(rows)
    several: Iterator[Booking | None]
    if instance.gpus == 1:
        several = _extreme_splits(ledger, instance, here, configuration, taken)
    else:
        several = _gangs(ledger, instance, here, configuration, every_order=True)
    found: dict[Booking, None] = {}
    for tried, booking in enumerate(several):
        if booking is not None and ledger.fits(booking):
            found[booking] = None
        if tried == _MOST_TRIED or len(found) > most:
            return list(ways_on(ledger, instance, here, configuration)), False
    whole = _whole(ledger, instance, here, configuration) if instance.gpus == 1 else ()
    return [*(booking for booking in whole if ledger.fits(booking)), *found], True


def nodes_for(ledger: Bookings, instance: Instance) -> np.ndarray:
    """Numbers of the nodes whose GPU type the instance runs on."""
    if instance.gpu_types is None:
        return np.arange(ledger.node_type.size)
    return np.flatnonzero(~ledger.nodes_barred(instance.gpu_types))


def _is_partitioned(ledger: Bookings, row: int) -> bool:
    return ledger.partitions.any_there and ledger.partitions.is_partitioned(row)


def _fullest_memory_last(ledger: Bookings, rows: Iterable[int]) -> list[int]:
    """Those that are not partitioned: GPUs in use first, those with most free memory before others."""
    whole = [row for row in rows if not _is_partitioned(ledger, row)]
    return sorted(whole, key=lambda row: (ledger.held[row] == 0, -int(ledger.free[row, 2]), row))


def _whole(ledger: Bookings, instance: Instance, rows: list[int], configuration: int) -> Iterator[Booking]:
    memory = instance.configurations[configuration].memory_per_gpu_mib(1)
    for row in rows:
        if not _is_partitioned(ledger, row):
            yield Booking(instance, (row,), memory, configuration)
            continue
        geometry = ledger.cluster.gpu_types[int(ledger.node_type[ledger.node_of[row]])].mig
        for profile in geometry.profiles if geometry else ():
            for start in profile.starts:
                yield Booking(instance, (row,), memory, configuration, (MigSlice(profile.name, start),))


def _gangs(
    ledger: Bookings, instance: Instance, rows: list[int], configuration: int, *, every_order: bool
) -> Iterator[Booking]:
    """Every set of GPUs, the greatest memory on the GPU with most room or, with `every_order`, in any order."""
    memory = sorted(instance.configurations[configuration].memory_per_gpu_mib(instance.gpus), reverse=True)
    for combination in itertools.combinations(_fullest_memory_last(ledger, rows), instance.gpus):
        for each in _orders(memory) if every_order else (tuple(memory),):
            yield Booking(instance, combination, each, configuration)


def _orders(amounts: list[int]) -> Iterator[tuple[int, ...]]:
    """The distinct orders of `amounts`, greatest first."""
    if not amounts:
        yield ()
    for first in sorted(set(amounts), reverse=True):
        rest = amounts.copy()
        rest.remove(first)
        for others in _orders(rest):
            yield first, *others


def _may_hold_parts(ledger: Bookings, instance: Instance, rows: list[int], memory: int) -> list[int]:
    if not instance.splittable or memory < 2:
        return []
    return [row for row in _fullest_memory_last(ledger, rows) if ledger.free[row, 2] > 0]


def _greedy_splits(ledger: Bookings, instance: Instance, rows: list[int], configuration: int) -> Iterator[Booking]:
    (memory,) = instance.configurations[configuration].memory_per_gpu_mib(1)
    able = _may_hold_parts(ledger, instance, rows, memory)
    for count in range(2, min(len(able), _MOST_PARTS) + 1):
        for combination in itertools.combinations(able, count):
            parts, rest = [], memory
            for i, row in enumerate(combination):
                part = min(int(ledger.free[row, 2]), rest - (count - 1 - i))
                parts.append(part)
                rest -= part
            if rest == 0 and min(parts) >= 1:
                yield Booking(instance, combination, tuple(parts), configuration)


def _extreme_splits(
    ledger: Bookings, instance: Instance, rows: list[int], configuration: int, taken: Sequence[int]
) -> Iterator[Booking | None]:
    """Splits of which all parts but one are 1 MiB or fill what others leave.

    Some come more than once, and `None` comes for each try whose last part has no room.
    """
    (memory,) = instance.configurations[configuration].memory_per_gpu_mib(1)
    able = _may_hold_parts(ledger, instance, rows, memory)
    free = {row: int(ledger.free[row, 2]) for row in able}
    parts = {row: sorted({1, *(free[row] - each for each in taken if free[row] > each)}, reverse=True) for row in able}
    for count in range(2, min(len(able), memory) + 1):
        for combination in itertools.combinations(able, count):
            if sum(free[row] for row in combination) < memory:
                continue
            for k in range(count):
                others = combination[:k] + combination[k + 1 :]
                for sizes in itertools.product(*(parts[row] for row in others)):
                    rest = memory - sum(sizes)
                    fits = 1 <= rest <= free[combination[k]]
                    yield (
                        Booking(instance, combination, (*sizes[:k], rest, *sizes[k:]), configuration) if fits else None
                    )
