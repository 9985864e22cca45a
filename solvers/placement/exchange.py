"""Annealed exchange: which running instances to move where, so that the greatest share of pending ones fits.

Prepares the arrays of `dilu_core.kernels.cpu.exchange` from a ledger and reads the best state back. Instances on one
GPU and gangs with equal memory on their GPUs take part. Split instances, partitions, and functions that somebody
refuses to sit beside stay where they are. Runs restart from the present state, on every core one, the price of a
migration falling until the budget is spent; the best state within the budget is kept.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dilu_core.arrival_mix import TaskMix
from dilu_core.cluster import Instance
from dilu_core.kernels.cpu.exchange import anneal
from dilu_core.kernels.cpu.fragmentation import node_fragmentation
from dilu_core.kernels.cpu.seating import Items, Seats, new_trail
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.moving import Draft

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_PRICE = 0.6  # of a migration in the first run, in GPUs let in
_CHEAPER, _DEARER = 0.75, 1.15  # the next run's price, where a run left migrations over, and where it did not
_SPENT = 0.95  # of the budget
_RUNS = 5
_HOT, _COLD = 0.08, 0.02
_USEFULNESS = 1.0  # of room for arrivals, beside what is let in
_PROPOSALS = 20_000_000  # of a run
_APART = 1_000_003  # seeds of two cores
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
    """Instances that may move, then those that wait, as items of the kernel; and the mix of arrivals."""

    ledger: Bookings
    bookings: list[Booking]
    waiting: list[Instance]
    items: Items
    shapes: Ints
    weight: Floats

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
        demand = np.array([each[1:] for each in items], np.int64)
        host_demand = np.array([(each[0].cpu_milli, each[0].host_memory_mib) for each in items], np.int64)
        every = np.column_stack([demand, size, host_demand, kind])
        columns = Items(
            demand,
            size,
            host_demand,
            np.array(kind, np.int64),
            np.unique(every, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64),
            np.array([~ledger.nodes_barred(types, partitioned=False) for types in classes], np.bool_),
            ledger.node_start,
            home,
            home_rows,
        )
        return cls(ledger, bookings, waiting, columns, mix.shapes, mix.weight)

    def run(self, draft: Draft, until: float, *, may_pause: bool, seed: int) -> tuple[Ints, Ints]:
        """Node and rows of every item in the best state found, by a chain of runs on every core."""
        random = [np.array([(seed + _APART * core) % 2147483646 + 1], np.int64) for core in range(os.cpu_count() or 1)]
        best, price = (0, 0), _PRICE
        kept = self.items.home.copy(), self.items.home_rows.copy()
        begin, stop = self._seats(), threading.Event()
        with ThreadPoolExecutor(len(random)) as pool:
            try:
                for number in range(_RUNS):
                    now = time.perf_counter()
                    if now >= until:
                        break
                    ends = now + (until - now) / (_RUNS - number)
                    one = partial(self._anneal, begin, draft.moves_left, price, ends, may_pause, stop)
                    found, made, at, rows = max(pool.map(one, random), key=lambda run: run[0])
                    if found > best:
                        best, kept = found, (at, rows)
                    price *= _CHEAPER if made < _SPENT * draft.moves_left else _DEARER
            finally:
                stop.set()
        return kept

    def _anneal(
        self, begin: tuple[Seats, Floats], most_moves: int, price: float, ends: float, may_pause: bool,
        stop: threading.Event, random: Ints,
    ) -> tuple[tuple[int, int], int, Ints, Ints]:  # fmt: skip
        """One run from a copy of `begin`, as cold at its end where time is short as where it is not.

        Returns what the best state lets in [milli-GPU] and minus its moves, the moves of the last state, and node and
        rows of every item in the best.
        """
        seats, waste = Seats(*(column.copy() for column in begin[0])), begin[1].copy()
        trail = new_trail(seats.rows.shape[1])
        pending = np.flatnonzero(self.items.home < 0)
        score = np.zeros(4, np.int64)
        best_at, best_rows = seats.at.copy(), seats.rows.copy()
        started = time.perf_counter()
        made = 0
        while made < _PROPOSALS and not stop.is_set():
            spent = (time.perf_counter() - started) / max(ends - started, 1e-9)
            if spent >= 1.0:
                break
            temperature = _HOT * (_COLD / _HOT) ** max(made / _PROPOSALS, spent)
            anneal(
                self.items, seats, trail, pending, self.shapes, self.weight, waste, score, best_at, best_rows, random,
                _CHUNK, temperature, price, _USEFULNESS, most_moves, may_pause,
            )  # fmt: skip
            made += _CHUNK
        return (int(score[2]), -int(score[3])), int(score[0]), best_at, best_rows

    def _seats(self) -> tuple[Seats, Floats]:
        """The present state, and the share of each node that arrivals are expected not to be able to use."""
        ledger = self.ledger
        free, host = ledger.free.copy(), ledger.host_free.copy()
        at = self.items.home.copy()
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
        most = np.maximum.reduceat(free[:, 0], starts[:-1])
        return Seats(free, host, most, at, self.items.home_rows.copy(), listed, count, place), waste

    def read(self, at: Ints, rows: Ints) -> tuple[dict[str, Booking], list[Booking]]:
        """The moves and the newcomers that make the present state into this one."""
        wanted: dict[str, Booking] = {}
        newcomers = []
        for i, booking in enumerate(self.bookings):
            chosen = tuple(rows[i, : self.items.size[i]].tolist())
            if sorted(chosen) != sorted(booking.gpus):
                wanted[booking.instance.name] = Booking(
                    booking.instance, chosen, booking.memory_mib, booking.configuration
                )
        for i, instance in enumerate(self.waiting, start=len(self.bookings)):
            if at[i] >= 0:
                chosen = tuple(rows[i, : self.items.size[i]].tolist())
                newcomers.append(Booking(instance, chosen, instance.memory_per_gpu_mib))
        return wanted, newcomers


def _plain(ledger: Bookings, instance: Instance) -> bool:
    """Whether the kernel's rules are all the rules there are for it."""
    return (
        len(set(instance.memory_per_gpu_mib)) == 1
        and not instance.anti_affinity
        and instance.function not in ledger.refused_on
    )
