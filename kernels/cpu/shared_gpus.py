"""Functions whose instances share GPUs, step by step: fluid queues in front, the GPU divided anew in every step.

The share of a GPU goes by one of three rules. WORK_CONSERVING (vertical co-scaling): an instance with work gets the
share it wants up to its request; what is left is lent by max-min fairness weighted by request, up to the limit, to tier
0 before tier 1. HARD_CAPS (static MPS percentages): the limit is a cap, and instances that want more than the GPU
together compete with weights of their limits. TIME_SLICES (fixed quotas): the request is the cap, and nothing is lent.
Requests (or slices) that exceed the GPU together are cut by max-min fairness, weighted by request.

What an instance wants is the least share that serves its part of its function's queue within the step; a queue is
divided in proportion to what the instances would serve if all with work wanted their most. A training worker always
wants its most. Rows of one gang advance together, at the least rate among them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, inlined
from dilu_core.kernels.cpu.gpu_division import TIME_SLICES, WORK_CONSERVING, divide_gpu, reachable

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_WHOLE = 1.0 + 1e-12  # a queue that is served but for rounding is empty


class SharedInstances(NamedTuple):
    """One row per instance and GPU, as columns `(rows,)` of int64.

    `function_of`, `gpu_of`: indices. `request`, `limit`: shares in milli-GPU, 1 <= request <= limit <= 1000. `tier`: 0
    with an SLO, 1 best effort. `gang_of`: rows with the same number >= 0 are one instance on several GPUs (or workers
    of one training job); -1: alone. `ready`: 1 once the cold start is over; a gang works when all its rows are ready.
    """

    function_of: Integers
    gpu_of: Integers
    request: Integers
    limit: Integers
    tier: Integers
    gang_of: Integers
    ready: Integers


@inlined
def _between(table: Floats, function: int, share: float) -> float:
    """`table[function]` at a share that need not be whole, linearly between whole ones."""
    low = int(share)
    part = share - low
    if part <= 0.0:
        return float(table[function, low])
    return float(table[function, low] + part * (table[function, low + 1] - table[function, low]))


@compiled
def least_share(table: Floats, wanted_rps: float, most: int, near: int) -> float:
    """As `kernels.cpu.replay.share_for_rate`, searched from `near` outwards: shares change little between steps."""
    if wanted_rps <= 0.0:
        return 0.0
    if wanted_rps > table[most]:
        return float(most)
    low, high, stride = 0, most, 1  # table[low] < wanted_rps <= table[high]
    if 0 < near < most:
        if table[near] < wanted_rps:
            low = near
            while low + stride < most and table[low + stride] < wanted_rps:
                low += stride
                stride *= 2
            high = min(low + stride, most)
        else:
            high = near
            while high - stride > 0 and table[high - stride] >= wanted_rps:
                high -= stride
                stride *= 2
            low = max(high - stride, 0)
    while high - low > 1:
        middle = (low + high) // 2
        if table[middle] < wanted_rps:
            low = middle
        else:
            high = middle
    return float(low + (wanted_rps - table[low]) / (table[high] - table[low]))


@compiled
def _leaders(gang_of: Integers, ready: Integers) -> Integers:
    """The first row of each row's gang (itself if alone), -1 where it or one of its gang is not ready."""
    leader = np.arange(gang_of.shape[0])
    order = np.argsort(gang_of, kind="mergesort")
    start = 0
    for end in range(1, order.shape[0] + 1):
        gang = gang_of[order[start]]
        if end < order.shape[0] and gang >= 0 and gang_of[order[end]] == gang:
            continue
        whole = True
        for at in range(start, end):
            whole = whole and ready[order[at]] != 0
        for at in range(start, end):
            leader[order[at]] = order[start] if whole else -1
        start = end
    return leader


@compiled
def _by_gpu(leader: Integers, gpu_of: Integers, gpus: int) -> tuple[Integers, Integers]:
    """The rows that work, GPU by GPU, and where each GPU's begin `(gpus + 1,)`."""
    begins = np.zeros(gpus + 1, dtype=np.int64)
    for i in range(leader.shape[0]):
        if leader[i] >= 0:
            begins[gpu_of[i] + 1] += 1
    begins = np.cumsum(begins)
    order, next_free = np.empty(begins[gpus], dtype=np.int64), begins.copy()
    for i in range(leader.shape[0]):
        if leader[i] >= 0:
            order[next_free[gpu_of[i]]] = i
            next_free[gpu_of[i]] += 1
    return order, begins


@compiled
def _total_rates(
    order: Integers,
    rows: SharedInstances,
    leader: Integers,
    grant: Floats,
    rates: Floats,
    unit_rps: Floats,
    total_rps: Floats,
) -> None:
    """Per instance (at its leader row) the least rate that its grants allow, and their sum per function."""
    total_rps[:] = 0.0
    for i in order:
        unit_rps[leader[i]] = np.inf
    for i in order:
        rate = _between(rates, rows.function_of[i], grant[i])
        unit_rps[leader[i]] = min(unit_rps[leader[i]], rate)
    for i in order:
        if leader[i] == i:
            total_rps[rows.function_of[i]] += unit_rps[i]


@compiled
def advance_shared(
    first: int,
    stop: int,
    step_s: float,
    sharing: int,
    gpus: int,
    arrivals: Floats,
    rates: Floats,
    execution_ms: Floats,
    training: Integers,
    rows: SharedInstances,
    backlog: Floats,
    trained: Floats,
    served: Floats,
    execution: Floats,
    used: Floats,
    borrowed: Floats,
    spare: Floats,
) -> None:
    """Run steps `first` to `stop` (exclusive) of `step_s` seconds for F functions on `gpus` GPUs.

    Given: `arrivals` (F, steps) requests per step; `rates` (F, 1001) what one instance serves per second at share s
    milli-GPU, 0 at 0 and non-decreasing (training: samples per second of one worker); `execution_ms` (F, 1001) time of
    a batch at share s; `training` (F,) 1 for training; the instances `rows`.

    Changed: `backlog` (F,) requests that wait; `trained` (F,) samples; `used`, `borrowed` and `spare` (rows,) gain, in
    milli-GPU steps, the share used, what of it was beyond the request, and what could have been borrowed beyond the
    request: the grant if the instance alone had wanted its most, less its request.
    Written in columns `first` to `stop`: `served` (F, steps) requests that left, and `execution` (F, steps) the mean
    execution time in ms of their batches (0 where none left). A batch executes at the share the instance would get
    if it alone wanted its most; where shares are lent by need at no more than its request, unless it is granted more.
    """
    leader = _leaders(rows.gang_of, rows.ready)
    order, begins = _by_gpu(leader, rows.gpu_of, gpus)
    count, functions = leader.shape[0], backlog.shape[0]
    most = rows.request if sharing == TIME_SLICES else rows.limit
    want, grant, reach, unit_rps = np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count)
    total_rps, execution_sum = np.zeros(functions), np.zeros(functions)
    near = rows.request.copy()  # where the least share is likely to lie
    short = np.zeros(functions, dtype=np.bool_)  # whether all would have to give their most
    part, slowest_ms = np.ones(functions), np.zeros(count)  # part of what is granted that is used
    for step in range(first, stop):
        for f in range(functions):
            backlog[f] += arrivals[f, step]
            execution_sum[f] = 0.0
        for i in order:
            f = rows.function_of[i]
            want[i] = most[i] if training[f] != 0 or backlog[f] > 0.0 else 0.0
        for gpu in range(gpus):
            here = order[begins[gpu] : begins[gpu + 1]]
            divide_gpu(sharing, here, rows.request, rows.limit, rows.tier, want, grant)
        _total_rates(order, rows, leader, grant, rates, unit_rps, total_rps)
        for f in range(functions):
            short[f] = training[f] != 0 or backlog[f] > total_rps[f] * step_s
        for i in order:
            f = rows.function_of[i]
            if not short[f] and want[i] > 0.0:
                part_rps = backlog[f] / step_s * unit_rps[leader[i]] / total_rps[f]
                want[i] = least_share(rates[f], part_rps, most[i], near[i])
                near[i] = int(want[i])
        for gpu in range(gpus):
            here = order[begins[gpu] : begins[gpu + 1]]
            divide_gpu(sharing, here, rows.request, rows.limit, rows.tier, want, grant)
            reachable(sharing, here, rows.request, rows.limit, rows.tier, want, grant, reach)
        _total_rates(order, rows, leader, grant, rates, unit_rps, total_rps)

        for f in range(functions):
            served[f, step] = 0.0
            if training[f] == 0:
                fastest = total_rps[f] * step_s
                part[f] = min(1.0, backlog[f] / fastest) if fastest > 0.0 else 0.0
                served[f, step] = backlog[f] if backlog[f] <= fastest * _WHOLE else fastest
                backlog[f] = 0.0 if backlog[f] <= fastest * _WHOLE else backlog[f] - fastest
        for i in order:
            slowest_ms[leader[i]] = 0.0
        for i in order:
            f = rows.function_of[i]
            spare[i] += max(reach[i] - rows.request[i], 0.0)
            if want[i] <= 0.0:
                continue
            share = least_share(rates[f], unit_rps[leader[i]] * part[f], most[i], int(grant[i]))
            used[i] += share
            borrowed[i] += max(share - rows.request[i], 0.0)
            if training[f] == 0:
                promised = min(reach[i], float(rows.request[i])) if sharing == WORK_CONSERVING else reach[i]
                share = max(grant[i], promised, 1.0)
                slowest_ms[leader[i]] = max(slowest_ms[leader[i]], _between(execution_ms, f, share))
            else:
                trained[f] += unit_rps[leader[i]] * step_s
        for i in order:
            if leader[i] == i and want[i] > 0.0:
                execution_sum[rows.function_of[i]] += slowest_ms[i] * unit_rps[i]
        for f in range(functions):
            execution[f, step] = 0.0
            if training[f] == 0 and served[f, step] > 0.0:
                execution[f, step] = execution_sum[f] / total_rps[f]
