"""Annealed exchange: which running instances to move where, so that the greatest share of pending ones fits.

Prepares the arrays of `dilu_core.kernels.cpu.exchange` from a ledger and reads the best state back. Instances on one
GPU and gangs with equal memory on their GPUs take part. Split instances, partitions, and functions that somebody
refuses to sit beside stay where they are. Runs restart from the present state with falling prices of a migration, so
that the first ones find what is gained by few; the best state within the budget is kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.arrival_mix import TaskMix
from dilu_core.cluster import Instance
from dilu_core.kernels.cpu.exchange import anneal
from dilu_core.kernels.cpu.fragmentation import node_fragmentation
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.moving import Draft

Ints = NDArray[np.int64]

_PRICES = (0.6, 0.45, 0.7, 0.35)  # of a migration, in GPUs let in
_HOT, _COLD = 0.08, 0.02
_PROPOSALS = 2_000_000  # of a run
_CHUNK = 20_000  # between two looks at the clock
_SHAPES = 60
_ROOM_ON_NODE = 32


def exchange(
    draft: Draft, pending: Sequence[Instance], until: float, *, may_pause: bool, seed: int
) -> tuple[dict[str, Booking], list[Booking]]:
    """(moves by name, newcomers) of the best state found until `until` (of perf_counter); the draft is not changed."""
    board = _Board.of(draft, pending)
    if board is None:
        return {}, []
    best = board.run(draft, until, may_pause=may_pause, seed=seed)
    return board.read(*best)


@dataclass
class _Board:
    """Items are instances that may move, then those that wait; columns are described in the kernel."""

    ledger: Bookings
    bookings: list[Booking]
    waiting: list[Instance]
    demand: Ints
    size: Ints
    host_demand: Ints
    kind: Ints
    allowed: NDArray[np.bool_]
    home: Ints
    home_rows: Ints
    shapes: Ints
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, draft: Draft, pending: Sequence[Instance]) -> _Board | None:
        """The board, or `None` where nobody can take part."""
        ledger = draft.ledger
        bookings = [
            booking
            for name, booking in ledger.by_name.items()
            if name not in draft.fixed and not booking.is_split and not booking.mig and _plain(ledger, booking.instance)
        ]
        waiting = [each for each in pending if _plain(ledger, each)]
        if not bookings or not waiting:
            return None
        items = [(booking.instance, booking.request_milli, booking.limit_milli, booking.memory_mib[0])
                 for booking in bookings]  # fmt: skip
        items += [(each, each.request_milli, each.limit_milli, each.memory_per_gpu_mib[0]) for each in waiting]
        classes: dict[tuple[str, ...] | None, int] = {}
        kind = [classes.setdefault(each[0].gpu_types, len(classes)) for each in items]
        size = np.array([each[0].gpus for each in items], np.int64)
        home = np.full(len(items), -1, np.int64)
        home_rows = np.full((len(items), int(size.max())), -1, np.int64)
        for i, booking in enumerate(bookings):
            home[i] = ledger.node_of[booking.gpus[0]]
            home_rows[i, : len(booking.gpus)] = booking.gpus
        mix = draft.mix
        if mix is None:
            mix = TaskMix.of([each[0] for each in items]).common(most=_SHAPES, coverage=0.95)
        return cls(
            ledger,
            bookings,
            waiting,
            np.array([each[1:] for each in items], np.int64),
            size,
            np.array([(each[0].cpu_milli, each[0].host_memory_mib) for each in items], np.int64),
            np.array(kind, np.int64),
            np.array([~ledger.nodes_barred(types, partitioned=False) for types in classes], np.bool_),
            home,
            home_rows,
            mix.shapes,
            mix.weight,
        )

    def run(self, draft: Draft, until: float, *, may_pause: bool, seed: int) -> tuple[Ints, Ints]:
        """Node and rows of every item in the best state found."""
        best = (0, 0)
        kept = self.home.copy(), self.home_rows.copy()
        for number, price in enumerate(_PRICES):
            if time.perf_counter() >= until:
                break
            score, at, rows = self._anneal(draft.moves_left, price, until, may_pause, seed * len(_PRICES) + number)
            found = (int(score[2]), -int(score[3]))
            if found > best:
                best, kept = found, (at, rows)
        return kept

    def _anneal(
        self, most_moves: int, price: float, until: float, may_pause: bool, seed: int
    ) -> tuple[Ints, Ints, Ints]:
        """One run from the present state."""
        ledger = self.ledger
        free, host = ledger.free.copy(), ledger.host_free.copy()
        at, rows = self.home.copy(), self.home_rows.copy()
        running = np.flatnonzero(at >= 0)
        count = np.bincount(at[running], minlength=ledger.node_type.size).astype(np.int64)
        listed = np.zeros((count.size, int(count.max()) + _ROOM_ON_NODE), np.int64)
        place = np.zeros(at.size, np.int64)
        filled = np.zeros_like(count)
        for i in running.tolist():
            listed[at[i], filled[at[i]]], place[i] = i, filled[at[i]]
            filled[at[i]] += 1
        starts = ledger.node_start
        waste = np.array(
            [
                node_fragmentation(free, int(start), int(stop), int(cpu), int(memory), self.shapes, self.weight)
                for start, stop, (cpu, memory) in zip(starts[:-1], starts[1:], host.tolist(), strict=True)
            ]
        )
        score = np.array([0, 0, 0, 0], np.int64)
        best_at, best_rows = at.copy(), rows.copy()
        pending = np.flatnonzero(self.home < 0)
        random = np.array([seed % 2147483646 + 1], np.int64)
        for first in range(0, _PROPOSALS, _CHUNK):
            if time.perf_counter() >= until:
                break
            anneal(
                _CHUNK, first, _PROPOSALS, random, _HOT, _COLD, price, 1.0, most_moves,
                may_pause, self.demand, self.size, self.host_demand, self.kind, self.allowed, starts, self.home,
                self.home_rows, pending, self.shapes, self.weight, free, host, at, rows, listed, count, place, waste,
                score, best_at, best_rows,
            )  # fmt: skip
        return score, best_at, best_rows

    def read(self, at: Ints, rows: Ints) -> tuple[dict[str, Booking], list[Booking]]:
        """The moves and the newcomers that make the present state into this one."""
        wanted: dict[str, Booking] = {}
        newcomers = []
        for i, booking in enumerate(self.bookings):
            chosen = tuple(rows[i, : self.size[i]].tolist())
            if sorted(chosen) != sorted(booking.gpus):
                wanted[booking.instance.name] = Booking(
                    booking.instance, chosen, booking.memory_mib, booking.configuration
                )
        for i, instance in enumerate(self.waiting, start=len(self.bookings)):
            if at[i] >= 0:
                chosen = tuple(rows[i, : self.size[i]].tolist())
                newcomers.append(Booking(instance, chosen, instance.memory_per_gpu_mib))
        return wanted, newcomers


def _plain(ledger: Bookings, instance: Instance) -> bool:
    """Whether the kernel's rules are all the rules there are for it."""
    return (
        len(set(instance.memory_per_gpu_mib)) == 1
        and not instance.anti_affinity
        and instance.function not in ledger.refused_on
    )
