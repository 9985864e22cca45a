"""Readings and clocks that cannot be true, late or slow observers, and restarts move nothing that they should not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams, HorizontalState
from dilu_core.coscaling.policy import Observation, ScalingReason, known_number
from dilu_core.errors import InvalidArgumentError
from tests.stepped_host import RULES, Host, anything, params


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("unknown", ["time_s", "arrivals_rps", "ready", "starting"])
@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "x", 1e13])
def test_what_is_not_known_moves_nothing(rule, unknown, value):
    """A missing or garbled clock, rate or count means no action, and the reason says which it was."""
    host = Host(CoScaler(params(rule=rule)), ready=1)
    for _ in range(60):
        host.step(9.0)
    fields = {"time_s": 61.0, "arrivals_rps": 500.0, "ready": 1, "starting": 0, unknown: value}
    decision, _ = host.scaler.decide(host.state, Observation(**fields))
    assert decision.change == 0
    if unknown == "time_s":
        assert decision.reason in (ScalingReason.CLOCK, ScalingReason.LEARNING)
    else:
        assert decision.reason is ScalingReason.NO_DATA
        assert unknown in decision.detail


@pytest.mark.parametrize("odd", [np.bool_(True), np.complex128(3 + 4j), np.array(True), 1j, True, np.str_("3")])
def test_what_only_turns_into_a_number_is_not_known(odd):
    """Booleans, complex numbers and text of numpy are no measurements, though Python makes floats of them."""
    assert known_number(odd) is None
    assert known_number(np.float32(2.5)) == 2.5
    assert known_number(np.int64(3)) == 3.0


@pytest.mark.parametrize(
    ("state", "observation", "named"),
    [
        (None, Observation(0.0, 1.0, 1, 0), "state is None.*from_dict"),
        (HorizontalState().to_dict(), Observation(0.0, 1.0, 1, 0), "state is .*from_dict"),
        (HorizontalState(), None, "observation is None"),
        (HorizontalState(), {"time_s": 1.0}, "observation is"),
    ],
)
def test_a_mixed_up_call_is_refused_by_name(state, observation, named):
    """A state or an observation of another type is misuse, and the error says which and how to restore one."""
    with pytest.raises(InvalidArgumentError, match=named):
        CoScaler(params()).decide(anything(state), anything(observation))


class BrokenSensor:
    """A reading that cannot be read."""

    def __float__(self):
        raise RuntimeError("sensor")


def test_a_reading_that_fails_to_be_read_is_not_known():
    """Even an object that raises when it is read moves nothing, and raises nothing."""
    scaler, broken = CoScaler(params()), anything(BrokenSensor())
    decision, _ = scaler.decide(scaler.initial_state(), Observation(1.0, broken, broken, 0, broken, broken, broken))
    assert (decision.change, decision.reason) == (0, ScalingReason.NO_DATA)


def test_absurd_parameters_and_readings_stay_finite():
    """At the edges of floating point, targets keep to the bounds and the state stays JSON-able."""
    tiny = HorizontalParams(1e-300, 1, 1000, slo_ms=1e-9, min_instances=0, stale_after_s=1e308, window_s=86_400)
    scaler = CoScaler(tiny)
    state = scaler.initial_state()
    for now, rate, ready in [(0.0, 9e11, 0), (1e-320, 9e11, 0), (1e300, 9e11, 1), (1e308, 0.0, 1), (-1e308, 0.0, 1)]:
        decision, state = scaler.decide(state, Observation(now, rate, ready, 0, in_flight=9e11, spare_milli=9e11))
        assert decision.instances in range(101)
        json.dumps(state.to_dict(), allow_nan=False)


def test_silence_is_not_idleness():
    """Ten minutes without data after a busy time remove nothing: the window counts known seconds only."""
    host = Host(CoScaler(params(min_instances=0)), ready=8)
    for _ in range(200):
        host.step(80.0)
    for _ in range(599):
        assert host.step(None).change == 0
    assert host.step(0.0).change == 0


def test_clocks_that_stop_jump_or_run_backwards_are_survived():
    """None of them acts or raises, and the policy works on from the new time."""
    host = Host(CoScaler(params()))
    host.step(9.0)
    for now, reason in [(1.0, ScalingReason.CLOCK), (-500.0, ScalingReason.CLOCK), (1e18, ScalingReason.LEARNING)]:
        decision, host.state = host.scaler.decide(host.state, Observation(now, 500.0, 1, 0))
        assert (decision.change, decision.reason) == (0, reason)
    decision, _ = host.scaler.decide(HorizontalState(time_s=-500.0), Observation(-499.0, 500.0, 1, 0))
    assert decision.change > 0


garbage = st.one_of(
    st.none(), st.floats(), st.integers(), st.text(max_size=3), st.booleans(), st.just([1]), st.just(-1)
)
observations = st.builds(
    Observation,
    time_s=st.one_of(garbage, st.floats(0, 2000)),
    arrivals_rps=st.one_of(garbage, st.floats(0, 200)),
    ready=st.one_of(garbage, st.integers(0, 20)),
    starting=st.one_of(garbage, st.integers(0, 5)),
    in_flight=st.one_of(garbage, st.floats(0, 100)),
    spare_milli=garbage,
    latency_p95_ms=garbage,
)


@pytest.mark.parametrize("rule", RULES)
@given(st.lists(observations, max_size=40))
def test_garbage_never_raises_never_leaves_the_bounds_and_keeps_the_state_sound(rule, seen):
    """Any sequence of any values is survived; every target lies within the bounds; the state stays JSON-able."""
    scaler = CoScaler(params(rule=rule, min_instances=0, max_instances=30))
    state = scaler.initial_state()
    for observation in seen:
        decision, state = scaler.decide(state, observation)
        if decision.change:
            assert decision.instances in range(31)
        text = json.dumps(state.to_dict(), allow_nan=False)
        assert HorizontalState.from_dict(json.loads(text)) == state
        assert len(text) < 8000


@given(st.lists(st.sampled_from([None, -1.0, math.nan, math.inf, -math.inf, "12", 1e300]), min_size=1, max_size=30))
def test_garbage_alone_never_scales(rates):
    """If no rate is ever believable, no instance is ever launched or removed."""
    host = Host(CoScaler(params()), ready=3)
    assert all(host.step(rate).change == 0 for rate in rates)


@pytest.mark.parametrize("rule", RULES)
@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0, 60)), min_size=2, max_size=60), st.integers(0, 59))
def test_a_restart_mid_run_changes_no_decision(rule, loads, at):
    """Taking the state through JSON text at any moment leads to the same decisions, to the last digit."""
    scaler = CoScaler(HorizontalParams.from_dict(json.loads(json.dumps(params(rule=rule).to_dict()))))
    kept, restarted = Host(scaler), Host(scaler)
    for i, (rate, queue) in enumerate(loads):
        if i == at:
            restarted.state = HorizontalState.from_dict(json.loads(json.dumps(restarted.state.to_dict())))
        assert kept.step(rate, in_flight=queue) == restarted.step(rate, in_flight=queue)
        assert kept.state == restarted.state


@pytest.mark.parametrize("rule", RULES)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.sampled_from([2, 4, 10, 16]))
def test_the_pace_of_observations_does_not_change_what_is_remembered(rule, rates, parts):
    """Seconds reported in parts leave the same samples and peaks as seconds reported whole."""
    scaler = CoScaler(params(rule=rule, max_instances=1))
    whole, parted = Host(scaler), Host(scaler)
    whole.state = parted.state = HorizontalState(time_s=0.0)
    for rate in rates:
        whole.step(float(rate))
        for _ in range(parts):
            parted.step(float(rate), period_s=1.0 / parts)
    assert parted.state.known_s == whole.state.known_s == len(rates)
    assert parted.state.samples_rps == pytest.approx(whole.state.samples_rps)
    assert parted.state.peaks == pytest.approx(whole.state.peaks)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.1, 1.0, 2.0, 2.5, 5.0, 30.0]),
            st.one_of(st.just(0.0), st.floats(0.0, 60.0)),
            st.integers(0, 3),
            st.one_of(st.none(), st.floats(0.0, 500.0)),
            st.one_of(st.none(), st.floats(0.0, 700.0)),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_every_state_can_be_read_back(told):
    """Whatever was seen, and however rarely: what is written is read, and is the same."""
    policy, now = CoScaler(HorizontalParams(10.0, 300, 600, base_latency_ms=100.0)), 0.0
    state = policy.initial_state()
    for elapsed, arrivals, ready, in_flight, spare in told:
        now += elapsed
        _, state = policy.decide(state, Observation(now, arrivals, ready, 0, in_flight, spare))
        assert HorizontalState.from_dict(json.loads(json.dumps(state.to_dict(), allow_nan=False))) == state


def test_the_least_delivered_can_be_read_back() -> None:
    """An instance that all but stands still: the mean with the floor itself rounds to less than the floor."""
    policy = CoScaler(HorizontalParams(10.0, 300, 600, base_latency_ms=100.0))
    state = policy.initial_state()
    for now, queue in ((0.0, 20.0), (5.0, 35.0), (10.0, 85.0)):
        _, state = policy.decide(state, Observation(now, 10.0, 1, 0, in_flight=queue))
    assert state.delivered is not None
    assert state.delivered < 0.1
    assert HorizontalState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
