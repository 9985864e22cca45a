"""ProfileSamples: what it takes, what it refuses by name, and what it keeps."""

from __future__ import annotations

import json
import pickle
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.samples import ProfileSamples

rows = st.lists(
    st.tuples(st.integers(1, 4096), st.integers(1, 1000), st.floats(1e-3, 1e6).filter(lambda t: t != 9999.0)),
    min_size=1,
    max_size=30,
)


def build(table: list[tuple[int, int, float]]) -> ProfileSamples:
    batch, share, latency = zip(*table, strict=True)
    return ProfileSamples(batch, share, latency, function="f", gpu_type="A100")


@given(rows)
def test_round_trips_are_the_identity(table: list[tuple[int, int, float]]) -> None:
    """JSON and pickle give back equal samples, still read-only."""
    samples = build(table)
    for again in (
        ProfileSamples.from_dict(json.loads(json.dumps(samples.to_dict()))),
        pickle.loads(pickle.dumps(samples)),
    ):
        assert again == samples
        assert hash(again) == hash(samples)
        assert not again.latency_ms.flags.writeable


@given(rows)
def test_merged_has_the_median_of_every_cell(table: list[tuple[int, int, float]]) -> None:
    """One ascending row per distinct cell, with the median of its latencies; merging again changes nothing."""
    merged = build(table).merged()
    cells = sorted({(b, s) for b, s, _ in table})
    assert list(zip(merged.batch.tolist(), merged.sm_milli.tolist(), strict=True)) == cells
    medians = [float(np.median([t for b, s, t in table if (b, s) == cell])) for cell in cells]
    assert merged.latency_ms.tolist() == medians
    assert merged.merged() == merged


@given(
    rows, st.lists(st.sampled_from([0.0, -1.0, 9999.0, float("nan"), float("inf"), -3.5]), max_size=10), st.randoms()
)
def test_drop_failed_keeps_exactly_the_good_rows(
    table: list[tuple[int, int, float]], failed: list[float], shuffle: Random
) -> None:
    """Whatever the order, the good rows stay in theirs and the rest is counted."""
    mixed = [(*row, True) for row in table] + [(1, 100, t, False) for t in failed]
    shuffle.shuffle(mixed)
    batch, share, latency, good = zip(*mixed, strict=True)
    samples = ProfileSamples.drop_failed(batch, share, latency)
    assert samples.dropped == len(failed)
    assert samples.latency_ms.tolist() == [t for t, kept in zip(latency, good, strict=True) if kept]


@pytest.mark.parametrize(
    ("columns", "argument"),
    [
        (([], [], []), "latency_ms"),
        (([1, 2], [100, 100], [1.0, float("nan")]), "latency_ms[1]"),
        (([1, 2], [100, 100], [1.0, 0.0]), "latency_ms[1]"),
        (([1, 2], [100, 100], [1.0, float("inf")]), "latency_ms[1]"),
        (([1, 2, 2, 2], [100] * 4, [1.0, 2.0, 3.0, -1.0]), "latency_ms[3]"),
        (([1], [100], [9999]), "latency_ms[0]"),
        (([0], [100], [1.0]), "batch[0]"),
        (([1.5], [100], [1.0]), "batch[0]"),
        (([1], [0], [1.0]), "sm_milli[0]"),
        (([1], [1001], [1.0]), "sm_milli[0]"),
        (([1], [0.5], [1.0]), "sm_milli[0]"),
        (([1, 2], [100], [1.0, 2.0]), "sm_milli"),
        (([1], [100, 200], [1.0, 2.0]), "batch"),
        ((["a"], [100], [1.0]), "batch"),
        (([1], [100], ["fast"]), "latency_ms"),
        (([[1]], [[100]], [[1.0]]), "latency_ms"),
    ],
)
def test_bad_columns_are_refused_by_name(columns: tuple[Any, Any, Any], argument: str) -> None:
    """The error names the column and, where one element is at fault, its row."""
    with pytest.raises(InvalidArgumentError) as caught:
        ProfileSamples(*columns)
    assert caught.value.argument == argument


def test_failed_measurements_are_refused_with_advice() -> None:
    """The message says what came, what is wanted and where to turn."""
    with pytest.raises(InvalidArgumentError, match=r"latency_ms\[1\] is -1.0; latencies must be positive.*drop_failed"):
        ProfileSamples([1, 1], [100, 200], [3.0, -1.0])


def test_a_true_latency_of_9999_ms_can_be_stated() -> None:
    """Without failure codes 9999 ms is a latency like any other."""
    samples = ProfileSamples([1], [100], [9999.0], failure_codes=())
    assert ProfileSamples.from_dict(samples.to_dict()) == samples
    assert samples.merged() == samples


def test_only_failed_measurements_are_an_error_that_names_the_function() -> None:
    """Nothing is left to fit, and the message says of which function."""
    with pytest.raises(InvalidArgumentError, match="only failed measurements of function 'böse'"):
        ProfileSamples.drop_failed([1, 2], [100, 100], [0, -1], function="böse")
    with pytest.raises(InvalidArgumentError, match="latency_ms is empty"):
        ProfileSamples.drop_failed([], [], [])


def test_memory_may_be_missing_in_part_but_not_wrong() -> None:
    """NaN means not measured and survives JSON; zero, negative and infinite memory are refused."""
    samples = ProfileSamples([1, 1, 2], [100, 100, 100], [1.0, 2.0, 3.0], memory_mib=[float("nan"), 700, float("nan")])
    assert ProfileSamples.from_dict(json.loads(json.dumps(samples.to_dict()))) == samples
    merged = samples.merged().memory_mib
    assert merged is not None
    assert merged[0] == 700
    assert np.isnan(merged[1])
    for bad in (0, -5, float("inf")):
        with pytest.raises(InvalidArgumentError, match=r"memory_mib\[0\]"):
            ProfileSamples([1], [100], [1.0], memory_mib=[bad])
    with pytest.raises(InvalidArgumentError, match="memory_mib has 2 rows"):
        ProfileSamples([1], [100], [1.0], memory_mib=[1, 2])


def test_columns_are_copied_and_read_only() -> None:
    """Changing what was passed changes nothing, and the columns refuse writes."""
    latency = np.array([1.0, 2.0])
    samples = ProfileSamples([1, 2], [100, 100], latency)
    latency[0] = 5.0
    assert samples.latency_ms[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        samples.latency_ms[0] = 3.0


def test_samples_differ_by_what_they_hold() -> None:
    """Equality looks at every column and label, and at nothing else."""
    base = ProfileSamples([1], [100], [1.0])
    assert base == ProfileSamples([1.0], [100.0], [1])
    assert base != ProfileSamples([1], [100], [2.0])
    assert base != ProfileSamples([1], [100], [1.0], memory_mib=[10])
    assert base != ProfileSamples([1], [100], [1.0], function="g")
    assert base != "samples"
    assert len(base.select([0])) == 1


@pytest.mark.parametrize("broken", [None, [], {"version": 1}, {"version": 99}, "x"])
def test_corrupt_documents_are_refused_by_name(broken: object) -> None:
    """No KeyError or TypeError escapes from_dict."""
    with pytest.raises(InvalidArgumentError, match="samples"):
        ProfileSamples.from_dict(broken)  # type: ignore[arg-type]


@pytest.mark.parametrize("column", [[1e300], [2**63], [10**400], [2**53 + 2], [True], ["1"], [1 + 2j], [[1]]])
def test_batches_that_are_no_counts_are_refused(column: Any) -> None:
    """Numbers beyond exact integers, text, complex numbers and booleans never turn into some other batch."""
    with pytest.raises(InvalidArgumentError, match="batch"):
        ProfileSamples(column, [100], [5.0])


def test_masked_measurements_are_failed_ones() -> None:
    """What a masked array hides is not fitted."""
    latency = np.ma.masked_array([5.0, 6.0], mask=[False, True])
    assert len(ProfileSamples.drop_failed([1, 2], [100, 100], latency)) == 1
    with pytest.raises(InvalidArgumentError, match=r"latency_ms\[1\]"):
        ProfileSamples([1, 2], [100, 100], latency)


@pytest.mark.parametrize("rows", [[], [99], [True], [-5]])
def test_rows_that_do_not_exist_are_named(rows: Any) -> None:
    """Selecting nothing, or outside the samples, is an error about an argument."""
    with pytest.raises(InvalidArgumentError):
        ProfileSamples([1, 2], [100, 100], [5.0, 6.0]).select(rows)
