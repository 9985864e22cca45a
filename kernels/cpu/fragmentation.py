"""How much of a node's free request share a mix of instances is expected not to be able to use: the FGD measure.

Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX
ATC 2023. For a node n and a shape m of the mix,

    F_n(m) = all free request of the node         where m cannot run on it: its host lacks CPU or memory, fewer than
                                                  its `gpus` GPUs have room for m, or it wants no GPU at all
             free request on GPUs without room    elsewhere
    F_n    = sum of weight_m F_n(m) over the mix

A GPU has room for m where request, limit and memory all fit. All functions read the same arrays:

    free         (n_gpus, 3) int64    free request [milli], limit [milli] and memory [MiB]; the node is start..stop-1
    host_cpu, host_memory    int      free CPU [milli] and memory [MiB] of the node's host; huge where unlimited
    shapes       (n_shapes, 6) int64  request [milli], limit [milli], memory [MiB] per GPU; GPUs; CPU [milli] and host
                                      memory [MiB] of the whole instance
    weight       (n_shapes,) float64  how much of the mix each shape is, 1 in all

They change none of them. `node_fragmentation_each` takes the shapes by column. The sums run over the shapes in their
order, so that the same state gives the same bits whichever of the functions computes it. Rows stand for whole GPUs: a
partition (MIG) is not looked into.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def node_fragmentation(
    free: Ints, start: int, stop: int, host_cpu: int, host_memory: int, shapes: Ints, weight: Floats
) -> float:
    """F_n, in milli-GPU."""
    total = 0
    for g in range(start, stop):
        total += free[g, 0]
    expected = 0.0
    if total == 0:
        return expected
    for m in range(weight.size):
        gpus = shapes[m, 3]
        unusable = total
        if 0 < gpus <= stop - start and host_cpu >= shapes[m, 4] and host_memory >= shapes[m, 5]:
            room = 0
            wasted = 0
            for g in range(start, stop):
                if free[g, 0] >= shapes[m, 0] and free[g, 1] >= shapes[m, 1] and free[g, 2] >= shapes[m, 2]:
                    room += 1
                else:
                    wasted += free[g, 0]
            if room >= gpus:
                unusable = wasted
        expected += weight[m] * unusable
    return expected


@compiled
def node_fragmentation_after(
    free: Ints,
    start: int,
    stop: int,
    host_cpu: int,
    host_memory: int,
    shapes: Ints,
    weight: Floats,
    chosen: Ints,
    count: int,
    request: int,
    limit: int,
    memory: Ints,
    cpu: int,
    memory_on_host: int,
) -> float:
    """F_n once an instance sits on the rows `chosen[:count]` (distinct, of this node), in milli-GPU.

    It takes `request` and `limit` on each, `memory[i]` on `chosen[i]`, and `cpu` and `memory_on_host` of the host. The
    caller has made sure that it fits. A gang, a split (whose limit is its request) and one GPU are all the same here.
    """
    after = free[start:stop].copy()
    for i in range(count):
        g = chosen[i] - start
        after[g, 0] -= request
        after[g, 1] -= limit
        after[g, 2] -= memory[i]
    return node_fragmentation(after, 0, stop - start, host_cpu - cpu, host_memory - memory_on_host, shapes, weight)


@compiled
def node_fragmentation_each(
    free: Ints,
    start: int,
    stop: int,
    host_cpu: int,
    host_memory: int,
    columns: Ints,
    weight: Floats,
    request: int,
    limit: int,
    memory: int,
    cpu: int,
    memory_on_host: int,
    after: Floats,
    work: Ints,
) -> float:
    """F_n now; and in `after[:stop - start]`, F_n once an instance of one GPU sits on each of the node's GPUs instead.

    `columns` (6, n_shapes) are the shapes, column by column, so that loops over them are vectorised; `work` (3,
    n_shapes) is room to work in. Infinite for a GPU without room, and for all where the host has none. A booking
    changes the room of one GPU alone, so each shape's count and sum are corrected by that GPU's part. GPUs of the same
    room count as one, of which there are several: most nodes have but two or three kinds.
    """
    size = stop - start
    kind = np.empty(size, np.int64)  # of each GPU
    row = np.empty(size, np.int64)  # the first GPU of each kind
    count = np.empty(size, np.int64)
    kinds = 0
    total = 0
    for i in range(size):
        g = start + i
        total += free[g, 0]
        k = 0
        while k < kinds and not (
            (free[row[k], 0] == free[g, 0]) & (free[row[k], 1] == free[g, 1]) & (free[row[k], 2] == free[g, 2])
        ):
            k += 1
        if k == kinds:
            row[k], count[k] = g, 0
            kinds += 1
        kind[i] = k
        count[k] += 1
    requests, limits, memories, gpus, cpus, host_memories = columns
    room, wasted, unusable = work
    room[:], wasted[:] = 0, 0
    for k in range(kinds):
        f, b, s = free[row[k], 0], free[row[k], 1], free[row[k], 2]
        several, rest = count[k], count[k] * f
        for m in range(weight.size):
            fits = (f >= requests[m]) & (b >= limits[m]) & (s >= memories[m])
            room[m] += several if fits else 0
            wasted[m] += 0 if fits else rest
    for m in range(weight.size):
        runs = (gpus[m] > 0) & (host_cpu >= cpus[m]) & (host_memory >= host_memories[m]) & (room[m] >= gpus[m])
        unusable[m] = wasted[m] if runs else total
    now = 0.0
    for m in range(weight.size):
        now += weight[m] * unusable[m]
    cpu_left, memory_left = host_cpu - cpu, host_memory - memory_on_host
    for k in range(kinds):
        f, b, s = free[row[k], 0], free[row[k], 1], free[row[k], 2]
        f_left, b_left, s_left = f - request, b - limit, s - memory
        grown = np.inf
        if (cpu_left >= 0) & (memory_left >= 0) & (f_left >= 0) & (b_left >= 0) & (s_left >= 0):
            for m in range(weight.size):
                had_room = (f >= requests[m]) & (b >= limits[m]) & (s >= memories[m])
                has_room = (f_left >= requests[m]) & (b_left >= limits[m]) & (s_left >= memories[m])
                roomy = room[m] - (1 if had_room else 0) + (1 if has_room else 0)
                runs = (gpus[m] > 0) & (cpu_left >= cpus[m]) & (memory_left >= host_memories[m]) & (roomy >= gpus[m])
                left = wasted[m] - (0 if had_room else f) + (0 if has_room else f_left)
                unusable[m] = left if runs else total - request
            grown = 0.0
            for m in range(weight.size):
                grown += weight[m] * unusable[m]
        for i in range(size):
            if kind[i] == k:
                after[i] = grown
    return now
