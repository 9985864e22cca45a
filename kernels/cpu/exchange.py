"""Annealing over who runs where: moves, swaps and admissions that let more of the pending instances in by few moves.

    energy = migrations * price - share let in + usefulness * waste,   in GPUs

where waste is the free share that arrivals are expected not to be able to use (`fragmentation`). A proposal is a
sequence of shifts of single items, kept on a trail (`dilu_core.kernels.cpu.seating`), and undone as a whole where
Metropolis rejects it:

    enter    a pending item takes a place where up to two others leave; those go where there is room, or where one more
             item makes room for them in turn. Now and then one that was let in is let go again
    shift    an item goes to a random GPU, or back home
    swap     two items of different nodes change places

Running items never lose their place; those let in may.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.annealing import draw
from dilu_core.kernels.cpu.compiled import compiled, compiled_in_place
from dilu_core.kernels.cpu.fragmentation import node_fragmentation
from dilu_core.kernels.cpu.seating import Items, Seats, Trail, can_sit, is_home, lift, put, seat_there, seek, undo

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_ENTER, _SHIFT = 0.35, 0.45  # how often; the rest are swaps
_LET_GO = 0.05
_EJECTED = 2
_SAME_GPU = 0.7  # how often the second to leave shares a GPU with the first
_PUSHES = 0.5  # how often an item that found no room may push another out
_PUSHED = 60  # items looked at, to make room for one that was pushed out


@compiled_in_place
def pick(random: Ints, count: int) -> int:
    """An index below `count`, by the generator that `draw` describes."""
    return int(draw(random) * count)


@compiled
def anneal(
    items: Items, seats: Seats, trail: Trail, pending: Ints, shapes: Ints, weight: Floats, waste: Floats, score: Ints,
    best_at: Ints, best_rows: Ints, random: Ints, proposals: int, temperature: float, price: float, usefulness: float,
    most_moves: int, may_swap: bool,
) -> None:  # fmt: skip
    """Make `proposals` proposals at one `temperature` [GPUs]; `seats`, `waste` and `score` follow those accepted.

    `pending` lists the items without a home, `shapes` and `weight` are the mix, `waste` (n_nodes,) its unusable share
    of each node [milli-GPU]. `score` (4,) holds moves made, milli-GPU let in, and the most let in so far (ties: fewest
    moves) with its moves; that state is kept in `best_at` and `best_rows`. Without `may_swap` items that change places
    with one another are not proposed, which no sequence of moves could carry out where there is no spare room.
    """
    for _ in range(proposals):
        trail.length[0] = 0
        lot = draw(random)
        if lot < _ENTER:
            valid = _enter(items, seats, trail, pending, random, may_swap)
        elif lot < _ENTER + _SHIFT or not may_swap:
            valid = _shift(items, seats, trail, random)
        else:
            valid = _swap(items, seats, trail, random)
        if not valid:
            undo(items, seats, trail, 0)
            continue
        moves, share = _difference(items, seats, trail)
        changed = _weigh(items, seats, trail, shapes, weight)
        delta = price * moves - share / 1000.0
        for k in range(changed):
            delta += usefulness * (trail.waste[k] - waste[trail.touched[k]]) / 1000.0
        allowed = moves < 0 or score[0] + moves <= most_moves
        if not allowed or (delta > 0.0 and draw(random) >= math.exp(-delta / temperature)):
            undo(items, seats, trail, 0)
            continue
        for k in range(changed):
            waste[trail.touched[k]] = trail.waste[k]
        score[0] += moves
        score[1] += share
        if score[0] <= most_moves and (score[1] > score[2] or (score[1] == score[2] and score[0] < score[3])):
            score[2], score[3] = score[1], score[0]
            best_at[:] = seats.at
            best_rows[:] = seats.rows


@compiled_in_place
def _enter(items: Items, seats: Seats, trail: Trail, pending: Ints, random: Ints, may_swap: bool) -> bool:
    """A pending item comes in, or goes again."""
    if pending.size == 0:
        return False
    p = pending[pick(random, pending.size)]
    if seats.at[p] >= 0:
        if draw(random) >= _LET_GO:
            return False
        lift(p, items, seats, trail)
        return True
    n = pick(random, seats.held.size)
    if items.node_start[n + 1] - items.node_start[n] < items.size[p] or not items.allowed[items.kind[p], n]:
        return False
    left = 0
    while not can_sit(p, n, items, seats, trail.out):
        if left == _EJECTED or seats.held[n] == 0:
            return False
        q = seats.listed[n, pick(random, seats.held[n])]
        if left == 1 and draw(random) < _SAME_GPU:
            for j in range(seats.held[n]):
                if seats.rows[seats.listed[n, j], 0] == trail.rows[0, 0]:
                    q = seats.listed[n, j]
                    break
        lift(q, items, seats, trail)
        left += 1
    put(p, n, items, seats, trail)
    for k in range(left - 1, -1, -1):
        q = trail.item[k]
        if items.home[q] >= 0 and not _settle(q, n, items, seats, trail, random, may_swap):
            return False
    return True


@compiled_in_place
def _settle(q: int, n: int, items: Items, seats: Seats, trail: Trail, random: Ints, may_swap: bool) -> bool:
    """Find a place for `q`, which had to leave node `n`: home, a node with room, or where another is pushed out."""
    nodes, home = seats.held.size, items.home[q]
    begin = pick(random, nodes)
    if home != n and can_sit(q, home, items, seats, trail.out):
        put(q, home, items, seats, trail)
        return True
    z = seek(q, n, begin, items, seats, trail.out)
    if z < nodes:
        put(q, (begin + z) % nodes, items, seats, trail)
        return True
    if trail.length[0] + 4 >= trail.item.size or draw(random) >= _PUSHES:
        return False
    return _push(q, n, begin, items, seats, trail, may_swap)


@compiled
def _push(q: int, n: int, begin: int, items: Items, seats: Seats, trail: Trail, may_swap: bool) -> bool:
    """Give `q` the place of another running item that finds one elsewhere (on `n` too, where items may swap).

    Where one found none, another like it finds none either, unless on the node of the first, which was left out.
    """
    demand, host_demand, size, home, alike = items.demand, items.host_demand, items.size, items.home, items.alike
    free, host, rows, listed, held = seats.free, seats.host, seats.rows, seats.listed, seats.held
    allowed, nodes, keep = items.allowed[items.kind[q]], held.size, trail.length[0]
    stuck = np.empty(_PUSHED, np.int64)
    found_none, looked_at = 0, 0
    for z in range(nodes):
        m = begin + z if begin + z < nodes else begin + z - nodes
        j = held[m] if m != n and allowed[m] else 0
        while j > 0:  # downwards, because an item lifted and put back stands at the end
            j -= 1
            other = listed[m, j]
            if home[other] < 0:
                continue
            # it must be easier to place than `q` by something, and leave room for a part of `q` on one of its GPUs;
            # written out here, as handing over the arrays takes longer
            easier, opens = size[other] < size[q], False
            for r in range(3):
                easier |= demand[other, r] < demand[q, r]
            for r in range(2):
                easier |= host_demand[other, r] < host_demand[q, r]
            for r in range(2):
                easier &= host[m, r] + host_demand[other, r] >= host_demand[q, r]
            for k in range(size[other] if easier else 0):
                g = rows[other, k]
                fits = True
                for r in range(3):
                    fits &= free[g, r] + demand[other, r] >= demand[q, r]
                opens |= fits
            if not opens:
                continue
            if looked_at == _PUSHED:
                return False
            looked_at += 1
            like = 0
            while like < found_none and alike[stuck[like]] != alike[other]:
                like += 1
            if like < found_none:
                target = int(seats.at[stuck[like]])
                if target == m or not can_sit(other, target, items, seats, trail.out):
                    continue
            elif may_swap and can_sit(other, n, items, seats, trail.out):
                target = n
            else:
                y = seek(other, m, begin, items, seats, trail.out)
                if y == nodes:
                    stuck[found_none] = other
                    found_none += 1
                    continue
                target = (begin + y) % nodes
            lift(other, items, seats, trail)
            if can_sit(q, m, items, seats, trail.out):
                put(q, m, items, seats, trail)
                if can_sit(other, target, items, seats, trail.out):
                    put(other, target, items, seats, trail)
                    return True
            undo(items, seats, trail, keep)
    return False


@compiled_in_place
def _shift(items: Items, seats: Seats, trail: Trail, random: Ints) -> bool:
    """A random item goes back home, or to a random GPU (a gang: to a random node)."""
    nodes = seats.held.size
    n = pick(random, nodes)
    if seats.held[n] == 0:
        return False
    i = seats.listed[n, pick(random, seats.held[n])]
    size = items.size[i]
    homing = items.home[i] >= 0 and draw(random) < 0.5 and not is_home(i, n, seats.rows[i], items)
    t = int(items.home[i]) if homing else pick(random, nodes)
    start, stop = items.node_start[t], items.node_start[t + 1]
    if not homing and size == 1:
        trail.out[0] = start + pick(random, stop - start)
        if trail.out[0] == seats.rows[i, 0]:
            return False
    lift(i, items, seats, trail)
    if not homing and size > 1:
        fits = t != n and can_sit(i, t, items, seats, trail.out)
    else:
        if homing:
            for k in range(size):
                trail.out[k] = items.home_rows[i, k]
        fits = seat_there(i, t, items, seats, trail.out)
    if fits:
        put(i, t, items, seats, trail)
    return fits


@compiled_in_place
def _swap(items: Items, seats: Seats, trail: Trail, random: Ints) -> bool:
    """Two random items of different nodes change places."""
    n, m = pick(random, seats.held.size), pick(random, seats.held.size)
    if n == m or seats.held[n] == 0 or seats.held[m] == 0:
        return False
    i = seats.listed[n, pick(random, seats.held[n])]
    j = seats.listed[m, pick(random, seats.held[m])]
    lift(i, items, seats, trail)
    lift(j, items, seats, trail)
    if not can_sit(i, m, items, seats, trail.out):
        return False
    put(i, m, items, seats, trail)
    if not can_sit(j, n, items, seats, trail.out):
        return False
    put(j, n, items, seats, trail)
    return True


@compiled_in_place
def _difference(items: Items, seats: Seats, trail: Trail) -> tuple[int, int]:
    """(migrations, milli-GPU let in) that the trail adds, and the nodes it touches, into `trail.touched`."""
    moves, share = 0, 0
    for k in range(trail.length[0]):
        i = trail.item[k]
        if _seen_before(trail, k):
            continue
        if items.home[i] >= 0:
            moves += 0 if is_home(i, int(seats.at[i]), seats.rows[i], items) else 1
            moves -= 0 if is_home(i, int(trail.node[k]), trail.rows[k], items) else 1
        else:
            amount = items.demand[i, 0] * items.size[i]
            share += amount if seats.at[i] >= 0 else 0
            share -= amount if trail.node[k] >= 0 else 0
    return moves, share


@compiled_in_place
def _seen_before(trail: Trail, k: int) -> bool:
    """Whether an earlier entry, which knows where the item was at first, is of the same item as entry `k`."""
    seen = False
    for j in range(k):
        seen = seen or trail.item[j] == trail.item[k]
    return seen


@compiled_in_place
def _weigh(items: Items, seats: Seats, trail: Trail, shapes: Ints, weight: Floats) -> int:
    """The nodes that the trail changes, how many and in `trail.touched`, and their waste now, in `trail.waste`."""
    changed = 0
    for k in range(trail.length[0]):
        for n in (trail.node[k], seats.at[trail.item[k]]):
            known = n < 0
            for j in range(changed):
                known = known or trail.touched[j] == n
            if not known:
                start, stop = items.node_start[n], items.node_start[n + 1]
                cpu, memory = seats.host[n, 0], seats.host[n, 1]
                trail.touched[changed] = n
                trail.waste[changed] = node_fragmentation(
                    seats.free, int(start), int(stop), int(cpu), int(memory), shapes, weight
                )
                changed += 1
    return changed
