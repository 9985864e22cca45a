"""The packing kernels against plain searches over all choices, and their tie rules."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels.cpu.packing import best_active, best_empty, best_gang, best_split

WEIGHT = np.array([0.5, 0.3, 0.2])


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Any]:
    """Up to 4 nodes of 1-4 GPUs in any state; empty GPUs have all their capacity free."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    n = sum(sizes)
    held = np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.int64)
    free = np.array(draw(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=n, max_size=n)), np.int64)
    free[held == 0] = 6
    return {
        "free": free,
        "weight": np.broadcast_to(WEIGHT, (n, 3)).copy(),
        "held": held,
        "preference": np.array(draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)), np.int64),
        "node_start": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    }


demand = st.integers(1, 6)


@given(columns(), demand, demand, demand)
def test_best_active_is_most_liked_then_least_priced_then_first(c: Any, r: int, limit: int, m: int) -> None:
    """The chosen GPU is the least of all with room by (preference, priced rest, row), and -1 exactly where none is."""
    fits = [
        (-c["preference"][g], round(float((c["free"][g] - [r, limit, m]) @ WEIGHT), 9), g)
        for g in range(c["held"].size)
        if c["held"][g] > 0 and (c["free"][g] >= [r, limit, m]).all() and c["preference"][g] >= 0
    ]
    found = best_active(c["free"], c["weight"], c["held"], c["preference"], r, limit, m)
    if not fits:
        assert found == -1
    else:
        liked, priced = min(fits)[:2]
        assert (liked, priced, found) in fits


@given(columns(), demand, demand, demand)
def test_best_empty_opens_where_least_stays_empty(c: Any, r: int, limit: int, m: int) -> None:
    """The opened GPU is empty and allowed, on a node that has the fewest empty GPUs among those that could do."""
    start = c["node_start"]
    node_of = np.repeat(np.arange(start.size - 1), np.diff(start))
    empties = [int((c["held"][a:b] == 0).sum()) for a, b in itertools.pairwise(start)]
    fits = [g for g in range(c["held"].size) if c["held"][g] == 0 and c["preference"][g] >= 0]
    found = best_empty(c["free"], c["held"], c["preference"], start, r, limit, m)
    if not fits:
        assert found == -1
    else:
        assert found in fits
        assert empties[node_of[found]] == min(empties[node_of[g]] for g in fits)


@given(columns(), demand, demand, st.lists(demand, min_size=1, max_size=4))
def test_best_gang_finds_a_node_exactly_when_there_is_one(c: Any, r: int, limit: int, memory: list[int]) -> None:
    """A gang is placed on distinct roomy GPUs of one node exactly where some node has them."""
    sizes = np.array(sorted(memory, reverse=True), np.int64)
    c["preference"] = np.minimum(c["preference"], 0)
    possible = [
        rows
        for a, b in itertools.pairwise(c["node_start"].tolist())
        for rows in itertools.permutations(range(a, b), sizes.size)
        if all(
            c["preference"][g] == 0 and (c["free"][g] >= [r, limit, m]).all() for g, m in zip(rows, sizes, strict=True)
        )
    ]
    chosen = np.empty(4, np.int64)
    node = best_gang(c["free"], c["weight"], c["held"], c["preference"], c["node_start"], r, limit, sizes, chosen)
    if not possible:
        assert node == -1
    else:
        assert tuple(chosen[: sizes.size].tolist()) in possible
        assert c["node_start"][node] <= chosen[0] < c["node_start"][node + 1]


@given(columns(), demand, st.integers(2, 24), st.booleans())
def test_best_split_takes_the_fewest_parts(c: Any, r: int, memory: int, may_open: bool) -> None:
    """Parts are positive, add up, fit distinct GPUs of one node, and no choice opens fewer GPUs, or as few in fewer.

    It may be asked although one GPU has all the memory, as where that GPU lacks the limit to take it whole.
    """
    c["preference"] = np.minimum(c["preference"], 0)
    options = []
    for a, b in itertools.pairwise(c["node_start"].tolist()):
        usable = [
            g
            for g in range(a, b)
            if c["preference"][g] == 0 and (c["free"][g, :2] >= r).all() and c["free"][g, 2] > 0
            and (may_open or c["held"][g] > 0)
        ]  # fmt: skip
        options += [
            (int((c["held"][list(rows)] == 0).sum()), k)
            for k in range(2, len(usable) + 1)
            for rows in itertools.combinations(usable, k)
            if c["free"][list(rows), 2].sum() >= memory >= k
        ]
    chosen, part = np.empty(4, np.int64), np.empty(4, np.int64)
    count = best_split(c["free"], c["held"], c["preference"], c["node_start"], r, memory, may_open, chosen, part)
    assert (count > 0) == bool(options)
    if count:
        rows, parts = chosen[:count], part[:count]
        assert parts.sum() == memory
        assert (parts > 0).all()
        assert (parts <= c["free"][rows, 2]).all()
        assert (int((c["held"][rows] == 0).sum()), count) == min(options)
