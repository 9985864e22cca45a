"""A policy is adopted in stages: it is heard before it acts, and its faults never reach the host."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType
from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams, HorizontalState
from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason
from dilu_core.coscaling.shadow import ShadowFleet
from dilu_core.coscaling.staged import STAGES, StagedPolicy, StagedState
from dilu_core.errors import InvalidArgumentError
from dilu_core.fragmentation import fragmentation
from dilu_core.instances import Instance
from dilu_core.placement import PlacementProblem
from dilu_core.simulated_host import SimulatedHost
from dilu_core.slots import Slot

SCALER = CoScaler(HorizontalParams(10.0, 300, 600))
BUSY = Observation(1.0, 100.0, ready=1, starting=1)


def test_only_the_last_stage_acts():
    """On the same busy observation, observe and shadow change nothing and enforce does what the policy says."""
    bare, bare_state = SCALER.decide(SCALER.initial_state(), BUSY)
    assert bare.change > 0
    for stage in STAGES:
        staged = StagedPolicy(SCALER, stage)
        decision, state = staged.decide(staged.initial_state(), BUSY)
        audit: Any = decision.audit
        assert audit["stage"] == stage
        json.dumps(audit)
        if stage == "observe":
            assert (decision.instances, decision.change) == (2, 0)
            assert decision.reason is ScalingReason.OBSERVE_ONLY
            assert audit["proposed"] is None
            assert state.inner == SCALER.initial_state()
        else:
            assert audit["proposed"]["change"] == bare.change
            assert state.inner == bare_state
        if stage == "shadow":
            assert (decision.instances, decision.change) == (2, 0)
            assert decision.reason is ScalingReason.SHADOWED
        if stage == "enforce":
            assert (decision.change, decision.reason, decision.detail) == (bare.change, bare.reason, bare.detail)


class Broken:
    """A policy that fails in a chosen way."""

    def __init__(self, answer):
        self.answer = answer

    def initial_state(self):
        return {"count": 0}

    def decide(self, state, observation):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [ValueError("no"), ZeroDivisionError(), None, (3, {}), ("x",), 5])
@pytest.mark.parametrize("stage", ["shadow", "enforce"])
def test_a_failing_policy_changes_nothing(answer, stage):
    """Whether it raises or answers nonsense, nothing changes, its state stays, and the reason says so."""
    staged = StagedPolicy(Broken(answer), stage)
    state = staged.initial_state()
    decision, after = staged.decide(state, BUSY)
    assert decision.change == 0
    assert decision.reason is ScalingReason.POLICY_FAILED
    assert decision.audit is not None
    assert decision.audit["error"]
    assert after.inner is state.inner
    assert (after.failures, after.failed) == (1, 1)


@pytest.mark.parametrize("change", [float("nan"), None, "3", 1.5, 10**12, True, -(2**31)])
@pytest.mark.parametrize("stage", ["shadow", "enforce"])
def test_a_change_that_is_no_count_is_a_failure(change, stage):
    """Only a believable int goes through to the host; anything else is a failed policy."""
    staged = StagedPolicy(Broken((ScalingDecision(1, change, ScalingReason.LOAD), {"count": 1})), stage)
    decision, after = staged.decide({"count": 0}, BUSY)
    assert (decision.change, decision.reason) == (0, ScalingReason.POLICY_FAILED)
    assert "change" in decision.detail
    assert after.inner == {"count": 0}


@pytest.mark.parametrize("instances", [float("nan"), "3", -1, True])
def test_a_target_that_is_no_count_is_a_failure(instances):
    """The target is an int of at least 0, or not known."""
    staged = StagedPolicy(Broken((ScalingDecision(instances, 0, ScalingReason.LOAD), {})), "enforce")
    decision, _ = staged.decide({}, BUSY)
    assert decision.reason is ScalingReason.POLICY_FAILED


@pytest.mark.parametrize("stage", ["shadow", "enforce"])
@pytest.mark.parametrize(("instances", "change"), [(50, -1), (50, 0), (2, 1), (0, 3)])
def test_a_target_that_is_not_the_sum_is_a_failure(stage, instances, change):
    """With two instances planned, 50 and "one fewer" contradict: nothing changes, or the fallback decides."""
    policy: Any = Broken((ScalingDecision(instances, change, ScalingReason.LOAD), {}))
    decision, _ = StagedPolicy(policy, stage).decide({}, BUSY)
    assert (decision.instances, decision.change, decision.reason) == (2, 0, ScalingReason.POLICY_FAILED)
    assert "2 planned: not the sum" in decision.detail
    staged = StagedPolicy(policy, stage, fallback=Scripted(3), fallback_after=1)
    decision, _ = staged.decide(staged.initial_state(), BUSY)
    assert decision.change == (3 if stage == "enforce" else 0)


def test_the_sum_is_that_of_the_fleet_the_policy_sees():
    """On paper a fleet may have grown beyond the real one; without a count, or without a target, there is no sum."""
    staged = StagedPolicy(Scripted(4), "shadow")
    state = staged.initial_state()
    for second in (1.0, 2.0, 3.0):
        decision, state = staged.decide(state, replace(BUSY, time_s=second))
        assert decision.reason is ScalingReason.SHADOWED
    for seen, instances in ((replace(BUSY, ready=None), 50), (BUSY, None)):
        policy: Any = Broken((ScalingDecision(instances, 1, ScalingReason.LOAD), {}))
        assert StagedPolicy(policy, "enforce").decide({}, seen)[0].change == 1


class UnspeakableError(Exception):
    """Fails when it is printed."""

    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize(
    "odd", [UnspeakableError(), (UnspeakableError(), {}), (ScalingDecision(10**5000, 0, ScalingReason.LOAD), 0)]
)
@pytest.mark.parametrize("stage", ["shadow", "enforce"])
def test_a_failure_that_cannot_be_printed_is_survived(odd, stage):
    """An exception or an answer whose own text fails is a failure like any other, in the policy and in the fallback."""
    staged = StagedPolicy(Broken(odd), stage, fallback=Broken(odd), fallback_after=1)
    decision, after = staged.decide(staged.initial_state(), BUSY)
    assert (decision.change, decision.reason, after.failures) == (0, ScalingReason.POLICY_FAILED, 1)
    assert "cannot be printed" in decision.detail


@pytest.mark.parametrize("changes", [{"reason": None}, {"reason": 3}, {"detail": None}, {"detail": UnspeakableError()}])
def test_a_decision_without_words_is_a_failure(changes):
    """Reason and detail are texts, or the audit could not say what happened."""
    policy: Any = Broken((replace(ScalingDecision(2, 0, ScalingReason.LOAD), **changes), {}))
    decision, _ = StagedPolicy(policy, "shadow").decide({}, BUSY)
    assert decision.reason is ScalingReason.POLICY_FAILED
    assert f"as its {next(iter(changes))}" in decision.detail


@pytest.mark.parametrize("stage", STAGES)
def test_a_state_that_was_not_restored_is_refused(stage):
    """What `to_dict` wrote is no state yet, neither the staged one's nor the wrapped policy's, whatever the policy."""
    staged = StagedPolicy(SCALER, stage)
    odd: Any
    for odd, named in (
        (staged.initial_state().to_dict(), "state is .*restore_state or from_dict"),
        (SCALER.initial_state().to_dict(), "state is .*HorizontalState.from_dict"),
        (None, "state is None.*HorizontalState.from_dict"),
    ):
        with pytest.raises(InvalidArgumentError, match=named):
            staged.decide(odd, BUSY)
    foreign: Any = StagedPolicy(Scripted(1), stage)
    with pytest.raises(InvalidArgumentError, match=r"state is .*restore_state"):
        foreign.decide(foreign.initial_state().to_dict(), BUSY)
    assert foreign.decide({"calls": 0}, BUSY)[1].inner == {"calls": 0 if stage == "observe" else 1}
    assert staged.decide(SCALER.initial_state(), BUSY)[1].watch.observations == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_call_without_an_observation_changes_nothing(stage):
    """The host need not guard the call, whatever it passes."""
    nothing: Any = None
    staged = StagedPolicy(SCALER, stage)
    decision, after = staged.decide(staged.initial_state(), nothing)
    assert (decision.instances, decision.change) == (None, 0)
    assert decision.reason is (ScalingReason.OBSERVE_ONLY if stage == "observe" else ScalingReason.POLICY_FAILED)
    assert after.inner == SCALER.initial_state()
    assert after.watch.judged == 0


def test_what_the_sensors_leave_out_is_reported():
    """The audit names every field that is not known, garbled ones included."""
    staged = StagedPolicy(SCALER)
    odd = Observation(float("nan"), -1.0, ready=None, starting=0, in_flight=2)  # type: ignore[arg-type]
    decision, _ = staged.decide(staged.initial_state(), odd)
    assert decision.instances is None
    assert decision.audit is not None
    assert decision.audit["unknown"] == ["time_s", "arrivals_rps", "ready", "spare_milli", "latency_p95_ms"]


def test_misuse_is_refused_by_name():
    """A stage that does not exist and a policy that is none are named."""
    not_a_policy: Any = object()
    with pytest.raises(InvalidArgumentError, match="stage is 'go'"):
        StagedPolicy(SCALER, "go")
    with pytest.raises(InvalidArgumentError, match="policy is"):
        StagedPolicy(not_a_policy)
    the_class: Any = CoScaler
    for make in (lambda: StagedPolicy(the_class), lambda: StagedPolicy(SCALER, fallback=the_class)):
        with pytest.raises(InvalidArgumentError, match=r"is <class .*It is a class"):
            make()
    assert "enforce" in repr(StagedPolicy(SCALER, "enforce"))


class Scripted:
    """A policy that answers its script, one change a call, the last one for ever."""

    def __init__(self, *script):
        self.script = script

    def initial_state(self):
        return {"calls": 0}

    def decide(self, state, observation):
        step = self.script[min(state["calls"], len(self.script) - 1)]
        planned = observation.ready + observation.starting
        return ScalingDecision(planned + step, step, ScalingReason.LOAD), {"calls": state["calls"] + 1}


class Failing(Scripted):
    """Fails while `failing` says so, and else answers its script."""

    def __init__(self, failing, *script):
        super().__init__(*script)
        self.failing = failing

    def decide(self, state, observation):
        if self.failing(observation.time_s):
            raise OSError("gone")
        return super().decide(state, observation)


def run(staged, seconds, *, state=None, load=100.0, ready=3, first=1):
    """The decisions of `seconds` observations one second apart, and the last state."""
    state, decisions = state or staged.initial_state(), []
    for second in range(first, first + seconds):
        decision, state = staged.decide(state, Observation(float(second), load, ready, 0, spare_milli=150.0))
        decisions.append(decision)
    return decisions, state


def test_first_errors_change_nothing_and_then_the_fallback_decides():
    """Two failures hold; from the third on the fallback's scale-out goes through; the policy's own state stays."""
    staged = StagedPolicy(Failing(lambda t: True, 0), "enforce", fallback=Scripted(2), fallback_after=3)
    decisions, state = run(staged, 5)
    assert [decision.change for decision in decisions] == [0, 0, 2, 2, 2]
    assert [decision.reason for decision in decisions] == [ScalingReason.POLICY_FAILED] * 2 + [
        ScalingReason.FALLBACK
    ] * 3
    audit: Any = decisions[2].audit
    assert audit["failures"] == 3
    assert audit["error"] == "OSError: gone"
    assert (audit["proposed"], audit["fallback"]["change"]) == (None, 2)
    assert (state.inner, state.standby) == ({"calls": 0}, {"calls": 5})
    assert (state.failures, state.failed) == (5, 5)


def test_without_a_fallback_nothing_goes_on_changing():
    """The default fallback holds, however long the policy fails."""
    decisions, _ = run(StagedPolicy(Failing(lambda t: True, 1), "enforce"), 20)
    assert {(one.instances, one.change, one.reason) for one in decisions} == {(3, 0, ScalingReason.POLICY_FAILED)}


def test_nothing_is_removed_while_the_policy_fails():
    """The fallback's scale-in is left out and says so; its launches are not."""
    staged = StagedPolicy(Failing(lambda t: True, 0), "enforce", fallback=Scripted(-1, -1, -1, 4), fallback_after=1)
    decisions, _ = run(staged, 4)
    assert [decision.change for decision in decisions] == [0, 0, 0, 4]
    assert {decision.clipped_by for decision in decisions[:3]} == {"fallback"}
    assert {decision.reason for decision in decisions} == {ScalingReason.FALLBACK}


@pytest.mark.parametrize("fallback_after", [1, 3, 5])
def test_the_policy_recovers_by_itself_and_removes_only_once_trusted(fallback_after):
    """The first sound answer ends the fallback; scale-in waits for as many sound answers as failures called for it."""
    policy = Failing(lambda t: t <= 10, -1)
    staged = StagedPolicy(policy, "enforce", fallback=Scripted(1), fallback_after=fallback_after)
    decisions, state = run(staged, 20)
    assert decisions[9].reason is ScalingReason.FALLBACK
    recovering, trusted = decisions[10 : 10 + fallback_after], decisions[10 + fallback_after :]
    assert {(one.change, one.reason, one.clipped_by) for one in recovering} == {(0, ScalingReason.HOLDING, "recovery")}
    assert {one.change for one in trusted} == {-1}
    assert (state.failures, state.failed, state.distrust) == (0, 10, 0)


def test_a_recovering_policy_may_launch_at_once():
    """Only scale-in is distrusted."""
    decisions, _ = run(StagedPolicy(Failing(lambda t: t <= 4, 5), "enforce"), 5)
    assert [decision.change for decision in decisions] == [0, 0, 0, 0, 5]


def test_a_policy_that_fails_now_and_then_never_removes():
    """Alternating failures neither reach the fallback nor let an instance go."""
    staged = StagedPolicy(Failing(lambda t: t % 2 == 0, -1), "enforce", fallback=Scripted(7), fallback_after=2)
    decisions, _ = run(staged, 30, first=2)
    assert {decision.change for decision in decisions} == {0}


def test_a_fallback_that_fails_holds_and_is_reported_before_it_is_needed():
    """Its error stands in the audit while all is well, and nothing changes when both fail."""
    broken: Any = Broken(ValueError("no"))
    staged = StagedPolicy(Failing(lambda t: t > 2, 1), "enforce", fallback=broken, fallback_after=1)
    decisions, _ = run(staged, 4)
    assert [decision.change for decision in decisions] == [1, 1, 0, 0]
    assert [decision.audit["fallback"] for decision in decisions] == [{"error": "ValueError: no"}] * 4


def test_the_fallback_is_warm_when_it_is_needed():
    """The lazy rule, which needs 20 s of load, has seen them when the policy fails after 30 s."""
    lazy = CoScaler(HorizontalParams(10.0, 300, 600, rule="lazy"))
    policy = Failing(lambda t: t > 30, 0)
    decisions, _ = run(StagedPolicy(policy, "enforce", fallback=lazy), 45)
    assert max(decision.change for decision in decisions[30:45]) == 1


def test_shadowed_decisions_are_carried_out_on_paper():
    """A rule that moves one at a time gets as far in shadow as it does when enforced, though the real fleet stands."""
    lazy = CoScaler(HorizontalParams(10.0, 300, 600, rule="lazy", cold_start_s=5.0))
    staged = StagedPolicy(lazy, "shadow")
    decisions, state = run(staged, 400, load=5.0, ready=6)
    assert {decision.change for decision in decisions} == {0}
    assert {decision.instances for decision in decisions} == {6}
    assert state.fleet is not None
    assert state.fleet.planned == 1
    report = staged.shadow_report(state)
    assert (report.counts.removals, report.counts.launches, report.counts.turns) == (5, 0, 0)
    assert report.counts.judged == 399
    expected = sum(audit_of(decision)["shadow_instances"] for decision in decisions[1:]) * 0.3
    assert report.gpu_seconds == pytest.approx(expected)
    assert report.actual_gpu_seconds == pytest.approx(399 * 6 * 0.3)
    assert report.saved_gpu_seconds == pytest.approx(399 * 6 * 0.3 - expected)
    assert report.risk_at_request == 0.0


def audit_of(decision: ScalingDecision) -> Any:
    return decision.audit


@pytest.mark.parametrize("rule", ["co-scaling", "lazy"])
def test_the_shadow_is_what_enforcing_would_have_done(rule):
    """On a known load without a queue, the fleet on paper is the fleet of an enforcing host, to the second."""
    scaler = CoScaler(HorizontalParams(10.0, 300, 600, rule=rule, cold_start_s=7.0, window_s=30))
    shadow, state = StagedPolicy(scaler, "shadow"), StagedPolicy(scaler, "shadow").initial_state()
    host, own = SimulatedHost(ready=2, cold_start_s=7.0), scaler.initial_state()
    for second in range(1, 400):
        load = 15.0 + 40.0 * (100 <= second < 200)
        host.offer(load)
        host.advance(1.0)
        seen = replace(host.observe(), in_flight=None)
        decision, own = scaler.decide(own, seen)
        host.apply(decision)
        _, state = shadow.decide(state, Observation(float(second), load, 2, 0))
        assert state.fleet is not None
        assert (state.fleet.ready, state.fleet.starting) == (host.ready, host.starting)
        assert state.inner == own


def test_the_risk_of_a_shadowed_scale_in_is_counted():
    """One instance where the load of 15 and 25 rps needs two and three: short at request, and beyond the limit late."""
    staged = StagedPolicy(Scripted(-2, 0), "shadow", params=HorizontalParams(10.0, 300, 600))
    state = staged.initial_state()
    for second, load in enumerate([5.0, 5.0, 15.0, 25.0, None, 25.0]):
        _, state = staged.decide(state, Observation(float(second), load, 3, 0))
    report = staged.shadow_report(state)
    counts = report.counts
    assert (counts.judged, counts.short_at_request, counts.short_at_burst) == (4, 3, 2)
    assert (counts.actual_short_at_request, counts.actual_short_at_burst) == (0, 0)
    assert (report.risk_at_request, report.risk_at_burst) == (0.75, 0.5)
    assert counts.late_requests == pytest.approx(10.0)
    assert counts.requests == pytest.approx(70.0)
    assert "risk       short of load at request in 75.0% (was 0.0%)" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["saved_gpu_seconds"] == pytest.approx(4 * 2 * 0.3)


def test_a_known_spare_share_bounds_the_burst_that_is_counted_on():
    """With nothing to borrow, a fleet is short at burst where it is short at its request."""
    staged = StagedPolicy(Scripted(0), "shadow", params=HorizontalParams(10.0, 300, 600))
    state = staged.initial_state()
    for second in range(5):
        _, state = staged.decide(state, Observation(float(second), 15.0, 1, 0, spare_milli=0.0))
    counts = staged.shadow_report(state).counts
    assert (counts.short_at_request, counts.short_at_burst, counts.actual_short_at_burst) == (4, 4, 4)


def test_observing_reports_headroom_and_data_quality():
    """Load against capacity at request and at burst, the least room, the spare share, and what was not known."""
    staged = StagedPolicy(SCALER)
    state = staged.initial_state()
    for second, load, spare in [
        (0.0, 5.0, 150.0),
        (1.0, 15.0, 150.0),
        (2.0, 35.0, None),
        (2.0, 35.0, None),
        (1.0, 1.0, 9.0),
        (2.0, None, 1.0),
    ]:
        decision, state = staged.decide(state, Observation(second, load, 2, 1, in_flight=None, spare_milli=spare))
    report = staged.observe_report(state)
    assert (report.observations, report.judged, report.clock_faults, report.late) == (6, 2, 2, 0)
    assert report.mean_rps == pytest.approx(25.0)
    assert report.peak_rps == 35.0
    assert report.mean_instances == pytest.approx(3.0)
    assert report.utilisation == pytest.approx(50.0 / 40.0)
    assert report.burst_utilisation == pytest.approx(50.0 / (30.0 + 40.0))
    assert (report.short_at_request, report.short_at_burst) == (0.5, 0.0)
    assert report.least_room_rps == pytest.approx(5.0)
    assert report.mean_spare_milli == pytest.approx(150.0)
    assert report.known["arrivals_rps"] == pytest.approx(5 / 6)
    assert (report.known["in_flight"], report.known["ready"]) == (0.0, 1.0)
    assert "125% of the capacity at request" in str(report)
    assert audit_of(decision)["headroom"] == {
        "load_rps": None,
        "capacity_rps": 20.0,
        "burst_capacity_rps": pytest.approx(20.0 * (1.0 + 1.0 / 300.0)),
        "spare_milli": 1.0,
    }
    json.dumps(report.to_dict(), allow_nan=False)


def test_an_observation_without_parameters_knows_no_capacity():
    """A foreign policy without HorizontalParams is reported on as far as that goes."""
    staged = StagedPolicy(Scripted(0))
    _, state = run(staged, 3)
    report = staged.observe_report(state)
    assert (report.judged, report.mean_rps, report.utilisation, report.short_at_burst) == (2, 100.0, None, None)
    shadow = staged.shadow_report(state)
    assert (shadow.gpu_seconds, shadow.saved_gpu_seconds, shadow.risk_at_request) == (None, None, None)
    assert "not known" in str(report)
    assert "not known" in str(shadow)


def test_nothing_observed_is_a_report_too():
    """Before the first observation every figure is unknown, none is zero."""
    staged = StagedPolicy(SCALER)
    report = staged.observe_report(staged.initial_state())
    assert (report.observations, report.mean_rps, report.peak_rps, report.short_at_request) == (0, None, None, None)
    assert str(staged.shadow_report(staged.initial_state()))


def test_the_fragmentation_of_a_placement_stands_in_the_report():
    """A host that has a FragmentationReport hands it in, and finds it there."""
    cluster = Cluster.homogeneous(1, 1, GpuType("a", 1000))
    serve = Instance("serve", "inference", 300, 600, 500)
    found = fragmentation(PlacementProblem(cluster, (serve,)), {"serve": (Slot("node-0", 0, 500),)})
    staged = StagedPolicy(SCALER)
    report = staged.observe_report(staged.initial_state(), fragmentation=found)
    assert report.fragmentation is found
    assert "fragmentation of 1 active GPUs" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["fragmentation"]["cluster"]["active_gpus"] == 1
    odd: Any = 3
    with pytest.raises(InvalidArgumentError, match="fragmentation is 3"):
        staged.observe_report(staged.initial_state(), fragmentation=odd)
    with pytest.raises(InvalidArgumentError, match="state is 3"):
        staged.shadow_report(odd)


@pytest.mark.parametrize("stage", STAGES)
@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(0, 200)), st.integers(0, 9), st.integers(-2, 9)), max_size=30))
def test_a_restart_mid_run_changes_nothing(stage, rows):
    """The state through JSON text after every step leads to the same decisions, audit included, and the same state."""
    fallback = CoScaler(HorizontalParams(10.0, 300, 600, rule="lazy"))
    staged = StagedPolicy(SCALER, stage, fallback=fallback)
    kept = restored = staged.initial_state()
    now = 0.0
    for load, ready, step in rows:
        now += step
        seen = Observation(now, load, ready, 1)
        restored = staged.restore_state(json.loads(json.dumps(restored.to_dict(), allow_nan=False)))
        first, kept = staged.decide(kept, seen)
        second, restored = staged.decide(restored, seen)
        assert first == second
        assert kept == restored


def test_the_class_restores_a_state_too():
    """`StagedState.from_dict` needs the class of the wrapped policy's state, or none where that is plain JSON."""
    _, state = run(StagedPolicy(SCALER, "shadow"), 50)
    assert StagedState.from_dict(json.loads(json.dumps(state.to_dict())), HorizontalState) == state
    _, plain = run(StagedPolicy(Scripted(1), "enforce"), 3)
    assert StagedState.from_dict(json.loads(json.dumps(plain.to_dict()))) == plain
    assert len(json.dumps(state.to_dict())) < 3000


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": 0}, "data.version"),
        ({"speed": 1}, "differs in keys"),
        ({"failures": -1}, "data.failures"),
        ({"unknown": {"speed": 1}}, "data.unknown"),
        ({"unknown": {"ready": -1}}, "data.unknown.ready"),
        ({"watch": {}}, "data.watch"),
        ({"fleet": 3}, "data.fleet"),
        ({"fleet": {"ready": 1, "starts": [3]}}, r"data.fleet.starts\[0\]"),
        ({"fleet": {"ready": -1, "starts": []}}, "data.fleet.ready"),
        ({"shadow": {"judged": 0}}, "data.shadow"),
        ({"inner": {}}, "data"),
    ],
)
def test_corrupt_states_are_refused_by_name(changes, named):
    """What no to_dict wrote is an InvalidArgumentError that says where."""
    staged = StagedPolicy(SCALER)
    data = {**staged.initial_state().to_dict(), **changes}
    with pytest.raises(InvalidArgumentError, match=named):
        staged.restore_state(data)


def test_odd_counters_are_refused_by_name():
    """A counter below zero, and more judged than observed, are no counters."""
    staged = StagedPolicy(SCALER)
    _, state = run(staged, 3)
    for changes, named in (
        ({"requests": -1.0}, "data.watch.requests"),
        ({"judged": 9}, "data.watch.judged"),
        ({"late": 0.5}, "data.watch.late"),
    ):
        data: Any = state.to_dict()
        with pytest.raises(InvalidArgumentError, match=named):
            staged.restore_state({**data, "watch": {**data["watch"], **changes}})


def test_launches_close_together_count_as_one_start():
    """However often a policy launches, the fleet on paper keeps at most seventeen starts."""
    staged = StagedPolicy(Scripted(1), "shadow", params=HorizontalParams(10.0, 300, 600, cold_start_s=60.0))
    state = staged.initial_state()
    for tick in range(1000):
        _, state = staged.decide(state, Observation(tick * 0.1, 5.0, 1, 0))
        assert state.fleet is not None
        assert len(state.fleet.starts) <= 17
    assert state.fleet is not None
    assert state.fleet.planned == 1001
    assert abs(state.fleet.ready - 400) <= 40


def test_a_clock_that_goes_back_takes_the_starts_along():
    """An instance on paper that starts in 6 s still does when the clock jumps back by a day."""
    fleet = ShadowFleet(1).changed(2, 100_000.0, 6.0)
    back = fleet.advanced(100_000.0, 13_600.0)
    assert (back.ready, back.starting) == (1, 2)
    assert back.advanced(13_600.0, 13_606.0) == ShadowFleet(3)
    assert back.changed(-1, 13_600.0, 6.0).starting == 1
    assert back.changed(-9, 13_600.0, 6.0) == ShadowFleet(0)
    assert ShadowFleet(1).changed(2, 0.0, 0.0) == ShadowFleet(3)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda odd: StagedPolicy(SCALER, params=odd), "params"),
        (lambda odd: StagedPolicy(SCALER, fallback=odd), "fallback"),
        (lambda odd: StagedPolicy(SCALER, fallback_after=0), "fallback_after"),
    ],
)
def test_bad_settings_are_refused_by_name(make, named):
    """Parameters, fallback and its patience are checked at the door."""
    with pytest.raises(InvalidArgumentError, match=named):
        make(object())
