"""KEDA's external scaler: the answers of its four calls, activation, and what is not known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.adapters import keda
from dilu_core.adapters.keda import ScalerView, next_view
from dilu_core.coscaling.horizontal import CoScaler
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason
from dilu_core.errors import InvalidArgumentError

PARAMS = HorizontalParams(10.0, 300, 600, min_instances=0, max_instances=20, zero_delay_s=30.0)


def test_the_answers_are_the_messages_of_the_protocol() -> None:
    """Field names and types of externalscaler.proto; integers and floats agree."""
    view = next_view(ScalerView(), ScalingDecision(7, 2, ScalingReason.LOAD))
    assert keda.is_active(view) == {"result": True}
    assert keda.get_metric_spec() == {
        "metricSpecs": [{"metricName": "dilu-instances", "targetSize": 1, "targetSizeFloat": 1.0}]
    }
    assert keda.get_metrics(view) == {
        "metricValues": [{"metricName": "dilu-instances", "metricValue": 7, "metricValueFloat": 7.0}]
    }
    assert keda.get_metrics(next_view(view, 11), "m", current=10)["metricValues"][0]["metricValue"] == 12


def test_what_is_not_known_leaves_the_workload_as_it_is() -> None:
    """No metric value, and activity stays what it was: a restart takes nothing to zero, and starts nothing."""
    assert keda.is_active(ScalerView()) == {"result": True}
    assert keda.get_metrics(ScalerView()) == {"metricValues": []}
    running = next_view(ScalerView(), 3)
    lost = next_view(running, ScalingDecision(None, 0, ScalingReason.NO_DATA))
    assert (keda.is_active(lost), keda.get_metrics(lost)) == ({"result": True}, {"metricValues": []})
    idle = next_view(next_view(running, 0), None)
    assert keda.is_active(idle) == {"result": False}
    assert keda.get_metrics(next_view(lost, 0))["metricValues"][0]["metricValueFloat"] == 0.0


@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=20))
def test_the_stream_tells_every_change_of_activity_once(targets: list[int | None]) -> None:
    """The last answer is what IsActive would say, and no two neighbours are alike."""
    answers = [each["result"] for each in keda.stream_is_active(targets, ScalerView(active=False))]
    view = ScalerView(active=False)
    for target in targets:
        view = next_view(view, target)
    assert answers[0] is False
    assert answers[-1] == view.active
    assert all(a != b for a, b in pairwise(answers))


def test_the_stream_draws_decisions_one_at_a_time() -> None:
    """It answers at once, before the first decision, so that KEDA need not wait for one."""

    def decisions() -> Iterator[int]:
        yield 0
        raise AssertionError("nobody asked yet")

    stream = keda.stream_is_active(decisions())
    assert next(stream) == {"result": True}
    assert next(stream) == {"result": False}


def test_a_policy_wakes_the_workload_and_sends_it_to_sleep() -> None:
    """From zero on the first request, back to zero after the policy's own delay, all through the view."""
    policy = CoScaler(PARAMS)
    state, view, pods = policy.initial_state(), ScalerView(active=False), 0
    seen = []
    for second in range(200):
        busy = 5 <= second < 60
        observation = Observation(float(second), 5.0 if busy else 0.0, pods, 0, in_flight=1.0 if busy else 0.0)
        decision, state = policy.decide(state, observation)
        view = ScalerView.from_dict(json.loads(json.dumps(next_view(view, decision).to_dict())))
        values = keda.get_metrics(view)["metricValues"]
        if not keda.is_active(view)["result"]:
            pods = 0
        elif values:
            pods = max(1, values[0]["metricValue"])
        seen.append(pods)
    assert seen[4] == 0
    assert seen[5] >= 1
    assert seen[59] >= 1
    assert seen[-1] == 0
    assert 85 <= seen.index(0, 60) < 160


def test_the_scaled_object_adds_no_delay() -> None:
    """Polling at the policy's pace, no cool-down of KEDA's, no stabilisation, the policy's bounds."""
    spec = keda.scaled_object("f", PARAMS, deployment="d", scaler_address="dilu:9000", control_s=1.5)["spec"]
    assert (spec["pollingInterval"], spec["cooldownPeriod"]) == (2, 0)
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 20)
    (trigger,) = spec["triggers"]
    assert (trigger["type"], trigger["metricType"]) == ("external-push", "AverageValue")
    assert trigger["metadata"] == {"scalerAddress": "dilu:9000"}
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 0
    polled = keda.scaled_object("f", PARAMS, deployment="d", scaler_address="x:1", push=False, metadata={"k": "v"})
    assert polled["spec"]["triggers"][0]["type"] == "external"
    assert polled["spec"]["triggers"][0]["metadata"]["k"] == "v"


def scaled(**arguments: Any) -> dict[str, Any]:
    return keda.scaled_object("f", PARAMS, deployment="d", scaler_address="x", **arguments)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: next_view(None, 1), "view is None"),  # type: ignore[arg-type]
        (lambda: next_view(ScalerView(), -1), "target is -1"),
        (lambda: ScalerView.from_dict({"version": 1, "target": 1, "fresh": 1, "active": True}), "view.fresh"),
        (lambda: keda.scaled_object("f", PARAMS, deployment="d", scaler_address=""), "scaler_address is empty"),
        (lambda: keda.scaled_object("f", None, deployment="d", scaler_address="x"), "params is None"),  # type: ignore[arg-type]
        (lambda: keda.is_active(None), "view is None"),  # type: ignore[arg-type]
        (lambda: keda.get_metrics(None), "view is None"),  # type: ignore[arg-type]
        (lambda: keda.get_metric_spec(None), "metric_name is None"),  # type: ignore[arg-type]
        (lambda: keda.stream_is_active(None), "decisions is None"),  # type: ignore[arg-type]
        (lambda: keda.stream_is_active([], 5), "view is 5"),  # type: ignore[arg-type]
        (lambda: ScalerView(target="7"), "target is '7'"),  # type: ignore[arg-type]
        (lambda: ScalerView(target=-1), "target is -1"),
        (lambda: ScalerView(fresh=1), "fresh is 1"),  # type: ignore[arg-type]
        (lambda: ScalerView(active=None), "active is None"),  # type: ignore[arg-type]
        (lambda: scaled(control_s=1e300), "control_s is 1e"),
        (lambda: scaled(metadata=5), "metadata is 5"),
        (lambda: scaled(metadata={"tls": True}), r"metadata\['tls'\] is True"),
    ],
)
def test_bad_arguments_are_named(action: Any, message: str) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidArgumentError, match=message):
        action()
