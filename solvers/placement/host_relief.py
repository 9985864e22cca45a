"""Moving what uses no GPU off nodes whose GPUs stand free for want of CPU or host memory.

A node may have free GPUs that no pending instance can use, because reservations of CPU and host memory
(`ClusterState.reserve_host`) hold its host. Moved to a node whose GPUs are busy, one of them may let in a whole GPU's
worth. Lazily greedy: of all nodes, the one where moving its largest reservations lets in the greatest share per move;
then the next, as long as that is worth a migration.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dilu_core.cluster import Instance
from dilu_core.solvers.placement.bookings import Booking, Bookings, HostBooking
from dilu_core.solvers.placement.host_room import least_hurt
from dilu_core.solvers.placement.moving import Draft, HostStep
from dilu_core.solvers.placement.room import demand_of

_LEAST_MILLI = 300.0  # of GPU share let in per reservation moved: what a migration of an instance brings on the mean
_MOST_MOVED = 6  # reservations of one node


class Relief(NamedTuple):
    """Reservations to move off one node, largest first, and who is let in there then."""

    moved: tuple[HostBooking, ...]
    admitted: tuple[Booking, ...]

    @property
    def milli_per_move(self) -> float:
        """GPU share let in by each move."""
        return sum(each.request_milli * len(each.gpus) for each in self.admitted) / len(self.moved)


def relieve_hosts(draft: Draft, pending: Sequence[Instance], movable: set[str], deadline: float) -> bool:
    """Add moves of `movable` reservations, and the admissions they allow, to the draft; whether it ran to its end."""
    ledger = draft.ledger
    waiting = {each.name: each for each in sorted(pending, key=_greatest_first)}
    on_node: dict[int, list[HostBooking]] = {}
    for booking in ledger.reserved.values():
        if booking.name in movable:
            on_node.setdefault(booking.node, []).append(booking)
    queue = [(-np.inf, node) for node in sorted(on_node)]  # what a node promised when last looked at
    while queue and waiting and draft.moves_left > 0:
        if time.perf_counter() >= deadline:
            return False
        _, node = heapq.heappop(queue)
        here = [booking for booking in on_node[node] if ledger.reserved[booking.name] == booking]  # not moved yet
        here.sort(key=lambda each: (-each.cpu_milli, -each.memory_mib, each.name))
        allowed = [each for each in waiting.values() if not _barred(ledger, node, each)]
        relief = _best(draft, here, allowed) if here else None
        if relief is None or relief.milli_per_move < _LEAST_MILLI:
            continue
        promised = (-relief.milli_per_move, node)
        if queue and promised > queue[0]:
            heapq.heappush(queue, promised)
        elif _carry_out(draft, relief):
            for admitted in relief.admitted:
                del waiting[admitted.instance.name]
            heapq.heappush(queue, promised)
    return True


def _greatest_first(instance: Instance) -> tuple[int, int, int, str]:
    return -instance.request_milli * instance.gpus, instance.cpu_milli, instance.host_memory_mib, instance.name


def _barred(ledger: Bookings, node: int, instance: Instance) -> bool:
    """Whether the node's GPUs are of a type that the instance does not take, or cut into partitions."""
    return bool(ledger.nodes_barred(instance.gpu_types, partitioned=False)[node])


def _best(draft: Draft, here: list[HostBooking], waiting: list[Instance]) -> Relief | None:
    """Of moving the one, two, ... largest of `here`, what lets in the greatest share per move; `None`: nothing."""
    ledger, best = draft.ledger, None
    mark = ledger.mark()
    try:
        for moved in range(1, min(len(here), _MOST_MOVED, draft.moves_left) + 1):
            ledger.unreserve(here[moved - 1].name)
            before = ledger.mark()
            relief = Relief(tuple(here[:moved]), _fill(ledger, here[0].node, waiting))
            ledger.rollback(before)
            if relief.admitted and (best is None or relief.milli_per_move > best.milli_per_move):
                best = relief
    finally:
        ledger.rollback(mark)
        ledger.release(mark)
    return best


def _fill(ledger: Bookings, node: int, waiting: list[Instance]) -> tuple[Booking, ...]:
    """Book on `node` what fits of `waiting`, in order; of equal demands only one is tried once one has failed."""
    rows = range(int(ledger.node_start[node]), int(ledger.node_start[node + 1]))
    admitted, failed = [], set[tuple[object, ...]]()
    for instance in waiting:
        shape = demand_of(instance)
        if shape in failed:
            continue
        booking = _on(ledger, rows, instance)
        if booking is None:
            failed.add(shape)
        else:
            ledger.book(*booking.fields)
            admitted.append(booking)
    return tuple(admitted)


def _on(ledger: Bookings, rows: range, instance: Instance) -> Booking | None:
    """Its place on the fullest of `rows` that have room; `None` where there is none, or it would have to be split."""
    memory = instance.memory_per_gpu_mib
    free = ledger.free[rows.start : rows.stop]
    roomy = np.flatnonzero((free >= (instance.request_milli, instance.limit_milli, max(memory))).all(axis=1))
    if roomy.size < instance.gpus:
        return None
    fullest = roomy[np.argsort(free[roomy, 0], kind="stable")][: instance.gpus]
    booking = Booking(instance, tuple(sorted(int(rows.start + row) for row in fullest)), memory)
    return booking if ledger.fits(booking) else None


def _carry_out(draft: Draft, relief: Relief) -> bool:
    """Move the reservations to nodes whose GPUs have least free share, and let the newcomers in; or change nothing."""
    ledger = draft.ledger
    mark, steps = ledger.mark(), []
    for held in relief.moved:
        target = _target(ledger, held)
        if target is None:
            ledger.rollback(mark)
            ledger.release(mark)
            return False
        ledger.unreserve(held.name)
        wanted = held._replace(node=target)
        ledger.reserve(wanted)
        steps.append(HostStep(held, wanted))
    ledger.release(mark)
    draft.host_steps += steps
    for booking in relief.admitted:
        draft.admit(booking)
    return True


def _target(ledger: Bookings, held: HostBooking) -> int | None:
    """Another node with room for it: the one with the least free GPU share, then the least CPU left."""
    free = ledger.host_free
    candidates = np.flatnonzero((free[:, 0] >= held.cpu_milli) & (free[:, 1] >= held.memory_mib))
    candidates = candidates[candidates != held.node]
    if not candidates.size:
        return None
    return least_hurt(ledger, candidates, held.cpu_milli, held.memory_mib, None)
