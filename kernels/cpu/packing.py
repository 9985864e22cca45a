"""Where one instance fits best on one GPU: the inner loops of online and static placement.

All kernels read the same columns, one row per GPU, nodes being consecutive rows (`kernels.cpu.ledger` keeps them):

    free        (n_gpus, 3) int64    what is left of request [milli], limit [milli], memory [MiB]
    weight      (n_gpus, 3) float64  price of a unit left over in each; the priced rest is a GPU's score, less is better
    held        (n_gpus,)   int64    instances on it; a GPU is active when it holds any
    node_start  (n_nodes + 1,) int64 first row of each node, and one past the last
    node_state  (n_nodes, 3) int64   active GPUs of the node; how often it has changed; the first node after it that is
                                     not of its size and GPU type
    totals      (2,)        int64    active GPUs of the cluster, and the number of nodes up to the last with any

An instance that cannot go or would not like to go everywhere is `special`, and two columns more are read for it:

    preference  (n_gpus,)   int64    -1: it must not go there; else greater is liked better
    penalty     (n_gpus,)   float64  added to the score

They answer with row numbers, or -1 for none. Ties go to the lowest row, so an answer depends on the columns alone and
not on the history that led to them.
"""

# pyright: reportArgumentType=false
# (to pyright an array indexed by an element of an array is an array; numba knows better)

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.cpu.ledger import ACTIVE, ALIKE_UNTIL, REACH, write, write_all
from dilu_core.kernels.cpu.packing_nodes import best_gang, best_split

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NOWHERE, ON_ACTIVE, ON_SPLIT, ON_OPENED = 0, 1, 2, 3
"""What `place_one` found."""

TRY_ACTIVE, TRY_SPLIT, TRY_OPENING, TRY_SPLIT_OPENING = 1, 2, 4, 8
"""What `place_one` tries, in this order; bits to be added up."""

STEPS = 2.0**30
"""Steps that make up a score of 1, the rest of a whole GPU."""

SPECIAL, BOOK = 16, 32
"""Further bits: read `preference` and `penalty`; write what was found into the columns."""


@compiled
def place_one(
    free: Ints,
    weight: Floats,
    held: Ints,
    preference: Ints,
    penalty: Floats,
    node_start: Ints,
    node_of: Ints,
    node_state: Ints,
    totals: Ints,
    chosen: Ints,
    part: Ints,
    request: int,
    limit: int,
    memory: int,
    flags: int,
) -> tuple[int, int, int, int]:
    """The place of an instance of one GPU: (what was found, its row or -1, number of parts, GPUs opened).

    Rows and memory of the parts of a split instance are in `chosen` and `part`; a split books `request` as its limit.
    """
    special = flags & SPECIAL != 0
    if flags & TRY_ACTIVE:
        stop = node_start[totals[REACH]]
        gpu = best_active(free, weight, held, preference, penalty, special, stop, request, limit, memory)[0]
        if gpu >= 0:
            if flags & BOOK:
                write(free, held, node_of, node_state, totals, gpu, request, limit, memory, 1)
            return ON_ACTIVE, gpu, 1, 0
    for may_open in (False, True):
        if may_open and flags & TRY_OPENING:
            gpu = best_empty(free, held, preference, special, node_start, node_state, totals, request, limit, memory)
            if gpu >= 0:
                if flags & BOOK:
                    write(free, held, node_of, node_state, totals, gpu, request, limit, memory, 1)
                return ON_OPENED, gpu, 1, 1
        if flags & (TRY_SPLIT_OPENING if may_open else TRY_SPLIT):
            count = best_split(
                free, held, preference, special, node_start, node_state, totals, request, memory, may_open, chosen, part
            )
            if count:
                opened = 0
                for k in range(count):
                    opened += 1 if held[chosen[k]] == 0 else 0
                    if flags & BOOK:
                        write(free, held, node_of, node_state, totals, chosen[k], request, request, part[k], 1)
                return ON_SPLIT, -1, count, opened
    return NOWHERE, -1, 0, 0


@compiled
def place_gang(
    free: Ints,
    weight: Floats,
    held: Ints,
    preference: Ints,
    penalty: Floats,
    node_start: Ints,
    node_of: Ints,
    node_state: Ints,
    totals: Ints,
    chosen: Ints,
    memory: Ints,
    request: int,
    limit: int,
    size: int,
    flags: int,
) -> tuple[bool, int]:
    """The place of a gang of `size` GPUs: (whether there is one, GPUs opened).

    `memory` is what it takes on each, decreasing; the row for each is written into `chosen`.
    """
    special = flags & SPECIAL != 0
    node, opened = best_gang(
        free, weight, held, preference, penalty, special, node_start, node_state, totals, request, limit, memory, size,
        chosen,
    )  # fmt: skip
    if node >= 0 and flags & BOOK:
        write_all(free, held, node_of, node_state, totals, chosen, memory, size, request, limit, 1)
    return node >= 0, opened


@compiled
def best_active(
    free: Ints,
    weight: Floats,
    held: Ints,
    preference: Ints,
    penalty: Floats,
    special: bool,
    stop: int,
    request: int,
    limit: int,
    memory: int,
) -> tuple[int, int, float]:
    """The active GPU before row `stop` with room, greatest preference first, then least priced rest (best fit).

    Returns (row, its preference, its score in steps).
    """
    best = -1
    best_preference = -1
    best_score = np.inf
    for g in range(stop):
        # one branch, and that nearly always the same way, instead of four
        if (held[g] == 0) | (free[g, 0] < request) | (free[g, 1] < limit) | (free[g, 2] < memory):
            continue
        liked = preference[g] if special else 0
        if liked < best_preference or liked < 0:
            continue
        score = rest(free, weight, g, request, limit, memory)
        if special:
            score += penalty[g]
        score = stepped(score)
        if liked > best_preference or score < best_score:
            best, best_preference, best_score = g, liked, score
    return best, best_preference, best_score


@compiled
def rest(free: Ints, weight: Floats, g: int, request: int, limit: int, memory: int) -> float:
    """The priced rest of GPU `g` with the instance on it."""
    priced: float = (free[g, 0] - request) * weight[g, 0]
    priced += (free[g, 1] - limit) * weight[g, 1]
    priced += (free[g, 2] - memory) * weight[g, 2]
    return priced


@compiled
def stepped(score: float) -> float:
    """A score as a whole number of steps, so small that only rounding errors vanish: equal rests are then equal.

    It also makes sums with whole multiples of `STEPS` exact, by which `kernels.cpu.what_if` ranks scores of all kinds.
    """
    return float(np.floor(score * STEPS + 0.5))


@compiled
def best_empty(
    free: Ints,
    held: Ints,
    preference: Ints,
    special: bool,
    node_start: Ints,
    node_state: Ints,
    totals: Ints,
    request: int,
    limit: int,
    memory: int,
) -> int:
    """The GPU to open: least memory that suffices, then the node with the fewest GPUs still empty.

    Filling up nodes that are already in use keeps whole nodes empty for gangs, and puts active GPUs side by side, where
    an instance can be split over them.
    """
    best = -1
    best_memory = 0
    best_empties = 0
    following = 0
    while following < node_start.size - 1:
        n = following
        following = n + 1
        empties = node_start[n + 1] - node_start[n] - node_state[n, ACTIVE]
        if empties == 0:
            continue
        if n >= totals[REACH] and not special:
            following = node_state[n, ALIKE_UNTIL]  # those after it are as empty as it
        room = free[node_start[n], 2]
        unused = node_state[n, ACTIVE] == 0
        if unused and best >= 0 and (room > best_memory or (room == best_memory and empties >= best_empties)):
            continue
        for g in range(node_start[n], node_start[n + 1]):
            if held[g] > 0:
                continue
            fits = free[g, 0] >= request and free[g, 1] >= limit and free[g, 2] >= memory
            if fits and (not special or preference[g] >= 0):
                room = free[g, 2]
                if best < 0 or room < best_memory or (room == best_memory and empties < best_empties):
                    best, best_memory, best_empties = g, room, empties
                break
    return best
