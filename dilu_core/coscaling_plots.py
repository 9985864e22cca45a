"""Pictures of co-scaling: a replay over time, what tuning found, policies beside each other, a cluster's fragmentation.

Drawn with matplotlib (the `plot` extra), which is imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.placement_plots import plot_fragmentation
from dilu_core.plotting import PALETTE, check_picture, save, time_unit
from dilu_core.tuning_space import TuningResult

if TYPE_CHECKING:
    from dilu_core.solvers.replay import ReplayResult

_BLUE, _OCHRE, _RED, _TEAL = PALETTE[:4]
_GREY = "0.35"
_WIDE_RANGE = 20.0  # the greatest latency over the SLO beyond which only a logarithmic axis shows both


def plot_replay(
    result: ReplayResult,
    params: HorizontalParams,
    path: str | PathLike[str] | None = None,
    *,
    limit_rps: float | None = None,
) -> Any:
    """One replay over time: load against capacity at request and at limit, instances, and latency against the SLO.

    `params` are those of the replay. `limit_rps` is what one instance serves at its limit, by default in proportion to
    the share. Returns the matplotlib figure and writes it to `path` where one is given (PNG, SVG or PDF).

    Raises `InvalidArgumentError` naming the argument, `PlottingUnavailableError` without matplotlib.
    """
    line = _timeline("result", result)
    if not isinstance(params, HorizontalParams):
        check.fail("params", f"is {params!r:.80}; expected HorizontalParams.")
    most = params.capacity_rps * params.burst
    burst_rps = most if limit_rps is None else check.finite("limit_rps", limit_rps, above=0.0)
    check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    panes: Any = figure.subplots(3, 1, sharex=True, height_ratios=(2.2, 1.2, 1.6))
    load, count, latency = panes
    unit, seconds = time_unit(float(line.time_s[-1]))
    edges = _edges(line.time_s) / seconds
    span_s = np.diff(edges) * seconds
    capacity = line.ready * params.capacity_rps
    load.stairs(line.ready * burst_rps, edges, fill=True, color=_BLUE, alpha=0.12, label="capacity at limit")
    load.stairs(capacity, edges, color=_BLUE, linewidth=1.4, baseline=None, label="capacity at request")
    load.stairs(line.arrivals / span_s, edges, color=_GREY, linewidth=1.0, baseline=None, label="arrivals")
    load.set_ylabel("requests per second")
    count.stairs(
        line.instances, edges, color=_OCHRE, linewidth=1.4, baseline=None, label="instances, starting included"
    )
    count.stairs(line.ready, edges, fill=True, color=_TEAL, alpha=0.35, label="ready")
    count.set_ylabel("instances")
    known = np.isfinite(line.latency_ms)
    drawn = np.where(known, line.latency_ms, np.nan)
    latency.stairs(drawn, edges, color=_GREY, linewidth=1.0, baseline=None, label="mean latency of a period's requests")
    if params.slo_ms is not None:
        late = drawn > params.slo_ms
        latency.axhline(params.slo_ms, color=_RED, linewidth=1.2, linestyle="--", label=f"SLO, {params.slo_ms:g} ms")
        if late.any():
            latency.stairs(np.where(late, drawn, np.nan), edges, color=_RED, linewidth=1.6, baseline=None)
        if known.any() and float(np.nanmax(drawn)) > _WIDE_RANGE * params.slo_ms and float(np.nanmin(drawn)) > 0.0:
            latency.set_yscale("log")
    latency.set_ylabel("latency in ms")
    latency.set_xlabel(f"time in {unit}")
    for axes in (load, count, latency):
        if axes.get_yscale() == "linear":
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
        axes.legend(loc="upper right", fontsize=8, framealpha=0.8)
    late_part = "no SLO" if math.isnan(result.violation_rate) else f"{result.violation_rate:.2%} late"
    figure.suptitle(
        f"{result.gpu_seconds:.4g} GPU-seconds ({result.borrowed_gpu_seconds:.3g} borrowed), {late_part}, "
        f"{result.cold_starts} cold starts, at most {result.peak_instances} instances",
        fontsize=11,
    )
    return _written(figure, path)


def plot_tuning(tuned: TuningResult, path: str | PathLike[str] | None = None) -> Any:
    """Every candidate by cost and violations, their Pareto front, the choice, and how choices did on unseen traces.

    A held-out point is the candidate chosen on the other traces, judged on those left out (their numbers stand beside
    it). Returns the figure and writes it to `path` where one is given.

    Raises `InvalidArgumentError` naming the argument, `PlottingUnavailableError` without matplotlib.
    """
    if not isinstance(tuned, TuningResult):
        check.fail("tuned", f"is {tuned!r:.80}; expected a TuningResult.")
    check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes: Any = figure.subplots()
    cost, late = tuned.gpu_cost, 100.0 * tuned.violation_rate
    axes.scatter(cost, late, s=10, color=_GREY, alpha=0.3, linewidths=0, label=f"{cost.size} candidates", zorder=1)
    front = list(tuned.pareto)
    axes.plot(cost[front], late[front], "o-", color=_BLUE, markersize=4, label="Pareto front", zorder=2)
    for held in tuned.held_out:
        at = held.gpu_cost, 100.0 * held.violation_rate
        label = None if held is not tuned.held_out[0] else "chosen without, judged on the traces numbered"
        axes.plot(*at, "D", color=_OCHRE, markersize=6, markerfacecolor="none", linestyle="", label=label, zorder=3)
        numbers = ", ".join(map(str, held.traces))
        axes.annotate(numbers, at, xytext=(5, 4), textcoords="offset points", fontsize=8, color=_OCHRE)
    best = tuned.best
    axes.plot(cost[best], late[best], "*", color=_RED, markersize=15, linestyle="", label="choice", zorder=4)
    axes.set_xlabel("GPU-seconds over the least that the requests need")
    axes.set_ylabel("requests over SLO in %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    chosen = ", ".join(f"{name} {value}" for name, value in tuned.best_choice.items())
    within = "within the limits" if tuned.feasible else "no candidate is within the limits"
    axes.set_title(f"{late[best]:.2f} % late at {cost[best]:.3g} times the least ({within}): {chosen}", fontsize=10)
    return _written(figure, path)


def plot_policies(results: Mapping[str, ReplayResult], path: str | PathLike[str] | None = None) -> Any:
    """Policies on the same trace by name: GPU-seconds against violations, and how often each starts and turns round.

    Replays without an SLO stand at 0 %. Returns the figure and writes it to `path` where one is given.

    Raises `InvalidArgumentError` naming the argument, `PlottingUnavailableError` without matplotlib.
    """
    if not isinstance(results, Mapping) or not results:
        check.fail("results", f"is {results!r:.80}; expected replay results by the name of the policy.")
    names = [check.text("results", name) for name in results]
    for name, each in results.items():
        _timeline(f"results[{name!r}]", each)
    check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, max(4.0, 2.0 + 0.45 * len(names))), layout="constrained")
    plane, bars = figure.subplots(1, 2, width_ratios=(1.5, 1))
    colours = [PALETTE[i % len(PALETTE)] for i in range(len(names))]
    for name, colour, each in zip(names, colours, results.values(), strict=True):
        at = each.gpu_seconds, 0.0 if math.isnan(each.violation_rate) else 100.0 * each.violation_rate
        plane.plot(*at, "o", color=colour, markersize=8, linestyle="", label=name, clip_on=False)
        plane.annotate(name, at, xytext=(7, 4), textcoords="offset points", fontsize=8, parse_math=False)
    plane.set_xlabel("GPU-seconds, reserved and borrowed")
    plane.set_ylabel("requests over SLO in %")
    plane.set_ylim(bottom=0)
    plane.set_xlim(0.0, 1.3 * max(1e-9, *(each.gpu_seconds for each in results.values())))  # room for the names
    rows = np.arange(len(names))
    for i, (colour, each) in enumerate(zip(colours, results.values(), strict=True)):
        bars.barh(i - 0.19, each.cold_starts, 0.36, color=colour)
        bars.barh(i + 0.19, each.direction_flips, 0.36, color=colour, alpha=0.45, hatch="////", edgecolor="white")
    bars.set_yticks(rows, names, parse_math=False)
    bars.set_ylim(len(names) - 0.4, -0.6)
    bars.set_xlabel("cold starts (solid) and changes of direction (hatched)")
    for axes in (plane, bars):
        axes.grid(alpha=0.3)
    return _written(figure, path)


_PARTS = {
    "request_free": "SM request free in % of GPUs in use",
    "request_unneeded": "SM share nobody needs in % of GPUs in use",
    "memory_free": "memory free in % of GPUs in use",
    "idle": "SM time nobody ran in % of GPUs in use",
}


def plot_fragmentation_over_time(
    results: Any, path: str | PathLike[str] | None = None, *, part: str = "request_free"
) -> Any:
    """The fragmentation of a cluster over time, from cluster replays: of one, or of several by name.

    One result, or its timeline, is drawn by `dilu_core.placement_plots.plot_fragmentation`: SM request and memory free,
    and the GPUs in use. Of several, `part` is compared - one of "request_free", "request_unneeded", "memory_free" and
    "idle" - above the GPUs in use. Returns the figure and writes it to `path` where one is given.

    Raises `InvalidArgumentError` naming the argument, `PlottingUnavailableError` without matplotlib.
    """
    check.choice("part", part, tuple(_PARTS))
    if not isinstance(results, Mapping):
        line = _cluster_timeline("results", results, ("request_free", "memory_free"))
        values = {"request": line.request_free, "memory": line.memory_free, "gpus": line.gpus}
        return plot_fragmentation(line.time_s, values, path)
    lines = {check.text("results", name): _cluster_timeline(f"results[{name!r}]", each, (part,))
             for name, each in results.items()}  # fmt: skip
    check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    panes: Any = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1.2))
    shares, used = panes
    unit, seconds = time_unit(max((float(line.time_s[-1]) for line in lines.values()), default=0.0))
    for i, (name, line) in enumerate(lines.items()):
        edges, colour = _edges(line.time_s) / seconds, PALETTE[i % len(PALETTE)]
        mean = float(np.average(getattr(line, part), weights=np.maximum(line.gpus, 1e-9)))
        label = f"{name}, {mean:.1%} on average"
        shares.stairs(100.0 * getattr(line, part), edges, color=colour, linewidth=1.3, baseline=None, label=label)
        used.stairs(line.gpus, edges, color=colour, linewidth=1.3, baseline=None)
    shares.set_ylabel(_PARTS[part])
    used.set_ylabel("GPUs in use")
    used.set_xlabel(f"time in {unit}")
    for axes in (shares, used):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
    if lines:
        legend = figure.legend(loc="outside upper center", ncols=3, frameon=False)
        for entry in legend.get_texts():
            entry.set_parse_math(False)
    return _written(figure, path)


def _cluster_timeline(argument: str, result: object, parts: Sequence[str]) -> Any:
    """The timeline of a cluster replay, or the result itself where it is one."""
    line = getattr(result, "timeline", result)
    sizes = {np.shape(getattr(line, name, 0.0)) for name in ("time_s", "gpus", *parts)}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1:
        check.fail(argument, f"is {result!r:.80}; expected a ClusterReplayResult, or its timeline.")
    return line


def _timeline(argument: str, result: object) -> Any:
    """The result's timeline, where it is one of a replay."""
    line = getattr(result, "timeline", None)
    columns: Sequence[str] = ("time_s", "arrivals", "instances", "ready", "latency_ms")
    sizes = {np.shape(getattr(line, name, 0.0)) for name in columns}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1 or not hasattr(result, "gpu_seconds"):
        check.fail(argument, f"is {result!r:.80}; expected a ReplayResult.")
    return line


def _edges(time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the periods start, and where the last ends: as long as the one before it."""
    last = time_s[-1] - time_s[-2] if time_s.size > 1 else 1.0
    edges: NDArray[np.float64] = np.append(time_s, time_s[-1] + last)
    return edges


def _written(figure: Any, path: str | PathLike[str] | None) -> Any:
    if path is not None:
        save(figure, path)
    return figure
