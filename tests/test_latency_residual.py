"""What a roofline leaves over: the posterior by its formula, noise against planted deviations, and lawful surfaces."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dilu_core.errors import InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.latency_residual import (
    AMPLITUDE,
    BATCH_LENGTH,
    ODDS,
    SHARE_LENGTH,
    SharedDeviation,
    SmoothDeviation,
    corrected_surface,
    smooth_deviation,
)
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency, fit_latency_many

TRUE = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.5)
BATCH, SHARE = (axis.ravel() for axis in np.meshgrid([1, 2, 4, 8, 16, 32], [100, 200, 400, 700, 1000], indexing="ij"))
Column = NDArray[np.float64]

rooflines = st.tuples(
    st.floats(-2, 4), st.floats(-5, 1), st.floats(-4, 2), st.floats(-4, 2), st.floats(-5, 1), st.floats(-0.5, 2.0)
).map(lambda logs: RooflineModel(*np.exp(logs).tolist()))


def measured(rows: NDArray[np.integer], log_error: Column) -> ProfileSamples:
    """Samples of TRUE at these rows of the grid, off by these logs."""
    return ProfileSamples(BATCH[rows], SHARE[rows], TRUE.latency_ms(BATCH[rows], SHARE[rows]) * np.exp(log_error))


def mean_error(fit: LatencyFit, truth: Column, rows: NDArray[np.integer] | slice = slice(None)) -> float:
    return float(np.abs(np.log(fit.latency_ms(BATCH, SHARE) / truth))[rows].mean())


def assert_lawful(latency: Column, batch: Column, share: Column) -> None:
    growth, fall = np.diff(np.log(latency), axis=0), -np.diff(np.log(latency), axis=1)
    assert ((growth >= -1e-8) & (growth <= np.diff(np.log(batch))[:, None] + 1e-8)).all()
    assert ((fall >= -1e-8) & (fall <= np.diff(np.log(share)) + 1e-8)).all()


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(7, 40))
def test_the_deviation_is_the_posterior_it_states(seed: int, count: int) -> None:
    """By the formulas over rows, repeats and all: the weight from log N and log G, the mean A^-1 r."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(BATCH), count)
    residuals = rng.normal(0, 0.05, count) + 0.1 * (BATCH[rows] >= 8)
    if len(set(rows.tolist())) < 7:
        return
    where = np.stack([np.log(BATCH) / BATCH_LENGTH, np.log(SHARE) / SHARE_LENGTH], axis=1)
    kernel = np.exp(-0.5 * ((where[:, None] - where[None]) ** 2).sum(axis=2))
    matrix = AMPLITUDE**2 * kernel[np.ix_(rows, rows)] + np.eye(count)
    solved = np.linalg.solve(matrix, residuals)
    log_noise = -count / 2 * np.log(residuals @ residuals)
    log_smooth = -count / 2 * np.log(residuals @ solved) - 0.5 * np.linalg.slogdet(matrix)[1]
    weight = 1.0 / (1.0 + np.exp(log_noise - log_smooth) / ODDS)
    found = smooth_deviation(BATCH[rows], SHARE[rows], residuals)
    if found is None:
        assert weight < 0.1 + 1e-9
        return
    assert found.weight == pytest.approx(weight, rel=1e-6)
    expected = weight * AMPLITUDE**2 * kernel[:, rows] @ solved
    np.testing.assert_allclose(found.at(BATCH, SHARE), expected, atol=1e-9)


def test_many_repeats_of_few_cells_cost_no_memory() -> None:
    """20,000 rows over 30 cells are met as 30 means; row by row the covariance would take 3 GB."""
    rows = np.arange(20_000) % 30
    residuals = 0.1 * (BATCH[rows] >= 8) + np.random.default_rng(0).normal(0, 0.03, rows.size)
    found = smooth_deviation(BATCH[rows], SHARE[rows], residuals)
    assert found is not None
    assert found.points.shape == (30, 2)
    np.testing.assert_allclose(found.at([1, 32], 400), [0.0, 0.1], atol=0.01)


@pytest.mark.parametrize(
    ("rows", "residuals"),
    [
        (np.arange(6), np.full(6, 0.2)),  # six cells
        (np.arange(30) % 6, np.full(30, 0.2)),  # and as often as one likes
        (np.r_[np.zeros(7, int), np.arange(5, 11)], np.r_[np.full(7, 0.2), np.full(6, 0.9)]),  # one is left by outliers
        (np.arange(30), np.zeros(30)),
        (np.arange(30), np.where(BATCH >= 8, 0.004, -0.004)),
        (np.arange(30), np.full(30, np.nan)),
    ],
)
def test_too_few_cells_or_too_little_left_over_make_no_deviation(rows: NDArray[np.intp], residuals: Column) -> None:
    """Fewer than 7 cells that are no outliers, or residuals below half a per cent, leave the roofline alone."""
    assert smooth_deviation(BATCH[rows], SHARE[rows], residuals) is None


def test_a_deviation_dies_away_far_from_what_was_measured() -> None:
    """It follows a step in the batch, keeps the shape of its arguments, and is nothing a thousandfold away."""
    found = smooth_deviation(BATCH, SHARE, np.where(BATCH >= 8, 0.1, -0.1))
    assert found is not None
    assert found.weight > 0.99
    assert float(found.at(16, 400)) == pytest.approx(0.1, abs=0.02)
    assert float(found.at(2, 400)) == pytest.approx(-0.1, abs=0.02)
    assert float(found.at(32_000, 400)) == pytest.approx(0.0, abs=1e-9)
    assert found.at([[1], [2]], [100, 200, 300]).shape == (2, 3)
    assert not found.coefficients.flags.writeable


@pytest.mark.parametrize(("count", "most"), [(20, 0.25), (30, 0.15)])
def test_white_noise_on_a_roofline_hardly_ever_brings_a_deviation_in(count: int, most: float) -> None:
    """Of 60 noisy sample sets of an exact roofline few have one."""
    rng = np.random.default_rng(count)
    sets = [measured(rng.permutation(30)[:count], rng.normal(0, 0.03, count)) for _ in range(60)]
    assert np.mean([fit.residual is not None for fit in fit_latency_many(sets)]) <= most


@pytest.mark.parametrize("count", [7, 12, 20])
@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1])
def test_under_white_noise_a_deviation_costs_next_to_nothing(count: int, noise: float) -> None:
    """From few samples one comes in easily, with the weight of its probability: the mean error grows by less than a
    tenth, and at worst by half the noise."""
    rng = np.random.default_rng(count)
    sets = [measured(rng.permutation(30)[:count], rng.normal(0, noise, count)) for _ in range(40)]
    truth = TRUE.latency_ms(BATCH, SHARE)
    with_it = np.array([mean_error(fit, truth) for fit in fit_latency_many(sets)])
    without = np.array([mean_error(fit, truth) for fit in fit_latency_many(sets, residual=False)])
    assert with_it.mean() < 1.1 * without.mean()
    assert (with_it - without).max() < 0.5 * noise


def test_a_planted_deviation_is_found_and_the_held_out_error_falls() -> None:
    """15 % more from batch 16 on: from 12 samples with 1 % noise the error at the other cells falls by a fifth or
    more."""
    truth = TRUE.latency_ms(BATCH, SHARE) * np.where(BATCH >= 16, 1.15, 1.0)
    rng = np.random.default_rng(3)
    better, with_it, without = [], [], []
    for _ in range(25):
        rows = rng.permutation(30)
        samples = ProfileSamples(BATCH[rows[:12]], SHARE[rows[:12]], truth[rows[:12]] * np.exp(rng.normal(0, 0.01, 12)))
        fit, plain = fit_latency(samples), fit_latency(samples, residual=False)
        assert fit.residual is not None
        assert plain.model == plain.roofline == fit.roofline
        with_it.append(mean_error(fit, truth, rows[12:]))
        without.append(mean_error(plain, truth, rows[12:]))
        better.append(with_it[-1] < without[-1])
    assert np.mean(with_it) < 0.8 * np.mean(without)
    assert np.mean(better) > 0.9


@pytest.mark.parametrize("count", [12, 20, 30])
def test_an_outlier_does_not_shape_a_deviation(count: int) -> None:
    """With one sample 40 % off the deviation makes no fit much worse, none on average, and does not follow the
    sample."""
    truth, rng = TRUE.latency_ms(BATCH, SHARE), np.random.default_rng(count)
    worse, at_outlier = [], []
    for _ in range(30):
        rows, error = rng.permutation(30)[:count], rng.normal(0, 0.01, count)
        error[0] += 0.34
        fit, plain = (fit_latency(measured(rows, error), residual=flag) for flag in (True, False))
        worse.append(mean_error(fit, truth) - mean_error(plain, truth))
        there = np.log(np.array([each.latency_ms(BATCH[rows[0]], SHARE[rows[0]]) for each in (fit, plain)]))
        at_outlier.append(float(there[0] - there[1]))
    assert np.mean(worse) < 0.001
    assert np.max(worse) < 0.02
    assert np.mean(at_outlier) < 0.02


def test_a_batch_that_contradicts_itself_is_met_in_the_middle() -> None:
    """Two conditions 20 % apart, both measured at every cell: the surface lies between them throughout."""
    rows = np.repeat(np.arange(30), 2)
    fit = fit_latency(measured(rows, np.tile([0.0, 0.18], 30)))
    ratio = fit.latency_ms(BATCH, SHARE) / TRUE.latency_ms(BATCH, SHARE)
    assert ratio.min() > 1.03
    assert ratio.max() < 1.16


def any_deviation(seed: int) -> SharedDeviation:
    rng = np.random.default_rng(seed)
    batch, share = (np.sort(rng.permutation(greatest)[:size] + 1) for greatest, size in ((200, 4), (1000, 3)))
    return SharedDeviation(batch, share, rng.normal(0, 1.0, (4, 3)))


shared_deviations = st.integers(0, 10**6).map(any_deviation)


@settings(max_examples=40)
@given(rooflines, shared_deviations, st.integers(0, 10**6), st.floats(1, 1000), st.floats(0, 9), st.floats(0, 7))
def test_corrected_surfaces_are_lawful_whatever_the_deviations(
    roofline: RooflineModel, shared: SharedDeviation, seed: int, least: float, start: float, octaves: float
) -> None:
    """Deviations of a factor e^3 and more between cells leave a surface that rises in the batch and falls in the
    share."""
    rng = np.random.default_rng(seed)
    points = np.stack([rng.uniform(0, 8, 9), rng.uniform(-4, 0, 9)], axis=1)
    own = SmoothDeviation(points, rng.normal(0, 1, 9), 1.0)
    surface = corrected_surface(roofline, 2.0 ** np.array([start, start + octaves]), [least], (shared, own))
    batch, share = np.geomspace(0.1, 1e6, 60), np.geomspace(0.5, 1000.0, 50)
    assert_lawful(surface.latency_ms(batch[:, None], share), batch, share)


@given(rooflines, st.integers(0, 10), st.integers(0, 6), st.integers(1, 1000))
def test_without_deviations_the_table_is_the_roofline(
    roofline: RooflineModel, start: int, octaves: int, least: int
) -> None:
    """From batch 1 to eightfold the measured ones it is right to 0.25 p per cent, and never below, as a roofline is
    convex in logs."""
    measured_batches = [2**start, 2 ** (start + octaves)]
    surface = corrected_surface(roofline, measured_batches, [least], ())
    batch, share = np.geomspace(1, 8 * measured_batches[-1], 41), np.geomspace(min(10, least / 2), 1000, 37)
    ratio = surface.latency_ms(batch[:, None], share) / roofline.latency_ms(batch[:, None], share)
    assert ratio.min() > 1 - 1e-9
    assert ratio.max() < 1 + 0.0025 * max(roofline.sharpness, 1.0)


def test_a_shared_deviation_multiplies_the_roofline() -> None:
    """30 % everywhere is 30 % everywhere."""
    shared = SharedDeviation([1], [1000], np.full((1, 1), np.log(1.3)))
    surface = corrected_surface(TRUE, BATCH, [100], (shared,))
    np.testing.assert_allclose(
        surface.latency_ms(BATCH, SHARE), 1.3 * TRUE.latency_ms(BATCH, SHARE), rtol=0.002 * TRUE.sharpness
    )


def test_shared_deviations_interpolate_and_stand_still_beyond() -> None:
    """Bilinear in logs between the knots, the edge outside of them, in the shape of the arguments."""
    shared = SharedDeviation([1, 4], [250, 1000], [[0.0, 0.1], [0.2, 0.5]])
    assert float(shared.at(2, 500)) == pytest.approx(0.2)
    assert shared.at([0.1, 1000], 10).tolist() == pytest.approx([0.0, 0.2])
    assert shared.at([[1], [4]], [1, 250, 1000]).shape == (2, 3)


@given(shared_deviations)
def test_shared_deviations_survive_json_and_pickle(shared: SharedDeviation) -> None:
    """One read back is equal, hashes alike and refuses writes; minus zero is zero."""
    read = SharedDeviation.from_dict("deviation", json.loads(json.dumps(shared.to_dict())))
    for again in (read, pickle.loads(pickle.dumps(shared))):
        assert again == shared
        assert hash(again) == hash(shared)
        assert not again.log_factor.flags.writeable
    zeros = [SharedDeviation(shared.batch, shared.sm_milli, zero * shared.log_factor) for zero in (0.0, -0.0)]
    assert zeros[0] == zeros[1]
    assert hash(zeros[0]) == hash(zeros[1])


@pytest.mark.parametrize("key", ["batch", "sm_milli", "log_factor"])
@pytest.mark.parametrize(
    "value", ["absent", None, {}, [], "nonsense", 17, [2, 1], [1, np.inf], [[1, np.nan], [0, 0]], [["1", "2"]] * 2]
)
def test_corrupt_documents_are_refused(key: str, value: object) -> None:
    """The error says whose deviation it is, and which part of it."""
    document: dict[str, object] = {"batch": [1, 4], "sm_milli": [250, 1000], "log_factor": [[0.0, 0.1], [0.2, 0.5]]}
    if value == "absent":
        del document[key]
    else:
        document[key] = value
    with pytest.raises(InvalidArgumentError, match=r"fit\.deviation\." + ("(log_factor|" + key + ")")):
        SharedDeviation.from_dict("fit.deviation", document)
    with pytest.raises(InvalidArgumentError, match=r"fit\.deviation"):
        SharedDeviation.from_dict("fit.deviation", [document])  # type: ignore[arg-type]
