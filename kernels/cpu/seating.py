"""Items on GPUs of nodes, put down and lifted in constant time, with a trail that undoes what was tried."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_in_place

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TRAIL = 16


class Items(NamedTuple):
    """What stays: the items, and the nodes each may use.

    demand       (n_items, 3)  int64   request [milli], limit [milli] and memory [MiB] on each of its GPUs
    size         (n_items,)    int64   how many GPUs of one node it takes
    host_demand  (n_items, 2)  int64   CPU [milli] and memory [MiB]
    kind         (n_items,)    int64   its row of `allowed`
    alike        (n_items,)    int64   equal for items that all of the above is equal for
    allowed      (n_kinds, n_nodes) bool   the nodes it may use
    node_start   (n_nodes + 1,) int64  node n has GPUs node_start[n] up to node_start[n + 1] - 1
    home         (n_items,)    int64   the node where it ran at first, -1 if it is pending
    home_rows    (n_items, K)  int64   its GPUs there, the first `size` entries count
    """

    demand: Ints
    size: Ints
    host_demand: Ints
    kind: Ints
    alike: Ints
    allowed: Bools
    node_start: Ints
    home: Ints
    home_rows: Ints


class Seats(NamedTuple):
    """Who sits where; all changed in place.

    free    (n_gpus, 3)   int64   request, limit and memory left on each GPU
    host    (n_nodes, 2)  int64   CPU and memory left on each node
    most    (n_nodes,)    int64   the greatest request left on one GPU of each node
    at      (n_items,)    int64   node of each item, -1 for none
    rows    (n_items, K)  int64   its GPUs, the first `size` entries count
    listed  (n_nodes, L)  int64   items on each node, the first `held` entries; L is the most a node can hold
    held    (n_nodes,)    int64   how many
    place   (n_items,)    int64   where in `listed` an item stands
    """

    free: Ints
    host: Ints
    most: Ints
    at: Ints
    rows: Ints
    listed: Ints
    held: Ints
    place: Ints


class Trail(NamedTuple):
    """What was lifted from where (`node` and `rows`) or put down (`node` -1), in order; and room to work in.

    item, node (TRAIL,), rows (TRAIL, K) and length (1,) are the trail; `out` (K,) GPUs found for an item; `touched` and
    `waste` (2 TRAIL,) nodes that the trail changes and their unusable share.
    """

    item: Ints
    node: Ints
    rows: Ints
    length: Ints
    out: Ints
    touched: Ints
    waste: Floats


def new_trail(width: int) -> Trail:
    """An empty trail for items of up to `width` GPUs."""
    item, node = np.zeros(TRAIL, np.int64), np.zeros(TRAIL, np.int64)
    rows, length, out = np.zeros((TRAIL, width), np.int64), np.zeros(1, np.int64), np.zeros(width, np.int64)
    return Trail(item, node, rows, length, out, np.zeros(2 * TRAIL, np.int64), np.zeros(2 * TRAIL))


@compiled_in_place
def find_room(free: Ints, start: int, stop: int, demand: Ints, size: int, out: Ints) -> bool:
    """GPUs of start..stop-1 for `size` times `demand`, the least free request first; written into `out`."""
    for k in range(size):
        best = -1
        for g in range(start, stop):
            if free[g, 0] < demand[0] or free[g, 1] < demand[1] or free[g, 2] < demand[2]:
                continue
            taken = False
            for j in range(k):
                taken = taken or out[j] == g
            if not taken and (best < 0 or free[g, 0] < free[best, 0]):
                best = g
        if best < 0:
            return False
        out[k] = best
    return True


@compiled_in_place
def can_sit(i: int, n: int, items: Items, seats: Seats, out: Ints) -> bool:
    """Whether node `n` has room for item `i`, which is nowhere; its GPUs are written into `out`."""
    if seats.most[n] < items.demand[i, 0] or not _admits(i, n, items, seats):
        return False
    start, stop = items.node_start[n], items.node_start[n + 1]
    return find_room(seats.free, int(start), int(stop), items.demand[i], int(items.size[i]), out)


@compiled_in_place
def seek(i: int, but: int, begin: int, items: Items, seats: Seats, out: Ints) -> int:
    """The least z for which node begin + z (round the end, not node `but`) has room for item `i`, which is nowhere.

    Its GPUs are written into `out`; z is the number of nodes where there is none. Many nodes in one call, because to
    hand over this many arrays costs more than to look at a node.
    """
    free, host, most, count = seats.free, seats.host, seats.most, seats.held
    demand, size, starts = items.demand[i], items.size[i], items.node_start
    request, cpu, memory = demand[0], items.host_demand[i, 0], items.host_demand[i, 1]
    allowed, longest, nodes = items.allowed[items.kind[i]], seats.listed.shape[1], count.size
    for first, stop in ((begin, nodes), (0, begin)):
        for n in range(first, stop):
            if most[n] < request:
                continue
            if n == but or not allowed[n] or host[n, 0] < cpu or host[n, 1] < memory or count[n] == longest:
                continue
            if find_room(free, int(starts[n]), int(starts[n + 1]), demand, int(size), out):
                return n - begin if n >= begin else n - begin + nodes
    return nodes


@compiled_in_place
def seat_there(i: int, n: int, items: Items, seats: Seats, out: Ints) -> bool:
    """Whether item `i`, which is nowhere, has room on just the GPUs `out` of node `n`."""
    if not _admits(i, n, items, seats):
        return False
    for k in range(items.size[i]):
        for r in range(3):
            if seats.free[out[k], r] < items.demand[i, r]:
                return False
    return True


@compiled_in_place
def _admits(i: int, n: int, items: Items, seats: Seats) -> bool:
    """Whether node `n` is one the item may use, with room on its host and in its list."""
    return bool(
        items.allowed[items.kind[i], n]
        and seats.host[n, 0] >= items.host_demand[i, 0]
        and seats.host[n, 1] >= items.host_demand[i, 1]
        and seats.held[n] < seats.listed.shape[1]
    )


@compiled_in_place
def lift(i: int, items: Items, seats: Seats, trail: Trail) -> None:
    """Take item `i` off its GPUs, and write down where it was."""
    k = trail.length[0]
    trail.item[k], trail.node[k] = i, seats.at[i]
    for j in range(trail.rows.shape[1]):
        trail.rows[k, j] = seats.rows[i, j]
    trail.length[0] = k + 1
    _take(i, items, seats)


@compiled_in_place
def put(i: int, n: int, items: Items, seats: Seats, trail: Trail) -> None:
    """Put item `i`, which is nowhere, on the GPUs `trail.out` of node `n`, and write that down."""
    k = trail.length[0]
    trail.item[k], trail.node[k] = i, -1
    trail.length[0] = k + 1
    _give(i, n, trail.out, items, seats)


@compiled_in_place
def undo(items: Items, seats: Seats, trail: Trail, keep: int) -> None:
    """Take back all but the first `keep` entries of the trail."""
    for k in range(trail.length[0] - 1, keep - 1, -1):
        if trail.node[k] < 0:
            _take(trail.item[k], items, seats)
        else:
            _give(trail.item[k], trail.node[k], trail.rows[k], items, seats)
    trail.length[0] = keep


@compiled_in_place
def is_home(i: int, n: int, rows: Ints, items: Items) -> bool:
    """Whether the GPUs `rows` of node `n` are, in any order, where item `i` ran at first."""
    if n != items.home[i]:
        return False
    for k in range(items.size[i]):
        found = False
        for j in range(items.size[i]):
            found = found or rows[k] == items.home_rows[i, j]
        if not found:
            return False
    return True


@compiled_in_place
def _take(i: int, items: Items, seats: Seats) -> None:
    n = seats.at[i]
    for k in range(items.size[i]):
        for r in range(3):
            seats.free[seats.rows[i, k], r] += items.demand[i, r]
        seats.most[n] = max(seats.most[n], seats.free[seats.rows[i, k], 0])
    seats.host[n, 0] += items.host_demand[i, 0]
    seats.host[n, 1] += items.host_demand[i, 1]
    seats.held[n] -= 1
    last = seats.listed[n, seats.held[n]]
    seats.listed[n, seats.place[i]] = last
    seats.place[last] = seats.place[i]
    seats.at[i] = -1


@compiled_in_place
def _give(i: int, n: int, out: Ints, items: Items, seats: Seats) -> None:
    for k in range(items.size[i]):
        seats.rows[i, k] = out[k]
        for r in range(3):
            seats.free[out[k], r] -= items.demand[i, r]
    most = 0
    for g in range(items.node_start[n], items.node_start[n + 1]):
        most = max(most, seats.free[g, 0])
    seats.most[n] = most
    seats.host[n, 0] -= items.host_demand[i, 0]
    seats.host[n, 1] -= items.host_demand[i, 1]
    seats.listed[n, seats.held[n]] = i
    seats.place[i] = seats.held[n]
    seats.held[n] += 1
    seats.at[i] = n
