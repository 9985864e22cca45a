"""The traps of real profile tables: each is survived by the fit, and said aloud by its warnings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dilu_core.errors import InvalidArgumentError
from dilu_core.performance import RooflineModel
from dilu_core.profile_files import read_profiles
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fit_oracle import fit_latency_by_scipy
from dilu_core.solvers.fitting import fit_latency

TRUE = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.0)
BATCH, SHARE = (axis.ravel() for axis in np.meshgrid([1, 2, 4, 8, 16, 32], [100, 200, 400, 700, 1000], indexing="ij"))


def warned(samples: ProfileSamples, words: str) -> bool:
    return any(words in warning for warning in fit_latency(samples).diagnostics())


def test_clean_samples_raise_no_warning() -> None:
    """A table without faults is met without a word."""
    assert fit_latency(ProfileSamples(BATCH, SHARE, TRUE.latency_ms(BATCH, SHARE))).diagnostics() == ()


def test_neighbours_that_rise_with_share_are_named_and_not_followed() -> None:
    """A 31 % rise at more share leaves the model monotone and the rest of the surface right."""
    latency = TRUE.latency_ms(BATCH, SHARE).copy()
    latency[14] *= 1.31  # batch 4, the whole GPU
    samples = ProfileSamples(BATCH, SHARE, latency)
    fit = fit_latency(samples)
    assert warned(samples, "rises by more than 10% with more share in 1 of 24")
    assert (np.diff(fit.latency_ms(4, [100, 200, 400, 700, 1000])) <= 0).all()
    others = np.delete(np.arange(len(BATCH)), 14)
    error = fit.latency_ms(BATCH, SHARE)[others] / TRUE.latency_ms(BATCH, SHARE)[others] - 1
    assert np.abs(error).mean() < 0.02


@pytest.mark.parametrize("code", [0.0, -1.0, 9999.0])
def test_coded_failures_are_refused_or_dropped(code: float) -> None:
    """As latencies they are refused; dropped, they are counted and mentioned, and the fit is as without them."""
    latency = TRUE.latency_ms(BATCH, SHARE).copy()
    latency[[3, 17]] = code
    with pytest.raises(InvalidArgumentError, match=r"latency_ms\[3\]"):
        ProfileSamples(BATCH, SHARE, latency)
    samples = ProfileSamples.drop_failed(BATCH, SHARE, latency)
    assert warned(samples, "2 failed measurements dropped")
    np.testing.assert_allclose(fit_latency(samples).latency_ms(BATCH, SHARE), TRUE.latency_ms(BATCH, SHARE), rtol=0.01)


def test_repeats_that_contradict_each_other_are_named() -> None:
    """A cell measured at 10 ms and at 14 ms was not measured under one condition; 2 % apart is noise."""
    assert warned(ProfileSamples([1, 1, 2], [100, 100, 100], [10.0, 14.0, 15.0]), "factor of 1.4 (batch 1, share 100)")
    assert not warned(ProfileSamples([1, 1, 2], [100, 100, 100], [10.0, 10.2, 15.0]), "Repeated measurements")


def test_a_batch_that_repeats_another_is_named() -> None:
    """A profiler that ran out of inputs reports batch 16 again for batch 32."""
    latency = TRUE.latency_ms(np.minimum(BATCH, 16), SHARE) * (1 + 0.002 * (BATCH == 32))
    assert warned(ProfileSamples(BATCH, SHARE, latency), "Batch 32 repeats the latencies of batch 16")


def test_a_launch_bound_start_is_no_repetition() -> None:
    """Latency that has not begun to grow may well be the same at batch 1 and 2."""
    model = RooflineModel(40.0, 0.0, 0.1, 0.5, 0.0, 8.0)
    assert not warned(ProfileSamples(BATCH, SHARE, model.latency_ms(BATCH, SHARE)), "repeats")


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_batches_do_not_identify_the_model(count: int) -> None:
    """The fit says so, and its bound is wide at batches it has not seen."""
    few = count >= BATCH
    samples = ProfileSamples(BATCH[few], SHARE[few], TRUE.latency_ms(BATCH[few], SHARE[few]))
    fit = fit_latency(samples)
    assert not fit.identified
    assert warned(samples, f"Only {count} batch size")
    whole = fit_latency(ProfileSamples(BATCH, SHARE, TRUE.latency_ms(BATCH, SHARE)))
    margin = fit.upper_ms(32, 200) / fit.latency_ms(32, 200)
    assert margin > 1.05 * whole.upper_ms(32, 200) / whole.latency_ms(32, 200)


def test_whole_milliseconds_are_named_where_they_matter() -> None:
    """2 ms rounded to whole milliseconds may be 25 % off; 200 ms are not worth a word."""
    small = RooflineModel(2.0, 0.1, 0.3, 0.2).latency_ms(BATCH, SHARE).round().clip(1)
    assert warned(ProfileSamples(BATCH, SHARE, small), "whole milliseconds")
    assert not warned(ProfileSamples(BATCH, SHARE, (100 * small).round()), "whole milliseconds")


def test_llama2_of_the_published_table_repeats_its_last_batch(data_dir: Path) -> None:
    """The known fault of dilu_a100 is found, in llama2 alone."""
    tables = read_profiles(data_dir / "profiles" / "dilu_a100.csv")
    found = [name for name, samples in tables.items() if warned(samples, "Batch 32 repeats")]
    assert found == ["llama2"]


def test_bert_base_is_bound_by_its_host(data_dir: Path) -> None:
    """Above 20 % share its latency stands still; the fit follows and says so."""
    samples = read_profiles(data_dir / "profiles" / "dilu_a100.csv")["bert_base"]
    assert warned(samples, "more share buys nothing")
    flat = fit_latency(samples).latency_ms(32, [300, 1000])
    assert flat[0] / flat[1] < 1.1


def test_parvagpu_sevenths_and_milliseconds_fit(data_dir: Path) -> None:
    """MIG shares and rounded latencies are met to a few per cent, and the rounding is mentioned."""
    tables = read_profiles(data_dir / "profiles" / "parvagpu_a100.csv", note="n_proc=1")
    errors = [np.abs(np.expm1(fit_latency(samples).residuals)).mean() for samples in tables.values()]
    assert np.mean(errors) < 0.05
    assert warned(tables["vgg16"], "whole milliseconds")


def test_eight_samples_predict_the_published_tables(data_dir: Path) -> None:
    """From 8 cells, two corners and others at random, the mean error on the rest stays below 6 %, and is less than that
    of the plain objective minimised by scipy."""
    ours, by_scipy, covered = [], [], []
    for table, note in (("dilu_a100", None), ("igniter_v100", None), ("parvagpu_a100", "n_proc=1")):
        for position, samples in enumerate(read_profiles(data_dir / "profiles" / f"{table}.csv", note=note).values()):
            cells = samples.merged()
            cells = cells.select(cells.batch < 32) if samples.function == "llama2" else cells
            rng = np.random.default_rng(position)
            order = np.log(cells.batch) + np.log(cells.sm_milli)
            corners = {int(np.argmin(order)), int(np.argmax(order))}
            rows = [*corners, *[int(i) for i in rng.permutation(len(cells)) if i not in corners][: 8 - len(corners)]]
            rest = cells.select(np.setdiff1d(np.arange(len(cells)), rows))
            fit = fit_latency(cells.select(rows))
            ours.append(np.abs(fit.latency_ms(rest.batch, rest.sm_milli) / rest.latency_ms - 1).mean())
            plain, _ = fit_latency_by_scipy(cells.select(rows))
            by_scipy.append(np.abs(plain.latency_ms(rest.batch, rest.sm_milli) / rest.latency_ms - 1).mean())
            covered.append((rest.latency_ms <= fit.upper_ms(rest.batch, rest.sm_milli)).mean())
    assert np.mean(ours) < 0.06
    assert np.mean(ours) < np.mean(by_scipy)
    assert np.mean(covered) > 0.9


def test_a_table_that_no_roofline_describes_is_called_so() -> None:
    """Latency that halves as the batch doubles converges to a fit, and the fit says that it describes nothing."""
    samples = ProfileSamples([1, 2, 4, 8, 16, 32] * 2, [500] * 6 + [1000] * 6, [32.5, 16.0, 8.0, 4.0, 2.0, 1.0] * 2)
    assert warned(samples, "falls by more than 10% with a greater batch in 10 of 10")
    assert warned(samples, "off the fitted surface")


@pytest.mark.parametrize("noise", [0.1, 0.2])
def test_the_bound_widens_with_the_noise_of_measurements(noise: float) -> None:
    """Of a noisy function, fresh measurements stay below the bound nine times of ten, from 60 samples."""
    rng = np.random.default_rng(0)
    batch, share = np.tile(BATCH, 2), np.tile(SHARE, 2)
    mean = TRUE.latency_ms(batch, share)
    covered = []
    for _ in range(10):
        fit = fit_latency(ProfileSamples(batch, share, mean * np.exp(noise * rng.standard_normal(batch.size))))
        fresh = mean * np.exp(noise * rng.standard_normal(batch.size))
        covered.append((fresh <= fit.upper_ms(batch, share)).mean())
    assert np.mean(covered) > 0.88


def test_thousands_of_distinct_cells_are_fitted_and_asked() -> None:
    """3,000 samples at as many cells keep the surface small and right."""
    rng = np.random.default_rng(0)
    batch, share = rng.integers(1, 500, 3000), rng.integers(1, 1001, 3000)
    mean = TRUE.latency_ms(batch, share)
    fit = fit_latency(ProfileSamples(batch, share, mean * np.exp(0.05 * rng.standard_normal(3000)), failure_codes=()))
    assert np.abs(fit.latency_ms(batch, share) / mean - 1.0).mean() < 0.02
