"""The place that adds least to the fragmentation of its node: fragmentation gradient descent, with what is known kept.

Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX ATC
2023: an instance goes where the expected unusable share F_n (`kernels.cpu.fragmentation`) of the node grows least. The
published simulator rounds that score to a hundred steps of a sigmoid, and the first node wins among equals. So here,
with even steps: 40 milli, as wide as the simulator's at the origin. It matters: with the exact score 1.4 % less of the
openb cluster is filled, as small gains then scatter instances over nodes that others will need whole.

    score = ceil((F_n after - F_n now + 1000 penalty) / STEP) - LIKED preference

A node's score for a demand changes only when the node does. `known` holds the scores of recent demands, one row each,
with the number of changes of the node they were taken at; so an arrival costs a look at each node, and a computation
for those that changed since the same demand came last. Columns are those of `kernels.cpu.packing`.
"""

# pyright: reportArgumentType=false
# (to pyright an array indexed by an element of an array is an array; numba knows better)

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.cpu.fragmentation import (
    node_fragmentation,
    node_fragmentation_after,
    node_fragmentation_each,
)
from dilu_core.kernels.cpu.ledger import CHANGES

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

STEP, PER_PENALTY = 40.0, 1000.0
LIKED = 1e7
"""What a step of `preference` is worth: more than any score."""

_ROUNDING = 1e-9


@compiled
def least_gradient(
    free: Ints,
    node_start: Ints,
    node_state: Ints,
    host_free: Ints,
    node_barred: NDArray[np.bool_],
    preference: Ints,
    penalty: Floats,
    special: bool,
    shapes: Ints,
    weight: Floats,
    demand: Ints,
    gang_memory: Ints,
    known: Floats,
    known_row: Ints,
    known_at: Ints,
    chosen: Ints,
) -> int:
    """The node where a demand adds least, or -1; the rows on it are written into `chosen`.

    `demand` (6,) is request, limit, memory, GPUs (0 for what only takes of the host), CPU and host memory;
    `gang_memory` the memory on each GPU of a gang, decreasing. `known`, `known_row`, `known_at` (n_nodes,) are the
    row of this demand in what is known: score, row on the node, and change counter (-1 for never).
    """
    best = -1
    best_score = np.inf
    best_row = -1
    largest = 1
    for n in range(node_start.size - 1):
        largest = max(largest, node_start[n + 1] - node_start[n])
    after = np.empty(largest)
    columns, work = np.ascontiguousarray(shapes.T), np.empty((3, weight.size), np.int64)
    last = -1  # the last node whose score was worked out anew
    for n in range(node_start.size - 1):
        if node_barred[n] or host_free[n, 0] < demand[4] or host_free[n, 1] < demand[5]:
            continue
        own = False
        if special:
            for g in range(node_start[n], node_start[n + 1]):
                own = own or preference[g] != 0 or penalty[g] != 0.0
        if own:
            score, row = node_score(
                free, node_start, n, host_free, preference, penalty, True, shapes, columns, weight, demand, gang_memory,
                after, work, chosen,
            )  # fmt: skip
        else:
            if known_at[n] != node_state[n, CHANGES]:
                if last >= 0 and _alike(free, node_start, host_free, last, n):
                    known[n], known_row[n] = known[last], known_row[last] + node_start[n] - node_start[last]
                else:
                    known[n], known_row[n] = node_score(
                        free, node_start, n, host_free, preference, penalty, False, shapes, columns, weight, demand,
                        gang_memory, after, work, chosen,
                    )  # fmt: skip
                known_at[n] = node_state[n, CHANGES]
                last = n
            score, row = known[n], known_row[n]
        if score < best_score:
            best, best_score, best_row = n, score, row
    if best >= 0 and demand[3] == 1:
        chosen[0] = best_row
    elif best >= 0:
        gang_rows(
            free, node_start[best], node_start[best + 1], preference, penalty, special, demand, gang_memory, chosen
        )
    return best


@compiled
def _alike(free: Ints, node_start: Ints, host_free: Ints, n: int, other: int) -> bool:
    """Whether two nodes have the same left, on the host and GPU by GPU."""
    shift = node_start[other] - node_start[n]
    same = bool(
        (host_free[n, 0] == host_free[other, 0])
        & (host_free[n, 1] == host_free[other, 1])
        & (node_start[other + 1] - node_start[n + 1] == shift)
    )
    g = node_start[n]
    while same and g < node_start[n + 1]:
        for r in range(3):
            same &= free[g, r] == free[g + shift, r]
        g += 1
    return same


@compiled
def node_score(
    free: Ints,
    node_start: Ints,
    n: int,
    host_free: Ints,
    preference: Ints,
    penalty: Floats,
    special: bool,
    shapes: Ints,
    columns: Ints,
    weight: Floats,
    demand: Ints,
    gang_memory: Ints,
    after: Floats,
    work: Ints,
    chosen: Ints,
) -> tuple[float, int]:
    """The least score of a demand on a node whose host has room (infinite without place), and the row where it is.

    `columns` are the `shapes` by column; `after` (as many as the largest node has GPUs) and `work` (3, n_shapes) are
    room to work in.
    """
    start, stop = node_start[n], node_start[n + 1]
    cpu, memory = host_free[n, 0], host_free[n, 1]
    best = -1
    best_score = np.inf
    if demand[3] == 1:
        fitting = 0
        for g in range(start, stop):
            if free[g, 0] >= demand[0] and free[g, 1] >= demand[1] and free[g, 2] >= demand[2]:
                fitting += 1
        if fitting == 0:
            return best_score, best
        now = node_fragmentation_each(
            free, start, stop, cpu, memory, columns, weight, demand[0], demand[1], demand[2], demand[4], demand[5],
            after, work,
        )  # fmt: skip
        for g in range(start, stop):
            if special and preference[g] < 0:
                continue
            score = _score(after[g - start] - now, penalty[g] if special else 0.0, preference[g] if special else 0)
            if score < best_score:
                best, best_score = g, score
        return best_score, best
    if not gang_rows(free, start, stop, preference, penalty, special, demand, gang_memory, chosen):
        return best_score, best
    size = demand[3]
    then = node_fragmentation_after(
        free, start, stop, cpu, memory, shapes, weight, chosen, size, demand[0], demand[1], gang_memory, demand[4],
        demand[5],
    )  # fmt: skip
    cost = 0.0
    liked = 0
    for k in range(size if special else 0):
        cost += penalty[chosen[k]]
        liked += preference[chosen[k]]
    now = node_fragmentation(free, start, stop, cpu, memory, shapes, weight)
    return _score(then - now, cost, liked), chosen[0]


@compiled
def _score(growth: float, penalty: float, liked: int) -> float:
    return float(np.ceil((growth + PER_PENALTY * penalty) / STEP - _ROUNDING)) - LIKED * liked


@compiled
def gang_rows(
    free: Ints,
    start: int,
    stop: int,
    preference: Ints,
    penalty: Floats,
    special: bool,
    demand: Ints,
    gang_memory: Ints,
    chosen: Ints,
) -> bool:
    """Write the tightest rows of a node for a gang, most liked first, into `chosen`; whether there are as many."""
    size = demand[3]
    if stop - start < size:
        return False
    for k in range(size):
        pick = -1
        pick_liked = -np.inf
        pick_left = 0
        for g in range(start, stop):
            if free[g, 0] < demand[0] or free[g, 1] < demand[1] or free[g, 2] < gang_memory[k]:
                continue
            if special and preference[g] < 0:
                continue
            taken = False
            for j in range(k):
                taken = taken or chosen[j] == g
            if taken:
                continue
            liked = LIKED * preference[g] - PER_PENALTY * penalty[g] if special else 0.0
            if pick < 0 or liked > pick_liked or (liked == pick_liked and free[g, 0] < pick_left):
                pick, pick_liked, pick_left = g, liked, free[g, 0]
        if pick < 0:
            return False
        chosen[k] = pick
    return True


@compiled
def score_gradient(
    free: Ints,
    node_start: Ints,
    host_free: Ints,
    node_barred: NDArray[np.bool_],
    preference: Ints,
    penalty: Floats,
    special: bool,
    shapes: Ints,
    weight: Floats,
    demand: Ints,
    gang_memory: Ints,
    scores: Floats,
) -> None:
    """Write into `scores` (n_gpus,) that of every GPU with room for the demand; a gang's GPUs carry their node's."""
    largest = 1
    for n in range(node_start.size - 1):
        largest = max(largest, node_start[n + 1] - node_start[n])
    after = np.empty(largest)
    columns, work = np.ascontiguousarray(shapes.T), np.empty((3, weight.size), np.int64)
    chosen = np.empty(largest + 1, np.int64)
    for n in range(node_start.size - 1):
        if node_barred[n] or host_free[n, 0] < demand[4] or host_free[n, 1] < demand[5]:
            continue
        start, stop = node_start[n], node_start[n + 1]
        if demand[3] > 1:
            score, _ = node_score(
                free, node_start, n, host_free, preference, penalty, special, shapes, columns, weight, demand,
                gang_memory, after, work, chosen,
            )  # fmt: skip
            for k in range(demand[3] if score < np.inf else 0):
                scores[chosen[k]] = score
            continue
        now = node_fragmentation_each(
            free, start, stop, host_free[n, 0], host_free[n, 1], columns, weight, demand[0], demand[1], demand[2],
            demand[4], demand[5], after, work,
        )  # fmt: skip
        for g in range(start, stop):
            if after[g - start] < np.inf and not (special and preference[g] < 0):
                cost, liked = (penalty[g], preference[g]) if special else (0.0, 0)
                scores[g] = _score(after[g - start] - now, cost, liked)
