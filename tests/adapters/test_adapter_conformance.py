"""Our adapters under our own conformance tests.

`HostConformance` asks for both directions of one function's fleet. Ray Serve has both: contexts are observed, answers
carried out. Kubernetes and KEDA are only told, so what is observed there is the fleet in memory itself. The scheduler
extender and the readers of pods and nodes scale nothing: neither class fits them.
"""

from __future__ import annotations

import json
from typing import Any

from dilu_core import HorizontalParams, Observation, ScalingDecision
from dilu_core.adapters.ray_serve import ServePolicy, autoscaling_config
from dilu_core.adapters.ray_serve_metrics import SPARE_MILLI
from dilu_core.coscaling.policy import ScalingReason, known_count, known_number
from dilu_core.testing import HostConformance, PolicyConformance
from tests.adapters.hosts_in_memory import AutoscaledPods, KedaPods, ServeDeployment
from tests.adapters.serve_contexts import context, reported, series


class TestAutoscaledPods(HostConformance):
    """Decisions as an external metric that a HorizontalPodAutoscaler follows."""

    def make_host(self) -> Any:
        return AutoscaledPods()

    def advance(self, host: Any, seconds: float) -> None:
        host.advance(seconds)

    def send(self, host: Any, load_rps: float) -> None:
        host.offer(load_rps)

    def silence(self, host: Any) -> None:
        host.offer(None)


class TestKedaPods(TestAutoscaledPods):
    """Decisions as the answers of KEDA's external scaler."""

    def make_host(self) -> Any:
        return KedaPods()


class TestServeDeployment(TestAutoscaledPods):
    """Contexts of Serve as observations, and decisions as a `ServePolicy` answers them."""

    def make_host(self) -> Any:
        return ServeDeployment()


class Served:
    """A `ServePolicy` as a policy: every observation becomes a context of Serve, and every answer a decision."""

    def __init__(self, params: HorizontalParams) -> None:
        keywords = autoscaling_config(params, remember=False)["policy"]["policy_kwargs"]
        self.params, self.policy = params, ServePolicy(**json.loads(json.dumps(keywords)))

    def initial_state(self) -> dict[str, Any]:
        return {}

    def decide(self, state: dict[str, Any], seen: Observation) -> tuple[ScalingDecision, dict[str, Any]]:
        ready, starting = known_count(seen.ready), known_count(seen.starting)
        target = None if ready is None or starting is None else ready + starting
        rate, reports = known_number(seen.arrivals_rps), {}
        if rate is not None and isinstance(seen.time_s, float | int):
            reports = reported(seen.time_s, [rate])
            if seen.spare_milli is not None:
                reports[SPARE_MILLI] = {"r0": series((seen.time_s, seen.spare_milli))}
        replicas, after = self.policy(
            context(
                current_time=seen.time_s,
                current_num_replicas=seen.ready,
                target_num_replicas=target,
                total_num_requests=seen.in_flight,
                raw_metrics=reports,
                policy_state=state,
                capacity_adjusted_min_replicas=self.params.min_instances,
                capacity_adjusted_max_replicas=self.params.max_instances,
            )
        )
        change = 0 if target is None else replicas - target
        return ScalingDecision(replicas, change, ScalingReason.LOAD), after


class TestServePolicy(PolicyConformance):
    """What `autoscaling_config` makes, asked as Serve's controller asks it."""

    def make_policy(self) -> Any:
        params = HorizontalParams(
            10.0, 300, 600, slo_ms=200.0, base_latency_ms=50.0, min_instances=0, max_instances=20, window_s=40
        )
        return Served(params)
