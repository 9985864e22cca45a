"""The kernels of FGD's measure against the definition in plain Python, and each against the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels.cpu.fragmentation import (
    node_fragmentation,
    node_fragmentation_after,
    node_fragmentation_each,
)


def by_definition(free: Any, cpu: int, memory: int, shapes: Any, weight: Any) -> float:
    """F_n from the docstring's words: list the GPUs with room, count them, and add up what the rest hold free."""
    expected = 0.0
    for shape, share in zip(shapes, weight, strict=True):
        with_room = [g for g, row in enumerate(free) if all(row[k] >= shape[k] for k in range(3))]
        runs = 0 < shape[3] <= len(with_room) and shape[4] <= cpu and shape[5] <= memory
        unusable = [row[0] for g, row in enumerate(free) if not runs or g not in with_room]
        expected += share * sum(unusable)
    return expected


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, Any]:
    """A node of 1-5 GPUs between two others' rows, its host, and a mix of up to 6 shapes, CPU-only ones among them."""
    size = draw(st.integers(1, 5))
    rows = draw(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=size + 2, max_size=size + 2))
    shape = st.tuples(*[st.integers(0, 5)] * 3, st.integers(0, 4), st.integers(0, 5), st.integers(0, 5))
    shapes = draw(st.lists(shape, max_size=6))
    weight = draw(st.lists(st.floats(0.0, 1.0), min_size=len(shapes), max_size=len(shapes)))
    return {
        "free": np.array(rows, np.int64),
        "start": 1,
        "stop": 1 + size,
        "host_cpu": draw(st.integers(0, 8)),
        "host_memory": draw(st.integers(0, 8)),
        "shapes": np.array(shapes, np.int64).reshape(-1, 6),
        "weight": np.array(weight, np.float64),
    }


@given(nodes())
def test_the_kernel_computes_the_definition(node: dict[str, Any]) -> None:
    """F_n equals the definition for any node and mix, and rows of other nodes do not matter."""
    own = node["free"][1:-1].tolist()
    expected = by_definition(own, node["host_cpu"], node["host_memory"], node["shapes"].tolist(), node["weight"])
    assert node_fragmentation(**node) == pytest.approx(expected)


@given(nodes(), st.tuples(*[st.integers(0, 4)] * 5))
def test_each_gpu_in_one_pass_is_each_booking_by_itself(node: dict[str, Any], demand: tuple[int, ...]) -> None:
    """What the one-pass kernel says of every GPU is, bit for bit, the measure of the node with that booking written."""
    request, limit, memory, cpu, on_host = demand
    before = node["free"].copy()
    after = np.full(node["stop"], -1.0)
    columns = np.ascontiguousarray(node["shapes"].T)
    now = node_fragmentation_each(
        **{key: value for key, value in node.items() if key != "shapes"}, columns=columns, request=request, limit=limit,
        memory=memory, cpu=cpu, memory_on_host=on_host, after=after, work=np.empty((3, columns.shape[1]), np.int64),
    )  # fmt: skip
    assert now == node_fragmentation(**node)
    host_fits = node["host_cpu"] >= cpu and node["host_memory"] >= on_host
    for i in range(node["stop"] - 1):
        row = 1 + i
        if not host_fits or (node["free"][row] < [request, limit, memory]).any():
            assert after[i] == np.inf
            continue
        alone = node_fragmentation_after(**node, chosen=np.array([row]), count=1, request=request, limit=limit,
                                         memory=np.array([memory]), cpu=cpu, memory_on_host=on_host)  # fmt: skip
        written = {**node, "free": node["free"].copy()}
        written["free"][row] -= [request, limit, memory]
        written["host_cpu"] -= cpu
        written["host_memory"] -= on_host
        assert after[i] == alone == node_fragmentation(**written)
    assert after[-1] == -1.0  # beyond the node's GPUs nothing is written
    assert (node["free"] == before).all()


@given(nodes(), st.data())
def test_a_gang_is_measured_as_if_it_were_written(node: dict[str, Any], data: st.DataObject) -> None:
    """A hypothetical gang with its own memory on every GPU changes no array and gives the written state's F_n."""
    rows = data.draw(st.lists(st.integers(1, node["stop"] - 1), unique=True))
    memory = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    before = node["free"].copy()
    found = node_fragmentation_after(
        **node, chosen=np.array([*rows, 0], np.int64), count=len(rows), request=1, limit=2,
        memory=np.array([*memory, 0], np.int64), cpu=1, memory_on_host=2,
    )  # fmt: skip
    assert (node["free"] == before).all()
    written = before.copy()
    for row, mib in zip(rows, memory, strict=True):
        written[row] -= [1, 2, mib]
    node |= {"free": written, "host_cpu": node["host_cpu"] - 1, "host_memory": node["host_memory"] - 2}
    assert found == node_fragmentation(**node)


def test_the_cases_of_the_paper() -> None:
    """A node with 0.6 and 0.3 GPUs free: what a share of 0.5, two GPUs, a CPU-only task and too much CPU cannot use."""
    free = np.array([[600, 1500, 100], [300, 1500, 100]], np.int64)
    one = np.ones(1)

    def unusable(*shape: int) -> float:
        return node_fragmentation(free, 0, 2, 4000, 100, np.array([shape], np.int64), one)

    assert unusable(500, 500, 0, 1, 0, 0) == 300  # the second GPU's rest is too small
    assert unusable(300, 300, 0, 2, 0, 0) == 0  # both take part of a gang
    assert unusable(500, 500, 0, 2, 0, 0) == 900  # only one of two has room: none of it helps
    assert unusable(0, 0, 0, 0, 1000, 0) == 900  # a task without GPUs uses no GPU share
    assert unusable(100, 100, 0, 1, 4001, 0) == 900  # no CPU left for it
    assert unusable(100, 100, 101, 1, 0, 0) == 900  # nor memory on any GPU
