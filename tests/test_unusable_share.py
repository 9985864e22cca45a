"""FGD's measure over a cluster: against the definition in plain Python, the kernel, and by hand on partitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.arrival_mix import TaskMix, TaskShape
from dilu_core.cluster import Cluster, GpuType, Node
from dilu_core.gpu_columns import UNLIMITED, GpuColumns, gpu_columns
from dilu_core.instances import Configuration, Instance
from dilu_core.kernels.cpu.fragmentation import node_fragmentation
from dilu_core.mig import MigGeometry, MigProfile, MigSlice
from dilu_core.placement import PlacementProblem
from dilu_core.slots import Placement, Slot
from dilu_core.unusable_share import expected_unusable

GPU = GpuType("A100", 10)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Cluster, GpuColumns, TaskMix]:
    """Up to 4 nodes of 1-4 GPUs in any state of hosts and GPUs, and a mix of up to 5 shapes."""
    sizes = draw(st.lists(st.integers(1, 4), max_size=4))
    n = sum(sizes)
    free = draw(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=n, max_size=n))
    host = draw(st.lists(st.tuples(*[st.integers(0, 6)] * 2), min_size=len(sizes), max_size=len(sizes)))
    shape = st.tuples(st.integers(0, 5), st.integers(5, 6), *[st.integers(0, 5)] * 4)
    weights = draw(st.dictionaries(shape, st.floats(0.1, 9.0), max_size=5))
    columns = GpuColumns(
        np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64),
        np.full((n, 3), 6, np.int64),
        np.array(free, np.int64).reshape(-1, 3),
        np.zeros(n, np.int64),
        np.array(host, np.int64).reshape(-1, 2),
        np.zeros(n, np.int64),
    )
    cluster = Cluster(tuple(Node(f"n{i}", GPU, size) for i, size in enumerate(sizes)))
    return cluster, columns, TaskMix.from_weights({TaskShape(*key): weight for key, weight in weights.items()})


@given(clusters())
def test_each_gpu_carries_what_is_lost_on_it(case: tuple[Cluster, GpuColumns, TaskMix]) -> None:
    """GPU by GPU the share equals the definition; summed over a node it is the kernel's F_n."""
    cluster, columns, mix = case
    found = expected_unusable(cluster, columns, mix)
    expected = []
    for i, node in enumerate(cluster.nodes):
        start = int(columns.node_start[i])
        rows = columns.free[start : start + node.gpus].tolist()
        cpu, memory = columns.host_free[i].tolist()
        for gpu in rows:
            lost = 0.0
            for (r, b, s, gpus, c, h), weight in zip(mix.shapes.tolist(), mix.weight.tolist(), strict=True):
                able = [each for each in rows if each[0] >= r and each[1] >= b and each[2] >= s]
                runs = 0 < gpus <= len(able) and c <= cpu and h <= memory
                lost += 0.0 if runs and gpu in able else weight * gpu[0]
            expected.append(lost)
        node_sum = found[start : start + node.gpus].sum()
        kernel = node_fragmentation(columns.free, start, start + node.gpus, cpu, memory, mix.shapes, mix.weight)
        assert node_sum == pytest.approx(kernel)
    assert found.tolist() == pytest.approx(expected)


HALVES = MigGeometry(2, (MigProfile("half", 500, 5, 1, (0, 1)), MigProfile("whole", 1000, 10, 2, (0,))))
SPLIT_GPU = GpuType("MIG", 10, mig=HALVES)


def _problem() -> tuple[PlacementProblem, Placement]:
    cluster = Cluster((Node("m", SPLIT_GPU, 2), Node("n", GPU, 2, cpu_milli=4000, memory_mib=100)))
    instances = (
        Instance("a", "inference", 100, 800, 2),
        Instance("b", "inference", 900, 900, 1, cpu_milli=3000, alternatives=(Configuration(300, 400, 6),)),
        Instance("c", "llm-inference", 200, 700, 6, splittable=True, host_memory_mib=10),
    )
    placement = Placement(
        {
            "a": [Slot("m", 0, 2, mig=MigSlice("half", 1))],
            "b": [Slot("n", 0, 6, configuration=1)],
            "c": [Slot("n", 0, 3), Slot("n", 1, 3)],
        }
    )
    return PlacementProblem(cluster, instances), placement


def test_columns_follow_the_rules_of_booking() -> None:
    """Limits are cut by partitions and splits, configurations and host demands are booked, slices are marked."""
    columns = gpu_columns(*_problem())
    assert columns.free.tolist() == [[900, 1000, 8], [1000, 1500, 10], [500, 900, 1], [800, 1300, 7]]
    assert columns.held.tolist() == [1, 0, 2, 1]
    assert columns.slices.tolist() == [0b10, 0, 0, 0]
    assert columns.host_free.tolist() == [[UNLIMITED, UNLIMITED], [1000, 90]]
    assert not columns.free.flags.writeable


def _lost(shape: TaskShape) -> list[float]:
    problem, placement = _problem()
    columns = gpu_columns(problem, placement)
    return [float(x) for x in expected_unusable(problem.cluster, columns, TaskMix.from_weights({shape: 1.0}))]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (TaskShape(400, 800, 5, 1, 0, 0), [0, 0, 500, 0]),  # a half is free on each partitioned GPU
        (TaskShape(600, 800, 5, 1, 0, 0), [900, 0, 500, 0]),  # the whole profile needs both halves
        (TaskShape(400, 400, 1, 2, 0, 0), [900, 1000, 0, 0]),  # gangs stay off partitioned GPUs
        (TaskShape(100, 100, 1, 1, 2000, 0), [0, 0, 500, 800]),  # the second host has 1000 milli of CPU left
    ],
)
def test_partitions_and_hosts_decide_by_hand(shape: TaskShape, expected: list[float]) -> None:
    """What each GPU loses for one shape is as worked out by hand."""
    assert _lost(shape) == expected


def test_no_cluster_and_no_mix_lose_nothing() -> None:
    """Nothing is unusable where nothing is free or nothing comes."""
    empty: Any = Cluster(())
    nothing = TaskMix.of([])
    assert expected_unusable(empty, gpu_columns(PlacementProblem(empty, ()), Placement()), nothing).tolist() == []
    problem, placement = _problem()
    assert expected_unusable(problem.cluster, gpu_columns(problem, placement), nothing).tolist() == [0.0] * 4
