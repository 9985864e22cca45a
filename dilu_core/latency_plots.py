"""A picture of a latency fit: what was measured, what the model says of the rest, and where the SLO can be kept."""

from __future__ import annotations

import warnings
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as checks
from dilu_core.latency_fit import LatencyFit
from dilu_core.plotting import check_picture
from dilu_core.units import FULL_GPU_MILLI

if TYPE_CHECKING:
    from dilu_core.quota import QuotaConfig

_MOST_CURVES = 6  # batches drawn as curves; more only smear
_COLOURS = "viridis"
_DARKEST, _LIGHTEST = 0.0, 0.86  # of the colours: yellow curves are lost on white
_MANY = 80  # samples, beyond which they are drawn smaller
_STEPS = 160  # of the map along each axis
_PAD = 1.12  # beyond the measured batches and shares
_SHARES = (1, 2, 5, 10, 20, 30, 50, 70, 100)  # per cent; ticks that lie within the picture are drawn


def plot_latency(
    fit: LatencyFit,
    *,
    slo_ms: float | None = None,
    exec_fraction: float = 0.5,
    quantile: float | None = 0.95,
    path: str | PathLike[str] | None = None,
) -> Any:
    """The latency surface of `fit` with its samples, its upper bound and, for an SLO, the feasible frontier.

    Left, latency over share, one curve per measured batch (at most six): points as measured, the mean as a line, shaded
    up to the bound at `quantile`; the dashed line is the budget, `exec_fraction * slo_ms`. Right, the bound over batch
    and share, with the samples in the colour of what was measured: a dot that stands out from its surroundings lies off
    the fit, or the bound is wide there. Where the bound keeps the budget (beyond the solid line) and where the mean
    does (beyond the dotted one), and the configuration that `search_quota` chooses, its request on the map.

    `quantile=None` draws the mean alone. Returns the matplotlib figure, and writes it to `path` where one is given
    (PNG, SVG or PDF by its ending). Raises `InvalidArgumentError` naming the argument, `PlottingUnavailableError`
    without matplotlib.
    """
    if not isinstance(fit, LatencyFit):
        checks.fail("fit", f"is {fit!r:.80}; expected a LatencyFit (see fit_latency).")
    fraction = checks.finite("exec_fraction", exec_fraction, above=0.0, at_most=1.0)
    budget_ms = None if slo_ms is None else fraction * checks.finite("slo_ms", slo_ms, above=0.0)
    if quantile is not None:
        checks.finite("quantile", quantile, above=0.0, at_most=1.0 - 1e-9)
    check_picture(path)
    from matplotlib.figure import Figure

    best = None
    if slo_ms is not None:
        from dilu_core.solvers.quota_search import search_quota

        best = search_quota(fit, slo_ms=slo_ms, exec_fraction=fraction, quantile=quantile).best
    figure = Figure(figsize=(12, 5), layout="constrained")
    curves, surface = figure.subplots(1, 2)
    _draw_curves(curves, fit, quantile, budget_ms, best)
    _draw_surface(figure, surface, fit, quantile, budget_ms, best)
    figure.suptitle(_title(fit, quantile, budget_ms, best), fontsize=11, parse_math=False)
    if path is not None:
        with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as boxes; that is all
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(path, dpi=110)
    return figure


def _title(fit: LatencyFit, quantile: float | None, budget_ms: float | None, best: QuotaConfig | None) -> str:
    samples = fit.samples
    what = " on ".join(part for part in (samples.function, samples.gpu_type) if part) or "Latency"
    count = f"{len(samples)} measurement" + "s" * (len(samples) > 1)
    if budget_ms is None:
        return f"{what}: {count}"
    if best is None:
        whose = "mean" if quantile is None else f"bound at {quantile:g}"
        return f"{what}: {count}; no configuration keeps {_ms(budget_ms)} by its {whose}"
    reached = best.latency_ms if best.upper_ms is None else best.upper_ms
    return (
        f"{what}: {count}; best for a budget of {_ms(budget_ms)}: batch {best.batch} at {best.request_milli / 10:g} %,"
        f" {'at most ' if best.upper_ms is not None else ''}{_ms(reached)}, {best.throughput_rps:,.0f}/s"
    )


def _draw_curves(
    axes: Any, fit: LatencyFit, quantile: float | None, budget_ms: float | None, best: QuotaConfig | None
) -> None:
    from matplotlib import colormaps

    samples = fit.samples
    low, high = _span(samples.sm_milli, FULL_GPU_MILLI)
    shares = np.geomspace(low, high, _STEPS)
    batches = _chosen(np.unique(samples.batch), None if best is None else best.batch)
    for place, batch in zip(np.linspace(_LIGHTEST, _DARKEST, len(batches)), batches, strict=True):
        colour = colormaps[_COLOURS](place)
        rows = samples.batch == batch
        axes.plot(
            samples.sm_milli[rows] / 10,
            samples.latency_ms[rows],
            "o",
            color=colour,
            ms=5,
            mec="white",
            mew=0.5,
            clip_on=False,
        )
        mean_ms = fit.latency_ms(batch, shares)
        axes.plot(shares / 10, mean_ms, color=colour, lw=1.4, label=f"{batch}")
        if quantile is not None:
            upper_ms = fit.upper_ms(batch, shares, quantile)
            axes.fill_between(shares / 10, mean_ms, upper_ms, color=colour, alpha=0.22, lw=0)
    if best is not None:
        axes.plot(best.request_milli / 10, best.upper_ms or best.latency_ms, "*", color="#d62728", ms=13, mec="white")
    axes.set_yscale("log")
    _share_axis(axes, low, high)
    _plain_ticks(axes.yaxis)
    axes.set_ylabel("latency of a batch in ms")
    axes.grid(True, which="major", color="0.9", lw=0.6)
    axes.set_axisbelow(True)
    title = "batch" if len(batches) == len(np.unique(samples.batch)) else "batch (some)"
    handles, labels = (found[::-1] for found in axes.get_legend_handles_labels())
    if budget_ms is not None:
        handles.append(axes.axhline(budget_ms, color="0.15", lw=1.1, ls="--"))
        labels.append(f"budget\n{_ms(budget_ms)}")
    axes.legend(handles, labels, title=title, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    band = "mean" if quantile is None else f"mean, shaded up to the bound at {quantile:g}"
    axes.set_title(f"measured (dots) and fitted: {band}", fontsize=9.5)


def _draw_surface(
    figure: Any, axes: Any, fit: LatencyFit, quantile: float | None, budget_ms: float | None, best: QuotaConfig | None
) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.lines import Line2D

    samples = fit.samples
    low, high = _span(samples.sm_milli, FULL_GPU_MILLI)
    least, most = _span(samples.batch, None)
    least = max(least, 1 / _PAD)
    shares, batches = np.geomspace(low, high, _STEPS), np.geomspace(least, most, _STEPS)
    mean_ms = fit.latency_ms(batches[:, None], shares)
    shown_ms = mean_ms if quantile is None else fit.upper_ms(batches[:, None], shares, quantile)
    floor, ceiling = min(shown_ms.min(), samples.latency_ms.min()), max(shown_ms.max(), samples.latency_ms.max())
    norm = LogNorm(floor, max(ceiling, floor * 1.01))
    mesh = axes.pcolormesh(shares / 10, batches, shown_ms, norm=norm, cmap=_COLOURS, shading="gouraud", rasterized=True)
    axes.scatter(
        samples.sm_milli / 10, samples.batch, c=samples.latency_ms, norm=norm, cmap=_COLOURS,
        s=34 if len(samples) <= _MANY else 14, edgecolors="white", linewidths=0.9, zorder=3, clip_on=False,
    )  # fmt: skip
    handles: list[Any] = [Line2D([], [], ls="", marker="o", mfc="0.5", mec="white", ms=6, label="measured")]
    if budget_ms is not None:
        lines = [(mean_ms, ":", "mean")] + ([] if quantile is None else [(shown_ms, "-", "bound")])
        for values, style, name in lines:
            if values.min() < budget_ms < values.max():
                axes.contour(
                    shares / 10, batches, values, [budget_ms], colors="white", linewidths=2.0, linestyles=style
                )
                handles.append(Line2D([], [], color="0.5", lw=2.0, ls=style, label=f"budget, by the {name}"))
    if best is not None:
        axes.plot(best.request_milli / 10, best.batch, "*", color="#d62728", ms=17, mec="white", mew=1.2, zorder=4)
        handles.append(Line2D([], [], ls="", marker="*", color="#d62728", mec="white", ms=13, label="best"))
    axes.set_yscale("log", base=2)
    _share_axis(axes, low, high)
    measured = np.unique(samples.batch)
    ticks = _chosen(measured, None, most=8)
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(least, most)
    axes.set_ylabel("batch")
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    _plain_ticks(bar.ax.yaxis)
    of_what = "mean latency in ms" if quantile is None else f"upper bound of latency at {quantile:g}, in ms"
    kept = "" if len(handles) - (best is not None) < 2 else "; the budget is kept below the line"
    axes.set_title(of_what + kept, fontsize=9.5)
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False, fontsize=8.5)


def _span(values: NDArray[np.int64], most: int | None) -> tuple[float, float]:
    """The measured range and a little more on both sides; an octave each way around a single value."""
    low, high = float(values.min()), float(values.max())
    pad = 2.0 if low == high else _PAD
    return low / pad, high * pad if most is None else min(high * pad, float(most))


def _chosen(values: NDArray[np.int64], wanted: int | None, most: int = _MOST_CURVES) -> list[int]:
    """At most `most` of the ascending values, spread evenly on a log scale, ends included; `wanted` where it is one."""
    if len(values) <= most:
        return [int(value) for value in values]
    targets = np.geomspace(values[0], values[-1], most)
    nearest = {int(values[np.argmin(np.abs(np.log(values / target)))]) for target in targets}
    if wanted is not None and wanted in values and wanted not in nearest:
        inner = sorted(nearest)[1:-1]
        nearest -= {min(inner, key=lambda value: float(abs(np.log(value / wanted))))}
        nearest.add(wanted)
    return sorted(nearest)


def _share_axis(axes: Any, low: float, high: float) -> None:
    axes.set_xscale("log")
    ticks: list[float] = [share for share in _SHARES if low <= share * 10 <= high * 1.001] or [low / 10, high / 10]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low / 10, high / 10)
    axes.set_xlabel("SM share in % of a GPU")


def _plain_ticks(axis: Any) -> None:
    """Ticks at 1, 2 and 5 of each decade, more where there is less than one, written as numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high > 10 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def _ms(value: float) -> str:
    return f"{value:,.3g} ms" if value < 1000 else f"{value:,.0f} ms"
