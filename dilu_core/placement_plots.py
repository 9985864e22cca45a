"""Pictures of placements: the GPUs, fragmentation over time, and the course of a solve.

Drawn with matplotlib (the `plot` extra), which is imported on first use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.fragmentation_report import FragmentationReport
from dilu_core.placement import Placement, PlacementProblem, verify_placement
from dilu_core.plotting import PALETTE, check_picture, draw_placement, save, time_unit
from dilu_core.progress import ProgressLog, progress_events
from dilu_core.slots import Slot, slots_by_name

_BLUE, _OCHRE, _RED, _TEAL = PALETTE[:4]
_CURVES = {
    "request": ("SM request free", _BLUE, "-"),
    "limit": ("SM limit free", _OCHRE, "-"),
    "memory": ("memory free", _TEAL, "-"),
    "unusable": ("unusable part of the free SM request (FGD, all GPUs)", _RED, "--"),
}


def plot_placement(
    problem: PlacementProblem, placement: Mapping[str, tuple[Slot, ...]], path: str | PathLike[str] | None = None
) -> Any:
    """The active GPUs of a placement, coloured by function as in `plot_plan`; an overview of more than 40.

    Bars show SM share (request solid, up to the limit hatched) and memory, with partitions outlined. The overview shows
    what is booked of each resource, once with the fullest GPU first and once node by node. Returns the matplotlib
    figure and writes it to `path` where one is given (PNG, SVG or PDF by its ending).

    Raises `InvalidArgumentError` for a placement that is not valid, `PlottingUnavailableError` without matplotlib.
    """
    placement = slots_by_name("placement", placement)
    broken = verify_placement(problem, placement)
    if broken:
        check.fail("placement", f"is not valid for this problem: {broken[0].message}")
    placed = Placement(placement)
    functions = list(dict.fromkeys(each.function for each in problem.instances if each.name in placed))
    unplaced = len(problem.instances) - len(placed)
    title = f"{len(placed)} instances on {placed.gpus_used} of {problem.cluster.gpus} GPUs"
    return draw_placement(problem, placed, path, title + (f", {unplaced} not placed" if unplaced else ""), functions)


def plot_fragmentation(
    times_s: Sequence[float],
    reports: Sequence[FragmentationReport] | Mapping[str, Sequence[float]],
    path: str | PathLike[str] | None = None,
) -> Any:
    """What active GPUs hold free, and what of it is unusable, over time; below it the GPUs in use.

    `times_s` ascend. `reports` is one `FragmentationReport` a time, or the values themselves: any of the shares
    "request", "limit", "memory" and "unusable" (0..1) and "gpus", each with one number a time. Every value holds until
    the next time. Returns the figure and writes it to `path` where one is given.

    Raises `InvalidArgumentError` naming the argument, `PlottingUnavailableError` without matplotlib.
    """
    times = check.float_column("times_s", times_s)
    if not np.isfinite(times).all() or (np.diff(times) < 0.0).any():
        check.fail("times_s", "is no timeline; expected finite numbers that ascend.")
    values = _fragmentation_values(reports, times.size)
    check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    panes: Any = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    shares, used = panes
    unit, seconds = time_unit(float(times[-1] - times[0]) if times.size else 0.0)
    for name, (label, colour, line) in _CURVES.items():
        if name in values:
            shares.step(times / seconds, 100 * values[name], line, where="post", color=colour, label=label)
    shares.set_ylabel("share in %")
    shares.set_ylim(bottom=0)
    if shares.get_legend_handles_labels()[0]:
        figure.legend(*shares.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    if "gpus" in values:
        used.step(times / seconds, values["gpus"], where="post", color="0.25")
        used.fill_between(times / seconds, values["gpus"], step="post", color="0.25", alpha=0.15)
    used.set_ylabel("active GPUs")
    used.set_ylim(bottom=0)
    used.set_xlabel(f"time in {unit}")
    for axes in (shares, used):
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
    if path is not None:
        save(figure, path)
    return figure


def plot_progress(progress: ProgressLog | Sequence[Any], path: str | PathLike[str] | None = None) -> Any:
    """Incumbent and proven bound over the time of a solve, the gap between them shaded and on the right axis.

    `progress` is a `ProgressLog`, or (elapsed_s, incumbent, bound) in order of time, with `None` for what is not known
    yet. Returns the figure and writes it to `path` where one is given.

    Raises `InvalidArgumentError` naming the argument, `PlottingUnavailableError` without matplotlib.
    """
    events = progress_events("progress", progress)
    check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), layout="constrained")
    axes: Any = figure.subplots()
    right: Any = axes.twinx()
    unit, seconds = time_unit(events[-1].elapsed_s if events else 0.0)
    time = np.array([each.elapsed_s for each in events]) / seconds
    incumbent = np.array([np.nan if each.incumbent is None else each.incumbent for each in events])
    bound = np.array([np.nan if each.bound is None else each.bound for each in events])
    gap = np.array([np.nan if each.gap is None else 100 * each.gap for each in events])
    axes.fill_between(time, bound, incumbent, step="post", color=_BLUE, alpha=0.12, linewidth=0)
    mark = "o" if len(events) <= 60 else ""
    axes.step(time, incumbent, where="post", color=_BLUE, marker=mark, markersize=3, label="incumbent")
    axes.step(time, bound, where="post", color=_TEAL, marker=mark, markersize=3, label="proven lower bound")
    right.step(time, gap, where="post", color=_RED, linestyle=":", label="gap (right)")
    axes.set_xlabel(f"time in {unit}")
    axes.set_ylabel("objective")
    axes.ticklabel_format(axis="y", useOffset=False)
    right.set_ylabel("gap in % of the bound")
    right.set_ylim(0, max(0.1, 1.15 * float(np.nanmax(gap))) if np.isfinite(gap).any() else 1.0)
    right.yaxis.label.set_color(_RED)
    right.tick_params(axis="y", colors=_RED)
    axes.grid(alpha=0.3)
    axes.margins(x=0.01)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    if events:
        last = events[-1]
        found = "no incumbent" if last.incumbent is None else f"incumbent {last.incumbent:g}"
        proven = "no bound" if last.bound is None else f"bound {last.bound:g}"
        left = "" if last.gap is None else f", gap {last.gap:.2%}"
        axes.set_title(f"after {last.elapsed_s:.3g} s: {found}, {proven}{left}", fontsize=10)
    if path is not None:
        save(figure, path)
    return figure


def _fragmentation_values(reports: object, count: int) -> dict[str, NDArray[np.float64]]:
    """The curves as columns by name, each with a number for every time."""
    if isinstance(reports, Mapping):
        for name in reports:
            check.choice("reports", name, (*_CURVES, "gpus"))
        values = {name: check.float_column(f"reports[{name!r}]", column) for name, column in reports.items()}
    else:
        listed = check.instances_of("reports", reports, FragmentationReport)
        values = {
            "request": np.array([each.cluster.request_milli.fragmentation for each in listed]),
            "limit": np.array([each.cluster.limit_milli.fragmentation for each in listed]),
            "memory": np.array([each.cluster.memory_mib.fragmentation for each in listed]),
            "unusable": np.array([each.everywhere.unusable_share for each in listed]),
            "gpus": np.array([float(each.cluster.active_gpus) for each in listed]),
        }
    for name, column in values.items():
        if column.size != count:
            check.fail("reports", f"has {column.size} values of {name!r} for {count} times.")
    return values
