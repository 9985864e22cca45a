"""Who may move when moves are planned, and the places each could take.

A neighbourhood takes instances in their present configurations and a few ways of each (`movers`). A small cluster is
taken whole: all that may move and all that wait, in every configuration, and whether nothing that matters was left out
(`everyone`), without which a search through them proves nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dilu_core.cluster import Instance
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.layers import Mover
from dilu_core.solvers.placement.moving import Draft, can_move
from dilu_core.solvers.placement.pricing import LEVELS, Prices
from dilu_core.solvers.placement.value import is_moved
from dilu_core.solvers.placement.ways import every_way_on, ways_on

_SMALL_PAIRS = 150
_MOST_WAYS = 1024  # of all together on several GPUs
_MOST_AMOUNTS = 64  # of memory that others may hold on a GPU


def is_small(ledger: Bookings) -> bool:
    """Whether the whole cluster is one neighbourhood."""
    return len(ledger.by_name) * ledger.held.size <= _SMALL_PAIRS


def movable(draft: Draft, rows: Iterable[int]) -> dict[str, Booking]:
    """The instances on these rows that may move, by name in order of rows and names."""
    on_gpu = draft.ledger.on_gpu
    return {name: booking for row in rows for name, booking in sorted(on_gpu[row].items()) if name not in draft.fixed}


def movers(
    draft: Draft, bookings: dict[str, Booking], rows: list[int], prices: Prices, deadline: float, *, now: bool
) -> list[Mover]:
    """These instances and the places each could take on `rows`: with room `now`, or once all of them are gone.

    At `deadline` (of perf_counter) the others are left out.
    """
    ledger = draft.ledger
    by_node: dict[int, list[int]] = {}
    for row in sorted(rows):
        by_node.setdefault(int(ledger.node_of[row]), []).append(row)
    found = []
    mark = ledger.mark()
    if not now:
        for name in bookings:
            ledger.cancel(name)
    for name, booking in bookings.items():
        if time.perf_counter() >= deadline:
            break
        again = ledger.mark()
        if now:
            ledger.cancel(name)
        wanted = [
            way
            for node_rows in _with_room(ledger, booking, by_node, now)
            for way in ways_on(ledger, booking.instance, node_rows, booking.configuration)
            if is_moved(way, booking)
        ]
        ledger.rollback(again)
        if now:
            wanted = [way for way in wanted if can_move(ledger, way)]
        found.append(Mover(booking, wanted, prices.move(booking)))
    ledger.rollback(mark)
    ledger.release(mark)
    for i, mover in enumerate(found):
        if time.perf_counter() >= deadline:
            return found[:i]
        mover.way_price = [prices.way(way) for way in mover.ways]
    return found


def _with_room(ledger: Bookings, booking: Booking, by_node: dict[int, list[int]], now: bool) -> Iterable[list[int]]:
    """The rows of each node that could hold a part of this instance at all: a cheap look before the careful one."""
    if not now:
        return by_node.values()
    instance = booking.instance
    rows = np.array([row for here in by_node.values() for row in here], np.int64)
    able = ledger.free[rows, 0] >= booking.request_milli
    if not instance.splittable:
        able &= (ledger.free[rows, 1] >= booking.limit_milli) & (ledger.free[rows, 2] >= min(booking.memory_mib))
    good = set(rows[able].tolist())
    return [kept for here in by_node.values() if (kept := [row for row in here if row in good])]


class Everyone(NamedTuple):
    """All that may move, the places of each that waits once they are gone, and whether no other way matters."""

    movers: list[Mover]
    places: list[list[Booking]]
    is_complete: bool


def everyone(draft: Draft, waiting: Sequence[Instance], prices: Prices, deadline: float) -> Everyone:
    """The whole cluster with every way of everybody, also to another configuration in place.

    Ways not looked for by `deadline` (of perf_counter) are left out.
    """
    ledger = draft.ledger
    bookings = movable(draft, range(ledger.held.size))
    nodes = [range(start, stop) for start, stop in itertools.pairwise(ledger.node_start.tolist())]
    parties = [*(booking.instance for booking in bookings.values()), *waiting]
    taken = _amounts(parties)
    complete = len(taken) <= _MOST_AMOUNTS and sum(each.splittable for each in parties) <= 1
    most = _MOST_WAYS // (len(parties) * max(len(nodes), 1))
    ways = []
    mark = ledger.mark()
    for name in bookings:
        ledger.cancel(name)
    for instance in parties:
        of_one = list[Booking]()
        for number, rows in itertools.product(range(len(instance.configurations)), nodes):
            if time.perf_counter() >= deadline:
                complete = False
                break
            found, all_there = every_way_on(ledger, instance, rows, number, taken[:_MOST_AMOUNTS], most)
            of_one += found
            complete &= all_there
        ways.append(of_one)
    ledger.rollback(mark)
    ledger.release(mark)
    found_movers = []
    for booking, places in zip(bookings.values(), ways, strict=False):
        wanted = [way for way in places if is_moved(way, booking)]
        priced = [prices.way(way) if way.configuration == booking.configuration else LEVELS - 1 for way in wanted]
        found_movers.append(Mover(booking, wanted, prices.move(booking), priced))
    return Everyone(found_movers, ways[len(bookings) :], complete)


def _amounts(instances: Iterable[Instance]) -> list[int]:
    """Sums in MiB of what some of these may hold on one GPU, least first; those that may be split left aside.

    One more than `_MOST_AMOUNTS` where there are more.
    """
    sums = {0}
    for instance in instances:
        if instance.splittable:
            continue
        sizes = {mib for each in instance.configurations for mib in each.memory_per_gpu_mib(instance.gpus)}
        sums = set(sorted(sums | {total + mib for total in sums for mib in sizes})[: _MOST_AMOUNTS + 1])
    return sorted(sums)
