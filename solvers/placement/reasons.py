"""Why an instance has no place: what stands in its way, on how many GPUs, and where it nearly had one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, Configuration, Instance, Node, Oversubscription
from dilu_core.kernels.cpu.ledger import obstacles
from dilu_core.kernels.cpu.slicing import have_slices
from dilu_core.solvers.placement.bookings import Bookings
from dilu_core.solvers.placement.choice import Rule, demands_of

OBSTACLES = ("request", "limit", "memory", "anti-affinity", "host-cpu", "host-memory", "partition")
"""What may stand in the way on a GPU, in the order of `kernels.cpu.ledger.obstacles`."""

_NAMED = 3  # GPUs named per obstacle


@dataclass(frozen=True)
class Refusal:
    """The words; whether it can `Rule.NEVER` fit or does `Rule.NOT_NOW`; obstacle -> GPUs; obstacle -> GPUs' names.

    `nearly` names up to three GPUs per obstacle where nothing else stood in the way.
    """

    reason: str
    rule: Rule
    blocked: Mapping[str, int]
    nearly: Mapping[str, tuple[str, ...]]


def why_never(cluster: Cluster, caps: Oversubscription, instance: Instance) -> str | None:
    """Why `instance` would not fit even if it were alone on the cluster; `None` where it would."""
    if not cluster.nodes:
        return "the cluster has no nodes"
    kinds = _kinds_of_nodes(cluster)
    nodes = [n for n in kinds if instance.gpu_types is None or n.gpu_type.name in instance.gpu_types]
    if not nodes:
        wanted, there = ", ".join(instance.gpu_types or ()), ", ".join(kind.name for kind in cluster.gpu_types)
        return f"it runs only on {wanted}, and the cluster has only {there}"
    reason = _why_no_host(nodes, instance.cpu_milli, instance.host_memory_mib)
    if reason is not None:
        return f"it needs {reason}"
    nodes = [n for n in nodes if _host_suffices(n, instance.cpu_milli, instance.host_memory_mib)]
    reasons = [_why_not_alone(nodes, caps, instance, each) for each in demands_of(instance)]
    if None in reasons:
        return None
    others = len(reasons) - 1
    return f"{reasons[0]}" + (f", and its {others} alternatives fit no better" if others else "")


def why_no_host_ever(cluster: Cluster, cpu_milli: int, memory_mib: int) -> str | None:
    """Why no node could offer this much of its host even if it were empty."""
    if not cluster.nodes:
        return "the cluster has no nodes"
    return _why_no_host(_kinds_of_nodes(cluster), cpu_milli, memory_mib)


_last_kinds: tuple[Cluster, list[Node]] | None = None


def _kinds_of_nodes(cluster: Cluster) -> list[Node]:
    """One node of each shape. The last answer is kept: a cluster has many nodes, and is asked about again and again."""
    global _last_kinds
    known = _last_kinds
    if known is None or known[0] is not cluster:
        kinds = {(node.gpu_type, node.gpus, node.cpu_milli, node.memory_mib): node for node in cluster.nodes}
        known = _last_kinds = cluster, list(kinds.values())
    return known[1]


def _host_suffices(node: Node, cpu_milli: int, memory_mib: int) -> bool:
    return (node.cpu_milli is None or node.cpu_milli >= cpu_milli) and (
        node.memory_mib is None or node.memory_mib >= memory_mib
    )


def _why_no_host(nodes: list[Node], cpu_milli: int, memory_mib: int) -> str | None:
    if any(_host_suffices(node, cpu_milli, memory_mib) for node in nodes):
        return None
    cpu = max((node.cpu_milli for node in nodes if node.cpu_milli is not None), default=0)
    memory = max((node.memory_mib for node in nodes if node.memory_mib is not None), default=0)
    return (
        f"{cpu_milli} milli of CPU and {memory_mib} MiB of host memory, and no suitable node has both "
        f"(at most {cpu} and {memory})"
    )


def _why_not_alone(
    nodes: list[Node], caps: Oversubscription, instance: Instance, demand: Instance | Configuration
) -> str | None:
    """Why the configuration `demand` fits no empty node of these."""
    request, limit = demand.request_milli, demand.limit_milli
    listed = demand.memory_mib
    memory = listed if isinstance(listed, int) else max(listed)
    if request > caps.request_milli:
        return f"its request of {request} milli exceeds the {caps.request_milli} one GPU may hold"
    whole = [node for node in nodes if node.gpu_type.mig is None]
    if instance.gpus == 1 and any(_slice_suffices(node, caps, request, limit, memory) for node in nodes):
        return None
    largest = max((node.gpus for node in whole), default=0)
    if instance.gpus > largest:
        if instance.gpus == 1:
            return f"no partition of the GPUs it runs on gives {request} milli and {memory} MiB"
        return f"it is a gang of {instance.gpus} GPUs, and the largest suitable node has {largest}"
    if limit <= caps.limit_milli and any(
        node.gpus >= instance.gpus and memory <= node.gpu_type.memory_mib for node in whole
    ):
        return None
    # two parts of at least 1 MiB each, and the request once more as the limit of each
    if instance.splittable and any(
        node.gpus >= 2 and 2 <= memory <= node.gpus * node.gpu_type.memory_mib for node in whole
    ):
        return None
    if limit > caps.limit_milli:
        return f"its limit of {limit} milli exceeds the {caps.limit_milli} one GPU may hold"
    if instance.splittable:
        most = max(node.gpus * node.gpu_type.memory_mib for node in whole)
        return f"it needs {memory} MiB, and even split over all GPUs of one node there are only {most}"
    most = max((node.gpu_type.memory_mib for node in whole if node.gpus >= instance.gpus), default=0)
    return f"it needs {memory} MiB on one GPU, and the largest suitable GPU has {most}"


def _slice_suffices(node: Node, caps: Oversubscription, request: int, limit: int, memory: int) -> bool:
    """Whether a GPU of the node is partitioned and offers a partition for this demand."""
    geometry = node.gpu_type.mig
    return geometry is not None and any(
        min(limit, profile.share_milli) <= caps.limit_milli and memory <= node.gpu_type.memory_mib
        for profile in geometry.sufficient(request, memory)
    )


def why_not_now(bookings: Bookings, instance: Instance) -> str:
    """What keeps `instance` out of the cluster as it stands, in words."""
    return refusal(bookings, instance).reason


def refusal(bookings: Bookings, instance: Instance) -> Refusal:
    """What keeps `instance` out of the cluster as it stands, counted over the GPUs it could run on at all.

    Of a gang whose parts differ, the least parts are counted that no node has enough GPUs for beside the lesser ones.
    Where it has alternatives, the counts are those of its own configuration.
    """
    never = why_never(bookings.cluster, bookings.oversubscription, instance)
    if never is not None:
        return Refusal(never, Rule.NEVER, {}, {})
    b = bookings
    barred = b.nodes_barred(instance.gpu_types, partitioned=instance.gpus == 1)
    seats = _Seats(b, instance, barred)
    blocked = {what: count for what, count in zip(OBSTACLES, seats.counts.tolist(), strict=True) if count}
    nearly = {
        what: tuple(b.gpu_name(row) for row in seats.near[i, :count].tolist())
        for i, (what, count) in enumerate(zip(OBSTACLES, seats.listed.tolist(), strict=True))
        if count
    }
    return Refusal(_in_words(b, instance, barred, blocked, seats), Rule.NOT_NOW, blocked, nearly)


class _Seats:
    """What keeps a part of an instance off each GPU: of the least memory of which there are too few GPUs.

    `counts`, `listed`, `near` are those of `obstacles` for a part of `memory_mib`; `room` counts the GPUs of each node
    with room for the least part. Of the `parts` that take `memory_mib` or more, the best node that has enough GPUs for
    the lesser ones seats `seated`.
    """

    def __init__(self, b: Bookings, instance: Instance, barred: NDArray[np.bool_]) -> None:
        wanted = instance.memory_per_gpu_mib
        suits = ~barred
        for memory in sorted(set(wanted)):
            self.memory_mib, self.parts = memory, sum(each >= memory for each in wanted)
            room = self._look(b, instance, barred)
            if memory == min(wanted):
                self.room = room
            self.seated = int(room[suits].max(initial=0))
            suits &= room >= self.parts
            if not suits.any():
                break

    @property
    def suffice(self) -> bool:
        """Whether some node has a GPU for every part."""
        return self.seated >= self.parts

    def _look(self, b: Bookings, instance: Instance, barred: NDArray[np.bool_]) -> NDArray[np.int64]:
        request, limit, memory = instance.request_milli, instance.limit_milli, self.memory_mib
        need = np.array([request, limit, memory, instance.cpu_milli, instance.host_memory_mib], np.int64)
        slices = np.zeros(b.held.size, np.int64)
        if b.partitions.any_there:
            have_slices(
                b.free, b.node_start, b.node_type, b.partitions.used, b.partitions.profile_start, b.partitions.profiles,
                request, limit, memory, slices,
            )  # fmt: skip
        self.near = np.zeros((len(OBSTACLES), _NAMED), np.int64)
        masks = b.functions.masks(instance)
        self.counts, self.listed, room = obstacles(
            b.free, b.functions.has, b.functions.refuses, masks, b.node_start, b.host_free, barred, slices, need,
            self.near,
        )  # fmt: skip
        return room


def _in_words(
    b: Bookings, instance: Instance, barred: NDArray[np.bool_], blocked: Mapping[str, int], seats: _Seats
) -> str:
    room = seats.room
    if instance.gpus == 1 and room.any():
        return f"there is room on {int(room.sum())} GPUs, but the search ended before it was placed there"
    suitable = int(np.diff(b.node_start)[~barred].sum())
    found = ", ".join(_counted(b, instance, barred, what, count) for what, count in blocked.items())
    reason = f"no place on the {suitable} GPUs it could run on; in its way: {found}"
    if instance.gpus > 1:
        if seats.suffice:
            return "there is room for it on one node, but the search ended before it was placed there"
        most = int(room.max(initial=0))
        reason += f"; it needs {instance.gpus} GPUs of one node, and the best node has {most} with room"
        reason += "" if isinstance(instance.memory_mib, int) else " for the least of its parts"
        if seats.parts < instance.gpus:
            reason += f", {seats.seated} of the {seats.parts} it needs for {seats.memory_mib} MiB or more"
    elif instance.splittable:
        reason += "; " + _why_not_split(b, instance)
    others = len(instance.alternatives)
    return reason + (f"; its {others} alternative configurations have no place either" if others else "")


def _counted(b: Bookings, instance: Instance, barred: NDArray[np.bool_], what: str, count: int) -> str:
    """An obstacle and on how many GPUs, or nodes, it stands."""
    if what == "host-cpu":
        return f"host CPU on {int((~barred & (b.host_free[:, 0] < instance.cpu_milli)).sum())} nodes"
    if what == "host-memory":
        return f"host memory on {int((~barred & (b.host_free[:, 1] < instance.host_memory_mib)).sum())} nodes"
    return f"{what} on {count}"


def _why_not_split(b: Bookings, instance: Instance) -> str:
    """What keeps an instance from being split over GPUs of one node: too few with room, or too little memory."""
    free, request = b.free, instance.request_milli
    usable = (free[:, :2] >= request).all(axis=1) & (free[:, 2] > 0)
    roomy = (b.host_free >= [instance.cpu_milli, instance.host_memory_mib]).all(axis=1)
    usable &= (roomy & ~b.nodes_barred(instance.gpu_types, partitioned=False))[b.node_of]
    usable[list(b.rows_refusing(instance))] = False
    first = b.node_start[:-1]
    several = np.add.reduceat(usable, first, dtype=np.int64) > 1
    together = np.add.reduceat(np.where(usable, free[:, 2], 0), first)[several]
    most, memory = int(together.max(initial=0)), instance.total_memory_mib
    if not together.size:
        return "nor is it split, as no node has two GPUs with room for its request and a part of its memory"
    if most >= memory > 1:
        return "there is room to split it, but the search ended before it was"
    return f"nor is it split, as GPUs with room for its request have at most {most} MiB together on one node"
