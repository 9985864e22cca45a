"""How good a placement is: five aims, compared in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dilu_core.cluster import Instance
from dilu_core.solvers.placement.bookings import Booking, Bookings


@dataclass(frozen=True, order=True)
class Value:
    """What a placement costs; less is better, an earlier field outweighs all later ones.

    `unplaced` instances; GPUs used; running instances moved; parts of split instances; instances with affinities of
    which none is met (an unplaced instance meets none).
    """

    unplaced: int
    gpus_used: int
    moves: int
    split_parts: int
    affinities_missed: int

    @property
    def leaves_lesser_aims(self) -> bool:
        """Whether a placement on as many GPUs could be better."""
        return bool(self.moves or self.split_parts or self.affinities_missed)


def value(ledger: Bookings, wanted: Sequence[Instance], current: Mapping[str, Booking]) -> Value:
    """The value of what `ledger` holds of the `wanted` instances, against where they run now."""
    bookings = ledger.by_name
    return Value(
        len(wanted) - len(bookings),
        ledger.gpus_used,
        sum(1 for name, now in current.items() if name in bookings and is_moved(bookings[name], now)),
        sum(len(booking.gpus) for booking in bookings.values() if booking.is_split),
        sum(1 for each in wanted if each.affinity and not _meets_affinity(ledger, bookings.get(each.name))),
    )


def is_moved(booking: Booking, now: Booking) -> bool:
    """Whether the slots differ; their order does not count."""
    return sorted(zip(booking.gpus, booking.memory_mib, strict=True)) != sorted(
        zip(now.gpus, now.memory_mib, strict=True)
    )


def _meets_affinity(ledger: Bookings, booking: Booking | None) -> bool:
    if booking is None:
        return False
    own = booking.instance.function
    return any(
        ledger.function_on.get(friend, {}).get(row, 0) > (friend == own)
        for friend in booking.instance.affinity
        for row in booking.gpus
    )
