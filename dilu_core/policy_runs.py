"""How the conformance tests ask a policy: about observations nobody controls, and in a loop with a host in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, ScalingDecision, fault_of
from dilu_core.coscaling.reading import FIELDS
from dilu_core.host_conformance import require
from dilu_core.simulated_host import SimulatedHost


class PolicyRuns:
    """What the tests must know of a policy and the function it scales, and the ways to run it."""

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

    def _decide(self, policy: Any, state: Any, seen: Observation) -> tuple[ScalingDecision, Any]:
        answer = policy.decide(state, seen)
        fault = fault_of(answer, seen)
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
        """A policy, its host, and its state after five minutes at a constant load."""
        policy, host = self.make_policy(), self._host(ready)
        _, state = self._follow(policy, policy.initial_state(), host, load, 300)
        return policy, host, state

    def _goes_on(self, policy: Any, state: Any, time_s: float, after_what: str) -> None:
        """The policy still scales out within ten minutes of a load."""
        if not self.moves:
            return
        ready = min(1, self._most(policy) - 1)  # there must be one more to launch
        host = SimulatedHost(ready=ready, cold_start_s=self.cold_start_s, start_time_s=time_s)
        for _ in range(20):
            changes, state = self._follow(policy, state, host, 5.0, 30)
            if max(changes) > 0:
                return
        raise AssertionError(f"after {after_what}, a load of 5 instances launched none in 600 s")

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
                self._in_flight(policy, load),
                rng.choice((None, rng.uniform(0.0, 400.0))),
                None,
            ]
            if not known and rng.random() < 0.1:
                values[rng.randrange(len(values))] = None
            yield Observation(*values)

    def _in_flight(self, policy: Any, load: float) -> float:
        """Requests in the system at a load in instances, with nobody waiting: Little's law."""
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


def fields_of(seen: Observation) -> tuple[Any, ...]:
    """What was observed, in the order of `Observation`."""
    return tuple(getattr(seen, name) for name in FIELDS)


def moved(decision: ScalingDecision) -> tuple[int | None, int]:
    """What a host would carry out."""
    return decision.instances, decision.change
