"""The exact joint search on a CPU: one option for each function on a GPU, greatest total value within three capacities.

The multiple-choice, multidimensional knapsack problem (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, ch. 11.7)
in three steps: reductions and prices (`joint_prepare`, `joint_multipliers`), then branch and bound (`joint_branching`).
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, compiled_parallel
from dilu_core.kernels.cpu.joint_branching import branch, first_choice, sort_levels
from dilu_core.kernels.cpu.joint_packing import packed
from dilu_core.kernels.cpu.joint_prepare import (
    beside_lightest,
    beyond_lightest,
    drop_losing,
    drop_unreachable,
    list_options,
    price,
)

PARALLEL_PROBLEMS = 16
"""From this many problems on, they are spread over the cores; below, starting threads costs what they save."""

UNLIMITED = (1 << 62) - 1

Answers = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Choices in one column, values, nodes."""

_NONE = -1


@compiled
def search_one(
    value: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: NDArray[np.int64],
    node_limit: int,
    choice: NDArray[np.int64],
) -> tuple[int, int]:
    """The best choice for `value` (n, K) and `weight` (n, K, 3) within `capacity` (3,): its value, and nodes visited.

    `choice` (n,) receives it; -1 everywhere where none is found. Nodes are counted from 1 at the root; 0 where the
    reductions alone decide. A search cut short at `node_limit` returns one more than that.
    """
    functions, options = value.shape
    count = np.empty(functions, dtype=np.int64)
    option = np.empty((functions, options), dtype=np.int64)
    gain = np.empty((functions, options), dtype=np.int64)
    load = np.empty((functions, options), dtype=np.int64)
    least = np.empty(functions, dtype=np.int64)
    room = packed(capacity[0], capacity[1], capacity[2])
    choice[:] = _NONE
    if not list_options(value, weight, capacity, count, option, gain, load):
        return 0, 0
    if not drop_unreachable(room, count, option, gain, load, least):
        return 0, 0

    base = 0
    for i in range(functions):
        lowest = gain[i, : count[i]].min()
        gain[i, : count[i]] -= lowest
        base += lowest
    loss = np.empty((functions, options), dtype=np.int64)
    incumbent = np.empty(functions, dtype=np.int64)
    bound, unit, best = price(capacity, count, gain, load, loss, incumbent)
    if best >= 0:
        for i in range(functions):
            choice[i] = option[i, incumbent[i]]
    slack = bound - unit * best
    drop_losing(slack, count, option, gain, load, loss, least)
    spare = beside_lightest(room, least)
    if spare < 0:
        return 0, 0
    excess, most_excess = beyond_lightest(count, load, least, spare)
    if most_excess < 0:
        return 0, 0

    function, order = sort_levels(count, loss, gain)
    levels = np.empty((5, functions, options), dtype=np.int64)
    first_option = np.empty(functions, dtype=np.int64)
    for level in range(functions):
        i = function[level]
        first_option[i] = option[i, 0]
        for k in range(count[i]):
            chosen = order[level, k]
            levels[0, level, k], levels[1, level, k] = option[i, chosen], gain[i, chosen]
            levels[2, level, k], levels[3, level, k] = load[i, chosen] - least[i], loss[i, chosen]
            levels[4, level, k] = excess[i, chosen]
    best, nodes, first = branch(
        function,
        count[function],
        levels[0],
        levels[1],
        levels[2],
        levels[3],
        levels[4],
        first_option,
        spare,
        most_excess,
        slack,
        unit,
        best,
        choice,
        node_limit,
    )
    if best < 0:
        return 0, nodes
    if not first and nodes <= node_limit:
        slack = bound - unit * best  # the best answer is known: fewer options are left, and what is left is heavier
        drop_losing(slack, count, option, gain, load, loss, least)
        spare = beside_lightest(room, least)
        excess, most_excess = beyond_lightest(count, load, least, spare)
        nodes += first_choice(
            count, option, gain, load, loss, excess, least, spare, most_excess, slack, best, choice, node_limit - nodes
        )
    return base + best, nodes


@compiled
def _room_for(
    functions: NDArray[np.int64], options: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where the tables and the choice of each problem start, (2, problems), and empty columns for the answers."""
    problems = functions.shape[0]
    starts = np.empty((2, problems), dtype=np.int64)
    tables, rows = 0, 0
    for p in range(problems):
        starts[0, p], starts[1, p] = tables, rows
        tables += functions[p] * options[p]
        rows += functions[p]
    best, nodes = np.empty(problems, dtype=np.int64), np.empty(problems, dtype=np.int64)
    return starts, np.empty(rows, dtype=np.int64), best, nodes


@compiled
def _search_at(
    p: int,
    starts: NDArray[np.int64],
    functions: NDArray[np.int64],
    options: NDArray[np.int64],
    value: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: NDArray[np.int64],
    node_limit: int,
    choice: NDArray[np.int64],
    best: NDArray[np.int64],
    nodes: NDArray[np.int64],
) -> None:
    """Search problem p, whose tables start at `starts[0, p]` and whose choice starts at `starts[1, p]`."""
    n, k = functions[p], options[p]
    tables, row = starts[0, p], starts[1, p]
    best[p], nodes[p] = search_one(
        value[tables : tables + n * k].reshape((n, k)),
        weight[tables : tables + n * k].reshape((n, k, 3)),
        capacity[p],
        node_limit,
        choice[row : row + n],
    )


@compiled
def _search_serial(
    functions: NDArray[np.int64],
    options: NDArray[np.int64],
    value: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: NDArray[np.int64],
    node_limit: int,
) -> Answers:
    starts, choice, best, nodes = _room_for(functions, options)
    for p in range(functions.shape[0]):
        _search_at(p, starts, functions, options, value, weight, capacity, node_limit, choice, best, nodes)
    return choice, best, nodes


@compiled_parallel
def _search_parallel(
    functions: NDArray[np.int64],
    options: NDArray[np.int64],
    value: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: NDArray[np.int64],
    node_limit: int,
) -> Answers:
    starts, choice, best, nodes = _room_for(functions, options)
    for p in numba.prange(functions.shape[0]):
        _search_at(p, starts, functions, options, value, weight, capacity, node_limit, choice, best, nodes)
    return choice, best, nodes


def search_many(
    functions: NDArray[np.int64],
    options: NDArray[np.int64],
    value: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: NDArray[np.int64],
    *,
    node_limit: int = UNLIMITED,
) -> Answers:
    """Many problems, of `functions[p]` functions with `options[p]` options each, one after another in flat columns.

    `value` (total,) and `weight` (total, 3) hold the tables of all problems, `capacity` is (problems, 3). Returns the
    choices, all in one column (-1: none found), the values and the nodes visited per problem, as `search_one` does.
    """
    if functions.shape[0] < PARALLEL_PROBLEMS:
        return _search_serial(functions, options, value, weight, capacity, node_limit)
    with numba.parallel_chunksize(1):  # a few problems take most of the time: each core draws the next one
        return _search_parallel(functions, options, value, weight, capacity, node_limit)
