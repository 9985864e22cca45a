"""Quotas, configurations, limit rules and grids: bounds, refusals by name, round trips."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.quota import LimitRule, Quota, QuotaConfig, QuotaGrid
from dilu_core.samples import ProfileSamples

milli = st.integers(1, 1000)


@given(milli, milli)
def test_a_quota_needs_request_within_limit(a: int, b: int) -> None:
    """request <= limit is a quota, the reverse an error that names request_milli."""
    low, high = min(a, b), max(a, b)
    assert Quota(low, high) == Quota(float(low), float(high))  # type: ignore[arg-type]
    if low < high:
        with pytest.raises(InvalidArgumentError, match=f"request_milli is {high}, above limit_milli = {low}"):
            Quota(high, low)


@pytest.mark.parametrize("share", [0, -5, 1001, 0.5, True, "1", None, float("nan")])
def test_shares_outside_a_gpu_are_refused(share: object) -> None:
    """Both sides of a quota are integers 1..1000."""
    with pytest.raises(InvalidArgumentError, match="request_milli"):
        Quota(share, 1000)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="limit_milli"):
        Quota(1, share)  # type: ignore[arg-type]


@given(milli, milli, st.integers(1, 512), st.floats(1e-3, 1e6), st.none() | st.floats(1e-3, 1e6))
def test_configurations_survive_json(a: int, b: int, batch: int, latency: float, upper: float | None) -> None:
    """A round trip is the identity."""
    config = QuotaConfig(batch, min(a, b), max(a, b), latency, 1000 * batch / latency, 1.0, upper)
    assert QuotaConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.quota == Quota(min(a, b), max(a, b))


@pytest.mark.parametrize(
    ("values", "argument"),
    [
        ((0, 1, 1, 1.0, 1.0, 1.0), "batch"),
        ((1, 2, 1, 1.0, 1.0, 1.0), "request_milli"),
        ((1, 1, 1, 0.0, 1.0, 1.0), "latency_ms"),
        ((1, 1, 1, 1.0, float("inf"), 1.0), "throughput_rps"),
        ((1, 1, 1, 1.0, 1.0, -1.0), "efficacy"),
        ((1, 1, 1, 1.0, 1.0, 1.0, 0.0), "upper_ms"),
    ],
)
def test_impossible_configurations_are_refused(values: tuple, argument: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidArgumentError) as caught:
        QuotaConfig(*values)
    assert caught.value.argument == argument


@given(milli, milli, st.none() | st.floats(1, 10))
def test_the_limit_lies_between_request_and_cap(request_milli: int, saturating: int, factor: float | None) -> None:
    """Never below the request, never above a GPU or the cap, and at saturation where neither binds."""
    limit = LimitRule(request_factor=factor).limit_milli(request_milli, saturating)
    assert request_milli <= limit <= 1000
    assert factor is None or limit <= max(request_milli, factor * request_milli)
    assert limit in (request_milli, saturating) or (factor is not None and limit == int(factor * request_milli))


def test_limit_rules_are_checked() -> None:
    """Fractions lie in (0, 1], factors start at 1; a factor of 1 joins limit and request."""
    assert LimitRule(request_factor=1).limit_milli(300, 900) == 300
    for bad in ({"throughput_fraction": 0}, {"throughput_fraction": 1.1}, {"request_factor": 0.9}):
        with pytest.raises(InvalidArgumentError, match=next(iter(bad))):
            LimitRule(**bad)


@given(st.sets(st.integers(1, 4096), min_size=1, max_size=10), st.sets(milli, min_size=1, max_size=10), st.randoms())
def test_grids_do_not_depend_on_order(batches: set[int], shares: set[int], shuffle) -> None:  # type: ignore[no-untyped-def]
    """Axes are sorted, and JSON keeps them."""
    some, others = list(batches), list(shares)
    shuffle.shuffle(some)
    shuffle.shuffle(others)
    grid = QuotaGrid(tuple(some), tuple(others))
    assert grid == QuotaGrid(tuple(sorted(batches)), tuple(sorted(shares)))
    assert QuotaGrid.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid
    assert len(grid) == len(batches) * len(shares)


@pytest.mark.parametrize(
    ("batches", "shares", "argument"),
    [
        ((), (100,), "batches"),
        ((1,), (), "sm_milli"),
        ((1, 1), (100,), "batches"),
        ((1,), (100, 100.0), "sm_milli"),
        ((0,), (100,), "batches[0]"),
        ((1,), (100, 1001), "sm_milli[1]"),
        ("12", (100,), "batches"),
        (3, (100,), "batches"),
        ((1.5,), (100,), "batches[0]"),
    ],
)
def test_impossible_grids_are_refused(batches: object, shares: object, argument: str) -> None:
    """Empty axes, repeats and values out of range name their place."""
    with pytest.raises(InvalidArgumentError) as caught:
        QuotaGrid(batches, shares)  # type: ignore[arg-type]
    assert caught.value.argument == argument


def test_regular_grids() -> None:
    """Powers of two up to the greatest batch, even steps up to the whole GPU."""
    assert QuotaGrid.regular(24, 250).batches == (1, 2, 4, 8, 16, 24)
    assert QuotaGrid.regular(1, 300).sm_milli == (300, 600, 900, 1000)
    assert QuotaGrid.regular(1, 200, least_milli=500).sm_milli == (600, 800, 1000)
    with pytest.raises(InvalidArgumentError, match="max_batch"):
        QuotaGrid.regular(0)


def test_covering_grids_do_not_extrapolate() -> None:
    """Measured values and the steps between them, nothing beyond."""
    grid = QuotaGrid.covering(ProfileSamples([3, 20], [143, 571], [5.0, 9.0]), 100)
    assert grid.batches == (3, 4, 8, 16, 20)
    assert grid.sm_milli == (143, 200, 300, 400, 500, 571)
    lone = QuotaGrid.covering(ProfileSamples([5], [45], [5.0]), 100)
    assert (lone.batches, lone.sm_milli) == ((5,), (45,))


@pytest.mark.parametrize("broken", [None, 3, {"version": 1}, {"version": 1, "batches": 3, "sm_milli": []}])
def test_corrupt_documents_are_refused(broken: object) -> None:
    """No KeyError escapes from_dict."""
    with pytest.raises(InvalidArgumentError):
        QuotaGrid.from_dict(broken)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError):
        QuotaConfig.from_dict(broken)  # type: ignore[arg-type]
