"""Serve policies that were told nonsense: they say so, hold, and go on as soon as they can."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core import InvalidArgumentError
from dilu_core.adapters import ray_serve_memory
from dilu_core.adapters.ray_serve import (
    ServeAppPolicy,
    ServePolicy,
    application_policy,
    autoscaling_config,
    serve_policy_state,
    snapshot,
)
from tests.adapters.serve_contexts import PARAMS, context, reported

APPLICATION = {name: {"params": PARAMS.to_dict(), "remember": False} for name in "AB"}


def decided(policy: ServePolicy, state: dict[str, Any], seconds: int = 3, load: float = 45.0) -> tuple[int, Any]:
    """What the policy answers when Serve asks it once a second under that load."""
    replicas = 1
    for second in range(seconds):
        now = 1000.0 + second
        replicas, state = policy(context(current_time=now, raw_metrics=reported(now, [load]), policy_state=state))
    return replicas, state


def good_entry() -> dict[str, Any]:
    """Our entry in the state of a policy that has decided twice."""
    _, state = ServePolicy(PARAMS.to_dict(), remember=False)(context(current_time=990.0))
    found: dict[str, Any] = json.loads(json.dumps(state["dilu_core"]))
    return found


GARBAGE = st.sampled_from([None, "x", 5, -1.0, math.nan, [], {}, {"inner": 3}, {"version": 1}, [[]], 10**400, True])


@given(data=st.data())
def test_an_entry_that_cannot_be_read_is_begun_anew(data: st.DataObject) -> None:
    """Whatever part of the remembered entry is damaged or gone, three decisions later the policy scales again."""
    entry = copy.deepcopy(good_entry())
    for part in data.draw(st.sets(st.sampled_from(sorted(entry)), min_size=1)):
        if data.draw(st.booleans()):
            entry[part] = data.draw(GARBAGE)
        else:
            del entry[part]
    replicas, state = decided(ServePolicy(PARAMS.to_dict(), remember=False), {"dilu_core": entry})
    assert replicas == 5
    assert serve_policy_state(state)["decision"]["reason"] == "load"  # type: ignore[index]


@pytest.mark.parametrize("state", [None, 5, [], {"dilu_core": None}, {"dilu_core": {"version": 1}}])
def test_a_policy_state_that_is_none_is_begun_anew(state: Any) -> None:
    """Serve's own state may be anything but ours."""
    assert decided(ServePolicy(PARAMS.to_dict(), remember=False), state)[0] == 5
    assert serve_policy_state(state) is None


def test_a_wish_that_cannot_be_read_holds_until_the_next_decision() -> None:
    """Between two decisions the wish is all that is read; the present target stands where it is no count."""
    entry = {**good_entry(), "wanted": "many", "target": 1, "decided_s": 1000.0}
    policy = ServePolicy(PARAMS.to_dict(), remember=False)
    assert policy(context(current_time=1000.5, policy_state={"dilu_core": entry}))[0] == 1


@pytest.mark.parametrize("kept", [b"{", b"[" * 100_000, b"\xff", b"7", b'{"state": 3}'])
def test_a_snapshot_that_cannot_be_read_is_none(kept: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another version, or nobody, put into the cluster's store is no memory."""
    store = SimpleNamespace(_internal_kv_get=lambda key, namespace: kept, _internal_kv_put=lambda *a, **k: None)
    monkeypatch.setattr(ray_serve_memory, "_store", lambda: store)
    assert snapshot("app", "Model") is None
    assert decided(ServePolicy(PARAMS.to_dict()), {})[0] == 5


@pytest.mark.parametrize("period", ["x", 0, -1.0, math.nan, None, True])
def test_a_period_that_is_none_is_a_fault(period: Any) -> None:
    """In Serve's controller the deployment is held and the fault says why; where it is configured, it is refused."""
    policy = ServePolicy(PARAMS.to_dict(), period_s=period)
    assert policy.fault is not None
    assert "period_s" in policy.fault
    assert policy(context(target_num_replicas=4))[0] == 4
    for configure in (autoscaling_config, lambda params, **k: application_policy({"A": params}, **k)):
        with pytest.raises(InvalidArgumentError, match="period_s"):
            configure(PARAMS, period_s=period)


def answers(policy: Any, names: str, *, load: float, **known: Any) -> Iterator[dict[str, int]]:
    """What an application's policy answers when Serve asks it three times, once a second, under that load each."""
    states: dict[str, Any] = {name: {} for name in names}
    for now in (1000.0, 1001.0, 1002.0):
        told = {"current_time": now, "raw_metrics": reported(now, [load]), **known}
        contexts = {name: context(deployment_name=name, policy_state=states[name], **told) for name in names}
        counts, states = policy(contexts)
        yield counts


@pytest.mark.parametrize("budget", ["600", math.nan, 0, -5, 2.5, True, [], pytest.param(10**400, id="huge")])
def test_a_budget_that_is_none_holds_the_application(budget: Any) -> None:
    """Without its budget an application would outgrow it: no deployment moves, and the fault names the budget."""
    policy = ServeAppPolicy(APPLICATION, budget_milli=budget)
    assert policy.fault is not None
    assert "budget_milli" in policy.fault
    assert list(answers(policy, "AB", load=95.0, target_num_replicas=2)) == [{"A": 2, "B": 2}] * 3
    with pytest.raises(InvalidArgumentError, match="budget_milli"):
        application_policy({"A": PARAMS}, budget_milli=budget)


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        (ServePolicy(PARAMS.to_dict(), perod_s=1.0), "perod_s"),
        (ServeAppPolicy(APPLICATION, budget_mili=600), "budget_mili"),
        (ServeAppPolicy(), "deployments is None"),
        (ServeAppPolicy([APPLICATION]), "deployments is "),  # type: ignore[arg-type]
        (ServeAppPolicy({"A": 5}), "TypeError"),  # type: ignore[dict-item]
    ],
)
def test_what_a_config_file_misspells_is_a_fault(policy: Any, named: str) -> None:
    """Serve makes the object out of whatever stands in a file, where nobody can be told but by the log."""
    assert named in policy.fault


class UnspeakableError(Exception):
    """An error of the user's that raises where it is printed."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def unspeakable(**arguments: object) -> Any:
    raise UnspeakableError


def test_an_error_that_cannot_be_printed_is_a_fault_like_any_other() -> None:
    """Its type is what can be said of it."""
    policy = ServePolicy(policy=f"{__name__}:unspeakable")
    assert policy.fault == "UnspeakableError"
    assert policy(context(target_num_replicas=4)) == (4, {})


def test_what_is_wrong_with_one_deployment_holds_all_or_that_one() -> None:
    """A policy that cannot be made holds its own deployment; what an instance costs concerns all of them."""
    wrong_cost = ServeAppPolicy({**APPLICATION, "C": {**APPLICATION["A"], "gpu_milli": "x"}})
    wrong_policy = ServeAppPolicy({**APPLICATION, "C": {"params": {}}})
    for policy, count in ((wrong_cost, 1), (wrong_policy, 5)):
        assert policy.fault is not None
        *_, counts = answers(policy, "AC", load=45.0)
        assert counts == {"A": count, "C": 1}


@pytest.mark.parametrize("contexts", [None, 5, [], "AB", object()])
def test_contexts_that_are_none_get_no_answers(contexts: Any) -> None:
    """Serve's controller is never raised at."""
    assert ServeAppPolicy(APPLICATION, budget_milli=600)(contexts) == ({}, {})


def test_an_application_that_cannot_be_decided_keeps_what_it_remembers() -> None:
    """One context without a name holds every deployment at its target, and their entries stay."""
    policy, entry = ServeAppPolicy(APPLICATION, budget_milli=900), good_entry()
    odd = context(deployment_name="B", target_num_replicas=3)
    del odd.deployment_name
    counts, states = policy({"a": context(deployment_name="A", policy_state={"dilu_core": entry}), "b": odd})
    assert counts == {"a": 1, "b": 3}
    assert states["a"]["dilu_core"]["state"] == entry["state"]
    assert states["a"]["dilu_core"]["decision"]["reason"] == "policy-failed"


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: autoscaling_config(PARAMS, arguments=5), "arguments is 5"),  # type: ignore[arg-type]
        (lambda: autoscaling_config(PARAMS, initial_state=5), "initial_state is 5"),  # type: ignore[arg-type]
        (lambda: autoscaling_config(PARAMS, remember=1), "remember is 1"),  # type: ignore[arg-type]
        (lambda: application_policy(None), "deployments is None"),  # type: ignore[arg-type]
        (lambda: application_policy([PARAMS]), "deployments is "),  # type: ignore[arg-type]
        (lambda: application_policy({3: PARAMS}), r"deployments\[0\] is 3"),  # type: ignore[dict-item]
        (lambda: application_policy({"A": 3}), r"deployments\[0\] is 3"),  # type: ignore[dict-item]
        (lambda: application_policy({"A": PARAMS}, remember="no"), "remember is 'no'"),
        (lambda: application_policy({"A": PARAMS}, speed=3), "arguments make no policy"),
    ],
)
def test_bad_arguments_are_named(action: Any, message: str) -> None:
    """Where the configuration is written there is time to be told."""
    with pytest.raises(InvalidArgumentError, match=message):
        action()
