"""What is booked on single nodes of a `ClusterState`, and why an instance has no room on one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dilu_core.cluster import Cluster, Instance, Node
from dilu_core.slots import Placement

if TYPE_CHECKING:
    from dilu_core.solvers.placement.online import ClusterState

_NO_ROOM = "no GPU of the node has room for it now"


class NodeBooks:
    """What is booked on each node of a state as it is now."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._instances = {each.name: each for each in state.instances}
        self._placement = state.placement()
        self._names: dict[str, dict[str, None]] = {}
        for (node, _), names in self._placement.by_gpu.items():
            self._names.setdefault(node, {}).update(dict.fromkeys(names))

    def only(self, node: Node) -> ClusterState:
        """The state of `node` alone."""
        alone = _empty_node(self._state, node)
        document, names = alone.to_dict(), self._names.get(node.name, {})
        document["instances"] = [self._instances[name].to_dict() for name in names]
        document["placement"] = Placement({name: self._placement[name] for name in names}).to_dict()
        document["host_reservations"] = [
            {"name": each.name, "node": each.node, "cpu_milli": each.cpu_milli, "memory_mib": each.memory_mib}
            for each in self._state.host_reservations
            if each.node == node.name
        ]
        return type(alone).from_dict(document)


def _empty_node(state: ClusterState, node: Node) -> ClusterState:
    """The state of `node` alone with nothing on it."""
    return type(state)(Cluster((node,)), oversubscription=state.oversubscription)


class Explainer:
    """Why nodes have no room for an instance."""

    def __init__(self, state: ClusterState, instance: Instance, explained: int) -> None:
        self._state, self._instance, self._left = state, instance, explained
        self._never: dict[tuple[object, ...], str | None] = {}
        self._books: NodeBooks | None = None

    def reason(self, node: Node) -> tuple[bool, str]:
        """Whether it would not fit there even alone, and the reason in words."""
        shape = (node.gpu_type, node.gpus, node.cpu_milli, node.memory_mib)
        if shape not in self._never:
            alone = _empty_node(self._state, node).what_if([self._instance])[0]
            self._never[shape] = None if alone.placed else alone.reason
        never = self._never[shape]
        if never is not None:
            return True, never
        if self._left <= 0:
            return False, _NO_ROOM
        self._left -= 1
        self._books = self._books or NodeBooks(self._state)
        return False, self._books.only(node).what_if([self._instance])[0].reason
