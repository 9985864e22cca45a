"""What every horizontal policy must do, as tests that its author can run: see `dilu_core.testing`."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any

from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, ScalingDecision, fault_of, known_count
from dilu_core.coscaling.reading import FIELDS
from dilu_core.host_conformance import require
from dilu_core.simulated_host import SimulatedHost

GARBAGE: tuple[Any, ...] = (None, math.nan, math.inf, -math.inf, -1.0, "12", b"12", [], {}, object(), 1e300)
"""Readings that no sensor could have meant (as a clock, -1.0 is one that went back)."""

_DAY_S = 86_400.0


class PolicyConformance:
    """Tests of a horizontal policy for one function: `initial_state()` and `decide(state, observation)`.

    Override `make_policy`. What the tests must know of the function - `capacity_rps` of an instance, `latency_s` of a
    request, `min_instances`, `max_instances`, `cold_start_s` - is taken from the policy's `params` if those are
    HorizontalParams, and from the class otherwise. `moves` is False for a policy that is meant never to act.
    """

    capacity_rps = 10.0
    latency_s = 0.05
    min_instances = 1
    max_instances = 100
    cold_start_s = 10.0
    moves = True
    seed = 0

    def make_policy(self) -> Any:
        """A fresh policy."""
        raise NotImplementedError("override make_policy() to give the policy under test")

    def save_state(self, state: Any) -> Any:
        """The state as a JSON-able value."""
        return state.to_dict() if hasattr(state, "to_dict") else state

    def restore_state(self, policy: Any, data: Any) -> Any:
        """The state whose `save_state` is `data`: by the policy's `restore_state`, or by the class of its state."""
        if hasattr(policy, "restore_state"):
            return policy.restore_state(data)
        kind = type(policy.initial_state())
        return kind.from_dict(data) if hasattr(kind, "from_dict") else data

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
            require(_moved(first) == _moved(second), f"after a restart {seen} was answered {second}, before it {first}")

    def test_what_time_it_is_does_not_matter(self) -> None:
        """The same observations, all a million seconds later, get the same decisions."""
        policy = self.make_policy()
        now, later = policy.initial_state(), policy.initial_state()
        for seen in self._observations():
            first, now = self._decide(policy, now, seen)
            moved = Observation(None if seen.time_s is None else seen.time_s + 2.0**20, *_fields(seen)[1:])
            second, later = self._decide(policy, later, moved)
            require(_moved(first) == _moved(second), f"{seen} was answered {first}, and 2^20 s later {second}")

    # what is not known

    def test_garbage_never_raises(self) -> None:
        """Whatever sensors report in whatever field, `decide` answers."""
        policy, rng = self.make_policy(), random.Random(self.seed)
        state = policy.initial_state()
        for seen in self._observations():
            fields = [rng.choice(GARBAGE) if rng.random() < 0.4 else value for value in _fields(seen)]
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
        for load in (0.0, 3.5, 30.0):
            policy, host, state = self._settled(3.5, ready=4)
            host.offer(load * self._capacity(policy))
            host.advance(1.0)
            seen = host.observe()
            for field, name in enumerate(("time_s", "arrivals_rps", "ready", "starting")):
                for odd in GARBAGE:
                    if name == "time_s" and odd in (1e300, -1.0):
                        continue  # a clock may read so; the tests of clocks see to it
                    values: list[Any] = [*_fields(seen)]
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
        for load in (0.0, 30.0):
            for back in (0.0, 0.5, 500.0, _DAY_S):
                policy, host, state = self._settled(3.5, ready=4)
                seen = Observation(
                    host.now_s - back, load * self._capacity(policy), host.ready, host.starting, self._in_flight(load)
                )
                decision, state = self._decide(policy, state, seen)
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
            ready, starting = known_count(seen.ready), known_count(seen.starting)
            if ready is None or starting is None or decision.change == 0:
                continue
            require(
                decision.instances == ready + starting + decision.change,
                f"{decision} for {ready} ready and {starting} starting: the target is not the sum",
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
                    seen.time_s, load * capacity, seen.ready, seen.starting, self._in_flight(load), *_fields(seen)[5:]
                )
                targets.append(self._decide(policy, state, asked)[0].instances or 0)
            require(
                targets == sorted(targets),
                f"loads of {[round(load, 3) for load in loads]} instances got {targets}, fewer for more, at {seen}",
            )
            _, state = self._decide(policy, state, seen)

    def test_constant_load_never_turns_the_policy_round(self) -> None:
        """At any constant load, from too few or too many instances, the count moves one way only."""
        for load in (0.0, 0.5, 0.9, 1.0, 1.2, 2.0, 2.5, 3.7):
            for ready in (1, 6):
                changes = [change for change in self._closed_loop(load, ready, seconds=900) if change]
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
        for ready in (0, 1):
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

    # how the tests ask

    def _decide(self, policy: Any, state: Any, seen: Observation) -> tuple[ScalingDecision, Any]:
        answer = policy.decide(state, seen)
        fault = fault_of(answer)
        require(fault is None, f"the policy {fault}; it was asked about {seen}")
        require(isinstance(answer[0].reason, str) and answer[0].reason, f"{answer[0]} has no reason; expected a code")
        found: tuple[ScalingDecision, Any] = answer
        return found

    def _follow(self, policy: Any, state: Any, host: SimulatedHost, load: float, seconds: int) -> tuple[list[int], Any]:
        """The changes decided, each carried out, while `host` is under a constant load (in instances)."""
        host.offer(load * self._capacity(policy))
        changes = []
        for _ in range(seconds):
            host.advance(1.0)
            decision, state = self._decide(policy, state, host.observe())
            host.apply(decision)
            changes.append(decision.change)
        return changes, state

    def _closed_loop(self, load: float, ready: int, seconds: int) -> list[int]:
        policy = self.make_policy()
        return self._follow(policy, policy.initial_state(), self._host(ready), load, seconds)[0]

    def _settled(self, load: float, ready: int) -> tuple[Any, SimulatedHost, Any]:
        """A policy, its host, and its state after ten minutes at a constant load."""
        policy, host = self.make_policy(), self._host(ready)
        _, state = self._follow(policy, policy.initial_state(), host, load, 600)
        return policy, host, state

    def _goes_on(self, policy: Any, state: Any, time_s: float, after_what: str) -> None:
        """The policy still scales out within ten minutes of a load."""
        if self.moves:
            host = SimulatedHost(ready=1, cold_start_s=self.cold_start_s, start_time_s=time_s)
            changes, _ = self._follow(policy, state, host, 5.0, 600)
            require(
                any(change > 0 for change in changes),
                f"after {after_what}, a load of 5 instances launched none in 600 s",
            )

    def _host(self, ready: int) -> SimulatedHost:
        policy = self.make_policy()
        params = getattr(policy, "params", None)
        cold_start_s = params.cold_start_s if isinstance(params, HorizontalParams) else self.cold_start_s
        return SimulatedHost(ready=ready, cold_start_s=cold_start_s, latency_s=self._latency_s(policy))

    def _observations(self, *, extreme: bool = False, known: bool = False) -> Iterator[Observation]:
        """Three hundred observations of a fleet that nobody controls, some of them with gaps unless `known`."""
        rng, policy = random.Random(self.seed), self.make_policy()
        capacity, now, ready, starting, load = self._capacity(policy), 0.0, 3, 0, 2.0
        for _ in range(300):
            now += rng.choice((1.0, 1.0, 1.0, 0.5, 5.0))
            if rng.random() < 0.1:
                load = rng.choice((0.0, rng.uniform(0.0, 8.0), *((1e6,) if extreme else ())))
            if rng.random() < 0.1:
                ready, starting = rng.randint(0, 8), rng.choice((0, 0, rng.randint(0, 4)))
            values: list[Any] = [
                now,
                load * capacity * rng.uniform(0.8, 1.2),
                ready,
                starting,
                self._in_flight(load),
                rng.choice((None, rng.uniform(0.0, 400.0))),
                None,
            ]
            if not known and rng.random() < 0.1:
                values[rng.randrange(len(values))] = None
            yield Observation(*values)

    def _in_flight(self, load: float) -> float:
        """Requests in the system at a load in instances, with nobody waiting: Little's law."""
        policy = self.make_policy()
        return load * self._capacity(policy) * self._latency_s(policy)

    def _known(self, policy: Any, name: str) -> Any:
        params = getattr(policy, "params", None)
        return getattr(params, name) if isinstance(params, HorizontalParams) else getattr(self, name)

    def _capacity(self, policy: Any) -> float:
        return float(self._known(policy, "capacity_rps"))

    def _least(self, policy: Any) -> int:
        return int(self._known(policy, "min_instances"))

    def _most(self, policy: Any) -> int:
        return int(self._known(policy, "max_instances"))

    def _latency_s(self, policy: Any) -> float:
        """Of a request that does not wait, by default well within the objective."""
        params = getattr(policy, "params", None)
        if not isinstance(params, HorizontalParams):
            return self.latency_s
        if params.base_latency_ms is not None:
            return params.base_latency_ms / 1000.0
        return self.latency_s if params.slo_ms is None else min(self.latency_s, params.slo_ms / 2000.0)


def _fields(seen: Observation) -> tuple[Any, ...]:
    return tuple(getattr(seen, name) for name in FIELDS)


def _moved(decision: ScalingDecision) -> tuple[int | None, int]:
    return decision.instances, decision.change
