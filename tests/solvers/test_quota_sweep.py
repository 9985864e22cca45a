"""sweep_quota against search_quota, against its own promises, and the same on every back end."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.gpu_scaling import GPU_PEAKS, GpuScale, gpu_scale
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import RooflineModel
from dilu_core.quota import LimitRule, QuotaGrid
from dilu_core.result import TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.quota_search import search_quota
from dilu_core.solvers.quota_sweep import QuotaSweep, sweep_quota
from dilu_core.traces import MOST_RPS
from tests.solvers.test_quota_search import Opaque, fits, grids, pure_forms, triple

MODEL = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.0)
RULES = [LimitRule(), LimitRule(0.9, None), LimitRule(1.0, 1.5), LimitRule(0.5, 1.0)]


def a_fit(seed: int = 0) -> LatencyFit:
    rng = np.random.default_rng(seed)
    batch, share = rng.choice([1, 2, 4, 8, 16, 32], 10), 50 * rng.integers(1, 21, 10)
    noisy = MODEL.latency_ms(batch, share) * np.exp(0.03 * rng.standard_normal(10))
    return fit_latency(ProfileSamples(batch, share, noisy, failure_codes=()))


@settings(max_examples=50)
@given(fits(), grids, st.lists(st.floats(0.2, 8.0), min_size=1, max_size=3), st.sampled_from(RULES))
def test_sweep_equals_search(fit: LatencyFit, grid: QuotaGrid, loosenesses: list[float], rule: LimitRule) -> None:
    """Every answer and every front is that of one search, pruned or from a table."""
    at_most = float(fit.latency_ms(grid.batches[-1], grid.sm_milli[0]))
    slos = [looseness * at_most for looseness in loosenesses]
    quantiles = [None, 0.3, 0.95]
    options: dict[str, Any] = {"quantiles": quantiles, "grid": grid, "limit_rule": rule}
    found = sweep_quota([fit, Opaque(fit)], slo_ms=slos, **options)
    fronts = found.fronts()
    assert found.batch.shape == (2, len(quantiles) * len(slos))
    for s, scenario in enumerate(found.scenarios):
        alone = search_quota(
            fit, slo_ms=slos[scenario.slo], quantile=scenario.quantile, grid=grid, limit_rule=rule
        )  # fmt: skip
        for f in (0, 1):
            config = found.config(f, s)
            assert triple(config) == triple(alone.best)
            if config is not None and alone.best is not None:
                assert config.latency_ms == pytest.approx(alone.best.latency_ms, rel=1e-12)
                assert config.upper_ms == (None if scenario.quantile is None else pytest.approx(alone.best.upper_ms))
                assert config.efficacy == pytest.approx(alone.best.efficacy)
            rows = (fronts.function == f) & (fronts.scenario == s)
            columns = (fronts.batch[rows], fronts.request_milli[rows], fronts.limit_milli[rows])
            assert list(zip(*(column.tolist() for column in columns), strict=True)) == list(map(triple, alone.pareto))


@given(pure_forms, grids, st.data())
def test_ties_and_budgets_met_exactly(model: RooflineModel, grid: QuotaGrid, data: st.DataObject) -> None:
    """Where whole regions tie, or a cell takes exactly the budget, the answer is still that of a search."""
    at = data.draw(st.tuples(st.sampled_from(grid.batches), st.sampled_from(grid.sm_milli)))
    budget = float(model.latency_ms(*at))
    found = sweep_quota([model], slo_ms=budget, quantiles=None, grid=grid, exec_fraction=1.0)
    alone = search_quota(model, slo_ms=budget, quantile=None, grid=grid, exec_fraction=1.0)
    assert triple(found.config(0, 0)) == triple(alone.best)
    requests = found.fronts().request_milli.tolist()
    assert requests == [config.request_milli for config in alone.pareto]


def columns_of(sweep: QuotaSweep) -> list[np.ndarray]:
    return [sweep.batch, sweep.request_milli, sweep.limit_milli, sweep.latency_ms, sweep.upper_ms]


def test_every_back_end_answers_alike(backend: str) -> None:
    """Indices and predictions are equal bit for bit, fronts included, and the stats say what ran."""
    models = [a_fit(seed) for seed in range(4)]
    gpus = [GpuScale("here"), gpu_scale("A100-SXM4-40GB", "H100-SXM5-80GB")]
    question: dict[str, Any] = {
        "slo_ms": [20.0, 60.0, 200.0], "load_rps": [10.0, 500.0], "quantiles": [None, 0.95], "gpus": gpus,
        "limits_milli": range(100, 1001, 100),
    }  # fmt: skip
    expected = sweep_quota(models, **question, backend="cpu")
    found = sweep_quota(models, **question, backend=backend)
    assert found.stats.backend == backend
    for mine, theirs in zip(columns_of(found), columns_of(expected), strict=True):
        assert np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
    for ours, reference in zip(found.fronts(), expected.fronts(), strict=True):
        assert np.array_equal(ours, reference)


def test_instances_cover_the_load_and_no_more() -> None:
    """n instances serve the load, n - 1 do not; together they request n shares; no load needs none."""
    loads = np.array([[0.0, 3.0, 1e3], [1.0, 77.7, 1e5]])
    found = sweep_quota([MODEL, MODEL], slo_ms=[50.0, 90.0], load_rps=loads, quantiles=None)
    assert found.instances is not None
    assert found.share_milli is not None
    assert found.load_rps is not None
    assert [scenario.load for scenario in found.scenarios] == [0, 1, 2] * 2
    assert np.array_equal(found.load_rps, np.tile(loads, (1, 2)))
    served = found.instances * found.throughput_rps
    assert (served >= found.load_rps * (1 - 1e-9)).all()
    assert (served - found.throughput_rps < found.load_rps).all() or (found.instances[:, [0, 3]][0] == 0).all()
    assert np.array_equal(found.share_milli, found.instances * found.request_milli)
    assert np.array_equal(found.total_share_milli, found.share_milli.sum(axis=0))
    whole = sweep_quota([MODEL], slo_ms=50.0, load_rps=3 * float(found.throughput_rps[0, 0]), quantiles=None)
    assert whole.instances is not None
    assert whole.instances[0, 0] == 3


def test_limits_on_offer() -> None:
    """The limit is the greatest on offer that the rule allows, and the request where there is none."""
    free = sweep_quota([MODEL], slo_ms=60.0, quantiles=None, limit_rule=LimitRule(0.98, 3.0))
    request, limit = int(free.request_milli[0, 0]), int(free.limit_milli[0, 0])
    for offer in ([limit], [limit - 10, limit + 10], [request - 1], [1000], [limit - 20, limit, limit + 10]):
        found = sweep_quota([MODEL], slo_ms=60.0, quantiles=None, limit_rule=LimitRule(0.98, 3.0), limits_milli=offer)
        assert found.request_milli[0, 0] == request
        enough = [x for x in offer if x >= limit] or [1000]
        allowed = min(enough[0], 3 * request)
        assert found.limit_milli[0, 0] == max([request, *(x for x in offer if x <= allowed)])


def test_another_gpu_type_is_the_scaled_roofline() -> None:
    """Exact factors answer as the scaled model would; with doubt the bound only widens, and so do tabulated models."""
    scale = GpuScale("fast", 0.9, 1.0, 0.6, 0.5, 0.4)
    scaled = RooflineModel(*(np.array(MODEL.parameters) * scale.factors).tolist())
    found = sweep_quota([MODEL], slo_ms=[30.0, 90.0], quantiles=None, gpus=[GpuScale("same"), scale])
    for s, slo in enumerate((30.0, 90.0)):
        assert triple(found.config(0, s)) == triple(sweep_quota([MODEL], slo_ms=slo, quantiles=None).config(0, 0))
        assert triple(found.config(0, 2 + s)) == triple(sweep_quota([scaled], slo_ms=slo, quantiles=None).config(0, 0))
    fit = a_fit()
    sure, unsure = (
        sweep_quota([fit], slo_ms=90.0, gpus=[gpu_scale("A100-SXM4-40GB", "L4", scale_spread=spread)])
        for spread in (None, 0.5)
    )
    assert sure.efficacy[0, 0] >= unsure.efficacy[0, 0]
    with pytest.raises(InvalidArgumentError, match="no roofline that could be scaled"):
        sweep_quota([Opaque(MODEL)], slo_ms=90.0, quantiles=None, gpus=[scale])
    assert gpu_scale("T4", "T4").factors == pytest.approx(np.ones(6))
    assert gpu_scale(GPU_PEAKS["T4"], "L4").name == "L4"


def test_a_fit_with_a_residual_is_carried_over_from_its_table() -> None:
    """Where a fit deviates from its roofline, the deviation stays as the roofline scales."""
    shares = np.tile([100, 200, 400, 700, 1000], 4)
    batches = np.repeat([1, 4, 16, 32], 5)
    wavy = MODEL.latency_ms(batches, shares) * np.exp(0.35 * np.sin(np.log(batches) + np.log(shares)))
    fit = fit_latency(ProfileSamples(batches, shares, wavy))
    if isinstance(fit.model, RooflineModel):
        pytest.skip("this fit took no residual")
    scale = GpuScale("half", 0.5, 0.5, 0.5, 0.5, 0.5)
    found = sweep_quota([fit], slo_ms=[100.0, 50.0], quantiles=None, gpus=[GpuScale("same"), scale])
    same, halved = found.config(0, 0), found.config(0, 3)
    assert triple(same) == triple(halved)
    assert same is not None
    assert halved is not None
    assert halved.latency_ms == pytest.approx(same.latency_ms / 2)


def test_what_a_sweep_says_of_itself() -> None:
    """Counts, termination, read-only columns; nothing feasible is a result."""
    found = sweep_quota([MODEL, a_fit()], slo_ms=[1e-3, 80.0], quantiles=[None])
    assert found.termination.reason is TerminationReason.OPTIMAL
    assert "2 of 4" in found.termination.detail
    assert found.points == 4 * len(QuotaGrid.regular(32, 10)) * 100
    assert 0 < found.evaluated < found.points / 100
    assert not found.batch.flags.writeable
    assert found.feasible.tolist() == [[False, True], [False, True]]
    assert found.config(0, 0) is None
    assert np.isnan(found.latency_ms[0, 0])
    assert found.instances is None
    with pytest.raises(InvalidArgumentError, match="load_rps"):
        _ = found.total_share_milli
    nothing = sweep_quota([MODEL], slo_ms=1e-3, load_rps=5.0, quantiles=None)
    assert nothing.termination.reason is TerminationReason.INFEASIBLE
    assert nothing.instances is not None
    assert nothing.instances[0, 0] == -1
    assert nothing.total_share_milli[0] == 0
    assert nothing.fronts().batch.size == 0
    assert found.fronts([1]).function.tolist() == [1] * len(found.fronts([1]).batch)
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.batch, found.batch)
    assert not again.batch.flags.writeable
    assert np.array_equal(again.fronts().batch, found.fronts().batch)
    assert len({found, again, found}) == 2  # values of arrays: equal only to themselves


def test_loads_whose_shares_no_integer_holds_are_refused() -> None:
    """The greatest load is counted exactly; where instances or their shares would pass 2**53, the load is at fault."""
    asked = sweep_quota([MODEL], slo_ms=80.0, load_rps=MOST_RPS, quantiles=None)
    assert asked.instances is not None
    assert asked.share_milli is not None
    assert int(asked.instances[0, 0]) == math.ceil(MOST_RPS / asked.throughput_rps[0, 0])
    assert 0 < asked.total_share_milli[0] == asked.instances[0, 0] * asked.request_milli[0, 0]
    slow = RooflineModel(8e6, 0.2, 1.5, 1.2, 0.4, 3.0)  # some requests an hour
    for functions, loads in (([MODEL], 1e19), ([slow, MODEL], [1.0, MOST_RPS]), ([slow] * 2000, 1e12)):
        with pytest.raises(InvalidArgumentError) as caught:
            sweep_quota(functions, slo_ms=1e9, load_rps=loads, quantiles=None, grid=QuotaGrid((1, 2), (900, 1000)))
        assert caught.value.argument == "load_rps"


def test_an_element_at_fault_is_shown_as_a_plain_number() -> None:
    """No numpy type in the message."""
    with pytest.raises(
        InvalidArgumentError, match=r"^slo_ms holds nan at \(0, 1\); expected finite numbers above 0\.$"
    ):
        sweep_quota([MODEL], slo_ms=[5.0, float("nan")], quantiles=None)


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"fits": []}, "fits"),
        ({"fits": 3}, "fits"),
        ({"fits": np.array(MODEL, object)}, "fits"),
        ({"fits": ["model"]}, "fits[0]"),
        ({"quantiles": np.array(0.9)}, "quantiles"),
        ({"limits_milli": np.array(100)}, "limits_milli"),
        ({"quantiles": 0.95}, "fits[0]"),
        ({"quantiles": [None, 1.5]}, "quantiles[1]"),
        ({"quantiles": []}, "quantiles"),
        ({"slo_ms": [50.0, -1.0]}, "slo_ms"),
        ({"slo_ms": [[1.0], [2.0]]}, "slo_ms"),
        ({"slo_ms": "fast"}, "slo_ms"),
        ({"slo_ms": "100"}, "slo_ms"),
        ({"slo_ms": [b"1"]}, "slo_ms"),
        ({"slo_ms": True}, "slo_ms"),
        ({"slo_ms": np.array(["100"], object)}, "slo_ms"),
        ({"slo_ms": np.ma.array([5.0, 6.0], mask=[False, True])}, "slo_ms"),
        ({"slo_ms": np.timedelta64(1, "s")}, "slo_ms"),
        ({"slo_ms": 10**400}, "slo_ms"),
        ({"load_rps": 10**400}, "load_rps"),
        ({"load_rps": False}, "load_rps"),
        ({"load_rps": [float("nan")]}, "load_rps"),
        ({"gpus": []}, "gpus"),
        ({"gpus": ["H100"]}, "gpus[0]"),
        ({"gpus": [GpuScale("a"), GpuScale("a")]}, "gpus[1]"),
        ({"grid": 3}, "grid"),
        ({"limit_rule": 2}, "limit_rule"),
        ({"limits_milli": []}, "limits_milli"),
        ({"limits_milli": [0]}, "limits_milli[0]"),
        ({"limits_milli": 5}, "limits_milli"),
        ({"exec_fraction": 0}, "exec_fraction"),
        ({"backend": "tpu"}, "backend"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], argument: str) -> None:
    """The error names the argument and, where one element is at fault, its place."""
    arguments: dict[str, Any] = {"fits": [MODEL], "slo_ms": 50.0, "quantiles": None} | changes
    with pytest.raises(InvalidArgumentError) as caught:
        sweep_quota(arguments.pop("fits"), **arguments)
    assert caught.value.argument == argument
    found = sweep_quota([MODEL], slo_ms=50.0, quantiles=None)
    for call in (
        lambda: found.config(1, 0),
        lambda: found.config(0, -1),
        lambda: found.fronts([3]),
        lambda: found.fronts(np.array(0)),
    ):
        with pytest.raises(InvalidArgumentError):
            call()


@pytest.mark.parametrize("name", ["launch", "host", "fixed", "compute", "bandwidth", "scale_spread"])
def test_a_scale_must_be_positive(name: str) -> None:
    """Each factor by its name."""
    with pytest.raises(InvalidArgumentError) as caught:
        GpuScale("x", **{name: 0.0})
    assert caught.value.argument == name
