"""Clusters, instances and caps: what is accepted, what is refused and by which name, and the way through JSON."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance, Node, Oversubscription
from dilu_core.errors import InvalidArgumentError

A100 = GpuType("A100", 40960)

GOOD: dict[str, Any] = {
    "name": "a",
    "kind": "inference",
    "request_milli": 200,
    "limit_milli": 400,
    "memory_mib": 1024,
}


def test_homogeneous_cluster_counts_its_gpus() -> None:
    """Four nodes of eight GPUs are 32 GPUs of one type, with distinct node names."""
    cluster = Cluster.homogeneous(4, 8, A100)
    assert cluster.gpus == 32
    assert cluster.gpu_types == (A100,)
    assert len({node.name for node in cluster.nodes}) == 4


def test_cluster_of_nothing_is_legal() -> None:
    """A cluster without nodes exists, and has no GPUs and no types."""
    assert Cluster(()).gpus == 0
    assert Cluster(()).gpu_types == ()
    assert Cluster.homogeneous(0, 4, A100) == Cluster(())


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: GpuType("", 1), "name"),
        (lambda: GpuType("A100", 0), "memory_mib"),
        (lambda: GpuType("A100", 1.5), "memory_mib"),  # type: ignore[arg-type]
        (lambda: Node("n", "A100", 4), "gpu_type"),  # type: ignore[arg-type]
        (lambda: Node("n", A100, 0), "gpus"),
        (lambda: Node("n", A100, True), "gpus"),
        (lambda: Node("n", A100, 1, cpu_milli=-1), "cpu_milli"),
        (lambda: Node("n", A100, 1, memory_mib=-1), "memory_mib"),
        (lambda: Cluster((A100,)), "nodes[0]"),  # type: ignore[arg-type]
        (lambda: Cluster((Node("n", A100, 1), Node("n", A100, 2))), "nodes[1]"),
        (lambda: Cluster((Node("n", A100, 1), Node("m", GpuType("A100", 81920), 2))), "nodes[1].gpu_type"),
        (lambda: Cluster.homogeneous(-1, 4, A100), "nodes"),
        (lambda: Cluster.homogeneous(np.array([1, 2]), 4, A100), "nodes"),  # type: ignore[arg-type]
        (lambda: Cluster.homogeneous(1, np.array(4), A100), "gpus_per_node"),  # type: ignore[arg-type]
        (lambda: Cluster.homogeneous(1, 0, A100), "gpus_per_node"),
        (lambda: Cluster.homogeneous(1, 2000, A100), "gpus_per_node"),
        (lambda: Cluster.homogeneous(0, 4, "A100"), "gpu_type"),  # type: ignore[arg-type]
        (lambda: GpuType("A100", 2**40 + 1), "memory_mib"),
        (lambda: Node("n", A100, 1, memory_mib=2**40 + 1), "memory_mib"),
        (lambda: Oversubscription(0, 1500), "request_milli"),
        (lambda: Oversubscription(1001, 1500), "request_milli"),
        (lambda: Oversubscription(1000, 999), "limit_milli"),
    ],
)
def test_bad_clusters_are_refused_by_name(make: Any, argument: str) -> None:
    """Each wrong argument raises an error that names it."""
    with pytest.raises(InvalidArgumentError) as caught:
        make()
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"name": " "}, "name"),
        ({"name": 3}, "name"),
        ({"kind": "batch"}, "kind"),
        ({"request_milli": 0}, "request_milli"),
        ({"request_milli": float("nan")}, "request_milli"),
        ({"limit_milli": 1001}, "limit_milli"),
        ({"limit_milli": 100}, "limit_milli"),
        ({"memory_mib": -1}, "memory_mib"),
        ({"memory_mib": "1024"}, "memory_mib"),
        ({"memory_mib": [1, 2]}, "memory_mib"),
        ({"memory_mib": [1, -2], "gpus": 2}, "memory_mib[1]"),
        ({"memory_mib": np.array(5)}, "memory_mib"),
        ({"memory_mib": b"ab", "gpus": 2}, "memory_mib"),
        ({"memory_mib": {1, 2}, "gpus": 2}, "memory_mib"),
        ({"memory_mib": {1: 2, 2: 3}, "gpus": 2}, "memory_mib"),
        ({"memory_mib": 2**40 + 1}, "memory_mib"),
        ({"memory_mib": [1, 2**40 + 1], "gpus": 2}, "memory_mib[1]"),
        ({"gpus": 0}, "gpus"),
        ({"gpus": 10**9}, "gpus"),
        ({"gpus": 2, "splittable": True}, "splittable"),
        ({"splittable": 1}, "splittable"),
        ({"affinity": "f"}, "affinity"),
        ({"affinity": ("f", "f")}, "affinity[1]"),
        ({"affinity": ("f",), "anti_affinity": ("f",)}, "affinity"),
        ({"anti_affinity": ("",)}, "anti_affinity[0]"),
        ({"gpu_types": ()}, "gpu_types"),
    ],
)
def test_bad_instances_are_refused_by_name(change: dict[str, Any], argument: str) -> None:
    """Each wrong field of an instance raises an error that names it."""
    with pytest.raises(InvalidArgumentError) as caught:
        Instance(**{**GOOD, **change})
    assert caught.value.argument == argument


def test_memory_is_per_gpu_of_a_gang() -> None:
    """One number stands for every GPU of a gang, and a list of equal numbers means the same."""
    one = Instance(**{**GOOD, "gpus": 3})
    assert one.memory_per_gpu_mib == (1024, 1024, 1024)
    assert one.total_memory_mib == 3072
    assert one == Instance(**{**GOOD, "gpus": 3, "memory_mib": [1024, 1024, 1024]})
    assert Instance(**{**GOOD, "gpus": 2, "memory_mib": [1, 2]}).memory_per_gpu_mib == (1, 2)


def test_values_are_frozen() -> None:
    """Nothing can be assigned to a value once it is made."""
    with pytest.raises(FrozenInstanceError):
        Instance(**GOOD).name = "b"  # type: ignore[misc]


names = st.text(min_size=1, max_size=8).filter(str.strip)


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    """Any legal instance, Unicode names included."""
    gpus = draw(st.integers(1, 4))
    request = draw(st.integers(1, 1000))
    functions = draw(st.lists(names, unique=True, max_size=4))
    cut = draw(st.integers(0, len(functions)))
    return Instance(
        draw(names),
        draw(st.sampled_from(["inference", "llm-inference", "training"])),
        request,
        draw(st.integers(request, 1000)),
        draw(
            st.one_of(st.integers(0, 10**6), st.lists(st.integers(0, 10**6), min_size=gpus, max_size=gpus).map(tuple))
        ),
        gpus=gpus,
        splittable=gpus == 1 and draw(st.booleans()),
        function=draw(st.one_of(st.just(""), names)),
        affinity=tuple(functions[:cut]),
        anti_affinity=tuple(functions[cut:]),
        gpu_types=draw(st.one_of(st.none(), st.lists(names, min_size=1, max_size=2, unique=True).map(tuple))),
    )


@given(instances())
def test_instances_survive_json_and_pickle(instance: Instance) -> None:
    """An instance read back from JSON, or unpickled, equals the one written."""
    assert Instance.from_dict(json.loads(json.dumps(instance.to_dict()))) == instance
    assert pickle.loads(pickle.dumps(instance)) == instance


@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from([A100, GpuType("H100", 81920)])), max_size=6))
def test_clusters_survive_json(shapes: list[tuple[int, GpuType]]) -> None:
    """A cluster read back from JSON equals the one written."""
    cluster = Cluster(tuple(Node(f"节点-{i}", kind, gpus, cpu_milli=i) for i, (gpus, kind) in enumerate(shapes)))
    assert Cluster.from_dict(json.loads(json.dumps(cluster.to_dict()))) == cluster


@pytest.mark.parametrize(
    ("data", "argument"),
    [
        ([], "cluster"),
        ({}, "cluster.version"),
        ({"version": 9}, "cluster.version"),
        ({"version": 1, "gpu_types": []}, "cluster.nodes"),
        ({"version": 1, "gpu_types": 3}, "cluster.gpu_types"),
        ({"version": 1, "gpu_types": [3]}, "cluster.gpu_types[0]"),
        ({"version": 1, "gpu_types": [{"name": "A"}]}, "cluster.gpu_types[0].memory_mib"),
        ({"version": 1, "gpu_types": [], "nodes": [{"gpu_type": "A"}]}, "cluster.nodes[0].gpu_type"),
        (
            {
                "version": 1,
                "gpu_types": [{"name": "A", "memory_mib": 1}],
                "nodes": [{"name": "n", "gpu_type": "A", "gpus": 0}],
            },
            "cluster.nodes[0].gpus",
        ),
    ],
)
def test_corrupt_cluster_documents_name_the_fault(data: Any, argument: str) -> None:
    """A corrupt document raises an error that names the entry at fault."""
    with pytest.raises(InvalidArgumentError) as caught:
        Cluster.from_dict(data)
    assert caught.value.argument == argument
