"""What every adapter must do, as tests that its author can run: see `dilu_core.testing`."""

from __future__ import annotations

import math
import unittest
from typing import Any

from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason, known_count
from dilu_core.coscaling.reading import FIELDS


def require(condition: object, message: str) -> None:
    """Fail the test with `message` unless `condition`; unlike `assert`, also where Python runs with -O."""
    if not condition:
        raise AssertionError(message)


class HostConformance:
    """Tests of an adapter: an object with `observe() -> Observation` and `apply(decision)` for one function.

    Override `make_host`, `advance`, and as many of the other hooks as the host can do; tests that need a hook that is
    not there are skipped and say which. A host under test starts with at least one ready instance and room for
    three more.
    """

    cold_start_s = 10.0
    """Longer than it takes a launched instance to serve, by the host's own clock."""

    def make_host(self) -> Any:
        """A fresh host with sensors that work and no traffic."""
        raise NotImplementedError("override make_host() to give the host under test")

    def advance(self, host: Any, seconds: float) -> None:
        """Let `seconds` pass for the host: move its fake clock, or sleep."""
        raise NotImplementedError("override advance(host, seconds)")

    def send(self, host: Any, load_rps: float) -> None:
        """Let requests arrive at this rate from now on."""
        raise unittest.SkipTest("override send(host, load_rps) to test the arrival rate")

    def silence(self, host: Any) -> None:
        """Let the source of arrival metrics go silent."""
        raise unittest.SkipTest("override silence(host) to test what the host says when its sensors are silent")

    def test_an_observation_holds_counts_and_a_clock(self) -> None:
        """`observe` gives an Observation with a finite clock, and instance counts as whole numbers or `None`."""
        seen = self._look(self.make_host())
        time_s = seen.time_s
        require(
            isinstance(time_s, float | int) and not isinstance(time_s, bool) and math.isfinite(time_s),
            f"time_s is {time_s!r}; expected the host's clock in seconds",
        )
        for name in ("ready", "starting"):
            count = getattr(seen, name)
            require(
                count is None or (type(count) is int and known_count(count) == count),
                f"{name} is {count!r}; expected an int of at least 0, or None where it is not known",
            )

    def test_no_sensor_reports_what_cannot_be_true(self) -> None:
        """Rates, queues, spare share and latency are finite and at least 0, or `None` where they are not known."""
        seen = self._look(self.make_host())
        for name in FIELDS:
            value = getattr(seen, name)
            if name == "time_s" or value is None:
                continue
            believable = isinstance(value, float | int) and not isinstance(value, bool) and 0.0 <= value < math.inf
            require(believable, f"{name} is {value!r}; expected a number of at least 0, or None where it is not known")

    def test_the_clock_counts_seconds_and_never_goes_back(self) -> None:
        """Ten seconds later the clock is ten further - not ten thousand - and between two looks it does not go back."""
        host = self.make_host()
        first, second = self._time(host), self._time(host)
        require(second >= first, f"time_s went from {first!r} back to {second!r} between two observations")
        self.advance(host, 10.0)
        third = self._time(host)
        require(
            9.0 <= third - second <= 20.0, f"10 s passed and time_s went from {second!r} to {third!r}; is it seconds?"
        )

    def test_launches_count_as_starting_at_once(self) -> None:
        """Two launches are two more starting instances in the next observation, before they serve."""
        host = self.make_host()
        ready, starting = self._fleet(host)
        host.apply(self._change(host, +2))
        after = self._fleet(host)
        require(
            sum(after) == ready + starting + 2 and after[1] >= starting,
            f"after +2 on {ready} ready and {starting} starting the host reports {after[0]} and {after[1]}: "
            "a policy that does not see its launches launches again",
        )

    def test_started_instances_become_ready(self) -> None:
        """After the cold start the launched instances serve, and none is counted twice."""
        host = self.make_host()
        before = sum(self._fleet(host))
        host.apply(self._change(host, +2))
        self.advance(host, self.cold_start_s)
        ready, starting = self._fleet(host)
        require(
            (ready, starting) == (before + 2, 0),
            f"after +2 on {before} and a cold start the host reports {ready} ready and {starting} starting",
        )

    def test_a_decision_delivered_twice_is_carried_out_once(self) -> None:
        """`instances` is the target: applying the same decision again - a retry - launches nothing more."""
        host = self.make_host()
        before = sum(self._fleet(host))
        decision = self._change(host, +1)
        host.apply(decision)
        host.apply(decision)
        after = sum(self._fleet(host))
        require(after == before + 1, f"{decision} applied twice took {before} instances to {after}")

    def test_no_change_moves_nothing(self) -> None:
        """A decision without a change leaves the fleet alone, with a target and without one."""
        host = self.make_host()
        before = sum(self._fleet(host))
        for instances in (before, None):
            decision = ScalingDecision(instances, 0, ScalingReason.NO_DATA)
            host.apply(decision)
            after = sum(self._fleet(host))
            require(after == before, f"{decision} took {before} instances to {after}")

    def test_removals_go_down_by_as_many(self) -> None:
        """Two launched and one removed leave one more than before."""
        host = self.make_host()
        before = sum(self._fleet(host))
        host.apply(self._change(host, +2))
        self.advance(host, self.cold_start_s)
        host.apply(self._change(host, -1))
        self.advance(host, self.cold_start_s)
        after = sum(self._fleet(host))
        require(after == before + 1, f"+2 and -1 took {before} instances to {after}")

    def test_observing_moves_nothing(self) -> None:
        """Looking again and again changes no count."""
        host = self.make_host()
        before = self._fleet(host)
        for _ in range(5):
            after = self._fleet(host)
            require(after == before, f"looking took (ready, starting) from {before} to {after}")

    def test_arrivals_are_a_rate_since_the_last_observation(self) -> None:
        """Twenty seconds at 5 requests per second are 5, not 100; silence of users afterwards is 0, not `None`."""
        host = self.make_host()
        self.send(host, 5.0)
        self.advance(host, 10.0)
        self._look(host)
        self.advance(host, 20.0)
        busy = self._look(host).arrivals_rps
        require(
            busy is not None and 4.0 <= busy <= 6.0, f"5 requests per second for 20 s were reported as {busy!r} rps"
        )
        self.send(host, 0.0)
        self.advance(host, 10.0)
        self._look(host)
        self.advance(host, 10.0)
        idle = self._look(host).arrivals_rps
        require(idle == 0.0, f"working sensors without traffic were reported as {idle!r}; expected 0.0")

    def test_silent_sensors_are_not_zero(self) -> None:
        """Without metrics the arrivals are `None`: zero would take the fleet down."""
        host = self.make_host()
        self.silence(host)
        self.advance(host, 10.0)
        self._look(host)
        self.advance(host, 10.0)
        arrivals = self._look(host).arrivals_rps
        require(arrivals is None, f"a silent sensor was reported as {arrivals!r} rps; expected None, which is not zero")

    def _look(self, host: Any) -> Observation:
        seen = host.observe()
        require(isinstance(seen, Observation), f"observe() gave {seen!r:.120}; expected an Observation")
        found: Observation = seen
        return found

    def _time(self, host: Any) -> float:
        time_s = self._look(host).time_s
        require(time_s is not None, "time_s is None; the host must know its own clock")
        return float(time_s or 0.0)

    def _fleet(self, host: Any) -> tuple[int, int]:
        seen = self._look(host)
        ready, starting = known_count(seen.ready), known_count(seen.starting)
        if ready is None or starting is None:
            raise AssertionError(
                f"ready is {seen.ready!r} and starting {seen.starting!r}; expected counts of a host at rest"
            )
        return ready, starting

    def _change(self, host: Any, change: int) -> ScalingDecision:
        """A decision to change the fleet as it is now."""
        return ScalingDecision(sum(self._fleet(host)) + change, change, ScalingReason.LOAD, "conformance test")
