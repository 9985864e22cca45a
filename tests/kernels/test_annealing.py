"""The annealing kernel: it never loses an item or overfills a bin, and it is the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels.cpu.annealing import anneal, draw

CAPACITY = 10


def bins_of(demand: Any, bins: int) -> dict[str, Any]:
    """Empty bins, and every item homeless."""
    n = len(demand)
    return {
        "demand": np.array(demand, np.int64),
        "size": np.array(demand, np.float64).sum(axis=1),
        "members": np.zeros((bins, n), np.int64),
        "count": np.zeros(bins, np.int64),
        "free": np.full((bins, 3), CAPACITY, np.int64),
        "bins": bins,
        "homeless": np.arange(n, dtype=np.int64),
        "homeless_count": n,
    }


items = st.lists(st.tuples(*[st.integers(0, 6)] * 3).filter(any), min_size=1, max_size=12)


@given(items, st.integers(0, 6), st.integers(1, 10**6))
def test_items_are_kept_and_bins_never_overfilled(demand: Any, bins: int, seed: int) -> None:
    """After any number of steps every item is in exactly one bin or homeless, and the books of every bin are right."""
    work = bins_of(demand, bins)
    waiting = anneal(**work, steps=400, temperature=0.5, random=np.array([seed], np.int64))
    held = [work["members"][b, : work["count"][b]].tolist() for b in range(bins)]
    outside = work["homeless"][:waiting].tolist()
    assert sorted(sum(held, []) + outside) == list(range(len(demand)))  # noqa: RUF017
    for b, inside in enumerate(held):
        assert (work["free"][b] >= 0).all()
        assert (work["free"][b] == CAPACITY - work["demand"][inside].sum(axis=0)).all()


def test_a_perfect_packing_is_found() -> None:
    """Items cut from full bins are put together again."""
    demand = [(4, 4, 4), (6, 6, 6), (3, 5, 2), (7, 5, 8), (1, 2, 3), (9, 8, 7)]
    work = bins_of(demand, 3)
    assert anneal(**work, steps=20_000, temperature=2.0, random=np.array([5], np.int64)) == 0


@given(items, st.integers(1, 10**6))
def test_the_same_seed_gives_the_same_bins(demand: Any, seed: int) -> None:
    """Two runs from one seed end alike."""
    one, two = bins_of(demand, 2), bins_of(demand, 2)
    for work in (one, two):
        anneal(**work, steps=100, temperature=0.5, random=np.array([seed], np.int64))
    assert (one["members"] == two["members"]).all()
    assert (one["homeless"] == two["homeless"]).all()


def test_random_numbers_are_uniform_enough() -> None:
    """Ten thousand draws lie strictly inside (0, 1) and average one half."""
    state = np.array([1], np.int64)
    numbers = np.array([draw(state) for _ in range(10_000)])
    assert 0 < numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.02
