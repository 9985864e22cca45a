"""The columns of a placement ledger, written and read by compiled code: bookings, who may go where, what is in the way.

The columns are described in `kernels.cpu.packing`. Those of functions and hosts are:

    has, refuses  (n_gpus, n_words) uint64  a bit per function: an instance of it is here; an instance here refuses it
    masks         (3, n_words) uint64       the same bits of one instance: its function, those it refuses, its friends
    host_free     (n_nodes, 2) int64        CPU [milli] and memory [MiB] left on the node
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bits = NDArray[np.uint64]

ACTIVE, CHANGES, ALIKE_UNTIL = 0, 1, 2
"""Columns of `node_state`."""

GPUS_USED, REACH = 0, 1
"""Entries of `totals`."""

REFUSED, NEUTRAL, BESIDE_GANG, BESIDE_FRIEND = -1, 0, 1, 2
"""Values of `preference`."""

REQUEST, LIMIT, MEMORY, ANTI_AFFINITY, HOST_CPU, HOST_MEMORY, SLICES = 0, 1, 2, 3, 4, 5, 6
"""What may stand in the way of an instance on a GPU: rows of the answer of `obstacles`."""


@compiled
def write(
    free: Ints,
    held: Ints,
    node_of: Ints,
    node_state: Ints,
    totals: Ints,
    gpu: int,
    request: int,
    limit: int,
    memory: int,
    sign: int,
) -> None:
    """Book (`sign` 1) or cross out (-1) these amounts on the row `gpu`."""
    free[gpu, 0] -= sign * request
    free[gpu, 1] -= sign * limit
    free[gpu, 2] -= sign * memory
    before = held[gpu]
    held[gpu] = before + sign
    node = node_of[gpu]
    node_state[node, CHANGES] += 1
    if before == 0:
        node_state[node, ACTIVE] += 1
        totals[GPUS_USED] += 1
        totals[REACH] = max(totals[REACH], node + 1)
    elif before + sign == 0:
        node_state[node, ACTIVE] -= 1
        totals[GPUS_USED] -= 1
        while totals[REACH] > 0 and node_state[totals[REACH] - 1, ACTIVE] == 0:
            totals[REACH] -= 1


@compiled
def write_all(
    free: Ints,
    held: Ints,
    node_of: Ints,
    node_state: Ints,
    totals: Ints,
    rows: Ints,
    memory: Ints,
    count: int,
    request: int,
    limit: int,
    sign: int,
) -> None:
    """As `write`, for the first `count` of `rows` and the `memory` on each."""
    for k in range(count):
        write(free, held, node_of, node_state, totals, rows[k], request, limit, memory[k], sign)


@compiled
def prefer(
    preference: Ints,
    has: Bits,
    refuses: Bits,
    masks: Bits,
    node_start: Ints,
    host_free: Ints,
    node_barred: NDArray[np.bool_],
    cpu: int,
    host_memory: int,
) -> None:
    """Write into `preference` where an instance must not go, and where it has friends.

    `node_barred` tells the nodes it does not run on at all.
    """
    words = masks.shape[1]
    for n in range(node_start.size - 1):
        barred = node_barred[n] or host_free[n, 0] < cpu or host_free[n, 1] < host_memory
        for g in range(node_start[n], node_start[n + 1]):
            against = np.uint64(0)
            friends = np.uint64(0)
            for w in range(words):
                against |= (refuses[g, w] & masks[0, w]) | (has[g, w] & masks[1, w])
                friends |= has[g, w] & masks[2, w]
            if barred or against != 0:
                preference[g] = REFUSED
            else:
                preference[g] = BESIDE_FRIEND if friends != 0 else NEUTRAL


@compiled
def penalise(penalty: Floats, has: Bits, of_function: Floats) -> None:
    """Write into `penalty` the sum over the functions on each GPU of what each costs, `of_function` (64 n_words,)."""
    one = np.uint64(1)
    for g in range(penalty.size):
        total = 0.0
        for w in range(has.shape[1]):
            word = has[g, w]
            number = 64 * w
            while word != 0:
                if word & one:
                    total += of_function[number]
                word >>= one
                number += 1
        penalty[g] = total


@compiled
def obstacles(
    free: Ints,
    has: Bits,
    refuses: Bits,
    masks: Bits,
    node_start: Ints,
    host_free: Ints,
    node_barred: NDArray[np.bool_],
    slices: Ints,
    need: Ints,
    near: Ints,
) -> tuple[Ints, Ints, Ints]:
    """What keeps an instance off each GPU: (GPUs by obstacle (7,), rows listed in `near` (7,), GPUs with room by node).

    `need` (5,) is its request, limit, memory, host CPU and host memory. `slices` tells of each GPU: 0 it is whole,
    1 it is partitioned and has a partition for the instance, 2 it has none. `near` (7, n) receives the first rows where
    only one thing stood in the way, by that thing.
    """
    counts = np.zeros(7, np.int64)
    listed = np.zeros(7, np.int64)
    room = np.zeros(node_start.size - 1, np.int64)
    words = masks.shape[1]
    for n in range(node_start.size - 1):
        if node_barred[n]:
            continue
        host_cpu = host_free[n, 0] < need[3]
        host_memory = host_free[n, 1] < need[4]
        for g in range(node_start[n], node_start[n + 1]):
            against = np.uint64(0)
            for w in range(words):
                against |= (refuses[g, w] & masks[0, w]) | (has[g, w] & masks[1, w])
            found = 0
            last = 0
            for what in range(7):
                if what == LIMIT:
                    blocks = slices[g] == 0 and free[g, 1] < need[1]
                elif what < 3:
                    blocks = free[g, what] < need[what]
                elif what == ANTI_AFFINITY:
                    blocks = against != 0
                elif what == HOST_CPU:
                    blocks = host_cpu
                elif what == HOST_MEMORY:
                    blocks = host_memory
                else:
                    blocks = slices[g] == 2
                if blocks:
                    counts[what] += 1
                    found += 1
                    last = what
            if found == 0:
                room[n] += 1
            elif found == 1 and listed[last] < near.shape[1]:
                near[last, listed[last]] = g
                listed[last] += 1
    return counts, listed, room
