"""Local search over active GPUs: give one up, and anneal its instances into the others; repeat while it succeeds.

It moves only instances that are free to sit anywhere: on one GPU, not splittable over several, without GPU types and
outside all anti-affinity. The others stay where they are and count as used room. At millions of steps a second this is
the strongest improver for many small instances; what involves gangs, splits and affinities is left to CP-SAT.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.annealing import anneal
from dilu_core.solvers.placement.bookings import Booking, Bookings

_CHUNK = 100_000  # steps between looks at the clock
_STEPS_PER_INSTANCE = 10_000  # for giving up one GPU, before it is taken to be too hard
_TEMPERATURE = 0.02

Ints = NDArray[np.int64]


@dataclass
class _Bins:
    """Active GPUs as bins: rows in the ledger, movable members, and room; the arrays `anneal` works on."""

    rows: Ints
    members: Ints
    count: Ints
    free: Ints
    fixed: NDArray[np.bool_]

    def copy(self) -> _Bins:
        return _Bins(self.rows.copy(), self.members.copy(), self.count.copy(), self.free.copy(), self.fixed.copy())


def squeeze(ledger: Bookings, *, target: int, deadline: float, seed: int) -> tuple[int, bool]:
    """Empty GPUs of `ledger` until `target` are left, one proves too hard, or the deadline.

    Returns the steps made, and whether the deadline cut them short (else they depend on ledger and seed alone).
    """
    movable = [booking for booking in ledger.by_name.values() if _is_free(ledger, booking)]
    if len(movable) < 2:
        return 0, False
    demand = np.array([(b.instance.request_milli, b.limit_milli, b.memory_mib[0]) for b in movable], np.int64)
    share = demand / np.maximum(ledger.capacity.max(axis=0), 1)
    size = share @ share.mean(axis=0)
    size = size / max(float(size.mean()), 1e-12)
    best = bins = _bins(ledger, movable)
    random = np.array([seed % 2147483646 + 1], np.int64)
    homeless = np.zeros(len(movable), np.int64)
    steps, late = 0, time.perf_counter() >= deadline
    while bins.rows.size > max(target, 1) and not late:
        trial = best.copy()
        waiting = _give_up_one(trial, size, homeless)
        if waiting < 0:
            break
        budget = _STEPS_PER_INSTANCE * len(movable)
        while waiting and budget > 0 and not late:
            chunk = min(_CHUNK, budget)
            waiting = anneal(
                demand, size, trial.members, trial.count, trial.free, trial.rows.size, homeless, waiting, chunk,
                _TEMPERATURE, random,
            )  # fmt: skip
            budget -= chunk
            steps += chunk
            late = time.perf_counter() >= deadline
        if waiting:
            break
        best = bins = trial
    _write_back(ledger, movable, best)
    return steps, late and best.rows.size > target


def _is_free(ledger: Bookings, booking: Booking) -> bool:
    instance = booking.instance
    return (
        len(booking.gpus) == 1
        and instance.gpus == 1
        and instance.gpu_types is None
        and not instance.affinity
        and not instance.anti_affinity
        and instance.function not in ledger.refused_on
    )


def _bins(ledger: Bookings, movable: list[Booking]) -> _Bins:
    rows = np.flatnonzero(ledger.held)
    number = {int(row): i for i, row in enumerate(rows)}
    inside: list[list[int]] = [[] for _ in rows]
    for k, booking in enumerate(movable):
        inside[number[booking.gpus[0]]].append(k)
    count = np.array([len(each) for each in inside], np.int64)
    members = np.zeros((rows.size, 2 * int(count.max()) + 4), np.int64)
    for i, each in enumerate(inside):
        members[i, : len(each)] = each
    return _Bins(rows, members, count, ledger.free[rows], count < ledger.held[rows])


def _give_up_one(bins: _Bins, size: NDArray[np.float64], homeless: Ints) -> int:
    """Drop the least filled bin of movable instances alone; they become homeless. -1 where there is no such bin."""
    fill = np.array([size[row[:n]].sum() for row, n in zip(bins.members, bins.count, strict=True)])
    fill[bins.fixed] = np.inf
    b = int(np.argmin(fill))
    if not np.isfinite(fill[b]):
        return -1
    waiting = int(bins.count[b])
    homeless[:waiting] = bins.members[b, :waiting]
    keep = np.arange(bins.rows.size) != b
    bins.rows, bins.members, bins.count = bins.rows[keep], bins.members[keep], bins.count[keep]
    bins.free, bins.fixed = bins.free[keep], bins.fixed[keep]
    return waiting


def _write_back(ledger: Bookings, movable: list[Booking], bins: _Bins) -> None:
    """Book every movable instance where it ended up; all leave first, so that no step needs more room than there is."""
    target = {
        movable[k].instance.name: int(row)
        for row, each, n in zip(bins.rows, bins.members, bins.count, strict=True)
        for k in each[:n].tolist()
    }
    moving = [booking for booking in movable if target[booking.instance.name] != booking.gpus[0]]
    for booking in moving:
        ledger.cancel(booking.instance.name)
    for booking in moving:
        ledger.book(booking.instance, (target[booking.instance.name],), booking.memory_mib)
