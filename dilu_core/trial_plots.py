"""Pictures of a trial search, drawn with matplotlib (the `plot` extra), which is imported on first use."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np

from dilu_core.errors import InvalidArgumentError
from dilu_core.plotting import check_picture
from dilu_core.solvers.trials.search import TrialSearch
from dilu_core.trials import Trial
from dilu_core.units import FULL_GPU_MILLI

_MEETS, _MISSES, _BEST = "#3a8f86", "#c43d5c", "#4269d0"


def plot_trials(search: TrialSearch, path: str | PathLike[str] | None = None) -> Any:
    """The history of a search beside its grid.

    On the left every trial in the order told: its latency against the budget (a cross: failed), and below the
    objective of the best within the budget so far. On the right the grid, each trial's number on its cell, the answer
    framed. Returns the matplotlib figure and writes it to `path` where one is given (PNG, SVG or PDF by its ending).

    Raises `InvalidArgumentError` naming the argument, `PlottingUnavailableError` without matplotlib.
    """
    if not isinstance(search, TrialSearch):
        raise InvalidArgumentError("search", f"is {search!r:.80}; expected a TrialSearch.")
    check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.5), layout="constrained")
    panes: Any = figure.subfigures(1, 2, width_ratios=(1, 1.1))
    left, right = panes
    latency, progress = left.subplots(2, 1, sharex=True)
    _history(latency, progress, search)
    _grid(right.subplots(), search)
    best = search.best
    found = "no answer" if best is None else f"batch {best.batch}, share {best.request_milli}, {best.latency_ms:.4g} ms"
    figure.suptitle(f"{len(search.trials)} trials, {search.termination.reason.value}: {found}")
    if path is not None:
        figure.savefig(path, dpi=110)
    return figure


def _history(latency: Any, progress: Any, search: TrialSearch) -> None:
    budget, training = search.budget_ms, search.settings.training
    reached = []
    top = float("nan")
    failed = []
    for number, record in enumerate(search.trials, start=1):
        if record.latency_ms is None:
            failed.append(number)
        else:
            within = budget is not None and record.latency_ms <= budget
            latency.plot(number, record.latency_ms, "o", color=_MEETS if within else _MISSES)
            if within and _may_be_the_answer(record.trial, search):
                top = float(np.fmax(top, _objective(record.trial, record.latency_ms, training)))
        reached.append(top)
    for number in failed:
        latency.plot(number, 0.03, "x", color=_MISSES, transform=latency.get_xaxis_transform())
    if budget is not None:
        latency.axhline(budget, color="0.2", linestyle="--", linewidth=1)
        latency.annotate("budget", (1, budget), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    latency.set_yscale("log")
    latency.set_ylabel("latency in ms")
    progress.step(range(1, len(reached) + 1), reached, where="post", color=_BEST, marker=".")
    progress.set_ylabel("1 / share within the budget" if training else "best efficacy so far\nin requests/s per GPU")
    progress.set_xlabel("trial")
    progress.xaxis.get_major_locator().set_params(integer=True)


def _may_be_the_answer(trial: Trial, search: TrialSearch) -> bool:
    grid, blocked = search.settings.grid, search.settings.blocked
    return trial.batch in grid.batches and trial.sm_milli in grid.sm_milli and trial not in blocked


def _objective(trial: Trial, latency_ms: float, training: bool) -> float:
    if training:
        return FULL_GPU_MILLI / trial.sm_milli
    return 1e6 * trial.batch / (latency_ms * trial.sm_milli)


def _grid(axes: Any, search: TrialSearch) -> None:
    """Cells by position, not by size: batches double, and shares may be sevenths."""
    grid, budget = search.settings.grid, search.budget_ms
    column = {share: j for j, share in enumerate(grid.sm_milli)}
    row = {batch: i for i, batch in enumerate(grid.batches)}
    axes.set_xticks(range(len(column)), [str(share) for share in column], rotation=90 if len(column) > 12 else 0)
    axes.set_yticks(range(len(row)), [str(batch) for batch in row])
    axes.set_xlim(-0.5, len(column) - 0.5)
    axes.set_ylim(-0.5, len(row) - 0.5)
    axes.set_xlabel("share in milli-GPU")
    axes.set_ylabel("batch")
    for x in range(len(column)):
        axes.plot([x] * len(row), range(len(row)), ".", color="0.85", markersize=3, zorder=0)
    numbers: dict[Trial, list[int]] = {}
    latest: dict[Trial, float | None] = {}
    for number, record in enumerate(search.trials, start=1):
        if record.trial.batch in row and record.trial.sm_milli in column:
            numbers.setdefault(record.trial, []).append(number)
            latest[record.trial] = record.latency_ms
    for trial, here in numbers.items():
        took = latest[trial]
        colour = _MEETS if took is not None and budget is not None and took <= budget else _MISSES
        spot = (column[trial.sm_milli], row[trial.batch])
        box = {"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "none"}
        label = str(here[0]) if len(here) == 1 else f"{here[0]} (x{len(here)})"
        axes.annotate(label, spot, ha="center", va="center", fontsize=8, color="white", bbox=box)
    best = search.best
    if best is not None:
        spot = (column[best.request_milli], row[best.batch])
        axes.plot(*spot, "s", markersize=26, fillstyle="none", color=_BEST, markeredgewidth=2, zorder=3)
    axes.set_title("trials in order: within the budget green, over it or failed red", fontsize=9)
