"""A policy is adopted in stages: it is heard before it acts, and its faults never reach the host."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason
from dilu_core.coscaling.staged import STAGES, StagedPolicy
from dilu_core.errors import InvalidArgumentError

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
            assert state == SCALER.initial_state()
        else:
            assert audit["proposed"]["change"] == bare.change
            assert state == bare_state
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
    assert after is state


@pytest.mark.parametrize("change", [float("nan"), None, "3", 1.5, 10**12, True, -(2**31)])
@pytest.mark.parametrize("stage", ["shadow", "enforce"])
def test_a_change_that_is_no_count_is_a_failure(change, stage):
    """Only a believable int goes through to the host; anything else is a failed policy."""
    staged = StagedPolicy(Broken((ScalingDecision(1, change, ScalingReason.LOAD), {"count": 1})), stage)
    decision, after = staged.decide({"count": 0}, BUSY)
    assert (decision.change, decision.reason) == (0, ScalingReason.POLICY_FAILED)
    assert "change" in decision.detail
    assert after == {"count": 0}


@pytest.mark.parametrize("instances", [float("nan"), "3", -1, True])
def test_a_target_that_is_no_count_is_a_failure(instances):
    """The target is an int of at least 0, or not known."""
    staged = StagedPolicy(Broken((ScalingDecision(instances, 0, ScalingReason.LOAD), {})), "enforce")
    decision, _ = staged.decide({}, BUSY)
    assert decision.reason is ScalingReason.POLICY_FAILED


@pytest.mark.parametrize("stage", STAGES)
def test_a_call_without_an_observation_changes_nothing(stage):
    """The host need not guard the call, whatever it passes."""
    nothing: Any = None
    staged = StagedPolicy(SCALER, stage)
    decision, after = staged.decide(staged.initial_state(), nothing)
    assert (decision.instances, decision.change) == (None, 0)
    assert decision.reason is (ScalingReason.OBSERVE_ONLY if stage == "observe" else ScalingReason.POLICY_FAILED)
    assert after == staged.initial_state()


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
    assert "enforce" in repr(StagedPolicy(SCALER, "enforce"))
