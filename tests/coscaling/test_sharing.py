"""Shares are divided fairly, in whole units, and to the last unit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.sharing import fit_proportionally, headrooms, water_fill

claims = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 1000)), min_size=0, max_size=12)


@given(st.integers(0, 1500), claims)
def test_water_filling_spends_the_budget_and_overfills_nobody(budget, pairs):
    """The shares add up to min(budget, wants), and none exceeds its want."""
    wants, weights = [w for w, _ in pairs], [g for _, g in pairs]
    shares = water_fill(budget, wants, weights)
    assert sum(shares) == min(budget, sum(wants))
    assert all(0 <= share <= want for share, want in zip(shares, wants, strict=True))


@given(st.integers(1, 1500), claims)
def test_water_filling_is_weighted_max_min_to_within_a_unit(budget, pairs):
    """No share differs by more than one unit from the level found by bisection on real numbers."""
    wants, weights = np.array([w for w, _ in pairs], float), np.array([g for _, g in pairs], float)
    if wants.sum() <= budget:
        assert water_fill(budget, [w for w, _ in pairs], [g for _, g in pairs]) == [w for w, _ in pairs]
        return
    low, high = 0.0, 1000.0
    for _ in range(100):
        level = (low + high) / 2
        low, high = (level, high) if np.minimum(wants, level * weights).sum() < budget else (low, level)
    shares = np.array(water_fill(budget, [w for w, _ in pairs], [g for _, g in pairs]))
    assert np.abs(shares - np.minimum(wants, high * weights)).max() < 1.0 + 1e-6


few = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), min_size=1, max_size=5)


@settings(max_examples=500)
@given(st.integers(0, 30), few, st.integers(0, 4), st.integers(1, 12))
def test_wanting_more_never_brings_less(budget, pairs, at, more):
    """Among few claimants of small wants and weights, where ties between fractions are common."""
    wants, weights, at = [w for w, _ in pairs], [g for _, g in pairs], at % len(pairs)
    before = water_fill(budget, wants, weights)[at]
    wants[at] += more
    assert water_fill(budget, wants, weights)[at] >= before


def test_wanting_more_loses_no_tie():
    """Two claimants of weight 1 share 3 units, 2 to the first, whatever its want beyond that."""
    assert [water_fill(3, [want, 3], [1, 1]) for want in (2, 3, 4, 9)] == [[2, 1]] * 4


@given(st.integers(-3, 40), few, st.integers(0, 20))
def test_headroom_is_the_share_of_one_who_wants_all(budget, pairs, room):
    """Filled again with one claimant's want at its room, it gets its headroom, or the unit that rounding may add."""
    wants, weights = [w for w, _ in pairs], [g for _, g in pairs]
    rooms = [want + room for want in wants]
    found = headrooms([budget] * len(pairs), wants, weights, rooms)
    for i, headroom in enumerate(found):
        eager = [rooms[j] if j == i else want for j, want in enumerate(wants)]
        brought = water_fill(max(0, budget), eager, weights)[i]
        assert headroom in (brought, brought - 1)


@given(st.integers(0, 2000), st.lists(st.integers(1, 1000), min_size=1, max_size=12))
def test_a_proportional_cut_is_exact(budget, weights):
    """The parts add up to the budget, each within one unit of its proportion."""
    parts = fit_proportionally(budget, weights)
    assert sum(parts) == budget
    assert all(abs(part - budget * w / sum(weights)) < 1 for part, w in zip(parts, weights, strict=True))
