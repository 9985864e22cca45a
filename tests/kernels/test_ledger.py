"""The ledger's kernels against sets and counts: bookings, functions as bits, hosts, and what stands in the way."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels.cpu.ledger import (
    ACTIVE,
    BESIDE_FRIEND,
    NEUTRAL,
    REFUSED,
    obstacles,
    penalise,
    prefer,
    write,
    write_all,
)

FUNCTIONS = 130  # three words

numbers = st.integers(0, FUNCTIONS - 1)
some = st.sets(numbers, max_size=3)


def bits(functions: set[int]) -> list[int]:
    """A set of function numbers as words."""
    return [sum(1 << number % 64 for number in functions if number // 64 == word) for word in range(3)]


@st.composite
def tenants(draw: st.DrawFn, gpus: int, nodes: int) -> dict[str, Any]:
    """Which functions each GPU has and refuses, an instance's own function, and what hosts have left."""
    rows = st.lists(some, min_size=gpus, max_size=gpus)
    return {
        "has": draw(rows),
        "refuses": draw(rows),
        "own": draw(st.sets(numbers, max_size=1)),
        "against": draw(some),
        "friends": draw(some),
        "host_free": np.array(draw(st.lists(st.tuples(*[st.integers(0, 4)] * 2), min_size=nodes, max_size=nodes))),
        "barred": np.array(draw(st.lists(st.booleans(), min_size=nodes, max_size=nodes)), np.bool_),
        "cpu": draw(st.integers(0, 4)),
        "host_memory": draw(st.integers(0, 4)),
    }  # fmt: skip


def words(sets: list[set[int]]) -> Any:
    """Sets of function numbers as rows of words."""
    return np.array([bits(each) for each in sets], np.uint64).reshape(-1, 3)


def apart(t: dict[str, Any], g: int) -> bool:
    """Whether either side refuses the other on GPU `g`."""
    return bool(t["refuses"][g] & t["own"] or t["has"][g] & t["against"])


@given(st.data())
def test_prefer_bars_types_hosts_and_enemies_and_likes_friends(columns: Any, data: st.DataObject) -> None:
    """A GPU is refused by its node, its host or either side's word; else liked where a friend sits."""
    c = data.draw(columns)
    t = data.draw(tenants(c.held.size, len(c.ranges)))
    preference = np.full(c.held.size, 9, np.int64)
    masks = words([t["own"], t["against"], t["friends"]])
    prefer(
        preference, words(t["has"]), words(t["refuses"]), masks, c.node_start, t["host_free"], t["barred"], t["cpu"],
        t["host_memory"],
    )  # fmt: skip
    for g in range(c.held.size):
        n = c.node_of[g]
        barred = t["barred"][n] or (t["host_free"][n] < [t["cpu"], t["host_memory"]]).any()
        friends = BESIDE_FRIEND if t["has"][g] & t["friends"] else NEUTRAL
        assert preference[g] == (REFUSED if barred or apart(t, g) else friends)


@given(st.lists(some, min_size=1, max_size=6), st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=192, max_size=192))
def test_penalise_adds_up_what_each_function_costs(has: list[set[int]], cost: list[float]) -> None:
    """The penalty of a GPU is the sum over the functions on it, each once."""
    penalty = np.full(len(has), 9.0)
    penalise(penalty, words(has), np.array(cost))
    assert penalty.tolist() == [sum(cost[number] for number in here) for here in has]


@given(st.data(), st.tuples(*[st.integers(0, 6)] * 3))
def test_obstacles_count_each_resource_and_name_near_misses(
    columns: Any, data: st.DataObject, demand: tuple[int, int, int]
) -> None:
    """Each resource counts the GPUs where it is short; those where it alone is are listed; the rest is room."""
    c = data.draw(columns)
    t = data.draw(tenants(c.held.size, len(c.ranges)))
    slices = np.array(data.draw(st.lists(st.integers(0, 2), min_size=c.held.size, max_size=c.held.size)), np.int64)
    need = np.array([*demand, t["cpu"], t["host_memory"]], np.int64)
    near = np.zeros((7, 2), np.int64)
    masks = words([t["own"], t["against"], t["friends"]])
    counts, listed, room = obstacles(
        c.free, words(t["has"]), words(t["refuses"]), masks, c.node_start, t["host_free"], t["barred"], slices, need,
        near,
    )  # fmt: skip
    expected, alone = [0] * 7, [[] for _ in range(7)]  # type: ignore[var-annotated]
    rooms = [0] * len(c.ranges)
    for g in range(c.held.size):
        n = c.node_of[g]
        if t["barred"][n]:
            continue
        short = [
            c.free[g, 0] < demand[0],
            slices[g] == 0 and c.free[g, 1] < demand[1],  # a partition bounds the limit itself
            c.free[g, 2] < demand[2],
            apart(t, g),
            t["host_free"][n, 0] < t["cpu"],
            t["host_free"][n, 1] < t["host_memory"],
            slices[g] == 2,
        ]
        for what in range(7):
            expected[what] += bool(short[what])
        if sum(map(bool, short)) == 1:
            alone[short.index(True)].append(g)
        rooms[n] += not any(short)
    assert counts.tolist() == expected
    assert room.tolist() == rooms
    assert [near[i, : listed[i]].tolist() for i in range(7)] == [rows[:2] for rows in alone]


@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_what_is_crossed_out_leaves_no_trace(
    columns: Any, data: st.DataObject, request: int, limit: int, memory: list[int]
) -> None:
    """Booking and crossing out in any order gives back every column but the counts of changes."""
    c = data.draw(columns)
    before = copy.deepcopy(c)
    node = data.draw(st.sampled_from(c.ranges))
    rows = np.array(data.draw(st.permutations(list(node)))[: len(memory)], np.int64)
    mib, count = np.array(memory, np.int64), rows.size
    other = data.draw(st.integers(0, c.held.size - 1))
    ledger = c.free, c.held, c.node_of, c.node_state, c.totals
    write_all(*ledger, rows, mib, count, request, limit, 1)
    write(*ledger, other, 1, 2, 3, 1)
    assert c.totals[0] == int((c.held > 0).sum())
    assert int(before.free.sum() - c.free.sum()) == count * (request + limit) + sum(memory[:count]) + 6
    write_all(*ledger, rows, mib, count, request, limit, -1)
    write(*ledger, other, 1, 2, 3, -1)
    for column in ("free", "held", "totals"):
        assert np.array_equal(getattr(c, column), getattr(before, column)), column
    assert np.array_equal(c.node_state[:, ACTIVE], before.node_state[:, ACTIVE])
