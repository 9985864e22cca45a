"""Scores of many instances on every GPU: the same rules as placing one, written out for all GPUs at once.

A score is a number to rank by, less is better; the best GPU for an instance of one GPU is where it would be placed. In
steps of `packing.STEPS`, exactly:

    256 (4 (1024 step + configuration) - preference) + value

    step    0 on an active GPU, 1 as a part of a split over active GPUs, 2 on an empty GPU, 3 as a part of another split
    value   step 0: priced rest and penalty; 2: rank of the GPU's memory among the types, plus the node's share of a
            thousand empties; 1 and 3: priced rest with as much memory there as fits

Of a gang or a split, a GPU's score is that of its own part, where the node has room for all parts; of a gang whose
parts differ, that of the greatest it has room for. Columns are those of `kernels.cpu.packing` and
`kernels.cpu.slicing`.
"""

# pyright: reportArgumentType=false
# (to pyright an array indexed by an element of an array is an array; numba knows better)

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, compiled_parallel
from dilu_core.kernels.cpu.ledger import ACTIVE
from dilu_core.kernels.cpu.packing import STEPS, rest, stepped
from dilu_core.kernels.cpu.slicing import OF_SLICES, SLICES, bits, least_partition

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]

REQUEST, LIMIT, MEMORY, GPUS, SPLITS, INSTANCE, NUMBER, FIRST = 0, 1, 2, 3, 4, 5, 6, 7
"""Columns of `demands`: one row per instance and configuration; what it takes on each of its GPUs [MiB] stands in
`part_mib` from entry `FIRST` on, greatest first, and the first also in `MEMORY`."""

_RADIX = 256.0


@compiled
def _ranked(step: int, number: int, liked: int, value: float) -> float:
    return (_RADIX * (4.0 * (1024.0 * step + min(number, 1023)) - liked) * STEPS + value) / STEPS


@compiled_parallel
def score_gpus(
    free: Ints,
    weight: Floats,
    held: Ints,
    node_start: Ints,
    node_state: Ints,
    node_type: Ints,
    memory_rank: Ints,
    used: Ints,
    profile_start: Ints,
    profiles: Ints,
    preference: NDArray[np.int8],
    penalty: Floats,
    demands: Ints,
    first_demand: Ints,
    part_mib: Ints,
    scores: Floats,
) -> None:
    """Write into `scores` (n_instances, n_gpus) the least score over an instance's configurations, nan without place.

    `demands[first_demand[i]:first_demand[i + 1]]` are those of instance `i`; `preference` and `penalty` have a row per
    instance.
    """
    for i in numba.prange(scores.shape[0]):
        scores[i] = np.nan
        for d in range(first_demand[i], first_demand[i + 1]):
            for n in range(node_start.size - 1):
                if profile_start[node_type[n]] < profile_start[node_type[n] + 1]:
                    _score_slices(
                        free, held, node_start, node_state, node_type, memory_rank, used, profile_start, profiles,
                        preference[i], penalty[i], demands[d], n, scores[i],
                    )  # fmt: skip
                else:
                    _score_whole(
                        free, weight, held, node_start, node_state, node_type, memory_rank, preference[i], penalty[i],
                        demands[d], part_mib, n, scores[i],
                    )  # fmt: skip


@compiled
def _keep(scores: Floats, g: int, score: float) -> None:
    if not scores[g] <= score:
        scores[g] = score


@compiled
def _score_whole(
    free: Ints,
    weight: Floats,
    held: Ints,
    node_start: Ints,
    node_state: Ints,
    node_type: Ints,
    memory_rank: Ints,
    preference: NDArray[np.int8],
    penalty: Floats,
    demand: Ints,
    part_mib: Ints,
    n: int,
    scores: Floats,
) -> None:
    request, limit, memory = demand[REQUEST], demand[LIMIT], demand[MEMORY]
    parts = part_mib[demand[FIRST] : demand[FIRST] + demand[GPUS]]
    least = parts[parts.size - 1]
    start, stop = node_start[n], node_start[n + 1]
    empties = stop - start - node_state[n, ACTIVE]
    suitable, active_parts, active_room, all_parts, all_room = 0, 0, 0, 0, 0
    for g in range(start, stop):
        if preference[g] < 0 or free[g, 0] < request:
            continue
        if free[g, 1] >= limit and free[g, 2] >= least:
            suitable += 1
        if demand[SPLITS] and free[g, 1] >= request and free[g, 2] > 0:
            all_parts += 1
            all_room += min(free[g, 2], memory - 1)
            if held[g] > 0:
                active_parts += 1
                active_room += min(free[g, 2], memory - 1)
    seats_all = suitable >= parts.size and _seats_all(free, preference, request, limit, parts, start, stop)
    opened = memory_rank[node_type[n]] + empties / 1024.0
    for g in range(start, stop):
        if preference[g] < 0 or free[g, 0] < request:
            continue
        liked = preference[g]
        if seats_all and free[g, 1] >= limit and free[g, 2] >= least:
            if held[g] > 0:
                part = 0
                while parts[part] > free[g, 2]:
                    part += 1
                value = stepped(rest(free, weight, g, request, limit, parts[part]) + penalty[g])
                _keep(scores, g, _ranked(0, demand[NUMBER], liked, value))
            else:
                _keep(scores, g, _ranked(2, demand[NUMBER], 0, opened * STEPS))
        if demand[SPLITS] and free[g, 1] >= request and free[g, 2] > 0:
            part = min(free[g, 2], memory - 1)
            value = stepped(rest(free, weight, g, request, request, part) + penalty[g])
            if held[g] > 0 and active_parts > 1 and active_room >= memory:
                _keep(scores, g, _ranked(1, demand[NUMBER], liked, value))
            elif all_parts > 1 and all_room >= memory:
                _keep(scores, g, _ranked(3, demand[NUMBER], liked, value))


@compiled
def _seats_all(
    free: Ints, preference: NDArray[np.int8], request: int, limit: int, parts: Ints, start: int, stop: int
) -> bool:
    """Whether a node has a GPU of its own for each of `parts`, which decrease.

    It has where for each k the k greatest find k GPUs with room for the k-th (Hall). Then any GPU with room for some
    part has a seating that gives it the greatest it has room for.
    """
    for k in range(parts.size):
        if k + 1 < parts.size and parts[k + 1] == parts[k]:
            continue
        roomy = 0
        for g in range(start, stop):
            if preference[g] >= 0 and free[g, 0] >= request and free[g, 1] >= limit and free[g, 2] >= parts[k]:
                roomy += 1
        if roomy <= k:
            return False
    return True


@compiled
def _score_slices(
    free: Ints,
    held: Ints,
    node_start: Ints,
    node_state: Ints,
    node_type: Ints,
    memory_rank: Ints,
    used: Ints,
    profile_start: Ints,
    profiles: Ints,
    preference: NDArray[np.int8],
    penalty: Floats,
    demand: Ints,
    n: int,
    scores: Floats,
) -> None:
    if demand[GPUS] > 1:
        return
    kind = node_type[n]
    opened = memory_rank[kind] + (node_start[n + 1] - node_start[n] - node_state[n, ACTIVE]) / 1024.0
    for g in range(node_start[n], node_start[n + 1]):
        if preference[g] < 0:
            continue
        profile, _, waste = least_partition(
            free, g, used[g], profiles, profile_start[kind], profile_start[kind + 1], demand[REQUEST], demand[LIMIT],
            demand[MEMORY],
        )  # fmt: skip
        if profile < 0:
            continue
        if held[g] == 0:
            _keep(scores, g, _ranked(2, demand[NUMBER], 0, opened * STEPS))
            continue
        of = profiles[profile, OF_SLICES]
        value = stepped((of - bits(used[g]) - profiles[profile, SLICES] + 2 * waste) / of + penalty[g])
        _keep(scores, g, _ranked(0, demand[NUMBER], preference[g], value))
