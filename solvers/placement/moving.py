"""Moving a booked instance within a ledger so that it holds source and target at once while the move is under way.

On a GPU that is in both, it holds the greater of the two amounts. On its node's host it is two copies for that time:
the target needs the host's CPU and memory free even where source and target are one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dilu_core.arrival_mix import TaskMix
from dilu_core.solvers.placement.bookings import Booking, Bookings, HostBooking
from dilu_core.solvers.placement.move_cost import MoveCost


def can_move(ledger: Bookings, wanted: Booking) -> bool:
    """Whether the instance of `wanted`, which is booked elsewhere, can be started there before it is stopped here."""
    held = ledger.by_name[wanted.instance.name]
    shared = set(held.gpus).intersection(wanted.gpus)
    if not shared or wanted.mig or held.mig:
        return ledger.fits(wanted)
    if not ledger.host_has_room(wanted.gpus[0], wanted.instance):
        return False
    now = dict(zip(held.gpus, held.memory_mib, strict=True))
    more_request = max(0, wanted.request_milli - held.request_milli)
    more_limit = max(0, wanted.limit_milli - held.limit_milli)
    free = ledger.free
    for gpu, memory in zip(wanted.gpus, wanted.memory_mib, strict=True):
        if gpu in shared:
            if free[gpu, 0] < more_request or free[gpu, 1] < more_limit or free[gpu, 2] < memory - now[gpu]:
                return False
        elif (
            free[gpu, 0] < wanted.request_milli
            or free[gpu, 1] < wanted.limit_milli
            or free[gpu, 2] < memory
            or ledger.refuses(gpu, wanted.instance)
        ):
            return False
    return True


def move(ledger: Bookings, wanted: Booking) -> bool:
    """Carry out a move that `can_move` allows; otherwise change nothing and return `False`."""
    if not can_move(ledger, wanted):
        return False
    return ledger.move(wanted.instance.name, *wanted.fields[1:])


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan being made: where an instance was and where it is afterwards (`None`: it is down).

    `freed` is its share of the GPUs that the steps taken together with it free.
    """

    held: Booking | None
    wanted: Booking | None
    freed: float = 0.0

    @property
    def name(self) -> str:
        """The instance that moves."""
        booking = self.held or self.wanted
        assert booking is not None
        return booking.instance.name


class HostStep(NamedTuple):
    """A reservation of CPU and host memory goes from one node to another."""

    held: HostBooking
    wanted: HostBooking


@dataclass
class Draft:
    """A plan being made: a ledger of its own on which its steps have been carried out, and who may not move.

    `horizon_s` is how long a freed GPU stays free; with free moves (`cost` is `None`) any GPU freed is worth them.
    `mix` is what is expected to arrive, if known.
    """

    ledger: Bookings
    most_moves: int
    fixed: set[str]
    horizon_s: float
    cost: MoveCost | None = None
    mix: TaskMix | None = None
    host_steps: list[HostStep] = field(default_factory=list)  # before all `steps`
    steps: list[Step] = field(default_factory=list)
    admitted: list[Booking] = field(default_factory=list)

    @property
    def moves_left(self) -> int:
        """How many instances or reservations may still be moved."""
        return self.most_moves - len(self.host_steps) - sum(1 for step in self.steps if step.held is not None)

    def gpu_seconds(self, booking: Booking) -> float:
        """What moving this booking costs."""
        return 0.0 if self.cost is None else self.cost.gpu_seconds(booking)

    def carry_out(self, wanted: Sequence[Booking]) -> bool:
        """Move all of these in order and write that down, or change nothing and return `False`."""
        ledger, steps = self.ledger, list[tuple[Booking, Booking]]()
        before, mark = ledger.gpus_used, ledger.mark()
        for booking in wanted:
            held = ledger.by_name[booking.instance.name]
            if not move(ledger, booking):
                ledger.rollback(mark)
                ledger.release(mark)
                return False
            steps.append((held, booking))
        ledger.release(mark)
        share = (before - ledger.gpus_used) / max(len(steps), 1)
        self.steps += [Step(held, booking, share) for held, booking in steps]
        return True

    def let_in(self, moves: Sequence[Booking], place: Booking | None) -> bool:
        """Carry out `moves` and let a newcomer in at `place`, or change nothing and return `False`."""
        if place is None:
            return False
        ledger, steps = self.ledger, len(self.steps)
        mark = ledger.mark()
        try:
            if self.carry_out(moves) and ledger.fits(place):
                self.admit(place)
                return True
            ledger.rollback(mark)
            del self.steps[steps:]
            return False
        finally:
            ledger.release(mark)

    def admit(self, booking: Booking) -> None:
        """Let a newcomer in."""
        self.ledger.book(*booking.fields)
        self.admitted.append(booking)
        self.fixed.add(booking.instance.name)
