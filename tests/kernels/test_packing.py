"""The packing kernels against plain searches over all choices, and their tie rules."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels.cpu.ledger import ACTIVE, CHANGES
from dilu_core.kernels.cpu.packing import (
    BOOK,
    NOWHERE,
    ON_ACTIVE,
    ON_OPENED,
    ON_SPLIT,
    SPECIAL,
    TRY_ACTIVE,
    TRY_OPENING,
    TRY_SPLIT,
    TRY_SPLIT_OPENING,
    best_active,
    best_empty,
    place_one,
)
from dilu_core.kernels.cpu.packing_nodes import best_gang, best_split

Demand = tuple[int, int, int]

demands = st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(0, 6))


def active_by_hand(c: Any, demand: Demand, special: bool) -> int:
    """The active GPU with room that is liked best, then has the least score, then comes first; -1 for none."""
    rows = [g for g in range(c.held.size) if c.held[g] > 0 and c.has_room(g, *demand) and c.liked(g, special) >= 0]
    return min(rows, key=lambda g: (-c.liked(g, special), round(c.score(g, demand, special), 7), g), default=-1)


def empty_by_hand(c: Any, demand: Demand, special: bool) -> int:
    """The empty GPU with room of least memory, then on the node with the fewest empty, then the first; -1 for none."""
    rows = [g for g in range(c.held.size) if c.held[g] == 0 and c.has_room(g, *demand) and c.liked(g, special) >= 0]
    return min(rows, key=lambda g: (int(c.free[g, 2]), c.empties(c.node_of[g]), g), default=-1)


def splits_by_hand(c: Any, request: int, memory: int, special: bool, may_open: bool) -> list[tuple[int, int]]:
    """(GPUs opened, parts) of every set of GPUs over which the memory can be divided."""
    found = []
    for rows in c.ranges:
        usable = [
            g
            for g in rows
            if c.liked(g, special) >= 0
            and (c.free[g, :2] >= request).all()
            and c.free[g, 2] > 0
            and (may_open or c.held[g] > 0)
        ]
        found += [
            (int((c.held[list(part)] == 0).sum()), k)
            for k in range(2, len(usable) + 1)
            for part in itertools.combinations(usable, k)
            if c.free[list(part), 2].sum() >= memory >= k
        ]
    return found


@given(st.data(), demands, st.booleans())
def test_best_active_is_most_liked_then_least_priced_then_first(
    columns: Any, data: st.DataObject, demand: Demand, special: bool
) -> None:
    """The chosen GPU is the least of all with room by (preference, score, row), and -1 exactly where none is."""
    c = data.draw(columns)
    stop = int(c.node_start[c.totals[1]])
    row, liked, _ = best_active(c.free, c.weight, c.held, c.preference, c.penalty, special, stop, *demand)
    assert row == active_by_hand(c, demand, special)
    assert row < 0 or liked == c.liked(row, special)


@given(st.data(), demands, st.booleans())
def test_best_empty_opens_the_least_gpu_where_least_stays_empty(
    columns: Any, data: st.DataObject, demand: Demand, special: bool
) -> None:
    """The opened GPU has the least memory that suffices, on the node with the fewest empty ones of those."""
    c = data.draw(columns)
    row = best_empty(c.free, c.held, c.preference, special, c.node_start, c.node_state, c.totals, *demand)
    assert row == empty_by_hand(c, demand, special)


@given(
    st.data(), st.integers(1, 6), st.integers(1, 8), st.lists(st.integers(0, 6), min_size=1, max_size=4), st.booleans()
)
def test_best_gang_opens_fewest_then_is_most_liked_then_fits_best(
    columns: Any, data: st.DataObject, request: int, limit: int, memory: list[int], special: bool
) -> None:
    """A gang sits on distinct roomy GPUs of one node, the best of all such by (opened, liked, score)."""
    c = data.draw(columns)
    sizes = np.array(sorted(memory, reverse=True), np.int64)
    possible: dict[tuple[int, ...], tuple[int, int, float]] = {}
    for rows in c.ranges:
        for gang in itertools.permutations(rows, sizes.size):
            wants = [(request, limit, int(mib)) for mib in sizes]
            if all(c.liked(g, special) >= 0 and c.has_room(g, *want) for g, want in zip(gang, wants, strict=True)):
                opened = int((c.held[list(gang)] == 0).sum())
                liked = sum(c.liked(g, special) for g in gang)
                score = sum(c.score(g, want, special) for g, want in zip(gang, wants, strict=True))
                possible[gang] = opened, -liked, score
    chosen = np.empty(5, np.int64)
    node, opened = best_gang(
        c.free, c.weight, c.held, c.preference, c.penalty, special, c.node_start, c.node_state, c.totals,
        request, limit, sizes, sizes.size, chosen,
    )  # fmt: skip
    if not possible:
        assert node == -1
        return
    gang = tuple(chosen[: sizes.size].tolist())
    best = min(possible.values())
    assert set(gang) <= set(c.ranges[node])
    assert opened == possible[gang][0]
    assert possible[gang][:2] == best[:2]
    assert possible[gang][2] <= best[2] + 1e-5  # a node with fewer empties wins among equals


@given(st.data(), st.integers(1, 6), st.integers(2, 24), st.booleans(), st.booleans())
def test_best_split_opens_fewest_in_fewest_parts(
    columns: Any, data: st.DataObject, request: int, memory: int, special: bool, may_open: bool
) -> None:
    """Parts are positive, add up, fit distinct GPUs of one node, and no choice opens fewer GPUs, or as few in fewer.

    It may be asked although one GPU has all the memory, as where that GPU lacks the limit to take it whole.
    """
    c = data.draw(columns)
    options = splits_by_hand(c, request, memory, special, may_open)
    chosen, part = np.empty(5, np.int64), np.empty(5, np.int64)
    count = best_split(
        c.free, c.held, c.preference, special, c.node_start, c.node_state, c.totals, request, memory, may_open,
        chosen, part,
    )  # fmt: skip
    assert (count > 0) == bool(options)
    if count:
        rows, parts = chosen[:count], part[:count]
        assert len(set(rows.tolist())) == count
        assert len(set(c.node_of[rows].tolist())) == 1
        assert parts.sum() == memory
        assert (parts > 0).all()
        assert (parts <= c.free[rows, 2]).all()
        assert (int((c.held[rows] == 0).sum()), count) == min(options)


@given(st.data(), demands, st.integers(1, 15), st.booleans())
def test_place_one_takes_its_steps_in_order_and_books_what_it_finds(
    columns: Any, data: st.DataObject, demand: Demand, steps: int, special: bool
) -> None:
    """Active, split, opened, split with opening: the first asked for that finds a place; booked to the unit."""
    c = data.draw(columns)
    request, _, memory = demand
    if memory < 2:
        steps &= TRY_ACTIVE | TRY_OPENING
    active, opened = active_by_hand(c, demand, special), empty_by_hand(c, demand, special)
    expected, row = NOWHERE, -1
    if steps & TRY_ACTIVE and active >= 0:
        expected, row = ON_ACTIVE, active
    elif steps & TRY_SPLIT and splits_by_hand(c, request, memory, special, False):
        expected = ON_SPLIT
    elif steps & TRY_OPENING and opened >= 0:
        expected, row = ON_OPENED, opened
    elif steps & TRY_SPLIT_OPENING and splits_by_hand(c, request, memory, special, True):
        expected = ON_SPLIT
    before = copy.deepcopy(c)
    chosen, part = np.empty(5, np.int64), np.empty(5, np.int64)
    found, gpu, count, newly = place_one(
        c.free, c.weight, c.held, c.preference, c.penalty, c.node_start, c.node_of, c.node_state, c.totals, chosen,
        part, *demand, steps | BOOK | (SPECIAL if special else 0),
    )  # fmt: skip
    assert (found, gpu) == (expected, row)
    rows = [] if found == NOWHERE else chosen[:count].tolist() if found == ON_SPLIT else [gpu]
    assert newly == sum(1 for g in rows if before.held[g] == 0)
    for i, g in enumerate(rows):
        taken = (request, request, int(part[i])) if found == ON_SPLIT else demand
        before.free[g] -= taken
        before.held[g] += 1
    assert np.array_equal(c.free, before.free)
    assert np.array_equal(c.held, before.held)
    active_gpus = [sum(1 for g in node if c.held[g] > 0) for node in c.ranges]
    assert c.node_state[:, ACTIVE].tolist() == active_gpus
    assert c.totals.tolist() == [sum(active_gpus), max((n + 1 for n, k in enumerate(active_gpus) if k), default=0)]
    assert int((c.node_state[:, CHANGES] - before.node_state[:, CHANGES]).sum()) == len(rows)
