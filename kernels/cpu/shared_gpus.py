"""Functions whose instances share GPUs, step by step: fluid queues in front, the GPU divided anew in every step.

The share of a GPU goes by one of three rules. WORK_CONSERVING (vertical co-scaling): an instance with work gets the
share it wants up to its request; what is left is lent by max-min fairness weighted by request, up to the limit, to tier
0 before tier 1. HARD_CAPS (static MPS percentages): the limit is a cap, and instances that want more than the GPU
together compete with weights of their limits. TIME_SLICES (fixed quotas): the request is the cap, and nothing is lent.
Requests (or slices) that exceed the GPU together are cut by max-min fairness, weighted by request.

What an instance wants is the least share that serves its part of its function's queue within the step, its most where
the queue is longer than that; a queue is divided in proportion to what the instances serve at the grants they would
have then. A training worker always wants its most. Rows of one gang advance together, at the least rate among them;
what the faster ones leave of their grants goes to nobody in that step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, compiled_in_place
from dilu_core.kernels.cpu.gpu_division import TIME_SLICES, WORK_CONSERVING, divide_gpu, reachable
from dilu_core.kernels.cpu.replay import between, least_share

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


class _Scratch(NamedTuple):
    """Work space. `order`: rows that work, GPU by GPU; `begins` `(gpus + 1,)`: where each GPU's start there.

    Per row: `leader` of its gang, `most` share it may have, `near` which the least share is likely to lie, share it
    may `want`, its `grant`, its `reach` if it alone wanted its most, and at leaders the rate of the gang.
    Per function: rate of all instances; whether it is `short`, that is, needs all it can get; and whether it is
    `relieved`: was short until this round.
    """

    order: Integers
    begins: Integers
    leader: Integers
    most: Integers
    near: Integers
    want: Floats
    grant: Floats
    reach: Floats
    gang_rps: Floats
    total_rps: Floats
    short: Integers
    relieved: Integers


@compiled
def _prepared(sharing: int, gpus: int, functions: int, rows: SharedInstances) -> _Scratch:
    leader = _leaders(rows.gang_of, rows.ready)
    order, begins = _by_gpu(leader, rows.gpu_of, gpus)
    count = leader.shape[0]
    return _Scratch(
        order,
        begins,
        leader,
        rows.request if sharing == TIME_SLICES else rows.limit,
        rows.request.copy(),
        np.zeros(count),
        np.zeros(count),
        np.zeros(count),
        np.zeros(count),
        np.zeros(functions),
        np.zeros(functions, dtype=np.int64),
        np.zeros(functions, dtype=np.int64),
    )


@compiled_in_place
def _total_rates(rates: Floats, rows: SharedInstances, work: _Scratch) -> None:
    """Per gang (at its leader) the least rate that its grants allow, and their sum per function."""
    work.total_rps[:] = 0.0
    for at in range(work.order.shape[0]):
        i = int(work.order[at])
        work.gang_rps[work.leader[i]] = np.inf
    for at in range(work.order.shape[0]):
        i = int(work.order[at])
        rate = between(rates, rows.function_of[i], work.grant[i])
        work.gang_rps[work.leader[i]] = min(work.gang_rps[work.leader[i]], rate)
    for at in range(work.order.shape[0]):
        i = int(work.order[at])
        if work.leader[i] == i:
            work.total_rps[rows.function_of[i]] += work.gang_rps[i]


@compiled_in_place
def _divide(
    sharing: int,
    step_s: float,
    rates: Floats,
    training: Integers,
    rows: SharedInstances,
    backlog: Floats,
    work: _Scratch,
) -> None:
    """Find wants and grants for one step: all with work want their most, then in rounds no more than they need.

    In every round, functions whose queue is served by what they were granted want just that from then on. That only
    raises the grants of others, so that nobody served is cut again, and the rounds end when none is relieved.
    """
    for f in range(backlog.shape[0]):
        work.short[f] = 1 if training[f] != 0 or backlog[f] > 0.0 else 0
    for at in range(work.order.shape[0]):
        i = int(work.order[at])
        work.want[i] = work.most[i] if work.short[rows.function_of[i]] != 0 else 0.0
    again = True
    while again:
        for gpu in range(work.begins.shape[0] - 1):
            here = work.order[work.begins[gpu] : work.begins[gpu + 1]]
            divide_gpu(sharing, here, rows.request, rows.limit, rows.tier, work.want, work.grant)
        _total_rates(rates, rows, work)
        again = False
        for f in range(backlog.shape[0]):
            enough = training[f] == 0 and backlog[f] <= work.total_rps[f] * step_s
            work.relieved[f] = 1 if work.short[f] != 0 and enough else 0
            if work.relieved[f] != 0:
                work.short[f], again = 0, True
        for at in range(work.order.shape[0]):
            i = int(work.order[at])
            f = int(rows.function_of[i])
            if work.relieved[f] != 0:
                part_rps = backlog[f] / step_s * work.gang_rps[work.leader[i]] / work.total_rps[f]
                work.want[i] = least_share(rates[f], part_rps, work.most[i], work.near[i])
                work.near[i] = int(work.want[i])


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
    A queue that is served but for rounding is empty: what rounding leaves must not want the most in the next step.
    """
    work = _prepared(sharing, gpus, backlog.shape[0], rows)
    part, execution_sum = np.ones(backlog.shape[0]), np.zeros(backlog.shape[0])
    slowest_ms = np.zeros(work.leader.shape[0])
    for step in range(first, stop):
        for f in range(backlog.shape[0]):
            backlog[f] += arrivals[f, step]
        _divide(sharing, step_s, rates, training, rows, backlog, work)
        for gpu in range(gpus):
            here = work.order[work.begins[gpu] : work.begins[gpu + 1]]
            reachable(sharing, here, rows.request, rows.limit, rows.tier, work.want, work.grant, work.reach)
        for f in range(backlog.shape[0]):
            served[f, step] = execution[f, step] = execution_sum[f] = 0.0
            if training[f] == 0:
                fastest = work.total_rps[f] * step_s
                part[f] = min(1.0, backlog[f] / fastest) if fastest > 0.0 else 0.0
                served[f, step] = backlog[f] if backlog[f] <= fastest * _WHOLE else fastest
                backlog[f] = 0.0 if backlog[f] <= fastest * _WHOLE else backlog[f] - fastest
        for at in range(work.order.shape[0]):
            i = int(work.order[at])
            slowest_ms[work.leader[i]] = 0.0
        for at in range(work.order.shape[0]):
            i = int(work.order[at])
            f, gang = int(rows.function_of[i]), int(work.leader[i])
            spare[i] += max(work.reach[i] - rows.request[i], 0.0)
            if work.want[i] <= 0.0:
                continue
            share = least_share(rates[f], work.gang_rps[gang] * part[f], work.most[i], int(work.grant[i]))
            used[i] += share
            borrowed[i] += max(share - rows.request[i], 0.0)
            if training[f] == 0:
                executing = work.reach[i]
                if sharing == WORK_CONSERVING:
                    executing = max(work.grant[i], min(executing, float(rows.request[i])))
                slowest_ms[gang] = max(slowest_ms[gang], between(execution_ms, f, max(executing, 1.0)))
            else:
                trained[f] += work.gang_rps[gang] * step_s
        for at in range(work.order.shape[0]):
            i = int(work.order[at])
            if work.leader[i] == i and work.want[i] > 0.0:
                execution_sum[rows.function_of[i]] += slowest_ms[i] * work.gang_rps[i]
        for f in range(backlog.shape[0]):
            if training[f] == 0 and served[f, step] > 0.0:
                execution[f, step] = execution_sum[f] / work.total_rps[f]
