"""Why a bound is as wide as it is: each reason where it holds, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from dilu_core.calibration import LEVERAGE_CAP
from dilu_core.errors import InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.upper_bound import UpperBound, reasons_for_width

TRUE = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.5)
BATCH, SHARE = (axis.ravel() for axis in np.meshgrid([1, 2, 4, 8, 16, 32], [100, 200, 400, 700, 1000], indexing="ij"))
WELL = ProfileSamples(BATCH, SHARE, TRUE.latency_ms(BATCH, SHARE))


def fit_of(batch: ArrayLike, share: ArrayLike, noise: float = 0.0) -> LatencyFit:
    latency = TRUE.latency_ms(batch, share)
    factor = np.exp(np.random.default_rng(1).normal(0, noise, latency.size))
    return fit_latency(ProfileSamples(batch, share, latency * factor))


def expected_reasons(
    samples: ProfileSamples, leverage: float, scatter: float, batch: int, share: int
) -> dict[str, bool]:
    """Words of each sentence, and whether it should be there."""
    unsure = leverage >= 1.0
    return {
        "next to nothing": leverage >= LEVERAGE_CAP,
        "times as uncertain as one": unsure and leverage < LEVERAGE_CAP,
        "The batch ": unsure and not samples.batch.min() <= batch <= samples.batch.max(),
        "The share ": unsure and not samples.sm_milli.min() <= share <= samples.sm_milli.max(),
        "batch size": unsure and len(set(samples.batch.tolist())) < 3,
        "Only one share": unsure and len(set(samples.sm_milli.tolist())) < 2,
        "scatter by": scatter >= 0.075,
    }


@given(
    st.lists(st.tuples(st.sampled_from([2, 4, 8, 16]), st.sampled_from([200, 500, 800])), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5, 0.999, 1.0, 7.0, 63.9, 64.0, 1e9]),
    st.sampled_from([0.01, 0.0749, 0.0751, 0.5]),
    st.sampled_from([1, 2, 5, 16, 17]),
    st.sampled_from([100, 200, 600, 800, 1000]),
)
def test_each_reason_stands_exactly_where_it_holds(
    cells: list[tuple[int, int]], leverage: float, scatter: float, batch: int, share: int
) -> None:
    """Every sentence is there if and only if its condition, stated anew, is met; none is said twice."""
    batches, shares = zip(*cells, strict=True)
    samples = ProfileSamples(batches, shares, np.full(len(cells), 10.0))
    found = reasons_for_width(samples, leverage, scatter, batch, share)
    for words, holds in expected_reasons(samples, leverage, scatter, batch, share).items():
        assert sum(words in sentence for sentence in found) == holds, words
    assert len(found) == sum(expected_reasons(samples, leverage, scatter, batch, share).values())


def test_sentences_count_and_name_what_was_measured() -> None:
    """One batch size, two batch sizes, the ranges, and how uncertain."""
    one = ProfileSamples([4], [300], [10.0])
    assert reasons_for_width(one, 9.0, 0.02, 8, 100) == (
        "The samples leave this cell 3.0 times as uncertain as one measurement would.",
        "The batch 8 lies beyond the measured ones, 4..4.",
        "The share 100 lies beyond the measured ones, 300..300.",
        "Only 1 batch size measured: growth with the batch rests on belief.",
        "Only one share measured: what more share saves rests on belief.",
    )
    two = ProfileSamples([4, 8], [300, 600], [10.0, 11.0])
    assert "Only 2 batch sizes measured: growth with the batch rests on belief." in reasons_for_width(two, 2, 0, 4, 300)
    assert reasons_for_width(one, 0.2, 0.08, 8, 100) == ("The samples scatter by 8% around the fitted surface.",)


def test_a_bound_is_wide_from_the_uncertainty_of_one_measurement_on() -> None:
    """At leverage 1 there is something to say, just below there is nothing."""
    assert reasons_for_width(WELL, 0.999, 0.01, 8, 400) == ()
    assert reasons_for_width(WELL, 1.0, 0.01, 8, 400) != ()


@pytest.mark.parametrize("cell", [(1, 1000), (32, 100), (8, 400), (5, 330)])
def test_amid_many_good_samples_there_is_no_reason(cell: tuple[int, int]) -> None:
    """Thirty exact samples leave nothing to explain, at measured cells and between them."""
    bound = fit_latency(WELL).explain_upper(*cell)
    assert bound.reasons == ()
    assert 0.0 < bound.margin < 0.2


def test_a_lone_sample_explains_itself() -> None:
    """Far from the one cell that was measured the bound is wide, and says what is missing."""
    bound = fit_of([1], [1000]).explain_upper(64, 50)
    assert bound.margin > fit_of([1], [1000]).explain_upper(1, 1000).margin
    assert any("lies beyond the measured ones, 1..1" in reason for reason in bound.reasons)
    assert any("lies beyond the measured ones, 1000..1000" in reason for reason in bound.reasons)
    assert any("Only 1 batch size measured" in reason for reason in bound.reasons)
    assert any("Only one share" in reason for reason in bound.reasons)


def test_samples_that_scatter_say_so() -> None:
    """With 20 % noise the scatter is a reason wherever one looks; with 1 % it is none."""
    noisy, quiet = fit_of(BATCH, SHARE, 0.2), fit_of(BATCH, SHARE, 0.01)
    assert any(f"scatter by {noisy.scatter:.0%}" in reason for reason in noisy.explain_upper(8, 400).reasons)
    assert not any("scatter by" in reason for reason in quiet.explain_upper(8, 400).reasons)


@given(st.integers(1, 512), st.integers(1, 1000), st.floats(0.01, 0.99))
def test_the_bound_is_that_of_the_fit(batch: int, share: int, quantile: float) -> None:
    """Mean, bound and margin are `latency_ms`, `upper_ms` and their ratio."""
    bound = FEW.explain_upper(batch, share, quantile)
    assert bound.latency_ms == float(FEW.latency_ms(batch, share))
    assert bound.upper_ms == float(FEW.upper_ms(batch, share, quantile))
    assert bound.latency_ms * (1 + bound.margin) == pytest.approx(bound.upper_ms)
    assert (bound.batch, bound.sm_milli, bound.quantile) == (batch, share, quantile)


FEW = fit_of([1, 4, 16, 16], [1000, 200, 100, 700], 0.05)


def test_numbers_of_numpy_become_plain_ones() -> None:
    """What is handed back is of plain Python, so that it can be written as JSON."""
    bound = FEW.explain_upper(np.int64(4), np.int32(300), np.float64(0.9))  # type: ignore[arg-type]
    assert bound == UpperBound(4, 300, 0.9, bound.latency_ms, bound.upper_ms, bound.reasons)
    assert {type(bound.batch), type(bound.sm_milli)} == {int}
    assert {type(bound.quantile), type(bound.latency_ms), type(bound.margin)} == {float}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0, 100), "batch"),
        ((1.5, 100), "batch"),
        (("4", 100), "batch"),
        (([4], 100), "batch"),
        ((float("nan"), 100), "batch"),
        ((4, 0), "sm_milli"),
        ((4, 1001), "sm_milli"),
        ((4, None), "sm_milli"),
        ((4, 100, 0.0), "quantile"),
        ((4, 100, 1.0), "quantile"),
        ((4, 100, "p95"), "quantile"),
        ((4, 100, None), "quantile"),
    ],
)
def test_what_cannot_be_explained_is_named(arguments: tuple[object, ...], name: str) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidArgumentError) as caught:
        FEW.explain_upper(*arguments)  # type: ignore[arg-type]
    assert caught.value.argument == name
