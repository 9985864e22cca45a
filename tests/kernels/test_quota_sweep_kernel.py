"""The sweep kernels: their arithmetic, their pruning against every cell, CUDA C++ against the CPU bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dilu_core.kernels import formulas
from dilu_core.kernels.backend import BackendUnavailableError
from dilu_core.kernels.cpu.elementary import exp_of, log_of
from dilu_core.kernels.cpu.quota_batches import prepare_row
from dilu_core.kernels.cpu.quota_decision import bound_within, clearly, upper_at
from dilu_core.kernels.cpu.quota_front import fronts_parallel, sweep_fronts
from dilu_core.kernels.cpu.quota_point import (
    N_CONSTANTS,
    bound_factor_at,
    fill_constants,
    latency_at,
    least_share_at,
    log_norm_of,
    log_or_zero,
    point_at,
)
from dilu_core.kernels.cpu.quota_sweep import LOSES, logs_of_shares, sweep_parallel, sweep_quotas
from dilu_core.kernels.cuda.modules import source_path
from dilu_core.kernels.cuda.sweep import example_rows, warps_per_block
from dilu_core.kernels.quota_rows import SweepCells, SweepFronts, SweepRows, packed
from tests.cuda_on_cpu.harness import SCHEDULES, CpuKernel, build

Floats = NDArray[np.float64]

TIE = 1e-9

times = st.sampled_from([0.0, 1e-3, 0.3, 5.0]) | st.floats(1e-6, 1e3)
parameters = st.tuples(times, times, times, times, times, st.floats(0.3, 20.0)).filter(lambda m: max(m[:5]) > 0)


@given(st.floats(-700, 700))
def test_exp_is_within_two_units(x: float) -> None:
    """Of the library's exp."""
    assert exp_of(x) == pytest.approx(math.exp(x), rel=5e-16)


@given(st.floats(1e-290, 1e290))
def test_log_is_within_two_units(x: float) -> None:
    """Of the library's log; near 1, where it vanishes, of the argument's own rounding."""
    assert log_of(x) == pytest.approx(math.log(x), rel=5e-16, abs=0.0)


def test_ends_and_whole_powers() -> None:
    """Arguments out of range count as the nearer end; e^0 and log 1 are exact."""
    assert (exp_of(0.0), log_of(1.0)) == (1.0, 0.0)
    assert exp_of(-1e30) == exp_of(-708.0) > 0.0
    assert exp_of(1e30) == exp_of(708.0) < math.inf
    assert log_of(0.0) == log_of(-5.0) == log_of(1e-310) == log_of(1e-300)
    assert log_of(math.inf) == log_of(1e300)


def roofline_ms(model: Sequence[float], batch: float, share: float) -> float:
    """`formulas.roofline_ms` of a row."""
    launch, host, fixed, compute, bandwidth, sharpness = model
    return formulas.roofline_ms(launch, host, fixed, compute, bandwidth, sharpness, batch, share)


def least_share(model: Sequence[float], batch: float, latency: float) -> float:
    """`formulas.roofline_least_share` of a row."""
    launch, host, fixed, compute, bandwidth, sharpness = model
    return formulas.roofline_least_share(launch, host, fixed, compute, bandwidth, sharpness, batch, latency)


def spread(model: Sequence[float], covariance: Floats, error: Sequence[float], batch: float, share: float) -> float:
    """`formulas.error_spread` by the gradient of a row; `error` as (scatter, leverage cap, floor)."""
    launch, host, fixed, compute, bandwidth, sharpness = model
    gradient = np.array(
        formulas.roofline_log_gradient(launch, host, fixed, compute, bandwidth, sharpness, batch, share)[1:]
    )
    return formulas.error_spread(error[0], max(float(gradient @ covariance @ gradient), 0.0), error[1], error[2])


def at(model: tuple[float, ...], batch: float) -> tuple[np.ndarray, float, float]:
    """Constants of a model, and the logs of a batch's work and floor."""
    c = np.empty(N_CONSTANTS)
    fill_constants(np.array(model), c)
    floor = log_norm_of(model[5], 1.0 / model[5], c[5], log_or_zero(model[4] * batch))[0]
    return c, log_or_zero(model[2] + model[3] * batch), floor


@given(parameters, st.integers(1, 64), st.integers(1, 1000))
def test_point_is_the_formula(model: tuple[float, ...], batch: int, milli: int) -> None:
    """Latency is `formulas.roofline_ms`; at no share below the inverse is it within what it is here."""
    c, work, floor = at(model, batch)
    latency = latency_at(c, batch, work, floor, log_of(milli / 1000.0))
    assert latency == pytest.approx(roofline_ms(model, batch, milli / 1000.0), rel=1e-12)
    assert least_share_at(c, batch, work, floor, latency) <= milli / 1000.0
    exact = least_share(model, batch, 1.1 * latency)
    assert least_share_at(c, batch, work, floor, 1.1 * latency) == pytest.approx(exact, rel=1e-6)


@given(parameters, st.integers(1, 64), st.integers(1, 1000), st.integers(0, 10**6), st.floats(-3, 3))
def test_bound_is_the_formula(
    model: tuple[float, ...], batch: int, milli: int, seed: int, level: float
) -> None:  # fmt: skip
    """exp(k sigma) from a packed covariance is that of the gradient of `formulas` and the full one."""
    root = np.random.default_rng(seed).standard_normal((6, 6))
    c, work, _ = at(model, batch)
    sigma = spread(model, root @ root.T, (0.1, 64.0, 0.05), batch, milli / 1000.0)
    found = bound_factor_at(c, packed(root @ root.T), level, 0.1, 64.0, 0.05, batch, work, log_of(milli / 1000.0))
    assert found == pytest.approx(math.exp(level * sigma), rel=1e-9)


@settings(max_examples=200)
@given(
    parameters, st.integers(1, 64), st.integers(1, 1000), st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 3.0]),
    st.sampled_from([-1.6, 0.0, 1e-9, 1.6, 6.0]),
)  # fmt: skip
def test_what_is_clear_is_what_the_bound_says(
    model: tuple[float, ...], batch: int, milli: int, seed: int, width: float, level: float
) -> None:
    """At budgets around the bound, on it to the bit, and far from it, where the bound need not be evaluated."""
    root = width * np.random.default_rng(seed).standard_normal((6, 6))
    covariance, error, batches = packed(root @ root.T), np.array([0.1, 64.0, 0.05]), np.array([float(batch)])
    c, work, floor, stream, apart = (np.empty(size) for size in (N_CONSTANTS, 1, 1, 1, 1))
    prepare_row(np.array(model), batches, c, work, floor, stream, apart)
    log_share = log_of(milli / 1000.0)
    at_point = point_at(c, batch, work[0], floor[0], log_share)
    assert at_point[0] == latency_at(c, batch, work[0], floor[0], log_share)
    upper = upper_at(c, covariance, error, level, batch, work[0], log_share, at_point[0])
    for part in (0.5, 0.999, 1 - 1e-6, 1 - 1e-9, 1 - 1e-14, 1.0, 1 + 1e-14, 1 + 1e-9, 1 + 1e-6, 1.001, 2.0, 1e250):
        budget = upper * part
        rest = stream[0], apart[0], log_share, *at_point, budget
        within = bound_within(c, covariance, error, level, batch, work[0], floor[0], *rest)
        assert within == (upper <= budget), part
        if level > 1.0 and budget > at_point[0] and part in (0.5, 0.999, 1.001, 2.0):
            clear = clearly(c, covariance, error, level, batch, floor[0], *rest[:2], work[0] - log_share, *rest[3:])
            assert clear == (1 if part > 1.0 else -1)


@st.composite
def problems(draw: st.DrawFn) -> SweepRows:
    """A few functions, some with no term or a shared one, on a small grid that need not be regular."""
    count = draw(st.integers(1, 3))
    models = np.array([draw(parameters) for _ in range(count)])
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    batches = np.sort(rng.choice(64, draw(st.integers(1, 40)), replace=False) + 1).astype(np.float64)
    shares = np.sort(rng.choice(1000, draw(st.integers(1, 40)), replace=False) + 1).astype(np.float64)
    root = draw(st.sampled_from([0.0, 0.3, 3.0])) * rng.standard_normal((count, 6, 6))
    bounded = draw(st.booleans())
    scatter = rng.uniform(0.01, 0.3, count)
    budgets = np.empty((count, 2))
    for row, model in zip(budgets, models.tolist(), strict=True):
        row[:] = [roofline_ms(model, batches[0], shares[-1] / 1000) * draw(st.floats(0.9, 30)) * (1 + TIE) for _ in row]
    return SweepRows(
        models,
        packed(root @ root.transpose(0, 2, 1)) if bounded else np.empty((count, 0)),
        np.stack([scatter, np.full(count, 64.0), np.maximum(scatter, 0.05)], axis=1),
        np.tile(draw(st.sampled_from([[0.0], [1.6], [-0.7, 2.0]])), (count, 1)),
        budgets,
        batches,
        shares,
        np.array([100.0, 250.0, 500.0, 990.0]),
        draw(st.sampled_from([0.5, 0.98, 1.0])),
    )


def every_cell(rows: SweepRows) -> tuple[np.ndarray, np.ndarray]:
    """The definitions, cell by cell: best (R, Q, N, 3) and fronts (R, Q, N, S), from `formulas` alone."""
    best = np.full((*rows.shape, 3), -1)
    fronts = np.full((*rows.shape, rows.shares.size), -1)
    for r, q, n in np.ndindex(rows.shape):
        model = rows.models[r].tolist()
        mean = np.array([[roofline_ms(model, b, s / 1000) for s in rows.shares] for b in rows.batches])
        upper = mean.copy()
        if rows.covariances.shape[1]:
            full = np.zeros((6, 6))
            full[np.tril_indices(6)] = rows.covariances[r]
            full = (full + full.T) / 2  # what is off the diagonal was doubled
            for i, b in enumerate(rows.batches):
                for j, s in enumerate(rows.shares):
                    sigma = spread(model, full, rows.errors[r].tolist(), b, s / 1000)
                    upper[i, j] *= math.exp(rows.levels[r, q] * sigma)
        feasible = upper <= rows.budgets[r, n]
        efficacy = np.where(feasible, 1e6 * rows.batches[:, None] / (mean * rows.shares), 0.0)
        if not feasible.any():
            continue
        tied = np.argwhere(feasible & (efficacy >= efficacy.max() * (1 - TIE)))
        i, j = min(tied.tolist(), key=lambda cell: (cell[1], cell[0]))
        whole = roofline_ms(model, rows.batches[i], 1.0) / rows.saturation * (1 + TIE)
        enough = [k for k, s in enumerate(rows.limits) if roofline_ms(model, rows.batches[i], s / 1000) <= whole]
        best[r, q, n] = i, j, min(enough, default=-1)
        throughput, top = 1000.0 * rows.batches[:, None] / mean, 0.0
        for j in range(rows.shares.size):
            gain = np.where(feasible[:, j] & (throughput[:, j] > top * (1 + TIE)), throughput[:, j], 0.0)
            if gain.max() > 0:
                fronts[r, q, n, j] = np.argmax(gain >= gain.max() * (1 - TIE))
                top = throughput[fronts[r, q, n, j], j]
    return best, fronts


@settings(max_examples=40)
@given(problems())
def test_pruned_sweep_is_every_cell(rows: SweepRows) -> None:
    """Best cells, limits and fronts are those of the definitions, looked up one by one."""
    best, fronts = every_cell(rows)
    cells = sweep_quotas(rows)
    assert np.array_equal(cells.chosen, best)
    assert np.array_equal(np.isnan(cells.predicted[..., 0]), best[..., 0] < 0)
    assert np.array_equal(sweep_fronts(rows).batch, fronts)


@cache
def cuda(entry: str) -> CpuKernel:
    return build(source_path("quota_sweep"), entry)


def cells_by_cuda(rows: SweepRows, schedule: int) -> SweepCells:
    """`sweep_best`, `sweep_limit` and `sweep_predict`, executed on the CPU."""
    count, log_shares, log_limits = rows.searches, logs_of_shares(rows.shares), logs_of_shares(rows.limits)
    _, quantiles, budgets = rows.shape
    sizes, span = (np.int32(quantiles), np.int32(budgets)), (np.int64(0), np.int64(count))
    bounded, n_limits = np.int32(rows.covariances.shape[1] > 0), np.int32(rows.limits.size)
    question = (rows.models, rows.covariances, rows.errors, rows.levels, rows.budgets, rows.batches)
    found, limit, predicted = np.full((count, 2), -9, np.int32), np.full(count, -9, np.int32), np.empty((count, 2))
    evaluated = np.zeros(rows.models.shape[0], np.uint64)
    cuda("sweep_best")(
        (-(-count // 4),), (128,),
        (*question, rows.shares, log_shares, bounded, *sizes, np.int32(rows.batches.size), np.int32(rows.shares.size),
         *span, found, evaluated),
        schedule=schedule, shared_bytes=4 * 12 * rows.batches.size,
    )  # fmt: skip
    grid = (-(-count // 128),)
    limits = (rows.models, rows.batches, rows.limits, log_limits, np.float64(rows.saturation))
    cuda("sweep_limit")(grid, (128,), (*limits, *sizes, n_limits, *span, found, limit), schedule=schedule)
    cuda("sweep_predict")(
        grid, (128,), (*question, log_shares, bounded, *sizes, *span, found, predicted), schedule=schedule
    )
    chosen = np.concatenate([found, limit[:, None]], axis=1).reshape(*rows.shape, 3)
    return SweepCells(chosen, predicted.reshape(*rows.shape, 2), evaluated.astype(np.int64))


def fronts_by_cuda(rows: SweepRows, schedule: int) -> SweepFronts:
    """`sweep_fronts` and `sweep_saturation`, executed on the CPU."""
    count, log_shares, log_limits = rows.searches, logs_of_shares(rows.shares), logs_of_shares(rows.limits)
    n_rows, quantiles, budgets = rows.shape
    n_batches, n_shares = np.int32(rows.batches.size), np.int32(rows.shares.size)
    front, latency = np.full((count, n_shares), -9, np.int16), np.empty((count, n_shares))
    saturating, evaluated = np.full((n_rows, n_batches), -9, np.int16), np.zeros(n_rows, np.uint64)
    cuda("sweep_fronts")(
        (-(-count // 4),), (128,),
        (rows.models, rows.covariances, rows.errors, rows.levels, rows.budgets, rows.batches, rows.shares, log_shares,
         np.int32(rows.covariances.shape[1] > 0), np.int32(quantiles), np.int32(budgets), n_batches, n_shares,
         np.int64(0), np.int64(count), front, latency, evaluated),
        schedule=schedule, shared_bytes=4 * 24 * rows.batches.size,
    )  # fmt: skip
    cuda("sweep_saturation")(
        (-(-saturating.size // 128),), (128,),
        (rows.models, rows.batches, rows.limits, logs_of_shares(rows.limits), np.float64(rows.saturation), n_batches,
         np.int32(log_limits.size), np.int64(saturating.size), saturating),
        schedule=schedule,
    )  # fmt: skip
    shape = (*rows.shape, int(n_shares))
    return SweepFronts(front.reshape(shape), latency.reshape(shape), saturating, evaluated.astype(np.int64))


def assert_same(mine: SweepCells | SweepFronts, theirs: SweepCells | SweepFronts) -> None:
    for name, ours, reference in zip(mine._fields, mine.columns, theirs.columns, strict=True):
        if name != "evaluated":
            assert np.array_equal(ours, reference, equal_nan=ours.dtype.kind == "f"), name


@settings(max_examples=25)
@given(problems(), st.sampled_from(SCHEDULES))
def test_cuda_executed_on_the_cpu_is_the_cpu_path(rows: SweepRows, schedule: int) -> None:
    """The CUDA C++ chooses the same indices and predicts the same bits, whatever the order of its threads."""
    assert_same(cells_by_cuda(rows, schedule), sweep_quotas(rows))
    assert_same(fronts_by_cuda(rows, schedule), sweep_fronts(rows))


@pytest.mark.parametrize("with_bound", [False, True])
def test_cuda_executed_on_the_cpu_on_the_usual_grid(with_bound: bool) -> None:
    """32 batches, 100 shares, 10 limits; few of the points are evaluated by either side."""
    rows = example_rows(40, with_bound=with_bound)
    mine, theirs = cells_by_cuda(rows, 2), sweep_quotas(rows)
    assert_same(mine, theirs)
    assert_same(fronts_by_cuda(rows, 1), sweep_fronts(rows))
    assert 0 < theirs.evaluated.sum() <= mine.evaluated.sum() < rows.points / 100


def test_threads_change_nothing() -> None:
    """The parallel walk over rows answers as the serial one."""
    rows = example_rows(9)
    cells, fronts = sweep_quotas(rows), sweep_fronts(rows)
    again = SweepCells(*map(np.empty_like, cells.columns))
    sweep_parallel(*rows, *again)
    assert_same(again, cells)
    assert np.array_equal(again.evaluated, cells.evaluated)
    front_again = SweepFronts(*map(np.empty_like, fronts.columns))
    fronts_parallel(*rows, *front_again)
    assert_same(front_again, fronts)


def test_blocks_fit_shared_memory() -> None:
    """Fewer warps for many batches; a grid that no warp can hold is refused with the way out."""
    assert [warps_per_block(12, n) for n in (1, 1024, 1025, 4096)] == [4, 4, 3, 1]
    with pytest.raises(BackendUnavailableError, match="fewer batches"):
        warps_per_block(12, 4097)
    assert LOSES < 1.0 - TIE


@pytest.mark.needs_gpu
@pytest.mark.parametrize("with_bound", [False, True])
def test_on_a_gpu(with_bound: bool) -> None:
    """The device's cells, predictions and fronts are the CPU's to the bit, over thousands of searches."""
    from dilu_core.kernels.cuda import sweep

    rows = example_rows(2000, with_bound=with_bound)
    cells, record = sweep.sweep_quotas(rows)
    assert record.backend == "cuda"
    assert_same(cells, sweep_quotas(rows))
    few = rows.select(slice(0, 300))
    assert_same(sweep.sweep_fronts(few)[0], sweep_fronts(few))
