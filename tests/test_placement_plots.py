"""Pictures of placements, fragmentation and progress: what is drawn is what was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dilu_core.cluster import Cluster, GpuType, Node
from dilu_core.errors import InvalidArgumentError
from dilu_core.fragmentation import fragmentation
from dilu_core.gpu_bookings import gpu_bookings
from dilu_core.instances import Configuration, Instance
from dilu_core.mig import A100_40GB, MigSlice
from dilu_core.placement import PlacementProblem
from dilu_core.placement_plots import plot_fragmentation, plot_placement, plot_progress
from dilu_core.progress import ProgressLog
from dilu_core.slots import Placement, Slot

pytest.importorskip("matplotlib", reason="the plot extra is not installed")


def _partitioned() -> tuple[PlacementProblem, Placement]:
    """Two functions on partitions of one GPU, and a whole GPU run in an alternative configuration."""
    cluster = Cluster((Node("m", GpuType("MIG", 40960, mig=A100_40GB), 1), Node("n", GpuType("A100", 40960), 1)))
    instances = (
        Instance("a", "inference", 250, 400, 8000, function="$f"),
        Instance("b", "inference", 400, 500, 18000, function="g"),
        Instance("c", "inference", 500, 900, 100, alternatives=(Configuration(300, 600, 20480),)),
        Instance("left out", "inference", 500, 900, 100),
    )
    placement = Placement(
        {
            "b": [Slot("m", 0, 18000, mig=MigSlice("3g.20gb", 4))],
            "a": [Slot("m", 0, 8000, mig=MigSlice("2g.10gb", 0))],
            "c": [Slot("n", 0, 20480, configuration=1)],
        }
    )
    return PlacementProblem(cluster, instances), placement


def test_rows_book_configurations_and_partitions() -> None:
    """A slot books the configuration it names, and on a partition at most the partition's share as limit."""
    first, second = gpu_bookings(*_partitioned())
    assert [(each.name, each.request_milli, each.limit_milli) for each in first.bookings] == [
        ("b", 400, 428),
        ("a", 250, 285),
    ]
    assert first.bookings[0].mig == MigSlice("3g.20gb", 4)
    (c,) = second.bookings
    assert (c.request_milli, c.limit_milli, c.memory_mib) == (300, 600, 20480)


def test_partitions_are_outlined_where_they_lie(tmp_path: Path) -> None:
    """The memory of a partition is drawn from its first slice on, and the file is written."""
    shares, memory = plot_placement(*_partitioned(), tmp_path / "bars.png").axes
    assert (tmp_path / "bars.png").stat().st_size > 0
    outlines = [(p.get_x(), p.get_width()) for p in memory.patches if not p.get_fill() and p.get_linestyle() == ":"]
    assert outlines == [(0, 10), (20, 20)]
    filled = [(p.get_x(), round(p.get_width(), 3)) for p in memory.patches if p.get_fill()]
    assert filled == [(0, 7.812), (20, 17.578), (0, 20)]
    assert [label.get_text() for label in shares.get_yticklabels()] == ["m/0", "n/0"]
    assert "3 instances on 2 of 2 GPUs, 1 not placed" in shares.figure.get_suptitle()


def test_many_gpus_are_an_overview_of_what_is_booked() -> None:
    """Beyond 40 GPUs: a falling curve for each resource, and a map with nodes of different sizes and unused GPUs."""
    sizes = (40, 1, 8, 3)
    cluster = Cluster(tuple(Node(f"n{i}", GpuType("A100", 1000), size) for i, size in enumerate(sizes)))
    instances = tuple(Instance(f"i{k}", "inference", 100 + k, 300 + k, 10 * k) for k in range(48))
    where = [("n0", g) for g in range(40)] + [("n2", g) for g in range(8)]
    placement = Placement({f"i{k}": [Slot(*where[k], 10 * k)] for k in range(48)})
    ranked, *maps = plot_placement(PlacementProblem(cluster, instances), placement).axes[:4]
    requests = ranked.lines[0].get_ydata()
    assert requests[:-1] == pytest.approx([(147 - k) / 10 for k in range(48)])
    image = np.ma.filled(maps[2].images[0].get_array(), np.nan)  # memory, (GPU, node in use)
    assert image.shape == (40, 2)
    assert image[:, 0] == pytest.approx([float(k) for k in range(40)])
    assert image[:8, 1] == pytest.approx([float(k) for k in range(40, 48)])
    assert np.isnan(image[8:, 1]).all()  # the node has no such GPU


def test_nothing_placed_is_drawn() -> None:
    """An empty placement is a picture too."""
    assert plot_placement(PlacementProblem(Cluster(()), ()), Placement()).axes


def test_fragmentation_over_time_shows_reports_and_plain_values() -> None:
    """The curves are the reports' shares in per cent; values by name draw the same, on a time axis that reads well."""
    problem, placement = _partitioned()
    reports = [fragmentation(problem, placement), fragmentation(problem, placement.restricted(["c"]))]
    shares, used = plot_fragmentation([0.0, 7200.0], reports).axes
    drawn = {line.get_label(): line.get_ydata().tolist() for line in shares.lines}
    assert drawn["memory free"] == pytest.approx([100 * each.cluster.memory_mib.fragmentation for each in reports])
    assert len(drawn) == 4
    assert used.lines[0].get_ydata().tolist() == [2, 1]
    assert used.get_xlabel() == "time in minutes"
    assert used.lines[0].get_xdata().tolist() == [0.0, 120.0]
    shares, used = plot_fragmentation([0.0, 1.0], {"limit": [0.5, 0.25]}).axes
    assert shares.lines[0].get_ydata().tolist() == [50, 25]
    assert not used.lines
    assert plot_fragmentation([], []).axes


def test_progress_shows_incumbent_bound_and_gap(tmp_path: Path) -> None:
    """Steps of both with the gap on the right axis; what is not known yet is left out."""
    log = ProgressLog()
    for report in ((12, None, 0.0), (11, 10, 1.0), (10, 10, 2.0)):
        log(*report)
    axes, right = plot_progress(log, tmp_path / "progress.svg").axes
    assert (tmp_path / "progress.svg").stat().st_size > 0
    incumbent, bound = (line.get_ydata().tolist() for line in axes.lines)
    assert incumbent == [12, 11, 10]
    assert np.isnan(bound[0])
    assert bound[1:] == [10, 10]
    assert right.lines[0].get_ydata().tolist()[1:] == pytest.approx([10, 0])
    assert "gap 0.00%" in axes.get_title()
    assert plot_progress([]).axes


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: plot_placement(_partitioned()[0], {"a": (Slot("m", 0, 1),)}), "placement is not valid"),
        (lambda: plot_placement(*_partitioned(), "picture.doc"), "path is 'picture.doc'"),
        (lambda: plot_placement(*_partitioned(), 5), "path is 5"),  # type: ignore[arg-type]
        (lambda: plot_fragmentation([1.0, 0.0], {}), "times_s"),
        (lambda: plot_fragmentation([0.0], {"share": [1.0]}), "reports is 'share'"),
        (lambda: plot_fragmentation([0.0], {"limit": [1.0, 2.0]}), "reports has 2 values of 'limit' for 1 times"),
        (lambda: plot_fragmentation([0.0], [1]), r"reports\[0\]"),  # type: ignore[list-item]
        (lambda: plot_progress(7), "progress is 7"),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_named(action: Any, message: str) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidArgumentError, match=message):
        action()
