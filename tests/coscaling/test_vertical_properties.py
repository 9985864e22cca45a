"""Promises of the vertical policy that hold whatever the sensors say: priority, fairness, monotony, no starvation."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.gpu import KINDS, GpuInstance, GpuObservation
from dilu_core.coscaling.vertical import VerticalMode, VerticalParams, VerticalScaler, VerticalState

garbage = st.one_of(
    st.none(), st.floats(), st.text(max_size=2), st.booleans(), st.binary(max_size=2), st.just(1j), st.just([]),
    st.integers(-(10**400), 10**400),
)  # fmt: skip
unknown = st.none()
demands = st.one_of(st.none(), st.just(0), st.integers(1, 1100), st.floats(0, 1100))


@st.composite
def instances(draw, *, most_request=300, demand: Any = demands, cycle: Any = unknown):
    """Some instances of any kind, half of them with weights of their own."""
    found = []
    for i in range(draw(st.integers(1, 7))):
        request = draw(st.integers(1, most_request))
        found.append(
            GpuInstance(
                f"i{i}",
                draw(st.sampled_from(KINDS)),
                request,
                draw(st.integers(request, 1000)),
                draw(demand),
                draw(cycle),
                weight=draw(st.one_of(st.none(), st.integers(1, 9))),
            )
        )
    return found


def decide(found, state=None, scaler=None):
    return (scaler or VerticalScaler()).decide(state or VerticalState(), GpuObservation(tuple(found)))


@given(instances(), st.integers(0, 6), demands)
def test_wanting_more_never_brings_less(found, at, demand):
    """Raising one SLO instance's demand never lowers its grant, nor lifts another SLO grant by more than a rounding."""
    one = found[at % len(found)]
    if one.kind == "best-effort" or not replace(one, demand_milli=demand).wanted_milli >= one.wanted_milli:
        return
    less, _ = decide(found)
    more, _ = decide([replace(each, demand_milli=demand) if each is one else each for each in found])
    assert more[one.name] >= less[one.name]
    for each in found:
        if each is not one and each.kind != "best-effort":
            assert more[each.name] <= less[each.name] + 1


@given(instances(cycle=st.sampled_from([None, 10.0, 17.0])), st.randoms())
def test_the_order_of_instances_decides_ties_alone(found, random):
    """In another order every grant is the same to one unit, and what follows of it - cap, mode, debt - to none."""
    state = VerticalState(cap_milli=600.0, baselines_ms={f"i{i}": 10.0 for i in range(7)}, owed_milli=19_990)
    grants, after = decide(found, state)
    random.shuffle(found)
    shuffled, after_shuffled = decide(found, state)
    assert all(abs(grants[name] - shuffled[name]) <= 1 for name in grants)
    assert after == after_shuffled
    assert (grants.mode, grants.best_effort_cap_milli) == (shuffled.mode, shuffled.best_effort_cap_milli)
    assert sum(grants.values()) == sum(shuffled.values())


@given(st.lists(instances(most_request=1000, demand=garbage, cycle=garbage), min_size=1, max_size=4))
def test_garbage_never_raises_and_the_same_garbage_decides_the_same(periods):
    """Strings, NaN, complex numbers and integers of 400 digits are "not known"; twice decided is equally decided."""
    first, second = VerticalState(), VerticalState()
    for found in periods:
        grants, first = decide(found, first)
        again, second = decide(found, second)
        assert dict(grants) == dict(again)
        assert first == second
        assert sum(grants.values()) <= 1000
        assert all(0 <= grants[one.name] <= one.limit_milli for one in found)


@given(instances(most_request=120))
def test_slo_functions_come_first(found):
    """Best effort is lent nothing that an SLO instance still wants, and takes away nothing when it is there."""
    grants, _ = decide(found)
    slo = [one for one in found if one.kind != "best-effort"]
    borrowed = sum(grants[one.name] - one.request_milli for one in found if one.kind == "best-effort" and one.active)
    if borrowed:
        assert all(grants[one.name] == one.wanted_milli for one in slo)


def test_spare_share_goes_by_weight_the_request_unless_told():
    """300 spare milli-GPU: 100 to 200 by requests of 1 to 2 hundred; 75 to 225 by weights of 1 to 3."""
    pair = [GpuInstance("a", "slo", 100, 1000), GpuInstance("b", "slo", 200, 1000)]
    idle = GpuInstance("rest", "slo", 400, 400)
    grants, _ = decide([*pair, idle])
    assert dict(grants) == {"a": 200, "b": 400, "rest": 400}
    grants, _ = decide([replace(pair[0], weight=1), replace(pair[1], weight=3), idle])
    assert dict(grants) == {"a": 175, "b": 425, "rest": 400}


def bystander(demand, cycle_ms, kind="slo"):
    """An SLO instance and two trainings that want all there is."""
    return [
        GpuInstance("serve", kind, 200, 500, demand, cycle_ms),
        GpuInstance("train", "best-effort", 100, 1000),
        GpuInstance("other", "best-effort", 50, 600),
    ]


def borrowed_by_training(grants):
    return grants["train"] + grants["other"] - 150


def test_a_permanent_emergency_leaves_training_its_requests_and_then_a_tenth():
    """Cut to its requests in milliseconds, best effort is lent 65 of 650 milli-GPU once 20,000 are owed, for ever.

    The first owed period of 65 sees 650 lent (the cap of the first cycle); then every period denies up to 65.
    """
    scaler, state, seen = VerticalScaler(), VerticalState(baselines_ms={"serve": 10.0}), []
    for _ in range(1000):
        grants, state = decide(bystander(200, 25.0), state, scaler)
        assert grants.mode is VerticalMode.EMERGENCY
        assert grants["serve"] == 200
        seen.append((borrowed_by_training(grants), grants.relieved))
    assert seen[10] == (0, False)
    start = next(i for i, (_, relieved) in enumerate(seen) if relieved)
    assert 20_000 // 65 <= start <= 20_000 // 65 + 10
    assert set(seen[start:]) == {(65, True)}


cycles = st.one_of(st.sampled_from([10.0, 11.0, 14.0, 20.0, 70.0, None]), st.floats())


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 500)), cycles), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(0, 20),
    st.integers(0, 1000),
)
def test_training_gets_its_part_over_any_stretch_and_no_more_in_an_emergency(load, share, periods, cap):
    """Whatever the cycles: requests in every period; over any stretch what is owed less the debt allowed.

    And the harm is bounded: no SLO grant changes by it, and what is lent is the cap's or what is owed, no more.
    """
    scaler = VerticalScaler(VerticalParams(starvation_share=share, starvation_periods=periods))
    without = VerticalScaler(VerticalParams(starvation_share=0.0))
    state = plain = VerticalState(cap_milli=float(cap), baselines_ms={"serve": 10.0})
    balances = []
    for demand, cycle in load:
        found = bystander(demand, cycle)
        free, _ = decide(bystander(demand, None))
        owed = int(share * borrowed_by_training(free))
        grants, state = decide(found, state, scaler)
        capped, plain = decide(found, plain, without)
        assert min(grants["train"] - 100, grants["other"] - 50) >= 0
        assert grants["serve"] == capped["serve"]
        assert borrowed_by_training(grants) in (borrowed_by_training(capped), owed)
        assert borrowed_by_training(grants) >= borrowed_by_training(capped)
        assert state.cap_milli == plain.cap_milli
        balances.append(borrowed_by_training(grants) - owed)
    sums = [0, *accumulate(balances)]
    worst = min(end - start for i, start in enumerate(sums) for end in sums[i:])
    assert worst >= -scaler.params.most_owed_milli


def test_an_emergency_without_best_effort_leaves_the_cap_alone():
    """A training that starts after it is not throttled for what it did not do."""
    state = VerticalState(baselines_ms={"serve": 10.0})
    alone = bystander(200, 30.0)[:1]
    for _ in range(20):
        grants, state = decide(alone, state)
        assert grants.mode is VerticalMode.EMERGENCY
    assert state.cap_milli == 1000.0


def test_the_baseline_of_an_llm_outlasts_slow_cycles_and_comes_back_at_once():
    """After 20, 1,000 and 5,000 doubled cycles the doubling is an emergency; a dozen good ones undo the drift."""
    scaler, state = VerticalScaler(), VerticalState(baselines_ms={"serve": 10.0})
    for period in range(5_001):
        grants, state = decide(bystander(200, 20.0, "llm-slo")[:2], state, scaler)
        if period in (0, 20, 1000, 5000):
            assert grants.mode is VerticalMode.EMERGENCY
    assert state.baselines_ms["serve"] > 10.4
    for _ in range(12):
        _, state = decide(bystander(200, 10.0, "llm-slo")[:2], state, scaler)
    assert state.baselines_ms["serve"] == pytest.approx(10.0, rel=1e-3)


def test_a_profiled_cycle_bounds_the_baseline_for_good():
    """Told its cycle alone, an instance whose first and only cycles are slow is seen to be slow, from the first on."""
    one = GpuInstance("serve", "slo", 200, 500, 200.0, 30.0, solo_cycle_ms=10.0)
    state = VerticalState()
    for _ in range(50):
        grants, state = decide([one], state)
        assert (grants.mode, grants.inflation) == (VerticalMode.EMERGENCY, 3.0)
    assert state.baselines_ms == {"serve": 10.0}
