"""Quota sweep: pruned and compiled, beside a numpy broadcast and a compiled walk over every grid point.

    PYTHONPATH=. python bench/quota_sweep.py [--functions 3200] [--broadcast 128]

3,200 functions x 32 batches x 100 shares x 10 limits = 102.4 M points, one core, CPU time. The broadcast is timed on
fewer functions and scaled; ratios are to the faster of its two forms. `mean`: the mean latency decides; `bound`: its
95 % bound. All answers must be equal. Then what-if scenarios through `sweep_quota`, columns out, and Pareto fronts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_ieee
from dilu_core.kernels.cpu.quota_batches import prepare_row
from dilu_core.kernels.cpu.quota_front import fronts_serial
from dilu_core.kernels.cpu.quota_point import bound_factor_at, latency_at
from dilu_core.kernels.cpu.quota_sweep import TIE, logs_of_shares, sweep_serial
from dilu_core.kernels.cuda.sweep import example_rows
from dilu_core.kernels.quota_rows import SweepCells, SweepFronts, SweepRows
from dilu_core.performance import RooflineModel
from dilu_core.solvers.quota_sweep import sweep_quota

Ints = NDArray[np.int64]


def pruned(rows: SweepRows) -> SweepCells:
    """Ours, on one core."""
    cells = SweepCells(
        np.empty((*rows.shape, 3), np.int32), np.empty((*rows.shape, 2)), np.empty(rows.models.shape[0], np.int64)
    )
    sweep_serial(*rows, *cells)
    return cells


def broadcast(rows: SweepRows, *, limits_apart: bool) -> Ints:
    """Every point by numpy, one function at a time: (F, 3) indices of batch, share and limit.

    With `limits_apart` latency at the limits is evaluated once per batch instead of once per cell, which is the best
    that a broadcast can do; without, on all four axes.
    """
    batches, shares, limits = rows.batches[:, None, None], rows.shares[None, :, None], rows.limits[None, None, :]
    if not limits_apart:
        limits = np.broadcast_to(limits, (1, rows.shares.size, rows.limits.size))
    covariance, lower = np.zeros((6, 6)), np.tril_indices(6)
    found = np.full((rows.models.shape[0], 3), -1)
    for f, model in enumerate(rows.models):
        roofline = RooflineModel(*model.tolist())
        upper = latency = roofline.latency_ms(batches, shares)
        if rows.covariances.shape[1]:
            covariance[lower] = rows.covariances[f]
            gradient = roofline.log_gradient(batches, shares)
            leverage = ((gradient @ covariance) * gradient).sum(axis=-1)
            scatter, cap, floor = rows.errors[f]
            upper = latency * np.exp(rows.levels[f, 0] * np.sqrt(scatter**2 * np.clip(leverage, 0, cap) + floor**2))
        enough = roofline.latency_ms(batches, limits) <= (
            roofline.latency_ms(batches, np.array(1000)) / rows.saturation * (1 + TIE)
        )
        first = np.broadcast_to(np.where(enough.any(axis=2), enough.argmax(axis=2), -1), (batches.size, shares.size))
        efficacy = np.where(upper <= rows.budgets[f, 0], 1e6 * batches / (latency * shares), 0.0)[:, :, 0]
        if efficacy.max() > 0:
            tied = np.argwhere(efficacy >= efficacy.max() * (1 - TIE)).tolist()
            i, j = min(tied, key=lambda cell: (cell[1], cell[0]))
            found[f] = i, j, first[i, j]
    return found


@compiled_ieee
def every_point(
    models: NDArray[np.float64],
    covariances: NDArray[np.float64],
    errors: NDArray[np.float64],
    levels: NDArray[np.float64],
    budgets: NDArray[np.float64],
    batches: NDArray[np.float64],
    shares: NDArray[np.float64],
    limits: NDArray[np.float64],
    saturation: float,
    found: Ints,
) -> None:
    """The plain walk: each cell evaluated, at each cell its limits."""
    log_shares, log_limits = logs_of_shares(shares), logs_of_shares(limits)
    constants, columns = np.empty(7), np.empty((4, batches.size))
    work, floor = columns[0], columns[1]
    at_limit = np.empty((batches.size, limits.size))
    for f in range(models.shape[0]):
        prepare_row(models[f], batches, constants, work, floor, columns[2], columns[3])
        for i in range(batches.size):
            for k in range(limits.size):
                at_limit[i, k] = latency_at(constants, batches[i], work[i], floor[i], log_limits[k])
        best = 0.0
        found[f, :] = -1
        for turn in range(2):
            for j in range(shares.size):
                for i in range(batches.size):
                    latency = latency_at(constants, batches[i], work[i], floor[i], log_shares[j])
                    upper = latency
                    if covariances.shape[1] > 0:
                        upper = latency * bound_factor_at(
                            constants,
                            covariances[f],
                            levels[f, 0],
                            errors[f, 0],
                            errors[f, 1],
                            errors[f, 2],
                            batches[i],
                            work[i],
                            log_shares[j],
                        )
                    if upper > budgets[f, 0]:
                        continue
                    gain = 1e6 * batches[i] / (latency * shares[j])
                    if turn == 0:
                        best = max(best, gain)
                        continue
                    if found[f, 0] >= 0 or gain < best * (1.0 - TIE):
                        continue
                    whole = latency_at(constants, batches[i], work[i], floor[i], 0.0) / saturation * (1.0 + TIE)
                    found[f, 0], found[f, 1] = i, j
                    for k in range(limits.size - 1, -1, -1):
                        if at_limit[i, k] <= whole:
                            found[f, 2] = k


def timed(run: Callable[[], object], rounds: int) -> list[float]:
    """CPU seconds of each round."""
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return seconds


def report(name: str, seconds: list[float], points: int, baseline_s: float | None = None) -> None:
    """One line of the table."""
    least, median = min(seconds), statistics.median(seconds)
    ratio = "" if baseline_s is None else f"  {baseline_s / median:8.1f} x"
    print(
        f"  {name:22s} min {1e3 * least:9.2f} ms  median {1e3 * median:9.2f} ms  {points / median:9.3g} points/s{ratio}"
    )


def compare(functions: int, few: int, *, with_bound: bool) -> None:
    """The three ways on the same problems."""
    rows = example_rows(functions, budgets=1, with_bound=with_bound)
    part = rows.select(slice(0, few))
    cells, walked = pruned(rows), np.empty((functions, 3), np.int64)
    every_point(*part, walked[:few])
    expected = broadcast(part, limits_apart=True)
    assert np.array_equal(broadcast(part, limits_apart=False), expected), "the broadcasts differ"
    assert np.array_equal(cells.chosen[:few, 0, 0], expected), "pruned and broadcast differ"
    assert np.array_equal(walked[:few], expected), "the walk and broadcast differ"
    apart, fused = (
        [seconds * functions / few for seconds in timed(lambda: broadcast(part, limits_apart=each), 3)]  # noqa: B023
        for each in (True, False)
    )
    baseline = statistics.median(apart)
    print(
        f"{'bound' if with_bound else 'mean'}: {functions} functions, {rows.points:,} points, "
        f"{(cells.chosen[..., 0] >= 0).mean():.1%} feasible, {cells.evaluated.sum():,} evaluations "
        f"({1 - cells.evaluated.sum() / rows.points:.3%} pruned)"
    )
    report("numpy, all four axes", fused, rows.points, baseline)
    report("numpy, limits apart", apart, rows.points, baseline)
    walk = [seconds * functions / few for seconds in timed(lambda: every_point(*part, walked[:few]), 3)]
    report("compiled, every point", walk, rows.points, baseline)
    report("pruned", timed(lambda: pruned(rows), 15), rows.points, baseline)


def scenarios(functions: int) -> None:
    """The public call, and the fronts of the kernel."""
    rng = np.random.default_rng(1)
    models = [RooflineModel(*row) for row in example_rows(functions).models.tolist()]
    slos, loads = np.linspace(20, 200, 20), rng.uniform(1, 500, (functions, 3))
    started = time.perf_counter()
    found = sweep_quota(models, slo_ms=slos, load_rps=loads, quantiles=None)
    seconds = time.perf_counter() - started
    print(
        f"sweep_quota: {functions} functions x {len(found.scenarios)} scenarios (20 SLOs, 3 loads) in {seconds:.3f} s "
        f"wall on {numba.get_num_threads()} threads, {found.batch.size / seconds:,.0f} answers/s"
    )
    rows = example_rows(200, budgets=5)
    count = rows.models.shape[0]
    shape = (*rows.shape, rows.shares.size)
    fronts = SweepFronts(
        np.empty(shape, np.int16),
        np.empty(shape),
        np.empty((count, rows.batches.size), np.int16),
        np.empty(count, np.int64),
    )
    fronts_serial(*rows, *fronts)
    seconds = statistics.median(timed(lambda: fronts_serial(*rows, *fronts), 5))
    print(
        f"fronts, bound: {rows.searches} of {(fronts.batch >= 0).sum() / rows.searches:.1f} configurations each, "
        f"{1e6 * seconds / rows.searches:.1f} us CPU each, "
        f"{fronts.evaluated.sum() / (rows.searches * rows.batches.size * rows.shares.size):.1%} of cells evaluated"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Quota sweep beside numpy broadcast and the plain full grid.")
    parser.add_argument("--functions", type=int, default=3200)
    parser.add_argument("--broadcast", type=int, default=128, help="functions that the slow ways are timed on")
    options = parser.parse_args()
    for bounded in (False, True):
        compare(options.functions, min(options.broadcast, options.functions), with_bound=bounded)
    scenarios(options.functions)
