"""Pictures of a plan, drawn with matplotlib (the `plot` extra), which is imported on first use."""

from __future__ import annotations

import warnings
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dilu_core.errors import DiluError, InvalidArgumentError
from dilu_core.gpu_bookings import gpu_bookings
from dilu_core.placement import PlacementProblem
from dilu_core.units import FULL_GPU_MILLI

if TYPE_CHECKING:
    from dilu_core.plans import Plan

_FORMATS = (".png", ".svg", ".pdf")
_BAR = 0.36  # height of a bar; a GPU has two of them in a row of height 1
_MOST_LABELLED = 40  # GPUs beyond which names would only smear
_CHARACTER = 1.1  # per cent of a GPU that a character of a label takes


class PlottingUnavailableError(DiluError, ImportError):
    """matplotlib is not installed."""


def require_matplotlib() -> None:
    """Raise `PlottingUnavailableError` where matplotlib cannot be imported."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlottingUnavailableError(
            "plotting needs matplotlib, which is not installed; pip install 'dilu_core[plot]'."
        ) from error


def check_picture(path: str | PathLike[str]) -> None:
    """Raise, before any work, where a picture could not be drawn or `path` does not end in a known format."""
    require_matplotlib()
    ending = Path(path).suffix.lower()
    if ending not in _FORMATS:
        raise InvalidArgumentError("plot", f"is {fspath(path)!r}; expected a name that ends in {', '.join(_FORMATS)}.")


def plot_plan(plan: Plan, path: str | PathLike[str] | None = None) -> Any:
    """Each GPU as two bars: SM share (request solid, up to the limit hatched) on the left, memory on the right.

    Returns the matplotlib figure and writes it to `path` where one is given (PNG, SVG or PDF by its ending). The line
    at 100 % is a whole GPU's SMs, the dashed line the cap on the sum of limits.
    """
    if not isinstance(getattr(plan, "problem", None), PlacementProblem):
        raise InvalidArgumentError("plan", f"is {plan!r:.80}; expected a Plan.")
    require_matplotlib()
    if path is not None:
        check_picture(path)
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    gpus = gpu_bookings(plan.problem, plan.placement)
    functions = [each.name for each in plan.functions]
    colour = {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(functions)}
    labelled = len(gpus) <= _MOST_LABELLED
    height = 1.6 + max(1, len(gpus)) * (0.55 if labelled else 0.16)
    figure = Figure(figsize=(12, min(height, 60)), layout="constrained")
    shares, memory = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    for row, gpu in enumerate(gpus):
        request = limit = held = 0.0  # where the next booking starts: per cent, per cent, GiB
        for each in gpu.bookings:
            paint: dict[str, Any] = {"color": colour[each.function], "edgecolor": "white", "linewidth": 0.8}
            wants, most, takes = each.request_milli / 10, each.limit_milli / 10, each.memory_mib / 1024
            shares.barh(row - _BAR / 2, wants, _BAR, left=request, **paint)
            shares.barh(row + _BAR / 2, wants, _BAR, left=limit, alpha=0.75, **paint)
            shares.barh(row + _BAR / 2, most - wants, _BAR, left=limit + wants, alpha=0.35, hatch="////", **paint)
            memory.barh(row, takes, 2 * _BAR, left=held, **paint)
            label = _label(each.name, wants) if labelled else ""
            if label:
                style: dict[str, Any] = {
                    "ha": "center",
                    "va": "center",
                    "fontsize": 7,
                    "color": "white",
                    "parse_math": False,
                }
                shares.text(request + wants / 2, row - _BAR / 2, label, **style)
            request, limit, held = request + wants, limit + most, held + takes
        memory.barh(row, gpu.memory_mib / 1024, 2 * _BAR, fill=False, edgecolor="0.3", linewidth=0.8)
    cap = plan.problem.oversubscription.limit_milli / 10
    shares.axvline(FULL_GPU_MILLI / 10, color="0.2", linewidth=1)
    shares.axvline(cap, color="0.2", linewidth=1, linestyle="--")
    shares.set_xlim(0, max(cap, FULL_GPU_MILLI / 10) * 1.02)
    shares.set_xlabel("SM share in % of a GPU: requests above, requests and burst to the limit (hatched) below")
    memory.set_xlabel("memory in GiB")
    shares.set_yticks(range(len(gpus)), [f"{gpu.node}/{gpu.gpu}" for gpu in gpus], parse_math=False)
    shares.set_ylim(max(len(gpus), 1) - 0.4, -0.6)
    figure.suptitle(
        f"{plan.gpus_used} GPUs used, at least {plan.lower_bound} needed; "
        f"{plan.whole_gpu_gpus} with one instance per GPU"
    )
    if functions:
        handles = [Patch(color=colour[name], label=name) for name in functions]
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=min(len(functions), 7), frameon=False)
        for entry in legend.get_texts():
            entry.set_parse_math(False)
    if path is not None:
        with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as boxes; that is all
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(path, dpi=110)
    return figure


def _label(name: str, width: float) -> str:
    """The instance's name where its bar has room for it, else its number, else nothing."""
    number = "#" + name.rpartition("#")[2]
    return next((text for text in (name, number) if len(text) * _CHARACTER <= width), "")


_PALETTE = (
    "#4269d0", "#c2851a", "#c43d5c", "#3a8f86", "#3c8a3f", "#a463c2", "#8a6a52", "#5b6e7d", "#7a7a1e", "#b8579b",
)  # fmt: skip
