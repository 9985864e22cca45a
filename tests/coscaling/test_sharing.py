"""Shares are divided fairly, in whole units, and to the last unit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.coscaling.sharing import fit_proportionally, water_fill

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


@given(st.integers(0, 2000), st.lists(st.integers(1, 1000), min_size=1, max_size=12))
def test_a_proportional_cut_is_exact(budget, weights):
    """The parts add up to the budget, each within one unit of its proportion."""
    parts = fit_proportionally(budget, weights)
    assert sum(parts) == budget
    assert all(abs(part - budget * w / sum(weights)) < 1 for part, w in zip(parts, weights, strict=True))
