"""What a scheduler waits for: the extender's answers on a cluster of 200 nodes (800 GPUs) that holds 1,500 pods.

kube-scheduler gives an extender 5 s by default, and asks it twice for every pod. "full": no node has room, so that
the reasons are worked out as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from dilu_core.adapters import kubernetes as k8s
from dilu_core.cluster import Cluster, GpuType
from dilu_core.instances import Instance
from dilu_core.solvers.placement.online import ClusterState

NODES, PODS = 200, 1500


@cache
def state() -> ClusterState:
    """Nearly all GPUs hold two pods of 400 milli."""
    filled = ClusterState(Cluster.homogeneous(NODES, 4, GpuType("A100", 40_960)))
    for i in range(PODS):
        filled.place(Instance(f"default/pod-{i}", "inference", 400, 600, 8000, function=f"f{i % 7}"))
    return filled


def args(request_milli: int) -> dict[str, Any]:
    """ExtenderArgs of one pod for all nodes."""
    made = k8s.pod_resources(
        Instance("template", "inference", request_milli, max(request_milli, 300), 9000, function="f1")
    ).applied_to()
    made["metadata"]["name"] = "new"
    return {"Pod": made, "Nodes": None, "NodeNames": [node.name for node in state().cluster.nodes]}


@pytest.mark.benchmark(group="scheduler extender: 200 nodes, 1500 pods")
@pytest.mark.parametrize(
    ("verb", "request_milli"),
    [(k8s.filter, 100), (k8s.filter, 1000), (k8s.prioritize, 100)],
    ids=["filter", "filter (full nodes explained)", "prioritize"],
)
def test_answers(benchmark: Any, verb: Callable[..., Any], request_milli: int) -> None:
    """One answer of the extender."""
    asked, here = args(request_milli), state()
    benchmark.extra_info["nodes"] = NODES
    benchmark(verb, asked, here)


@pytest.mark.benchmark(group="scheduler extender: 200 nodes, 1500 pods")
def test_books(benchmark: Any) -> None:
    """A pod is assigned to the first node that passes, and released."""
    asked, here = args(100), state()
    node = k8s.filter(asked, here)["NodeNames"][0]

    def run() -> None:
        assert k8s.assigned(here, asked["Pod"], node).placed
        assert k8s.released(here, asked["Pod"])

    benchmark(run)
