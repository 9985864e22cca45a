"""Pictures of a plan and of the GPUs of a placement, drawn with matplotlib (the `plot` extra) loaded on first use."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dilu_core.errors import DiluError, InvalidArgumentError
from dilu_core.gpu_bookings import GpuBookings, gpu_bookings
from dilu_core.placement import Placement, PlacementProblem
from dilu_core.units import FULL_GPU_MILLI

if TYPE_CHECKING:
    from dilu_core.plans import Plan

_FORMATS = (".png", ".svg", ".pdf")
_BAR = 0.36  # height of a bar; a GPU has two of them in a row of height 1
_MOST_LABELLED = 40  # GPUs beyond which bars and names would only smear
_PARTITION: dict[str, Any] = {"fill": False, "edgecolor": "0.15", "linewidth": 1.2, "linestyle": ":", "zorder": 3}
_CHARACTER = 1.1  # per cent of a GPU that a character of a label takes


class PlottingUnavailableError(DiluError, ImportError):
    """matplotlib is not installed."""


def check_picture(path: str | PathLike[str] | None, argument: str = "path") -> None:
    """Raise, before any work, where no picture could be drawn, or written to `path` unless that is `None`.

    `PlottingUnavailableError` without matplotlib, `InvalidArgumentError` naming `argument` for what is no file name or
    ends in no known format.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlottingUnavailableError(
            "plotting needs matplotlib, which is not installed; pip install 'dilu_core[plot]'."
        ) from error
    if path is None:
        return
    endings = ", ".join(_FORMATS)
    name = fspath(path) if isinstance(path, str | PathLike) else None
    if not isinstance(name, str):
        raise InvalidArgumentError(argument, f"is {path!r:.80}; expected a file name that ends in {endings}.")
    if Path(name).suffix.lower() not in _FORMATS:
        raise InvalidArgumentError(argument, f"is {name!r}; expected a name that ends in {endings}.")


def plot_plan(plan: Plan, path: str | PathLike[str] | None = None) -> Any:
    """Each GPU as two bars: SM share (request solid, up to the limit hatched) on the left, memory on the right.

    Returns the matplotlib figure and writes it to `path` where one is given (PNG, SVG or PDF by its ending). The line
    at 100 % is a whole GPU's SMs, the dashed line the cap on the sum of limits. Partitions are outlined with dots. More
    than 40 active GPUs are drawn as an overview: see `draw_placement`.
    """
    if not isinstance(getattr(plan, "problem", None), PlacementProblem):
        raise InvalidArgumentError("plan", f"is {plan!r:.80}; expected a Plan.")
    title = (
        f"{plan.gpus_used} GPUs used, at least {plan.lower_bound} needed; "
        f"{plan.whole_gpu_gpus} with one instance per GPU"
    )
    return draw_placement(plan.problem, plan.placement, path, title, [each.name for each in plan.functions])


def draw_placement(
    problem: PlacementProblem,
    placement: Placement,
    path: str | PathLike[str] | None,
    title: str,
    functions: Sequence[str],
) -> Any:
    """The figure of a valid placement, written to `path` where one is given.

    Up to 40 active GPUs as a pair of bars each, coloured by function; more of them as what is booked, in order of size
    and node by node.
    """
    check_picture(path)
    gpus = gpu_bookings(problem, placement)
    figure = _bars(problem, gpus, functions) if len(gpus) <= _MOST_LABELLED else _overview(problem, gpus)
    figure.suptitle(title)
    if path is not None:
        save(figure, path)
    return figure


def save(figure: Any, path: str | PathLike[str]) -> None:
    """Write `figure` to `path`."""
    with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as boxes; that is all
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, dpi=110)


def time_unit(span_s: float) -> tuple[str, float]:
    """A unit in which a span of time reads well, and its seconds."""
    for name, seconds in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if span_s >= 3 * seconds:
            return name, seconds
    return "s", 1.0


def _bars(problem: PlacementProblem, gpus: Sequence[GpuBookings], functions: Sequence[str]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colour = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(functions)}
    figure = Figure(figsize=(12, 1.6 + max(1, len(gpus)) * 0.55), layout="constrained")
    shares, memory = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    types = {node.name: node.gpu_type for node in problem.cluster.nodes}
    for row, gpu in enumerate(gpus):
        geometry = types[gpu.node].mig
        request = limit = held = 0.0  # where the next booking starts: per cent, per cent, GiB
        for each in sorted(gpu.bookings, key=lambda each: each.mig.start if each.mig else 0):
            paint: dict[str, Any] = {"color": colour[each.function], "edgecolor": "white", "linewidth": 0.8}
            wants, most, takes = each.request_milli / 10, each.limit_milli / 10, each.memory_mib / 1024
            profile = geometry.profile(each.mig.profile) if geometry is not None and each.mig is not None else None
            if geometry is not None and profile is not None and each.mig is not None:
                slice_gib = gpu.memory_mib / 1024 / geometry.slices
                held = each.mig.start * slice_gib
                memory.barh(row, profile.slices * slice_gib, 2.2 * _BAR, left=held, **_PARTITION)
                shares.barh(row - _BAR / 2, profile.share_milli / 10, 1.1 * _BAR, left=request, **_PARTITION)
            shares.barh(row - _BAR / 2, wants, _BAR, left=request, **paint)
            shares.barh(row + _BAR / 2, wants, _BAR, left=limit, alpha=0.75, **paint)
            shares.barh(row + _BAR / 2, most - wants, _BAR, left=limit + wants, alpha=0.35, hatch="////", **paint)
            memory.barh(row, takes, 2 * _BAR, left=held, **paint)
            label = _label(each.name, wants)
            if label:
                style: dict[str, Any] = {
                    "ha": "center",
                    "va": "center",
                    "fontsize": 7,
                    "color": "white",
                    "parse_math": False,
                }
                shares.text(request + wants / 2, row - _BAR / 2, label, **style)
            request += wants if profile is None else max(wants, profile.share_milli / 10)
            limit, held = limit + most, held + takes
        memory.barh(row, gpu.memory_mib / 1024, 2 * _BAR, fill=False, edgecolor="0.3", linewidth=0.8)
    cap = problem.oversubscription.limit_milli / 10
    shares.axvline(FULL_GPU_MILLI / 10, color="0.2", linewidth=1)
    shares.axvline(cap, color="0.2", linewidth=1, linestyle="--")
    shares.set_xlim(0, max(cap, FULL_GPU_MILLI / 10) * 1.02)
    shares.set_xlabel("SM share in % of a GPU: requests above, requests and burst to the limit (hatched) below")
    memory.set_xlabel("memory in GiB")
    shares.set_yticks(range(len(gpus)), [f"{gpu.node}/{gpu.gpu}" for gpu in gpus], parse_math=False)
    shares.set_ylim(max(len(gpus), 1) - 0.4, -0.6)
    handles = [Patch(color=colour[name], label=name or "no function") for name in functions]
    if any(each.mig is not None for gpu in gpus for each in gpu.bookings):
        handles.append(Patch(label="partition", **_PARTITION))
    if handles:
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), frameon=False)
        for entry in legend.get_texts():
            entry.set_parse_math(False)
    return figure


def _overview(problem: PlacementProblem, gpus: Sequence[GpuBookings]) -> Any:
    """Many GPUs: the booked share of each resource in order of size, and as a map of the nodes in use."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    caps = problem.oversubscription
    booked = np.array(
        [
            (
                gpu.request_milli / caps.request_milli,
                gpu.limit_milli / caps.limit_milli,
                gpu.booked_mib / gpu.memory_mib,
            )
            for gpu in gpus
        ]
    )
    size = {node.name: node.gpus for node in problem.cluster.nodes}
    column = {name: i for i, name in enumerate(dict.fromkeys(gpu.node for gpu in gpus))}
    maps = np.full((3, max(size[name] for name in column), len(column)), np.nan)
    for name, i in column.items():
        maps[:, : size[name], i] = 0.0
    for row, gpu in enumerate(gpus):
        maps[:, gpu.gpu, column[gpu.node]] = booked[row]
    figure = Figure(figsize=(12, 8.5), layout="constrained")
    ranked, *strips = figure.subplots(4, 1, height_ratios=(2.6, 1, 1, 1))
    resources = (("SM requests", PALETTE[0]), ("SM limits", PALETTE[1]), ("memory", PALETTE[3]))
    for k, (title, colour) in enumerate(resources):
        falling = np.append(np.sort(booked[:, k])[::-1], 0.0)
        place = np.arange(falling.size)
        label = f"{title}, {booked[:, k].mean():.1%} on average"
        ranked.step(place, 100 * falling, where="post", color=colour, linewidth=1.8, label=label)
    ranked.set_xlim(0, len(gpus))
    ranked.set_ylim(0, 105)
    ranked.set_xlabel("active GPUs, for each resource the fullest first")
    ranked.set_ylabel("booked in % of the cap")
    ranked.grid(alpha=0.3)
    ranked.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    for k, (axes, (title, colour)) in enumerate(zip(strips, resources, strict=True)):
        shade = LinearSegmentedColormap.from_list("booked", ["#f1f1ee", colour])
        image = axes.imshow(100 * maps[k], aspect="auto", cmap=shade, vmin=0, vmax=100, interpolation="nearest")
        axes.set_ylabel(f"{title}\nGPU of the node", fontsize=9)
        axes.set_yticks(range(0, maps.shape[1], max(1, maps.shape[1] // 4)))
        figure.colorbar(image, ax=axes, label="booked in %", ticks=(0, 50, 100), pad=0.01)
        axes.tick_params(labelbottom=k == 2)
    strips[-1].set_xlabel("nodes with an active GPU, in the cluster's order")
    return figure


def _label(name: str, width: float) -> str:
    """The instance's name where its bar has room for it, else its number, else nothing."""
    number = "#" + name.rpartition("#")[2]
    return next((text for text in (name, number) if len(text) * _CHARACTER <= width), "")


PALETTE = (
    "#4269d0", "#c2851a", "#c43d5c", "#3a8f86", "#3c8a3f", "#a463c2", "#8a6a52", "#5b6e7d", "#7a7a1e", "#b8579b",
)  # fmt: skip
