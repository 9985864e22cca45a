"""fit_interference: known parameters come back, little is learnt from little, and what was not measured is said."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from dilu_core.errors import InvalidArgumentError
from dilu_core.interference import InterferenceModel, gpu_use, stall
from dilu_core.interference_samples import InterferenceSamples, read_interference
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import RooflineModel
from dilu_core.profile_files import read_profiles
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.interference_fit import InterferencePrior, fit_interference, measured_slowdown

MODELS = {
    "launches": RooflineModel(6.0, 0.05, 0.2, 0.3, 0.2, 2.0),
    "computes": RooflineModel(1.0, 0.05, 0.2, 2.0, 0.1, 2.0),
    "streams": RooflineModel(1.0, 0.05, 0.2, 0.5, 1.5, 2.0),
}
BATCHES, SHARES = (1, 4, 16), (200, 500, 800)
STRENGTH = {
    ("launches", "computes"): -3.2, ("launches", "streams"): -2.6, ("computes", "launches"): -3.9,
    ("computes", "streams"): -3.0, ("streams", "launches"): -3.4, ("streams", "computes"): -2.8,
}  # fmt: skip
WAITS, PRESSES = 3.0, 2.0
VAGUE = InterferencePrior(
    log_scale_sd=3.0, log_stall_weight_sd=3.0, log_use_weight_sd=3.0, function_sd=1.0, pair_sd=1.0
)


def solo_fits() -> dict[str, LatencyFit]:
    fits = {}
    for name, model in MODELS.items():
        batch, share = (axis.ravel() for axis in np.meshgrid(BATCHES, SHARES, indexing="ij"))
        fits[name] = fit_latency(ProfileSamples(batch, share, model.latency_ms(batch, share), function=name))
    return fits


FITS = solo_fits()


def true_excess(a: str, batch_a: int, share_a: int, b: str, batch_b: int, share_b: int) -> float:
    """By the fitted rooflines, so that only the interference is to be recovered."""
    waits = 1 + WAITS * float(stall(FITS[a].roofline, batch_a, share_a))
    presses = 1 + PRESSES * float(gpu_use(FITS[b].roofline, batch_b, share_b))
    return math.exp(STRENGTH[a, b]) * waits * presses


def synthetic(
    noise: float = 0.0, seed: int = 0, pairs: tuple[tuple[str, str], ...] = tuple(STRENGTH)
) -> InterferenceSamples:
    """Every cell of every pair, slowed by the formula, times noise."""
    rng = np.random.default_rng(seed)
    rows = [(a, ba, sa, b, bb, 1000 - sa) for a, b in pairs for ba in BATCHES for bb in BATCHES for sa in SHARES]
    alone = [float(MODELS[row[0]].latency_ms(row[1], row[2])) for row in rows]
    beside = [
        t * (1 + true_excess(*row)) * math.exp(noise * rng.standard_normal())
        for t, row in zip(alone, rows, strict=True)
    ]
    return InterferenceSamples(*map(list, zip(*rows, strict=True)), beside)  # type: ignore[arg-type]


def with_latencies(rows: InterferenceSamples, latency_ms: ArrayLike) -> InterferenceSamples:
    return InterferenceSamples(
        rows.function, rows.batch, rows.sm_milli, rows.co_function, rows.co_batch, rows.co_sm_milli, latency_ms
    )


def strength(model: InterferenceModel, a: str, b: str) -> tuple[float, float]:
    places = [*model.functions, ""]
    i, j = (places.index(name if name in places else "") for name in (a, b))
    return model.log_scale[i][j], model.spread[i][j]


def test_known_parameters_come_back() -> None:
    """Without noise and with vague beliefs, strengths and weights are those of the formula."""
    fit = fit_interference(synthetic(), FITS, prior=VAGUE)
    assert fit.excluded == 0
    assert fit.model.stall_weight == pytest.approx(WAITS, rel=0.05)
    assert fit.model.use_weight == pytest.approx(PRESSES, rel=0.05)
    for (a, b), truth in STRENGTH.items():
        assert strength(fit.model, a, b)[0] == pytest.approx(truth, abs=0.05)
    assert np.abs(fit.residuals).max() < 0.002


def test_noise_is_averaged_out() -> None:
    """With 2% noise on 27 cells a pair, every slowdown is recovered within 1.5% of latency."""
    fit = fit_interference(synthetic(0.02), FITS)
    clean = measured_slowdown(synthetic(), FITS)
    found = fit.slowdown / np.exp(fit.residuals)
    assert np.abs(found / clean - 1).max() < 0.015


def test_a_wild_measurement_changes_little() -> None:
    """One latency taken at five times its value moves no strength by more than a fifth."""
    rows = synthetic(0.01)
    wild = rows.latency_ms.copy()
    wild[3] *= 5
    spoilt = with_latencies(rows, wild)
    clean, bent = (fit_interference(each, FITS).model for each in (rows, spoilt))
    for a, b in STRENGTH:
        assert abs(strength(clean, a, b)[0] - strength(bent, a, b)[0]) < 0.2
    assert any("more than 10% off" in line for line in fit_interference(spoilt, FITS).diagnostics())


def test_a_mistaken_unit_is_said() -> None:
    """Microseconds taken for milliseconds fit well and mean nothing: the functions and their medians are named."""
    rows = synthetic(0.01)
    assert fit_interference(rows, FITS).diagnostics() == ()
    of_streams = np.array([name == "streams" for name in rows.function])
    for wrong, named in ((np.full(len(rows), True), set(MODELS)), (of_streams, {"streams"})):
        fit = fit_interference(with_latencies(rows, np.where(wrong, 1000.0, 1.0) * rows.latency_ms), FITS)
        (line,) = [line for line in fit.diagnostics() if "milliseconds?" in line]
        assert {name for name in MODELS if repr(name) in line} == named
        median = np.median(fit.slowdown[of_streams])
        assert median > 1000
        assert f"'streams' is {median:.3g}" in line


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("latency_ms", [1e300, 1.7e308, 1e-300, 5e-324])
def test_numbers_at_the_ends_of_floats_are_fitted_in_silence(latency_ms: float) -> None:
    """One such latency or nothing else: no floating-point warning, a finite model, and a diagnosis."""
    rows = synthetic()
    for some in (np.arange(len(rows)) == 3, np.full(len(rows), True)):
        fit = fit_interference(with_latencies(rows, np.where(some, latency_ms, rows.latency_ms)), FITS)
        assert np.isfinite(fit.residuals).all()
        assert np.isfinite(fit.model.log_scale).all()
        assert fit.diagnostics()


@pytest.mark.filterwarnings("error")
def test_ratios_beyond_every_float_are_fitted_in_silence() -> None:
    """The greatest latencies over stand-alone ones far below a millisecond: no warning, and a finite median."""
    batch, share = (axis.ravel() for axis in np.meshgrid(BATCHES, SHARES, indexing="ij"))
    tiny = {
        name: fit_latency(ProfileSamples(batch, share, 1e-3 * model.latency_ms(batch, share), function=name))
        for name, model in MODELS.items()
    }
    rows = synthetic()
    fit = fit_interference(with_latencies(rows, np.full(len(rows), 1.7e308)), tiny)
    assert np.isfinite(fit.slowdown).all()
    assert "inf" not in fit.diagnostics()[0]


def test_more_measurements_say_more() -> None:
    """Spread is least for a pair measured, more for one of functions measured apart, most for strangers."""
    some = tuple(pair for pair in STRENGTH if pair != ("launches", "streams"))
    model = fit_interference(synthetic(pairs=some), FITS).model
    seen, unseen = strength(model, "launches", "computes")[1], strength(model, "launches", "streams")[1]
    strangers = strength(model, "?", "!")[1]
    assert seen < unseen <= strangers


def test_one_measurement_pulls_only_so_far() -> None:
    """A lone cell moves its pair from the belief towards the measurement, not past it, and other pairs less."""
    alone = synthetic(pairs=(("launches", "streams"),)).select([4])
    prior = InterferencePrior()
    model = fit_interference(alone, FITS).model
    pulled = strength(model, "launches", "streams")[0] - prior.log_scale
    others = strength(model, "?", "!")[0] - prior.log_scale
    assert abs(others) < abs(pulled) < abs(STRENGTH["launches", "streams"] - prior.log_scale) + 0.5
    assert pulled > 0


def test_no_pairs_give_the_prior() -> None:
    """Nothing measured is the pooled model, and says so."""
    nothing = fit_interference(InterferenceSamples((), [], [], (), [], [], []), {})
    default = InterferenceModel.default()
    assert nothing.model.functions == ()
    assert nothing.model.log_scale[0][0] == pytest.approx(default.log_scale[0][0], abs=0.02)
    assert nothing.model.stall_weight == pytest.approx(default.stall_weight, rel=0.02)
    assert nothing.model.use_weight == pytest.approx(default.use_weight, rel=0.02)
    assert "the model is the prior alone" in nothing.diagnostics()[0]


def test_pairs_without_a_stand_alone_cell_are_left_out() -> None:
    """A slowdown is never taken against a prediction: the row is counted, and changes nothing."""
    rows = synthetic()
    odd = InterferenceSamples(
        (*rows.function, "computes"), [*rows.batch, 3], [*rows.sm_milli, 500], (*rows.co_function, "streams"),
        [*rows.co_batch, 4], [*rows.co_sm_milli, 500], [*rows.latency_ms, 500.0],
    )  # fmt: skip
    fit, without = fit_interference(odd, FITS), fit_interference(rows, FITS)
    assert fit.excluded == 1
    assert np.isnan(fit.slowdown[-1])
    assert "1 of 163 measurements have no stand-alone" in fit.diagnostics()[0]
    assert fit.model == without.model


def test_both_latencies_of_a_row_are_used() -> None:
    """Rows with the neighbour's latency fit as the same measurements written one by one."""
    one_way = synthetic(pairs=(("launches", "streams"), ("streams", "launches")))
    half = len(one_way) // 2
    key = {
        (f, b, s, g, c): t
        for f, b, s, g, c, t in zip(
            one_way.function, one_way.batch.tolist(), one_way.sm_milli.tolist(), one_way.co_function,
            one_way.co_batch.tolist(), one_way.latency_ms.tolist(), strict=True,
        )
    }  # fmt: skip
    first = one_way.select(range(half))
    beside = [
        key["streams", c, 1000 - s, "launches", b]
        for b, s, c in zip(first.batch.tolist(), first.sm_milli.tolist(), first.co_batch.tolist(), strict=True)
    ]
    both = InterferenceSamples(
        first.function, first.batch, first.sm_milli, first.co_function, first.co_batch, first.co_sm_milli,
        first.latency_ms, beside,
    )  # fmt: skip
    found, expected = fit_interference(both, FITS).model, fit_interference(one_way, FITS).model
    assert np.allclose(found.log_scale, expected.log_scale, atol=1e-5)
    assert np.allclose(found.spread, expected.spread, atol=1e-5)


@settings(max_examples=25)
@given(
    latencies=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
)
def test_whatever_was_measured_gives_a_model(latencies: list[float], seed: int) -> None:
    """Absurd latencies fit, end, and keep the model's promises; the fit is deterministic."""
    rng = np.random.default_rng(seed)
    names = list(MODELS)
    count = len(latencies)
    rows = InterferenceSamples(
        [names[i] for i in rng.integers(0, 3, count)], rng.choice(BATCHES, count), rng.choice(SHARES, count),
        [names[i] for i in rng.integers(0, 3, count)], rng.choice(BATCHES, count), rng.choice(SHARES, count), latencies,
    )  # fmt: skip
    fit = fit_interference(rows, FITS)
    assert InterferenceModel.from_dict(fit.model.to_dict()) == fit.model
    assert float(fit.model.excess("launches", 0.5, "streams", 0.5)) >= 0
    assert fit_interference(rows, FITS) == fit


def test_misuse_is_named() -> None:
    """What is no samples, no fits or no prior is refused by name; so are functions without a fit."""
    rows = synthetic()
    for argument, call in (
        ("samples", lambda: fit_interference([1], FITS)),  # type: ignore[arg-type]
        ("solo_fits", lambda: fit_interference(rows, [FITS])),  # type: ignore[arg-type]
        ("solo_fits", lambda: fit_interference(rows, {"launches": FITS["launches"]})),
        ("prior", lambda: fit_interference(rows, FITS, prior=0.3)),  # type: ignore[arg-type]
        ("noise", lambda: InterferencePrior(noise=0.0)),
        ("log_use_weight", lambda: InterferencePrior(log_use_weight=math.nan)),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            call()
        assert caught.value.argument == argument


def test_measured_pairs_are_told_better_than_by_their_mean(data_dir: Path) -> None:
    """On the published pairs, from every other cell, held-out slowdowns are closer than their mean is, and bounded."""
    fits = {name: fit_latency(each) for name, each in read_profiles(data_dir / "profiles" / "igniter_v100.csv").items()}
    pairs = read_interference(data_dir / "interference" / "igniter_v100_pairs.csv")
    train, test = (pairs.select(np.arange(len(pairs)) % 2 == side) for side in (0, 1))
    model = fit_interference(train, fits).model
    rows = test.directed()
    measured = measured_slowdown(rows, fits)
    excess: dict[float | None, list[float]] = {None: [], 0.95: []}
    for a, ba, sa, b, bb, sb in zip(
        rows.function, rows.batch, rows.sm_milli, rows.co_function, rows.co_batch, rows.co_sm_milli, strict=True
    ):
        waits, use = stall(fits[a].roofline, ba, sa), gpu_use(fits[b].roofline, bb, sb)
        for quantile, values in excess.items():
            values.append(float(model.excess(a, waits, b, use, quantile=quantile)))
    mean = measured_slowdown(train.directed(), fits).mean()
    error = np.abs(1 + np.array(excess[None]) - measured).mean()
    assert error < 0.6 * np.abs(mean - measured).mean()
    assert 0.88 < (measured <= 1 + np.array(excess[0.95])).mean() < 0.99
