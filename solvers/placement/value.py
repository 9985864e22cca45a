"""How good a placement is: five aims, compared in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dilu_core.solvers.placement.bookings import Booking, Bookings


@dataclass(frozen=True, order=True)
class Value:
    """What a placement costs; less is better, an earlier field outweighs all later ones.

    `unplaced` instances; GPUs used; running instances moved; parts of split instances; instances with affinities of
    which none is met.
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


def value(ledger: Bookings, wanted: int, current: Mapping[str, Booking]) -> Value:
    """The value of what `ledger` holds, of `wanted` instances in all, against where they run now."""
    bookings = ledger.by_name
    return Value(
        wanted - len(bookings),
        ledger.gpus_used,
        sum(1 for name, now in current.items() if name in bookings and is_moved(bookings[name], now)),
        sum(len(booking.gpus) for booking in bookings.values() if booking.is_split),
        sum(1 for booking in bookings.values() if booking.instance.affinity and not _meets_affinity(ledger, booking)),
    )


def is_moved(booking: Booking, now: Booking) -> bool:
    """Whether the slots differ; their order does not count."""
    return sorted(zip(booking.gpus, booking.memory_mib, strict=True)) != sorted(
        zip(now.gpus, now.memory_mib, strict=True)
    )


def _meets_affinity(ledger: Bookings, booking: Booking) -> bool:
    own = booking.instance.function
    return any(
        ledger.function_on.get(friend, {}).get(row, 0) > (friend == own)
        for friend in booking.instance.affinity
        for row in booking.gpus
    )
