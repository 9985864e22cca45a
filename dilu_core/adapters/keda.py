"""KEDA's external scaler: what its four calls are answered, as plain values; the gRPC server is the host's.

KEDA itself takes a workload from 0 to its first instances and back to 0, by `IsActive`; between 1 and many the
autoscaler that KEDA makes follows the metric. Our metric is the target number of instances with a target size of 1
each. A host runs the policy at its own pace (every second, say), keeps the policy's state and the latest `ScalerView`,
and answers every call from that view: KEDA's calls come from several sides at irregular times, so none of them may
step the policy.

    view = next_view(view, decision)            # after each decision; ScalerView() at the start
    is_active(view), get_metric_spec(), get_metrics(view), stream_is_active(decisions)

The answers are the JSON form of the messages in
https://github.com/kedacore/keda/blob/main/pkg/scalers/externalscaler/externalscaler.proto, so that
`google.protobuf.json_format.ParseDict` fills them; their use: https://keda.sh/docs/latest/concepts/external-scalers/.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dilu_core import _checks as check
from dilu_core.adapters.external_metrics import METRIC_NAME, TOLERANCE, beyond_tolerance, target_of
from dilu_core.adapters.manifests import strings
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import ScalingDecision

_VERSION = 1
_MOST_POLLING_S = 2**31 - 1
"""`pollingInterval` is an int32."""


@dataclass(frozen=True)
class ScalerView:
    """What the scaler's answers come from; JSON-able.

    The latest known `target` of instances (`None`: none known yet), whether the latest decision knew it (`fresh`), and
    whether the workload should run at all (`active`).

    With nothing known it is active, as a workload that runs must not be taken to 0 because the scaler was restarted;
    for one that is known to be at 0, start with `ScalerView(active=False)`.
    """

    target: int | None = None
    fresh: bool = False
    active: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", target_of(self.target))
        object.__setattr__(self, "fresh", check.flag("fresh", self.fresh))
        object.__setattr__(self, "active", check.flag("active", self.active))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": _VERSION, "target": self.target, "fresh": self.fresh, "active": self.active}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScalerView:
        """The view `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("view", data, version=_VERSION)
        return check.build("view", document, cls, required=("target", "fresh", "active"))


def next_view(view: ScalerView, decision: ScalingDecision | int | None) -> ScalerView:
    """The view after `decision` (or the target itself; `None`: not known).

    A target above 0 activates, 0 deactivates, and one that is not known leaves the workload as it is.
    """
    _expect(view)
    target = target_of(decision)
    if target is None:
        return ScalerView(view.target, False, view.active)
    return ScalerView(target, True, target > 0)


def is_active(view: ScalerView) -> dict[str, bool]:
    """IsActiveResponse. KEDA scales from 0 at once where it is true, to 0 after `cooldownPeriod` where it is false."""
    return {"result": _expect(view).active}


def stream_is_active(
    decisions: Iterable[ScalingDecision | int | None], view: ScalerView | None = None
) -> Iterator[dict[str, bool]]:
    """The answers of StreamIsActive (an `external-push` trigger): one at once, then one at every change.

    With it, activation from zero waits for no polling interval. `decisions` is drawn from lazily, one at a time; the
    stream ends with it.
    """
    if not isinstance(decisions, Iterable):
        check.fail("decisions", f"is {decisions!r:.80}; expected an iterable of decisions.")
    return _activity(ScalerView() if view is None else _expect(view), decisions)


def get_metric_spec(metric_name: str = METRIC_NAME) -> dict[str, Any]:
    """GetMetricSpecResponse: one metric whose target is 1 per instance. KEDA before 2.17 reads `targetSize`."""
    return {
        "metricSpecs": [{"metricName": check.text("metric_name", metric_name), "targetSize": 1, "targetSizeFloat": 1.0}]
    }


def get_metrics(
    view: ScalerView, metric_name: str = METRIC_NAME, *, current: int | None = None, tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """GetMetricsResponse: the target number of instances; no value where the latest decision did not know it.

    Without a value the autoscaler leaves the instances as they are; KEDA's `fallback` does not step in, as that counts
    errors. `current` and `tolerance` as in `external_metric_value`.
    """
    check.text("metric_name", metric_name)
    if not _expect(view).fresh or view.target is None:
        return {"metricValues": []}
    instances = beyond_tolerance(view.target, current, tolerance)
    return {
        "metricValues": [{"metricName": metric_name, "metricValue": instances, "metricValueFloat": float(instances)}]
    }


def scaled_object(
    name: str,
    params: HorizontalParams,
    *,
    deployment: str,
    scaler_address: str,
    namespace: str = "default",
    push: bool = True,
    control_s: float = 1.0,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The manifest of a ScaledObject that adds no delay of its own to a policy with `params`.

    `push` uses StreamIsActive (`external-push`), else KEDA asks IsActive every `pollingInterval`: `control_s`, rounded
    up to whole seconds, in place of KEDA's 30. `cooldownPeriod` is 0 in place of 300, as the policy waits
    `zero_delay_s` itself. The autoscaler looks every 15 seconds all the same (--horizontal-pod-autoscaler-sync-period).
    Source: https://keda.sh/docs/latest/reference/scaledobject-spec/.
    """
    if not isinstance(params, HorizontalParams):
        check.fail("params", f"is {params!r:.80}; expected HorizontalParams.")
    rules = {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": params.max_instances, "periodSeconds": 1}],
    }
    trigger = {
        "type": "external-push" if check.flag("push", push) else "external",
        "metricType": "AverageValue",
        "metadata": {"scalerAddress": check.text("scaler_address", scaler_address), **strings("metadata", metadata)},
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": check.text("name", name), "namespace": check.text("namespace", namespace)},
        "spec": {
            "scaleTargetRef": {"name": check.text("deployment", deployment)},
            "pollingInterval": math.ceil(check.finite("control_s", control_s, above=0.0, at_most=_MOST_POLLING_S)),
            "cooldownPeriod": 0,
            "minReplicaCount": params.min_instances,
            "maxReplicaCount": params.max_instances,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": rules, "scaleDown": dict(rules)}}},
            "triggers": [trigger],
        },
    }


def _expect(view: ScalerView) -> ScalerView:
    if not isinstance(view, ScalerView):
        check.fail("view", f"is {view!r:.80}; expected a ScalerView.")
    return view


def _activity(current: ScalerView, decisions: Iterable[ScalingDecision | int | None]) -> Iterator[dict[str, bool]]:
    yield is_active(current)
    for decision in decisions:
        following = next_view(current, decision)
        if following.active != current.active:
            yield is_active(following)
        current = following
