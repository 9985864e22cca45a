"""search_quota against the exhaustive oracle and its own promises."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from dilu_core.errors import BackendUnavailableError, InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import RooflineModel
from dilu_core.quota import LimitRule, QuotaConfig, QuotaGrid, QuotaSearchResult
from dilu_core.result import TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.oracle import OracleAnswer, exhaustive_quota
from dilu_core.solvers.quota_search import search_quota, search_quota_many

MODEL = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.0)

rooflines = st.tuples(
    st.floats(-1, 3), st.floats(-4, 1), st.floats(-2, 3), st.floats(-2, 2), st.floats(-4, 1), st.floats(-0.5, 2)
).map(lambda logs: RooflineModel(*np.exp(logs).tolist()))
pure_forms = st.sampled_from(
    [RooflineModel(10, 0, 0, 0), RooflineModel(0, 2, 0, 0), RooflineModel(0, 0, 0, 3), RooflineModel(0, 0, 6, 0)]
)
grids = st.builds(
    lambda batches, shares: QuotaGrid(tuple(batches), tuple(shares)),
    st.sets(st.integers(1, 64), min_size=1, max_size=7),
    st.sets(st.integers(1, 1000), min_size=1, max_size=12),
)


@st.composite
def fits(draw: st.DrawFn) -> LatencyFit:
    """A fit to a few noisy samples of a random roofline: its bound is wide in places, and not monotone."""
    model, seed, count = draw(rooflines), draw(st.integers(0, 10**6)), draw(st.integers(1, 12))
    rng = np.random.default_rng(seed)
    batch, share = rng.choice([1, 2, 4, 8, 16, 32], count), 50 * rng.integers(1, 21, count)
    noisy = model.latency_ms(batch, share) * np.exp(0.1 * rng.standard_normal(count))
    return fit_latency(ProfileSamples(batch, share, noisy, failure_codes=()))


class Opaque:
    """The same predictions behind an object that the fast search does not know."""

    def __init__(self, fit: LatencyFit | RooflineModel) -> None:
        self.fit = fit

    def latency_ms(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        return self.fit.latency_ms(batch, sm_milli)

    def upper_ms(self, batch: ArrayLike, sm_milli: ArrayLike, quantile: float) -> NDArray[np.float64]:
        assert isinstance(self.fit, LatencyFit)
        return self.fit.upper_ms(batch, sm_milli, quantile)


def triple(config: QuotaConfig | None) -> tuple[int, int, int] | None:
    return None if config is None else (config.batch, config.request_milli, config.limit_milli)


def assert_equal(result: QuotaSearchResult, expected: OracleAnswer, grid: QuotaGrid) -> None:
    assert triple(result.best) == expected.best
    assert tuple(map(triple, result.pareto)) == expected.pareto
    assert result.evaluated + result.pruned == len(grid)
    reason = TerminationReason.INFEASIBLE if expected.best is None else TerminationReason.OPTIMAL
    assert result.termination.reason is reason


@given(fits(), grids, st.sampled_from([None, 0.3, 0.6, 0.95, 0.999]), st.floats(0.3, 4.0), st.data())
def test_search_equals_the_oracle(
    fit: LatencyFit, grid: QuotaGrid, quantile: float | None, looseness: float, data: st.DataObject
) -> None:
    """Pruned or cell by cell, best and front are those of the definitions, with blocked cells and limit rules."""
    cells = [(batch, share) for batch in grid.batches for share in grid.sm_milli]
    at = data.draw(st.sampled_from(cells))
    blocked = data.draw(st.lists(st.sampled_from(cells), max_size=3))
    rule = data.draw(st.sampled_from([LimitRule(), LimitRule(0.9, None), LimitRule(1.0, 1.5), LimitRule(0.5, 1.0)]))
    budget = looseness * float(fit.latency_ms(*at))
    options: dict[str, Any] = {
        "quantile": quantile,
        "blocked": blocked,
        "saturation": rule.throughput_fraction,
        "request_factor": rule.request_factor,
    }
    expected = exhaustive_quota(fit, grid.batches, grid.sm_milli, budget, **options)
    for model in (fit, Opaque(fit)):
        result = search_quota(model, slo_ms=2 * budget, grid=grid, quantile=quantile, blocked=blocked, limit_rule=rule)
        assert_equal(result, expected, grid)
        assert not {(config.batch, config.request_milli) for config in result.pareto} & set(blocked)


@given(pure_forms, grids, st.data())
def test_ties_and_budgets_met_exactly(model: RooflineModel, grid: QuotaGrid, data: st.DataObject) -> None:
    """Where whole regions tie, or a cell takes exactly the budget, the answer is still the oracle's."""
    at = data.draw(st.tuples(st.sampled_from(grid.batches), st.sampled_from(grid.sm_milli)))
    budget = float(model.latency_ms(*at))
    for same in (model, Opaque(model)):
        result = search_quota(same, slo_ms=budget, grid=grid, quantile=None, exec_fraction=1.0)
        assert_equal(result, exhaustive_quota(model, grid.batches, grid.sm_milli, budget), grid)
        assert result.best is not None


@given(rooflines, st.integers(1, 64), st.integers(1, 1000), st.floats(0.5, 2.0))
def test_a_grid_of_one_point_is_taken_or_left(model: RooflineModel, batch: int, share: int, looseness: float) -> None:
    """One cell is best if it meets the budget, and there is no other answer."""
    latency = float(model.latency_ms(batch, share))
    grid = QuotaGrid((batch,), (share,))
    result = search_quota(model, slo_ms=2 * looseness * latency, grid=grid, quantile=None)
    if looseness >= 1.0:
        assert result.best is not None
        assert (result.best.batch, result.best.request_milli) == (batch, share)
        assert result.pareto == (result.best,)
    elif looseness < 1.0 - 2e-9:  # a bound within 1e-9 of the budget meets it
        assert result.best is None
        assert result.pareto == ()


@settings(max_examples=30)
@given(fits(), st.floats(1.0, 3.0), st.floats(1.0, 3.0))
def test_a_looser_slo_never_costs_efficacy(fit: LatencyFit, looseness: float, more: float) -> None:
    """Every feasible configuration stays feasible, so the best cannot fall."""
    grid = QuotaGrid.regular(32, 50)
    slo = 2 * looseness * float(fit.upper_ms(1, 1000))
    tight, loose = (search_quota(fit, slo_ms=x, grid=grid).best for x in (slo, slo * more))
    assert tight is not None
    assert loose is not None
    assert loose.efficacy >= tight.efficacy * (1 - 1e-9)


@settings(max_examples=30)
@given(fits(), st.floats(1.0, 5.0))
def test_what_a_configuration_says_is_what_the_model_says(fit: LatencyFit, looseness: float) -> None:
    """Latency, bound, throughput, efficacy and limit of every answer follow from the model and the definitions."""
    budget = looseness * float(fit.upper_ms(1, 1000))
    result = search_quota(fit, slo_ms=2 * budget, grid=QuotaGrid.regular(32, 50))
    assert result.best is not None
    for config in (result.best, *result.pareto):
        cell = (config.batch, config.request_milli)
        assert config.latency_ms == pytest.approx(float(fit.latency_ms(*cell)))
        assert config.upper_ms == pytest.approx(float(fit.upper_ms(*cell)))
        assert config.upper_ms is not None
        assert config.upper_ms <= budget * (1 + 1e-9)
        assert config.throughput_rps == pytest.approx(1000 * config.batch / config.latency_ms)
        assert config.efficacy == pytest.approx(config.throughput_rps / (config.request_milli / 1000))
        assert config.request_milli <= config.limit_milli <= min(1000, 2 * config.request_milli)
    requests = [config.request_milli for config in result.pareto]
    throughputs = [config.throughput_rps for config in result.pareto]
    assert requests == sorted(set(requests))
    assert throughputs == sorted(set(throughputs))
    assert any(
        triple(config) == triple(result.best) or config.efficacy <= result.best.efficacy for config in result.pareto
    )


def test_an_slo_nothing_meets_is_a_result_with_the_reason() -> None:
    """Best is None, the front empty, and the sentence tells how close one can get."""
    result = search_quota(MODEL, slo_ms=1.0, quantile=None)
    assert (result.best, result.pareto) == (None, ())
    assert result.termination.reason is TerminationReason.INFEASIBLE
    assert "budget of 0.5 ms" in result.termination.detail
    assert f"{float(MODEL.latency_ms(1, 1000)):.4g} ms at batch 1, share 1000" in result.termination.detail
    everything = [(batch, share) for batch in (1, 2) for share in (500, 1000)]
    blocked = search_quota(MODEL, slo_ms=1e6, grid=QuotaGrid((1, 2), (500, 1000)), quantile=None, blocked=everything)
    assert "not blocked" in blocked.termination.detail


def test_blocked_cells_off_the_grid_are_ignored() -> None:
    """They cannot be returned anyway."""
    grid = QuotaGrid((1, 2), (500, 1000))
    free = search_quota(MODEL, slo_ms=100, grid=grid, quantile=None)
    assert search_quota(MODEL, slo_ms=100, grid=grid, quantile=None, blocked=[(3, 500), (1, 77)]).best == free.best


def test_the_default_grid_does_not_extrapolate() -> None:
    """Of a fit the answers lie among measured batches and shares; of a bare model on the regular grid."""
    samples = ProfileSamples([2, 2, 8, 8], [143, 571, 143, 571], MODEL.latency_ms([2, 2, 8, 8], [143, 571, 143, 571]))
    result = search_quota(fit_latency(samples), slo_ms=1e4)
    assert result.evaluated + result.pruned == len(QuotaGrid.covering(samples))
    assert result.best is not None
    assert 2 <= result.best.batch <= 8
    assert 143 <= result.best.request_milli <= 571
    bare = search_quota(MODEL, slo_ms=1e4, quantile=None)
    assert bare.evaluated + bare.pruned == len(QuotaGrid.regular())


def test_many_searches_equal_single_ones() -> None:
    """Mixed models, grids and SLOs come back in order; fronts only where asked for."""
    samples = ProfileSamples(
        [1, 8, 32, 1], [200, 500, 1000, 1000], MODEL.latency_ms([1, 8, 32, 1], [200, 500, 1000, 1000])
    )
    fit = fit_latency(samples)
    models = [MODEL, Opaque(MODEL), fit, MODEL]
    slos = [40.0, 60.0, 80.0, 1.0]
    many = search_quota_many(models, slos, quantile=None, pareto=True)
    for result, model, slo in zip(many, models, slos, strict=True):
        alone = search_quota(model, slo_ms=slo, quantile=None)
        assert (result.best, result.pareto) == (alone.best, alone.pareto)
    assert many[3].best is None
    assert all(result.pareto == () for result in search_quota_many(models, 60.0, quantile=None))
    assert search_quota_many([], 50.0) == []
    per_fit = search_quota_many([MODEL, MODEL], 60.0, quantile=None, blocked=[[], [triple(many[0].best)[:2]]])  # type: ignore[index]
    assert per_fit[0].best == search_quota(MODEL, slo_ms=60.0, quantile=None).best
    assert pickle.loads(pickle.dumps(per_fit)) == per_fit


class Lying(Opaque):
    """A model whose predictions are not latencies."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def latency_ms(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"fit": "model"}, "fit"),
        ({"fit": MODEL, "quantile": 0.95}, "fit"),
        ({"fit": Lying(np.full((1, 1), np.nan))}, "fit"),
        ({"fit": Lying(np.ones(3))}, "fit"),
        ({"slo_ms": 0.0}, "slo_ms"),
        ({"slo_ms": float("nan")}, "slo_ms"),
        ({"slo_ms": "fast"}, "slo_ms"),
        ({"grid": (1, 2)}, "grid"),
        ({"quantile": 1.0}, "quantile"),
        ({"quantile": "p95"}, "quantile"),
        ({"exec_fraction": 0.0}, "exec_fraction"),
        ({"exec_fraction": 1.5}, "exec_fraction"),
        ({"limit_rule": 0.98}, "limit_rule"),
        ({"backend": "tpu"}, "backend"),
        ({"blocked": [(0, 100)]}, "blocked[0][0]"),
        ({"blocked": [(1, 100), (1, 2000)]}, "blocked[1][1]"),
        ({"blocked": [7]}, "blocked[0]"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], argument: str) -> None:
    """The error names the argument and, where one element is at fault, its place."""
    arguments = {"fit": MODEL, "slo_ms": 50.0, "quantile": None, "grid": QuotaGrid((1,), (500,))} | changes
    with pytest.raises(InvalidArgumentError) as caught:
        search_quota(arguments.pop("fit"), **arguments)  # type: ignore[arg-type]
    assert caught.value.argument == argument


def test_columns_of_the_wrong_length_are_named() -> None:
    """SLOs and blocked lists must match the fits; CUDA says that it is not here."""
    with pytest.raises(InvalidArgumentError, match="slo_ms has 3 values for 2 fits"):
        search_quota_many([MODEL, MODEL], [1.0, 2.0, 3.0], quantile=None)
    with pytest.raises(InvalidArgumentError, match=r"slo_ms\[1\]"):
        search_quota_many([MODEL, MODEL], [1.0, -2.0], quantile=None)
    with pytest.raises(InvalidArgumentError, match="blocked has 1 entries for 2 fits"):
        search_quota_many([MODEL, MODEL], 50.0, quantile=None, blocked=[[]])
    for fits, slo_ms, blocked, argument in (
        (np.array(MODEL, object), 50.0, None, "fits"),
        ([MODEL], [1.0, [2.0]], None, "slo_ms"),
        ([MODEL], np.array(["100"], object), None, "slo_ms"),
        ([MODEL], 50.0, 5, "blocked"),
        ([MODEL], 50.0, np.array(5), "blocked"),
        ([MODEL], 50.0, [np.array(5)], "blocked"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            search_quota_many(fits, slo_ms, quantile=None, blocked=blocked)  # type: ignore[arg-type]
        assert caught.value.argument == argument
    with pytest.raises(BackendUnavailableError):
        search_quota(MODEL, slo_ms=50.0, quantile=None, backend="cuda")
