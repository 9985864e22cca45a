"""LatencyPrior as a value: where its centre goes, what it weighs, how fits use it, and what it refuses."""

from __future__ import annotations

import copy
import json
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.latency_prior import FAMILIES, FamilyPrior, LatencyPrior, prior_around, roofline_of
from dilu_core.latency_residual import SharedDeviation
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency

GRID = [(b, s) for b in (1, 2, 4, 8, 16, 32) for s in (100, 200, 400, 700, 1000)]
TRUE = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.5)
TIMES = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
CENTER = np.log(TRUE.parameters)
BUMP = SharedDeviation([1.0, 32.0], [200.0, 400.0, 700.0], [[0.0, 0.08, 0.0], [0.0, 0.08, 0.0]])  # type: ignore[arg-type]


def measure(model: RooflineModel, cells: list[tuple[int, int]], scale: float = 1.0) -> ProfileSamples:
    batch, share = np.array(cells).T
    return ProfileSamples(batch, share, scale * model.latency_ms(batch, share), failure_codes=())


def family_prior(**changes: object) -> FamilyPrior:
    return FamilyPrior(**({"center": CENTER, "covariance": 0.25 * np.eye(6)} | changes))  # type: ignore[arg-type]


def build(**changes: object) -> LatencyPrior:
    fields = {"compute": family_prior(), "bandwidth": family_prior(deviation=BUMP)} | changes
    return LatencyPrior(**fields)  # type: ignore[arg-type]


def assert_bounds_hold(fit: LatencyFit) -> None:
    """The bound is above the median from 0.5 on, rises with the quantile, and is finite, far beyond any samples."""
    batch, share = 2 ** np.arange(0, 15, 2), np.array([5, 50, 150, 400, 1000])
    median = fit.latency_ms(batch[:, None], share)
    bounds = [fit.upper_ms(batch[:, None], share, quantile) for quantile in (0.05, 0.5, 0.7, 0.95, 0.999)]
    assert np.isfinite(bounds).all()
    assert (bounds[1] >= median).all()
    assert all((low <= high).all() for low, high in pairwise(bounds))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
def test_an_unknown_scale_is_met_on_average(family: str, scale: float) -> None:
    """Whatever the unit of time, the centre predicts the geometric mean of the samples, and its shape stays."""
    samples = measure(TRUE, GRID[::4], scale)
    center = build().center_for(family, samples)  # type: ignore[arg-type]
    model = roofline_of(center, family)  # type: ignore[arg-type]
    error = np.log(samples.latency_ms / model.latency_ms(samples.batch, samples.sm_milli))
    assert float(error.mean()) == pytest.approx(0.0, abs=1e-9)
    apart = center - CENTER
    np.testing.assert_allclose(apart, TIMES * apart[0], atol=1e-12)


def test_a_known_scale_stays() -> None:
    """With `scale_known` the centre is the one given, whatever was measured."""
    known = build(scale_known=True)
    np.testing.assert_array_equal(known.center_for("bandwidth", measure(TRUE, GRID, 7.0)), CENTER)


@given(st.integers(1, 10**6))
def test_an_unknown_unit_of_batch_is_taken_from_the_samples(unit: int) -> None:
    """Batches in another unit move the times per sample against it and nothing else; a known unit moves nothing."""
    samples = measure(TRUE, GRID[::3])
    scaled = ProfileSamples(samples.batch * unit, samples.sm_milli, samples.latency_ms)
    free = build(batch_known=False)
    moved = free.center_for("bandwidth", scaled) - free.center_for("bandwidth", samples)
    np.testing.assert_allclose(moved, [0, -math.log(unit), 0, -math.log(unit), -math.log(unit), 0], atol=1e-9)
    fixed = build(scale_known=True)
    np.testing.assert_array_equal(fixed.center_for("bandwidth", scaled), fixed.center_for("bandwidth", samples))


def random_covariance(seed: int) -> np.ndarray:
    root = np.random.default_rng(seed).standard_normal((6, 6))
    return np.asarray(root @ root.T + 0.05 * np.eye(6))


@given(st.integers(0, 10**6))
def test_precision_is_the_inverse_of_what_it_states(seed: int) -> None:
    """A free scale adds a variance of 25 along it; the compute family marginalises the bandwidth."""
    covariance = random_covariance(seed)
    own = family_prior(covariance=covariance)
    known, free = build(compute=own, bandwidth=own, scale_known=True), build(compute=own, bandwidth=own)
    np.testing.assert_allclose(known.precision("bandwidth") @ covariance, np.eye(6), atol=1e-8)
    loose = covariance + 25.0 * np.outer(TIMES, TIMES)
    np.testing.assert_allclose(free.precision("bandwidth") @ loose, np.eye(6), atol=1e-8)
    kept = [0, 1, 2, 3, 5]
    compute = known.precision("compute")
    np.testing.assert_allclose(compute[np.ix_(kept, kept)] @ covariance[np.ix_(kept, kept)], np.eye(5), atol=1e-8)
    assert not compute[4].any()
    assert not compute[:, 4].any()


def test_a_firm_prior_decides_and_a_vague_one_yields() -> None:
    """Against 10 samples of another shape: a spread of 1e-6 keeps the centre's, a spread of 100 takes the samples'."""
    other = RooflineModel(1.0, 0.01, 6.0, 3.0, 0.05, 2.0)
    samples = measure(other, GRID[::3])
    batch, share = np.array(GRID).T
    firm = fit_latency(samples, prior=prior_around(TRUE, 1e-6), residual=False, family="bandwidth")
    shape = np.log(firm.latency_ms(batch, share) / TRUE.latency_ms(batch, share))
    assert np.ptp(shape) < 1e-3
    vague = fit_latency(samples, prior=prior_around(TRUE, 100.0), residual=False, family="bandwidth")
    np.testing.assert_allclose(vague.latency_ms(batch, share), other.latency_ms(batch, share), rtol=0.02)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e9])
def test_prior_around_keeps_the_shape_alone(factor: float) -> None:
    """The speed of the model plays no part, and times of zero become small ones."""
    slower = RooflineModel(*(factor * np.array(TRUE.parameters[:5])).tolist(), sharpness=TRUE.sharpness)
    samples = measure(TRUE, [(1, 200), (16, 700)])
    expected = fit_latency(samples, prior=TRUE, prior_spread=0.3)
    found = fit_latency(samples, prior=prior_around(slower, 0.3))
    np.testing.assert_allclose(found.latency_ms(*np.array(GRID).T), expected.latency_ms(*np.array(GRID).T), rtol=1e-6)
    without = prior_around(RooflineModel(0.0, 0.0, 0.0, factor, 0.0), 0.5).bandwidth.center
    assert np.isfinite(without).all()
    assert (without[[0, 1, 2, 4]] < without[3] - 10.0).all()


def test_roofline_of_leaves_the_bandwidth_to_its_family() -> None:
    """exp of the logs; no bandwidth in the compute family."""
    assert roofline_of(CENTER, "bandwidth").parameters == pytest.approx(TRUE.parameters)
    assert roofline_of(CENTER, "compute").parameters == pytest.approx((*TRUE.parameters[:4], 0.0, TRUE.sharpness))


def test_the_deviation_known_beforehand_is_applied_where_nothing_was_measured() -> None:
    """Samples off the bump: with it share 400 is up to 8 % slower (knots beside it cut the top), and 700 as before."""
    samples = measure(TRUE, [(1, 200), (4, 700), (8, 1000), (32, 200)])
    with_bump = build(compute=family_prior(deviation=BUMP))
    bumped, plain = (fit_latency(samples, prior=prior, residual=False) for prior in (with_bump, build()))
    np.testing.assert_allclose(bumped.latency_ms([1, 2], 400) / plain.latency_ms([1, 2], 400), 1.07, atol=0.015)
    np.testing.assert_allclose(bumped.latency_ms([1, 2], 700) / plain.latency_ms([1, 2], 700), 1.0, atol=0.01)
    assert bumped.deviation == BUMP
    assert plain.deviation is None


def test_a_sample_on_the_bump_is_no_news() -> None:
    """A function that deviates exactly as foreseen has no residual left."""
    batch, share = np.array(GRID).T
    latency = TRUE.latency_ms(batch, share) * np.exp(BUMP.at(batch, share))
    fit = fit_latency(ProfileSamples(batch, share, latency), prior=build(), family="bandwidth")
    np.testing.assert_allclose(fit.residuals, 0.0, atol=1e-3)
    assert fit.residual is None


centers = st.tuples(*[st.floats(-9, 9)] * 5, st.floats(-1.0, 3.0))
tables = st.lists(st.tuples(st.integers(1, 10**5), st.integers(1, 1000), st.floats(1e-6, 1e9)), min_size=1, max_size=9)


@settings(max_examples=40)
@given(centers, st.integers(0, 10**6), tables, st.booleans(), st.floats(0.001, 0.3))
def test_the_bound_is_one_under_any_prior(
    center: tuple[float, ...], seed: int, table: list[tuple[int, int, float]], known: bool, largest: float
) -> None:
    """Any centre, covariance and deviation, and any samples: the bound is above the median and rises, read back too."""
    rough = np.random.default_rng(seed).uniform(-largest, largest, (3, 4))
    deviation = SharedDeviation(np.array([1.0, 8.0, 64.0]), np.array([50.0, 200.0, 500.0, 1000.0]), rough)
    own = FamilyPrior(np.array(center), random_covariance(seed), deviation)
    prior = LatencyPrior(own, own, scale_known=known)
    batch, share, latency = zip(*table, strict=True)
    fit = fit_latency(ProfileSamples(batch, share, latency, failure_codes=()), prior=prior)
    assert_bounds_hold(fit)
    again = LatencyFit.from_dict(json.loads(json.dumps(fit.to_dict())))
    assert again == fit
    np.testing.assert_array_equal(again.upper_ms([1, 9], 300), fit.upper_ms([1, 9], 300))


@pytest.mark.parametrize("prior", [build(), build(scale_known=True, batch_known=False, functions=9, gpu_type="T4")])
def test_json_and_pickle_round_trips_are_the_identity(prior: LatencyPrior) -> None:
    """The same value with the same hash, still read-only, and fits made with it are identical."""
    samples = measure(TRUE, GRID[::4])
    expected = fit_latency(samples, prior=prior)
    for again in (LatencyPrior.from_dict(json.loads(json.dumps(prior.to_dict()))), pickle.loads(pickle.dumps(prior))):
        assert again == prior
        assert hash(again) == hash(prior)
        assert fit_latency(samples, prior=again) == expected
        assert again.bandwidth.deviation is not None
        for array in (again.bandwidth.center, again.bandwidth.covariance, again.bandwidth.deviation.log_factor):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0.0
    assert prior != build(provenance="elsewhere")


def test_numpy_flags_and_counts_are_plain_in_the_document() -> None:
    """np.True_ and np.int64(3) write as true and 3."""
    document = build(scale_known=np.True_, batch_known=np.False_, functions=np.int64(3)).to_dict()
    read = json.loads(json.dumps(document))
    assert (read["scale_known"], read["batch_known"], read["functions"]) == (True, False, 3)


def test_the_arrays_of_the_caller_are_copied() -> None:
    """Writing to them later changes nothing."""
    center, covariance = CENTER.copy(), np.eye(6)
    own = FamilyPrior(center, covariance)
    center[0], covariance[0, 0] = 99.0, 99.0
    assert own.center[0] == CENTER[0]
    assert own.covariance[0, 0] == 1.0


LOPSIDED = (np.eye(6) + np.triu(np.full((6, 6), 0.1), 1)).tolist()


@pytest.mark.parametrize(
    "value",
    [
        *(None, "x", True, 3.0, [], [1.0], [float("nan")] * 6, [float("inf")] * 6, ["1"] * 6, [[0.0]] * 6),
        *([10**400] * 6, [1e308] * 6, [-800.0] * 6, [0.0] * 5 + [-30.0], [0.0] * 5 + [30.0]),
    ],
)
def test_impossible_centers_are_refused(value: object) -> None:
    """The error names center, for logs too that no latency and no sharpness has."""
    with pytest.raises(InvalidArgumentError) as caught:
        family_prior(center=value)
    assert caught.value.argument == "center"


@pytest.mark.parametrize(
    "value",
    [
        *(None, "x", True, 3.0, [], [[1.0]], [1.0] * 6, (-np.eye(6)).tolist(), np.zeros((6, 6)), LOPSIDED),
        *([["1"] * 6] * 6, [[10**400] * 6] * 6, [[float("nan")] * 6] * 6, np.ones((6, 6)), np.ones((6, 6, 1))),
        *(1e-300 * np.eye(6), 1e300 * np.eye(6), np.diag([1e-20, 1, 1, 1, 1, 1])),
    ],
)
def test_impossible_covariances_are_refused(value: object) -> None:
    """The error names covariance: not symmetric, not positive definite, not finite, or beyond inversion."""
    with pytest.raises(InvalidArgumentError) as caught:
        family_prior(covariance=value)
    assert caught.value.argument == "covariance"


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"compute": None}, "compute"),
        ({"bandwidth": CENTER}, "bandwidth"),
        ({"scale_known": 1}, "scale_known"),
        ({"batch_known": "yes"}, "batch_known"),
        ({"functions": -1}, "functions"),
        ({"functions": True}, "functions"),
        ({"functions": 1.5}, "functions"),
        ({"gpu_type": None}, "gpu_type"),
        ({"provenance": 5}, "provenance"),
    ],
)
def test_impossible_priors_are_refused(changes: dict[str, object], argument: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidArgumentError) as caught:
        build(**changes)
    assert caught.value.argument == argument


def test_other_bad_arguments_are_named() -> None:
    """A deviation that is none, and a family that there is not."""
    with pytest.raises(InvalidArgumentError) as caught:
        family_prior(deviation=0.08)
    assert caught.value.argument == "deviation"
    samples = measure(TRUE, GRID[:3])
    for ask in (build().family, build().precision, lambda name: build().center_for(name, samples)):
        with pytest.raises(InvalidArgumentError) as caught:
            ask("spline")  # type: ignore[arg-type]
        assert caught.value.argument == "family"


DAMAGE = [
    *("absent", None, "x", True, -1, 0.5, {}, [], [1, 2], [[1.0]], float("nan"), float("inf"), 1e300, 10**400),
    *([float("nan")] * 6, ["0"] * 6, [1e308] * 6, LOPSIDED, [["1"] * 6] * 6, [[10**400] * 6] * 6),
    *([1, float("inf")], [2, 1], [0, 1], {"batch": [1]}),
]
PARTS = ["center", "covariance", "deviation"]
PATHS = [
    *((key,) for key in build().to_dict()),
    *((family, part) for family in FAMILIES for part in PARTS),
    *(("bandwidth", "deviation", key) for key in BUMP.to_dict()),
]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
@pytest.mark.parametrize("value", DAMAGE, ids=lambda value: f"{value!r:.30}")
def test_damaged_documents_are_refused_or_mean_something(path: tuple[str, ...], value: object) -> None:
    """Whatever stands at a key, the answer is a prior that fits and bounds, or an error that names the document."""
    document = copy.deepcopy(build().to_dict())
    *parents, last = path
    parent = document
    for key in parents:
        parent = parent[key]
    if value == "absent":
        del parent[last]
    else:
        parent[last] = value
    prior = refused = None
    try:
        prior = LatencyPrior.from_dict(document)
    except InvalidArgumentError as error:
        refused = error.argument
    if prior is None:
        assert refused is not None
        assert refused.startswith(f"latency_prior.{path[0]}")
        return
    assert LatencyPrior.from_dict(prior.to_dict()) == prior
    assert_bounds_hold(fit_latency(measure(TRUE, GRID[::4]), prior=prior))


@pytest.mark.parametrize("key", ["version", "compute", "bandwidth"])
@pytest.mark.parametrize("value", ["absent", None, 0, "x", []])
def test_documents_need_their_parts(key: str, value: object) -> None:
    """A version and both families, by name."""
    document = build().to_dict()
    if value == "absent":
        del document[key]
    else:
        document[key] = value
    with pytest.raises(InvalidArgumentError) as caught:
        LatencyPrior.from_dict(document)
    assert caught.value.argument == f"latency_prior.{key}"
