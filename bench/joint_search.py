"""The joint search on this machine's cores, beside its peers in the same run, on the same problems.

    PYTHONPATH=. python bench/joint_search.py [--problems 256] [--cpsat 40] [--repeats 5]

Problems of (n, K) = n functions with K configurations each, as in `bench/gpu/joint.py`. Peers at (4, 64): CP-SAT of
OR-Tools with one Boolean per configuration, one worker; and a compiled enumeration that leaves a branch only where it
does not fit. Every answer is compared. Times of the search include its preparation; those of CP-SAT do not include
building its model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent / "gpu"))

from joint import batch

from dilu_core.kernels.cpu.joint_search import search_many

Columns = tuple[NDArray[np.int64], ...]


def main() -> None:
    parser = argparse.ArgumentParser(description="Joint search against CP-SAT and enumeration.")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--cpsat", type=int, default=40, help="problems that CP-SAT and enumeration solve")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    print(
        f"{numba.get_num_threads()} threads, numba {numba.__version__}; per problem, min / median of {options.repeats}"
    )
    for functions, configurations in ((4, 64), (6, 64), (8, 64), (10, 64)):
        problems = batch(options.problems, functions, configurations)
        _, _, nodes = search_many(*problems)
        least, median = _times(lambda problems=problems: search_many(*problems), options.repeats)
        print(
            f"({functions:2}, {configurations}): "
            f"{1e6 * least / options.problems:7.1f} / {1e6 * median / options.problems:7.1f} us, "
            f"{options.problems / median:8.0f} problems/s; nodes mean {nodes.mean():.0f}, most {nodes.max()}"
        )
    few = batch(options.cpsat, 4, 64)
    _, expected, _ = search_many(*few)
    own = _times(lambda: [search_many(*one) for one in _each(few)], options.repeats)
    enumerated = np.array([_enumerate(*_tables(one)) for one in _each(few)])
    listing = _times(lambda: [_enumerate(*_tables(one)) for one in _each(few)], max(1, options.repeats // 2))
    values, solving = _cpsat(few)
    assert (enumerated == expected).all()
    assert (values == expected).all()
    print(f"(4, 64), one core, one problem per call, {options.cpsat} problems, equal answers:")
    for name, (least, median) in (("search", own), ("enumeration", listing), ("CP-SAT", solving)):
        print(
            f"  {name:12}{1e6 * least / options.cpsat:10.1f} / {1e6 * median / options.cpsat:10.1f} us per problem, "
            f"{median / own[1]:7.0f} x the search"
        )


def _times(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least and median wall time of `run`, in seconds, after one run to warm up."""
    run()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken), statistics.median(taken)


def _each(problems: Columns) -> list[Columns]:
    """Every problem as a batch of one."""
    functions, options, value, weight, capacity = problems
    size = int(functions[0] * options[0])
    cuts = [slice(p * size, (p + 1) * size) for p in range(len(functions))]
    return [
        (functions[p : p + 1], options[p : p + 1], value[cut], weight[cut], capacity[p : p + 1])
        for p, cut in enumerate(cuts)
    ]


def _tables(one: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    shape = int(one[0][0]), int(one[1][0])
    return one[2].reshape(shape), one[3].reshape((*shape, 3)), one[4][0]


@numba.njit  # type: ignore[untyped-decorator]
def _enumerate(value: NDArray[np.int64], weight: NDArray[np.int64], capacity: NDArray[np.int64]) -> int:
    """The greatest value over all choices, depth first; a branch ends only where it no longer fits."""
    functions, options = value.shape
    position = np.zeros(functions, dtype=np.int64)
    room = np.zeros((functions + 1, 3), dtype=np.int64)
    total = np.zeros(functions + 1, dtype=np.int64)
    room[0] = capacity
    level, best = 0, np.int64(-1)
    while level >= 0:
        k = position[level]
        if k == options:
            position[level] = 0
            level -= 1
            continue
        position[level] = k + 1
        r, s, t = weight[level, k, 0], weight[level, k, 1], weight[level, k, 2]
        if r > room[level, 0] or s > room[level, 1] or t > room[level, 2]:
            continue
        if level == functions - 1:
            best = max(best, total[level] + value[level, k])
            continue
        room[level + 1, 0], room[level + 1, 1], room[level + 1, 2] = (
            room[level, 0] - r,
            room[level, 1] - s,
            room[level, 2] - t,
        )
        total[level + 1] = total[level] + value[level, k]
        level += 1
    return best


def _cpsat(problems: Columns) -> tuple[NDArray[np.int64], tuple[float, float]]:
    """Values, and least and median time per problem times their number."""
    from ortools.sat.python import cp_model

    values, taken = [], []
    for one in _each(problems):
        value, weight, capacity = _tables(one)
        model = cp_model.CpModel()
        chosen = [[model.new_bool_var("") for _ in row] for row in value]
        for row in chosen:
            model.add_exactly_one(row)
        flat = [each for row in chosen for each in row]
        for d in range(3):
            model.add(cp_model.LinearExpr.weighted_sum(flat, weight[:, :, d].ravel().tolist()) <= int(capacity[d]))
        model.maximize(cp_model.LinearExpr.weighted_sum(flat, value.ravel().tolist()))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        started = time.perf_counter()
        status = solver.solve(model)
        taken.append(time.perf_counter() - started)
        assert status == cp_model.OPTIMAL
        values.append(round(solver.objective_value))
    return np.array(values), (min(taken) * len(taken), statistics.median(taken) * len(taken))


if __name__ == "__main__":
    main()
