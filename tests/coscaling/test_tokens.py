"""Tokens add up to the grants over time; percentages are whole, never "no limit", and reach what they must."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.coscaling.gpu import GpuInstance, GpuObservation
from dilu_core.coscaling.tokens import TokenState, core_percentages, mps_percentages, token_counts
from dilu_core.coscaling.vertical import VerticalScaler
from dilu_core.errors import InvalidArgumentError

shares = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1000))


@given(
    st.lists(shares, min_size=1, max_size=30),
    st.sampled_from([0.1, 1 / 3, 5.0, 16.7]),
    st.sampled_from([30.1, 1000.0, 5431.0]),
    st.integers(0, 29),
)
def test_tokens_add_up_to_the_shares_to_less_than_one(periods, period_ms, tokens_per_ms, at):
    """For every instance and at every moment, restart included, since it came: the sum is exact but for one token."""
    state, exact, issued = None, {}, {}
    budget = round(period_ms * tokens_per_ms * 1e6)
    for i, grants in enumerate(periods):
        if i == at and state is not None:
            state = TokenState.from_dict(json.loads(json.dumps(state.to_dict())))
        counts, state = token_counts(grants, state, period_ms=period_ms, tokens_per_ms=tokens_per_ms)
        exact = {name: exact.get(name, 0) + milli * budget for name, milli in grants.items()}
        issued = {name: issued.get(name, 0) + counts[name] for name in grants}
        for name in grants:
            assert 0 <= exact[name] - issued[name] * 10**9 < 10**9
        assert sum(counts.values()) <= math.ceil(sum(grants.values()) * budget / 10**9) + len(grants)


def test_a_microsecond_is_a_token_unless_told():
    """Five milliseconds of a GPU are 5,000 tokens; a third of 100 tokens is 33, 33 and 34."""
    seen = GpuObservation((GpuInstance("serve", "slo", 300, 600), GpuInstance("idle", "slo", 100, 100, 0)))
    grants, _ = VerticalScaler().decide(VerticalScaler().initial_state(), seen)
    assert token_counts(grants)[0] == {"serve": 3000, "idle": 0}
    state, counted = None, []
    for _ in range(6):
        counts, state = token_counts({"a": 333}, state, period_ms=1, tokens_per_ms=100)
        counted.append(counts["a"])
    assert counted == [33, 33, 33, 34, 33, 33]


@given(shares)
def test_mps_percentages_reach_the_share(found):
    """1..100, the least whole percentage that is not below the share."""
    percents = mps_percentages(found)
    assert percents.keys() == found.keys()
    for name, milli in found.items():
        assert percents[name] == max(1, math.ceil(milli / 10))


@given(shares)
def test_core_percentages_add_up_to_the_shares(found):
    """1..100, together the shares rounded up (at least 1 each); shares of more than a percent are met to one percent
    where nobody had to make room for others."""
    percents = core_percentages(found)
    total = sum(found.values())
    assert all(1 <= percent <= 100 for percent in percents.values())
    assert sum(percents.values()) == max(len(found), math.ceil(total / 10))
    if all(milli >= 10 for milli in found.values()):
        assert all(abs(percents[name] - milli / 10) < 2 for name, milli in found.items())


def test_known_percentages():
    """Limits for MPS, requests for a scheduler that books: 59.5 % reaches as 60 %, and three thirds make one GPU."""
    seen = GpuObservation((GpuInstance("a", "slo", 300, 595), GpuInstance("b", "best-effort", 5, 1000)))
    assert mps_percentages(seen.limits_milli) == {"a": 60, "b": 100}
    assert core_percentages({"a": 334, "b": 333, "c": 333}) == {"a": 34, "b": 33, "c": 33}
    assert core_percentages({"a": 990, "b": 10}) == {"a": 99, "b": 1}
    assert core_percentages({"a": 1000, "b": 11}) == {"a": 100, "b": 2}
    assert core_percentages({"a": 1000, "idle": 0}) == {"a": 99, "idle": 1}
    assert core_percentages({}) == mps_percentages({}) == {}


def anything(value: Any) -> Any:
    """`value`, hidden from type checkers that would refuse the misuse under test."""
    return value


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: token_counts(anything([1])), "grants"),
        (lambda: token_counts({"a": 1001}), r"grants\['a'\]"),
        (lambda: token_counts({"a": anything("x")}), r"grants\['a'\]"),
        (lambda: token_counts({}, anything({})), "state is .*from_dict"),
        (lambda: token_counts({}, period_ms=0.0), "period_ms"),
        (lambda: token_counts({}, tokens_per_ms=1e-3), "tokens_per_ms times period_ms"),
        (lambda: mps_percentages({"": 1}), "shares_milli"),
        (lambda: core_percentages({"a": -1}), r"shares_milli\['a'\]"),
        (lambda: TokenState(anything(5)), "carried is 5"),
        (lambda: TokenState({"a": anything("x")}), r"carried\['a'\] is 'x'"),
        (lambda: TokenState({"a": 1, "b": -1}), r"carried\['b'\] is -1"),
        (lambda: TokenState({"a": anything(True)}), r"carried\['a'\] is True"),
        (lambda: TokenState(anything({3: 1})), "carried is 3"),
        (lambda: TokenState.from_dict({"version": 1}), "data"),
        (lambda: TokenState.from_dict(anything([])), "data"),
        (lambda: TokenState.from_dict({"version": 1, "carried": {"a": 10**9}}), "carried"),
    ],
)
def test_misuse_is_refused_by_name(make, named):
    """Everything here is the host's own, and checked."""
    with pytest.raises(InvalidArgumentError, match=named):
        make()
