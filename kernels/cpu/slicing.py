"""Where one instance fits best on partitioned GPUs: which GPU, which profile, from which slice on.

The columns of `kernels.cpu.packing`, and for partitions

    used           (n_gpus,) int64    the slices taken, as bits
    profile_start  (n_types + 1,)     first profile of each GPU type, and one past the last
    profiles       (n_profiles, 5)    share [milli], memory [MiB], slices, legal first slices as bits, slices of the
                                      GPU; those of a type in increasing order of size
"""

# pyright: reportArgumentType=false
# (to pyright an array indexed by an element of an array is an array; numba knows better)

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.cpu.ledger import ACTIVE
from dilu_core.kernels.cpu.packing import stepped

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SHARE, MEMORY, SLICES, STARTS, OF_SLICES = 0, 1, 2, 3, 4
"""Columns of `profiles`."""


@compiled
def best_slice(
    free: Ints,
    held: Ints,
    preference: Ints,
    penalty: Floats,
    node_start: Ints,
    node_type: Ints,
    node_state: Ints,
    used: Ints,
    profile_start: Ints,
    profiles: Ints,
    request: int,
    limit: int,
    memory: int,
    opening: bool,
) -> tuple[int, int, float, int, int]:
    """The GPU with a partition for the instance: (row or -1, its preference, its score, profile, first slice).

    Among active GPUs the most liked, then least score: the share of slices left, and twice what a larger profile than
    the least sufficient wastes, in steps. With `opening` among empty GPUs: least memory, then the node with the fewest
    empty; the score is then 0.
    """
    best, best_liked, best_score, best_profile, best_first = -1, -1, np.inf, -1, -1
    best_memory = 0
    best_empties = 0
    for n in range(node_start.size - 1):
        kind = node_type[n]
        if profile_start[kind] == profile_start[kind + 1]:
            continue
        empties = node_start[n + 1] - node_start[n] - node_state[n, ACTIVE]
        if opening and empties == 0:
            continue
        for g in range(node_start[n], node_start[n + 1]):
            if preference[g] < 0 or (held[g] == 0) != opening:
                continue
            profile, first, waste = least_partition(
                free, g, used[g], profiles, profile_start[kind], profile_start[kind + 1], request, limit, memory
            )
            if profile < 0:
                continue
            if opening:
                room = free[g, 2]
                if best < 0 or room < best_memory or (room == best_memory and empties < best_empties):
                    best, best_liked, best_score, best_profile, best_first = g, 0, 0.0, profile, first
                    best_memory, best_empties = room, empties
                break
            of = profiles[profile, OF_SLICES]
            score = stepped((of - bits(used[g]) - profiles[profile, SLICES] + 2 * waste) / of + penalty[g])
            if preference[g] > best_liked or (preference[g] == best_liked and score < best_score):
                best, best_liked, best_score, best_profile, best_first = g, preference[g], score, profile, first
    return best, best_liked, best_score, best_profile, best_first


@compiled
def have_slices(
    free: Ints,
    node_start: Ints,
    node_type: Ints,
    used: Ints,
    profile_start: Ints,
    profiles: Ints,
    request: int,
    limit: int,
    memory: int,
    slices: Ints,
) -> None:
    """Write into `slices` of each GPU: 0 it is whole, 1 it has a free partition for this demand, 2 it has none."""
    for n in range(node_start.size - 1):
        first, stop = profile_start[node_type[n]], profile_start[node_type[n] + 1]
        for g in range(node_start[n], node_start[n + 1]):
            slices[g] = 0
            if first < stop:
                slices[g] = 2
                for p in range(first, stop):
                    enough = profiles[p, SHARE] >= request and profiles[p, MEMORY] >= memory
                    enough = enough and free[g, 1] >= min(limit, profiles[p, SHARE])
                    if enough and first_slice(used[g], profiles, p, stop) >= 0:
                        slices[g] = 1


@compiled
def least_partition(
    free: Ints, g: int, used: int, profiles: Ints, first: int, stop: int, request: int, limit: int, memory: int
) -> tuple[int, int, int]:
    """The smallest profile with a free place on the GPU: (profile or -1, first slice, slices more than the least)."""
    if free[g, 0] < request or free[g, 2] < memory:
        return -1, -1, 0
    least = 0
    for p in range(first, stop):
        if profiles[p, SHARE] < request or profiles[p, MEMORY] < memory:
            continue
        if least == 0:
            least = profiles[p, SLICES]
        if free[g, 1] < min(limit, profiles[p, SHARE]):
            continue
        start = first_slice(used, profiles, p, stop)
        if start >= 0:
            return p, start, profiles[p, SLICES] - least
    return -1, -1, 0


@compiled
def first_slice(used: int, profiles: Ints, profile: int, stop: int) -> int:
    """The free legal first slice of `profile` that leaves most places to larger profiles, then the lowest; -1 for none.

    Profiles up to `stop` are those of the same GPU, in increasing order of size from some row up to `profile` on.
    """
    best = -1
    best_larger = -1
    mask = (1 << profiles[profile, SLICES]) - 1
    for start in range(profiles[profile, OF_SLICES]):
        if (profiles[profile, STARTS] >> start) & 1 == 0 or (used >> start) & mask:
            continue
        taken = used | (mask << start)
        larger = 0
        for q in range(profile + 1, stop):
            if profiles[q, SLICES] > profiles[profile, SLICES]:
                larger += places(taken, profiles, q)
        if larger > best_larger:
            best, best_larger = start, larger
    return best


@compiled
def places(used: int, profiles: Ints, profile: int) -> int:
    """How many legal first slices of `profile` are free."""
    mask = (1 << profiles[profile, SLICES]) - 1
    found = 0
    for start in range(profiles[profile, OF_SLICES]):
        if (profiles[profile, STARTS] >> start) & 1 and (used >> start) & mask == 0:
            found += 1
    return found


@compiled
def bits(word: int) -> int:
    found = 0
    while word:
        found += word & 1
        word >>= 1
    return found
