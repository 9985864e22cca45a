"""Annealed exchange: what the kernel keeps up to date equals a recount, and its best state keeps the rules."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dilu_core.kernels.cpu.exchange import _PUSHED, _push, anneal
from dilu_core.kernels.cpu.fragmentation import node_fragmentation
from dilu_core.kernels.cpu.seating import Items, Seats, can_sit, find_room, lift, new_trail, put, seek, undo

HUGE = 10**9


def board(seed: int, *, nodes: int = 6) -> tuple[Items, Seats]:
    """Nodes of one to four GPUs, items of one to three that run where there was room, and some that are pending."""
    draw = random.Random(seed)
    sizes = [draw.randint(1, 4) for _ in range(nodes)]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    count = 5 * nodes
    demand = np.array([(draw.choice((200, 300, 500, 700)), draw.choice((300, 700)), draw.randint(1, 4))
                       for _ in range(count)], np.int64)  # fmt: skip
    size = np.array([draw.choice((1, 1, 1, 2, 3)) for _ in range(count)], np.int64)
    host_demand = np.array([(draw.randint(0, 3), draw.randint(0, 2)) for _ in range(count)], np.int64)
    kind = np.array([draw.randrange(2) for _ in range(count)], np.int64)
    allowed = np.array([[True] * nodes, [draw.random() < 0.7 for _ in range(nodes)]], np.bool_)
    home, home_rows = np.full(count, -1, np.int64), np.full((count, 3), -1, np.int64)
    alike = np.unique(np.column_stack([demand, size, host_demand, kind]), axis=0, return_inverse=True)[1].reshape(-1)
    items = Items(demand, size, host_demand, kind, alike, allowed, starts, home, home_rows)
    gpus = int(starts[-1])
    seats = Seats(
        np.tile(np.array([1000, 1500, 8], np.int64), (gpus, 1)),
        np.tile(np.array([draw.choice((10, HUGE)), 8], np.int64), (nodes, 1)),
        np.full(nodes, 1000, np.int64), home.copy(), home_rows.copy(), np.zeros((nodes, 40), np.int64),
        np.zeros(nodes, np.int64), np.zeros(count, np.int64),
    )  # fmt: skip
    trail = new_trail(3)
    for i in range(count):
        able = [n for n in range(nodes) if can_sit(i, n, items, seats, trail.out)]
        if able and draw.random() < 0.8:
            n = draw.choice(able)
            assert can_sit(i, n, items, seats, trail.out)
            put(i, n, items, seats, trail)
            trail.length[0] = 0
    home[:], home_rows[:] = seats.at, seats.rows
    return items, seats


def counted(items: Items, at: np.ndarray, rows: np.ndarray, nodes: int, gpus: int) -> tuple[np.ndarray, np.ndarray]:
    """What is held on each GPU and host, by a plain count."""
    held, host = np.zeros((gpus, 3), np.int64), np.zeros((nodes, 2), np.int64)
    for i, n in enumerate(at.tolist()):
        if n >= 0:
            chosen = rows[i, : items.size[i]].tolist()
            assert len(set(chosen)) == len(chosen)
            assert all(items.node_start[n] <= g < items.node_start[n + 1] for g in chosen)
            assert items.allowed[items.kind[i], n]
            for g in chosen:
                held[g] += items.demand[i]
            host[n] += items.host_demand[i]
    return held, host


def total(items: Items, seats: Seats) -> tuple[np.ndarray, np.ndarray]:
    """Capacities: what is free and what is held."""
    held, host = counted(items, seats.at, seats.rows, seats.held.size, len(seats.free))
    return seats.free + held, seats.host + host


@pytest.mark.parametrize("may_swap", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_state_and_the_score_follow_what_was_accepted(seed: int, may_swap: bool) -> None:
    """Free room, lists, waste, moves and shares equal a recount; nobody loses a place; the best state is in budget."""
    items, seats = board(seed)
    nodes, most = seats.held.size, 5
    capacity, hosts = total(items, seats)
    shapes = np.array([[300, 300, 1, 1, 1, 0], [700, 700, 4, 2, 2, 1]], np.int64)
    weight = np.array([0.6, 0.4])
    shapes.flags.writeable = weight.flags.writeable = False  # like a mix's

    def wasted(n: int) -> float:
        start, stop = items.node_start[n : n + 2].tolist()
        cpu, memory = seats.host[n].tolist()
        return node_fragmentation(seats.free, start, stop, cpu, memory, shapes, weight)

    waste = np.array([wasted(n) for n in range(nodes)])
    score, best_at, best_rows = np.zeros(4, np.int64), seats.at.copy(), seats.rows.copy()
    pending = np.flatnonzero(items.home < 0)
    random_state, trail = np.array([seed + 1], np.int64), new_trail(3)
    for temperature in (0.3, 0.1, 0.02):
        anneal(items, seats, trail, pending, shapes, weight, waste, score, best_at, best_rows, random_state, 400,
               temperature, 0.2, 1.0, most, may_swap)  # fmt: skip
        now, now_hosts = total(items, seats)
        assert (now == capacity).all()
        assert (now_hosts == hosts).all()
        assert (seats.free >= 0).all()
        assert (seats.host >= 0).all()
        assert waste == pytest.approx(np.array([wasted(n) for n in range(nodes)]))
        for n in range(nodes):
            assert sorted(seats.listed[n, : seats.held[n]].tolist()) == np.flatnonzero(seats.at == n).tolist()
            assert seats.most[n] == seats.free[items.node_start[n] : items.node_start[n + 1], 0].max()
        assert (score[0], score[1]) == tally(items, seats.at, seats.rows)
        assert (score[3], score[2]) == tally(items, best_at, best_rows)
        assert score[3] <= most
        for at in (seats.at, best_at):
            assert (at[items.home >= 0] >= 0).all()
        held, host = counted(items, best_at, best_rows, nodes, len(seats.free))
        assert (held <= capacity).all()
        assert (host <= hosts).all()


def tally(items: Items, at: np.ndarray, rows: np.ndarray) -> tuple[int, int]:
    """(moves, milli-GPU let in) of a state, by definition."""
    moves = share = 0
    for i, home in enumerate(items.home.tolist()):
        k = items.size[i]
        if home < 0:
            share += int(items.demand[i, 0] * k) if at[i] >= 0 else 0
        else:
            moves += at[i] != home or set(rows[i, :k].tolist()) != set(items.home_rows[i, :k].tolist())
    return moves, share


@pytest.mark.parametrize("seed", range(6))
def test_to_undo_is_to_restore(seed: int) -> None:
    """Lifts and puts that are undone leave all as it was, but for the order of lists."""
    items, seats = board(seed)
    before = [column.copy() for column in (seats.free, seats.host, seats.most, seats.at, seats.held)]
    draw, trail = random.Random(seed), new_trail(3)
    for _ in range(6):
        running = np.flatnonzero(seats.at >= 0).tolist()
        i = draw.choice(running)
        lift(i, items, seats, trail)
        for n in range(seats.held.size):
            if can_sit(i, n, items, seats, trail.out) and draw.random() < 0.5:
                put(i, n, items, seats, trail)
                break
    undo(items, seats, trail, 0)
    for old, new in zip(before, (seats.free, seats.host, seats.most, seats.at, seats.held), strict=True):
        assert (old == new).all()
    assert (seats.rows[items.home >= 0] == items.home_rows[items.home >= 0]).all()


@pytest.mark.parametrize("seed", range(6))
def test_seek_finds_the_first_node_with_room(seed: int) -> None:
    """As asking one node after another would, round the end, and never the node left out."""
    items, seats = board(seed)
    nodes, out = seats.held.size, np.zeros(3, np.int64)
    for i in np.flatnonzero(items.home < 0).tolist():
        for begin in range(nodes):
            found = [
                z
                for z in range(nodes)
                if (begin + z) % nodes != 2 and can_sit(i, (begin + z) % nodes, items, seats, out)
            ]
            assert seek(i, 2, begin, items, seats, out) == min(found, default=nodes)


def pushed_out(q: int, n: int, begin: int, items: Items, seats: Seats, may_swap: bool) -> tuple[int, int] | None:
    """Who gives its place to `q`, and where: trying one after another, and every node for each."""
    nodes, trail, looked_at = seats.held.size, new_trail(3), 0
    for m in [(begin + z) % nodes for z in range(nodes)]:
        for other in reversed(seats.listed[m, : seats.held[m]].tolist()):
            if m == n or not items.allowed[items.kind[q], m] or items.home[other] < 0:
                continue
            needs = [[*items.demand[i].tolist(), *items.host_demand[i].tolist(), items.size[i]] for i in (other, q)]
            rows = seats.rows[other, : items.size[other]]
            opens = (seats.free[rows] + items.demand[other] >= items.demand[q]).all(axis=1).any()
            roomy = (seats.host[m] + items.host_demand[other] >= items.host_demand[q]).all()
            if not (opens and roomy and any(one < two for one, two in zip(*needs, strict=True))):
                continue
            looked_at += 1
            if looked_at > _PUSHED:
                return None
            lift(other, items, seats, trail)
            if can_sit(q, m, items, seats, trail.out):
                put(q, m, items, seats, trail)
                targets = [y for y in range(nodes) if y != m and can_sit(other, y, items, seats, trail.out)]
                if targets:
                    undo(items, seats, trail, 0)
                    return other, m
            undo(items, seats, trail, 0)
    return None


@pytest.mark.parametrize("may_swap", [False, True])
@pytest.mark.parametrize("nodes", [4, 8, 16])
def test_the_first_that_can_be_pushed_out_is(nodes: int, may_swap: bool) -> None:
    """As trying everybody everywhere would; where nobody can be, nothing has moved."""
    successes = failures = 0
    for seed in range(12):
        items, seats = board(seed, nodes=nodes)
        draw = random.Random(seed)
        for q in np.flatnonzero(items.home < 0).tolist():
            n, begin = draw.randrange(nodes), draw.randrange(nodes)
            expected = pushed_out(q, n, begin, items, seats, may_swap)
            at, trail = seats.at.copy(), new_trail(3)
            assert _push(q, n, begin, items, seats, trail, may_swap) == (expected is not None)
            if expected is None:
                failures += 1
            else:
                successes += 1
                other, m = expected
                assert seats.at[q] == m
                assert seats.at[other] not in (-1, m)
                assert (np.delete(seats.at == at, [q, other])).all()
            undo(items, seats, trail, 0)
            assert (seats.at == at).all()
    assert successes
    assert failures


def test_the_fullest_gpus_with_room_are_taken() -> None:
    """Of the GPUs with room for a part, those with the least free request; too few are none."""
    free = np.array([[500, 900, 8], [400, 900, 8], [900, 900, 8], [300, 900, 8]], np.int64)
    out = np.zeros(3, np.int64)
    assert find_room(free, 0, 4, np.array([400, 400, 1], np.int64), 2, out)
    assert out[:2].tolist() == [1, 0]
    assert not find_room(free, 0, 4, np.array([500, 400, 1], np.int64), 3, out)
