"""The peers of static placement: one-pass packers of vector bin packing, one CP-SAT model, and scipy's MILP.

All pack instances of one GPU each (the serving mix has no others) onto equal GPUs and return how many GPUs they used,
or `None` where they found nothing in their time. The one-pass packers are compiled, so that they too can be run on a
hundred thousand instances; GPUs already open are tried before a new one, as every one of these rules does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numba
import numpy as np
from numpy.typing import NDArray
from ortools.sat.python import cp_model
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix

from dilu_core.cluster import Instance

CAPACITY = np.array([1000, 1500, 40960], np.int64)
PUBLISHED = np.array([0.6, 0.0, 0.4])  # price of what is left over in request, limit and memory (Dilu, ASPLOS 2025)
FIRST_FIT = np.zeros(3)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def demands(instances: Sequence[Instance]) -> Ints:
    """Request, limit and memory of each instance, (n, 3)."""
    return np.array([(each.request_milli, each.limit_milli, each.total_memory_mib) for each in instances], np.int64)


@numba.njit(cache=True)
def one_pass(demand: Ints, capacity: Ints, order: Ints, weight: Floats, dot: bool) -> Ints:
    """GPU of every instance, taken in `order`: least weighted rest (all weights 0: first fit), or best `dot`."""
    where = np.full(order.size, -1, np.int64)
    free = np.empty((order.size, 3), np.int64)
    used = 0
    first = weight.sum() == 0.0 and not dot
    for i in order:
        best, best_score = -1, np.inf
        for g in range(used):
            if free[g, 0] < demand[i, 0] or free[g, 1] < demand[i, 1] or free[g, 2] < demand[i, 2]:
                continue
            score = 0.0
            if dot:  # largest inner product of room and demand, both as shares of a GPU, over the norm of the room
                norm = 0.0
                for r in range(3):
                    room = free[g, r] / capacity[r]
                    score -= room * demand[i, r] / capacity[r]
                    norm += room * room
                score /= np.sqrt(norm)
            else:
                for r in range(3):
                    score += weight[r] * (free[g, r] - demand[i, r]) / capacity[r]
            if score < best_score:
                best, best_score = g, score
                if first:
                    break
        if best < 0:
            best = used
            free[used] = capacity
            used += 1
        free[best] -= demand[i]
        where[i] = best
    return where


def sizes(demand: Ints) -> dict[str, Floats]:
    """Measures of size by which instances are put in decreasing order, each (n,)."""
    share = demand / CAPACITY
    return {
        "L1": share.sum(axis=1),
        "L2": np.sqrt((share**2).sum(axis=1)),
        "Linf": share.max(axis=1),
        "weighted": share @ share.mean(axis=0),
    }


def one_pass_peers() -> dict[str, Callable[[Ints], Ints]]:
    """Name -> a function from demands (n, 3) to the GPU of each instance (n,)."""

    def arrival(weight: Floats, dot: bool = False) -> Callable[[Ints], Ints]:
        return lambda demand: one_pass(demand, CAPACITY, np.arange(len(demand)), weight, dot)

    def decreasing(norm: str, weight: Floats) -> Callable[[Ints], Ints]:
        return lambda demand: one_pass(demand, CAPACITY, np.argsort(-sizes(demand)[norm], kind="stable"), weight, False)

    peers = {
        "first fit": arrival(FIRST_FIT),
        "best fit": arrival(np.full(3, 1 / 3)),
        "dot product": arrival(FIRST_FIT, dot=True),
        "published rule": arrival(PUBLISHED),
    }
    for norm in ("L1", "L2", "Linf", "weighted"):
        peers[f"first fit decreasing, {norm}"] = decreasing(norm, FIRST_FIT)
    peers["best fit decreasing, Linf"] = decreasing("Linf", np.full(3, 1 / 3))
    return peers


def check_packing(demand: Ints, where: Ints) -> int:
    """GPUs used; fails where an instance has none or a GPU holds more than it can."""
    assert where.min() >= 0
    load = np.zeros((int(where.max()) + 1, 3), np.int64)
    np.add.at(load, where, demand)
    assert (load <= CAPACITY).all()
    return int((load[:, 0] > 0).sum())


def cpsat_model(demand: Ints, gpus: int, seconds: float, workers: int = 2) -> int | None:
    """GPUs found by a plain assignment model over `gpus` of them; `None` where it finds nothing in its time."""
    model = cp_model.CpModel()
    used = [model.new_bool_var("") for _ in range(gpus)]
    on = [[model.new_bool_var("") for _ in range(gpus)] for _ in demand]
    for row in on:
        model.add_exactly_one(row)
    for g in range(gpus):
        for r in range(3):
            load = sum(int(want) * row[g] for want, row in zip(demand[:, r], on, strict=True))
            model.add(load <= int(CAPACITY[r]) * used[g])
    for a, b in itertools.pairwise(used):
        model.add_implication(b, a)
    model.minimize(sum(used))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = workers
    solver.parameters.max_time_in_seconds = seconds
    found = solver.solve(model) in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return round(solver.objective_value) if found else None


def milp_model(demand: Ints, gpus: int, seconds: float) -> int | None:
    """As `cpsat_model`, by scipy's MILP (HiGHS). Variables: `used` (gpus), then an instance's GPUs, row after row."""
    count = len(demand)
    size = gpus + count * gpus
    rows = lil_matrix((count + 3 * gpus + gpus - 1, size))
    low, high = np.full(rows.shape[0], -np.inf), np.zeros(rows.shape[0])
    for i in range(count):
        rows[i, gpus + i * gpus : gpus + (i + 1) * gpus] = 1.0
        low[i] = high[i] = 1.0
    for g in range(gpus):
        for r in range(3):
            at = count + 3 * g + r
            rows[at, g] = -float(CAPACITY[r])
            rows[at, gpus + g :: gpus] = demand[:, r].astype(float)
    for g in range(gpus - 1):  # GPUs are alike: open them in order
        at = count + 3 * gpus + g
        rows[at, g + 1], rows[at, g] = 1.0, -1.0
    cost = np.concatenate([np.ones(gpus), np.zeros(count * gpus)])
    answer = milp(
        cost, constraints=LinearConstraint(rows.tocsr(), low, high), integrality=np.ones(size), bounds=Bounds(0, 1),
        options={"time_limit": seconds},
    )  # fmt: skip
    return None if answer.x is None else round(float(answer.fun))
