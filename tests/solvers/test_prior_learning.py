"""learn_prior: recovery of what functions have in common, invariance, odd tables, and that it helps where it should."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dilu_core.errors import InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.latency_prior import FAMILIES, GENERAL_PRIOR, LatencyPrior, roofline_of
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.prior_learning import learn_prior

Cells = Sequence[tuple[int, int]]
Deviation = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]

GRID = [(b, s) for b in (1, 2, 4, 8, 16, 32) for s in (100, 200, 400, 700, 1000)]
BATCH, SHARE = np.array(GRID, dtype=np.float64).T
TIMES = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
MEAN = np.log([6.0, 0.1, 1.5, 1.0, 0.3, 4.0])
SPREAD = np.array([0.4, 0.4, 0.4, 0.4, 0.4, 0.1])


def draw(rng: np.random.Generator, times: float = 1.0) -> RooflineModel:
    """A function of the family around MEAN, `times` as various as SPREAD, with a speed of its own."""
    logs = MEAN + times * SPREAD * rng.standard_normal(6) + TIMES * rng.normal(0.0, 1.5)
    return RooflineModel(*np.exp(logs).tolist())


def measure(
    model: RooflineModel,
    cells: Cells,
    rng: np.random.Generator,
    noise: float = 0.03,
    deviation: Deviation | None = None,
    function: str = "",
) -> ProfileSamples:
    batch, share = np.array(cells).T
    log_factor = noise * rng.standard_normal(len(cells))
    if deviation is not None:
        log_factor = log_factor + deviation(batch, share)
    latency = model.latency_ms(batch, share) * np.exp(log_factor)
    return ProfileSamples(batch, share, latency, function=function, failure_codes=())


def tables_of(
    seed: int, count: int = 8, times: float = 1.0, deviation: Deviation | None = None
) -> list[ProfileSamples]:
    rng = np.random.default_rng(seed)
    return [measure(draw(rng, times), GRID, rng, deviation=deviation, function=f"f{i}") for i in range(count)]


def error(fit: LatencyFit, model: RooflineModel) -> float:
    """Mean absolute log error over the grid."""
    return float(np.abs(np.log(fit.latency_ms(BATCH, SHARE) / model.latency_ms(BATCH, SHARE))).mean())


def speed_of(model: RooflineModel, batches: tuple[float, float] = (1.0, 32.0)) -> float:
    """The mean log latency over 6 by 5 cells evenly spaced in logs."""
    batch, share = np.geomspace(*batches, 6)[:, None], np.geomspace(100.0, 1000.0, 5)
    return float(np.log(model.latency_ms(batch, share)).mean())


def assert_same(found: LatencyPrior, expected: LatencyPrior) -> None:
    for name in FAMILIES:
        mine, theirs = found.family(name), expected.family(name)
        np.testing.assert_allclose(mine.center, theirs.center, atol=1e-5)
        np.testing.assert_allclose(mine.covariance, theirs.covariance, atol=1e-4)
        assert (mine.deviation is None) == (theirs.deviation is None)
        if mine.deviation is not None and theirs.deviation is not None:
            np.testing.assert_allclose(mine.deviation.log_factor, theirs.deviation.log_factor, atol=1e-5)


def test_the_center_of_many_functions_is_near_their_mean() -> None:
    """Of 60 functions of very different speeds: what samples identify (L, m, w, p) to 0.2 in logs, all to 0.5."""
    center = learn_prior(tables_of(1, 60)).bandwidth.center
    truth = MEAN - TIMES * speed_of(RooflineModel(*np.exp(MEAN).tolist()))
    np.testing.assert_allclose(center[[0, 2, 3, 5]], truth[[0, 2, 3, 5]], atol=0.2)
    np.testing.assert_allclose(center, truth, atol=0.5)


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_the_spread_of_many_functions_is_theirs(times: float) -> None:
    """Of L, m and w relative to the speed, once the general prior's 3 of 103 parts are taken off: right to 20 %."""
    rng = np.random.default_rng(7)
    drawn = [draw(rng, times) for _ in range(2000)]
    truth = np.std([np.log(model.parameters) - TIMES * speed_of(model) for model in drawn], axis=0)
    learnt = learn_prior(tables_of(2, 100, times)).bandwidth.covariance
    own = np.sqrt(np.diag(learnt - 3 * GENERAL_PRIOR.bandwidth.covariance / 103))
    np.testing.assert_allclose(own[[0, 2, 3]], truth[[0, 2, 3]], rtol=0.2)


def test_four_functions_do_not_settle_what_the_fifth_is_like() -> None:
    """From four functions alike the spread is still twice that from a hundred."""
    few, many = (np.diag(learn_prior(tables_of(2, count)).bandwidth.covariance) for count in (4, 100))
    assert (np.sqrt(few) > 2.0 * np.sqrt(many))[[0, 2, 3]].all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gaussian_is_the_one_stated(family: str) -> None:
    """mu and Sigma of three functions by the formulas of the module, with gradients by finite differences."""
    tables = tables_of(3, 3)
    kept = [0, 1, 2, 3, 4, 5] if family == "bandwidth" else [0, 1, 2, 3, 5]
    own = GENERAL_PRIOR.family(family)  # type: ignore[arg-type]
    shift = np.log(np.array([table.batch for table in tables])).mean() - np.log(32.0) / 2
    general = own.center - np.array([0, 1, 0, 1, 1, 0]) * shift

    def shape(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        return logs - TIMES * speed_of(roofline_of(logs, family))  # type: ignore[arg-type]

    shapes, uncertain = [], []
    for table in tables:
        fit = fit_latency(table, family=family, residual=False)
        parameters = np.array(fit.roofline.parameters)
        logs = np.log(np.where(parameters > 0, parameters, 1.0))
        shapes.append(shape(logs))
        steps = 1e-5 * np.eye(6)
        jacobian = np.array([(shape(logs + step) - shape(logs - step)) / 2e-5 for step in steps]).T
        uncertain.append(jacobian @ fit.covariance @ jacobian.T)
    center = (np.sum(shapes, axis=0) + shape(general)) / 4
    spread = sum(np.outer(each - center, each - center) for each in shapes) + sum(uncertain) + 3 * own.covariance
    learnt = learn_prior(tables).family(family)  # type: ignore[arg-type]
    np.testing.assert_allclose(learnt.center[kept], center[kept], atol=1e-6)
    np.testing.assert_allclose(learnt.covariance[np.ix_(kept, kept)], spread[np.ix_(kept, kept)] / 6, atol=1e-4)


@pytest.mark.parametrize("count", [3, 4])
def test_a_ninth_function_is_predicted_better_from_few_samples(count: int) -> None:
    """Over 5 sets of 8 functions and 100 new ones, the error from 3 or 4 samples falls by a tenth or more."""
    without, informed = [], []
    for seed in range(5):
        rng = np.random.default_rng(100 + seed)
        prior = learn_prior(tables_of(seed))
        for _ in range(20):
            model = draw(rng)
            samples = measure(model, [GRID[i] for i in rng.choice(len(GRID), count, replace=False)], rng)
            without.append(error(fit_latency(samples), model))
            informed.append(error(fit_latency(samples, prior=prior), model))
    assert np.mean(informed) < 0.9 * np.mean(without)


def test_many_good_samples_are_not_bent_towards_the_prior() -> None:
    """From 30 samples, of functions like the prior's and of quite others, no error grows by more than one point."""
    prior = learn_prior(tables_of(4))
    rng = np.random.default_rng(5)
    other = [
        RooflineModel(*np.exp(rng.uniform([-1, -5, -3, -3, -5, 0], [3, 0, 3, 3, 1, 2])).tolist()) for _ in range(10)
    ]
    for model in [draw(rng) for _ in range(10)] + other:
        samples = measure(model, GRID, rng)
        assert error(fit_latency(samples, prior=prior), model) < error(fit_latency(samples), model) + 0.01


def planted(batch: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """8 % slower at share 400, whatever the batch."""
    return np.where(share == 400, np.log(1.08), 0.0)


def test_a_deviation_in_common_is_found_and_applied() -> None:
    """+8 % at one share in 8 functions: most of it stands in the prior, and nearly nothing elsewhere; a ninth function
    that was not measured there is predicted better there."""
    for seed in range(3):
        prior = learn_prior(tables_of(20 + seed, deviation=planted))
        for family in FAMILIES:
            deviation = prior.family(family).deviation
            assert deviation is not None
            by_share = deviation.log_factor.mean(axis=0)
            assert by_share[2] - np.delete(by_share, 2).mean() > 0.5 * np.log(1.08)
            assert np.abs(np.delete(by_share, 2)).max() < 0.03
    rng = np.random.default_rng(30)
    with_it = learn_prior(tables_of(31, deviation=planted))
    without_it = learn_prior(tables_of(31))
    errors = []
    for _ in range(20):
        model = draw(rng)
        samples = measure(model, [(1, 200), (8, 1000), (32, 700), (4, 100)], rng, deviation=planted)
        truth = 1.08 * model.latency_ms([1, 4, 16, 32], 400)
        fits = [fit_latency(samples, prior=prior) for prior in (with_it, without_it)]
        errors.append([np.abs(np.log(fit.latency_ms([1, 4, 16, 32], 400) / truth)).mean() for fit in fits])
    found, missed = np.mean(errors, axis=0)
    assert found < missed - 0.01


def test_no_deviation_is_invented() -> None:
    """Eight functions with 3 % noise alone leave at most 3 % anywhere, and under 1 % as a rule."""
    for seed in range(4):
        deviation = learn_prior(tables_of(40 + seed)).bandwidth.deviation
        assert deviation is not None
        assert np.abs(deviation.log_factor).max() < 0.03
        assert np.abs(deviation.log_factor).mean() < 0.01


def test_what_few_noisy_functions_share_by_chance_is_mostly_disbelieved() -> None:
    """Three functions with 6 % noise: less than 0.6 of their mean residual is taken for a deviation in common."""
    for seed in range(4):
        rng = np.random.default_rng(45 + seed)
        tables = [measure(draw(rng), GRID, rng, noise=0.06) for _ in range(3)]
        residuals = [fit_latency(table, family="bandwidth", residual=False).residuals for table in tables]
        deviation = learn_prior(tables).bandwidth.deviation
        assert deviation is not None
        assert np.std(deviation.log_factor) < 0.6 * np.std(np.mean(residuals, axis=0))


def test_one_wild_measurement_is_no_deviation_in_common() -> None:
    """A cell twice too slow in one function of eight moves the deviation there by less than 3 %."""
    tables = tables_of(50)
    latency = tables[0].latency_ms.copy()
    latency[12] *= 2.0
    tables[0] = ProfileSamples(tables[0].batch, tables[0].sm_milli, latency)
    clean, wild = learn_prior(tables_of(50)).bandwidth.deviation, learn_prior(tables).bandwidth.deviation
    assert clean is not None
    assert wild is not None
    assert np.abs(wild.log_factor - clean.log_factor).max() < 0.03


@pytest.mark.parametrize("factor", [1e3, 1e-6, 1e9])
def test_the_unit_of_time_of_one_function_does_not_matter(factor: float) -> None:
    """All latencies of one function times a factor: the same prior."""
    tables = tables_of(60, 4)
    scaled = [ProfileSamples(tables[0].batch, tables[0].sm_milli, factor * tables[0].latency_ms), *tables[1:]]
    assert_same(learn_prior(scaled), learn_prior(tables))


@pytest.mark.parametrize("unit", [3, 512])
def test_the_unit_of_batch_of_all_functions_does_not_matter(unit: int) -> None:
    """Counted in tokens instead of requests: fits with the prior predict the same."""
    tables = tables_of(61, 4)
    model = draw(np.random.default_rng(62))
    samples = measure(model, [(1, 200), (8, 1000), (32, 400)], np.random.default_rng(63))

    def in_unit(table: ProfileSamples) -> ProfileSamples:
        return ProfileSamples(unit * table.batch, table.sm_milli, table.latency_ms)

    prior, scaled = learn_prior(tables), learn_prior([in_unit(table) for table in tables])
    for name in FAMILIES:
        moved = scaled.family(name).center - prior.family(name).center
        np.testing.assert_allclose(moved, np.array([0, -1, 0, -1, -1, 0]) * np.log(unit), atol=1e-5)
        np.testing.assert_allclose(scaled.family(name).covariance, prior.family(name).covariance, atol=1e-4)
    found = fit_latency(in_unit(samples), prior=scaled).latency_ms(unit * BATCH, SHARE)
    np.testing.assert_allclose(found, fit_latency(samples, prior=prior).latency_ms(BATCH, SHARE), rtol=1e-4)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_the_order_of_functions_and_rows_does_not_matter(seed: int) -> None:
    """Any permutation of both gives the same prior."""
    rng = np.random.default_rng(seed)
    tables = tables_of(64, 5)
    shuffled = [tables[i].select(rng.permutation(len(tables[i]))) for i in rng.permutation(len(tables))]
    assert_same(learn_prior(shuffled), learn_prior(tables))


def test_fits_and_samples_teach_the_same() -> None:
    """A fit stands for its samples, whatever it was fitted with; generators serve."""
    tables = tables_of(65, 4)
    fits = [fit_latency(table, prior=draw(np.random.default_rng(1))) for table in tables[:2]]
    assert learn_prior([*fits, *tables[2:]]) == learn_prior(table for table in tables)


def test_what_was_learnt_is_on_record() -> None:
    """How many functions, on what, by which names, and that their batches count the same thing."""
    tables = [ProfileSamples([1, 2], [500, 900], [3.0, 2.0], function=f"f{i}", gpu_type="T4") for i in range(25)]
    prior = learn_prior(tables)
    assert (prior.functions, prior.gpu_type, prior.batch_known, prior.scale_known) == (25, "T4", True, False)
    assert "25 functions: f0, f1" in prior.provenance
    assert prior.provenance.endswith("f19, ...")
    assert "unnamed" in learn_prior([ProfileSamples([1], [500], [3.0])] * 2).provenance


def test_a_reread_prior_makes_identical_fits() -> None:
    """JSON keeps the prior to the last bit, deviation and all."""
    prior = learn_prior(tables_of(66, deviation=planted))
    again = LatencyPrior.from_dict(json.loads(json.dumps(prior.to_dict())))
    assert again == prior
    samples = tables_of(67, 1)[0]
    for rows in ([3], [0, 14, 29], range(30)):
        assert fit_latency(samples.select(list(rows)), prior=again) == fit_latency(
            samples.select(list(rows)), prior=prior
        )


def thin(cells: Cells, count: int = 3) -> list[ProfileSamples]:
    rng = np.random.default_rng(70)
    return [measure(draw(rng), cells, rng) for _ in range(count)]


ODD = {
    "two functions": thin(GRID, 2),
    "one sample each": thin([(4, 300)]),
    "one batch": thin([(8, s) for s in (100, 300, 600, 1000)]),
    "one share": thin([(b, 500) for b in (1, 4, 16, 64)]),
    "identical": thin(GRID, 1) * 4,
    "duplicated rows": thin(GRID[::3] * 20),
    "disjoint grids": [*thin(GRID[:10], 1), *thin(GRID[10:20], 1), *thin(GRID[20:], 1)],
    "token counts": thin([(b, s) for b in (128, 1024, 8192, 65536) for s in (200, 500, 1000)]),
    "one with tokens, others without": [*thin(GRID, 2), *thin([(b, s) for b in (4096, 32768) for s in (300, 900)], 2)],
    "hundreds of batches and shares": thin([(b, 10 + 3 * b) for b in range(1, 300, 2)]),
    "1e-6 and 1e9 ms": [
        ProfileSamples(table.batch, table.sm_milli, factor * table.latency_ms, failure_codes=())
        for table, factor in zip(thin(GRID), (1e-7, 1.0, 1e8), strict=True)
    ],
    "nonsense": [ProfileSamples([1, 2, 4, 8] * 2, [100] * 4 + [900] * 4, 10.0 ** np.array([-5, 8, 3, 0, 7, -2, 1, 4]))]
    * 3,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tables_give_a_usable_prior(name: str) -> None:
    """Thin, repeated, disjoint, huge: the prior survives JSON, and fits with it are finite, bounded and monotone."""
    prior = learn_prior(ODD[name])
    assert LatencyPrior.from_dict(json.loads(json.dumps(prior.to_dict()))) == prior
    for samples in (ODD[name][0], *thin([(3, 450)], 1), *thin(GRID[::4], 1)):
        fit = fit_latency(samples, prior=prior)
        batch, share = np.array([1, 7, 60, 1e4, 1e6])[:, None], np.array([1, 30, 150, 500, 1000])
        latency, upper = fit.latency_ms(batch, share), fit.upper_ms(batch, share)
        assert np.isfinite(upper).all()
        assert (upper >= latency).all()
        assert (latency > 0).all()
        assert (np.diff(np.log(latency), axis=0) >= -1e-9).all()
        assert (np.diff(np.log(latency), axis=1) <= 1e-9).all()


@pytest.mark.parametrize("name", ["two functions", "one batch", "one share", "one sample each"])
def test_a_deviation_in_common_needs_three_functions_over_a_grid(name: str) -> None:
    """Fewer functions, one batch or one share say nothing of one."""
    prior = learn_prior(ODD[name])
    assert prior.compute.deviation is None
    assert prior.bandwidth.deviation is None


def test_a_table_of_deviations_stays_small() -> None:
    """However many distinct batches and shares, at most 24 knots along either axis, from the least to the greatest."""
    deviation = learn_prior(ODD["hundreds of batches and shares"]).compute.deviation
    assert deviation is not None
    assert 2 <= len(deviation.batch) <= 24
    assert 2 <= len(deviation.sm_milli) <= 24
    assert (deviation.batch[0], deviation.batch[-1]) == (1, 299)


def test_functions_that_say_nothing_leave_the_general_prior() -> None:
    """From one sample of each, the prior is about as wide as the general one: it claims nothing that was not seen."""
    learnt = learn_prior(ODD["one sample each"]).compute.covariance
    assert (np.diag(learnt)[:4] > 0.25 * np.diag(GENERAL_PRIOR.compute.covariance)[:4]).all()


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 10**5), st.integers(1, 1000), st.floats(1e-6, 1e9)), min_size=1, max_size=8),
    st.floats(0.5, 0.999),
    st.floats(0.5, 0.999),
)
def test_the_bound_rises_above_the_median_with_a_learnt_deviation(
    table: list[tuple[int, int, float]], one: float, other: float
) -> None:
    """Whatever was measured, and wherever it is asked."""
    batch, share, latency = zip(*table, strict=True)
    fit = fit_latency(ProfileSamples(batch, share, latency, failure_codes=()), prior=BUMPED)
    where = np.array([[1], [6], [500]]), np.array([20, 390, 400, 1000])
    low, high = (fit.upper_ms(*where, quantile) for quantile in sorted((one, other)))
    assert (fit.latency_ms(*where) <= low).all()
    assert (low <= high).all()
    assert np.isfinite(high).all()


BUMPED = learn_prior(tables_of(71, deviation=planted))


@pytest.mark.parametrize(
    ("functions", "argument"),
    [
        *((value, "functions") for value in (None, 5, "f0", b"f0", True, np.array(5), [], iter(()), thin(GRID, 1))),
        *((value, "functions[0]") for value in (["x"], [None, None], {"a": 1, "b": 2}, [GRID, GRID])),
        ([*thin(GRID, 2), float("nan")], "functions[2]"),
        ([ProfileSamples([1], [500], [3.0], gpu_type=gpu) for gpu in ("T4", "L4")], "functions"),
        ([ProfileSamples([1], [500], [3.0], gpu_type=gpu) for gpu in ("T4", "")], "functions"),
    ],
)
def test_bad_arguments_are_named(functions: object, argument: str) -> None:
    """No sequence, too few, something else than samples, more than one GPU type."""
    with pytest.raises(InvalidArgumentError) as caught:
        learn_prior(functions)  # type: ignore[arg-type]
    assert caught.value.argument == argument
