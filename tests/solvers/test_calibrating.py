"""calibrate: known answers, quantiles against their definition, coverage of fresh functions, and the bound it moves."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dilu_core.calibration import LEVERAGE_CAP, QUANTILES, SPREAD_FLOOR, Calibration, shipped_calibration
from dilu_core.errors import InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.calibrating import calibrate, normalised_errors, weighted_quantiles
from dilu_core.solvers.fitting import fit_latency, fit_latency_many

GRID = [(b, s) for b in (1, 2, 4, 8, 16, 32) for s in (100, 200, 400, 700, 1000)]
TRUE = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.5)
KNOWN = np.array(GRID[::4]).T
FIT = fit_latency(ProfileSamples(KNOWN[0], KNOWN[1], TRUE.latency_ms(KNOWN[0], KNOWN[1])))


def with_scores(fit: LatencyFit, scores: list[float]) -> ProfileSamples:
    """Measurements whose normalised errors are these."""
    batch, share = np.array([GRID[i % len(GRID)] for i in range(len(scores))]).T
    latency = fit.latency_ms(batch, share) * np.exp(np.array(scores) * fit.spread(batch, share))
    return ProfileSamples(batch, share, latency, failure_codes=())


def quantile_by_definition(scores: list[list[int]], wanted: Fraction) -> int:
    """The least score that, with those below it, holds the mass q: n of n + 1 parts of it, spread evenly over the
    functions and within each; the greatest score where none does."""
    count = sum(len(own) for own in scores)
    for candidate in sorted({score for own in scores for score in own}):
        parts = [Fraction(sum(score <= candidate for score in own), len(own)) for own in scores]
        if sum(parts, Fraction(0)) / len(scores) * Fraction(count, count + 1) >= wanted:
            return candidate
    return max(max(own) for own in scores)


score_sets = st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=8), min_size=1, max_size=6)


@given(score_sets, st.lists(st.integers(1, 99), min_size=1, max_size=5))
def test_weighted_quantiles_are_those_of_the_definition(scores: list[list[int]], percents: list[int]) -> None:
    """Counted in fractions, over functions of unequal numbers of scores, ties among them."""
    found = weighted_quantiles([np.array(own, dtype=float) for own in scores], [q / 100 for q in percents])
    assert found.tolist() == [quantile_by_definition(scores, Fraction(q, 100)) for q in percents]


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_scores_of_equal_weight_give_the_order_statistic(count: int, quantile: float, seed: int) -> None:
    """One score per function, or one function of all: the ceil((n + 1) q)-th smallest, at most the greatest."""
    scores = np.random.default_rng(seed).standard_normal(count)
    rank = min(math.ceil((count + 1) * quantile - 1e-9), count)
    expected = np.sort(scores)[rank - 1]
    assert weighted_quantiles([scores], [quantile])[0] == expected
    assert weighted_quantiles(list(scores[:, None]), [quantile])[0] == expected


def test_nine_scores_known_by_hand() -> None:
    """1 to 9: the decile is the first, the median the fifth, the ninth decile the ninth, and so is all beyond."""
    held_out = with_scores(FIT, [3.0, 1.0, 2.0, 9.0, 8.0, 7.0, 4.0, 6.0, 5.0])
    table = calibrate([FIT], [held_out], quantiles=(0.1, 0.5, 0.9, 0.99), provenance="by hand")
    assert table.levels == pytest.approx((1.0, 5.0, 9.0, 9.0))
    assert (table.functions, table.scores, table.provenance) == (1, 9, "by hand")


def test_normalised_errors_are_log_errors_over_the_stated_spread() -> None:
    """log(measured / predicted) / sqrt(sigma^2 min(v, cap) + floor^2), the leverage capped far from the samples."""
    samples = ProfileSamples([1, 8, 4096], [300, 50, 1], [11.0, 50.0, 9e6])
    leverage = np.minimum(FIT.leverage(samples.batch, samples.sm_milli), LEVERAGE_CAP)
    spread = np.sqrt(FIT.scatter**2 * leverage + max(SPREAD_FLOOR, FIT.scatter) ** 2)
    error = np.log(samples.latency_ms / FIT.model.latency_ms(samples.batch, samples.sm_milli))
    np.testing.assert_allclose(normalised_errors(FIT, samples), error / spread)


def test_functions_weigh_the_same_whatever_their_numbers() -> None:
    """Ninety scores of 0 from one function and ten of 1 from another: half the mass is 1."""
    many, few = with_scores(FIT, [0.0] * 90), with_scores(FIT, [1.0] * 10)
    table = calibrate([FIT, FIT], [many, few], quantiles=(0.4, 0.6))
    assert table.levels == pytest.approx((0.0, 1.0), abs=1e-9)
    assert (table.functions, table.scores) == (2, 100)
    one_function = calibrate([FIT, FIT], [many, few], quantiles=(0.4, 0.6), groups=["a", "a"])
    assert one_function.levels == pytest.approx((0.0, 0.0), abs=1e-9)
    assert one_function.functions == 1


@given(st.integers(0, 10**6))
def test_groups_pool_and_order_does_not_matter(seed: int) -> None:
    """Held-out cells of one function in two portions, or the pairs in another order: the same calibration."""
    rng = np.random.default_rng(seed)
    scores = [rng.standard_normal(8).tolist() for _ in range(4)]
    halves = [with_scores(FIT, own[half]) for own in scores for half in (slice(0, 3), slice(3, 8))]
    names = [name for name in "abcd" for _ in range(2)]
    order = rng.permutation(8)
    found = calibrate([FIT] * 8, [halves[i] for i in order], groups=[names[i] for i in order])
    whole = calibrate([FIT] * 4, [with_scores(FIT, own) for own in scores])
    assert found.levels == pytest.approx(whole.levels)
    assert (found.functions, found.scores) == (4, 32)


@given(st.lists(st.floats(-300, 300), min_size=1, max_size=12), st.integers(1, 4))
def test_levels_never_fall_and_too_few_scores_give_the_greatest(scores: list[float], functions: int) -> None:
    """Whatever the scores: levels rise with the quantile, and one beyond n / (n + 1) gets the greatest score."""
    beyond = functions * len(scores) / (functions * len(scores) + 1) + 1e-6
    held_out = [with_scores(FIT, scores)] * functions
    table = calibrate([FIT] * functions, held_out, quantiles=(0.05, 0.3, 0.5, beyond))
    assert list(table.levels) == sorted(table.levels)
    assert table.levels[-1] == pytest.approx(max(scores), abs=1e-6)


def test_one_more_score_is_covered_as_often_as_promised() -> None:
    """Of nine uniform scores the 0.8 quantile covers 8 of 10 further ones: its mean over 20,000 draws is 0.8."""
    rng = np.random.default_rng(0)
    covered = [weighted_quantiles([own], [0.8])[0] for own in rng.uniform(size=(20_000, 9))]
    assert np.mean(covered) == pytest.approx(0.8, abs=0.006)  # seven standard errors


def drawn(seed: int, count: int) -> tuple[list[LatencyFit], list[ProfileSamples]]:
    """Fits from 6 samples of random rooflines, none of them quite a roofline, and 6 other measurements of each."""
    rng = np.random.default_rng(seed)
    known, held_out = [], []
    for _ in range(count):
        logs = np.log(TRUE.parameters) + rng.normal(0, [0.6] * 5 + [0.2]) + rng.normal(0, 1.0) * np.array([1] * 5 + [0])
        model = RooflineModel(*np.exp(logs).tolist())
        cells = np.array(GRID)[rng.choice(len(GRID), 12, replace=False)]
        wave = 0.05 * np.sin(3 * np.log(cells[:, 0]) + rng.uniform(0, 6)) * np.sin(2 * np.log(cells[:, 1]))
        latency = model.latency_ms(cells[:, 0], cells[:, 1]) * np.exp(wave + 0.03 * rng.standard_normal(12))
        known.append(ProfileSamples(cells[:6, 0], cells[:6, 1], latency[:6], failure_codes=()))
        held_out.append(ProfileSamples(cells[6:, 0], cells[6:, 1], latency[6:], failure_codes=()))
    return fit_latency_many(known), held_out


def coverage(fits: list[LatencyFit], held_out: list[ProfileSamples], quantile: float) -> float:
    inside: list[NDArray[np.bool_]] = [
        samples.latency_ms <= fit.upper_ms(samples.batch, samples.sm_milli, quantile)
        for fit, samples in zip(fits, held_out, strict=True)
    ]
    return float(np.mean(inside))


def test_fresh_functions_are_covered_at_the_nominal_rate() -> None:
    """Calibrated on 400 functions, tested on 400 others: within 5 standard errors, as if each function were one cell
    (two samples of 400: sqrt(2 q (1 - q) / 400))."""
    table = calibrate(*drawn(1, 400))
    fits, held_out = drawn(2, 400)
    calibrated = [fit.with_calibration(table) for fit in fits]
    for quantile in (0.75, 0.9, 0.95):
        margin = 5 * math.sqrt(2 * quantile * (1 - quantile) / 400)
        assert abs(coverage(calibrated, held_out, quantile) - quantile) < margin
    assert table.functions == 400
    assert table.scores == 2400


def test_a_calibration_of_biased_predictions_corrects_them() -> None:
    """Where everything is 30 % slower than predicted the bound rises; where all is exact it is the prediction."""
    batch, share = np.array(GRID).T
    held_out = ProfileSamples(batch, share, 1.3 * FIT.latency_ms(batch, share))
    table = calibrate([FIT] * 5, [held_out] * 5)
    raised = FIT.with_calibration(table).upper_ms(batch, share, 0.75) / FIT.latency_ms(batch, share)
    assert 0.75 <= np.mean(raised >= 1.3 * (1 - 1e-9)) <= 0.8  # the same factor is more spreads where the fit is surer
    exact = ProfileSamples(batch, share, FIT.latency_ms(batch, share))
    certain = FIT.with_calibration(calibrate([FIT], [exact]))
    np.testing.assert_allclose(certain.upper_ms(batch, share, 0.99), FIT.latency_ms(batch, share), rtol=1e-9)


def test_the_bound_rests_on_the_calibration_it_is_given() -> None:
    """upper = mean * exp(level * spread) with the level of the table; nothing else of the fit moves; None goes back."""
    table = Calibration((0.1, 0.5, 0.95), (-1.0, 0.0, 4.0))
    moved = FIT.with_calibration(table)
    batch, share = np.array(GRID).T
    expected = FIT.latency_ms(batch, share) * np.exp(4.0 * FIT.spread(batch, share))
    np.testing.assert_allclose(moved.upper_ms(batch, share), expected)
    np.testing.assert_array_equal(moved.latency_ms(batch, share), FIT.latency_ms(batch, share))
    assert moved.error_quantile(0.95) == 4.0
    assert moved != FIT
    assert moved.with_calibration(None) == FIT
    assert FIT.error_quantile(0.95) == shipped_calibration().level(0.95)


def test_fits_keep_their_calibration_through_json_and_fit_latency_sets_it() -> None:
    """Read back it is equal, and asked for at the fit it is the same as put on later."""
    table = calibrate([FIT], [with_scores(FIT, [-1.0, 0.0, 2.0, 5.0])], provenance="here")
    moved = FIT.with_calibration(table)
    again = LatencyFit.from_dict(json.loads(json.dumps(moved.to_dict())))
    assert again == moved
    assert again.calibration == table
    np.testing.assert_array_equal(again.upper_ms(8, [100, 900]), moved.upper_ms(8, [100, 900]))
    assert fit_latency(FIT.samples, calibration=table) == moved
    assert fit_latency_many([FIT.samples], calibration=table)[0] == moved
    with pytest.raises(InvalidArgumentError) as caught:
        LatencyFit.from_dict({**moved.to_dict(), "calibration": {"version": 1}})
    assert "quantiles" in caught.value.argument


HELD_OUT = with_scores(FIT, [0.0, 1.0])


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        *(({"fits": value}, "fits") for value in (None, 3, "x", [], FIT, np.array(3))),
        *(({"fits": value}, "fits[0]") for value in ([None], [HELD_OUT, FIT], ["x", FIT])),
        *(({"held_out": value}, "held_out") for value in (None, 3, "x", [], [HELD_OUT], [HELD_OUT] * 3)),
        ({"held_out": [HELD_OUT, FIT]}, "held_out[1]"),
        *(({"groups": value}, "groups") for value in (3, True, "ab", [], ["a"], ["a"] * 3, np.array(3))),
        *(({"groups": value}, "groups[1]") for value in (["a", []], ["a", {}], ["a", ("b", ["c"])])),
        *(({"quantiles": value}, "quantiles") for value in (None, 0.5, "x", [], [0.5], [0.9, 0.1], [0.1, 0.1])),
        *(
            ({"quantiles": value}, "quantiles")
            for value in ([0.0, 0.5], [0.5, 1.0], [0.5, float("nan")], ["0.1", "0.5"])
        ),
        *(({"quantiles": value}, "quantiles") for value in ([0.1, 10**400], [[0.1, 0.5]], [0.5, "x"], {"a": 0.5})),
        *(({"provenance": value}, "provenance") for value in (None, 5)),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], argument: str) -> None:
    """The error names the argument, and where it can the entry."""
    with pytest.raises(InvalidArgumentError) as caught:
        calibrate(**({"fits": [FIT, FIT], "held_out": [HELD_OUT, HELD_OUT]} | changes))  # type: ignore[arg-type]
    assert caught.value.argument == argument


def test_anything_that_can_be_listed_serves() -> None:
    """Generators of fits and samples, arrays of groups and quantiles."""
    expected = calibrate([FIT, FIT], [HELD_OUT, HELD_OUT], groups=["a", "b"], quantiles=(0.1, 0.9))
    listed = {"fits": (FIT for _ in range(2)), "held_out": iter([HELD_OUT] * 2)}
    found = calibrate(**listed, groups=np.arange(2), quantiles=np.array([0.1, 0.9]))  # type: ignore[arg-type]
    assert found == expected
    assert calibrate([FIT], [HELD_OUT]).quantiles == QUANTILES
