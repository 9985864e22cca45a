"""Why an instance has no place, in words: what stands in its way, on how many GPUs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.solvers.placement.bookings import Bookings


def why_never(cluster: Cluster, caps: Oversubscription, instance: Instance) -> str | None:
    """Why `instance` would not fit even if it were alone on the cluster; `None` where it would."""
    if not cluster.nodes:
        return "the cluster has no nodes"
    nodes = [n for n in cluster.nodes if instance.gpu_types is None or n.gpu_type.name in instance.gpu_types]
    if not nodes:
        wanted, there = ", ".join(instance.gpu_types or ()), ", ".join(kind.name for kind in cluster.gpu_types)
        return f"it runs only on {wanted}, and the cluster has only {there}"
    if instance.request_milli > caps.request_milli:
        return f"its request of {instance.request_milli} milli exceeds the {caps.request_milli} one GPU may hold"
    largest = max(node.gpus for node in nodes)
    if instance.gpus > largest:
        return f"it is a gang of {instance.gpus} GPUs, and the largest suitable node has {largest}"
    memory = sorted(instance.memory_per_gpu_mib, reverse=True)
    whole = instance.limit_milli <= caps.limit_milli and any(
        node.gpus >= instance.gpus and memory[0] <= node.gpu_type.memory_mib for node in nodes
    )
    # two parts of at least 1 MiB each, and the request once more as the limit of each
    split = instance.splittable and any(
        node.gpus >= 2 and 2 <= memory[0] <= node.gpus * node.gpu_type.memory_mib for node in nodes
    )
    if whole or split:
        return None
    if instance.limit_milli > caps.limit_milli:
        return f"its limit of {instance.limit_milli} milli exceeds the {caps.limit_milli} one GPU may hold"
    if instance.splittable:
        most = max(node.gpus * node.gpu_type.memory_mib for node in nodes)
        return f"it needs {memory[0]} MiB, and even split over all GPUs of one node there are only {most}"
    most = max((node.gpu_type.memory_mib for node in nodes if node.gpus >= instance.gpus), default=0)
    return f"it needs {memory[0]} MiB on one GPU, and the largest suitable GPU has {most}"


def why_not_now(bookings: Bookings, instance: Instance) -> str:
    """What keeps `instance` out of the cluster as it stands, counted over the GPUs it could run on at all."""
    never = why_never(bookings.cluster, bookings.oversubscription, instance)
    if never is not None:
        return never
    free = bookings.free
    suitable = np.ones(bookings.held.size, np.bool_)
    if instance.gpu_types is not None:
        suitable &= ~bookings.rows_of_other_types(instance.gpu_types)
    refused = np.zeros_like(suitable)
    refused[list(bookings.rows_refusing(instance))] = True
    blocked = {
        "request": free[:, 0] < instance.request_milli,
        "limit": free[:, 1] < instance.limit_milli,
        "memory": free[:, 2] < min(instance.memory_per_gpu_mib),
        "anti-affinity": refused,
    }
    counts = {what: int((lacks & suitable).sum()) for what, lacks in blocked.items()}
    found = ", ".join(f"{what} on {count}" for what, count in counts.items() if count)
    room = suitable & ~np.logical_or.reduce(list(blocked.values()))
    if instance.gpus == 1 and room.any():
        return f"there is room on {int(room.sum())} GPUs, but the search ended before it was placed there"
    reason = f"no place on the {int(suitable.sum())} GPUs it could run on; in its way: {found or 'nothing on any one'}"
    if instance.gpus > 1:
        most = max(int(room[start:stop].sum()) for start, stop in bookings.node_ranges())
        alike = isinstance(instance.memory_mib, int)
        if most >= instance.gpus and alike:
            return "there is room for it on one node, but the search ended before it was placed there"
        reason += f"; it needs {instance.gpus} GPUs of one node, and the best node has {most} with room"
        reason += "" if alike else " for the least of its parts"
    elif instance.splittable:
        reason += "; " + _why_not_split(bookings, instance, suitable & ~refused)
    return reason


def _why_not_split(bookings: Bookings, instance: Instance, suitable: NDArray[np.bool_]) -> str:
    """What keeps an instance from being split over GPUs of one node: too few with room, or too little memory."""
    free, request = bookings.free, instance.request_milli
    usable = suitable & (free[:, :2] >= request).all(axis=1) & (free[:, 2] > 0)
    together = [
        int(free[start:stop, 2][usable[start:stop]].sum())
        for start, stop in bookings.node_ranges()
        if usable[start:stop].sum() > 1
    ]
    most, memory = max(together, default=0), instance.total_memory_mib
    if not together:
        return "nor is it split, as no node has two GPUs with room for its request and a part of its memory"
    if most >= memory > 1:
        return "there is room to split it, but the search ended before it was"
    return f"nor is it split, as GPUs with room for its request have at most {most} MiB together on one node"
