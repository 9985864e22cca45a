"""The horizontal policy acts on what is known, says why, and does not change its mind without cause."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams, HorizontalState
from dilu_core.coscaling.policy import Observation, ScalingReason
from dilu_core.errors import InvalidArgumentError
from tests.stepped_host import RULES, Host, anything, params


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
    host = Host(CoScaler(params(window_s=120, late_weight=0.0, scale_in_load=0.8)), ready=10)
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
