"""Whether a placement keeps every rule, told from the definitions alone: no code is shared with the solvers.

All slots of an instance lie on distinct GPUs of one node. What it books on the GPU of each of its slots:

    placed whole (one slot, or a gang)    request      limit      the slot's memory
    split over k > 1 slots                request      request    the slot's memory, a positive part of the instance's
    on a partition (MIG)                  request      limit, at most the partition's share      the slot's memory

of the quota configuration that its slots name. Its CPU and host memory are booked once, on its node.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dilu_core.cluster import Cluster, Configuration, Instance, Node, Oversubscription
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
    CONFIGURATION = "configuration"
    PARTITION = "partition"
    CPU_CAPACITY = "cpu-capacity"
    HOST_MEMORY_CAPACITY = "host-memory-capacity"
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
    on_gpu: defaultdict[tuple[str, int], list[_Held]] = defaultdict(list)
    on_node: defaultdict[str, list[Instance]] = defaultdict(list)
    for name, slots in placement.items():
        if name not in known:
            found.append(Violation(ViolationCode.UNKNOWN_INSTANCE, f"{name!r} is not in the problem.", name))
            continue
        instance = known[name]
        broken = _configuration_violations(instance, slots)
        number = 0 if broken else slots[0].configuration
        configuration = instance.configurations[number]
        found += broken + _shape_violations(instance, configuration, slots)
        found += _place_violations(instance, configuration, slots, nodes)
        is_split = instance.gpus == 1 and len(slots) > 1
        limit = configuration.request_milli if is_split else configuration.limit_milli
        for slot in slots:
            if slot.node in nodes and slot.gpu < nodes[slot.node].gpus:
                held = _Held(instance, configuration.request_milli, limit, slot)
                on_gpu[slot.node, slot.gpu].append(held)
        for node in {slot.node for slot in slots if slot.node in nodes}:
            on_node[node].append(instance)
    for (node, gpu), here in on_gpu.items():
        found += _gpu_violations(f"GPU {gpu} of {node!r}", nodes[node], here, caps)
    for node, there in on_node.items():
        found += _host_violations(nodes[node], there)
    if require_all:
        missing = [name for name in known if name not in placement]
        found += [Violation(ViolationCode.UNPLACED, f"{name!r} has no slot.", name) for name in missing]
    return tuple(found)


@dataclass(frozen=True)
class _Held:
    """What an instance books on one GPU; on a partition the limit is cut to the partition's share."""

    instance: Instance
    request_milli: int
    limit_milli: int
    slot: Slot


def _configuration_violations(instance: Instance, slots: tuple[Slot, ...]) -> list[Violation]:
    """One configuration that the instance has, in all slots."""
    numbers = {slot.configuration for slot in slots}
    if len(numbers) > 1:
        message = f"{instance.name!r} runs in several configurations at once: {sorted(numbers)}."
    elif max(numbers) >= len(instance.configurations):
        message = f"{instance.name!r} has no configuration {max(numbers)}; it has {len(instance.configurations)}."
    else:
        return []
    return [Violation(ViolationCode.CONFIGURATION, message, instance.name)]


def _shape_violations(instance: Instance, configuration: Configuration, slots: tuple[Slot, ...]) -> list[Violation]:
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
    wants = configuration.memory_per_gpu_mib(instance.gpus)
    if instance.splittable and len(slots) > 1:
        total = sum(wants)
        if sum(memory) != total:
            broken(ViolationCode.SLOT_MEMORY, f"takes {sum(memory)} MiB in parts; it needs {total}.")
        if min(memory) <= 0:
            broken(ViolationCode.SLOT_MEMORY, "has a part without memory.")
    elif len(slots) != instance.gpus:
        broken(ViolationCode.GPU_COUNT, f"has {len(slots)} slots; it needs {instance.gpus}.")
    elif sorted(memory) != sorted(wants):
        wanted = ", ".join(map(str, wants))
        broken(ViolationCode.SLOT_MEMORY, f"takes {', '.join(map(str, memory))} MiB; it needs {wanted}.")
    return found


def _place_violations(
    instance: Instance, configuration: Configuration, slots: tuple[Slot, ...], nodes: Mapping[str, Node]
) -> list[Violation]:
    """Nodes, GPUs and partitions that do not exist, or do not suit the instance."""
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
            fault = _partition_fault(configuration, slots, slot, node)
            if fault is None:
                continue
            code, message = ViolationCode.PARTITION, fault
        found.append(Violation(code, f"{instance.name!r} {message}", instance.name))
    return found


def _partition_fault(configuration: Configuration, slots: tuple[Slot, ...], slot: Slot, node: Node) -> str | None:
    """What is wrong with the partition a slot names, or with its naming none."""
    geometry = node.gpu_type.mig
    if geometry is None:
        return None if slot.mig is None else f"names a partition of GPU {slot.gpu} of {node.name!r}, which has none."
    if len(slots) > 1:
        return f"takes {len(slots)} GPUs of {node.name!r}, whose GPUs are partitioned; only one may be taken there."
    if slot.mig is None:
        return f"names no partition of GPU {slot.gpu} of {node.name!r}, which is partitioned."
    profile = next((each for each in geometry.profiles if each.name == slot.mig.profile), None)
    if profile is None:
        return f"takes the partition {slot.mig.profile!r}, which a {node.gpu_type.name} does not offer."
    if slot.mig.start not in profile.starts:
        return f"takes {profile.name!r} from slice {slot.mig.start}; it may start at {profile.starts}."
    if profile.share_milli < configuration.request_milli or profile.memory_mib < slot.memory_mib:
        return (
            f"takes {profile.name!r} with {profile.share_milli} milli and {profile.memory_mib} MiB; it needs "
            f"{configuration.request_milli} milli and {slot.memory_mib} MiB."
        )
    return None


def _gpu_violations(where: str, node: Node, here: list[_Held], caps: Oversubscription) -> list[Violation]:
    """Sums over one GPU against its caps, slices taken twice, and functions that must not meet on it."""
    found = []
    limits, taken = 0, Counter[int]()
    for held in here:
        limit = held.limit_milli
        for profile in node.gpu_type.mig.profiles if node.gpu_type.mig else ():
            if held.slot.mig is not None and profile.name == held.slot.mig.profile:
                limit = min(limit, profile.share_milli)
                taken.update(range(held.slot.mig.start, held.slot.mig.start + profile.slices))
        limits += limit
    sums = (
        (ViolationCode.REQUEST_CAPACITY, "milli of requests", sum(h.request_milli for h in here), caps.request_milli),
        (ViolationCode.LIMIT_CAPACITY, "milli of limits", limits, caps.limit_milli),
        (
            ViolationCode.MEMORY_CAPACITY, "MiB of memory", sum(h.slot.memory_mib for h in here),
            node.gpu_type.memory_mib,
        ),
    )  # fmt: skip
    for code, what, total, cap in sums:
        if total > cap:
            found.append(Violation(code, f"{where} holds {total} {what}; its cap is {cap}."))
    twice = sorted(piece for piece, times in taken.items() if times > 1)
    if twice:
        message = f"{where} has slice {twice[0]} in {taken[twice[0]]} partitions at once."
        found.append(Violation(ViolationCode.PARTITION, message))
    functions = Counter(held.instance.function for held in here)
    for held in here:
        for refused in held.instance.anti_affinity:
            others = functions[refused] - (refused == held.instance.function)
            if others > 0:
                message = f"{held.instance.name!r} shares {where} with function {refused!r}, which it must not."
                found.append(Violation(ViolationCode.ANTI_AFFINITY, message, held.instance.name))
    return found


def _host_violations(node: Node, there: list[Instance]) -> list[Violation]:
    """CPU and host memory of a node against what its instances take."""
    sums = (
        (ViolationCode.CPU_CAPACITY, "milli of CPU", sum(each.cpu_milli for each in there), node.cpu_milli),
        (
            ViolationCode.HOST_MEMORY_CAPACITY, "MiB of host memory", sum(each.host_memory_mib for each in there),
            node.memory_mib,
        ),
    )  # fmt: skip
    return [
        Violation(code, f"{node.name!r} holds {total} {what}; it has {capacity}.")
        for code, what, total, capacity in sums
        if capacity is not None and total > capacity
    ]
