"""The conformance tests for horizontal policies: ours pass them, and each fails on a policy broken in its way."""

from __future__ import annotations

import math
import unittest
from typing import Any

import pytest

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import (
    Observation,
    ScalingDecision,
    ScalingReason,
    known_count,
    known_number,
    known_time,
)
from dilu_core.coscaling.staged import StagedPolicy
from dilu_core.testing import PolicyConformance
from tests.bench_modules import bench_module

TESTS = sorted(name for name in dir(PolicyConformance) if name.startswith("test_"))


def params(**changes: Any) -> HorizontalParams:
    return HorizontalParams(10.0, 300, 600, **{"slo_ms": 200.0, "base_latency_ms": 50.0, **changes})


class TestCoScaler(PolicyConformance):
    """The rule "co-scaling"."""

    def make_policy(self) -> Any:
        return CoScaler(params())


class TestCoScalerToZero(PolicyConformance):
    """The rule "co-scaling" with a minimum of 0 and a low maximum."""

    def make_policy(self) -> Any:
        return CoScaler(params(min_instances=0, max_instances=9))


class TestCoScalerOfOne(PolicyConformance):
    """The rule "co-scaling" with room for one instance: nothing can be launched on top of it."""

    def make_policy(self) -> Any:
        return CoScaler(params(max_instances=1))


class TestLazyRule(PolicyConformance):
    """The rule "lazy"."""

    def make_policy(self) -> Any:
        return CoScaler(params(rule="lazy"))


class TestEnforcing(PolicyConformance):
    """A staged policy that acts, with a fallback."""

    def make_policy(self) -> Any:
        return StagedPolicy(CoScaler(params()), "enforce", fallback=CoScaler(params(rule="lazy")))


class TestShadowing(PolicyConformance):
    """A staged policy that does not act."""

    moves = False

    def make_policy(self) -> Any:
        return StagedPolicy(CoScaler(params()), "shadow")


class Simple:
    """A policy that keeps every promise, with one line for each that a subclass can break."""

    least, most, forget_s = 0, 100, 600.0
    params: Any = None

    def initial_state(self) -> Any:
        return {"time_s": None}

    def number(self, value: Any) -> Any:
        return known_number(value)

    def planned(self, ready: int, starting: int) -> int:
        return ready + starting

    def moved_on(self, before: Any, now: float) -> bool:
        return before is None or now > before

    def aim(self, load: float, planned: int) -> int:
        """Out when the load (in instances) exceeds them, in when it would fill the survivors to 80 %; to 0 from 1."""
        if load == 0.0 and planned <= 1:
            return 0
        return max(1, math.ceil(load), min(planned, math.ceil(load / 0.8)))

    def target(self, state: Any, load: float, planned: int, now: float) -> int:
        return min(max(self.aim(load, planned), self.least), self.most)

    def after(self, state: Any, now: float) -> Any:
        return {"time_s": now}

    def reason(self) -> Any:
        return ScalingReason.LOAD

    def decide(self, state: Any, seen: Observation) -> tuple[Any, Any]:
        now, rate = known_time(seen.time_s), self.number(seen.arrivals_rps)
        ready, starting = known_count(seen.ready), known_count(seen.starting)
        planned = None if ready is None or starting is None else self.planned(ready, starting)
        if now is None:
            return ScalingDecision(planned, 0, ScalingReason.CLOCK), state
        before, after = state["time_s"], self.after(state, now)
        if not self.moved_on(before, now) or (before is not None and now - before > self.forget_s):
            return ScalingDecision(planned, 0, ScalingReason.CLOCK), after
        if rate is None or ready is None or starting is None or planned is None:
            return ScalingDecision(planned, 0, ScalingReason.NO_DATA), after
        target = self.target(state, rate / 10.0, planned, now)
        return ScalingDecision(target, target - planned, self.reason()), after


class Moody(Simple):
    """Remembers outside its state."""

    asked = 0

    def target(self, state: Any, load: float, planned: int, now: float) -> int:
        self.asked += 1
        return planned + self.asked % 2


class InPlace(Simple):
    """Writes into the state it was given."""

    def after(self, state: Any, now: float) -> Any:
        state["time_s"] = now
        return state


class NotJson(Simple):
    """Has a state that JSON cannot hold."""

    def after(self, state: Any, now: float) -> Any:
        return {"time_s": now, "seen": {1, 2}}


class Forgetful(Simple):
    """Loses what it counted when it is stored."""

    class State(dict):  # type: ignore[type-arg]
        def to_dict(self) -> Any:
            return {"time_s": self["time_s"]}

        @classmethod
        def from_dict(cls, data: Any) -> Any:
            return cls(**data, seen=0)

    def initial_state(self) -> Any:
        return self.State(time_s=None, seen=0)

    def after(self, state: Any, now: float) -> Any:
        return self.State(time_s=now, seen=state["seen"] + 1)

    def target(self, state: Any, load: float, planned: int, now: float) -> int:
        return planned + (state["seen"] % 50 == 49)


class EarlyBird(Simple):
    """Knows what day it is."""

    def target(self, state: Any, load: float, planned: int, now: float) -> int:
        return super().target(state, load, planned, now) + (now > 10_000.0)


class Trusting(Simple):
    """Computes with whatever it is told."""

    def number(self, value: Any) -> Any:
        return None if value is None else value * 1.0


class ZeroIfOdd(Simple):
    """Takes what it does not understand for zero."""

    def number(self, value: Any) -> Any:
        return known_number(value) or 0.0


class Impatient(Simple):
    """Gives up after a minute without data."""

    def decide(self, state: Any, seen: Observation) -> tuple[Any, Any]:
        answer, after = super().decide({"time_s": state["time_s"]}, seen)
        silent = 0 if seen.arrivals_rps is not None else state.get("silent", 0) + 1
        if silent > 12 and answer.instances:
            answer = ScalingDecision(answer.instances - 1, -1, ScalingReason.STEADY)
        return answer, {**after, "silent": silent}


class Clockless(Simple):
    """Looks at no clock."""

    def moved_on(self, before: Any, now: float) -> bool:
        return True


class Stuck(Simple):
    """Never forgives a clock that went back."""

    def after(self, state: Any, now: float) -> Any:
        before = state["time_s"]
        return {"time_s": now if before is None else max(before, now)}


class Sudden(Simple):
    """Believes one observation after a day of silence."""

    forget_s = math.inf


class Boundless(Simple):
    """Knows no maximum."""

    most = 10**6


class Sloppy(Simple):
    """Names a target that is not the sum."""

    def decide(self, state: Any, seen: Observation) -> tuple[Any, Any]:
        answer, after = super().decide(state, seen)
        return ScalingDecision((answer.instances or 0) + 1, answer.change, answer.reason), after


class Overwhelmed(Simple):
    """Sheds instances under great load."""

    def aim(self, load: float, planned: int) -> int:
        return 1 if load > 9.0 else super().aim(load, planned)


class Nervous(Simple):
    """Scales in as soon as the load fits n - 1, and out before it fills n."""

    def aim(self, load: float, planned: int) -> int:
        if load > 0.7 * planned:
            return planned + 1
        return planned - 1 if planned > 1 and load < 0.75 * planned else planned


class Hasty(Simple):
    """Takes the whole fleet away at once."""

    def aim(self, load: float, planned: int) -> int:
        return 0 if load == 0.0 else super().aim(load, planned)


class Abandoning(Simple):
    """Takes the last instance of a function that must have one."""

    params = params(min_instances=1)
    least = 0


class Lazy(Simple):
    """Never moves."""

    def target(self, state: Any, load: float, planned: int, now: float) -> int:
        return planned


class Asleep(Simple):
    """Does not wake from zero."""

    def aim(self, load: float, planned: int) -> int:
        return super().aim(load, planned) if planned else 0


class Blind(Simple):
    """Forgets what it launched."""

    def decide(self, state: Any, seen: Observation) -> tuple[Any, Any]:
        answer, after = super().decide(state, Observation(seen.time_s, seen.arrivals_rps, seen.ready, 0))
        starting = known_count(seen.starting)
        if answer.instances is None or starting is None:
            return ScalingDecision(None, 0, ScalingReason.NO_DATA), after
        return ScalingDecision(answer.instances + starting, answer.change, answer.reason), after


class Silent(Simple):
    """Gives no reason."""

    def reason(self) -> Any:
        return ""


class Nonsense(Simple):
    """Answers something else."""

    def decide(self, state: Any, seen: Observation) -> tuple[Any, Any]:
        return 3, state


def of(policy: Any) -> PolicyConformance:
    """The tests of `policy`."""

    class Tests(PolicyConformance):
        min_instances = 0

        def make_policy(self) -> Any:
            return policy()

    return Tests()


class TestSimple(PolicyConformance):
    """The policy that the broken ones derive from."""

    min_instances = 0

    def make_policy(self) -> Any:
        return Simple()


BROKEN = [
    ("test_the_same_question_has_the_same_answer", Moody, "asked twice"),
    ("test_the_same_question_has_the_same_answer", Silent, "no reason"),
    ("test_the_same_question_has_the_same_answer", Nonsense, r"answered \(3"),
    ("test_the_state_is_never_changed_in_place", InPlace, "in place"),
    ("test_a_restart_changes_no_decision", NotJson, "not JSON-able"),
    ("test_a_restart_changes_no_decision", Forgetful, "after a restart"),
    ("test_what_time_it_is_does_not_matter", EarlyBird, "2\\^20 s later"),
    ("test_garbage_never_raises", Trusting, "TypeError"),
    ("test_garbage_never_scales", ZeroIfOdd, "arrivals_rps reported as None"),
    ("test_unknown_is_not_zero", Impatient, "after 65 s without known arrivals"),
    ("test_a_clock_that_stands_still_or_goes_back_moves_nothing", Clockless, "0 s behind"),
    ("test_a_clock_that_stands_still_or_goes_back_moves_nothing", Stuck, "launched none in 600 s"),
    ("test_a_clock_that_jumps_ahead_removes_nothing", Sudden, "silence of a day"),
    ("test_decisions_keep_to_the_bounds", Boundless, "outside 0..100"),
    ("test_decisions_keep_to_the_bounds", Sloppy, "not the sum"),
    ("test_more_load_never_gets_fewer_instances", Overwhelmed, "fewer for more"),
    ("test_constant_load_never_turns_the_policy_round", Nervous, "both ways"),
    ("test_zero_is_reached_only_from_one", Hasty, "took 6 instances to zero"),
    ("test_zero_is_reached_only_from_one", Abandoning, "took the last"),
    ("test_load_brings_instances", Lazy, "on top of 0"),
    ("test_load_brings_instances", Asleep, "on top of 0"),
    ("test_starting_instances_count", Blind, "while they started"),
]


@pytest.mark.parametrize(("test", "policy", "message"), BROKEN, ids=[f"{policy.__name__}" for _, policy, _ in BROKEN])
def test_each_check_catches_its_fault(test: str, policy: Any, message: str) -> None:
    """A policy that breaks one promise fails the test of that promise, and the message says what happened."""
    with pytest.raises(AssertionError, match=message):
        getattr(of(policy), test)()


def test_every_check_can_fail() -> None:
    """There is a broken policy for each."""
    assert {test for test, _, _ in BROKEN} == set(TESTS)


def test_the_checks_run_under_unittest_too() -> None:
    """Mixed with a TestCase, every check is found and passes."""

    class WithUnittest(TestSimple, unittest.TestCase):
        pass

    suite = unittest.defaultTestLoader.loadTestsFromTestCase(WithUnittest)
    outcome = unittest.TestResult()
    suite.run(outcome)
    assert (outcome.testsRun, outcome.failures, outcome.errors) == (len(TESTS), [], [])


def test_a_forgotten_hook_is_named() -> None:
    """Without make_policy the tests say what to override."""
    with pytest.raises(NotImplementedError, match="make_policy"):
        PolicyConformance().test_garbage_never_raises()


@pytest.fixture(scope="module")
def baselines() -> Any:
    """The peers in bench/, which is no package."""
    return bench_module("scaling_baselines").BASELINES


@pytest.mark.parametrize(
    "test",
    [
        "test_the_same_question_has_the_same_answer",
        "test_the_state_is_never_changed_in_place",
        "test_what_time_it_is_does_not_matter",
        "test_load_brings_instances",
    ],
)
def test_the_peers_keep_what_applies_to_them(baselines: Any, test: str) -> None:
    """Transcribed autoscalers are pure, know no date and scale out; they make no promise about odd data."""
    for make in baselines.values():
        getattr(of(lambda make=make: make(params())), test)()
