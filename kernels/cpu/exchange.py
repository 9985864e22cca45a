"""Annealing over who runs where: moves, swaps and admissions that let more of the pending instances in by few moves.

The state of the search, all changed in place:

    free     (n_gpus, 3)  int64   request [milli], limit [milli], memory [MiB] left on each GPU
    host     (n_nodes, 2) int64   CPU [milli] and memory [MiB] left on each node
    at       (n_items,)   int64   node of each item, -1 for none
    rows     (n_items, K) int64   GPUs of each item, the first `size` entries count
    listed   (n_nodes, L) int64   items on each node, the first `count[n]` entries; `place`: where an item stands there
    waste    (n_nodes,)   float64 share of each node that arrivals are expected not to be able to use (`fragmentation`)

and what stays: demand (n_items, 3), size and host_demand (n_items, 2) of the items, `home` and `home_rows` where they
ran at first (-1: pending), `allowed` (n_classes, n_nodes) and `kind` (n_items,) for the nodes each may use.

    energy = migrations * price - share let in + usefulness * waste,   in GPUs

A proposal is a sequence of shifts of single items, kept on a trail, and undone as a whole where Metropolis rejects it.
It lets a pending item in where up to two others leave; those go where there is room, or where one more item makes room
for them in turn; it moves an item, often back home; or it swaps two. Items never lose their place, but those let in.
"""

# pyright: reportArgumentType=false
# (to pyright an array indexed by an element of an array is an array; numba knows better)

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.annealing import draw
from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.cpu.fragmentation import node_fragmentation

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_TRAIL = 16
_EJECTED = 2
_PUSHED = 60  # items looked at, to make room for one that was pushed out


@compiled
def pick(random: Ints, count: int) -> int:
    """An index below `count`, by the generator that `draw` describes."""
    return int(draw(random) * count)


@compiled
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


@compiled
def _lift(
    i: int, demand: Ints, size: Ints, host_demand: Ints, free: Ints, host: Ints, at: Ints, rows: Ints,
    listed: Ints, count: Ints, place: Ints,
) -> None:  # fmt: skip
    """Take item `i` off its GPUs."""
    n = at[i]
    for k in range(size[i]):
        for r in range(3):
            free[rows[i, k], r] += demand[i, r]
    host[n, 0] += host_demand[i, 0]
    host[n, 1] += host_demand[i, 1]
    count[n] -= 1
    last = listed[n, count[n]]
    listed[n, place[i]] = last
    place[last] = place[i]
    at[i] = -1


@compiled
def _drop(
    i: int, n: int, out: Ints, demand: Ints, size: Ints, host_demand: Ints, free: Ints, host: Ints, at: Ints,
    rows: Ints, listed: Ints, count: Ints, place: Ints,
) -> None:  # fmt: skip
    """Put item `i` on the GPUs `out` of node `n`."""
    for k in range(size[i]):
        rows[i, k] = out[k]
        for r in range(3):
            free[out[k], r] -= demand[i, r]
    host[n, 0] -= host_demand[i, 0]
    host[n, 1] -= host_demand[i, 1]
    listed[n, count[n]] = i
    place[i] = count[n]
    count[n] += 1
    at[i] = n


@compiled
def _moved(i: int, at: Ints, rows: Ints, size: Ints, home: Ints, home_rows: Ints) -> int:
    """1 where a running item is not at home, else 0."""
    if home[i] < 0:
        return 0
    if at[i] != home[i]:
        return 1
    for k in range(size[i]):
        found = False
        for j in range(size[i]):
            found = found or rows[i, k] == home_rows[i, j]
        if not found:
            return 1
    return 0


@compiled
def anneal(
    proposals: int, first: int, total: int, random: Ints, hot: float, cold: float, price: float, usefulness: float,
    most_moves: int, may_swap: bool, demand: Ints, size: Ints, host_demand: Ints, kind: Ints, allowed: Bools,
    node_start: Ints, home: Ints, home_rows: Ints, pending: Ints, shapes: Ints, weight: Floats, free: Ints, host: Ints,
    at: Ints, rows: Ints, listed: Ints, count: Ints, place: Ints, waste: Floats, score: Ints, best_at: Ints,
    best_rows: Ints,
) -> None:  # fmt: skip
    """Make proposals `first` to `first + proposals - 1` of `total`, the temperature falling from `hot` to `cold`.

    `score` holds moves made, milli-GPU let in, and the most let in so far, whose state is kept in `best_at` and
    `best_rows` (ties: fewest moves, in score[3]).
    """
    nodes = count.size
    width = rows.shape[1]
    out = np.zeros(width, np.int64)
    trail_item = np.zeros(_TRAIL, np.int64)
    trail_node = np.zeros(_TRAIL, np.int64)
    trail_rows = np.zeros((_TRAIL, width), np.int64)
    homeless = np.zeros(_TRAIL, np.int64)
    touched = np.zeros(2 * _TRAIL, np.int64)
    new_waste = np.zeros(2 * _TRAIL)
    room = listed.shape[1]
    for step in range(proposals):
        temperature = hot * (cold / hot) ** ((first + step) / total)
        trail = 0
        valid = False
        lot = draw(random)
        if lot < 0.35 and pending.size > 0:
            p = pending[pick(random, pending.size)]
            if at[p] >= 0:
                if draw(random) < 0.05:  # let go again
                    trail_item[0], trail_node[0] = p, at[p]
                    trail_rows[0] = rows[p]
                    trail = 1
                    _lift(p, demand, size, host_demand, free, host, at, rows, listed, count, place)
                    valid = True
            else:
                n = pick(random, nodes)
                start, stop = node_start[n], node_start[n + 1]
                waiting = 0
                if allowed[kind[p], n] and stop - start >= size[p]:
                    fits = False
                    for attempt in range(_EJECTED + 1):
                        fits = host[n, 0] >= host_demand[p, 0] and host[n, 1] >= host_demand[p, 1]
                        fits = fits and find_room(free, start, stop, demand[p], size[p], out)
                        if fits or attempt == _EJECTED or count[n] == 0:
                            break
                        q = listed[n, pick(random, count[n])]
                        if attempt == 1 and draw(random) < 0.7:  # the one that shares a GPU with the first
                            for j in range(count[n]):
                                other = listed[n, j]
                                if rows[other, 0] == trail_rows[0, 0]:
                                    q = other
                                    break
                        trail_item[trail], trail_node[trail] = q, n
                        trail_rows[trail] = rows[q]
                        trail += 1
                        _lift(q, demand, size, host_demand, free, host, at, rows, listed, count, place)
                        if home[q] >= 0:
                            homeless[waiting] = q
                            waiting += 1
                    if fits and count[n] < room:
                        trail_item[trail], trail_node[trail] = p, -1
                        trail += 1
                        _drop(p, n, out, demand, size, host_demand, free, host, at, rows, listed, count, place)
                        valid = True
                while valid and waiting > 0:
                    waiting -= 1
                    q = homeless[waiting]
                    landed = False
                    begin = pick(random, nodes)
                    for z in range(nodes + 1):
                        m = home[q] if z == 0 else (begin + z) % nodes
                        if m == n or not allowed[kind[q], m] or count[m] >= room:
                            continue
                        if host[m, 0] < host_demand[q, 0] or host[m, 1] < host_demand[q, 1]:
                            continue
                        if node_start[m + 1] - node_start[m] < size[q]:
                            continue
                        if find_room(free, node_start[m], node_start[m + 1], demand[q], size[q], out):
                            trail_item[trail], trail_node[trail] = q, -1
                            trail += 1
                            _drop(q, m, out, demand, size, host_demand, free, host, at, rows, listed, count, place)
                            landed = True
                            break
                    looked = 0
                    if not landed and trail + 4 < _TRAIL and draw(random) < 0.5:
                        for z in range(nodes):
                            m = (begin + z) % nodes
                            if m == n or not allowed[kind[q], m] or count[m] == 0:
                                continue
                            if node_start[m + 1] - node_start[m] < size[q]:
                                continue
                            j = -1
                            while j + 1 < count[m] and not landed and looked < _PUSHED:
                                j += 1
                                other = listed[m, j]
                                if home[other] < 0:
                                    continue
                                if host[m, 0] + host_demand[other, 0] < host_demand[q, 0]:
                                    continue
                                if host[m, 1] + host_demand[other, 1] < host_demand[q, 1]:
                                    continue
                                trail_item[trail], trail_node[trail] = other, m
                                trail_rows[trail] = rows[other]
                                _lift(other, demand, size, host_demand, free, host, at, rows, listed, count, place)
                                can = find_room(free, node_start[m], node_start[m + 1], demand[q], size[q], out)
                                if can:
                                    looked += 1
                                    _drop(q, m, out, demand, size, host_demand, free, host, at, rows, listed, count,
                                          place)  # fmt: skip
                                    target = -1
                                    for y in range(nodes + 1):
                                        t = n if y == 0 else (begin + y) % nodes
                                        if (y == 0 and not may_swap) or t == m or not allowed[kind[other], t]:
                                            continue
                                        if host[t, 0] < host_demand[other, 0] or host[t, 1] < host_demand[other, 1]:
                                            continue
                                        if count[t] >= room or node_start[t + 1] - node_start[t] < size[other]:
                                            continue
                                        if find_room(free, node_start[t], node_start[t + 1], demand[other],
                                                     size[other], out):  # fmt: skip
                                            target = t
                                            break
                                    if target >= 0:
                                        _drop(other, target, out, demand, size, host_demand, free, host, at, rows,
                                              listed, count, place)  # fmt: skip
                                        trail_item[trail + 1], trail_node[trail + 1] = q, -1
                                        trail_item[trail + 2], trail_node[trail + 2] = other, -2
                                        trail += 3
                                        landed = True
                                        break
                                    _lift(q, demand, size, host_demand, free, host, at, rows, listed, count, place)
                                _drop(other, m, trail_rows[trail], demand, size, host_demand, free, host, at, rows,
                                      listed, count, place)  # fmt: skip
                            if landed or looked >= _PUSHED:
                                break
                    valid = landed
        elif lot < 0.8 or not may_swap:
            n = pick(random, nodes)
            if count[n] > 0:
                i = listed[n, pick(random, count[n])]
                homing = home[i] >= 0 and draw(random) < 0.5 and _moved(i, at, rows, size, home, home_rows) == 1
                t = home[i] if homing else pick(random, nodes)
                start, stop = node_start[t], node_start[t + 1]
                if allowed[kind[i], t] and stop - start >= size[i] and (count[t] < room or t == n):
                    trail_item[0], trail_node[0] = i, n
                    trail_rows[0] = rows[i]
                    trail = 1
                    _lift(i, demand, size, host_demand, free, host, at, rows, listed, count, place)
                    fits = host[t, 0] >= host_demand[i, 0] and host[t, 1] >= host_demand[i, 1]
                    if homing:
                        for k in range(size[i]):
                            g = home_rows[i, k]
                            out[k] = g
                            fits = fits and free[g, 0] >= demand[i, 0]
                            fits = fits and free[g, 1] >= demand[i, 1] and free[g, 2] >= demand[i, 2]
                    elif size[i] == 1:
                        g = start + pick(random, stop - start)
                        out[0] = g
                        fits = fits and free[g, 0] >= demand[i, 0] and g != trail_rows[0, 0]
                        fits = fits and free[g, 1] >= demand[i, 1] and free[g, 2] >= demand[i, 2]
                    else:
                        fits = fits and t != n and find_room(free, start, stop, demand[i], size[i], out)
                    if fits:
                        trail_item[1], trail_node[1] = i, -1
                        trail = 2
                        _drop(i, t, out, demand, size, host_demand, free, host, at, rows, listed, count, place)
                        valid = True
        else:
            n, m = pick(random, nodes), pick(random, nodes)
            if n != m and count[n] > 0 and count[m] > 0:
                i = listed[n, pick(random, count[n])]
                j = listed[m, pick(random, count[m])]
                able = allowed[kind[i], m] and allowed[kind[j], n]
                able = able and host[m, 0] + host_demand[j, 0] >= host_demand[i, 0]
                able = able and host[m, 1] + host_demand[j, 1] >= host_demand[i, 1]
                able = able and host[n, 0] + host_demand[i, 0] >= host_demand[j, 0]
                able = able and host[n, 1] + host_demand[i, 1] >= host_demand[j, 1]
                if able:
                    trail_item[0], trail_node[0], trail_item[1], trail_node[1] = i, n, j, m
                    trail_rows[0] = rows[i]
                    trail_rows[1] = rows[j]
                    trail = 2
                    _lift(i, demand, size, host_demand, free, host, at, rows, listed, count, place)
                    _lift(j, demand, size, host_demand, free, host, at, rows, listed, count, place)
                    if find_room(free, node_start[m], node_start[m + 1], demand[i], size[i], out):
                        trail_item[2], trail_node[2] = i, -1
                        trail = 3
                        _drop(i, m, out, demand, size, host_demand, free, host, at, rows, listed, count, place)
                        if find_room(free, node_start[n], node_start[n + 1], demand[j], size[j], out):
                            trail_item[3], trail_node[3] = j, -1
                            trail = 4
                            _drop(j, n, out, demand, size, host_demand, free, host, at, rows, listed, count, place)
                            valid = True
        if trail == 0:
            continue
        changed = 0
        moves = 0
        share = 0
        if valid:
            for k in range(trail):
                i = trail_item[k]
                seen = False
                for j in range(k):
                    seen = seen or trail_item[j] == i
                if seen:
                    continue
                was = trail_node[k]
                is_moved = _moved(i, at, rows, size, home, home_rows)
                if home[i] >= 0:
                    # where it was before this proposal decides whether it counted already
                    before = 1
                    if was == home[i]:
                        before = 0
                        for x in range(size[i]):
                            found = False
                            for y in range(size[i]):
                                found = found or trail_rows[k, x] == home_rows[i, y]
                            if not found:
                                before = 1
                    moves += is_moved - before
                else:
                    amount = demand[i, 0] * size[i]
                    share += (amount if at[i] >= 0 else 0) - (amount if was >= 0 else 0)
                for n in (was, at[i]):
                    known = n < 0
                    for j in range(changed):
                        known = known or touched[j] == n
                    if not known:
                        touched[changed] = n
                        changed += 1
            delta = price * moves - share / 1000.0
            for k in range(changed):
                n = touched[k]
                new_waste[k] = node_fragmentation(
                    free, node_start[n], node_start[n + 1], host[n, 0], host[n, 1], shapes, weight
                )
                delta += usefulness * (new_waste[k] - waste[n]) / 1000.0
            valid = score[0] + moves <= most_moves or moves < 0
            valid = valid and (delta <= 0.0 or draw(random) < math.exp(-delta / temperature))
        if not valid:
            for k in range(trail - 1, -1, -1):
                i = trail_item[k]
                if trail_node[k] < 0:
                    if at[i] >= 0:
                        _lift(i, demand, size, host_demand, free, host, at, rows, listed, count, place)
                else:
                    _drop(i, trail_node[k], trail_rows[k], demand, size, host_demand, free, host, at, rows, listed,
                          count, place)  # fmt: skip
            continue
        for k in range(changed):
            waste[touched[k]] = new_waste[k]
        score[0] += moves
        score[1] += share
        if score[0] <= most_moves and (score[1] > score[2] or (score[1] == score[2] and score[0] < score[3])):
            score[2], score[3] = score[1], score[0]
            best_at[:] = at
            best_rows[:] = rows
