"""The compiled engine of shared GPUs agrees with a plain one that shares no code with it, and keeps its promises."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.kernels.cpu.gpu_division import HARD_CAPS, TIME_SLICES, WORK_CONSERVING, divide_gpu, reachable
from dilu_core.kernels.cpu.replay import least_share, share_for_rate
from dilu_core.kernels.cpu.shared_gpus import SharedInstances, advance_shared

STEPS, STEP_S = 6, 0.1
RULES = [WORK_CONSERVING, HARD_CAPS, TIME_SLICES]


def columns(rows):
    """Rows as dictionaries, as the columns of the engine."""
    return SharedInstances(*(np.array([row[name] for row in rows], dtype=np.int64) for name in SharedInstances._fields))


def row(function, gpu, request, limit, tier=0, gang=-1, ready=1):
    return dict(zip(SharedInstances._fields, (function, gpu, request, limit, tier, gang, ready), strict=True))


def run(sharing, rows, arrivals, rates, training, *, gpus=2, execution=None, backlog=None, cuts=()):
    """The engine's outputs by name, after one call or several cut at `cuts`."""
    functions, steps = arrivals.shape
    execution = 1000.0 / np.maximum(rates, 1e-3) if execution is None else execution
    out = {
        "backlog": np.zeros(functions) if backlog is None else np.array(backlog, dtype=float),
        "trained": np.zeros(functions),
        "served": np.zeros((functions, steps)),
        "execution": np.zeros((functions, steps)),
        "used": np.zeros(len(rows)),
        "borrowed": np.zeros(len(rows)),
        "spare": np.zeros(len(rows)),
    }
    for first, stop in pairwise([0, *cuts, steps]):
        advance_shared(
            *(first, stop, STEP_S, sharing, gpus, arrivals, rates, execution),
            *(np.array(training, dtype=np.int64), columns(rows), *out.values()),
        )
    return out


# ---- the plain engine: dictionaries, bisection, one question at a time


def plain_fill(left, goals, weights):
    """Weighted max-min parts of `left`, by bisection of the level."""
    if sum(goals) <= left:
        return goals
    low, high = 0.0, 1001.0
    for _ in range(70):
        level = (low + high) / 2
        taken = sum(min(goal, level * weight) for goal, weight in zip(goals, weights, strict=True))
        low, high = (level, high) if taken < left else (low, level)
    return [min(goal, low * weight) for goal, weight in zip(goals, weights, strict=True)]


def plain_division(sharing, rows, wants):
    """Grants on one GPU."""
    requests = [each["request"] for each in rows]
    if sharing == HARD_CAPS:
        return plain_fill(1000.0, wants, [each["limit"] for each in rows])
    base = [min(want, request) for want, request in zip(wants, requests, strict=True)]
    grants = plain_fill(1000.0, base, requests)
    left = 1000.0 - sum(grants)
    if sharing == TIME_SLICES or sum(base) > 1000.0:
        return grants
    for tier in (0, 1):
        some = [k for k, each in enumerate(rows) if each["tier"] == tier]
        lent = plain_fill(left, [wants[k] - base[k] for k in some], [requests[k] for k in some])
        for k, extra in zip(some, lent, strict=True):
            grants[k] += extra
        left -= sum(lent)
    return grants


def on_every_gpu(sharing, rows, wants):
    """Grants of all rows, GPU by GPU."""
    grants = [0.0] * len(rows)
    for gpu in {each["gpu_of"] for each in rows}:
        here = [k for k, each in enumerate(rows) if each["gpu_of"] == gpu]
        shares = plain_division(sharing, [rows[k] for k in here], [wants[k] for k in here])
        for k, share in zip(here, shares, strict=True):
            grants[k] = share
    return grants


def scanned_share(table, wanted, most):
    """The first entry of the table that serves as much, and the way to it."""
    enough = np.flatnonzero(table[: most + 1] >= wanted)
    if wanted <= 0.0 or enough.size == 0:
        return 0.0 if wanted <= 0.0 else float(most)
    share = int(enough[0])
    return share - 1 + (wanted - table[share - 1]) / (table[share] - table[share - 1])


def plain_engine(sharing, rows, arrivals, rates, training, backlog):
    """What `run` gives, by the words of the docstring."""
    functions, steps = arrivals.shape
    gangs = {}
    for k, each in enumerate(rows):
        gangs.setdefault(("gang", each["gang_of"]) if each["gang_of"] >= 0 else ("row", k), []).append(k)
    units = [members for members in gangs.values() if all(rows[k]["ready"] for k in members)]
    working = [k for members in units for k in members]
    most = [each["request"] if sharing == TIME_SLICES else each["limit"] for each in rows]
    shares, batch_ms = np.arange(1001), 1000.0 / np.maximum(rates, 1e-3)
    out = {
        "backlog": np.array(backlog, dtype=float),
        "trained": np.zeros(functions),
        "served": np.zeros((functions, steps)),
        "execution": np.zeros((functions, steps)),
        "used": np.zeros(len(rows)),
        "borrowed": np.zeros(len(rows)),
        "spare": np.zeros(len(rows)),
    }
    for step in range(steps):
        waiting = out["backlog"] + arrivals[:, step]
        busy = [k for k in working if training[rows[k]["function_of"]] or waiting[rows[k]["function_of"]] > 0.0]
        wants = [float(most[k]) if k in busy else 0.0 for k in range(len(rows))]

        def speeds(grants):
            found = []
            for members in units:
                function = rows[members[0]]["function_of"]
                found.append(min(np.interp(grants[k], shares, rates[function]) for k in members))
            return found

        def total(speed, function):
            return sum(
                one for one, members in zip(speed, units, strict=True) if rows[members[0]]["function_of"] == function
            )

        short = {function for function in range(functions) if not training[function] and waiting[function] > 0.0}
        while True:
            grants = on_every_gpu(sharing, rows, wants)
            speed = speeds(grants)
            relieved = {each for each in short if waiting[each] <= total(speed, each) * STEP_S}
            if not relieved:
                break
            short -= relieved
            for one, members in zip(speed, units, strict=True):
                function = rows[members[0]]["function_of"]
                if function in relieved:
                    need = waiting[function] / STEP_S * one / total(speed, function)
                    for k in members:
                        wants[k] = scanned_share(rates[function], need, most[k])
        reach = [0.0] * len(rows)
        for k in working:
            greedy = [float(most[k]) if other == k else want for other, want in enumerate(wants)]
            reach[k] = on_every_gpu(sharing, rows, greedy)[k]
            out["spare"][k] += max(0.0, reach[k] - rows[k]["request"])
        for function in range(functions):
            able = total(speed, function)
            if training[function]:
                for one, members in zip(speed, units, strict=True):
                    if rows[members[0]]["function_of"] == function:
                        out["trained"][function] += len(members) * one * STEP_S
                part = 1.0
            else:
                most_served = able * STEP_S
                emptied = waiting[function] <= most_served * (1.0 + 1e-12)  # but for rounding
                out["served"][function, step] = waiting[function] if emptied else most_served
                out["backlog"][function] = 0.0 if emptied else waiting[function] - most_served
                part = min(1.0, waiting[function] / most_served) if able else 0.0
            time_sum = 0.0
            for one, members in zip(speed, units, strict=True):
                if rows[members[0]]["function_of"] != function or members[0] not in busy:
                    continue
                slowest = 0.0
                for k in members:
                    used = scanned_share(rates[function], one * part, most[k])
                    out["used"][k] += used
                    out["borrowed"][k] += max(0.0, used - rows[k]["request"])
                    promise = min(reach[k], rows[k]["request"]) if sharing == WORK_CONSERVING else reach[k]
                    share = max(1.0, promise, grants[k])
                    slowest = max(slowest, np.interp(share, shares, batch_ms[function]))
                time_sum += slowest * one
            if not training[function] and out["served"][function, step] > 0.0:
                out["execution"][function, step] = time_sum / able
    return out


@st.composite
def problems(draw):
    """A few functions of both kinds on two GPUs, gangs and rows that are not ready among them."""
    functions = draw(st.integers(1, 4))
    training = [draw(st.sampled_from([0, 0, 1])) for _ in range(functions)]
    rates = np.zeros((functions, 1001))
    for function in range(functions):
        peak, half = draw(st.sampled_from([1.0, 20.0, 300.0])), draw(st.sampled_from([50.0, 300.0, 3000.0]))
        top = draw(st.sampled_from([400, 1000]))
        shares = np.minimum(np.arange(1001), top)
        rates[function] = peak * shares / (shares + half)
    rows = []
    for _ in range(draw(st.integers(0, 8))):
        function, request = draw(st.integers(0, functions - 1)), draw(st.integers(1, 1000))
        limit = min(1000, request + draw(st.sampled_from([0, 100, 500])))
        tier = draw(st.integers(0, 1))
        if draw(st.integers(0, 4)) == 0:
            gang = len(rows)
            rows += [
                row(function, gpu, request, limit, tier, gang, draw(st.sampled_from([1, 1, 1, 0]))) for gpu in (0, 1)
            ]
        else:
            gpu, ready = draw(st.integers(0, 1)), draw(st.sampled_from([1, 1, 1, 0]))
            rows.append(row(function, gpu, request, limit, tier, ready=ready))
    arrivals = np.array(
        [draw(st.lists(st.sampled_from([0.0, 0.1, 2.0, 30.0]), min_size=STEPS, max_size=STEPS)) for _ in training]
    )
    arrivals[np.array(training) == 1] = 0.0
    backlog = [0.0 if kind else draw(st.sampled_from([0.0, 0.0, 3.0])) for kind in training]
    return rows, arrivals, rates, training, backlog


@settings(max_examples=120)
@given(problems(), st.sampled_from(RULES))
def test_the_engine_agrees_with_the_plain_one(problem, sharing):
    """Served, waiting, trained, used and spare shares and execution times are those of a direct calculation."""
    rows, arrivals, rates, training, backlog = problem
    ours = run(sharing, rows, arrivals, rates, training, backlog=backlog)
    plain = plain_engine(sharing, rows, arrivals, rates, training, backlog)
    for name, values in plain.items():
        assert ours[name] == pytest.approx(values, rel=1e-6, abs=1e-6), name


@settings(max_examples=120)
@given(problems(), st.sampled_from(RULES))
def test_nothing_is_lost_and_no_gpu_gives_more_than_it_has(problem, sharing):
    """Requests in are served or wait; shares used on a GPU stay within 1000; none exceeds its cap."""
    rows, arrivals, rates, training, backlog = problem
    ours = run(sharing, rows, arrivals, rates, training, backlog=backlog)
    assert ours["served"].sum(axis=1) + ours["backlog"] == pytest.approx(arrivals.sum(axis=1) + backlog)
    assert (ours["served"] >= 0.0).all()
    assert (ours["backlog"] >= 0.0).all()
    for gpu in (0, 1):
        assert sum(ours["used"][k] for k, each in enumerate(rows) if each["gpu_of"] == gpu) <= 1000.0 * STEPS + 1e-6
    for k, each in enumerate(rows):
        top = each["request"] if sharing == TIME_SLICES else each["limit"]
        assert 0.0 <= ours["used"][k] <= top * STEPS + 1e-9
        assert -1e-9 <= ours["spare"][k] <= (each["limit"] - each["request"]) * STEPS + 1e-9
        if not each["ready"]:
            assert ours["used"][k] == ours["spare"][k] == 0.0


@given(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=1, max_size=40), st.floats(0, 60), st.data())
def test_a_search_from_anywhere_finds_the_same_share(steps, wanted, data):
    """Where the search starts does not change, not even by rounding, what it finds."""
    table = np.concatenate(([0.0], np.cumsum(steps)))
    most = data.draw(st.integers(1, table.size - 1))
    found = least_share(table, wanted, most, data.draw(st.integers(-3, 45)))
    assert found == share_for_rate(table, wanted, most)


@given(problems(), st.sampled_from(RULES), st.lists(st.integers(0, STEPS), max_size=3))
def test_calls_may_be_cut_anywhere(problem, sharing, cuts):
    """Several calls in a row give what one gives, bit for bit."""
    rows, arrivals, rates, training, backlog = problem
    whole = run(sharing, rows, arrivals, rates, training, backlog=backlog)
    parts = run(sharing, rows, arrivals, rates, training, backlog=backlog, cuts=sorted(cuts))
    for name, values in whole.items():
        assert np.array_equal(values, parts[name]), name


@st.composite
def divisions(draw):
    """Members of one GPU: requests, limits, tiers, and what each wants."""
    count = draw(st.integers(1, 7))
    request = np.array(draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count)))
    limit = np.minimum(request + np.array(draw(st.lists(st.integers(0, 900), min_size=count, max_size=count))), 1000)
    tier = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    part = np.array(draw(st.lists(st.sampled_from([0.0, 0.01, 0.3, 0.7, 1.0]), min_size=count, max_size=count)))
    return request, limit, tier, part


def divided(sharing, request, limit, tier, want):
    grant, reach, members = np.zeros(want.size), np.zeros(want.size), np.arange(want.size)
    divide_gpu(sharing, members, request, limit, tier, want, grant)
    reachable(sharing, members, request, limit, tier, want, grant, reach)
    return grant, reach


@given(divisions(), st.sampled_from(RULES), st.data())
def test_a_division_keeps_its_promises(problem, sharing, data):
    """Nobody gets more than it wants, nothing wanted stays idle, requests are kept, and one's modesty hurts nobody."""
    request, limit, tier, part = problem
    most = request if sharing == TIME_SLICES else limit
    want = part * most
    grant, reach = divided(sharing, request, limit, tier, want)
    assert (grant <= want + 1e-9).all()
    assert grant.sum() == pytest.approx(min(1000.0, want.sum()))
    assert (reach >= grant - 1e-6).all()
    assert (reach <= most + 1e-9).all()
    guaranteed = np.minimum(want, request)
    if sharing == WORK_CONSERVING and guaranteed.sum() <= 1000.0:
        assert (grant >= guaranteed - 1e-9).all()
        lent_below = (grant - guaranteed)[tier == 1].sum()
        assert lent_below < 1e-6 or (grant[tier == 0] >= want[tier == 0] - 1e-6).all()
    modest = data.draw(st.integers(0, want.size - 1))
    less = want.copy()
    less[modest] *= data.draw(st.floats(0, 1))
    others = np.arange(want.size) != modest
    after, _ = divided(sharing, request, limit, tier, less)
    assert (after[others] >= grant[others] - 1e-6).all()


LINEAR = np.arange(1001.0)[None, :] / 10.0  # 100 rps on a whole GPU


def test_a_neighbour_that_trains_gives_way_and_gets_the_rest():
    """300 guaranteed, 600 wanted: the SLO instance borrows first, training keeps its request and takes what is left."""
    rows = [row(0, 0, 300, 600), row(1, 0, 300, 1000, tier=1)]
    arrivals = np.array([[0.0, 3.0, 6.0, 9.0, 0.0, 0.0], [0.0] * 6])
    ours = run(WORK_CONSERVING, rows, arrivals, np.repeat(LINEAR, 2, axis=0), [0, 1], gpus=1)
    assert ours["served"][0].tolist() == pytest.approx([0.0, 3.0, 6.0, 6.0, 3.0, 0.0])
    assert ours["used"].tolist() == pytest.approx([300 + 600 + 600 + 300, 1000 + 700 + 400 + 400 + 700 + 1000])
    assert ours["trained"][1] == pytest.approx(4200.0 / 100.0)
    assert ours["spare"][0] == pytest.approx(6 * 300.0)  # training must hand back whatever it borrowed


def test_oversold_requests_are_cut_in_proportion():
    """Two active requests of 800 and 400 on one GPU get two thirds and one third of it."""
    rows = [row(0, 0, 800, 1000, tier=1), row(1, 0, 400, 1000, tier=1)]
    ours = run(WORK_CONSERVING, rows, np.zeros((2, STEPS)), np.repeat(LINEAR, 2, axis=0), [1, 1], gpus=1)
    assert ours["used"] / STEPS == pytest.approx([2000 / 3, 1000 / 3])
    assert ours["spare"].tolist() == [0.0, 0.0]


def test_a_gang_trains_at_its_slowest_worker():
    """One worker has its GPU to itself, the other shares: both advance at the share of the second."""
    rows = [row(0, 0, 200, 1000, 1, gang=0), row(0, 1, 200, 1000, 1, gang=0), row(1, 1, 600, 600, 1)]
    ours = run(WORK_CONSERVING, rows, np.zeros((2, STEPS)), np.repeat(LINEAR, 2, axis=0), [1, 1])
    assert ours["trained"][0] == pytest.approx(2 * 40.0 * STEPS * STEP_S)
    assert ours["used"][:2] / STEPS == pytest.approx([400.0, 400.0])


def test_a_queue_goes_to_those_who_can_serve_it():
    """An instance beside a hungry neighbour serves less of the queue than one alone, and nobody waits."""
    rows = [row(0, 0, 200, 800), row(0, 1, 200, 800), row(1, 1, 800, 800, tier=0)]
    arrivals = np.array([[8.0] * STEPS, [50.0] * STEPS])
    ours = run(WORK_CONSERVING, rows, arrivals, np.repeat(LINEAR, 2, axis=0), [0, 0])
    assert ours["backlog"][0] == 0.0
    assert ours["used"][:2] / STEPS == pytest.approx([640.0, 160.0])


@pytest.mark.parametrize("sharing", RULES)
def test_nothing_at_all_is_survived(sharing):
    """No instances, no arrivals, no steps and tables of zeros have their obvious outcome."""
    none = run(sharing, [], np.ones((1, STEPS)), LINEAR, [0])
    assert none["backlog"].tolist() == pytest.approx([STEPS])
    assert none["served"].sum() == 0.0
    idle = run(sharing, [row(0, 0, 100, 200)], np.zeros((1, STEPS)), LINEAR, [0])
    assert idle["used"].tolist() == [0.0]
    assert idle["spare"].tolist() == [0.0 if sharing == TIME_SLICES else 100.0 * STEPS]
    empty = run(sharing, [row(0, 0, 100, 200)], np.zeros((1, 0)), LINEAR, [0])
    assert empty["backlog"].tolist() == [0.0]
    dead = run(sharing, [row(0, 0, 100, 200)], np.ones((1, STEPS)), 0.0 * LINEAR, [0])
    assert dead["served"].sum() == 0.0
    assert np.isfinite(dead["execution"]).all()


def test_execution_follows_the_share_granted():
    """At the request while it suffices, at the grant above it, at the limit under hard caps."""
    execution = 10_000.0 / np.maximum(np.arange(1001.0), 1.0)[None, :]
    arrivals = np.array([[1.0, 3.0, 5.0, 0.0, 0.0, 0.0]])
    for sharing, expected in [
        (WORK_CONSERVING, [10_000 / 300, 10_000 / 300, 20.0]),
        (HARD_CAPS, [10_000 / 600] * 3),
        (TIME_SLICES, [10_000 / 300] * 3),
    ]:
        ours = run(sharing, [row(0, 0, 300, 600)], arrivals, LINEAR, [0], execution=execution, gpus=1)
        assert ours["execution"][0, :3].tolist() == pytest.approx(expected)
        assert ours["execution"][0, 4:].tolist() == [0.0, 0.0]
