"""Partitions of GPUs as bits: the slicing kernels against sets of slices."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dilu_core.kernels.cpu.slicing import best_slice, first_slice, have_slices, least_partition

Ints = NDArray[np.int64]

SLICES = 4


class Profile(NamedTuple):
    """What a profile gives, how many slices it covers, and where it may start."""

    share: int
    memory: int
    slices: int
    starts: tuple[int, ...]


# in increasing order of size, as the kernels expect; the last type has no partitions
KINDS: tuple[tuple[Profile, ...], ...] = (
    (Profile(2, 1, 1, (0, 1, 2, 3)), Profile(3, 2, 2, (0, 2)), Profile(8, 4, 4, (0,))),
    (Profile(2, 2, 1, (0, 1, 3)), Profile(5, 3, 3, (0, 1))),
    (),
)
START = np.cumsum([0, *map(len, KINDS)]).astype(np.int64)
TABLE = np.array(
    [
        (p.share, p.memory, p.slices, sum(1 << start for start in p.starts), SLICES)
        for profiles in KINDS
        for p in profiles
    ],
    np.int64,
)

demands = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(0, 4))


def covered(p: Profile, start: int) -> set[int]:
    """The slices it takes from there."""
    return set(range(start, start + p.slices))


def as_set(used: int) -> set[int]:
    """The slices that these bits stand for."""
    return {i for i in range(SLICES) if used >> i & 1}


def start_by_hand(profiles: tuple[Profile, ...], number: int, used: set[int]) -> int:
    """The free first slice that leaves most places to larger profiles, then the lowest; -1 for none."""
    p = profiles[number]
    free = [s for s in p.starts if not covered(p, s) & used]

    def left(start: int) -> int:
        taken = used | covered(p, start)
        larger = [q for q in profiles[number + 1 :] if q.slices > p.slices]
        return sum(1 for q in larger for s in q.starts if not covered(q, s) & taken)

    return min(free, key=lambda s: (-left(s), s), default=-1)


def partition_by_hand(kind: int, free: Ints, used: set[int], demand: tuple[int, int, int]) -> tuple[int, int, int]:
    """(profile of the table, first slice, slices beyond the least that would do) of the smallest that has a place."""
    request, limit, memory = demand
    if free[0] < request or free[2] < memory:
        return -1, -1, 0
    enough = [(number, p) for number, p in enumerate(KINDS[kind]) if p.share >= request and p.memory >= memory]
    for number, p in enough:
        start = start_by_hand(KINDS[kind], number, used)
        if start >= 0 and free[1] >= min(limit, p.share):
            return int(START[kind]) + number, start, p.slices - enough[0][1].slices
    return -1, -1, 0


@given(st.sampled_from([0, 1]), st.integers(0, 2**SLICES - 1), st.data())
def test_first_slice_keeps_room_for_larger_partitions(kind: int, used: int, data: st.DataObject) -> None:
    """The start is legal and free, and no other leaves larger profiles more places."""
    number = data.draw(st.integers(0, len(KINDS[kind]) - 1))
    found = first_slice(used, TABLE, int(START[kind]) + number, int(START[kind + 1]))
    assert found == start_by_hand(KINDS[kind], number, as_set(used))


@given(st.sampled_from([0, 1]), st.integers(0, 2**SLICES - 1), st.tuples(*[st.integers(0, 8)] * 3), demands)
def test_least_partition_is_the_smallest_with_a_place(
    kind: int, used: int, free: tuple[int, int, int], demand: tuple[int, int, int]
) -> None:
    """Of the profiles that suffice, the smallest that has a free place and whose share the limit cap admits."""
    columns = np.array([free], np.int64)
    found = least_partition(columns, 0, used, TABLE, int(START[kind]), int(START[kind + 1]), *demand)
    assert found == partition_by_hand(kind, columns[0], as_set(used), demand)


@st.composite
def clusters(draw: st.DrawFn) -> dict[str, Any]:
    """Up to 4 nodes of 1-3 GPUs, whole and partitioned, in any state; empty GPUs have all free."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=4))
    n = sum(size for size, _ in shapes)
    kind_of = np.array([kind for size, kind in shapes for _ in range(size)])
    held = np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.int64)
    free = np.array(draw(st.lists(st.tuples(*[st.integers(0, 8)] * 3), min_size=n, max_size=n)), np.int64)
    used = np.array(draw(st.lists(st.integers(0, 2**SLICES - 1), min_size=n, max_size=n)), np.int64)
    empty = held == 0
    free[empty] = np.stack([np.full(n, 8), np.full(n, 8), 4 + kind_of], axis=1)[empty]
    node_start = np.concatenate([[0], np.cumsum([size for size, _ in shapes])]).astype(np.int64)
    node_state = np.zeros((len(shapes), 3), np.int64)
    node_state[:, 0] = np.add.reduceat(~empty, node_start[:-1], dtype=np.int64)
    liked = np.array(draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)), np.int64)
    return {
        "free": free,
        "held": held,
        "preference": np.where(empty, np.minimum(liked, 0), liked),
        "penalty": np.where(empty, 0.0, draw(st.lists(st.sampled_from([0.0, 0.5]), min_size=n, max_size=n))),
        "node_start": node_start,
        "node_type": np.array([kind for _, kind in shapes], np.int64),
        "node_state": node_state,
        "used": np.where(empty, 0, used),
    }


@given(clusters(), demands, st.booleans())
def test_best_slice_is_the_best_of_all_gpus(c: dict[str, Any], demand: tuple[int, int, int], opening: bool) -> None:
    """Active GPUs by (preference, score, row); empty ones by (memory, empty GPUs on the node, row)."""
    options = []
    for g in range(c["held"].size):
        node = int(np.searchsorted(c["node_start"], g, side="right")) - 1
        if c["preference"][g] < 0 or (c["held"][g] == 0) != opening:
            continue
        used = as_set(int(c["used"][g]))
        profile, start, waste = partition_by_hand(int(c["node_type"][node]), c["free"][g], used, demand)
        if profile < 0:
            continue
        if opening:
            here = c["held"][c["node_start"][node] : c["node_start"][node + 1]]
            key: tuple[float, float, int] = (int(c["free"][g, 2]), int((here == 0).sum()), g)
        else:
            left = (SLICES - len(used) - int(TABLE[profile, 2]) + 2 * waste) / SLICES
            key = (-int(c["preference"][g]), round(left + float(c["penalty"][g]), 7), g)
        options.append((key, profile, start))
    row, _, _, profile, start = best_slice(
        c["free"], c["held"], c["preference"], c["penalty"], c["node_start"], c["node_type"], c["node_state"],
        c["used"], START, TABLE, *demand, opening,
    )  # fmt: skip
    if not options:
        assert row == -1
        return
    best = min(options)
    assert (row, profile, start) == (best[0][2], best[1], best[2])


@given(clusters(), demands)
def test_have_slices_tells_whole_roomy_and_full_gpus(c: dict[str, Any], demand: tuple[int, int, int]) -> None:
    """0 for a whole GPU; 1 where some sufficient profile has a free place and limit enough; else 2."""
    slices = np.full(c["held"].size, 9, np.int64)
    request, limit, memory = demand
    have_slices(c["free"], c["node_start"], c["node_type"], c["used"], START, TABLE, request, limit, memory, slices)
    for g in range(c["held"].size):
        kind = int(c["node_type"][int(np.searchsorted(c["node_start"], g, side="right")) - 1])
        roomy = any(
            p.share >= request
            and p.memory >= memory
            and c["free"][g, 1] >= min(limit, p.share)
            and any(not covered(p, start) & as_set(int(c["used"][g])) for start in p.starts)
            for p in KINDS[kind]
        )
        assert slices[g] == (0 if not KINDS[kind] else 1 if roomy else 2)
