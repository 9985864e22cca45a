"""Proven lower bounds on the GPUs that any placement of given instances needs, each with the name of its proof.

Every instance is relaxed to items, one GPU each, that it surely has in any placement:

    whole, or one of a gang     request r, limit l, memory m
    it may be split             request r, limit r, memory 1, plus its total memory over some GPUs

The second is valid in both modes: whole, it books r, l >= r and all its memory on one GPU; split, at least two parts
book r and r each, of which one is counted. On such items, for every resource with capacity C:

    total                 sum(w) / C. A split instance's memory counts in full, wherever its parts lie.
    dual feasible f       sum(f(w)) / f(C), for f >= 0 nondecreasing and superadditive: the items of one GPU have
                          sum(f(w_i)) <= f(sum(w_i)) <= f(C). Nondecreasing also lets l shrink to r. Not used on the
                          memory of splittable instances, whose parts could make f vanish. Families: Martello and Toth
                          (as in their bound L2), u_k and f_2 (Clautiaux, Alves, Valerio de Carvalho, "A survey of
                          dual-feasible and superadditive functions", Annals of OR 2010, doi 10.1007/s10479-008-0453-8).
    clique                items that pairwise cannot share a GPU, by any resource, by anti-affinity, or as one gang.

A GPU with less memory than the largest counts as f(its memory), the largest first, so the bound holds on mixed GPU
types. Types that no instance links (by running on both) are bounded apart and added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, GpuType, Instance, Oversubscription
from dilu_core.units import FULL_GPU_MILLI

Ints = NDArray[np.int64]

_FUNCTIONS_PER_FAMILY = 64
_ALL_LIMITS = FULL_GPU_MILLI**2  # of as many instances as requests let onto a GPU; a higher cap is none
_CLIQUE_ITEMS = 5_000  # beyond, the quadratic clique search is not worth its time
_CAUSES = ("memory", "SM request", "SM limit", "gang", "anti-affinity")  # why two items cannot share a GPU


@dataclass(frozen=True)
class Bound:
    """No placement of the instances uses fewer than `value` GPUs, by `proof`."""

    value: int
    proof: str


def lower_bound(cluster: Cluster, caps: Oversubscription, instances: Sequence[Instance]) -> Bound:
    """The best bound on GPUs for `instances`, all of which are taken to be placed."""
    if not instances:
        return Bound(0, "nothing to place")
    found = [_component(cluster, caps, types, members) for types, members in _components(cluster, instances)]
    if len(found) == 1:
        return found[0]
    proofs = ", ".join(dict.fromkeys(bound.proof for bound in found))
    return Bound(sum(bound.value for bound in found), f"sum over GPU types ({proofs})")


def _components(
    cluster: Cluster, instances: Sequence[Instance]
) -> Iterator[tuple[tuple[GpuType, ...], list[Instance]]]:
    """GPU types linked by instances that may use both, with the instances that use them."""
    leader = {kind: kind for kind in cluster.gpu_types}

    def find(kind: GpuType) -> GpuType:
        while leader[kind] != kind:
            kind = leader[kind]
        return kind

    home: dict[str, GpuType] = {}
    usable: dict[tuple[tuple[str, ...] | None, int], list[GpuType]] = {}
    for instance in instances:
        memory = 0 if instance.splittable else max(instance.memory_per_gpu_mib)
        key = (instance.gpu_types, memory)
        if key not in usable:
            usable[key] = [
                kind
                for kind in cluster.gpu_types
                if kind.memory_mib >= memory and (instance.gpu_types is None or kind.name in instance.gpu_types)
            ]
        kinds = usable[key]
        for kind in kinds[1:]:
            leader[find(kind)] = find(kinds[0])
        home[instance.name] = kinds[0]
    groups: dict[GpuType, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(find(home[instance.name]), []).append(instance)
    for head, members in groups.items():
        yield tuple(kind for kind in cluster.gpu_types if find(kind) == head), members


def _component(
    cluster: Cluster, caps: Oversubscription, types: tuple[GpuType, ...], instances: Sequence[Instance]
) -> Bound:
    memory = sorted(n.gpu_type.memory_mib for n in cluster.nodes if n.gpu_type in types for _ in range(n.gpus))[::-1]
    sizes = np.array(memory, np.int64)
    request, limit, mib, total_mib = _items(instances)
    best = Bound(max(instance.gpus for instance in instances), "largest gang")
    same = np.ones_like(sizes)
    for name, weights, total, capacity in (
        ("SM request", request, int(request.sum()), same * caps.request_milli),
        ("SM limit", limit, int(limit.sum()), same * min(caps.limit_milli, _ALL_LIMITS)),
        ("memory", mib, total_mib, sizes),
    ):
        best = _better(best, _fewest(total, capacity), f"{name} total")
        for proof, values, capacities in _dual_feasible(weights, capacity):
            best = _better(best, _fewest(values, capacities), f"{proof} on {name}")
    if request.size <= _CLIQUE_ITEMS:
        for proof, size in _clique(caps, int(sizes[0]), instances):
            best = _better(best, size, proof)
    return best


def _better(best: Bound, found: int, proof: str) -> Bound:
    return Bound(found, proof) if found > best.value else best


def _items(instances: Sequence[Instance]) -> tuple[Ints, Ints, Ints, int]:
    """Request, limit and memory of every item (n_items,), and the memory of all instances together."""
    rows = [
        (each.request_milli, each.request_milli, min(1, mib))
        if each.splittable
        else (each.request_milli, each.limit_milli, mib)
        for each in instances
        for mib in each.memory_per_gpu_mib
    ]
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2], sum(each.total_memory_mib for each in instances)


def _fewest(total: int, capacities: Ints) -> int:
    """Fewest GPUs, the largest first, whose capacities add up to `total`; all and one more where even all do not."""
    if total <= 0:
        return 0
    return int(np.searchsorted(np.cumsum(capacities), total)) + 1


def _dual_feasible(weights: Ints, capacities: Ints) -> Iterator[tuple[str, int, Ints]]:
    """(family, sum of f over the items, f of each GPU's capacity) for the functions worth trying; all in integers."""
    largest = int(capacities[0])
    sizes, counts = np.unique(weights, return_counts=True)
    kinds, where = np.unique(capacities, return_inverse=True)
    marks = np.unique(np.concatenate([sizes, largest - sizes]))
    marks = marks[(marks >= 1) & (2 * marks <= largest)]
    marks = marks[np.linspace(0, marks.size - 1, min(marks.size, _FUNCTIONS_PER_FAMILY)).astype(int)]
    for family, function, parameters in (
        ("Martello-Toth L2", martello_toth, marks.tolist()),
        ("dual feasible function u_k", staircase, range(1, 21)),
        ("dual feasible function f_2", halves, marks.tolist()),
    ):
        for parameter in parameters:
            total = int((function(sizes, largest, parameter) * counts).sum())
            yield family, total, function(kinds, largest, parameter)[where]


def martello_toth(w: Ints, capacity: int, smallest: int) -> Ints:
    """Items above `capacity - smallest` fill a GPU, items below `smallest` vanish; 2 `smallest` <= `capacity`."""
    return np.where(w > capacity - smallest, capacity, np.where(w < smallest, 0, w))


def staircase(w: Ints, capacity: int, k: int) -> Ints:
    """u_k, scaled by k times the capacity: k w where (k + 1) w is a multiple of the capacity, else rounded down."""
    return np.where((k + 1) * w % capacity == 0, k * w, (k + 1) * w // capacity * capacity)


def halves(w: Ints, capacity: int, k: int) -> Ints:
    """f_2: twice the whole multiples of k, counted from above for items over half a GPU; 2 k <= capacity."""
    small = 2 * (w // k)
    large = 2 * (capacity // k - (capacity - w) // k)
    return np.where(2 * w > capacity, large, np.where(2 * w == capacity, capacity // k, small))


def _clique(caps: Oversubscription, memory: int, instances: Sequence[Instance]) -> Iterator[tuple[str, int]]:
    """Sizes of cliques grown greedily from the largest items by each measure; any clique is a bound.

    A clique is named after what keeps each two of its members apart, which need not be the measure it was grown by.
    """
    request, limit, mib, _ = _items(instances)
    owner = np.repeat(np.arange(len(instances)), [instance.gpus for instance in instances])
    number = {name: i for i, name in enumerate(sorted({each.function for each in instances}))}
    function = np.array([number[each.function] for each in instances], np.int64)[owner]
    refuses = np.zeros((len(instances), len(number)), np.bool_)
    for i, each in enumerate(instances):
        refuses[i, [number[name] for name in each.anti_affinity if name in number]] = True
    repels = refuses.any()
    shares = [mib / memory, request / caps.request_milli, limit / caps.limit_milli]
    refusals = refuses.sum(axis=1)[owner] + 0.5 * refuses.sum(axis=0)[function]
    nobody = np.zeros(request.size, np.bool_)
    for size in (*shares, np.maximum.reduce(shares), refusals):
        members = np.empty(0, np.int64)
        causes = list(_CAUSES)
        for i in np.argsort(-size, kind="stable").tolist():
            apart = np.array(
                [
                    mib[members] + mib[i] > memory,
                    request[members] + request[i] > caps.request_milli,
                    limit[members] + limit[i] > caps.limit_milli,
                    owner[members] == owner[i],
                    refuses[owner[i], function[members]] | refuses[owner[members], function[i]]
                    if repels
                    else nobody[: members.size],
                ]
            )
            if apart.any(axis=0).all():
                members = np.append(members, i)
                causes = [cause for cause, each in zip(_CAUSES, apart, strict=True) if cause in causes and each.all()]
        yield f"{causes[0]} clique" if causes else "clique of instances that cannot share a GPU", members.size
