"""How good a placement is, term by term; `dilu_core.solvers.placement.objective` says which terms matter how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dilu_core.cluster import Instance
from dilu_core.solvers.placement.bookings import Booking, Bookings

TERMS = ("gpus", "nodes", "moves", "splits", "split_parts", "configurations", "affinities")
"""What may be minimised, each a field of `Value`."""


@dataclass(frozen=True)
class Value:
    """What a placement costs in each term; less is better.

    `unplaced` instances; `gpus` and `nodes` used; running instances whose slots changed (`moves`); split instances and
    their parts; the sum of the numbers of the `configurations` chosen; instances with `affinities` none of which is
    met (an unplaced instance meets none).
    """

    unplaced: int
    gpus: int
    nodes: int
    moves: int
    splits: int
    split_parts: int
    configurations: int
    affinities: int


def value(ledger: Bookings, wanted: Sequence[Instance], current: Mapping[str, Booking]) -> Value:
    """The value of what `ledger` holds of the `wanted` instances, against where they run now."""
    bookings = ledger.by_name
    split = [len(booking.gpus) for booking in bookings.values() if booking.is_split]
    return Value(
        unplaced=len(wanted) - len(bookings),
        gpus=ledger.gpus_used,
        nodes=int(np.unique(ledger.node_of[ledger.held > 0]).size),
        moves=sum(1 for name, now in current.items() if name in bookings and is_moved(bookings[name], now)),
        splits=len(split),
        split_parts=sum(split),
        configurations=sum(booking.configuration for booking in bookings.values()),
        affinities=sum(1 for each in wanted if each.affinity and not _meets_affinity(ledger, bookings.get(each.name))),
    )


def is_moved(booking: Booking, now: Booking) -> bool:
    """Whether the slots differ; their order does not count."""
    return booking.configuration != now.configuration or _slots(booking) != _slots(now)


def _slots(booking: Booking) -> list[tuple[int, int, object]]:
    mig = booking.mig or (None,) * len(booking.gpus)
    return sorted(zip(booking.gpus, booking.memory_mib, mig, strict=True), key=lambda slot: slot[:2])


def _meets_affinity(ledger: Bookings, booking: Booking | None) -> bool:
    if booking is None:
        return False
    own = booking.instance.function
    return any(
        ledger.function_on.get(friend, {}).get(row, 0) > (friend == own)
        for friend in booking.instance.affinity
        for row in booking.gpus
    )
