"""A kube-scheduler extender over a `ClusterState`: filter, prioritize, and the books of what was bound.

Plain dictionaries in and out, as kube-scheduler sends and reads them in JSON; the HTTP server is the host's. Field
names are those of Go, `Pod`, `Nodes`, `NodeNames`, `FailedNodes`; they are read in any case, as Go does. Source:
https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/kube-scheduler/extender/v1/types.go and
pkg/scheduler/extender.go. The extender must see every pod that uses a GPU, and only one scheduler may use the state.

    filter(args, state)          which nodes have room, and why the others have not
    prioritize(args, state)      0 to 10: where the state would rather place it
    assigned(state, pod, node)   the scheduler has chosen: book it there
    released(state, pod)         the pod is gone, or its binding failed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dilu_core import _checks as check
from dilu_core.adapters.extender_books import Explainer, NodeBooks
from dilu_core.adapters.kubernetes_pods import host_demand, instance_from_pod, pod_name
from dilu_core.adapters.manifests import listed, mapping
from dilu_core.cluster import Instance
from dilu_core.errors import InvalidArgumentError, StateError
from dilu_core.instances import mib
from dilu_core.solvers.placement.migration_plan import Admission, MigrationPlan

if TYPE_CHECKING:
    from dilu_core.solvers.placement.decisions import PlacementDecision
    from dilu_core.solvers.placement.online import ClusterState

MOST_PRIORITY = 10
"""MaxExtenderPriority."""

_FOREIGN = "is not a node of this GPU cluster"


def filter(
    args: Mapping[str, Any], state: ClusterState, *, gpu_memory_mib: int | None = None, explained: int = 32
) -> dict[str, Any]:
    """ExtenderFilterResult for ExtenderArgs: the nodes of `args` with room for its pod, in the form they came in.

    `FailedNodes` says what stands in the way now, and `FailedAndUnresolvableNodes` where the pod would not fit even
    alone, so that preemption is of no use. Nodes of the same shape are explained once, and of those that are full the
    first `explained`. A pod that asks for no GPU may go anywhere. A pod that is booked already may go there only. A
    pod that cannot be understood is an `Error`, which leaves it pending and names what is wrong. `state` and `args`
    stay as they are. `gpu_memory_mib` as in `instance_from_pod`.

    Raises `InvalidArgumentError` for `args` without a pod, or without nodes.
    """
    asked = _asked(args, state, gpu_memory_mib)
    check.integer("explained", explained, at_least=0)
    try:
        instance = instance_from_pod(asked.pod, gpu_memory_mib=gpu_memory_mib)
        name = pod_name(asked.pod)
    except InvalidArgumentError as error:
        return asked.answer((), Error=str(error))
    if instance is None and name not in state:
        return asked.answer(asked.names)
    here = {node.name: node for node in state.cluster.nodes}
    failed, never = {}, {each: _FOREIGN for each in asked.names if each not in here}
    if name in state:
        node = _node_of(state, name)
        failed = {each: f"the pod is booked on {node}" for each in asked.names if each in here and each != node}
        return asked.answer([each for each in asked.names if each == node], FailedNodes=failed, Never=never)
    assert instance is not None
    room = _least_scores(state, instance)
    why = Explainer(state, instance, explained)
    for each in asked.names:
        if each in here and each not in room:
            hopeless, reason = why.reason(here[each])
            (never if hopeless else failed)[each] = reason
    return asked.answer([each for each in asked.names if each in room], FailedNodes=failed, Never=never)


def prioritize(
    args: Mapping[str, Any], state: ClusterState, *, gpu_memory_mib: int | None = None
) -> list[dict[str, Any]]:
    """HostPriorityList for ExtenderArgs: 10 for the node where `state` would place the pod (and its equals), 1 to 9 for
    the others with room by their rank, 0 for those without. A pod that asks for no GPU, or cannot be understood,
    scores 0 everywhere.

    Raises `InvalidArgumentError` for `args` without a pod, or without nodes.
    """
    asked = _asked(args, state, gpu_memory_mib)
    try:
        instance = instance_from_pod(asked.pod, gpu_memory_mib=gpu_memory_mib)
        name = pod_name(asked.pod)
    except InvalidArgumentError:
        instance, name = None, ""
    scores = {}
    if name in state:
        scores = {_node_of(state, name): MOST_PRIORITY}
    elif instance is not None:
        room = _least_scores(state, instance)
        levels = sorted({room[each] for each in asked.names if each in room})
        rank = {score: i for i, score in enumerate(levels)}
        steps = max(1, len(levels) - 1)
        for each in asked.names:
            if each in room:
                place = rank[room[each]]
                scores[each] = (
                    MOST_PRIORITY if place == 0 else MOST_PRIORITY - 1 - (place * (MOST_PRIORITY - 2)) // steps
                )
    return [{"Host": each, "Score": scores.get(each, 0)} for each in asked.names]


def assigned(
    state: ClusterState, pod: Mapping[str, Any], node: str, *, gpu_memory_mib: int | None = None
) -> PlacementDecision:
    """Book `pod` on `node`, on the GPUs that suit it best there; the decision names them, or says why there is none.

    Where no GPU of the node has room any more, `state` stays as it is. A pod without GPUs books its CPU and memory.
    Raises `InvalidArgumentError` for a node that is not in the cluster, or a pod that cannot be understood or is
    booked already.
    """
    _expect(state)
    here = {each.name: each for each in state.cluster.nodes}
    if check.text("node", node) not in here:
        check.fail("node", f"is {node!r:.80}, which {_FOREIGN}.")
    instance, name = instance_from_pod(pod, gpu_memory_mib=gpu_memory_mib), pod_name(pod)
    if name in state:
        check.fail("pod", f"is {name!r}, which is booked already; call released first.")
    if instance is None:
        cpu, memory = host_demand(pod)
        return state.reserve_host(name, cpu_milli=cpu, memory_mib=memory, node=node)
    decision = NodeBooks(state).only(here[node]).place(instance)
    if decision.placed:
        used = state.gpus_used
        state.apply(MigrationPlan((), used, used, (Admission(instance, decision.slots),)))
    return decision


def released(state: ClusterState, pod: Mapping[str, Any]) -> bool:
    """Take `pod` off the books; whether it was on them."""
    _expect(state)
    try:
        state.remove(pod_name(pod))
    except StateError:
        return False
    return True


class _Asked(NamedTuple):
    """The pod, the names of the candidate nodes, and the nodes themselves where they came along."""

    pod: Mapping[str, Any]
    names: list[str]
    nodes: list[Mapping[str, Any]] | None

    def answer(self, passed: Any, *, Never: Mapping[str, str] | None = None, **rest: Any) -> dict[str, Any]:  # noqa: N803
        kept = set(passed)
        nodes = None
        if self.nodes is not None:
            items = [node for node, name in zip(self.nodes, self.names, strict=True) if name in kept]
            nodes = {"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items}
        return {
            "Nodes": nodes,
            "NodeNames": [name for name in self.names if name in kept] if nodes is None else None,
            "FailedNodes": {},
            "FailedAndUnresolvableNodes": dict(Never or {}),
            "Error": "",
            **rest,
        }


def _expect(state: object) -> None:
    from dilu_core.solvers.placement.online import ClusterState  # loaded already where the state is one

    if not isinstance(state, ClusterState):
        check.fail("state", f"is {state!r:.80}; expected a ClusterState.")


def _asked(args: Mapping[str, Any], state: ClusterState, gpu_memory_mib: int | None) -> _Asked:
    """The parts of `args`; the host's own arguments are checked with them, as they are no pod's fault."""
    _expect(state)
    if gpu_memory_mib is not None:
        mib("gpu_memory_mib", gpu_memory_mib, at_least=1)
    fields = {str(key).lower(): value for key, value in mapping("args", args).items()}
    if not isinstance(fields.get("pod"), Mapping):
        check.fail("args.Pod", f"is {fields.get('pod')!r:.80}; expected the pod to be scheduled.")
    if fields.get("nodenames") is not None:
        return _Asked(fields["pod"], list(check.instances_of("args.NodeNames", fields["nodenames"], str)), None)
    if fields.get("nodes") is None:
        check.fail("args.Nodes", "is missing, and so is NodeNames; expected one of the two.")
    nodes = listed("args.Nodes.items", mapping("args.Nodes", fields["nodes"]).get("items"))
    names = [
        check.text(f"args.Nodes.items[{i}].metadata.name", mapping("metadata", node.get("metadata")).get("name"))
        for i, node in enumerate(nodes)
    ]
    return _Asked(fields["pod"], names, nodes)


def _node_of(state: ClusterState, name: str) -> str:
    held = next((each.node for each in state.host_reservations if each.name == name), None)
    return held if held is not None else state.placement().slots(name)[0].node


def _least_scores(state: ClusterState, instance: Instance) -> dict[str, float]:
    """The nodes with room for `instance`, each with the score of its best GPU (less is better)."""
    nodes = state.cluster.nodes
    if not nodes:
        return {}
    scores = state.what_if([instance]).scores[0]
    starts = np.cumsum([0, *(node.gpus for node in nodes[:-1])])
    least = np.fmin.reduceat(scores, starts)  # nan only where every GPU of the node is
    room = {node.name: score for node, score in zip(nodes, least.tolist(), strict=True) if score == score}
    if state.mix is not None:  # placing by fragmentation gradient rates whole GPUs, where there are any, and no others
        books = NodeBooks(state)
        for node in nodes:
            other = node.gpu_type.mig is not None or instance.splittable
            if other and node.name not in room and books.only(node).what_if([instance])[0].placed:
                room[node.name] = np.inf
    return room
