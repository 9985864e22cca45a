"""A target number of instances as an external metric that a HorizontalPodAutoscaler follows.

The metric's value is the target and the autoscaler's target is an average of 1 per pod, so that it computes
ceil(value / 1) pods. Sources: ExternalMetricValueList,
https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/metrics/pkg/apis/external_metrics/v1beta1/types.go;
how it is used, GetExternalPerPodMetricReplicas in pkg/controller/podautoscaler/replica_calculator.go;
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dilu_core import _checks as check
from dilu_core.adapters.manifests import strings
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import ScalingDecision

METRIC_NAME = "dilu-instances"
TOLERANCE = 0.1
"""The autoscaler leaves the pods as they are while the metric is within this part of them."""

_MOST_INSTANCES = 2**31 - 1


def target_of(target: ScalingDecision | int | None) -> int | None:
    """How many instances should exist, by a decision or as a number; `None`: not known."""
    number = target.instances if isinstance(target, ScalingDecision) else target
    return None if number is None else check.integer("target", number, at_least=0, at_most=_MOST_INSTANCES)


def external_metric_value(
    target: ScalingDecision | int | None,
    *,
    time_s: float,
    metric_name: str = METRIC_NAME,
    labels: Mapping[str, str] | None = None,
    current: int | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, Any] | None:
    """An ExternalMetricValue whose value is the target, or `None` where that is not known.

    `time_s` is the Unix time of the decision. The autoscaler ignores a value within `tolerance` of the pods there are:
    11 instead of 10 would never come about. With `current`, the pods there are, a scale-out that would be ignored asks
    for the fewest pods that are not; a scale-in that is ignored only costs. Where the cluster lets an autoscaler have
    a tolerance of 0 (`horizontal_pod_autoscaler`), leave `current` out.

    Raises `InvalidArgumentError` naming the argument.
    """
    instances = target_of(target)
    when = check.finite("time_s", time_s, at_least=0.0, at_most=2.0**37)
    check.text("metric_name", metric_name)
    tags = strings("labels", labels)
    if instances is None:
        return None
    instances = beyond_tolerance(instances, current, tolerance)
    stamp = datetime.fromtimestamp(math.floor(when), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "metricName": metric_name,
        "metricLabels": tags,
        "timestamp": stamp,
        "value": str(instances),
    }


def beyond_tolerance(instances: int, current: int | None, tolerance: float) -> int:
    """What to tell an autoscaler that has `current` pods: more, where it would ignore a scale-out to `instances`."""
    margin = check.finite("tolerance", tolerance, at_least=0.0, at_most=1.0)
    if current is None or not instances > check.integer("current", current, at_least=0) > 0:
        return instances
    return max(instances, math.floor(current * (1.0 + margin) + 1e-9) + 1)


def external_metric_list(*values: dict[str, Any] | None) -> dict[str, Any]:
    """An ExternalMetricValueList of the values that are known.

    An empty list is an error to the autoscaler, which then leaves the pods as they are: just what "not known" means.
    """
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, Mapping):
            check.fail(f"values[{i}]", f"is {value!r:.80}; expected what external_metric_value gives.")
    return {
        "kind": "ExternalMetricValueList",
        "apiVersion": "external.metrics.k8s.io/v1beta1",
        "metadata": {},
        "items": [value for value in values if value is not None],
    }


def horizontal_pod_autoscaler(
    name: str,
    params: HorizontalParams,
    *,
    deployment: str,
    namespace: str = "default",
    metric_name: str = METRIC_NAME,
    labels: Mapping[str, str] | None = None,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """The manifest of an autoscaler (autoscaling/v2) that carries decisions out and adds no delay of its own.

    The policy holds peaks and cools down itself, so neither direction is stabilised, and any change goes through at
    once. `tolerance` needs the feature HPAConfigurableTolerance (KEP-4951; Kubernetes 1.33); 0 follows every change.
    `min_instances` of 0 needs HPAScaleToZero; without it use KEDA, or at least 1.
    """
    if not isinstance(params, HorizontalParams):
        check.fail("params", f"is {params!r:.80}; expected HorizontalParams.")
    rules: dict[str, Any] = {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": params.max_instances, "periodSeconds": 1}],
    }
    if tolerance is not None:
        rules["tolerance"] = f"{check.finite('tolerance', tolerance, at_least=0.0):g}"
    metric: dict[str, Any] = {"name": check.text("metric_name", metric_name)}
    tags = strings("labels", labels)
    if tags:
        metric["selector"] = {"matchLabels": tags}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": check.text("name", name), "namespace": check.text("namespace", namespace)},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": check.text("deployment", deployment),
            },
            "minReplicas": params.min_instances,
            "maxReplicas": params.max_instances,
            "metrics": [
                {
                    "type": "External",
                    "external": {"metric": metric, "target": {"type": "AverageValue", "averageValue": "1"}},
                }
            ],
            "behavior": {"scaleUp": dict(rules), "scaleDown": dict(rules)},
        },
    }
