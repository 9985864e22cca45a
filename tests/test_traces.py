"""Arrival traces hold what they were given, and say what is wrong with what they cannot hold."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import FileFormatError, InvalidArgumentError
from dilu_core.traces import ArrivalTrace, read_trace

NOTHING: Any = None
NAMELESS: Any = {"name": 3}
rates = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


@given(rates, st.floats(0.01, 100), st.text(max_size=5))
def test_a_trace_survives_json_and_pickle(values, period_s, name):
    """A round trip through JSON text or pickle is the identity."""
    trace = ArrivalTrace(values, period_s=period_s, name=name)
    assert ArrivalTrace.from_dict(json.loads(json.dumps(trace.to_dict()))) == trace
    assert pickle.loads(pickle.dumps(trace)) == trace
    assert len({trace, ArrivalTrace(values, period_s=period_s, name=name)}) == 1


@given(rates, st.integers(1, 70))
def test_the_peak_is_that_of_the_slow_definition(values, width):
    """peak_rps equals the greatest mean over every window, computed one by one."""
    trace = ArrivalTrace(values)
    width_used = min(width, len(values))
    slow = max(np.mean(values[i : i + width_used]) for i in range(len(values) - width_used + 1))
    assert trace.peak_rps(width) == pytest.approx(slow, rel=1e-9, abs=1e-6)
    assert trace.peak_rps() == max(values)


@given(rates, st.integers(-200, 200))
def test_shifting_keeps_every_arrival_and_can_be_undone(values, seconds):
    """A shift permutes the rates, and the opposite shift restores them."""
    trace = ArrivalTrace(values)
    assert sorted(trace.shifted(seconds).rates_rps) == sorted(values)
    assert trace.shifted(seconds).shifted(-seconds) == trace


@given(rates, st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.0, 7.0, 1000.0]))
def test_resampling_keeps_the_number_of_requests(values, period_s):
    """However the time is cut, as many requests arrive."""
    trace = ArrivalTrace(values)
    assert trace.resampled(period_s).requests == pytest.approx(trace.requests, rel=1e-9, abs=1e-6)


def test_a_poisson_draw_has_the_load_in_whole_requests():
    """Counts are whole, reproducible, and have the mean and the variance of their rates; silence stays silent."""
    trace = ArrivalTrace([0.0, 30.0, 0.0, 300.0], period_s=50.0, name="t")
    drawn = trace.poisson(3, period_s=0.1)
    counts = drawn.rates_rps * 0.1
    assert drawn == trace.poisson(3) != trace.poisson(4)
    assert (drawn.duration_s, drawn.name) == (pytest.approx(200.0), "t")
    assert counts == pytest.approx(np.round(counts))
    assert counts[:500].sum() == counts[1000:1500].sum() == 0.0
    for busy, mean in ((counts[500:1000], 3.0), (counts[1500:], 30.0)):
        assert busy.mean() == pytest.approx(mean, rel=0.1)
        assert busy.var() == pytest.approx(mean, rel=0.25)
    assert ArrivalTrace([1e15] * 20).poisson(1, period_s=1.0).rates_rps.max() <= 1e15
    with pytest.raises(InvalidArgumentError, match="seed"):
        trace.poisson(-1)
    with pytest.raises(InvalidArgumentError, match="period_s"):
        ArrivalTrace([1e15] * 3, period_s=100.0).poisson(1, period_s=100.0)


def test_slices_scales_and_constants():
    """A part of a trace, a multiple of it, and a constant one are what their names say."""
    trace = ArrivalTrace([1.0, 2.0, 3.0, 4.0], period_s=2.0, name="x")
    assert trace.duration_s == 8.0
    assert trace.mean_rps == 2.5
    assert trace.requests == 20.0
    assert trace.slice(2, 6) == ArrivalTrace([2.0, 3.0], period_s=2.0, name="x")
    assert trace.slice(4) == trace.slice(4, 1e6) == ArrivalTrace([3.0, 4.0], period_s=2.0, name="x")
    assert trace.scaled(2).rates_rps.tolist() == [2.0, 4.0, 6.0, 8.0]
    assert trace.resampled(2.0) is trace
    assert ArrivalTrace.constant(3.0, duration_s=4).rates_rps.tolist() == [3.0] * 4
    assert trace != "trace"
    with pytest.raises(ValueError, match="read-only"):
        trace.rates_rps[0] = 9.0


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ArrivalTrace([]), "rates_rps is empty"),
        (lambda: ArrivalTrace([1.0, -1.0]), r"rates_rps\[1\] is -1.0"),
        (lambda: ArrivalTrace([1.0, float("nan")]), r"rates_rps\[1\] is nan"),
        (lambda: ArrivalTrace([float("inf")]), r"rates_rps\[0\] is inf"),
        (lambda: ArrivalTrace([[1.0]]), "rates_rps has 2 dimensions"),
        (lambda: ArrivalTrace("abc"), "rates_rps"),
        (lambda: ArrivalTrace([1.0], period_s=0), "period_s"),
        (lambda: ArrivalTrace([1.0], **NAMELESS), "name"),
        (lambda: ArrivalTrace([1.0]).scaled(-1), "factor"),
        (lambda: ArrivalTrace([1.0]).slice(5), "start_s"),
        (lambda: ArrivalTrace([1.0]).peak_rps(0), "window_s"),
        (lambda: ArrivalTrace([1.0], period_s=1e-9).shifted(1e300), "seconds"),
        (lambda: ArrivalTrace.constant(-1, duration_s=1), "rate_rps"),
        (lambda: ArrivalTrace([1e308] * 20), r"rates_rps\[0\] is 1e\+308"),
        (lambda: ArrivalTrace([1.0], period_s=1e300), "period_s"),
        (lambda: ArrivalTrace([1.0, 1e10]).scaled(1e300), "factor"),
        (lambda: ArrivalTrace([1.0]).resampled(1e-12), "period_s"),
        (lambda: ArrivalTrace([1.0]).resampled(1e-320), "period_s"),
        (lambda: ArrivalTrace.constant(1, duration_s=1e18), "duration_s"),
        (lambda: ArrivalTrace.constant(1, duration_s=1e308, period_s=1e-10), "duration_s"),
        (lambda: read_trace(NOTHING), "path is None"),
        (lambda: read_trace("a\0b"), "path"),
        (lambda: ArrivalTrace.from_dict({}), "data"),
        (lambda: ArrivalTrace.from_dict({"version": 1, "name": ""}), "lacks rates_rps, period_s"),
        (lambda: ArrivalTrace.from_dict({"version": 1, "name": "", "rates_rps": None, "period_s": 1}), "rates_rps"),
    ],
)
def test_what_is_no_trace_is_refused_by_name(make, named):
    """Every bad argument is an InvalidArgumentError that names it."""
    with pytest.raises(InvalidArgumentError, match=named):
        make()


def test_a_file_is_read_line_by_line(tmp_path):
    """Blank lines and a byte order mark are skipped; the stem becomes the name."""
    path = tmp_path / "bürsty.txt"
    path.write_text("\ufeff1\n\n 2.5 \n0\n", encoding="utf-8")
    assert read_trace(path, 5.0) == ArrivalTrace([1.0, 2.5, 0.0], period_s=5.0, name="bürsty")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"1\nx\n", 2),
        (b"1\n\n-1\n", 3),
        (b"nan\n", 1),
        (b"inf\n", 1),
        (b"1,2\n", 1),
        (b"1_0\n", 1),
        (b"1e16\n", 1),
        (b"1\r\n2\rx\n", 3),
        (b"1\n2\xe2\x80\xa8\n\x0c\nx\n", 4),
        (b"1\n2\x0c3\n", 2),
        (b"", None),
        (b"\xff\xfe1", None),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, content, line):
    """The error says which line of which file, where it is one line's fault."""
    path = tmp_path / "trace.txt"
    path.write_bytes(content)
    with pytest.raises(FileFormatError) as caught:
        read_trace(path)
    assert caught.value.line == line
    assert str(path) in str(caught.value)


def test_the_recorded_traces_can_be_read(data_dir):
    """Every recorded trace is read whole and has load."""
    for path in (data_dir / "traces").glob("*.txt"):
        trace = read_trace(path)
        assert trace.peak_rps() >= trace.peak_rps(60) >= trace.mean_rps > 0
