"""The annealing kernel: it never loses an item, overfills a bin or brings together what is tied apart."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels.cpu.annealing import anneal, draw

CAPACITY = 10


def bins_of(demand: Any, bins: int, ties: Any = None, bars: Any = None) -> dict[str, Any]:
    """Empty bins, and every item homeless."""
    n = len(demand)
    return {
        "demand": np.array(demand, np.int64),
        "size": np.array(demand, np.float64).sum(axis=1) / CAPACITY,
        "ties": np.zeros((n, 3), np.int64) if ties is None else np.array(ties, np.int64),
        "has_ties": ties is not None,
        "members": np.zeros((bins, n), np.int64),
        "count": np.zeros(bins, np.int64),
        "free": np.full((bins, 3), CAPACITY, np.int64),
        "fill": np.zeros(bins),
        "bars": np.zeros((bins, 3), np.int64) if bars is None else np.array(bars, np.int64).reshape(-1, 3),
        "homeless": np.arange(n, dtype=np.int64),
        "homeless_count": n,
    }


def annealed(work: dict[str, Any], steps: int, seed: int, hot: float = 0.5) -> int:
    """Anneal in place; how many items have no bin in the end."""
    return anneal(**work, steps=steps, hot=hot, cold=hot / 10, random=np.array([seed], np.int64))[0]


items = st.lists(st.tuples(*[st.integers(0, 6)] * 3).filter(any), min_size=1, max_size=12)


@given(items, st.integers(0, 6), st.integers(1, 10**6), st.data())
def test_every_state_is_whole_and_keeps_the_rules(demand: Any, bins: int, seed: int, data: st.DataObject) -> None:
    """After any number of steps every item is in exactly one bin or homeless, the books of every bin are right, none
    is overfilled, and nobody shares a bin with whom it refuses or is refused by, or is in a bin of a kind it bars."""
    sets = st.integers(0, 3)
    ties = data.draw(st.none() | st.lists(st.tuples(sets, sets, st.integers(1, 3)), min_size=12, max_size=12))
    ties = None if ties is None else ties[: len(demand)]
    bars = data.draw(st.lists(st.tuples(sets, sets, st.integers(1, 3)), min_size=bins, max_size=bins))
    work = bins_of(demand, bins, ties, bars)
    homeless = work["homeless_count"]
    for _ in range(4):  # it may be stopped and go on
        work["homeless_count"] = homeless
        homeless = annealed(work, data.draw(st.sampled_from([1, 7, 150])), seed)
        held = [work["members"][b, : work["count"][b]].tolist() for b in range(bins)]
        outside = work["homeless"][:homeless].tolist()
        assert sorted([*itertools.chain.from_iterable(held), *outside]) == list(range(len(demand)))
        for b, inside in enumerate(held):
            assert (work["free"][b] >= 0).all()
            assert (work["free"][b] == CAPACITY - work["demand"][inside].sum(axis=0)).all()
            assert np.isclose(work["fill"][b], work["size"][inside].sum())
            if ties is None:
                continue
            assert all(ties[i][2] & bars[b][2] for i in inside)
            assert not any(ties[i][0] & bars[b][1] or ties[i][1] & bars[b][0] for i in inside)
            assert not any(ties[i][1] & ties[k][0] for i, k in itertools.permutations(inside, 2))


def test_a_perfect_packing_is_found() -> None:
    """Items cut from full bins are put together again."""
    demand = [(4, 4, 4), (6, 6, 6), (3, 5, 2), (7, 5, 8), (1, 2, 3), (9, 8, 7)]
    work = bins_of(demand, 3)
    assert annealed(work, 20_000, 5) == 0


@given(items, st.integers(1, 10**6))
def test_the_same_seed_gives_the_same_bins(demand: Any, seed: int) -> None:
    """Two runs from one seed end alike."""
    one, two = bins_of(demand, 2), bins_of(demand, 2)
    for work in (one, two):
        annealed(work, 100, seed)
    assert (one["members"] == two["members"]).all()
    assert (one["homeless"] == two["homeless"]).all()


def test_no_items_homeless_or_no_bins_end_it_at_once() -> None:
    """Where nothing is left to do or nothing can be done, no step is made."""
    for work in (bins_of([(1, 1, 1)], 0), {**bins_of([(1, 1, 1)], 1), "homeless_count": 0}):
        assert anneal(**work, steps=50, hot=0.5, cold=0.1, random=np.array([1], np.int64))[1] == 0


def test_random_numbers_are_uniform_enough() -> None:
    """Ten thousand draws lie strictly inside (0, 1) and average one half."""
    state = np.array([1], np.int64)
    numbers = np.array([draw(state) for _ in range(10_000)])
    assert 0 < numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.02
