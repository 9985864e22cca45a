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

They change none of them. The sums run over the shapes in their order, so that the same state gives the same bits
whichever of the functions computes it. Rows stand for whole GPUs: a partition (MIG) is not looked into.
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
    shapes: Ints,
    weight: Floats,
    request: int,
    limit: int,
    memory: int,
    cpu: int,
    memory_on_host: int,
    after: Floats,
) -> float:
    """F_n now; and in `after[:stop - start]`, F_n once an instance of one GPU sits on each of the node's GPUs instead.

    Infinite for a GPU without room, and for all where the host has none. One pass over the shapes serves all the GPUs:
    a booking changes the room of one GPU alone, so each shape's count and sum are corrected by that GPU's part. GPUs of
    the same room count as one, of which there are several: most nodes have but two or three kinds.
    """
    size = stop - start
    kind = np.empty(size, np.int64)  # of each GPU
    row = np.empty(size, np.int64)  # the first GPU of each kind
    count = np.empty(size, np.int64)
    grown = np.empty(size)
    kinds = 0
    total = 0
    host_fits = host_cpu >= cpu and host_memory >= memory_on_host
    for i in range(size):
        g = start + i
        total += free[g, 0]
        k = 0
        while k < kinds and not (
            (free[row[k], 0] == free[g, 0]) & (free[row[k], 1] == free[g, 1]) & (free[row[k], 2] == free[g, 2])
        ):
            k += 1
        if k == kinds:
            fits = host_fits and free[g, 0] >= request and free[g, 1] >= limit and free[g, 2] >= memory
            row[k], count[k], grown[k] = g, 0, 0.0 if fits else np.inf
            kinds += 1
        kind[i] = k
        count[k] += 1
    now = 0.0
    for m in range(weight.size):
        gpus, r, b, s = shapes[m, 3], shapes[m, 0], shapes[m, 1], shapes[m, 2]
        room = 0
        wasted = 0
        for k in range(kinds):
            g = row[k]
            if (free[g, 0] >= r) & (free[g, 1] >= b) & (free[g, 2] >= s):
                room += count[k]
            else:
                wasted += count[k] * free[g, 0]
        runs = gpus > 0 and host_cpu >= shapes[m, 4] and host_memory >= shapes[m, 5]
        still_runs = gpus > 0 and host_cpu - cpu >= shapes[m, 4] and host_memory - memory_on_host >= shapes[m, 5]
        now += weight[m] * (wasted if runs and room >= gpus else total)
        for k in range(kinds):
            if grown[k] == np.inf:
                continue
            g = row[k]
            left = free[g, 0] - request
            had_room = (free[g, 0] >= r) & (free[g, 1] >= b) & (free[g, 2] >= s)
            has_room = (left >= r) & (free[g, 1] - limit >= b) & (free[g, 2] - memory >= s)
            unusable = total - request
            if still_runs and room - had_room + has_room >= gpus:
                unusable = wasted - (0 if had_room else free[g, 0]) + (0 if has_room else left)
            grown[k] += weight[m] * unusable
    for i in range(size):
        after[i] = grown[kind[i]]
    return now
