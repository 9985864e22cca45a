"""plot_latency: every fit has a picture that shows samples, frontier and choice; bad arguments are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dilu_core.errors import InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.latency_plots import plot_latency
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.quota_search import search_quota

MODEL = RooflineModel(3.0, 0.1, 0.5, 2.0, 0.3)


def fit_of(batches: list[int], shares: list[int], name: str = "f") -> LatencyFit:
    batch, share = (axis.ravel() for axis in np.meshgrid(batches, shares, indexing="ij"))
    return fit_latency(ProfileSamples(batch, share, MODEL.latency_ms(batch, share), function=name))


FIT = fit_of([1, 2, 4, 8, 16], [100, 200, 500, 1000])


def legend_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("batches", "shares"),
    [
        ([1], [500]),
        ([8], [1000]),
        ([4], [100, 300, 1000]),
        ([1, 4, 16], [400]),
        ([1, 2, 4, 8], [1, 1000]),
        (list(range(1, 33)), [200, 500, 1000]),
        ([1, 512], [990, 1000]),
    ],
)
@pytest.mark.parametrize(("slo_ms", "quantile"), [(None, None), (0.01, 0.95), (60.0, 0.95), (1e6, None)])
def test_every_fit_is_drawn(
    tmp_path: Path, batches: list[int], shares: list[int], slo_ms: float | None, quantile: float | None
) -> None:
    """One sample, one batch, one share or many: a picture, whether the SLO is absurd, met somewhere or everywhere."""
    plot_latency(fit_of(batches, shares), slo_ms=slo_ms, quantile=quantile, path=tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_the_samples_are_where_they_were_measured() -> None:
    """The map holds a point per sample, and the curves together as many, at share, batch and latency."""
    curves, surface, _bar = plot_latency(FIT, slo_ms=100.0).axes
    (points,) = (each for each in surface.collections if len(each.get_offsets()) == len(FIT.samples))
    expected = np.stack([FIT.samples.sm_milli / 10, FIT.samples.batch], axis=1)
    assert np.asarray(points.get_offsets()) == pytest.approx(expected)
    assert np.asarray(points.get_array()) == pytest.approx(FIT.samples.latency_ms)
    dots = np.concatenate([line.get_xydata() for line in curves.lines if line.get_marker() == "o"])
    shown = {(round(x, 6), round(y, 6)) for x, y in dots}
    measured = zip(FIT.samples.sm_milli / 10, FIT.samples.latency_ms, strict=True)
    assert shown == {(round(x, 6), round(y, 6)) for x, y in measured}


def test_the_star_is_the_configuration_of_the_search() -> None:
    """It stands at the batch and request of search_quota, at the bound that decided, and the title says both."""
    best = search_quota(FIT, slo_ms=100.0, quantile=0.9, exec_fraction=0.4).best
    assert best is not None
    figure = plot_latency(FIT, slo_ms=100.0, quantile=0.9, exec_fraction=0.4)
    curves, surface = figure.axes[:2]
    (star,) = (line for line in surface.lines if line.get_marker() == "*")
    assert star.get_xydata().tolist() == [[best.request_milli / 10, best.batch]]
    (star,) = (line for line in curves.lines if line.get_marker() == "*")
    assert star.get_xydata()[0].tolist() == pytest.approx([best.request_milli / 10, best.upper_ms])
    assert f"batch {best.batch} at {best.request_milli / 10:g} %" in figure.get_suptitle()
    assert "budget of 40 ms" in figure.get_suptitle()


def test_the_frontier_is_where_the_bound_meets_the_budget() -> None:
    """Along each contour the mean, or the bound, is the budget."""
    surface = plot_latency(FIT, slo_ms=100.0).axes[1]
    met = []
    for contour in (each for each in surface.collections if type(each).__name__ == "QuadContourSet"):
        share, batch = np.concatenate([path.vertices for path in contour.get_paths()]).T
        met.append((FIT.latency_ms(batch, 10 * share), FIT.upper_ms(batch, 10 * share, 0.95)))
    assert len(met) == 2
    assert met[0][0] == pytest.approx(50.0, rel=0.01)
    assert met[1][1] == pytest.approx(50.0, rel=0.01)


def test_without_an_slo_nothing_is_chosen() -> None:
    """No budget, no frontier, no star; with one that nothing keeps, the title says so."""
    curves, surface = plot_latency(FIT).axes[:2]
    assert legend_of(surface) == ["measured"]
    assert legend_of(curves) == ["16", "8", "4", "2", "1"]
    assert "no configuration keeps 0.005 ms by its bound at 0.95" in plot_latency(FIT, slo_ms=0.01).get_suptitle()


def test_many_batches_are_thinned_but_never_the_chosen_one() -> None:
    """At most six curves, the ends and the batch of the best configuration among them; the map keeps every sample."""
    fit = fit_of(list(range(1, 33)), [200, 500, 1000])
    for slo_ms in (60.0, 90.0, 130.0, 200.0):
        best = search_quota(fit, slo_ms=slo_ms).best
        assert best is not None
        labels = [label for label in legend_of(plot_latency(fit, slo_ms=slo_ms).axes[0]) if label.isdigit()]
        assert len(labels) <= 6
        assert {"1", "32", str(best.batch)} <= set(labels)


def test_any_name_is_drawn(tmp_path: Path) -> None:
    """A name that is no formula and that no font has is still a title."""
    figure = plot_latency(fit_of([1, 4], [100, 1000], name="$\\bad{ 模型"), slo_ms=90.0, path=tmp_path / "n.svg")
    assert "$\\bad{ 模型" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("fit", {"fit": MODEL}),
        ("slo_ms", {"slo_ms": 0.0}),
        ("exec_fraction", {"exec_fraction": 1.5}),
        ("quantile", {"quantile": 1.0}),
        ("path", {"path": "picture.txt"}),
        ("path", {"path": Path("picture")}),
        ("path", {"path": 5}),
    ],
)
def test_bad_arguments_are_named(argument: str, options: dict[str, Any]) -> None:
    """Each raises an error that names it."""
    with pytest.raises(InvalidArgumentError) as caught:
        plot_latency(**{"fit": FIT, **options})
    assert caught.value.argument == argument
