"""search_llm_quota against brute force over its own definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from dilu_core.errors import BackendUnavailableError, InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.llm_fit import LlmFit
from dilu_core.performance import RooflineModel
from dilu_core.quota import LimitRule, QuotaConfig, QuotaGrid
from dilu_core.result import TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.llm_fitting import fit_llm
from dilu_core.solvers.llm_quota import search_llm_quota
from dilu_core.solvers.oracle import exhaustive_quota

rooflines = st.tuples(
    st.floats(-1, 3), st.floats(-6, 0), st.floats(-2, 3), st.floats(-4, 1), st.floats(-4, 1), st.floats(-0.5, 2)
).map(lambda logs: RooflineModel(*np.exp(logs).tolist()))
grids = st.builds(
    lambda batches, shares: QuotaGrid(tuple(batches), tuple(shares)),
    st.sets(st.integers(1, 48), min_size=1, max_size=6),
    st.sets(st.integers(50, 1000), min_size=1, max_size=10),
)


@st.composite
def llm_fits(draw: st.DrawFn) -> LlmFit:
    """Two fits to a few noisy samples each: bounds are wide in places, and not monotone."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    samples = []
    for batches in ([64, 128, 256, 512, 1024], [1, 2, 4, 8, 16, 32]):
        model, count = draw(rooflines), draw(st.integers(1, 10))
        batch, share = random.choice(batches, count), 50 * random.integers(1, 21, count)
        noisy = model.latency_ms(batch, share) * np.exp(0.1 * random.standard_normal(count))
        samples.append(ProfileSamples(batch, share, noisy, failure_codes=()))
    prompt, output = draw(st.integers(1, 2000)), draw(st.integers(2, 400))
    return fit_llm(
        *samples,
        prompt_tokens=prompt,
        output_tokens=output,
        ttft_prompt_tokens=draw(st.just(None) | st.integers(prompt, 4000)),
    )


def triple(config: QuotaConfig | None) -> tuple[int, int, int] | None:
    return None if config is None else (config.batch, config.request_milli, config.limit_milli)


def keeps(fit: LlmFit, batch: int, share: int, ttft_ms: float, tpot_ms: float, quantile: float | None) -> bool:
    """Whether a cell keeps both budgets, from the two surfaces alone, in plain numbers."""
    long = fit.prompt_tokens if fit.ttft_prompt_tokens is None else fit.ttft_prompt_tokens
    if quantile is None:
        step, typical, promised = (
            float(phase.latency_ms(at, share))
            for phase, at in ((fit.decode, batch), (fit.prefill, fit.prompt_tokens), (fit.prefill, long))
        )
    else:
        step, typical, promised = (
            float(phase.upper_ms(at, share, quantile))
            for phase, at in ((fit.decode, batch), (fit.prefill, fit.prompt_tokens), (fit.prefill, long))
        )
    stalled = step + (batch - 1) * typical / (fit.output_tokens - 1)
    return promised + step <= ttft_ms * (1 + 1e-9) and stalled <= tpot_ms * (1 + 1e-9)


@given(llm_fits(), grids, st.sampled_from([None, 0.3, 0.6, 0.95]), st.floats(0.5, 4), st.floats(0.5, 4), st.data())
def test_search_equals_brute_force(
    fit: LlmFit, grid: QuotaGrid, quantile: float | None, loose_ttft: float, loose_tpot: float, data: st.DataObject
) -> None:
    """Best, front and limits are those of the cells that keep both budgets and are not blocked, and no others."""
    cells = [(batch, share) for batch in grid.batches for share in grid.sm_milli]
    at = data.draw(st.sampled_from(cells))
    blocked = data.draw(st.lists(st.sampled_from(cells), max_size=3))
    rule = data.draw(st.sampled_from([LimitRule(), LimitRule(0.9, None), LimitRule(0.5, 1.0)]))
    ttft_ms, tpot_ms = loose_ttft * float(fit.ttft_ms(*at)), loose_tpot * float(fit.tpot_ms(*at))
    result = search_llm_quota(
        fit,
        ttft_slo_ms=2 * ttft_ms,
        tpot_slo_ms=tpot_ms,
        grid=grid,
        quantile=quantile,
        limit_rule=rule,
        blocked=blocked,
    )
    missed = [cell for cell in cells if not keeps(fit, *cell, ttft_ms, tpot_ms, quantile)]
    expected = exhaustive_quota(
        fit,
        grid.batches,
        grid.sm_milli,
        float("inf"),
        saturation=rule.throughput_fraction,
        request_factor=rule.request_factor,
        blocked=[*blocked, *missed],
    )
    assert triple(result.best) == expected.best
    assert tuple(map(triple, result.pareto)) == expected.pareto
    assert result.evaluated + result.pruned == len(grid)
    reason = TerminationReason.INFEASIBLE if expected.best is None else TerminationReason.OPTIMAL
    assert result.termination.reason is reason


@settings(max_examples=30)
@given(llm_fits(), st.floats(1, 3), st.floats(1, 3), st.floats(1, 3), st.floats(1, 3))
def test_looser_objectives_never_cost_efficacy(
    fit: LlmFit, loose_ttft: float, loose_tpot: float, more_ttft: float, more_tpot: float
) -> None:
    """Every feasible configuration stays feasible, so the best cannot fall."""
    grid = QuotaGrid.regular(32, 50)
    ttft, tpot = 2 * loose_ttft * float(fit.ttft_upper_ms(1, 1000)), loose_tpot * float(fit.tpot_upper_ms(1, 1000))
    tight = search_llm_quota(fit, ttft_slo_ms=ttft, tpot_slo_ms=tpot, grid=grid).best
    loose = search_llm_quota(fit, ttft_slo_ms=ttft * more_ttft, tpot_slo_ms=tpot * more_tpot, grid=grid).best
    assert tight is not None
    assert loose is not None
    assert loose.efficacy >= tight.efficacy * (1 - 1e-9)


FIT = fit_llm(
    ProfileSamples([128, 512, 2048, 128, 512, 2048], [500] * 3 + [1000] * 3, [30.0, 100, 400, 16, 50, 200]),
    ProfileSamples([1, 8, 32, 1, 8, 32], [500] * 3 + [1000] * 3, [10.0, 11, 15, 9, 9.5, 11]),
    prompt_tokens=500,
    output_tokens=101,
)


def test_throughput_counts_requests() -> None:
    """Latency and throughput of a configuration are those of whole requests, and its bound is the fit's."""
    result = search_llm_quota(FIT, ttft_slo_ms=500.0, tpot_slo_ms=50.0)
    assert result.best is not None
    for config in (result.best, *result.pareto):
        cell = config.batch, config.request_milli
        assert config.latency_ms == pytest.approx(float(FIT.latency_ms(*cell)))
        assert config.upper_ms == pytest.approx(float(FIT.upper_ms(*cell)))
        assert config.throughput_rps == pytest.approx(float(FIT.throughput_rps(*cell)))


def test_the_default_grid_extrapolates_neither_phase() -> None:
    """Shares start where both phases were measured; where the ranges do not meet, a whole GPU is left."""
    decode = ProfileSamples([1, 2, 4] * 2, [100] * 3 + [800] * 3, [40.0, 45, 50, 10, 11, 12])
    for least, shares in ((300, range(300, 801)), (900, [1000])):
        prefill = ProfileSamples([128, 256, 512], [least] * 3, [30.0, 60, 110])
        fit = fit_llm(prefill, decode, prompt_tokens=200, output_tokens=50)
        result = search_llm_quota(fit, ttft_slo_ms=1e6, tpot_slo_ms=1e6)
        assert result.pareto
        assert all(config.request_milli in shares for config in result.pareto)


def test_each_objective_binds_on_its_own() -> None:
    """A tight TPOT leaves fewer sequences, a tight TTFT forces a greater share."""
    free = search_llm_quota(FIT, ttft_slo_ms=5000.0, tpot_slo_ms=500.0).best
    few = search_llm_quota(FIT, ttft_slo_ms=5000.0, tpot_slo_ms=15.0).best
    wide = search_llm_quota(FIT, ttft_slo_ms=180.0, tpot_slo_ms=500.0).best
    assert free is not None
    assert few is not None
    assert wide is not None
    assert few.batch < free.batch
    assert wide.request_milli > free.request_milli


@pytest.mark.parametrize(
    ("ttft", "tpot", "said", "unsaid"),
    [
        (50.0, 500.0, "nothing meets the TTFT budget of 25 ms: least bound at quantile 0.95 ", "TPOT"),
        (5000.0, 5.0, "nothing meets the TPOT budget of 5 ms: least bound at quantile 0.95 ", "TTFT"),
        (50.0, 5.0, "; nothing meets the TPOT budget of 5 ms", "together"),
    ],
)
def test_an_objective_nothing_meets_is_named(ttft: float, tpot: float, said: str, unsaid: str) -> None:
    """The sentence tells which objective is out of reach and how close one can get, and is silent on the other."""
    result = search_llm_quota(FIT, ttft_slo_ms=ttft, tpot_slo_ms=tpot)
    assert (result.best, result.pareto) == (None, ())
    assert result.termination.reason is TerminationReason.INFEASIBLE
    assert said in result.termination.detail
    assert unsaid not in result.termination.detail


def test_objectives_met_only_by_blocked_cells() -> None:
    """Where all that keeps both is blocked, the sentence says so."""
    result = search_llm_quota(
        FIT, ttft_slo_ms=500.0, tpot_slo_ms=50.0, grid=QuotaGrid((8,), (1000,)), blocked=[(8, 1000)]
    )
    assert result.best is None
    assert "no cell that is not blocked meets" in result.termination.detail


class UnsureOfWideShares(LatencyFit):
    """A fit whose bound is twice its mean above half a GPU, as where nothing was measured there."""

    def upper_ms(self, batch: ArrayLike, sm_milli: ArrayLike, quantile: float = 0.95) -> NDArray[np.float64]:
        return self.latency_ms(batch, sm_milli) * np.where(np.asarray(sm_milli) > 500, 2.0, 1.0)


def test_objectives_that_nothing_meets_together() -> None:
    """Where the bound on prefill is surer at one share and decode faster at another, each SLO is met, never both."""
    flat = fit_latency(ProfileSamples([128, 512, 2048] * 2, [500] * 3 + [1000] * 3, [100.0] * 6))
    unsure = UnsureOfWideShares(flat.roofline, flat.samples, flat.family, flat.precision)
    fit = LlmFit(unsure, FIT.decode, 512, 1000)
    grid = QuotaGrid((1,), (500, 1000))
    ttft, tpot = fit.ttft_upper_ms(1, grid.sm_milli), fit.tpot_upper_ms(1, grid.sm_milli)
    assert ttft[0] < ttft[1]
    assert tpot[1] < tpot[0]
    result = search_llm_quota(fit, ttft_slo_ms=2 * float(ttft.mean()), tpot_slo_ms=float(tpot.mean()), grid=grid)
    assert result.best is None
    assert "together (TTFT: least bound" in result.termination.detail


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("ttft_slo_ms", {"ttft_slo_ms": 0.0}),
        ("ttft_slo_ms", {"ttft_slo_ms": "fast"}),
        ("tpot_slo_ms", {"tpot_slo_ms": float("nan")}),
        ("exec_fraction", {"exec_fraction": 1.5}),
        ("quantile", {"quantile": 1.0}),
        ("grid", {"grid": [1, 2]}),
        ("limit_rule", {"limit_rule": 2.0}),
        ("backend", {"backend": "tpu"}),
        ("blocked", {"blocked": 3}),
        ("blocked[0]", {"blocked": [5]}),
    ],
)
def test_bad_arguments_are_named(argument: str, changes: dict[str, Any]) -> None:
    """Each bad argument raises an error that names it."""
    with pytest.raises(InvalidArgumentError) as caught:
        search_llm_quota(FIT, **{"ttft_slo_ms": 500.0, "tpot_slo_ms": 50.0, **changes})
    assert caught.value.argument == argument


def test_what_is_no_llm_fit_is_refused() -> None:
    """One surface is not enough, and CUDA without CUDA is an error of its own."""
    with pytest.raises(InvalidArgumentError, match=r"^fit is .*expected an LlmFit"):
        search_llm_quota(FIT.decode, ttft_slo_ms=1.0, tpot_slo_ms=1.0)  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailableError):
        search_llm_quota(FIT, ttft_slo_ms=1.0, tpot_slo_ms=1.0, backend="cuda")
