"""Instances as items of distinct types, which is what the bounds by patterns reason about.

Every instance is relaxed to items of one GPU each: an instance of one GPU is an item, a gang of k GPUs is k items that
need not stay together. Affinity and host resources are left out. Items with equal demands that may go to the same GPUs
are one type.

An instance that may be split is an item if it stays whole. If it is split, it is a number of parts, each of which books
its request as request and limit and some memory; the parts' memory sums to its own. Parts with the same request that
may go to the same GPUs are one type as well; memory is kept apart from it and given out in any amounts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, GpuType, Instance, Oversubscription

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ItemTypes:
    """Types of items, the most demanding first, and the GPUs there are for them.

    Rows 0..n_whole-1 are whole items, the rest are parts. Demands and capacities count in units that divide them all,
    so that they are small numbers where the demands are round.

    Arguments:
        demand: (n_types, 3) request, limit, memory; a part's limit is its request, and its memory 0.
        count: (n_whole,) items of each type.
        group: (n_types,) what it is free to do: the set of GPU types it may go to, and whether it may be split.
        part: (n_whole,) the row of its parts, or -1 where it may not be split.
        least_parts: (n_whole,) parts that it has at least when split, or 0.
        capacity, gpus: (n_kinds, 3) and (n_kinds,) a GPU of each type, and how many there are.
        allowed: (n_groups, n_kinds) whether the group may go to the type, if it fits.
        splits: (n_groups,) whether the group may be split.
        unit: (3,) milli-GPU, milli-GPU and MiB in a unit of demand.
        type_of, owner: (n_items,) the type of each item and the instance it is of, by index in the order given.
    """

    demand: Ints
    count: Ints
    group: Ints
    part: Ints
    least_parts: Ints
    gpu_types: tuple[GpuType, ...]
    capacity: Ints
    gpus: Ints
    allowed: Bools
    splits: Bools
    unit: Ints
    type_of: Ints
    owner: Ints

    @property
    def n_whole(self) -> int:
        """Types of whole items."""
        return self.count.size

    @property
    def freer(self) -> Bools:
        """(n_groups, n_groups) whether the first group may do whatever the second may."""
        allowed = np.asarray((self.allowed[:, None, :] | ~self.allowed[None, :, :]).all(axis=2))
        return allowed & (self.splits[:, None] | ~self.splits[None, :])

    def fits(self, kind: int) -> Ints:
        """Types that fit an empty GPU of a kind and may go there."""
        inside = (self.demand <= self.capacity[kind]).all(axis=1) & self.allowed[self.group, kind]
        return np.flatnonzero(inside)


def least_demand(instance: Instance, partitioned: bool) -> tuple[int, int, tuple[int, ...]]:
    """Request, limit and memory per GPU that it books at least, in whatever configuration.

    A partition may book as little as the request for the limit: so the limit counts where GPUs may be `partitioned`.
    """
    if not instance.alternatives:
        request, limit, memory = instance.request_milli, instance.limit_milli, instance.memory_per_gpu_mib
    else:
        request = min(each.request_milli for each in instance.configurations)
        limit = min(each.limit_milli for each in instance.configurations)
        sizes = [sorted(each.memory_per_gpu_mib(instance.gpus)) for each in instance.configurations]
        memory = tuple(map(min, zip(*sizes, strict=True)))
    return request, request if partitioned else limit, memory


def components(cluster: Cluster, instances: Sequence[Instance]) -> Iterator[tuple[tuple[GpuType, ...], list[int]]]:
    """GPU types linked by instances that may use both, with the instances (by index) that use them."""
    leader = {kind: kind for kind in cluster.gpu_types}

    def find(kind: GpuType) -> GpuType:
        while leader[kind] != kind:
            kind = leader[kind]
        return kind

    home: list[GpuType] = []
    usable: dict[tuple[tuple[str, ...] | None, int], list[GpuType]] = {}
    for instance in instances:
        memory = 0 if instance.splittable else max(least_demand(instance, False)[2])
        key = (instance.gpu_types, memory)
        if key not in usable:
            usable[key] = [
                kind
                for kind in cluster.gpu_types
                if kind.memory_mib >= memory and (instance.gpu_types is None or kind.name in instance.gpu_types)
            ]
            for kind in usable[key][1:]:
                leader[find(kind)] = find(usable[key][0])
        home.append(usable[key][0])
    groups: dict[GpuType, list[int]] = {}
    for i, kind in enumerate(home):
        groups.setdefault(find(kind), []).append(i)
    for head, members in groups.items():
        yield tuple(kind for kind in cluster.gpu_types if find(kind) == head), members


def item_types(
    cluster: Cluster, caps: Oversubscription, gpu_types: tuple[GpuType, ...], instances: Sequence[Instance]
) -> ItemTypes:
    """The types of the items of `instances`, all of which may run on some of `gpu_types` and on no others."""
    groups: dict[tuple[tuple[str, ...] | None, bool], int] = {}
    partitioned = any(kind.mig for kind in gpu_types)
    rows = np.array(
        [
            (request, limit, mib, group, i)
            for i, each in enumerate(instances)
            for request, limit, memory in (least_demand(each, partitioned),)
            for group in (groups.setdefault((each.gpu_types, each.splittable), len(groups)),)
            for mib in memory
        ],
        np.int64,
    )
    whole, type_of, count = _distinct(rows[:, :4])
    memory = np.array([kind.memory_mib for kind in gpu_types], np.int64)
    gpus = [sum(node.gpus for node in cluster.nodes if node.gpu_type == kind) for kind in gpu_types]
    allowed = np.array([[names is None or kind.name in names for kind in gpu_types] for names, _ in groups], np.bool_)
    group_splits = np.array([splits for _, splits in groups], np.bool_)
    splits = group_splits[whole[:, 3]]
    largest = np.where(allowed[whole[:, 3]], memory, 0).max(axis=1)
    least_parts = np.where(splits, np.maximum(2, -(-whole[:, 2] // np.maximum(largest, 1))), 0)
    parts, part_of, _ = _distinct(whole[splits][:, [0, 3]])
    part = np.full(len(whole), -1, np.int64)
    part[splits] = len(whole) + part_of
    demand = np.concatenate([whole[:, :3], np.column_stack([parts[:, 0], parts[:, 0], np.zeros_like(parts[:, 0])])])
    most_limit = min(caps.limit_milli, int(demand[:, 1].max()) * caps.request_milli)  # requests are at least 1
    capacity = np.array([(caps.request_milli, most_limit, mib) for mib in memory.tolist()], np.int64)
    unit = np.maximum(np.gcd.reduce(demand, axis=0), 1)
    if splits.any():  # memory of parts comes in any amount, so none may be lost to rounding
        unit[2] = np.gcd.reduce([*demand[:, 2].tolist(), *memory.tolist()])
    return ItemTypes(
        demand // unit,
        count,
        np.concatenate([whole[:, 3], parts[:, 1]]),
        part,
        least_parts,
        gpu_types,
        capacity // unit,
        np.array(gpus, np.int64),
        allowed,
        group_splits,
        unit,
        type_of,
        rows[:, 4],
    )


def _distinct(rows: Ints) -> tuple[Ints, Ints, Ints]:
    """Distinct rows in decreasing order, the one each row equals, and how often each comes."""
    order = np.lexsort(rows.T[::-1])[::-1]
    ordered = rows[order]
    is_new = np.ones(len(rows), np.bool_)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    number = np.cumsum(is_new) - 1
    which = np.empty(len(rows), np.int64)
    which[order] = number
    return ordered[is_new], which, np.bincount(number, minlength=int(is_new.sum()))
