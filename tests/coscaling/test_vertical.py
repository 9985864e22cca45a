"""The vertical policy keeps its promises to every active instance and never hands out more than the GPU."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.coscaling.vertical import (
    KINDS,
    GpuInstance,
    GpuObservation,
    VerticalMode,
    VerticalParams,
    VerticalScaler,
    VerticalState,
)
from dilu_core.errors import InvalidArgumentError


def anything(value: Any) -> Any:
    """`value`, hidden from type checkers that would refuse the misuse under test."""
    return value


measured = st.one_of(st.none(), st.floats(), st.integers(-5, 2000))


@st.composite
def gpus(draw, most_request=1000):
    instances = []
    for i in range(draw(st.integers(0, 6))):
        request = draw(st.integers(1, most_request))
        limit = draw(st.integers(request, 1000))
        demand = draw(st.one_of(st.just(0), measured))
        instances.append(GpuInstance(f"i{i}", draw(st.sampled_from(KINDS)), request, limit, demand, draw(measured)))
    return GpuObservation(tuple(instances))


@given(st.lists(gpus(), min_size=1, max_size=12))
def test_requests_are_kept_and_the_gpu_is_never_oversold(observations):
    """Over any readings: active instances get request to limit, idle ones nothing, all together at most 1000.

    Only where the requests of active instances exceed the GPU is each cut in proportion, and the grants say so.
    """
    scaler = VerticalScaler()
    state = scaler.initial_state()
    for observation in observations:
        grants, state = scaler.decide(state, observation)
        active = [one for one in observation.instances if one.active]
        asked = sum(one.request_milli for one in active)
        assert sum(grants.values()) <= 1000
        assert set(grants) == {one.name for one in observation.instances}
        assert grants.oversold == (asked > 1000)
        for one in observation.instances:
            if not one.active:
                assert grants[one.name] == 0
            elif grants.oversold:
                assert abs(grants[one.name] - one.request_milli * 1000 / asked) < 1
            else:
                assert one.request_milli <= grants[one.name] <= one.limit_milli


@given(st.lists(gpus(300), min_size=2, max_size=10), st.integers(0, 9))
def test_a_restart_changes_no_grant(observations, at):
    """The state taken through JSON at any moment leads to the same grants as the state kept in memory."""
    scaler = VerticalScaler(VerticalParams.from_dict(json.loads(json.dumps(VerticalParams().to_dict()))))
    kept = restored = scaler.initial_state()
    for i, observation in enumerate(observations):
        if i == at:
            restored = VerticalState.from_dict(json.loads(json.dumps(restored.to_dict())))
        first, kept = scaler.decide(kept, observation)
        second, restored = scaler.decide(restored, observation)
        assert first == second
        assert kept == restored


def pair(cycle_ms, *, kind="slo", demand: float | None = 300):
    return GpuObservation(
        (
            GpuInstance("serve", kind, 300, 600, demand, cycle_ms),
            GpuInstance("train", "best-effort", 200, 900),
        )
    )


def run(scaler, state, cycles, **kwargs):
    for cycle in cycles[:-1]:
        _, state = scaler.decide(state, pair(cycle, **kwargs))
    return scaler.decide(state, pair(cycles[-1], **kwargs))


def test_spare_share_is_lent_up_to_the_limit():
    """A lone busy instance gets its limit, SLO functions come before best effort, and idle shares are lent out."""
    scaler = VerticalScaler()
    lone, _ = scaler.decide(scaler.initial_state(), GpuObservation((GpuInstance("a", "slo", 300, 600),)))
    assert lone["a"] == 600
    busy, _ = scaler.decide(scaler.initial_state(), pair(None, demand=None))
    assert dict(busy) == {"serve": 600, "train": 400}
    idle, _ = scaler.decide(scaler.initial_state(), pair(None, demand=0))
    assert dict(idle) == {"serve": 0, "train": 900}


@pytest.mark.parametrize(("kind", "ratio"), [("slo", 1.6), ("llm-slo", 1.3)])
@pytest.mark.parametrize("factor", [1.0, 2.0, 10.0])
def test_emergency_shrinks_best_effort_at_once(kind, ratio, factor):
    """An inflation at the threshold or anywhere above it, beyond 4 too, cuts the best-effort share in that period."""
    scaler = VerticalScaler()
    before, state = run(scaler, scaler.initial_state(), [10.0] * 20, kind=kind)
    after, _ = scaler.decide(state, pair(10.0 * ratio * factor * 1.01, kind=kind))
    assert after.mode is VerticalMode.EMERGENCY
    assert 200 <= after["train"] < before["train"]
    assert after["serve"] == before["serve"]


def test_between_the_thresholds_the_cap_holds_and_below_it_recovers():
    """Contention holds the cap; calm multiplies it by 1.3 on every fifth period until nothing is capped."""
    scaler = VerticalScaler()
    _, state = run(scaler, scaler.initial_state(), [10.0] * 20)
    cut, state = scaler.decide(state, pair(20.0))
    held, state = run(scaler, state, [14.0] * 50)
    assert held.mode is VerticalMode.CONTENTION
    assert held["train"] == cut["train"]
    seen = []
    for _ in range(30):
        grants, state = scaler.decide(state, pair(10.0))
        seen.append(grants)
    caps = [grants.best_effort_cap_milli for grants in seen]
    rises = [i for i in range(1, 30) if caps[i] != caps[i - 1]]
    assert caps == sorted(caps)
    assert len(rises) >= 3
    assert {later - earlier for earlier, later in pairwise(rises)} == {5}
    assert seen[-1]["train"] == 700


def test_a_slow_first_cycle_does_not_become_the_baseline():
    """After forty normal cycles a first cycle four times as slow is forgotten: twice the normal is an emergency."""
    scaler = VerticalScaler()
    _, state = run(scaler, scaler.initial_state(), [40.0] + [10.0] * 40)
    grants, _ = scaler.decide(state, pair(20.0))
    assert grants.mode is VerticalMode.EMERGENCY


def test_a_good_baseline_outlasts_a_long_slowdown_and_a_false_reading():
    """After ten seconds of doubled cycles the doubling still counts; one absurdly fast cycle starts no emergency."""
    scaler = VerticalScaler()
    _, state = run(scaler, scaler.initial_state(), [10.0] * 20 + [20.0] * 2000)
    grants, _ = scaler.decide(state, pair(20.0))
    assert grants.mode is VerticalMode.EMERGENCY
    _, state = run(scaler, scaler.initial_state(), [10.0] * 20 + [0.001])
    grants, _ = scaler.decide(state, pair(10.0))
    assert grants.mode is VerticalMode.RECOVERY


def test_cycles_not_known_are_no_emergency():
    """Missing, zero, negative or infinite cycles neither shrink nor grow the cap."""
    scaler = VerticalScaler()
    grants, _ = run(scaler, scaler.initial_state(), [None, 0.0, -3.0, float("nan"), float("inf")] * 5)
    assert grants.mode is VerticalMode.CONTENTION
    assert grants.best_effort_cap_milli == 1000
    assert grants.inflation is None


def test_the_worst_inflation_stays_finite():
    """A cycle of 1e11 ms over a baseline of 5e-324 ms is reported as a number that JSON can hold."""
    scaler, state = VerticalScaler(), VerticalState()
    for cycle in (5e-324, 1e11):
        seen = GpuObservation((GpuInstance("a", "slo", 300, 600, 300.0, cycle),))
        grants, state = scaler.decide(state, seen)
    json.dumps([grants.inflation, state.to_dict()], allow_nan=False)
    assert grants.inflation == 1e12


@pytest.mark.parametrize(
    ("state", "observation", "named"),
    [
        (None, GpuObservation(()), "state is None.*from_dict"),
        (VerticalState().to_dict(), GpuObservation(()), "state is .*from_dict"),
        (VerticalState(), None, "observation is None"),
    ],
)
def test_a_mixed_up_call_is_refused_by_name(state, observation, named):
    """A state or an observation of another type is misuse, and the error says which and how to restore one."""
    with pytest.raises(InvalidArgumentError, match=named):
        VerticalScaler().decide(anything(state), anything(observation))


def test_gpus_do_not_share_a_cap():
    """An emergency on one GPU leaves the state, and so the grants, of another as they were."""
    scaler = VerticalScaler()
    _, state = run(scaler, scaler.initial_state(), [10.0] * 20)
    scaler.decide(state, pair(50.0))
    again, _ = scaler.decide(state, pair(10.0))
    assert again["train"] == 700


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: GpuInstance("", "slo", 1, 1), "name"),
        (lambda: GpuInstance("a", "slow", 1, 1), "kind"),
        (lambda: GpuInstance("a", "slo", 0, 1), "request_milli"),
        (lambda: GpuInstance("a", "slo", 500, 400), "limit_milli is 400"),
        (lambda: GpuObservation((GpuInstance("a", "slo", 1, 1),) * 2), r"instances\[1\] repeats"),
        (lambda: GpuObservation(anything((1,))), r"instances\[0\]"),
        (lambda: VerticalParams(recovery_every=0), "recovery_every"),
        (lambda: VerticalParams(emergency_ratio=1.1), "emergency_ratio"),
        (lambda: VerticalParams.from_dict({"version": 1, "speed": 2}), "unknown keys"),
        (lambda: VerticalParams.from_dict(anything([])), "data"),
        (lambda: VerticalScaler(anything(3)), "params"),
        (lambda: VerticalState(anything("x")), "cap_milli"),
        (lambda: VerticalState(cap_milli=1001.0), "cap_milli"),
        (lambda: VerticalState(period=-1), "period"),
        (lambda: VerticalState(owed_milli=anything(None)), "owed_milli"),
        (lambda: VerticalState(baselines_ms=anything(None)), "baselines_ms is None"),
        (lambda: VerticalState(baselines_ms={"a": anything("x")}), r"baselines_ms\['a'\] is 'x'"),
        (lambda: VerticalState(baselines_ms={"a": 1.0, "b": float("nan")}), r"baselines_ms\['b'\] is nan"),
        (lambda: VerticalState(baselines_ms={"a": 1.0, "b": float("inf")}), r"baselines_ms\['b'\] is inf"),
        (lambda: VerticalState(baselines_ms={"a": 1.0, "b": -1.0}), r"baselines_ms\['b'\] is -1"),
        (lambda: VerticalState(baselines_ms=anything({3: 1.0})), "baselines_ms is 3"),
        (lambda: VerticalState.from_dict({"version": 1}), "data"),
        (lambda: VerticalState.from_dict({**VerticalState().to_dict(), "cap_milli": "x"}), "cap_milli"),
        (lambda: VerticalState.from_dict({**VerticalState().to_dict(), "baselines_ms": 3}), "baselines_ms"),
        (lambda: VerticalState.from_dict({**VerticalState().to_dict(), "baselines_ms": {"a": 0}}), "baselines_ms"),
    ],
)
def test_misuse_is_refused_by_name(make, named):
    """Whatever the host itself must know is checked at the door."""
    with pytest.raises(InvalidArgumentError, match=named):
        make()
