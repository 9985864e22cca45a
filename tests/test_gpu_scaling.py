"""Priors carried from one GPU type to another: the centre by the stated rules, the doubt added, and that it helps."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.gpu_scaling import GPU_PEAKS, GpuPeaks, transfer_prior
from dilu_core.latency_fit import LatencyFit
from dilu_core.latency_prior import GENERAL_PRIOR, LatencyPrior
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency

GRID = [(b, s) for b in (1, 2, 4, 8, 16, 32) for s in (100, 200, 400, 700, 1000)]
BATCH, SHARE = np.array(GRID).T
TRUE = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.9, 3.5)
TIMES = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
OLD, NEW = GpuPeaks("old", 100.0, 800.0, 80), GpuPeaks("new", 400.0, 1600.0, 160)


def measure(model: RooflineModel, cells: list[tuple[int, int]], noise: float = 0.0, seed: int = 0) -> ProfileSamples:
    batch, share = np.array(cells).T
    factor = np.exp(noise * np.random.default_rng(seed).standard_normal(len(cells)))
    return ProfileSamples(batch, share, model.latency_ms(batch, share) * factor)


def scaled(model: RooflineModel, deviations: list[float] | None = None) -> RooflineModel:
    """The function on NEW by the rules of the module, each parameter off by exp(deviation)."""
    by_rule = np.array(model.parameters) * [math.sqrt(0.5), 1.0, math.sqrt(1 / 8), 1 / 4, 1 / 2, 1.0]
    return RooflineModel(*(by_rule * np.exp(deviations or [0.0] * 6)).tolist())


def fit_of(family: str) -> LatencyFit:
    return fit_latency(measure(TRUE, GRID), family=family)


def error(fit: LatencyFit, model: RooflineModel) -> float:
    """Mean absolute log error over the grid."""
    return float(np.abs(np.log(fit.latency_ms(BATCH, SHARE) / model.latency_ms(BATCH, SHARE))).mean())


def center(prior: LatencyPrior, family: str) -> np.ndarray:
    return prior.family(family).center  # type: ignore[arg-type]


def test_each_time_follows_its_resource() -> None:
    """Compute 4-fold, bandwidth 2-fold, an SM 2-fold as fast: w / 4, d / 2, m / sqrt(8), L / sqrt(2), h and p stay."""
    fit = fit_of("bandwidth")
    for family in ("compute", "bandwidth"):
        shift = center(transfer_prior(fit, OLD, NEW), family) - np.log(fit.roofline.parameters)
        expected = [-math.log(2) / 2, 0.0, -math.log(8) / 2, -math.log(4), -math.log(2), 0.0]
        np.testing.assert_allclose(shift, expected, atol=1e-12)


@pytest.mark.parametrize("family", ["compute", "bandwidth"])
def test_the_same_gpu_leaves_the_center_alone(family: str) -> None:
    """From a type to itself, by name or by value, the centre is the fit, to the last bit where it is defined."""
    fit = fit_of(family)
    kept = np.array(fit.roofline.parameters) > 0
    for prior in (transfer_prior(fit, "T4", "T4"), transfer_prior(fit, GPU_PEAKS["T4"], "T4")):
        np.testing.assert_array_equal(center(prior, family)[kept], np.log(np.array(fit.roofline.parameters)[kept]))
        assert prior.scale_known


names = st.sampled_from(sorted(GPU_PEAKS))


@given(names, names, names, st.sampled_from(["compute", "bandwidth"]))
def test_shifts_add_up(one: str, two: str, three: str, family: str) -> None:
    """By way of another GPU type or directly: the same centre; there and back again: the fit."""
    fit = FITS[family]
    start = center(transfer_prior(fit, one, one), "bandwidth")

    def shift(source: str, target: str) -> np.ndarray:
        return center(transfer_prior(fit, source, target), "bandwidth") - start

    np.testing.assert_allclose(shift(one, two) + shift(two, three), shift(one, three), atol=1e-12)
    np.testing.assert_allclose(shift(one, two), -shift(two, one), atol=1e-12)


FITS = {family: fit_of(family) for family in ("compute", "bandwidth")}


@given(st.floats(0.01, 3.0))
def test_the_doubt_is_the_one_stated(whole: float) -> None:
    """The fit's covariance, a spread for every parameter, and one for the function as a whole."""
    fit = FITS["bandwidth"]
    added = transfer_prior(fit, OLD, NEW, scale_spread=whole).bandwidth.covariance - fit.covariance
    spreads = np.diag(np.square([1.0, 1.5, 1.5, 0.5, 1.0, 0.5]))
    np.testing.assert_allclose(added, spreads + whole**2 * np.outer(TIMES, TIMES), atol=1e-9)


def test_no_bandwidth_term_in_the_fit_is_no_word_against_one() -> None:
    """A fit without it leaves d to the general prior, so that 12 samples on the target bring it in."""
    fit = fit_latency(measure(RooflineModel(8.0, 0.2, 1.5, 1.2), GRID), family="compute")
    prior = transfer_prior(fit, OLD, NEW)
    general = GENERAL_PRIOR.center_for("bandwidth", fit.samples)[4] - math.log(2)
    assert prior.bandwidth.center[4] == pytest.approx(general)
    assert prior.bandwidth.covariance[4, 4] >= GENERAL_PRIOR.bandwidth.covariance[4, 4]
    np.testing.assert_array_equal(np.delete(prior.bandwidth.center, 4), np.delete(prior.compute.center, 4))
    streaming = RooflineModel(5.7, 0.2, 0.5, 0.3, 1.5)
    samples = measure(streaming, [(b, s) for b in (1, 8, 32) for s in (100, 300, 600, 1000)])
    found = fit_latency(samples, prior=prior)
    assert found.family == "bandwidth"
    assert found.roofline.bandwidth_ms == pytest.approx(1.5, rel=0.1)
    assert error(found, streaming) < 0.02


def test_one_sample_with_the_transferred_prior_beats_one_without() -> None:
    """Over 40 functions that scale by the rules to 10 %: a third of the error, and better 9 times in 10."""
    rng = np.random.default_rng(1)
    without, informed = [], []
    for seed in range(40):
        model = RooflineModel(*np.exp(np.log(TRUE.parameters) + 0.5 * rng.standard_normal(6)).tolist())
        fit = fit_latency(measure(model, GRID[seed % 2 :: 2], 0.03, seed))
        target = scaled(model, (0.1 * rng.standard_normal(6)).tolist())
        sample = measure(target, [GRID[int(rng.integers(len(GRID)))]], 0.03, seed)
        without.append(error(fit_latency(sample), target))
        informed.append(error(fit_latency(sample, prior=transfer_prior(fit, OLD, NEW)), target))
    assert np.mean(informed) < np.mean(without) / 3
    assert np.mean(np.array(informed) < without) >= 0.9


def test_many_samples_on_the_target_overrule_the_peaks() -> None:
    """A function five times slower than the peaks promise, from 30 samples: no worse than without the prior."""
    slower = scaled(TRUE, [1.6] * 5 + [0.0])
    samples = measure(slower, GRID, 0.03, 3)
    prior = transfer_prior(FITS["bandwidth"], OLD, NEW)
    assert error(fit_latency(samples, prior=prior), slower) < error(fit_latency(samples), slower) + 0.01


def test_more_doubt_of_the_whole_widens_the_bound() -> None:
    """Without a sample nearby, the bound of a fit to one sample grows with scale_spread."""
    sample = measure(scaled(TRUE), [(1, 1000)])
    widths = []
    for spread in (0.01, 0.5, 3.0):
        fit = fit_latency(sample, prior=transfer_prior(FITS["bandwidth"], OLD, NEW, scale_spread=spread))
        widths.append(float(fit.leverage(32, 100)))
    assert widths[0] < widths[1] < widths[2]


def test_the_prior_says_where_it_comes_from_and_survives_json() -> None:
    """Both GPU types and the function in the provenance; read back it is equal and fits the same."""
    samples = ProfileSamples(BATCH, SHARE, TRUE.latency_ms(BATCH, SHARE), function="bert", gpu_type="T4")
    prior = transfer_prior(fit_latency(samples), "T4", "L4")
    assert (prior.gpu_type, prior.functions) == ("L4", 1)
    assert all(word in prior.provenance for word in ("bert", "T4", "L4"))
    again = LatencyPrior.from_dict(json.loads(json.dumps(prior.to_dict())))
    assert again == prior
    sample = measure(TRUE, [(4, 300)])
    assert fit_latency(sample, prior=again) == fit_latency(sample, prior=prior)


def test_peaks_are_listed_by_their_names() -> None:
    """Every entry is found under the name it carries, survives JSON, and newer is not slower in what it is sold for."""
    for name, peaks in GPU_PEAKS.items():
        assert peaks.name == name
        assert GpuPeaks.from_dict(json.loads(json.dumps(peaks.to_dict()))) == peaks
    order = [GPU_PEAKS[name] for name in ("T4", "V100-SXM2-16GB", "A100-SXM4-40GB", "H100-SXM5-80GB")]
    assert [peaks.tflops for peaks in order] == sorted(peaks.tflops for peaks in order)
    assert [peaks.bandwidth_gb_s for peaks in order] == sorted(peaks.bandwidth_gb_s for peaks in order)


def test_extreme_peaks_are_served() -> None:
    """Ratios beyond floats are taken in logs."""
    prior = transfer_prior(FITS["bandwidth"], GpuPeaks("a", 5e-324, 1e30, 2**50), GpuPeaks("b", 1e-20, 1e-200, 1))
    assert np.isfinite(prior.bandwidth.center).all()


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        *(({"fit": value}, "fit") for value in (None, "x", TRUE, measure(TRUE, GRID))),
        *(({"source": value}, "source") for value in (None, "", "B200", 4, True, ["T4"], np.array(["T4"]), {})),
        *(({"target": value}, "target") for value in (None, "", "t4", float("nan"), ("T4",))),
        *(({"scale_spread": value}, "scale_spread") for value in (0, -1, None, "x", True, float("nan"), 1e200)),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], argument: str) -> None:
    """The error names the argument, and for a GPU type lists those that are known."""
    with pytest.raises(InvalidArgumentError) as caught:
        transfer_prior(**({"fit": FITS["compute"], "source": "T4", "target": "L4"} | changes))  # type: ignore[arg-type]
    assert caught.value.argument == argument
    assert argument not in ("source", "target") or "H100-SXM5-80GB" in caught.value.message


@pytest.mark.parametrize("key", ["name", "tflops", "bandwidth_gb_s", "sms"])
@pytest.mark.parametrize("value", ["absent", None, "", 0, -1, float("nan"), float("inf"), True, [1], 10**400])
def test_impossible_peaks_are_refused(key: str, value: object) -> None:
    """The error names the field, in a call as in a document."""
    if value != "absent":
        with pytest.raises(InvalidArgumentError) as caught:
            GpuPeaks(**({"name": "a", "tflops": 1.0, "bandwidth_gb_s": 1.0, "sms": 1} | {key: value}))  # type: ignore[arg-type]
        assert caught.value.argument == key
    document = {**OLD.to_dict(), key: value}
    if value == "absent":
        del document[key]
    with pytest.raises(InvalidArgumentError) as caught:
        GpuPeaks.from_dict(document)
    assert caught.value.argument == f"gpu_peaks.{key}"


@pytest.mark.parametrize("document", [None, [], {}, {**OLD.to_dict(), "version": 2}])
def test_what_is_no_document_of_peaks_is_refused(document: object) -> None:
    """No mapping, no version, another version."""
    with pytest.raises(InvalidArgumentError, match="gpu_peaks"):
        GpuPeaks.from_dict(document)  # type: ignore[arg-type]
