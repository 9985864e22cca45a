"""Calibration: levels between and beyond the tabulated ones, monotone to the last bit, and documents that are none."""

from __future__ import annotations

import copy
import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.calibration import QUANTILES, Calibration, shipped_calibration
from dilu_core.errors import InvalidArgumentError

TABLE = Calibration((0.2, 0.5, 0.8), (-3.0, -1.0, 2.0), 4, 60, "made up")


def test_tabulated_quantiles_have_their_levels() -> None:
    """At a knot the level is the table's; from one half on it is not negative."""
    assert TABLE.level(0.2) == -3.0
    assert TABLE.level(0.8) == 2.0
    assert TABLE.level(0.5) == 0.0  # the median error is -1, but a bound never lies below the mean
    assert TABLE.level(math.nextafter(0.5, 0.0)) == pytest.approx(-1.0)


def test_levels_are_linear_in_the_logit() -> None:
    """Odds of 2 lie half-way between odds of 1 and 4; odds of 16 as far beyond 4 as 4 beyond 1; likewise below."""
    assert TABLE.level(2 / 3) == pytest.approx(0.5)
    assert TABLE.level(16 / 17) == pytest.approx(5.0)
    assert TABLE.level(1 / 17) == pytest.approx(-5.0)


quantiles = st.lists(
    st.one_of(st.floats(1e-9, 1 - 1e-9), st.sampled_from([0.5, math.nextafter(0.5, 1.0), 0.95, 1e-12])),
    min_size=2,
    max_size=8,
    unique=True,
)
steps = st.lists(st.floats(0, 50), min_size=8, max_size=8)


@given(quantiles, steps, st.floats(-100, 100), st.lists(st.floats(1e-15, 1 - 1e-15), min_size=2, max_size=12))
def test_levels_never_fall(at: list[float], rises: list[float], start: float, asked: list[float]) -> None:
    """For any table, close quantiles among them, and through every tabulated one and its neighbouring floats."""
    at.sort()
    logits = [math.log(q / (1 - q)) for q in at]
    if any(right <= left for left, right in pairwise(logits)):
        return  # too close to tell apart; refused
    table = Calibration(tuple(at), tuple((start + np.cumsum(rises[: len(at)])).tolist()))
    beside = [math.nextafter(q, side) for q in at for side in (0.0, 1.0)]
    levels = [table.level(q) for q in sorted({*asked, *at, *beside})]
    assert all(left <= right for left, right in pairwise(levels))
    assert all(table.level(q) >= 0.0 for q in (*asked, *at) if q >= 0.5)


def test_quantiles_beside_each_other_are_told_apart() -> None:
    """Two neighbouring floats are knots like any others; two with the same logit are refused, not divided by."""
    after = math.nextafter(0.5, 1.0)
    assert Calibration((0.5, after), (1.0, 2.0)).level(after) == 2.0
    with pytest.raises(InvalidArgumentError, match="quantiles"):
        Calibration((1e-300, math.nextafter(1e-300, 1.0)), (0.0, 1.0))


def test_the_shipped_calibration_is_whole() -> None:
    """It reads, is the same object each time, and tells a bound from the mean where plans use it."""
    shipped = shipped_calibration()
    assert shipped is shipped_calibration()
    assert shipped.functions > 0
    assert shipped.provenance
    assert 0.0 <= shipped.level(0.5) < shipped.level(0.9) < shipped.level(0.95) < shipped.level(0.99)
    assert set(shipped.quantiles) <= set(QUANTILES)


@pytest.mark.parametrize("table", [TABLE, Calibration(np.array([0.1, 0.9]), np.array([0, 1]), np.int64(3), 5.0)])  # type: ignore[arg-type]
def test_json_round_trip_is_the_identity(table: Calibration) -> None:
    """Arrays and numpy's integers come back as tuples and ints, equal and with equal hashes."""
    again = Calibration.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again == table
    assert hash(again) == hash(table)
    assert [again.level(q) for q in (0.01, 0.6, 0.99)] == [table.level(q) for q in (0.01, 0.6, 0.99)]


@pytest.mark.parametrize("quantile", [0, 1, -0.1, 1.5, float("nan"), float("inf"), "p95", None, True, [0.5]])
def test_levels_outside_the_open_unit_interval_are_refused(quantile: object) -> None:
    """The error names quantile."""
    with pytest.raises(InvalidArgumentError) as caught:
        TABLE.level(quantile)  # type: ignore[arg-type]
    assert caught.value.argument == "quantile"


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        *(({"quantiles": value}, "quantiles") for value in (None, 0.5, "x", [0.5], [0.5, 0.2, 0.9], [0.0, 0.5, 0.9])),
        *(({"quantiles": value}, "quantiles") for value in ([0.1, 0.5, 1.0], [0.1, 0.1, 0.9], ["0.1", "0.5", "0.9"])),
        *(({"quantiles": value}, "quantiles") for value in ([0.1, float("nan"), 0.9], [0.1, 0.5, 10**400], {1: 2})),
        *(({"levels": value}, "levels") for value in (None, 1.0, "x", [0.0], [0.0, -1.0, 2.0], [0.0, 1.0, 2.0, 3.0])),
        *(({"levels": value}, "levels") for value in ([0, 1, float("inf")], [float("nan")] * 3, [-1e308, 0, 1e308])),
        *(({"functions": value}, "functions") for value in (None, -1, 1.5, "x", True)),
        *(({"scores": value}, "scores") for value in (None, -1, 1.5, "x", True)),
        *(({"provenance": value}, "provenance") for value in (None, 5)),
    ],
)
def test_impossible_calibrations_are_refused(changes: dict[str, object], argument: str) -> None:
    """The error names the field, in a document as in a call."""
    fields = {key: value for key, value in TABLE.to_dict().items() if key != "version"} | changes
    with pytest.raises(InvalidArgumentError) as caught:
        Calibration(**fields)  # type: ignore[arg-type]
    assert caught.value.argument == argument
    with pytest.raises(InvalidArgumentError) as caught:
        Calibration.from_dict(TABLE.to_dict() | changes)
    assert caught.value.argument == f"calibration.{argument}"


@pytest.mark.parametrize("key", ["version", "quantiles", "levels"])
def test_documents_need_their_parts(key: str) -> None:
    """What is missing is named; what is no document too; another version is not read."""
    document = copy.deepcopy(TABLE.to_dict())
    del document[key]
    with pytest.raises(InvalidArgumentError) as caught:
        Calibration.from_dict(document)
    assert caught.value.argument == f"calibration.{key}"
    with pytest.raises(InvalidArgumentError, match="version"):
        Calibration.from_dict(TABLE.to_dict() | {"version": 2})
    with pytest.raises(InvalidArgumentError, match="calibration"):
        Calibration.from_dict([key])  # type: ignore[arg-type]
