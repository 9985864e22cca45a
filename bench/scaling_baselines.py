"""Autoscalers that are widely used, from their documentation, as policies for `replay`: what ours is compared with.

One-second control periods; instances that start count in `desired`, as in the originals. All aim at 70 % of capacity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason

UTILISATION = 0.7


@dataclass(frozen=True)
class History:
    """What the baselines remember: samples, past recommendations, and since when they lean one way."""

    samples: tuple[float, ...] = ()
    recommended: tuple[int, ...] = ()
    seconds: int = 0
    panic_until: int = -1
    panic_count: int = 0
    leaning: int = 0
    leaning_since: int = 0


class Baseline:
    """The common part: bounds, and turning a desired count into a decision."""

    def __init__(self, params: HorizontalParams) -> None:
        self.params = params
        self.target_rps = UTILISATION * params.capacity_rps
        self.target_concurrency = self.target_rps * (params.base_latency_ms or 0.0) / 1000.0

    def initial_state(self) -> History:
        return History()

    def decide(self, state: History, seen: Observation) -> tuple[ScalingDecision, History]:
        planned = (seen.ready or 0) + (seen.starting or 0)
        desired, state = self.desired(replace(state, seconds=state.seconds + 1), seen, planned)
        desired = min(max(desired, self.params.min_instances), self.params.max_instances)
        return ScalingDecision(desired, desired - planned, ScalingReason.LOAD), state

    def desired(self, state: History, seen: Observation, planned: int) -> tuple[int, History]:
        raise NotImplementedError


class FixedPeak(Baseline):
    """A fleet for the peak, never changed."""

    def desired(self, state: History, seen: Observation, planned: int) -> tuple[int, History]:
        return self.params.max_instances, state


class KnativeRps(Baseline):
    """Knative KPA on requests per second: 60 s stable and 6 s panic window, panic at 200 %, down by half at most."""

    def metric(self, seen: Observation) -> tuple[float, float]:
        return seen.arrivals_rps or 0.0, self.target_rps

    def desired(self, state: History, seen: Observation, planned: int) -> tuple[int, History]:
        value, target = self.metric(seen)
        samples = (*state.samples, value)[-60:]
        state = replace(state, samples=samples)
        if state.seconds % 2 and state.seconds > 1:  # the autoscaler ticks every two seconds
            return planned, state
        ready = max(1, seen.ready or 0)
        most, least = math.ceil(1000.0 * ready), math.floor(ready / 2.0)
        stable = min(max(math.ceil(sum(samples) / len(samples) / target - 1e-9), least), most)
        recent = samples[-6:]
        panic = math.ceil(sum(recent) / len(recent) / target - 1e-9)
        if panic / ready >= 2.0:
            state = replace(state, panic_until=state.seconds + 60)
        elif state.seconds > state.panic_until:
            state = replace(state, panic_until=-1, panic_count=0)
        if state.panic_until < 0:
            return stable, state
        state = replace(state, panic_count=max(state.panic_count, stable, min(max(panic, least), most)))
        return state.panic_count, state


class KnativeConcurrency(KnativeRps):
    """Knative KPA on concurrency, its default metric."""

    def metric(self, seen: Observation) -> tuple[float, float]:
        return seen.in_flight or 0.0, self.target_concurrency


class RayServe(Baseline):
    """Ray Serve defaults: mean ongoing requests over 30 s reported every 10 s; delays of 30 s up and 600 s down."""

    def desired(self, state: History, seen: Observation, planned: int) -> tuple[int, History]:
        samples = (*state.samples, seen.in_flight or 0.0)[-30:]
        state = replace(state, samples=samples)
        if state.seconds % 10 == 0:
            needed = math.ceil(sum(samples) / len(samples) / self.target_concurrency - 1e-9)
            state = replace(state, recommended=(needed,))
        wanted = state.recommended[-1] if state.recommended else planned
        leaning = (wanted > planned) - (wanted < planned)
        if leaning != state.leaning:
            state = replace(state, leaning=leaning, leaning_since=state.seconds)
        waited = state.seconds - state.leaning_since
        if leaning and waited >= (30 if leaning > 0 else 600):
            return wanted, replace(state, leaning=0)
        return planned, state


class KubernetesHpa(Baseline):
    """HPA v2 on requests per second: every 15 s, a 30 s mean 15 s late, 10 % tolerance, 300 s stabilisation down."""

    def desired(self, state: History, seen: Observation, planned: int) -> tuple[int, History]:
        samples = (*state.samples, seen.arrivals_rps or 0.0)[-45:]
        state = replace(state, samples=samples)
        if state.seconds % 15:
            return planned, state
        window = samples[:-15][-30:] or samples[:1]
        mean = sum(window) / len(window)
        ratio = mean / (self.target_rps * max(1, planned))
        wanted = planned if abs(ratio - 1.0) <= 0.1 else math.ceil(mean / self.target_rps - 1e-9)
        recommended = (*state.recommended, wanted)[-20:]  # 300 s of them
        state = replace(state, recommended=recommended)
        if wanted > planned:
            return min(wanted, max(planned + 4, 2 * planned)), state
        return min(planned, max(recommended)), state


BASELINES: dict[str, type[Baseline]] = {
    "fixed peak": FixedPeak,
    "Knative KPA (concurrency)": KnativeConcurrency,
    "Knative KPA (rps)": KnativeRps,
    "Ray Serve default": RayServe,
    "Kubernetes HPA": KubernetesHpa,
}
