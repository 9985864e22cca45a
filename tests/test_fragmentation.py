"""The fragmentation report: by hand on a small case, and consistent sums on any."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance
from dilu_core.errors import InvalidArgumentError
from dilu_core.fragmentation import fragmentation
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
