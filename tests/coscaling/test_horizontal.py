"""The horizontal policy acts on what is known, says why, and does not change its mind without cause."""

from __future__ import annotations

import json
import math
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams, HorizontalState
from dilu_core.coscaling.policy import Observation, ScalingReason, known_number
from dilu_core.errors import InvalidArgumentError

RULES = ["co-scaling", "lazy"]


def params(**changes):
    chosen = {"slo_ms": 200.0, "base_latency_ms": 50.0, **changes}
    return HorizontalParams(10.0, 300, 600, **chosen)


def anything(value: Any) -> Any:
    """`value`, hidden from type checkers that would refuse the misuse under test."""
    return value


class Host:
    """Calls the policy every `period_s` and carries out its decisions; launches are ready after the cold start."""

    def __init__(self, scaler, ready=1):
        self.scaler, self.state = scaler, scaler.initial_state()
        self.now, self.ready, self.starting = 0.0, ready, []
        self.changes = []

    def step(self, arrivals, *, period_s=1.0, **known):
        self.now += period_s
        self.ready += sum(at <= self.now for at in self.starting)
        self.starting = [at for at in self.starting if at > self.now]
        seen = Observation(self.now, arrivals, self.ready, len(self.starting), **known)
        decision, self.state = self.scaler.decide(self.state, seen)
        assert decision.instances == self.ready + len(self.starting) + decision.change
        if decision.change:
            self.changes.append((self.now, decision.change))
        self.starting += [self.now + self.scaler.params.cold_start_s] * max(0, decision.change)
        for _ in range(-decision.change):
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1
        return decision

    @property
    def turns(self):
        signs = [math.copysign(1, change) for _, change in self.changes]
        return sum(a != b for a, b in pairwise(signs))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ready", [1, 5])
@pytest.mark.parametrize("load", [0.0, 0.5, 0.9, 1.0, 1.2, 1.9, 2.0, 2.4, 3.0, 3.6, 4.0, 5.0, 6.0])
def test_an_hour_of_constant_load_never_turns_round(rule, ready, load):
    """At every level, boundaries n * capacity and n * capacity * lean included, and from too few or too many
    instances, the count moves one way only and then stands still."""
    host = Host(CoScaler(params(rule=rule)), ready)
    for _ in range(3600):
        host.step(load * 10.0)
    assert host.turns == 0
    assert all(at < 600.0 for at, _ in host.changes)


@given(st.floats(0, 8), st.floats(0, 0.04), st.integers(0, 2**32 - 1), st.integers(1, 8), st.booleans())
def test_small_jitter_never_turns_the_policy_round(load, jitter, seed, ready, spare_known):
    """With up to 4 % of jitter around any constant load, twenty minutes bring no change of direction."""
    host = Host(CoScaler(params()), ready)
    noise = np.random.default_rng(seed).uniform(1 - jitter, 1 + jitter, 1200)
    for factor in noise:
        host.step(float(load * 10.0 * factor), spare_milli=150.0 if spare_known else None)
    assert host.turns == 0


@pytest.mark.parametrize(("mean", "capacity"), [(5, 10), (12, 10), (24, 10), (50, 10), (30, 2), (200, 40), (500, 50)])
def test_an_hour_of_poisson_arrivals_at_a_constant_rate_never_turns_round(mean, capacity):
    """Counting noise, 3 to 45 % of the rate here, is no reason to change one's mind."""
    scaler = CoScaler(HorizontalParams(float(capacity), 300, 600))
    host = Host(scaler, math.ceil(mean / capacity))
    for arrivals in np.random.default_rng(7).poisson(mean, 3600):
        host.step(int(arrivals))
    assert host.turns == 0


def test_scale_out_is_fast_and_in_one_step():
    """Within three seconds of a jump from 1 to 12 instances' worth of load, all the instances it needs are launched."""
    host = Host(CoScaler(params()))
    for _ in range(200):
        host.step(9.0)
    decisions = [host.step(120.0) for _ in range(3)]
    assert host.ready + len(host.starting) == 10  # 120 / (10 * 1.2)
    assert decisions[-1].reason is ScalingReason.STEADY


def test_scale_in_waits_for_the_window_and_keeps_the_survivors_at_ease():
    """After a peak nothing goes for the window; then all but those whom the load fills to 80 % of what is trusted."""
    host = Host(CoScaler(params(window_s=120, scale_in_load=0.8)), ready=10)
    for _ in range(300):
        host.step(110.0)
    peak_over = host.now
    while not (decision := host.step(40.0)).change:
        assert decision.reason in (ScalingReason.STEADY, ScalingReason.HOLDING)
    assert decision.reason is ScalingReason.SPARE_CAPACITY
    assert 119 <= host.now - peak_over <= 132
    for _ in range(60):
        host.step(40.0)
    assert host.ready == math.ceil(40.0 / 12.0 / 0.8)
    assert host.turns == 0


def test_known_spare_share_decides_how_lean_the_fleet_may_be():
    """The more a neighbour leaves over, the fewer instances the same load needs; without any, none is counted on."""
    counts = []
    for spare in (0.0, 100.0, 300.0):
        host = Host(CoScaler(params()))
        for _ in range(30):
            host.step(100.0, spare_milli=spare)
        counts.append(host.ready + len(host.starting))
    assert counts == [10, 9, 7]


def test_a_backlog_adds_instances_and_a_starting_one_holds_that_back():
    """Waiting requests raise the need, but not while instances that may clear them are starting."""
    scaler = CoScaler(params())
    _, state = scaler.decide(scaler.initial_state(), Observation(1.0, 24.0, 2, 0, in_flight=2.0))
    more, _ = scaler.decide(state, Observation(2.0, 24.0, 2, 0, in_flight=200.0))
    held, _ = scaler.decide(state, Observation(2.0, 24.0, 1, 1, in_flight=200.0))
    assert more.change > 0
    assert held.change == 0


def test_a_capacity_promised_too_high_is_learned_from_the_queue():
    """Instances that serve 6 rps where 10 were promised end up as many as the load needs, and stay."""
    host, queue = Host(CoScaler(params()), ready=5), 0.0
    for _ in range(3600):
        queue = max(0.0, queue + 50.0 - 6.0 * host.ready)
        host.step(50.0, in_flight=queue + 2.5)
    assert queue == 0.0
    assert host.ready * 6.0 >= 50.0
    assert host.turns == 0


@pytest.mark.parametrize("latency_s", [0.25, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("load", [9.0, 35.0, 110.0])
def test_slow_service_without_a_queue_is_no_reason_to_run_away(latency_s, load):
    """Requests that take longer than the SLO stand in the system for ever; the fleet stays as large as the load."""
    host = Host(CoScaler(params(base_latency_ms=None, max_instances=1000)), ready=math.ceil(load / 10.0))
    for _ in range(1800):
        host.step(load, in_flight=load * latency_s)
    assert host.turns == 0
    assert host.ready + len(host.starting) <= math.ceil(load / 10.0 / 0.9)


def test_a_base_latency_above_the_objective_is_not_taken_for_a_queue():
    """Where execution alone takes 400 ms, an SLO of 200 ms is broken with nobody waiting: no instance is added."""
    host = Host(CoScaler(params(base_latency_ms=400.0)), ready=3)
    reasons = {host.step(30.0, in_flight=30.0 * 0.4 + 3.0, spare_milli=0.0).reason for _ in range(300)}
    assert host.changes == []
    assert ScalingReason.BACKLOG not in reasons


@pytest.mark.parametrize(("capacity", "ready", "load"), [(0.7, 3, 2.1), (0.1, 4, 0.3)])
def test_the_lazy_rule_stands_still_on_an_exact_boundary(capacity, ready, load):
    """A load of exactly n (or n - 1) instances, one rounding off in binary, neither adds nor removes one."""
    assert load not in (capacity * ready, capacity * (ready - 1))
    host = Host(CoScaler(HorizontalParams(capacity, 300, 600, rule="lazy")), ready)
    for _ in range(600):
        host.step(load)
    assert host.changes == []


def test_scale_in_trusts_no_burst_that_was_never_shown():
    """Six instances at 92 % of their promise stay six, though spare share lies idle; a burst once carried counts."""
    host = Host(CoScaler(params(window_s=120, scale_in_load=0.8)), ready=6)
    for _ in range(600):
        host.step(55.0, in_flight=2.75, spare_milli=300.0)
    assert host.changes == []
    host.step(84.0, in_flight=4.2, spare_milli=300.0)
    for _ in range(200):
        host.step(55.0, in_flight=2.75, spare_milli=300.0)
    assert host.ready == math.ceil(55.0 / 14.0 / 0.8)


def test_latency_above_its_objective_forbids_scale_in():
    """While the p95 latency breaks the SLO no instance goes, however little the load."""
    host = Host(CoScaler(params()), ready=4)
    decisions = [host.step(1.0, latency_p95_ms=500.0) for _ in range(300)]
    assert all(decision.change == 0 for decision in decisions)
    assert "latency" in decisions[-1].detail
    assert host.step(1.0, latency_p95_ms=50.0).change < 0


@pytest.mark.parametrize("rule", RULES)
def test_to_zero_only_from_one_and_back_at_once(rule):
    """The last instance goes after its own delay without arrivals; any arrival brings one back in that same call."""
    host = Host(CoScaler(params(rule=rule, min_instances=0, zero_delay_s=200.0)), ready=3)
    counts = []
    for _ in range(900):
        host.step(0.0, in_flight=0)
        counts.append(host.ready)
    assert counts[-1] == 0
    assert counts[counts.index(0) - 1] == 1
    assert host.changes[-1][0] >= 200.0
    back = host.step(0.01)
    assert (back.change, back.reason) == (1, ScalingReason.FROM_ZERO)


def test_requests_in_flight_keep_and_wake_the_last_instance():
    """Nothing goes to zero while a request is in the system, and a request alone brings an instance back."""
    host = Host(CoScaler(params(min_instances=0, zero_delay_s=5.0)))
    for _ in range(300):
        assert host.step(0.0, in_flight=1).change == 0
    host.ready = 0
    assert host.step(0.0, in_flight=1).reason is ScalingReason.FROM_ZERO


def test_without_scale_to_zero_the_minimum_stands():
    """With a minimum of two, an hour of nothing leaves two; fewer are brought up, more than the maximum down."""
    host = Host(CoScaler(params(min_instances=2, max_instances=4)), ready=4)
    for _ in range(3600):
        host.step(0.0)
    assert host.ready == 2
    host.ready = 0
    assert (lambda d: (d.change, d.reason))(host.step(0.0)) == (2, ScalingReason.BELOW_MINIMUM)
    host.ready, host.starting = 9, []
    over = host.step(50.0)
    assert (over.change, over.reason, over.clipped_by) == (-5, ScalingReason.ABOVE_MAXIMUM, "max_instances")


def test_the_bound_that_clips_is_named():
    """A load beyond the maximum is answered with the maximum, and the decision says which bound it was."""
    scaler = CoScaler(params(max_instances=4))
    decision, _ = scaler.decide(scaler.initial_state(), Observation(0.0, 1e6, 1, 0))
    assert (decision.instances, decision.change, decision.clipped_by) == (4, 3, "max_instances")


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


def test_slow_observers_fill_the_window_too():
    """Observed every 20 s, the lazy rule adds on the second look and the peak window is known after six."""
    host = Host(CoScaler(params(rule="lazy")))
    changes = [host.step(25.0, period_s=20.0).change for _ in range(3)]
    assert 1 in changes
    host = Host(CoScaler(params(window_s=120)), ready=5)
    changes = [host.step(1.0, period_s=20.0).change for _ in range(9)]
    assert changes[:6] == [0] * 6
    assert sum(changes) == -4


def test_one_decision_goes_no_further_than_a_step() -> None:
    """A jump to ten instances is taken in twos, the way back in ones, and each decision names the bound."""
    host = Host(CoScaler(params(max_step_out=2, max_step_in=1, window_s=20, scale_in_cooldown_s=0.0)))
    first = host.step(120.0)
    assert (first.change, first.clipped_by) == (2, "max_step_out")
    for _ in range(60):
        host.step(120.0)
    assert host.ready == 10
    backs = [host.step(1.0) for _ in range(60)]
    assert {each.change for each in backs} == {0, -1}
    assert {each.clipped_by for each in backs if each.change} == {"max_step_in", None}  # the last step is whole
    assert host.ready == 1
    host.ready = 0
    assert host.step(1.0).change == 1


def test_a_further_scale_out_waits_for_its_cool_down() -> None:
    """Two jumps in quick succession: the second is answered when the cool-down is over, and the reason says so."""
    host = Host(CoScaler(params(scale_out_cooldown_s=10.0)))
    assert host.step(50.0).change > 0
    held = [host.step(200.0) for _ in range(9)]
    assert {(each.change, each.reason) for each in held} == {(0, ScalingReason.HOLDING)}
    assert host.step(200.0).change > 0


def test_from_zero_after_its_own_delay() -> None:
    """One stray request wakes nothing; requests for five seconds do."""
    host = Host(CoScaler(params(min_instances=0, from_zero_delay_s=5.0)), ready=0)
    answers = [host.step(rate) for rate in (1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)]
    assert [each.change for each in answers] == [0, 0, 0, 0, 0, 0, 1]
    assert answers[0].reason is ScalingReason.HOLDING
    assert answers[-1].reason is ScalingReason.FROM_ZERO


def test_a_decision_carries_what_it_was_made_from() -> None:
    """The observation stands in `inputs`, and decisions that say the same are equal."""
    scaler, seen = CoScaler(params()), Observation(3.0, 9.0, 1, 0)
    decision, state = scaler.decide(scaler.initial_state(), seen)
    again, _ = scaler.decide(state, Observation(4.0, 9.0, 1, 0))
    assert decision.inputs is seen
    assert decision == again


def test_waiting_requests_alone_are_named_as_the_reason() -> None:
    """A load that fits, and a queue that would not clear in time: the scale-out is for the backlog."""
    scaler = CoScaler(params())
    _, state = scaler.decide(scaler.initial_state(), Observation(1.0, 23.0, 2, 0, in_flight=2.0))
    more, _ = scaler.decide(state, Observation(2.0, 23.0, 2, 0, in_flight=200.0))
    assert (more.change > 0, more.reason) == (True, ScalingReason.BACKLOG)


def lazy_reference(rates, capacity, cold_start_s):
    """The published rule, second by second, with starting instances planned for but not counted as capacity."""
    ready, starting, samples, counts = 1, [], [], []
    for second, rate in enumerate(rates, start=1):
        ready += sum(at <= second for at in starting)
        starting = [at for at in starting if at > second]
        samples = [*samples, rate][-40:]
        planned = ready + len(starting)
        if sum(x > planned * capacity for x in samples) >= 20:
            starting, samples = [*starting, second + cold_start_s], []
        elif planned > 1 and not starting and sum(x < (ready - 1) * capacity for x in samples) >= 30:
            ready, samples = ready - 1, []
        counts.append(ready + len(starting))
    return counts


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=15))
def test_the_lazy_rule_is_the_published_one(stretches):
    """On any piecewise constant load the counts equal those of a plain transcription."""
    rates = [float(rate) for rate, seconds in stretches for _ in range(seconds)]
    host = Host(CoScaler(params(rule="lazy")))
    counts = []
    for rate in rates:
        host.step(rate)
        counts.append(host.ready + len(host.starting))
    assert counts == lazy_reference(rates, 10.0, 10.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"capacity_rps": 0}, "capacity_rps"),
        ({"request_milli": 0}, "request_milli"),
        ({"limit_milli": 200}, "limit_milli is 200"),
        ({"slo_ms": -1}, "slo_ms"),
        ({"base_latency_ms": math.nan}, "base_latency_ms"),
        ({"cold_start_s": -1}, "cold_start_s"),
        ({"min_instances": -1}, "min_instances"),
        ({"min_instances": 5, "max_instances": 4}, "max_instances is 4"),
        ({"max_instances": 0}, "max_instances"),
        ({"rule": "fast"}, "rule is 'fast'"),
        ({"lean": 0.9}, "lean"),
        ({"spare_trust": 2}, "spare_trust"),
        ({"window_s": 1}, "window_s"),
        ({"clear_s": 0}, "clear_s"),
        ({"scale_in_load": 1.1}, "scale_in_load"),
        ({"lazy_in": 41}, "lazy_in"),
        ({"short_s": 2.5}, "short_s"),
    ],
)
def test_bad_parameters_are_refused_by_name(changes, named):
    """Every parameter out of its bounds is an InvalidArgumentError that names it."""
    with pytest.raises(InvalidArgumentError, match=named):
        HorizontalParams(**{"capacity_rps": 10.0, "request_milli": 300, "limit_milli": 600, **changes})


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: HorizontalParams.from_dict({}), "data"),
        (lambda: HorizontalParams.from_dict({"version": 1, "capacity_rps": 1.0}), "lacks"),
        (lambda: HorizontalParams.from_dict({**params().to_dict(), "speed": 1}), "unknown keys"),
        (lambda: HorizontalState.from_dict({}), "data"),
        (lambda: HorizontalState.from_dict({"version": 1}), "differs in keys"),
        (lambda: HorizontalState.from_dict({**HorizontalState().to_dict(), "peaks": 3}), "peaks"),
        (lambda: HorizontalState.from_dict({**HorizontalState().to_dict(), "peaks": ["x"]}), "peaks"),
        (lambda: HorizontalState.from_dict({**HorizontalState().to_dict(), "samples_rps": [1e200]}), "samples_rps"),
        (lambda: HorizontalState.from_dict({**HorizontalState().to_dict(), "partial_requests": 1e200}), "partial_requ"),
        (lambda: HorizontalState.from_dict({**HorizontalState().to_dict(), "time_s": "now"}), "time_s"),
        (lambda: HorizontalState.from_dict({**HorizontalState().to_dict(), "delivered": 0}), "delivered"),
        (lambda: HorizontalState.from_dict({**HorizontalState().to_dict(), "shown": 0.0}), "shown"),
        (lambda: CoScaler(anything({"capacity_rps": 1})), "params"),
    ],
)
def test_corrupt_records_are_refused_by_name(make, named):
    """What no to_dict wrote is an InvalidArgumentError, never a KeyError."""
    with pytest.raises(InvalidArgumentError, match=named):
        make()


def test_policies_and_their_values_can_be_pickled():
    """Parameters, states, observations and decisions travel to other processes."""
    scaler = pickle.loads(pickle.dumps(CoScaler(params())))
    seen = Observation(0.0, 50.0, 1, 0)
    decision, state = scaler.decide(scaler.initial_state(), seen)
    assert pickle.loads(pickle.dumps((seen, decision, state))) == (seen, decision, state)
    assert "capacity_rps=10.0" in repr(scaler)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(2, 12), part=st.floats(0.05, 0.9), slo_ms=st.sampled_from((100.0, 300.0, 2000.0)),
    spare=st.sampled_from((None, 0.0, 150.0, 300.0)),
)  # fmt: skip
def test_more_load_never_means_fewer_instances_when_scale_in_is_due(
    size: int, part: float, slo_ms: float, spare: float | None
) -> None:
    """An oversized fleet at constant load, its cool-down over: the next second's load, from none to twice capacity."""
    params = HorizontalParams(10.0, 300, 600, slo_ms=slo_ms, base_latency_ms=50.0)
    policy, state = CoScaler(params), CoScaler(params).initial_state()
    rate = part * size * params.capacity_rps

    def seen(second: int, arrivals: float) -> Observation:
        return Observation(float(second), arrivals, size, 0, arrivals * 0.05, spare)

    for second in range(200):
        state = policy.decide(state, seen(second, rate))[1]
    state = state._replace(since_change_s=100.0)
    loads = [rate + (2.0 * size * params.capacity_rps - rate) * k / 40 for k in range(41)]
    wanted = [policy.decide(state, seen(200, load))[0].instances or 0 for load in loads]
    assert wanted == sorted(wanted)
