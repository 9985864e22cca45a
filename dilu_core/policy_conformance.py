"""What every horizontal policy must do, as tests that its author can run: see `dilu_core.testing`."""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any

from dilu_core.coscaling.policy import Observation, planned_in
from dilu_core.host_conformance import require
from dilu_core.policy_runs import PolicyRuns, fields_of, moved
from dilu_core.simulated_host import SimulatedHost

GARBAGE: tuple[Any, ...] = (None, math.nan, math.inf, -math.inf, -1.0, "12", b"12", [], {}, object(), 1e300)
"""Readings that no sensor could have meant (as a clock, -1.0 is one that went back)."""

_DAY_S = 86_400.0


class PolicyConformance(PolicyRuns):
    """Tests of a horizontal policy for one function: `initial_state()` and `decide(state, observation)`.

    Override `make_policy`. What the tests must know of the function - `capacity_rps` of an instance, `latency_s` of a
    request, `min_instances`, `max_instances`, `cold_start_s` - is taken from the policy's `params` if those are
    HorizontalParams, and from the class otherwise. `moves` is False for a policy that is meant never to act.
    """

    # purity

    def test_the_same_question_has_the_same_answer(self) -> None:
        """Asked twice, and of a second policy of its kind, one state and observation get one and the same decision."""
        policy, other = self.make_policy(), self.make_policy()
        state, twin = policy.initial_state(), other.initial_state()
        for seen in self._observations():
            first, _ = self._decide(policy, state, seen)
            again, after = self._decide(policy, state, seen)
            of_other, twin = self._decide(other, twin, seen)
            require(first == again, f"asked twice about {seen}, the policy said {first} and then {again}")
            require(first == of_other, f"two policies alike said {first} and {of_other} about {seen}")
            state = after

    def test_the_state_is_never_changed_in_place(self) -> None:
        """A state given to `decide` is the same value afterwards, and so is one taken from it."""
        policy = self.make_policy()
        state = policy.initial_state()
        for seen in self._observations():
            before = copy.deepcopy(state)
            _, after = self._decide(policy, state, seen)
            require(state == before, f"decide changed its state in place, from {before!r:.300} to {state!r:.300}")
            state = after

    def test_a_restart_changes_no_decision(self) -> None:
        """The state taken through JSON text at any moment leads to the same decisions."""
        policy = self.make_policy()
        kept = restored = policy.initial_state()
        for i, seen in enumerate(self._observations()):
            if i % 11 == 5:
                try:
                    text = json.dumps(self.save_state(restored), allow_nan=False)
                except (TypeError, ValueError) as error:
                    raise AssertionError(f"the state is not JSON-able ({error}): {restored!r:.300}") from error
                restored = self.restore_state(policy, json.loads(text))
            first, kept = self._decide(policy, kept, seen)
            second, restored = self._decide(policy, restored, seen)
            require(moved(first) == moved(second), f"after a restart {seen} was answered {second}, before it {first}")

    def test_what_time_it_is_does_not_matter(self) -> None:
        """The same observations, all a million seconds later, get the same decisions."""
        policy = self.make_policy()
        now, later = policy.initial_state(), policy.initial_state()
        for seen in self._observations():
            first, now = self._decide(policy, now, seen)
            shifted = Observation(None if seen.time_s is None else seen.time_s + 2.0**20, *fields_of(seen)[1:])
            second, later = self._decide(policy, later, shifted)
            require(moved(first) == moved(second), f"{seen} was answered {first}, and 2^20 s later {second}")

    # what is not known

    def test_garbage_never_raises(self) -> None:
        """Whatever sensors report in whatever field, `decide` answers."""
        policy, rng = self.make_policy(), random.Random(self.seed)
        state = policy.initial_state()
        for seen in self._observations():
            fields = [rng.choice(GARBAGE) if rng.random() < 0.4 else value for value in fields_of(seen)]
            odd = Observation(*fields)
            try:
                _, state = self._decide(policy, state, odd)
            except AssertionError:
                raise
            except Exception as error:
                raise AssertionError(
                    f"{type(error).__name__} ({error}) for {odd}; odd readings count as unknown"
                ) from error

    def test_garbage_never_scales(self) -> None:
        """With its clock, its load or a count unbelievable, no instance is launched or removed."""
        policy, host, state = self._settled(3.5, ready=4)
        for load in (0.0, 3.5, 30.0):
            host.offer(load * self._capacity(policy))
            host.advance(1.0)
            seen = host.observe()
            for field, name in enumerate(("time_s", "arrivals_rps", "ready", "starting")):
                for odd in GARBAGE:
                    if name == "time_s" and odd in (1e300, -1.0):
                        continue  # a clock may read so; the tests of clocks see to it
                    values: list[Any] = [*fields_of(seen)]
                    values[field] = odd
                    decision, _ = self._decide(policy, state, Observation(*values))
                    require(decision.change == 0, f"with {name} reported as {odd!r} the policy decided {decision}")

    def test_unknown_is_not_zero(self) -> None:
        """However long the arrivals are not known, nothing is removed, with and without a known empty queue."""
        for in_flight in (None, 0.0):
            policy, host, state = self._settled(4.5, ready=5)
            for second in range(5, 1801, 5):
                seen = Observation(host.now_s + second, None, host.ready, host.starting, in_flight)
                decision, state = self._decide(policy, state, seen)
                require(
                    decision.change == 0,
                    f"after {second} s without known arrivals (in_flight={in_flight!r}) the policy decided {decision}",
                )

    def test_a_clock_that_stands_still_or_goes_back_moves_nothing(self) -> None:
        """No time has passed, or less than none: nothing is launched or removed, whatever the load."""
        policy, host, settled = self._settled(3.5, ready=4)
        for load in (0.0, 30.0):
            for back in (0.0, 0.5, 500.0, _DAY_S):
                seen = Observation(
                    host.now_s - back,
                    load * self._capacity(policy),
                    host.ready,
                    host.starting,
                    self._in_flight(policy, load),
                )
                decision, state = self._decide(policy, settled, seen)
                require(decision.change == 0, f"on a clock {back:g} s behind the last the policy decided {decision}")
                self._goes_on(policy, state, seen.time_s or 0.0, f"a clock {back:g} s behind the last")

    def test_a_clock_that_jumps_ahead_removes_nothing(self) -> None:
        """After a day of silence one observation is no reason to give instances up."""
        policy, host, state = self._settled(3.5, ready=4)
        seen = Observation(host.now_s + _DAY_S, 0.0, host.ready, host.starting, 0.0)
        decision, state = self._decide(policy, state, seen)
        require(decision.change >= 0, f"on one idle observation after a silence of a day the policy decided {decision}")
        self._goes_on(policy, state, host.now_s + _DAY_S, "a silence of a day")

    # what is decided

    def test_decisions_keep_to_the_bounds(self) -> None:
        """The target is what is planned plus the change, and lies between the least and the most instances."""
        policy = self.make_policy()
        least, most, state = self._least(policy), self._most(policy), policy.initial_state()
        for seen in self._observations(extreme=True):
            decision, state = self._decide(policy, state, seen)
            planned = planned_in(seen)
            if planned is None or decision.change == 0:
                continue
            require(
                decision.instances == planned + decision.change,
                f"{decision} for {planned} planned instances: the target is not the sum",
            )
            require(least <= (decision.instances or 0) <= most, f"{decision} is outside {least}..{most} for {seen}")

    def test_more_load_never_gets_fewer_instances(self) -> None:
        """From one and the same state, of two loads the greater gets at least as many instances."""
        rng, policy = random.Random(self.seed), self.make_policy()
        state, capacity = policy.initial_state(), self._capacity(policy)
        for seen in self._observations(known=True):
            loads = sorted(rng.uniform(0.0, 12.0) for _ in range(4))
            targets = []
            for load in loads:
                asked = Observation(
                    seen.time_s,
                    load * capacity,
                    seen.ready,
                    seen.starting,
                    self._in_flight(policy, load),
                    *fields_of(seen)[5:],
                )
                targets.append(self._decide(policy, state, asked)[0].instances or 0)
            require(
                targets == sorted(targets),
                f"loads of {[round(load, 3) for load in loads]} instances got {targets}, fewer for more, at {seen}",
            )
            _, state = self._decide(policy, state, seen)

    def test_constant_load_never_turns_the_policy_round(self) -> None:
        """At any constant load, from too few or too many instances, the count moves one way only."""
        for load in (0.0, 0.9, 1.0, 1.2, 2.0, 2.5, 3.7):
            for ready in (1, 6):
                changes = [change for change in self._closed_loop(load, ready, seconds=600) if change]
                ups, downs = [each for each in changes if each > 0], [each for each in changes if each < 0]
                require(
                    not (ups and downs),
                    f"at a constant load of {load} instances, from {ready}, the changes were {changes[:12]}: both ways",
                )

    def test_zero_is_reached_only_from_one(self) -> None:
        """Without any load, the last instance goes alone, and only if the minimum is 0."""
        policy, host = self.make_policy(), self._host(ready=6)
        state, least = policy.initial_state(), self._least(policy)
        for _ in range(1500):
            host.advance(1.0)
            before = host.planned
            decision, state = self._decide(policy, state, host.observe())
            host.apply(decision)
            require(host.planned > 0 or least == 0, f"{decision} took the last of at least {least} instances")
            require(host.planned > 0 or before <= 1, f"{decision} took {before} instances to zero at once")

    def test_load_brings_instances(self) -> None:
        """Ten minutes at a load of five instances launch some on top of one, and any load brings one back from zero."""
        if not self.moves:
            return
        for ready in (0, 1) if self._most(self.make_policy()) > 1 else (0,):
            load = 5.0 if ready else 0.5
            launched = sum(self._closed_loop(load, ready, seconds=600))
            require(launched > 0, f"ten minutes at a load of {load} instances launched none on top of {ready}")

    def test_starting_instances_count(self) -> None:
        """While launched instances take very long to start, a constant load does not launch more and more."""
        policy = self.make_policy()
        host = SimulatedHost(ready=1, cold_start_s=1e6, latency_s=self._latency_s(policy))
        self._follow(policy, policy.initial_state(), host, 5.0, 600)
        limit = max(10, self._least(policy))
        require(
            host.planned <= limit,
            f"a load of 5 instances led to {host.planned} planned ones (expected at most {limit}) while they started",
        )
