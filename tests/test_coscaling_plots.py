"""Pictures of co-scaling: what is drawn is what was given."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling_plots import plot_fragmentation_over_time, plot_policies, plot_replay, plot_tuning
from dilu_core.errors import InvalidArgumentError
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.solvers.replay import ReplayResult, ReplayTimeline
from dilu_core.tuning_space import HeldOut, TuningResult

pytest.importorskip("matplotlib", reason="the plot extra is not installed")

PARAMS = HorizontalParams(10.0, 300, 600, slo_ms=200.0, base_latency_ms=100.0)
DONE = Termination(TerminationReason.FEASIBLE)


def _replay(latency: list[float] | None = None, late: float = 0.25) -> ReplayResult:
    """Three periods of two seconds."""
    timeline = ReplayTimeline(
        time_s=np.array([0.0, 2.0, 4.0]),
        arrivals=np.array([20.0, 60.0, 0.0]),
        served=np.array([20.0, 50.0, 10.0]),
        instances=np.array([1, 3, 3]),
        ready=np.array([1, 1, 3]),
        backlog=np.array([0.0, 10.0, 0.0]),
        used_milli=np.array([300.0, 600.0, 100.0]),
        latency_ms=np.array(latency or [100.0, 450.0, math.nan]),
    )
    return ReplayResult(
        gpu_seconds=4.5, reserved_gpu_seconds=4.2, borrowed_gpu_seconds=0.3, violation_rate=late, latency_p50_ms=100.0,
        latency_p95_ms=450.0, latency_p99_ms=450.0, cold_starts=2, direction_flips=1, peak_instances=3, requests=80.0,
        backlog_left=0.0, timeline=timeline, termination=DONE, stats=SolveStats(0.0),
    )  # fmt: skip


def _steps(axes: Any) -> dict[str, NDArray[np.float64]]:
    """The values of every named step line."""
    return {patch.get_label(): np.asarray(patch.get_data().values, dtype=float) for patch in axes.patches}


def test_a_replay_shows_load_capacity_instances_and_latency(tmp_path: Path) -> None:
    """Rates per second, capacity at request and at limit, instances ready and in all, latency beside the SLO."""
    load, count, latency = plot_replay(_replay(), PARAMS, tmp_path / "replay.png").axes
    assert (tmp_path / "replay.png").stat().st_size > 0
    drawn = _steps(load)
    assert drawn["arrivals"].tolist() == [10, 30, 0]
    assert drawn["capacity at request"].tolist() == [10, 10, 30]
    assert drawn["capacity at limit"].tolist() == [20, 20, 60]
    assert load.patches[-1].get_data().edges.tolist() == [0, 2, 4, 6]
    drawn = _steps(count)
    assert drawn["instances, starting included"].tolist() == [1, 3, 3]
    assert drawn["ready"].tolist() == [1, 1, 3]
    assert latency.lines[0].get_ydata()[0] == 200
    assert np.isnan(latency.patches[1].get_data().values).tolist() == [True, False, True]  # late in one period
    assert latency.get_yscale() == "linear"
    title = load.figure.get_suptitle()
    assert "25.00% late" in title
    assert "2 cold starts" in title
    load = plot_replay(_replay(), PARAMS, limit_rps=12.0).axes[0]
    assert _steps(load)["capacity at limit"].tolist() == [12, 12, 36]


def test_latencies_far_above_the_slo_get_a_logarithmic_axis() -> None:
    """And without an SLO there is no line."""
    assert plot_replay(_replay([100.0, 45_000.0, 100.0]), PARAMS).axes[2].get_yscale() == "log"
    free = plot_replay(_replay(late=math.nan), replace(PARAMS, slo_ms=None))
    assert not free.axes[2].lines
    assert "no SLO" in free.get_suptitle()


def _tuned(feasible: bool = True) -> TuningResult:
    return TuningResult(
        candidates=({"lean": 1.0}, {"lean": 1.2}, {"lean": 1.5}),
        gpu_cost=np.array([3.0, 2.0, 2.5]),
        violation_rate=np.array([0.0, 0.05, 0.06]),
        cold_starts_per_h=np.zeros(3),
        direction_flips_per_h=np.zeros(3),
        pareto=(1, 0),
        best=0,
        feasible=feasible,
        held_out=(HeldOut((0, 2), 1, 2.2, 0.07, 1.0), HeldOut((1,), 0, 3.1, 0.01, 1.0)),
        termination=DONE,
        stats=SolveStats(0.0),
    )


def test_tuning_shows_the_front_the_choice_and_unseen_traces(tmp_path: Path) -> None:
    """Per cent against cost; each held-out point with its traces."""
    (axes,) = plot_tuning(_tuned(), tmp_path / "tuning.svg").axes
    assert (tmp_path / "tuning.svg").stat().st_size > 0
    assert axes.collections[0].get_offsets().tolist() == [[3.0, 0.0], [2.0, 5.0], [2.5, 6.0]]
    front, first, second, choice = axes.lines
    assert np.column_stack(front.get_data()).tolist() == [[2.0, 5.0], [3.0, 0.0]]
    assert [float(first.get_xdata()[0]), float(first.get_ydata()[0])] == pytest.approx([2.2, 7.0])
    assert float(second.get_ydata()[0]) == pytest.approx(1.0)
    assert float(choice.get_xdata()[0]) == 3.0
    assert [text.get_text() for text in axes.texts] == ["0, 2", "1"]
    assert "lean 1.0" in axes.get_title()
    assert "no candidate is within the limits" in plot_tuning(_tuned(feasible=False)).axes[0].get_title()


def test_policies_stand_beside_each_other(tmp_path: Path) -> None:
    """A point and two bars each, under the given names, however odd."""
    results = {"ours": _replay(), "$peer_1": _replay(late=math.nan)}
    plane, bars = plot_policies(results, tmp_path / "policies.pdf").axes
    assert (tmp_path / "policies.pdf").stat().st_size > 0
    assert [float(line.get_ydata()[0]) for line in plane.lines] == [25.0, 0.0]
    assert [text.get_text() for text in plane.texts] == ["ours", "$peer_1"]
    assert [patch.get_width() for patch in bars.patches] == [2, 1, 2, 1]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["ours", "$peer_1"]


@dataclass(frozen=True)
class _Line:
    time_s: NDArray[np.float64]
    gpus: NDArray[np.int64]
    request_free: NDArray[np.float64]
    memory_free: NDArray[np.float64]


@dataclass(frozen=True)
class _Cluster:
    timeline: _Line


def _cluster(free: float) -> _Cluster:
    return _Cluster(_Line(np.arange(3.0), np.array([1, 2, 1]), np.full(3, free), np.full(3, 0.5)))


def test_fragmentation_of_one_system_and_of_several(tmp_path: Path) -> None:
    """One: request and memory free as in plot_fragmentation. Several: one part each, with its average."""
    shares, used = plot_fragmentation_over_time(_cluster(0.25)).axes
    assert [line.get_ydata().tolist() for line in shares.lines] == [[25] * 3, [50] * 3]
    assert used.lines[0].get_ydata().tolist() == [1, 2, 1]
    systems = {"Dilu": _cluster(0.25), "Exclusive": _cluster(0.75)}
    shares, used = plot_fragmentation_over_time(systems, tmp_path / "f.png").axes
    assert (tmp_path / "f.png").stat().st_size > 0
    assert _steps(shares)["Dilu, 25.0% on average"].tolist() == [25] * 3
    assert used.patches[1].get_data().values.tolist() == [1, 2, 1]
    memory = plot_fragmentation_over_time(systems, part="memory_free").axes[0]
    assert memory.patches[0].get_data().values.tolist() == [50] * 3


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: plot_replay(None, PARAMS), "result is None"),  # type: ignore[arg-type]
        (lambda: plot_replay(_replay(), None), "params is None"),  # type: ignore[arg-type]
        (lambda: plot_replay(_replay(), PARAMS, limit_rps=-1.0), "limit_rps is -1"),
        (lambda: plot_replay(_replay(), PARAMS, "picture.doc"), "path is 'picture.doc'"),
        (lambda: plot_replay(_replay(), PARAMS, 5), "path is 5"),  # type: ignore[arg-type]
        (lambda: plot_tuning({}), "tuned is"),  # type: ignore[arg-type]
        (lambda: plot_policies({}), "results is {}"),
        (lambda: plot_policies({"a": 1}), r"results\['a'\] is 1"),  # type: ignore[dict-item]
        (lambda: plot_fragmentation_over_time(7), "results is 7"),
        (lambda: plot_fragmentation_over_time({"a": 7}), r"results\['a'\] is 7"),
        (lambda: plot_fragmentation_over_time(_cluster(0.1), part="x"), "part is 'x'"),
    ],
)
def test_bad_arguments_are_named(action: Any, message: str) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidArgumentError, match=message):
        action()
