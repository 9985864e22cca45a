"""Pricing finds the best pattern, its bound is never below it, and exchanges follow the order of dominance."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels.cpu.dominance import dearest_dominated, nearest_dominated
from dilu_core.kernels.cpu.first_fit import first_fit
from dilu_core.kernels.cpu.pattern_pricing import best_patterns, best_single

Row = tuple[int, int, int]

_REQUEST, _OTHER = st.integers(2, 9), st.integers(0, 9)
_ITEMS = st.lists(st.tuples(_REQUEST, _OTHER, _OTHER), min_size=1, max_size=6, unique=True)
_CAPACITY = st.tuples(st.integers(9, 14), st.integers(9, 14), st.integers(9, 14))
_WIDTH = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


def best_worth(items: list[Row], values: list[int], room: Row) -> int:
    """The greatest worth of items within `room`, each taken any number of times, by trying all."""

    @cache
    def best(a: int, b: int, c: int) -> int:
        fits = [(v, w) for v, w in zip(values, items, strict=True) if w[0] <= a and w[1] <= b and w[2] <= c]
        return max((v + best(a - w[0], b - w[1], c - w[2]) for v, w in fits), default=0)

    return best(*room)


def less(room: Row, item: Row) -> Row:
    """Room left beside an item."""
    return (room[0] - item[0], room[1] - item[1], room[2] - item[2])


@given(_ITEMS, _CAPACITY, _WIDTH, st.integers(0, 30), st.integers(0, 20), st.data())
def test_pricing_equals_brute_force(
    items: list[Row], capacity: Row, width: Row, threshold: int, base: int, data: st.DataObject
) -> None:
    """For every anchor, the best pattern has the greatest worth there is, or none beats the threshold; in any table."""
    values = sorted((data.draw(st.integers(1, 12)) for _ in items), reverse=True)
    extent = np.array(width, np.int64)
    value, pattern, upper = best_patterns(
        np.array(items, np.int64), np.array(values, np.int64), np.array(capacity, np.int64), np.arange(len(items)),
        base, threshold, extent, np.array(capacity) // extent + 1, 7, 10**6,
    )  # fmt: skip
    for i, item in enumerate(items):
        best = base + values[i] + best_worth(items, values, less(capacity, item))
        assert value[i] == upper[i] == max(best, threshold)
        chosen = pattern[i][pattern[i] >= 0].tolist()
        if best > threshold:
            assert i in chosen
            assert base + sum(values[k] for k in chosen) == best
            assert (np.array(items)[chosen].sum(axis=0) <= capacity).all()
        else:
            assert chosen == []


@given(_ITEMS, _CAPACITY, _WIDTH, st.integers(1, 12), st.integers(1, 4), st.data())
def test_a_cut_search_bounds_what_it_left_open(
    items: list[Row], capacity: Row, width: Row, budget: int, longest: int, data: st.DataObject
) -> None:
    """With few nodes and short patterns the upper bound still holds for all patterns, of any length."""
    values = sorted((data.draw(st.integers(1, 12)) for _ in items), reverse=True)
    extent = np.array(width, np.int64)
    value, pattern, upper = best_patterns(
        np.array(items, np.int64), np.array(values, np.int64), np.array(capacity, np.int64), np.arange(len(items)),
        0, 0, extent, np.array(capacity) // extent + 1, longest, budget,
    )  # fmt: skip
    assert upper.max() >= best_worth(items, values, capacity)
    for i, row in enumerate(pattern):
        chosen = row[row >= 0].tolist()
        assert i in chosen
        assert sum(values[k] for k in chosen) == value[i] <= upper[i]
        assert (np.array(items)[chosen].sum(axis=0) <= capacity).all()


@given(_ITEMS, _CAPACITY, st.data())
def test_the_table_holds_the_best_single_item(items: list[Row], capacity: Row, data: st.DataObject) -> None:
    """An exact table answers for every room with the greatest value of an item that fits it."""
    values = [data.draw(st.integers(1, 12)) for _ in items]
    shape = np.array(capacity, np.int64) + 1
    most, item = best_single(np.array(items, np.int64), np.array(values, np.int64), np.ones(3, np.int64), shape)
    for room, best, which in zip(itertools.product(*map(range, shape)), most.tolist(), item.tolist(), strict=True):
        fitting = [v for v, w in zip(values, items, strict=True) if all(a <= b for a, b in zip(w, room, strict=True))]
        assert best == max(fitting, default=0)
        assert which == -1 or values[which] == best


@given(_ITEMS, st.data())
def test_exchanges_generate_the_order_of_dominance(items: list[Row], data: st.DataObject) -> None:
    """Pairs run from each item to nearest ones below it: all of the order follows from them, and nothing else does."""
    items = sorted(items, reverse=True)
    group = [data.draw(st.integers(0, 1)) for _ in items]
    freer = np.array([[True, True], [False, True]])  # group 0 may do what group 1 may, not the other way round
    pairs = nearest_dominated(np.array(items, np.int64), np.array(group, np.int64), freer, len(items))
    n = len(items)
    below = np.zeros((n, n), np.bool_)
    below[pairs[:, 0], pairs[:, 1]] = True
    for k in range(n):
        below |= below[:, [k]] & below[[k], :]
    for i, j in itertools.permutations(range(n), 2):
        dominated = all(a <= b for a, b in zip(items[i], items[j], strict=True)) and freer[group[i], group[j]]
        assert below[i, j] == dominated
    some = np.array([data.draw(st.integers(0, 1)) for _ in items], np.int64)
    found = dearest_dominated(
        0, np.arange(n), some, np.array(items, np.int64), np.array(group, np.int64), freer
    )  # fmt: skip
    expected = [i for i in range(n) if some[i] and (i == 0 or below[i, 0])]
    assert found == (expected[0] if expected else -1)


@given(_ITEMS, _CAPACITY, st.data())
def test_first_fit_takes_the_first_bin_with_room(items: list[Row], capacity: Row, data: st.DataObject) -> None:
    """Each item goes to the first bin that has room for it after those before it, as a plain loop finds."""
    order = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=20))
    where, bins = first_fit(np.array(items, np.int64), np.array(order, np.int64), np.array(capacity, np.int64))
    rooms: list[Row] = []
    for item, b in zip(order, where.tolist(), strict=True):
        fits = [k for k, room in enumerate(rooms) if min(less(room, items[item])) >= 0]
        assert b == (fits[0] if fits else len(rooms))
        rooms.extend([capacity] * (b == len(rooms)))
        rooms[b] = less(rooms[b], items[item])
    assert bins == len(rooms)
