"""The log of a solve: what it keeps, when it speaks, and its round trip."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.progress import ProgressEvent, ProgressLog, progress_events, status_line


def test_changes_and_the_latest_time_are_kept() -> None:
    """Of equal reports in a row the first and the last stay, so that a curve has its steps and its end."""
    log = ProgressLog()
    for second, incumbent in enumerate([12, 12, 12, 11, 11, 10]):
        log(incumbent, 9, float(second))
    assert [(each.elapsed_s, each.incumbent) for each in log.events] == [(0, 12), (2, 12), (3, 11), (4, 11), (5, 10)]


@pytest.mark.parametrize(
    ("incumbent", "bound", "gap"),
    [(11, 10, 0.1), (10, 10, 0.0), (9, 10, 0.0), (None, 10, None), (10, None, None), (1, 0, None), (0, 0, 0.0)],
)
def test_the_gap_is_relative_to_the_bound(incumbent: float | None, bound: float | None, gap: float | None) -> None:
    """(incumbent - bound) / bound where both are known."""
    assert ProgressEvent(0.0, incumbent, bound).gap == (gap if gap is None else pytest.approx(gap))


def test_lines_go_out_at_changes_and_not_too_often() -> None:
    """Nothing is said twice, and at most once a second of the solver's clock."""
    lines: list[str] = []
    log = ProgressLog(lines.append)
    for incumbent, seconds in ((None, 0.0), (12, 0.5), (11, 1.0), (11, 5.0), (10, 6.0)):
        log(incumbent, 10, seconds)
    assert [line.split()[0] for line in lines] == ["0.0", "1.0", "6.0"]
    assert "incumbent 11, bound 10, gap 10.00%" in lines[1]
    assert "incumbent none" in lines[0]
    assert status_line(ProgressEvent(2.0, 3.0, None)).endswith("incumbent 3, bound none")


number = st.none() | st.integers(0, 100) | st.floats(0, 1e9)


@given(st.lists(st.tuples(number, number, st.floats(0, 1e6)), max_size=20).map(lambda x: sorted(x, key=lambda e: e[2])))
def test_a_log_survives_json(reports: list[tuple[Any, Any, float]]) -> None:
    """The events read back are the events written, and what was last reported is last."""
    log = ProgressLog(interval_s=2.0)
    for report in reports:
        log(*report)
    read = ProgressLog.from_dict(json.loads(json.dumps(log.to_dict())))
    assert read == log
    if reports:
        assert log.events[-1] == ProgressEvent(reports[-1][2], *reports[-1][:2])


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (3, "progress is 3"),
        ([(1.0, 2.0)], r"progress\[0\]"),
        ([(1.0, 2.0, float("nan"))], r"progress\[0\]"),
        ([(2.0, 1.0, 1.0), (1.0, 1.0, 1.0)], r"progress\[1\]"),
    ],
)
def test_what_is_no_course_of_a_solve_is_refused(events: Any, message: str) -> None:
    """The error names the event."""
    with pytest.raises(InvalidArgumentError, match=message):
        progress_events("progress", events)


def test_bad_arguments_of_the_log_are_named() -> None:
    """A `write` that cannot be called, and reports that are no numbers."""
    with pytest.raises(InvalidArgumentError, match="write"):
        ProgressLog(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="incumbent"):
        ProgressLog()(float("nan"), None, 0.0)
    with pytest.raises(InvalidArgumentError, match="seconds"):
        ProgressLog()(1, None, -1.0)
