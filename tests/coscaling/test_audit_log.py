"""The audit log is a value: bounded, appended to without change in place, and JSON whatever the decisions hold."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams, HorizontalState
from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason
from dilu_core.coscaling.reports import AuditLog, plain
from dilu_core.coscaling.staged import StagedPolicy
from dilu_core.errors import InvalidArgumentError

HOLD = ScalingDecision(2, 0, ScalingReason.STEADY, "nothing\nto do")


def test_every_decision_is_one_line():
    """Decision and audit stand side by side; a line break in a text does not break the line."""
    policy, log = StagedPolicy(CoScaler(HorizontalParams(10.0, 300, 600)), "enforce"), AuditLog()
    state = policy.initial_state()
    for second in range(3):
        decision, state = policy.decide(state, Observation(float(second), 50.0, 1, 0))
        log = log.append(decision, function="serve")
    log = log.append(HOLD)
    assert len(log) == len(log.records()) == 4
    assert not any("\n" in line for line in log.records())
    first, *_, last = [json.loads(line) for line in log.records()]
    assert list(log) == [json.loads(line) for line in log.records()]
    assert (first["function"], first["time_s"], first["stage"]) == ("serve", 0.0, "enforce")
    assert (first["instances"], first["change"], first["reason"]) == (5, 4, "load")
    assert first["proposed"]["instances"] == 5
    for name, value in (("function", ""), ("instances", 2), ("reason", "steady"), ("clipped_by", None)):
        assert last[name] == value
    assert last["detail"] == "nothing\nto do"


def test_appending_changes_nothing_in_place_and_keeps_the_latest():
    """A full log lets its oldest line go and counts it; the logs before stay as they were."""
    logs = [AuditLog(capacity=3)]
    for i in range(5):
        logs.append(logs[-1].append(ScalingDecision(i, 0, ScalingReason.STEADY)))
    assert [len(log) for log in logs] == [0, 1, 2, 3, 3, 3]
    assert [log.dropped for log in logs] == [0, 0, 0, 0, 1, 2]
    assert [record["instances"] for record in logs[-1]] == [2, 3, 4]
    assert [record["instances"] for record in logs[3]] == [0, 1, 2]


def test_a_file_is_written_only_when_asked_for(tmp_path):
    """One record a line, in place of what was there."""
    log = AuditLog().append(HOLD).append(HOLD, function="ü")
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "audit.jsonl"
    path.write_text("old")
    log.write_jsonl(path)
    assert path.read_text(encoding="utf-8").splitlines() == list(log.records())


def test_whatever_stands_in_an_audit_becomes_strict_json():
    """NaN, numpy scalars, arrays, named tuples, sets and objects do not stop the log."""
    odd = {
        "nan": math.nan,
        "numpy": np.float64(2.5),
        "count": np.int64(3),
        "array": np.array([1.0]),
        "state": HorizontalState(time_s=1.0),
        "set": {1},
        "seen": Observation(1.0, None, 2, 0),
        3: [None, True, ("x", -math.inf)],
    }
    (line,) = AuditLog().append(ScalingDecision(1, 0, ScalingReason.STEADY, audit={"odd": odd})).records()
    found = json.loads(line)["odd"]
    assert (found["nan"], found["numpy"], found["count"]) == ("nan", 2.5, 3)
    assert found["3"] == [None, True, ["x", "-inf"]]
    assert (found["set"], found["state"]["time_s"]) == ("{1}", 1.0)
    assert (found["array"], found["seen"]["ready"]) == ("[1.]", 2)
    assert plain(np.array(math.inf)) == "inf"


def test_misuse_is_refused_by_name():
    """Capacity, lines and decision are checked."""
    odd: Any = 3
    for make, named in (
        (lambda: AuditLog(capacity=0), "capacity"),
        (lambda: AuditLog(("{}",) * 2, capacity=1), "lines"),
        (lambda: AuditLog(dropped=-1), "dropped"),
        (lambda: AuditLog().append(odd), "decision is 3"),
        (lambda: AuditLog().append(HOLD, function=odd), "function"),
    ):
        with pytest.raises(InvalidArgumentError, match=named):
            make()
