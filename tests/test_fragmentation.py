"""The fragmentation report: by hand on a small case, and consistent sums on any."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core._checks import LARGEST
from dilu_core.arrival_mix import TaskMix
from dilu_core.cluster import Cluster, GpuType, Instance, Oversubscription
from dilu_core.errors import InvalidArgumentError
from dilu_core.fragmentation import FragmentationReport, fragmentation
from dilu_core.placement import Placement, PlacementProblem, Slot

CLUSTER = Cluster.homogeneous(2, 2, GpuType("A100", 1000))
BIG = Instance("big", "inference", 600, 900, 950)
SPLIT = Instance("split", "llm-inference", 200, 500, 1200, splittable=True)
SMALL = Instance("small", "inference", 100, 100, 100)


def test_a_case_worked_out_by_hand() -> None:
    """One full GPU and a split over two: free sums, shares and what is stranded are as computed by hand."""
    problem = PlacementProblem(CLUSTER, (BIG, SPLIT, SMALL))
    report = fragmentation(
        problem,
        Placement({"big": [Slot("node-0", 0, 950)], "split": [Slot("node-1", 0, 400), Slot("node-1", 1, 800)]}),
    )
    total = report.cluster
    assert total.active_gpus == 3
    assert (total.request_milli.free, total.request_milli.capacity) == (400 + 800 + 800, 3000)
    assert (total.limit_milli.free, total.limit_milli.capacity) == (600 + 1300 + 1300, 4500)
    assert (total.memory_mib.free, total.memory_mib.capacity) == (50 + 600 + 200, 3000)
    assert total.memory_mib.fragmentation == pytest.approx(850 / 3000)
    assert report.nodes["node-1"].active_gpus == 2
    assert set(report.gpus) == {("node-0", 0), ("node-1", 0), ("node-1", 1)}
    assert report.stranded.request_milli_by_memory == 400  # beside big, 50 MiB are too few even for small
    assert report.stranded.memory_mib_by_request == 0
    assert "3 active GPUs" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["stranded"]["request_milli_by_memory"] == 400


def test_nothing_placed_is_nothing_fragmented() -> None:
    """Without active GPUs every fragmentation is 0."""
    report = fragmentation(PlacementProblem(Cluster(()), ()), Placement())
    assert report.cluster.active_gpus == 0
    assert report.cluster.request_milli.fragmentation == 0.0


def test_invalid_placements_are_refused() -> None:
    """A placement that breaks a rule has no report; the error names it."""
    with pytest.raises(InvalidArgumentError, match="placement is not valid"):
        fragmentation(PlacementProblem(CLUSTER, (BIG,)), Placement({"big": [Slot("node-0", 9, 950)]}))


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 250)), max_size=6))
def test_levels_add_up(demands: list[tuple[int, int]]) -> None:
    """GPUs add up to nodes and nodes to the cluster, and all shares lie in 0..1."""
    instances = tuple(Instance(f"i{k}", "inference", r, min(1000, 2 * r), m) for k, (r, m) in enumerate(demands))
    placement = Placement({f"i{k}": [Slot(f"node-{k % 2}", k // 2 % 2, m)] for k, (_, m) in enumerate(demands)})
    report = fragmentation(PlacementProblem(CLUSTER, instances), placement)
    for name in ("request_milli", "limit_milli", "memory_mib"):
        whole = getattr(report.cluster, name)
        assert whole.free == sum(getattr(each, name).free for each in report.nodes.values())
        assert whole.free == sum(getattr(each, name).free for each in report.gpus.values())
        assert 0.0 <= whole.fragmentation <= 1.0
    for level in (report.nodes, report.gpus):
        assert sum(each.unusable_milli for each in level.values()) == pytest.approx(report.cluster.unusable_milli)
    assert 0.0 <= report.cluster.unusable_share <= 1.0 + 1e-12
    assert FragmentationReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    everything = fragmentation(PlacementProblem(CLUSTER, instances), placement, over="all")
    assert len(everything.gpus) == 4
    assert everything.cluster == everything.everywhere == report.everywhere
    assert everything.stranded == report.stranded


def _two() -> tuple[PlacementProblem, Placement]:
    problem = PlacementProblem(CLUSTER, (BIG, SMALL))
    return problem, Placement({"big": [Slot("node-0", 0, 950)], "small": [Slot("node-0", 1, 100)]})


def test_what_is_unusable_depends_on_the_mix() -> None:
    """Beside the big one 400 milli are free but only 50 MiB: nothing for the small one, all for one without memory."""
    problem, placement = _two()
    small = fragmentation(problem, placement, mix=TaskMix.of([SMALL]))
    assert small.gpus["node-0", 0].unusable_milli == 400
    assert small.cluster.unusable_milli == small.everywhere.unusable_milli == 400
    assert small.cluster.unusable_share == pytest.approx(400 / (400 + 900))
    assert small.everywhere.unusable_share == pytest.approx(400 / (400 + 900 + 2000))
    lean = fragmentation(problem, placement, mix=TaskMix([400], [600], [50], [1], [0], [0], [1.0]))
    assert lean.everywhere.unusable_milli == 0
    pair = fragmentation(problem, placement, mix=TaskMix([1000], [1000], [1], [2], [0], [0], [1.0]))
    assert pair.cluster.unusable_milli == pair.everywhere.unusable_milli == 1300  # the empty node takes the gang
    both = fragmentation(
        problem, placement
    )  # its own two instances, half and half; the big one uses the second GPU not
    assert both.mix == TaskMix.of([BIG, SMALL])
    assert both.cluster.unusable_milli == pytest.approx(400 / 2 + (400 + 900) / 2)
    assert "expected over 2 shapes" in str(both)


def test_before_and_after_stand_side_by_side() -> None:
    """Moving the small one to an empty node leaves one more half-used; the table says what grew and by how much."""
    problem, placement = _two()
    before = fragmentation(problem, placement)
    after = fragmentation(problem, Placement({"big": [Slot("node-0", 0, 950)]}))
    change = after.change_from(before)
    rows = {title: (a, b) for title, a, b in change.rows()}
    assert rows["active GPUs"] == (2, 1)
    assert rows["SM request free"] == pytest.approx((1300 / 2000, 400 / 1000))
    assert rows["unusable milli"] == pytest.approx((850, 400 / 2 + 400 / 2))
    assert json.loads(json.dumps(change.to_dict()))["rows"]["active GPUs"]["change"] == -1
    assert "-25.0 pp" in str(change)
    with pytest.raises(InvalidArgumentError, match="before"):
        after.change_from("yesterday")  # type: ignore[arg-type]


@pytest.mark.parametrize(("more", "message"), [({"mix": "all"}, "mix is 'all'"), ({"over": "some"}, "over is 'some'")])
def test_other_arguments_are_refused(more: dict[str, Any], message: str) -> None:
    """A mix that is none, or GPUs that are neither active nor all."""
    with pytest.raises(InvalidArgumentError, match=message):
        fragmentation(*_two(), **more)


@pytest.mark.parametrize("lost", ["cluster", "mix", "stranded", "everywhere", "gpus"])
def test_a_report_with_parts_missing_is_refused(lost: str) -> None:
    """The error names what the document lacks."""
    document = fragmentation(*_two()).to_dict()
    del document[lost]
    with pytest.raises(InvalidArgumentError, match=rf"report.{lost} is missing"):
        FragmentationReport.from_dict(document)


def test_sums_beyond_the_greatest_integer_of_one_gpu_go_through_json() -> None:
    """Caps at the greatest integer add up to more than it; what no cluster can add up to is refused by name."""
    problem, placement = _two()
    vast = replace(problem, oversubscription=Oversubscription(1000, LARGEST))
    report = fragmentation(vast, placement, over="all")
    assert report.cluster.limit_milli.capacity > LARGEST
    document = json.loads(json.dumps(report.to_dict()))
    assert FragmentationReport.from_dict(document) == report
    for path, value in (("capacity", 10**30), ("capacity", True), ("free", report.cluster.limit_milli.capacity + 1)):
        broken = json.loads(json.dumps(document))
        broken["cluster"]["limit_milli"][path] = value
        with pytest.raises(InvalidArgumentError, match=rf"report.cluster.limit_milli.{path} is"):
            FragmentationReport.from_dict(broken)


def test_what_is_stranded_does_not_depend_on_the_mix() -> None:
    """The mix says what is unusable; stranded is what the problem's own instances could not use."""
    problem, placement = _two()
    other = TaskMix.of([Instance("x", "inference", 1000, 1000, 1)])
    reports = [fragmentation(problem, placement, mix=mix) for mix in (None, other)]
    assert reports[0].stranded == reports[1].stranded
    assert reports[0].cluster.unusable_milli != reports[1].cluster.unusable_milli
