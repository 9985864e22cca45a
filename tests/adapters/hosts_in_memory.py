"""Serve, KEDA and the horizontal pod autoscaler in memory, with our adapters between them and a decision."""

from __future__ import annotations

import math
from typing import Any

from dilu_core.adapters import keda
from dilu_core.adapters.external_metrics import external_metric_list, external_metric_value
from dilu_core.adapters.keda import ScalerView
from dilu_core.adapters.ray_serve import ReplicaMetrics, ServePolicy
from dilu_core.adapters.ray_serve_observation import observe
from dilu_core.coscaling.policy import Observation, ScalingDecision
from dilu_core.testing import SimulatedHost
from tests.adapters.serve_contexts import context, series

STEP_S = 0.5


def autoscaler(values: dict[str, Any], pods: int, tolerance: float) -> int | None:
    """GetExternalPerPodMetricReplicas with a target of 1: `None` is an error, on which nothing changes."""
    if not values["items"]:
        return None
    total = sum(int(item["value"]) for item in values["items"])
    ratio = total / pods if pods else (math.inf if total else math.nan)
    return math.ceil(total) if abs(1.0 - ratio) > tolerance else pods


class AutoscaledPods(SimulatedHost):
    """Pods of an autoscaler that follows our external metric, at the tolerance that it has by default."""

    def apply(self, decision: ScalingDecision) -> None:
        value = external_metric_value(decision, time_s=self.now_s, current=self.planned)
        self._follow(autoscaler(external_metric_list(value), self.planned, 0.1), decision)

    def _follow(self, pods: int | None, decision: ScalingDecision) -> None:
        if pods is not None:
            super().apply(ScalingDecision(pods, pods - self.planned, decision.reason))


class KedaPods(AutoscaledPods):
    """Pods that KEDA activates, and that its autoscaler scales from one on."""

    def __init__(self) -> None:
        super().__init__()
        self.view = ScalerView()

    def apply(self, decision: ScalingDecision) -> None:
        self.view = ScalerView.from_dict(keda.next_view(self.view, decision).to_dict())
        values = keda.get_metrics(self.view, current=self.planned)["metricValues"]
        items = {"items": [{"value": each["metricValue"]} for each in values]}
        pods = max(1, autoscaler(items, self.planned, 0.1) or self.planned)
        self._follow(pods if keda.is_active(self.view)["result"] else 0, decision)


class Told:
    """A policy that decides what it was told, whatever it observes."""

    decision: Any = None

    def initial_state(self) -> int:
        return 0

    def decide(self, state: int, observation: Observation) -> tuple[ScalingDecision, int]:
        return self.decision, state


class Replica:
    """Counts its requests, and what it has reported of itself."""

    def __init__(self, host: ServeDeployment) -> None:
        self.metrics = ReplicaMetrics(clock=lambda: host.now_s)
        self.reports: dict[str, list[tuple[float, float]]] = {}


class ServeDeployment:
    """One deployment of a Serve that carries out at once what a `ServePolicy` answers; launches take 5 s."""

    def __init__(self) -> None:
        self.policy = ServePolicy(policy=f"{__name__}:Told", remember=False)
        self.state: dict[str, Any] = {}
        self.now_s, self.load_rps, self.target, self.silent = 1000.0, 0.0, 1, False
        self.replicas, self.due_s = [Replica(self)], list[float]()
        self._owed = 0.0

    def offer(self, load_rps: float | None) -> None:
        """So much load from now on; `None`: the replicas report nothing."""
        self.silent = load_rps is None
        if load_rps is not None:
            self.load_rps = load_rps

    def advance(self, seconds: float) -> None:
        """Requests arrive in turn at all replicas; these report after every step."""
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            self.replicas += [Replica(self) for at in self.due_s if at <= self.now_s]
            self.due_s = [at for at in self.due_s if at > self.now_s]
            self._owed += self.load_rps * STEP_S
            for i in range(int(self._owed)):
                with self.replicas[i % len(self.replicas)].metrics.request():
                    pass
            self._owed %= 1.0
            for replica in [] if self.silent else self.replicas:
                for key, value in replica.metrics.stats().items():
                    replica.reports.setdefault(key, []).append((self.now_s, value))

    def observe(self) -> Observation:
        return observe(self._context(), window_s=1.0, queued_before=None, elapsed_s=None)

    def apply(self, decision: ScalingDecision) -> None:
        """Serve asks the policy again and again, whether it has decided anew or not."""
        Told.decision = decision
        for _ in range(3):
            self.target, self.state = self.policy(self._context())
        self.replicas = self.replicas[: self.target]
        launches = max(0, self.target - len(self.replicas))
        self.due_s = (self.due_s + [self.now_s + 5.0] * launches)[:launches]

    def _context(self) -> Any:
        reports: dict[str, dict[str, Any]] = {}
        for i, replica in enumerate(self.replicas):
            for key, points in replica.reports.items():
                reports.setdefault(key, {})[f"r{i}"] = series(*points[-5:])
        return context(
            current_time=self.now_s,
            current_num_replicas=len(self.replicas),
            target_num_replicas=self.target,
            raw_metrics=reports,
            policy_state=self.state,
        )
