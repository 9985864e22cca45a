"""The conformance tests for vertical policies: ours passes them, and each fails on one broken in its way."""

from __future__ import annotations

from typing import Any

import pytest

from dilu_core.coscaling.vertical import VerticalScaler
from dilu_core.testing import VerticalConformance

TESTS = sorted(name for name in dir(VerticalConformance) if name.startswith("test_"))


class TestVerticalScaler(VerticalConformance):
    """The vertical policy of this library."""

    def make_policy(self) -> Any:
        return VerticalScaler()


class Altered:
    """Grants something else than the policy inside, which keeps its promises."""

    def __init__(self) -> None:
        self.inner = VerticalScaler()

    def initial_state(self) -> Any:
        return self.inner.initial_state()

    def decide(self, state: Any, seen: Any) -> Any:
        grants, state = self.inner.decide(state, seen)
        return self.alter(dict(grants), seen), state

    def alter(self, grants: dict[str, Any], seen: Any) -> Any:
        return grants


class Moody(Altered):
    asked = 0

    def alter(self, grants: dict[str, Any], seen: Any) -> Any:
        self.asked += 1
        return {name: max(0, share - self.asked % 2) for name, share in grants.items()}


class InPlace(Altered):
    def initial_state(self) -> Any:
        return {"asked": 0}

    def decide(self, state: Any, seen: Any) -> Any:
        state["asked"] += 1
        return dict(self.inner.decide(self.inner.initial_state(), seen)[0]), state


class Trusting(Altered):
    def alter(self, grants: dict[str, Any], seen: Any) -> Any:
        assert sum(one.cycle_ms or 0.0 for one in seen.instances) is not None
        return grants


class Omitting(Altered):
    def alter(self, grants: dict[str, Any], seen: Any) -> Any:
        return {name: share for name, share in grants.items() if share}


class Fractions(Altered):
    def alter(self, grants: dict[str, Any], seen: Any) -> Any:
        return {name: share / 2 for name, share in grants.items()}


class Overbooking(Altered):
    def alter(self, grants: dict[str, Any], seen: Any) -> Any:
        return {one.name: one.limit_milli for one in seen.instances}


class Halving(Altered):
    def alter(self, grants: dict[str, Any], seen: Any) -> Any:
        return {name: share // 2 for name, share in grants.items()}


class Limitless(Altered):
    def alter(self, grants: dict[str, Any], seen: Any) -> Any:
        most = max(grants, key=lambda name: grants[name])
        return {name: 1000 if name == most else 0 for name in grants}


class Reserved(Altered):
    def alter(self, grants: dict[str, Any], seen: Any) -> Any:
        wishes = {one.name: one.request_milli for one in seen.instances}
        return wishes if sum(wishes.values()) <= 1000 else grants


class BestEffortFirst(Altered):
    def alter(self, grants: dict[str, Any], seen: Any) -> Any:
        return {"train": 700, "serve": 300} if "train" in grants else grants


class Forgetful(Altered):
    """Loses its memory of a period when it is stored."""

    class State(dict):  # type: ignore[type-arg]
        def to_dict(self) -> Any:
            return {}

        @classmethod
        def from_dict(cls, data: Any) -> Any:
            return cls(period=0)

    def initial_state(self) -> Any:
        return self.State(period=0)

    def decide(self, state: Any, seen: Any) -> Any:
        grants, _ = self.inner.decide(self.inner.initial_state(), seen)
        cut = state["period"] % 2
        return {name: max(0, share - cut) for name, share in grants.items()}, self.State(period=state["period"] + 1)


class Nonsense(Altered):
    def decide(self, state: Any, seen: Any) -> Any:
        return 3


BROKEN = [
    ("test_the_same_question_has_the_same_answer", Moody, "asked twice"),
    ("test_the_same_question_has_the_same_answer", Nonsense, "answered 3"),
    ("test_the_state_is_never_changed_in_place", InPlace, "in place"),
    ("test_odd_measurements_never_raise", Trusting, "TypeError"),
    ("test_odd_measurements_never_raise", Omitting, "an entry for each"),
    ("test_grants_are_whole_and_fit_the_gpu", Fractions, "expected an int"),
    ("test_grants_are_whole_and_fit_the_gpu", Overbooking, "of 1000 milli-GPU"),
    ("test_active_instances_get_their_request", Halving, "of its request"),
    ("test_nobody_gets_more_than_the_limit", Limitless, "above its limit"),
    ("test_a_lone_busy_instance_bursts", Reserved, "got 300"),
    ("test_latency_bound_instances_come_before_best_effort", BestEffortFirst, "'train': 700"),
    ("test_a_restart_changes_no_grant", Forgetful, "after a restart"),
]


@pytest.mark.parametrize(("test", "policy", "message"), BROKEN, ids=[policy.__name__ for _, policy, _ in BROKEN])
def test_each_check_catches_its_fault(test: str, policy: Any, message: str) -> None:
    """A policy that breaks one promise fails the test of that promise, and the message says what happened."""

    class Tests(VerticalConformance):
        def make_policy(self) -> Any:
            return policy()

    with pytest.raises(AssertionError, match=message):
        getattr(Tests(), test)()


def test_every_check_can_fail() -> None:
    """There is a broken policy for each, and a forgotten hook is named."""
    assert {test for test, _, _ in BROKEN} == set(TESTS)
    with pytest.raises(NotImplementedError, match="make_policy"):
        VerticalConformance().test_grants_are_whole_and_fit_the_gpu()
