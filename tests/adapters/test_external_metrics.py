"""An autoscaler that is told our target follows it: against the autoscaler's own rule, from Kubernetes' code."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.adapters.kubernetes import external_metric_list, external_metric_value, horizontal_pod_autoscaler
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import ScalingDecision, ScalingReason
from dilu_core.errors import InvalidArgumentError
from tests.adapters.hosts_in_memory import autoscaler

PARAMS = HorizontalParams(10.0, 300, 600, min_instances=2, max_instances=40)


def test_the_value_is_the_target_as_a_quantity() -> None:
    """The fields of ExternalMetricValue; the time in RFC 3339, in UTC."""
    decision = ScalingDecision(7, 2, ScalingReason.LOAD)
    assert external_metric_value(decision, time_s=1_700_000_000.9, labels={"function": "f"}) == {
        "metricName": "dilu-instances",
        "metricLabels": {"function": "f"},
        "timestamp": "2023-11-14T22:13:20Z",
        "value": "7",
    }


def test_what_is_not_known_is_no_value_and_moves_nothing() -> None:
    """No item; the autoscaler fails on an empty list, and holds."""
    value = external_metric_value(ScalingDecision(None, 0, ScalingReason.NO_DATA), time_s=0.0)
    assert value is None
    values = external_metric_list(value)
    assert (values["kind"], values["items"]) == ("ExternalMetricValueList", [])
    assert autoscaler(values, 5, 0.1) is None


@given(st.integers(0, 200), st.integers(0, 200))
def test_without_a_tolerance_the_autoscaler_follows_exactly(target: int, pods: int) -> None:
    """Also to and from zero."""
    values = external_metric_list(external_metric_value(target, time_s=0.0))
    assert autoscaler(values, pods, 0.0) == target


@given(st.integers(0, 200), st.integers(0, 200))
def test_with_a_tolerance_a_scale_out_is_never_missed(target: int, pods: int) -> None:
    """Told of the pods there are, it gets at least the target, and at most a tenth (rounded up) more than there are."""
    values = external_metric_list(external_metric_value(target, time_s=0.0, current=pods))
    reached = autoscaler(values, pods, 0.1)
    assert reached is not None
    assert reached >= target
    assert reached <= max(target, math.floor(1.1 * pods + 1e-9) + 1)


def test_the_tolerance_would_swallow_a_step() -> None:
    """Why `current` exists: 11 instead of 10 is ignored, 12 is not."""
    ignored = external_metric_list(external_metric_value(11, time_s=0.0))
    assert autoscaler(ignored, 10, 0.1 + 1e-12) == 10
    assert external_metric_value(11, time_s=0.0, current=10) == external_metric_value(12, time_s=0.0)


def test_the_manifest_adds_no_delay() -> None:
    """Neither direction is stabilised, a change may be as large as the fleet, bounds are the policy's."""
    spec = horizontal_pod_autoscaler("f", PARAMS, deployment="f", labels={"function": "f"}, tolerance=0.0)["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 40)
    rules = spec["behavior"]["scaleDown"]
    assert (rules["stabilizationWindowSeconds"], rules["tolerance"]) == (0, "0")
    assert rules["policies"] == [{"type": "Pods", "value": 40, "periodSeconds": 1}]
    external = spec["metrics"][0]["external"]
    assert external["target"] == {"type": "AverageValue", "averageValue": "1"}
    assert external["metric"]["selector"] == {"matchLabels": {"function": "f"}}
    plain = horizontal_pod_autoscaler("f", PARAMS, deployment="f")["spec"]
    assert "tolerance" not in plain["behavior"]["scaleUp"]
    assert "selector" not in plain["metrics"][0]["external"]["metric"]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: external_metric_value(-1, time_s=0.0), "target is -1"),
        (lambda: external_metric_value(1, time_s=math.nan), "time_s is nan"),
        (lambda: external_metric_value(1, time_s=0.0, current=-1), "current is -1"),
        (lambda: external_metric_value(1, time_s=0.0, tolerance=2.0), "tolerance is 2.0"),
        (lambda: external_metric_value(1, time_s=0.0, labels=5), "labels is 5"),  # type: ignore[arg-type]
        (lambda: external_metric_value(None, time_s=0.0, labels={"a": 5}), r"labels\['a'\] is 5"),  # type: ignore[dict-item]
        (lambda: external_metric_list(5), r"values\[0\] is 5"),  # type: ignore[arg-type]
        (lambda: horizontal_pod_autoscaler("f", 3, deployment="f"), "params is 3"),  # type: ignore[arg-type]
        (lambda: horizontal_pod_autoscaler("f", PARAMS, deployment="f", labels=5), "labels is 5"),  # type: ignore[arg-type]
        (lambda: horizontal_pod_autoscaler("f", PARAMS, deployment="f", labels={5: "a"}), "labels key is 5"),  # type: ignore[dict-item]
    ],
)
def test_bad_arguments_are_named(action: Any, message: str) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidArgumentError, match=message):
        action()
