"""The audit log is a value: bounded, appended to without change in place, and JSON whatever the decisions hold."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from dilu_core.coscaling.audit import AuditLog, plain
from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams, HorizontalState
from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason
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


def test_readings_that_cannot_be_printed_do_not_stop_the_log():
    """Long integers, lists within themselves or nested deep, and objects that fail at everything become some text."""
    circle: list[Any] = [1, 2, 3]
    circle += [circle] * 3
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    odd = {"long": 10**5000, "long too": -(10**700), "circle": circle, "deep": deep, "mute": Mute(), Mute(): 1, "x": 5}
    for decision in (
        audited(odd),
        ScalingDecision(1, 0, ScalingReason.STEADY, inputs=Observation(10**5000, *[deep] * 3)),
    ):
        (record,) = AuditLog().append(decision)
        assert record["reason"] == "steady"
    (record,) = AuditLog().append(audited(odd))
    assert (record["long"], record["mute"], record["<Mute>"], record["x"]) == ("<int>", "<Mute>", 1, 5)
    assert record["long too"] == str(-(10**700))
    assert record["circle"] == [1, 2, 3] + [str(circle)] * 3
    assert AuditLog(AuditLog().append(decision).lines).append(decision).lines[0] == AuditLog().append(decision).lines[0]


def test_an_audit_does_not_speak_for_the_log():
    """The function is that of the log and the figures are those of the decision, whatever the audit calls its own."""

    class Key:
        def __str__(self):
            return "function"

    odd = {"function": "other", Key(): "another", "change": 9, "stage": "enforce"}
    (record,) = AuditLog().append(audited(odd), function="serve")
    assert (record["function"], record["change"], record["stage"]) == ("serve", 0, "enforce")
    assert next(iter(record)) == "function"


def audited(audit: Any) -> ScalingDecision:
    return ScalingDecision(1, 0, ScalingReason.STEADY, audit=audit)


def anything(value: Any) -> Any:
    """`value`, hidden from type checkers that would refuse the misuse under test."""
    return value


class Mute:
    """Fails at whatever it is asked."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")


class Locked(dict):  # type: ignore[type-arg]
    """A mapping that does not tell what is in it."""

    def items(self) -> Any:
        raise OSError("no")


def test_misuse_is_refused_by_name():
    """Capacity, lines and decision are checked."""
    odd: Any = 3
    for make, named in (
        (lambda: AuditLog(capacity=0), "capacity"),
        (lambda: AuditLog(("{}",) * 2, capacity=1), "lines"),
        (lambda: AuditLog(dropped=-1), "dropped"),
        (lambda: AuditLog().append(odd), "decision is 3"),
        (lambda: AuditLog().append(HOLD, function=odd), "function"),
        (lambda: AuditLog().append(audited(odd)), "decision.audit is 3"),
        (lambda: AuditLog().append(audited([1, 2])), "decision.audit is"),
        (lambda: AuditLog().append(audited(Locked())), "decision.audit is"),
        (lambda: AuditLog(("{}", "{bad")), r"lines\[1\] is '{bad'"),
        (lambda: AuditLog(("[]",)), r"lines\[0\]"),
        (lambda: AuditLog(("{}\n",)), r"lines\[0\]"),
        (lambda: AuditLog(('{"a": NaN}',)), r"lines\[0\]"),
        (lambda: AuditLog(("[" * 100_000,)), r"lines\[0\]"),
        (lambda: AuditLog((odd,)), r"lines\[0\] is 3"),
        (lambda: AuditLog().write_jsonl(odd), "path is 3"),
        (lambda: AuditLog().write_jsonl(anything(None)), "path is None"),
        (lambda: AuditLog().write_jsonl("a\0b"), "path is"),
    ):
        with pytest.raises(InvalidArgumentError, match=named):
            make()
