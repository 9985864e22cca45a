"""Whether a placement keeps every rule, told from the definitions alone: no code is shared with the solvers.

All slots of an instance lie on distinct GPUs of one node. What it books on the GPU of each of its slots:

    placed whole (one slot, or a gang)    request      limit      the slot's memory
    split over k > 1 slots                request      request    the slot's memory, a positive part of the instance's
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dilu_core.cluster import Cluster, Instance, Node, Oversubscription
from dilu_core.slots import Slot


class ViolationCode(StrEnum):
    """What a placement breaks."""

    UNKNOWN_INSTANCE = "unknown-instance"
    UNKNOWN_NODE = "unknown-node"
    UNKNOWN_GPU = "unknown-gpu"
    GPU_COUNT = "gpu-count"
    SEVERAL_NODES = "several-nodes"
    SAME_GPU = "same-gpu"
    SLOT_MEMORY = "slot-memory"
    GPU_TYPE = "gpu-type"
    REQUEST_CAPACITY = "request-capacity"
    LIMIT_CAPACITY = "limit-capacity"
    MEMORY_CAPACITY = "memory-capacity"
    ANTI_AFFINITY = "anti-affinity"
    UNPLACED = "unplaced"


@dataclass(frozen=True)
class Violation:
    """One rule broken: its `code`, a plain sentence, and the instance (`""` where the fault is a GPU's) it concerns."""

    code: ViolationCode
    message: str
    instance: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def violations(
    cluster: Cluster,
    instances: Iterable[Instance],
    caps: Oversubscription,
    placement: Mapping[str, tuple[Slot, ...]],
    *,
    require_all: bool = False,
) -> tuple[Violation, ...]:
    """Every rule that `placement` of `instances` on `cluster` breaks: see `dilu_core.placement.verify_placement`."""
    nodes = {node.name: node for node in cluster.nodes}
    known = {instance.name: instance for instance in instances}
    found: list[Violation] = []
    on_gpu: defaultdict[tuple[str, int], list[tuple[Instance, int, int]]] = defaultdict(list)  # instance, limit, memory
    for name, slots in placement.items():
        if name not in known:
            found.append(Violation(ViolationCode.UNKNOWN_INSTANCE, f"{name!r} is not in the problem.", name))
            continue
        instance = known[name]
        found += _shape_violations(instance, slots) + _place_violations(instance, slots, nodes)
        is_split = instance.gpus == 1 and len(slots) > 1
        limit = instance.request_milli if is_split else instance.limit_milli
        for slot in slots:
            if slot.node in nodes and slot.gpu < nodes[slot.node].gpus:
                on_gpu[slot.node, slot.gpu].append((instance, limit, slot.memory_mib))
    for (node, gpu), held in on_gpu.items():
        found += _gpu_violations(f"GPU {gpu} of {node!r}", nodes[node], held, caps)
    if require_all:
        missing = [name for name in known if name not in placement]
        found += [Violation(ViolationCode.UNPLACED, f"{name!r} has no slot.", name) for name in missing]
    return tuple(found)


def _shape_violations(instance: Instance, slots: tuple[Slot, ...]) -> list[Violation]:
    """Number of slots, one node, distinct GPUs, memory of each slot."""
    found = []

    def broken(code: ViolationCode, message: str) -> None:
        found.append(Violation(code, f"{instance.name!r} {message}", instance.name))

    used_nodes = {slot.node for slot in slots}
    if len(used_nodes) > 1:
        broken(ViolationCode.SEVERAL_NODES, f"lies on {len(used_nodes)} nodes; all its GPUs must be of one.")
    if len({(slot.node, slot.gpu) for slot in slots}) < len(slots):
        broken(ViolationCode.SAME_GPU, "has two slots on one GPU.")
    memory = [slot.memory_mib for slot in slots]
    if instance.splittable and len(slots) > 1:
        total = instance.total_memory_mib
        if sum(memory) != total:
            broken(ViolationCode.SLOT_MEMORY, f"takes {sum(memory)} MiB in parts; it needs {total}.")
        if min(memory) <= 0:
            broken(ViolationCode.SLOT_MEMORY, "has a part without memory.")
    elif len(slots) != instance.gpus:
        broken(ViolationCode.GPU_COUNT, f"has {len(slots)} slots; it needs {instance.gpus}.")
    elif sorted(memory) != sorted(instance.memory_per_gpu_mib):
        wanted = ", ".join(map(str, instance.memory_per_gpu_mib))
        broken(ViolationCode.SLOT_MEMORY, f"takes {', '.join(map(str, memory))} MiB; it needs {wanted}.")
    return found


def _place_violations(instance: Instance, slots: tuple[Slot, ...], nodes: Mapping[str, Node]) -> list[Violation]:
    """Nodes and GPUs that do not exist, or are of a type the instance does not run on."""
    found = []
    for slot in slots:
        node = nodes.get(slot.node)
        if node is None:
            code, message = ViolationCode.UNKNOWN_NODE, f"lies on {slot.node!r}, which is not in the cluster."
        elif slot.gpu >= node.gpus:
            code, message = ViolationCode.UNKNOWN_GPU, f"lies on GPU {slot.gpu} of {slot.node!r} (it has {node.gpus})."
        elif instance.gpu_types is not None and node.gpu_type.name not in instance.gpu_types:
            wanted = ", ".join(instance.gpu_types)
            code, message = ViolationCode.GPU_TYPE, f"lies on a {node.gpu_type.name}; it runs on {wanted}."
        else:
            continue
        found.append(Violation(code, f"{instance.name!r} {message}", instance.name))
    return found


def _gpu_violations(
    where: str, node: Node, held: list[tuple[Instance, int, int]], caps: Oversubscription
) -> list[Violation]:
    """Sums over one GPU against its caps, and functions that must not meet on it."""
    found = []
    requests = sum(instance.request_milli for instance, _, _ in held)
    limits = sum(limit for _, limit, _ in held)
    memory = sum(slot_memory for _, _, slot_memory in held)
    sums = (
        (ViolationCode.REQUEST_CAPACITY, "milli of requests", requests, caps.request_milli),
        (ViolationCode.LIMIT_CAPACITY, "milli of limits", limits, caps.limit_milli),
        (ViolationCode.MEMORY_CAPACITY, "MiB of memory", memory, node.gpu_type.memory_mib),
    )
    for code, what, total, cap in sums:
        if total > cap:
            found.append(Violation(code, f"{where} holds {total} {what}; its cap is {cap}."))
    functions = Counter(instance.function for instance, _, _ in held)
    for instance, _, _ in held:
        for refused in instance.anti_affinity:
            others = functions[refused] - (refused == instance.function)
            if others > 0:
                message = f"{instance.name!r} shares {where} with function {refused!r}, which it must not."
                found.append(Violation(ViolationCode.ANTI_AFFINITY, message, instance.name))
    return found
