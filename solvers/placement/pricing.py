"""Prices of planned moves as integers, so that CP-SAT weighs them exactly.

With free moves: first GPUs, then moves, then the usefulness of the room that is left. With a `MoveCost`: GPU-seconds,
a freed GPU being worth the horizon; usefulness still only breaks ties.

The usefulness of the room left by a booking is FGD's: how much more of its node's free share the mix of arrivals is
expected not to be able to use (Weng et al., USENIX ATC 2023). Without a mix, it is best fit: what is left over on the
GPU, each resource as a share of its capacity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dilu_core.kernels.cpu.fragmentation import node_fragmentation, node_fragmentation_after
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.moving import Draft

LEVELS = 100  # of usefulness
_PER_SECOND = 10  # prices are in tenths of a GPU-second
_REST_WEIGHTS = np.array([0.5, 0.3, 0.2])


@dataclass(frozen=True)
class Prices:
    """What a GPU is worth and what a move costs, in one integer unit; `fine` is one unit of the coarser terms."""

    draft: Draft
    fine: int
    gpu: int

    @classmethod
    def of(cls, draft: Draft) -> Prices:
        """The prices for what is left of the draft's budget."""
        fine = LEVELS * (draft.moves_left + 1)
        if draft.cost is None:
            return cls(draft, fine, fine * (draft.moves_left + 1))
        return cls(draft, fine, fine * max(1, round(draft.horizon_s * _PER_SECOND)))

    def move(self, booking: Booking) -> int:
        """The price of moving what is booked like this; never 0, so that no move is made for nothing."""
        if self.draft.cost is None:
            return self.fine
        return self.fine * max(1, round(self.draft.gpu_seconds(booking) * _PER_SECOND))

    def way(self, booking: Booking) -> int:
        """0..LEVELS - 1: how badly the room left by this booking, were it the only one, suits what is to come."""
        ledger = self.draft.ledger
        if self.draft.mix is not None:
            wasted = unusable_after(ledger, booking, self.draft) + booking.request_milli * len(booking.gpus)
            node = int(ledger.node_of[booking.gpus[0]])
            size = 1000 * int(ledger.node_start[node + 1] - ledger.node_start[node])
            return int(np.clip(wasted / size, 0.0, 0.99) * LEVELS)
        rows = list(booking.gpus)
        rest = (ledger.free[rows] / np.maximum(ledger.capacity[rows], 1)) @ _REST_WEIGHTS
        return int(np.clip(rest.mean(), 0.0, 0.99) * LEVELS)


def unusable_after(ledger: Bookings, booking: Booking, draft: Draft) -> float:
    """By how much this booking raises the share of its node expected to be unusable, in milli-GPU."""
    assert draft.mix is not None
    node = int(ledger.node_of[booking.gpus[0]])
    start, stop = int(ledger.node_start[node]), int(ledger.node_start[node + 1])
    cpu, memory = ledger.host_free[node].tolist()
    shapes, weight = draft.mix.shapes, draft.mix.weight
    instance = booking.instance
    after = node_fragmentation_after(
        ledger.free, start, stop, cpu, memory, shapes, weight,
        np.array(booking.gpus, np.int64), len(booking.gpus), booking.request_milli, booking.limit_milli,
        np.array(booking.memory_mib, np.int64), instance.cpu_milli, instance.host_memory_mib,
    )  # fmt: skip
    return float(after - node_fragmentation(ledger.free, start, stop, cpu, memory, shapes, weight))
