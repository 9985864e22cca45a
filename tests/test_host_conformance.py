"""The conformance tests for hosts: the host in memory passes them, and each fails on a host broken in its way."""

from __future__ import annotations

import unittest
from dataclasses import replace
from typing import Any

import pytest

from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason
from dilu_core.errors import InvalidArgumentError
from dilu_core.testing import HostConformance, SimulatedHost

TESTS = sorted(name for name in dir(HostConformance) if name.startswith("test_"))


class TestSimulatedHost(HostConformance):
    """The host that the tests of policies run on."""

    host: Any = SimulatedHost

    def make_host(self) -> Any:
        return self.host()

    def advance(self, host: Any, seconds: float) -> None:
        host.advance(seconds)

    def send(self, host: Any, load_rps: float) -> None:
        host.offer(load_rps)

    def silence(self, host: Any) -> None:
        host.offer(None)


class Altered(SimulatedHost):
    """Reports something else than what it saw."""

    def alter(self, seen: Observation) -> Any:
        raise NotImplementedError

    def observe(self) -> Any:
        return self.alter(super().observe())


class Dictionary(Altered):
    def alter(self, seen: Observation) -> Any:
        return {"time_s": seen.time_s}


class FloatCounts(Altered):
    def alter(self, seen: Observation) -> Any:
        return replace(seen, ready=float(seen.ready or 0))  # type: ignore[arg-type]


class WithoutClock(Altered):
    def alter(self, seen: Observation) -> Any:
        return replace(seen, time_s=float("nan"))


class MinusOne(Altered):
    def alter(self, seen: Observation) -> Any:
        return replace(seen, latency_p95_ms=-1.0)


class Milliseconds(Altered):
    def alter(self, seen: Observation) -> Any:
        return replace(seen, time_s=(seen.time_s or 0.0) * 1000.0)


class ClockGoingBack(Altered):
    looks = 0

    def alter(self, seen: Observation) -> Any:
        self.looks += 1
        return replace(seen, time_s=(seen.time_s or 0.0) - 0.001 * self.looks)


class LaunchesUnseen(Altered):
    def alter(self, seen: Observation) -> Any:
        return replace(seen, starting=0)


class CountsTwice(Altered):
    def alter(self, seen: Observation) -> Any:
        return replace(seen, starting=(self.ready - 1))


class Repeats(SimulatedHost):
    def apply(self, decision: ScalingDecision) -> None:
        super().apply(replace(decision, instances=self.planned + decision.change))


class NoTargetIsZero(SimulatedHost):
    def apply(self, decision: ScalingDecision) -> None:
        target = decision.instances or 0
        super().apply(replace(decision, instances=target, change=target - self.planned))


class KeepsAll(SimulatedHost):
    def apply(self, decision: ScalingDecision) -> None:
        if decision.change > 0:
            super().apply(decision)


class Growing(Altered):
    def alter(self, seen: Observation) -> Any:
        self.ready += 1
        return seen


class CountsRequests(Altered):
    def alter(self, seen: Observation) -> Any:
        return replace(seen, arrivals_rps=None if seen.arrivals_rps is None else 20.0 * seen.arrivals_rps)


class IdleIsUnknown(Altered):
    def alter(self, seen: Observation) -> Any:
        return replace(seen, arrivals_rps=seen.arrivals_rps or None)


class SilentIsZero(Altered):
    def alter(self, seen: Observation) -> Any:
        return replace(seen, arrivals_rps=seen.arrivals_rps or 0.0)


BROKEN = [
    ("test_an_observation_holds_counts_and_a_clock", Dictionary, "expected an Observation"),
    ("test_an_observation_holds_counts_and_a_clock", FloatCounts, "ready is 1.0"),
    ("test_an_observation_holds_counts_and_a_clock", WithoutClock, "time_s is nan"),
    ("test_no_sensor_reports_what_cannot_be_true", MinusOne, "latency_p95_ms is -1.0"),
    ("test_the_clock_counts_seconds_and_never_goes_back", Milliseconds, "is it seconds"),
    ("test_the_clock_counts_seconds_and_never_goes_back", ClockGoingBack, "back to"),
    ("test_launches_count_as_starting_at_once", LaunchesUnseen, "launches again"),
    ("test_started_instances_become_ready", CountsTwice, "after \\+2 on 1 and a cold start"),
    ("test_a_decision_delivered_twice_is_carried_out_once", Repeats, "applied twice took 1 instances to 3"),
    ("test_no_change_moves_nothing", NoTargetIsZero, "took 1 instances to 0"),
    ("test_removals_go_down_by_as_many", KeepsAll, "took 1 instances to 3"),
    ("test_observing_moves_nothing", Growing, "looking took"),
    ("test_arrivals_are_a_rate_since_the_last_observation", CountsRequests, "reported as 100.0 rps"),
    ("test_arrivals_are_a_rate_since_the_last_observation", IdleIsUnknown, "expected 0.0"),
    ("test_silent_sensors_are_not_zero", SilentIsZero, "expected None"),
]


@pytest.mark.parametrize(("test", "host", "message"), BROKEN, ids=[host.__name__ for _, host, _ in BROKEN])
def test_each_check_catches_its_fault(test: str, host: Any, message: str) -> None:
    """A host that breaks one promise fails the test of that promise, and the message says what happened."""
    tests = TestSimulatedHost()
    tests.host = host
    with pytest.raises(AssertionError, match=message):
        getattr(tests, test)()


def test_every_check_can_fail() -> None:
    """There is a broken host for each."""
    assert {test for test, _, _ in BROKEN} == set(TESTS)


def test_hooks_that_are_not_there_are_named() -> None:
    """What must be overridden is an error, what may be is a skip that names the hook."""

    class Least(HostConformance):
        def make_host(self) -> Any:
            return SimulatedHost()

    with pytest.raises(NotImplementedError, match="make_host"):
        HostConformance().test_observing_moves_nothing()
    with pytest.raises(NotImplementedError, match="advance"):
        Least().test_started_instances_become_ready()
    with pytest.raises(unittest.SkipTest, match="send"):
        Least().test_arrivals_are_a_rate_since_the_last_observation()
    with pytest.raises(unittest.SkipTest, match="silence"):
        Least().test_silent_sensors_are_not_zero()


def test_the_simulated_host_starts_serves_and_removes() -> None:
    """Launches serve after the cold start, starting ones go first, and without a target the change counts."""
    host = SimulatedHost(ready=2, cold_start_s=10.0, start_time_s=100.0)
    host.apply(ScalingDecision(None, 3, ScalingReason.LOAD))
    host.advance(9.0)
    assert (host.ready, host.starting, host.planned) == (2, 3, 5)
    host.apply(ScalingDecision(3, -2, ScalingReason.SPARE_CAPACITY))
    assert (host.ready, host.starting) == (2, 1)
    host.advance(1.0)
    assert host.observe() == Observation(110.0, 0.0, 3, 0, 0.0)
    host.apply(ScalingDecision(1, -2, ScalingReason.SPARE_CAPACITY))
    assert (host.ready, host.starting) == (1, 0)
    decision: Any = None
    with pytest.raises(InvalidArgumentError, match="decision"):
        host.apply(decision)
    with pytest.raises(InvalidArgumentError, match="load_rps"):
        host.offer(-1.0)
