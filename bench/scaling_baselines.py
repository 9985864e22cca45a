"""Autoscalers that are widely used, from their documentation, as policies for `replay`: what ours is compared with.

One-second control periods; instances that start count in `desired`, as in the originals. Each rule is a pure function
with the documented defaults, and a policy that feeds it; tests/test_scaling_baselines.py holds cases computed by hand.
Capacity is told to all alike: they aim at 70 % of it, which is Knative's default. Where documentation leaves a choice,
the one that favours the peer is taken:

    Knative      the grace period before the last pod goes is an upper bound (30 s) on work of the network: taken as 0
    HPA          a scale-out may add 4 pods from any count (documentation), not reach 4 (code without `behavior`);
                 the metric is a 30 s mean 15 s late, which a metrics pipeline rarely beats
    Ray Serve    `target_ongoing_requests` follows the capacity; its default of 2 is in `EXTRA_BASELINES`
    KEDA         HPA between 1 and many, on 0 every 30 s
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason

UTILISATION = 0.7
_ROUNDING = 1e-9  # 0.3 / 0.1 is 2.9999999999999996, and 3 instances are enough


def _ceil(value: float) -> int:
    return math.ceil(value - _ROUNDING)


class Panic(NamedTuple):
    """Knative's panic mode: since when (`None`: stable mode), and the most pods wanted in it."""

    since_s: float | None = None
    most: int = 0


STABLE = Panic()


def kpa_desired(
    stable: float,
    panic: float,
    target: float,
    ready: int,
    now_s: float,
    mode: Panic = STABLE,
    *,
    scale_up_rate: float = 1000.0,
    scale_down_rate: float = 2.0,
) -> tuple[int, Panic]:
    """One tick of Knative's autoscaler: pods for a metric averaged over the stable and over the panic window.

    https://github.com/knative/serving/blob/main/pkg/autoscaler/scaling/autoscaler.go, `Scale`, with the defaults of
    config/core/configmaps/autoscaler.yaml: panic at 200 % of what is ready, for 60 s after the last such tick and
    never downwards meanwhile; the rates bound a change against what is ready.
    """
    there = max(1, ready)
    least, most = math.floor(there / scale_down_rate), math.ceil(scale_up_rate * there)
    wanted = _ceil(panic / target)
    if wanted / there >= 2.0:
        mode = Panic(now_s, mode.most)
    elif mode.since_s is not None and now_s > mode.since_s + 60.0:
        mode = STABLE
    desired = min(max(_ceil(stable / target), least), most)
    if mode.since_s is None:
        return desired, mode
    mode = Panic(mode.since_s, max(mode.most, desired, min(max(wanted, least), most)))
    return mode.most, mode


def ray_desired(
    ongoing: float, running: int, target: float, *, upscaling_factor: float = 1.0, downscaling_factor: float = 1.0
) -> int:
    """Ray Serve's replicas for the mean of ongoing requests over the look-back period, before delays.

    https://github.com/ray-project/ray/blob/master/python/ray/serve/autoscaling_policy.py,
    `_core_replica_queue_length_policy` and `_apply_scaling_factors`.
    """
    needed = ongoing / target
    factor = upscaling_factor if needed > running else downscaling_factor
    scaled = _ceil(running + factor * (needed - running))
    return scaled - 1 if _ceil(needed) < running and scaled == running else scaled


def hpa_average_value(total: float, pods: int, target: float, *, tolerance: float = 0.1) -> int:
    """HPA's pods for an object or external metric with an AverageValue target; pods that start count.

    https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details and
    GetExternalPerPodMetricReplicas in pkg/controller/podautoscaler/replica_calculator.go.
    """
    ratio = total / (target * pods) if pods else math.inf if total > 0.0 else 1.0
    return pods if abs(1.0 - ratio) <= tolerance else _ceil(total / target)


def hpa_pods_metric(
    values: Sequence[float], target: float, *, missing: int = 0, unready: int = 0, tolerance: float = 0.1
) -> int:
    """HPA's pods for a metric of every pod, of which `missing` report nothing and `unready` have not been ready yet.

    Where the others ask for more pods, both count as idle; where they ask for fewer, missing ones count as on target
    and unready ones not at all. If that turns the direction round, or the ratio is within the tolerance, nothing
    changes; nor without any value.
    https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details and
    GetResourceReplicas in pkg/controller/podautoscaler/replica_calculator.go.
    """
    pods = len(values) + missing + unready
    if not values:
        return pods
    ratio = sum(values) / (target * len(values))
    counted, total = len(values), sum(values)
    if ratio < 1.0:
        counted, total = counted + missing, total + missing * target
    elif ratio > 1.0:
        counted += missing + unready
    new_ratio = total / (target * counted)
    turned = (ratio - 1.0) * (new_ratio - 1.0) < 0.0
    if turned or abs(1.0 - new_ratio) <= tolerance:
        return pods
    wanted = _ceil(new_ratio * counted)
    return pods if (new_ratio - 1.0) * (wanted - pods) < 0.0 else wanted


def hpa_normalised(wanted: int, pods: int, recent: Sequence[int]) -> int:
    """What HPA's default `behavior` makes of a recommendation, `recent` being those of the last 300 s.

    A scale-in goes to the greatest of them; a scale-out adds at most 4 pods or as many as there are, each 15 s.
    https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#default-behavior
    """
    stabilised = wanted if wanted >= pods else max(wanted, *recent, wanted)
    return min(stabilised, max(pods + 4, 2 * pods))


@dataclass(frozen=True)
class History:
    """What the baselines remember: samples, past recommendations, and since when they lean one way."""

    samples: tuple[float, ...] = ()
    recommended: tuple[int, ...] = ()
    seconds: int = 0
    panic: Panic | None = None
    leaning: int = 0
    leaning_since: int = 0
    last_active: int = 0


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
    """Knative KPA on requests per second: 60 s stable and 6 s panic window, looked at every 2 s.

    It starts in panic mode where more than one pod is ready, so that lost history takes none away.
    """

    def metric(self, seen: Observation) -> tuple[float, float]:
        return seen.arrivals_rps or 0.0, self.target_rps

    def desired(self, state: History, seen: Observation, planned: int) -> tuple[int, History]:
        value, target = self.metric(seen)
        samples = (*state.samples, value)[-60:]
        ready = seen.ready or 0
        panic = state.panic if state.panic is not None else Panic(float(state.seconds), ready) if ready > 1 else STABLE
        state = replace(state, samples=samples, panic=panic)
        if state.seconds % 2:  # the autoscaler ticks every two seconds
            return planned, state
        recent = samples[-6:]
        stable_mean, panic_mean = sum(samples) / len(samples), sum(recent) / len(recent)
        count, panic = kpa_desired(stable_mean, panic_mean, target, ready, float(state.seconds), panic)
        return count, replace(state, panic=panic)


class KnativeConcurrency(KnativeRps):
    """Knative KPA on concurrency, its default metric."""

    def metric(self, seen: Observation) -> tuple[float, float]:
        return seen.in_flight or 0.0, self.target_concurrency


class RayServe(Baseline):
    """Ray Serve: mean ongoing requests over 30 s reported every 10 s; delays of 30 s up and 600 s down.

    A change must be wanted without a break for the whole delay. From zero replicas to one at once; to zero only from
    one. https://docs.ray.io/en/latest/serve/advanced-guides/advanced-autoscaling.html
    """

    @property
    def target_ongoing_requests(self) -> float:
        return self.target_concurrency

    def desired(self, state: History, seen: Observation, planned: int) -> tuple[int, History]:
        ongoing, ready = seen.in_flight or 0.0, seen.ready or 0
        samples = (*state.samples, ongoing)[-30:]
        state = replace(state, samples=samples)
        if ready == 0:
            return max(planned, int(ongoing > 0.0)), state
        if state.seconds % 10 == 0:
            needed = ray_desired(sum(samples) / len(samples), ready, self.target_ongoing_requests)
            state = replace(state, recommended=(needed,))
        wanted = state.recommended[-1] if state.recommended else planned
        wanted = min(max(wanted, self.params.min_instances, int(planned > 1)), self.params.max_instances)
        leaning = (wanted > planned) - (wanted < planned)
        if leaning != state.leaning:
            state = replace(state, leaning=leaning, leaning_since=state.seconds)
        waited = state.seconds - state.leaning_since
        if leaning and waited >= (30 if leaning > 0 else 600):
            return wanted, replace(state, leaning=0)
        return planned, state


class RayServeTarget2(RayServe):
    """Ray Serve with its default of two ongoing requests a replica, whatever a replica can do."""

    @property
    def target_ongoing_requests(self) -> float:
        return 2.0


class KubernetesHpa(Baseline):
    """HPA v2 on requests per second of the service, every 15 s: a 30 s mean 15 s late. Never below one pod."""

    def desired(self, state: History, seen: Observation, planned: int) -> tuple[int, History]:
        state = replace(state, samples=(*state.samples, seen.arrivals_rps or 0.0)[-45:])
        if state.seconds % 15:
            return planned, state
        wanted = self.wanted(self.mean_rps(state), seen, planned)
        state = replace(state, recommended=(*state.recommended, wanted)[-20:])  # 300 s of them
        return max(1, hpa_normalised(wanted, planned, state.recommended)), state

    def mean_rps(self, state: History) -> float:
        window = state.samples[:-15][-30:] or state.samples[:1]
        return sum(window) / len(window)

    def wanted(self, mean_rps: float, seen: Observation, planned: int) -> int:
        return hpa_average_value(mean_rps, planned, self.target_rps)


class KubernetesHpaPods(KubernetesHpa):
    """HPA v2 on the requests per second that each ready pod serves, which a queue cannot raise beyond its capacity."""

    def wanted(self, mean_rps: float, seen: Observation, planned: int) -> int:
        ready = seen.ready or 0
        served = min(mean_rps, ready * self.params.capacity_rps)
        values = [served / ready] * ready if ready else []
        return hpa_pods_metric(values, self.target_rps, missing=planned - ready)


class Keda(KubernetesHpa):
    """KEDA around HPA: active or not every 30 s; from 0 to 1 when active, to 0 after 300 s without.

    https://keda.sh/docs/latest/reference/scaledobject-spec/: `pollingInterval`, `cooldownPeriod`.
    """

    def desired(self, state: History, seen: Observation, planned: int) -> tuple[int, History]:
        count, state = super().desired(state, seen, planned)
        if state.seconds % 30:
            return (count if planned else 0), state
        if self.mean_rps(state) > 0.0:
            return (count if planned else 1), replace(state, last_active=state.seconds)
        idle = self.params.min_instances == 0 and state.seconds - state.last_active > 300
        return (0 if idle or not planned else count), state


BASELINES: dict[str, type[Baseline]] = {
    "fixed peak": FixedPeak,
    "Knative KPA (concurrency)": KnativeConcurrency,
    "Knative KPA (rps)": KnativeRps,
    "Ray Serve default": RayServe,
    "Kubernetes HPA": KubernetesHpa,
}

EXTRA_BASELINES: dict[str, type[Baseline]] = {
    "Ray Serve (target 2)": RayServeTarget2,
    "Kubernetes HPA (pods)": KubernetesHpaPods,
    "KEDA": Keda,
}
"""Variants: a default that knows nothing of the function, another kind of metric, and scaling to zero."""
