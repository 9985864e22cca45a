"""The scheduler extender: what it lets through is what has room, in kube-scheduler's own format."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.adapters import kubernetes as k8s
from dilu_core.cluster import Cluster, GpuType, Node
from dilu_core.errors import InvalidArgumentError
from dilu_core.instances import Instance
from dilu_core.mig import A100_40GB
from dilu_core.solvers.placement.online import ClusterState

A100 = GpuType("A100", 40_000)


def _pod(name: str, request: int = 400, limit: int = 600, memory: int = 8000, **more: Any) -> dict[str, Any]:
    instance = Instance("template", "inference", request, limit, memory, **more)
    fragment = k8s.pod_resources(instance).applied_to()
    fragment["metadata"]["name"] = name
    return fragment


def _names(pod: dict[str, Any], *nodes: str) -> dict[str, Any]:
    return {"Pod": pod, "Nodes": None, "NodeNames": list(nodes)}


def _state() -> ClusterState:
    """`a` is nearly full, `b` is empty, `c` has small GPUs."""
    cluster = Cluster((Node("a", A100, 1), Node("b", A100, 2), Node("c", GpuType("T4", 4000), 1)))
    state = ClusterState(cluster)
    assert k8s.assigned(state, _pod("old", 700, 900), "a").placed
    return state


def test_filter_says_where_there_is_room_and_why_elsewhere_not() -> None:
    """Full now: FailedNodes; never, even alone: FailedAndUnresolvableNodes; nothing given is changed."""
    state, args = _state(), _names(_pod("new"), "a", "b", "c", "cpu-only")
    before, booked = copy.deepcopy(args), state.to_dict()
    answer = k8s.filter(args, state)
    assert (args, state.to_dict()) == (before, booked)
    assert answer["NodeNames"] == ["b"]
    assert answer["Nodes"] is None
    assert answer["Error"] == ""
    assert set(answer["FailedNodes"]) == {"a"}
    assert "request on 1" in answer["FailedNodes"]["a"]
    never = answer["FailedAndUnresolvableNodes"]
    assert "4000" in never["c"]
    assert "not a node" in never["cpu-only"]
    assert json.loads(json.dumps(answer)) == answer
    terse = k8s.filter(args, state, explained=0)
    assert terse["FailedNodes"] == {"a": "no GPU of the node has room for it now"}


def test_nodes_come_back_as_nodes_and_keys_in_any_case() -> None:
    """An extender without a node cache is sent NodeList and answers with one; Go reads keys in any case."""
    items = [{"metadata": {"name": name, "labels": {"x": name}}} for name in "abc"]
    answer = k8s.filter({"pod": _pod("new"), "nodes": {"items": items}}, _state())
    assert answer["NodeNames"] is None
    assert answer["Nodes"]["items"] == [items[1]]
    assert answer["Nodes"]["kind"] == "NodeList"
    assert k8s.prioritize({"pod": _pod("new"), "nodenames": ["b"], "nodes": None}, _state()) == [
        {"Host": "b", "Score": 10}
    ]


def test_priorities_rank_nodes_as_the_state_would() -> None:
    """A started GPU before an empty one (best fit), and 0 without room."""
    state = _state()
    scores = k8s.prioritize(_names(_pod("new", 200, 300), "b", "a", "c"), state)
    assert scores == [{"Host": "b", "Score": 1}, {"Host": "a", "Score": 10}, {"Host": "c", "Score": 0}]


def test_a_pod_goes_through_the_books() -> None:
    """Assigned once, on the node chosen; then only that node passes; released, it is gone."""
    state, pod = _state(), _pod("new")
    decision = k8s.assigned(state, pod, "b")
    assert (decision.placed, decision.node, decision.slots[0].memory_mib) == (True, "b", 8000)
    again = k8s.filter(_names(pod, "a", "b", "c"), state)
    assert (again["NodeNames"], set(again["FailedNodes"])) == (["b"], {"a", "c"})
    assert k8s.prioritize(_names(pod, "a", "b"), state)[1]["Score"] == 10
    with pytest.raises(InvalidArgumentError, match="booked already"):
        k8s.assigned(state, pod, "b")
    assert k8s.released(state, pod)
    assert not k8s.released(state, pod)
    full = k8s.assigned(state, pod, "a")
    assert not full.placed
    assert "default/new" not in state


def test_a_pod_without_a_gpu_takes_its_part_of_the_host() -> None:
    """It may go anywhere, scores nothing, and books CPU and memory."""
    state = ClusterState(Cluster((Node("a", A100, 1, cpu_milli=1000, memory_mib=1000),)))
    pod = {
        "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "800m", "memory": "1Mi"}}}]},
    }
    assert k8s.filter(_names(pod, "a", "elsewhere"), state)["NodeNames"] == ["a", "elsewhere"]
    assert k8s.prioritize(_names(pod, "a"), state) == [{"Host": "a", "Score": 0}]
    assert k8s.assigned(state, pod, "a").placed
    assert k8s.filter(_names(pod, "a", "elsewhere"), state)["NodeNames"] == ["a"]
    asks = _pod("gpu", cpu_milli=300)
    assert "host CPU" in k8s.filter(_names(asks, "a"), state)["FailedNodes"]["a"]
    assert k8s.released(state, pod)
    assert k8s.filter(_names(asks, "a"), state)["NodeNames"] == ["a"]


def test_gangs_and_partitions_are_placed_too() -> None:
    """Two GPUs of one node at once; a partition of a GPU in MIG mode."""
    state = ClusterState(
        Cluster((Node("a", A100, 1), Node("b", A100, 2), Node("m", GpuType("MIG", 40_960, mig=A100_40GB), 1)))
    )
    gang = _pod("gang", 500, 500, 100, gpus=2)
    answer = k8s.filter(_names(gang, "a", "b", "m"), state)
    assert answer["NodeNames"] == ["b"]
    assert set(answer["FailedAndUnresolvableNodes"]) == {"a", "m"}
    assert {slot.gpu for slot in k8s.assigned(state, gang, "b").slots} == {0, 1}
    part = k8s.assigned(state, _pod("part"), "m")
    assert part.slots[0].mig is not None
    assert part.slots[0].mig.profile == "3g.20gb"


def test_a_pod_that_cannot_be_understood_stays_pending_with_the_reason() -> None:
    """The scheduler shows the Error; no node passes; nothing is raised."""
    pod = {"metadata": {"name": "p", "annotations": {"gpu-fraction": "much"}}}
    answer = k8s.filter(_names(pod, "a", "b"), _state())
    assert answer["NodeNames"] == []
    assert "gpu-fraction is 'much'" in answer["Error"]
    assert [each["Score"] for each in k8s.prioritize(_names(pod, "a", "b"), _state())] == [0, 0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"NodeNames": []}, "args.Pod"),
        ({"Pod": {}}, "args.Nodes is missing"),
        ({"Pod": {}, "NodeNames": "ab"}, "args.NodeNames"),
        ({"Pod": {}, "Nodes": {"items": [{}]}}, r"args.Nodes.items\[0\].metadata.name"),
        (7, "args is 7"),
    ],
)
def test_malformed_arguments_are_named(args: Any, message: str) -> None:
    """What no scheduler sends is a mistake of the host's."""
    with pytest.raises(InvalidArgumentError, match=message):
        k8s.filter(args, _state())


def test_only_nodes_of_the_cluster_are_assigned() -> None:
    """The error names the node."""
    with pytest.raises(InvalidArgumentError, match="node is 'x'"):
        k8s.assigned(_state(), _pod("new"), "x")


_SHARES = st.tuples(st.integers(1, 10), st.integers(0, 4), st.integers(1, 30)).map(
    lambda drawn: (100 * drawn[0], min(1000, 100 * (drawn[0] + drawn[1])), 1000 * drawn[2])
)
_SHAPES = st.sampled_from([{"gpus": 1}, {"gpus": 2}, {"splittable": True}])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(_SHARES, st.integers(1, 2)), max_size=9),
    _SHARES,
    _SHAPES,
    st.sampled_from(["best-fit", "fragmentation-gradient"]),
)
def test_what_passes_is_what_has_room(
    booked: list[tuple[tuple[int, int, int], int]], wanted: tuple[int, int, int], shape: dict[str, Any], rule: Any
) -> None:
    """Against trying every node for itself; and where all are candidates, the state's own choice scores 10."""
    mig = Node("m", GpuType("MIG", 40_960, mig=A100_40GB), 1)
    cluster = Cluster((Node("a", A100, 1), Node("b", A100, 2), Node("c", GpuType("T4", 16_000), 2), mig))
    state = ClusterState(cluster, rule=rule)
    for i, (shares, size) in enumerate(booked):
        state.place(Instance(f"default/{i}", "inference", *shares, gpus=size))
    pod, nodes = _pod("new", *wanted, **shape), [node.name for node in cluster.nodes]
    answer = k8s.filter(_names(pod, *nodes), state)
    has_room = []
    for node in nodes:
        copied = ClusterState.from_dict(state.to_dict())
        if k8s.assigned(copied, pod, node).placed:
            has_room.append(node)
            assert copied.placement()["default/new"][0].node == node
    assert answer["NodeNames"] == has_room
    assert {*answer["FailedNodes"], *answer["FailedAndUnresolvableNodes"]} == set(nodes) - set(has_room)
    best = {each["Host"] for each in k8s.prioritize(_names(pod, *nodes), state) if each["Score"] == 10}
    instance = k8s.instance_from_pod(pod)
    assert instance is not None
    chosen = state.place(instance)
    assert chosen.placed == bool(has_room)
    if chosen.placed:
        assert chosen.node in best


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: k8s.filter(_names(_pod("p"), "a"), None), "state is None"),  # type: ignore[arg-type]
        (lambda: k8s.prioritize(_names(_pod("p"), "a"), 5), "state is 5"),  # type: ignore[arg-type]
        (lambda: k8s.assigned(None, _pod("p"), "a"), "state is None"),  # type: ignore[arg-type]
        (lambda: k8s.released(None, _pod("p")), "state is None"),  # type: ignore[arg-type]
        (lambda: k8s.assigned(_state(), _pod("p"), ["a"]), r"node is \['a'\]"),  # type: ignore[arg-type]
        (lambda: k8s.assigned(_state(), None, "a"), "pod.metadata.name is None"),  # type: ignore[arg-type]
        (lambda: k8s.filter(_names(_pod("p"), "a"), _state(), gpu_memory_mib=-1), "gpu_memory_mib is -1"),
        (lambda: k8s.prioritize(_names(_pod("p"), "a"), _state(), gpu_memory_mib="x"), "gpu_memory_mib is 'x'"),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_the_host_are_named(action: Any, message: str) -> None:
    """They are no fault of the pod's, which would stay pending for them."""
    with pytest.raises(InvalidArgumentError, match=message):
        action()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "3", "{"])
def test_an_annotation_that_cannot_be_read_is_an_error_of_the_pod(text: str) -> None:
    """Whatever a user writes there, the extender answers."""
    pod = {"metadata": {"name": "p", "annotations": {k8s.INSTANCE_ANNOTATION: text}}}
    answer = k8s.filter(_names(pod, "a", "b"), _state())
    assert answer["NodeNames"] == []
    assert "expected JSON as pod_resources writes it" in answer["Error"]
