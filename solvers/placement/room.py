"""Which moves would let an instance in: fewest first, then cheapest.

A small cluster is solved whole. In a large one each promising node is a problem of its own: clear room on that node,
its instances going to GPUs with most room there or elsewhere, and what is in the way there moving first. Nodes come in
the order of the fewest instances that must leave them, which is a lower bound: the search ends once no node can do with
fewer moves than found.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from dilu_core.cluster import Instance
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.layers import Layout, Mover, Newcomer, solve_layers
from dilu_core.solvers.placement.movers import everyone, is_small, movable, movers
from dilu_core.solvers.placement.moving import Draft
from dilu_core.solvers.placement.pricing import Prices
from dilu_core.solvers.placement.ways import nodes_for, ways_on

_SMALL_LAYERS = 4
_NODES = 24
_TARGETS = 16
_MOST_MOVERS = 40
_DETERMINISTIC_S = 0.3
_DETERMINISTIC_WHOLE_S = 20.0


@dataclass(frozen=True)
class Room:
    """Moves that make room, in order, and where the newcomer goes then; `is_proven` where fewer moves cannot do."""

    moves: list[Booking]
    place: Booking | None
    is_proven: bool


def demand_of(instance: Instance) -> tuple[object, ...]:
    """All that decides where an instance fits: two with equal demands fit in the same places."""
    return (
        instance.request_milli, instance.limit_milli, instance.memory_mib, instance.gpus, instance.cpu_milli,
        instance.host_memory_mib, instance.function, instance.anti_affinity, instance.gpu_types,
        instance.alternatives, instance.splittable,
    )  # fmt: skip


def make_room(draft: Draft, instance: Instance, deadline: float) -> Room:
    """The moves that let `instance` in, found on the draft's ledger, which is not changed."""
    if is_small(draft.ledger):
        return _whole(draft, instance, deadline)
    best: Room | None = None
    complete = True
    for fewest, node in _promising(draft, instance, deadline):
        if best is not None and len(best.moves) <= fewest:
            break
        if fewest > draft.moves_left:
            break
        if time.perf_counter() >= deadline:
            complete = False
            break
        most = draft.moves_left if best is None else len(best.moves) - 1
        start, stop = int(draft.ledger.node_start[node]), int(draft.ledger.node_start[node + 1])
        found = _on_node(draft, instance, list(range(start, stop)), most, deadline)
        if found is not None and found.place is not None:
            best = found
    if best is None:
        return Room([], None, False)
    return Room(best.moves, best.place, complete and best.is_proven)


def _whole(draft: Draft, instance: Instance, deadline: float) -> Room:
    """All nodes and instances in one model, which proves something where it holds every way and every sequence."""
    if time.perf_counter() >= deadline:
        return Room([], None, False)
    layers = max(1, min(draft.moves_left, _SMALL_LAYERS))
    all_of_it = everyone(draft, [instance], Prices.of(draft), deadline)
    (places,) = all_of_it.places
    newcomer = Newcomer(places, worth=1)
    found = _solve(draft, all_of_it.movers, newcomer, draft.moves_left, layers, _DETERMINISTIC_WHOLE_S, deadline)
    if found is None:
        return Room([], None, False)
    return _room(found, proven=found.is_optimal and all_of_it.is_complete and draft.moves_left <= layers)


def _on_node(draft: Draft, instance: Instance, rows: list[int], most: int, deadline: float) -> Room | None:
    """Room on the GPUs `rows` of one node: one layer, and where that finds nothing, two with more that may move."""
    ledger = draft.ledger
    others = _targets(draft, rows)
    found = _near(draft, instance, rows, rows, rows + others, most, 1, deadline)
    if (found is None or not found.newcomers) and most > 1:
        near: list[int] = []
        for row in others:
            if sum(int(ledger.held[each]) for each in [*rows, *near, row]) > _MOST_MOVERS:
                break
            near.append(row)
        found = _near(draft, instance, rows, rows + near, rows + near, most, 2, deadline)
    return None if found is None else _room(found, proven=False)


def _room(found: Layout, *, proven: bool) -> Room:
    moves = [booking for layer in found.layers for booking in layer]
    if not found.newcomers:
        return Room([], None, proven)
    return Room(moves, found.newcomers[0], proven)


def _near(
    draft: Draft,
    instance: Instance,
    goals: list[int],
    leaving: list[int],
    rows: list[int],
    most: int,
    layers: int,
    deadline: float,
) -> Layout | None:
    """Place `instance` on GPUs among `goals`, while what is on `leaving` may move to `rows`."""
    if time.perf_counter() >= deadline:
        return None
    may_move = movable(draft, leaving)
    newcomer = Newcomer(_places(draft.ledger, instance, goals, may_move), worth=1)
    if not newcomer.ways:
        return None
    found = movers(draft, may_move, rows, Prices.of(draft), deadline, now=layers == 1)
    return _solve(draft, found, newcomer, most, layers, _DETERMINISTIC_S, deadline)


def _solve(
    draft: Draft,
    found: list[Mover],
    newcomer: Newcomer,
    most: int,
    layers: int,
    deterministic_s: float,
    deadline: float,
) -> Layout | None:
    """Let the newcomer in by the fewest moves, the cheapest among those."""
    left = deadline - time.perf_counter()
    if left <= 0 or not newcomer.ways:
        return None
    if draft.cost is not None:  # no sum of prices weighs as much as a move
        dearest = max((mover.price + max(mover.way_price, default=0) for mover in found), default=0)
        for mover in found:
            mover.price += most * dearest
    worth = 1 + sum(mover.price + max(mover.way_price, default=0) for mover in found) * layers
    newcomer.worth = worth + max(way.configuration for way in newcomer.ways) + 1
    return solve_layers(
        draft.ledger, found, [newcomer], layers=layers, most_moves=most, gpu_price=0,
        deterministic_s=deterministic_s, time_limit_s=left,
    )  # fmt: skip


def _places(ledger: Bookings, instance: Instance, rows: list[int], leaving: dict[str, Booking]) -> list[Booking]:
    """Places `instance` could take on `rows` were all of `leaving` gone, in each configuration."""
    by_node: dict[int, list[int]] = {}
    for row in rows:
        by_node.setdefault(int(ledger.node_of[row]), []).append(row)
    mark = ledger.mark()
    for name in leaving:
        ledger.cancel(name)
    ways = [
        way
        for here in by_node.values()
        for number in range(len(instance.configurations))
        for way in ways_on(ledger, instance, here, number)
    ]
    ledger.rollback(mark)
    ledger.release(mark)
    return ways


def _promising(draft: Draft, instance: Instance, deadline: float) -> list[tuple[int, int]]:
    """(fewest instances that must leave, node), the best first; nodes that can never do are left out.

    At `deadline` the nodes not looked at yet are left out as well.
    """
    ledger, found = draft.ledger, []
    for node in nodes_for(ledger, instance).tolist():
        if time.perf_counter() >= deadline:
            break
        start, stop = int(ledger.node_start[node]), int(ledger.node_start[node + 1])
        if stop - start < instance.gpus:
            continue
        needs = [_must_leave(draft, instance, row) for row in range(start, stop)]
        able = sorted((count, short) for count, short in needs if count >= 0)
        if len(able) < instance.gpus and not instance.splittable:
            continue
        picked = able[: instance.gpus]
        fewest = max((count for count, _ in picked), default=1)
        host = ledger.host_free[node]
        if host[0] < instance.cpu_milli or host[1] < instance.host_memory_mib:
            fewest = max(fewest, 1)
        fewest = 1 if instance.splittable or instance.alternatives else fewest
        found.append((fewest, sum(count for count, _ in picked), sum(short for _, short in picked), node))
    return [(fewest, node) for fewest, _, _, node in sorted(found)[:_NODES]]


def _must_leave(draft: Draft, instance: Instance, row: int) -> tuple[int, float]:
    """How many movable instances must leave this GPU at least, and the share lacking; -1 where even all are too few."""
    ledger = draft.ledger
    need = np.array([instance.request_milli, instance.limit_milli, min(instance.memory_per_gpu_mib)])
    lacking = need - ledger.free[row]
    if (lacking <= 0).all():
        return 0, 0.0
    here = [booking for name, booking in ledger.on_gpu[row].items() if name not in draft.fixed]
    gains = [
        sorted((_amount(booking, row, k) for booking in here), reverse=True)
        for k in range(3)
    ]  # fmt: skip
    fewest = 0
    for k in range(3):
        total = 0
        for count, gain in enumerate([0, *gains[k]]):
            total += gain
            if total >= lacking[k]:
                fewest = max(fewest, count)
                break
        else:
            return -1, 0.0
    return fewest, float((lacking / np.maximum(ledger.capacity[row], 1)).max())


def _amount(booking: Booking, row: int, k: int) -> int:
    if k == 0:
        return booking.request_milli
    return booking.limit_milli if k == 1 else booking.memory_mib[booking.gpus.index(row)]


def _targets(draft: Draft, rows: list[int]) -> list[int]:
    """GPUs elsewhere with most room: by the resource they lack most and by each resource alone; a few are empty."""
    ledger = draft.ledger
    share = ledger.free / np.maximum(ledger.capacity, 1)
    share[rows] = -1.0
    share = np.where((ledger.held > 0)[:, None], share, share - 10.0)  # empty ones last
    orders = [share.min(axis=1), share[:, 0], share[:, 2]]
    picked: dict[int, None] = {}
    for score in orders:
        for row in np.argsort(-score, kind="stable")[:_TARGETS].tolist():
            if share[row, 0] > -1.0 or ledger.held[row] == 0:
                picked[row] = None
    picked.update(dict.fromkeys(np.flatnonzero(ledger.held == 0)[:4].tolist()))
    return [row for row in picked if row not in set(rows)]
