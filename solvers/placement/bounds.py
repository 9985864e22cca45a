"""Proven lower bounds on the GPUs that any placement of given instances needs, each with the name of its proof.

Every instance is relaxed to items, one GPU each, that it surely has in any placement:

    whole, or one of a gang     request r, limit l, memory m
    it may be split             request r, limit r, memory 1, plus its total memory over some GPUs

The second is valid in both modes: whole, it books r, l >= r and all its memory on one GPU; split, at least two parts
book r and r each, of which one is counted. Of several quota configurations it has the least of each resource; where
some GPU may be partitioned, its limit shrinks to its request. On such items, for every resource with capacity C:

    total                 sum(w) / C. A split instance's memory counts in full, wherever its parts lie.
    dual feasible f       sum(f(w)) / f(C), see `dual_feasible`. f nondecreasing lets l shrink to r. Not used on the
                          memory of splittable instances, whose parts could make f vanish.
    clique                items that pairwise cannot share a GPU, by any resource, by anti-affinity, or as one gang.
    slices                where all GPUs are partitioned: memory slices of the least profile that serves the instance.

A GPU with less memory than the largest counts as f(its memory), the largest first, so the bound holds on mixed GPU
types. Types that no instance links (by running on both) are bounded apart and added up.

These take milliseconds. `column_generation.column_bound` proves more in seconds, with all resources at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, GpuType, Instance, Oversubscription
from dilu_core.solvers.placement.cliques import cliques
from dilu_core.solvers.placement.dual_feasible import dual_feasible
from dilu_core.solvers.placement.item_types import components, least_demand
from dilu_core.units import FULL_GPU_MILLI

Ints = NDArray[np.int64]

_ALL_LIMITS = FULL_GPU_MILLI**2  # of as many instances as requests let onto a GPU; a higher cap is none
_CLIQUE_ITEMS = 5_000  # beyond, the quadratic clique search is not worth its time


@dataclass(frozen=True)
class Bound:
    """No placement of the instances uses fewer than `value` GPUs, by `proof`."""

    value: int
    proof: str


def lower_bound(cluster: Cluster, caps: Oversubscription, instances: Sequence[Instance]) -> Bound:
    """The best quick bound on GPUs for `instances`, all of which are taken to be placed."""
    if not instances:
        return Bound(0, "nothing to place")
    found = [
        _component(cluster, caps, types, [instances[i] for i in members])
        for types, members in components(cluster, instances)
    ]
    if len(found) == 1:
        return found[0]
    proofs = ", ".join(dict.fromkeys(bound.proof for bound in found))
    return Bound(sum(bound.value for bound in found), f"sum over GPU types ({proofs})")


def _component(
    cluster: Cluster, caps: Oversubscription, types: tuple[GpuType, ...], instances: Sequence[Instance]
) -> Bound:
    kinds = [node.gpu_type for node in cluster.nodes if node.gpu_type in types for _ in range(node.gpus)]
    sizes = np.array(sorted((kind.memory_mib for kind in kinds), reverse=True), np.int64)
    request, limit, mib, total_mib = _items(instances, any(kind.mig for kind in types))
    best = Bound(max(instance.gpus for instance in instances), "largest gang")
    same = np.ones_like(sizes)
    for name, weights, total, capacity in (
        ("SM request", request, int(request.sum()), same * caps.request_milli),
        ("SM limit", limit, int(limit.sum()), same * min(caps.limit_milli, _ALL_LIMITS)),
        ("memory", mib, total_mib, sizes),
    ):
        best = _better(best, _fewest(total, capacity), f"{name} total")
        for proof, values, capacities in dual_feasible(weights, capacity):
            best = _better(best, _fewest(values, capacities), f"{proof} on {name}")
    if all(kind.mig for kind in types):
        slices = np.array(sorted((kind.mig.slices for kind in kinds if kind.mig), reverse=True), np.int64)
        best = _better(best, _fewest(sum(_slices(each, types) for each in instances), slices), "slices total")
    if request.size <= _CLIQUE_ITEMS:
        for proof, size in cliques(caps, int(sizes[0]), instances, request, limit, mib):
            best = _better(best, size, proof)
    return best


def _better(best: Bound, found: int, proof: str) -> Bound:
    return Bound(found, proof) if found > best.value else best


def _items(instances: Sequence[Instance], partitioned: bool) -> tuple[Ints, Ints, Ints, int]:
    """Request, limit and memory of every item (n_items,), and the memory of all instances together."""
    demands = [least_demand(each, partitioned) for each in instances]
    rows = [
        (request, request, min(1, mib)) if each.splittable else (request, limit, mib)
        for each, (request, limit, memory) in zip(instances, demands, strict=True)
        for mib in memory
    ]
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2], sum(sum(memory) for _, _, memory in demands)


def _slices(instance: Instance, types: Sequence[GpuType]) -> int:
    """Slices of the least profile that serves some configuration on some GPU type that the instance runs on."""
    return min(
        (
            profile.slices
            for kind in types
            if kind.mig and (instance.gpu_types is None or kind.name in instance.gpu_types)
            for profile in kind.mig.profiles
            for each in instance.configurations
            if profile.share_milli >= each.request_milli and profile.memory_mib >= max(each.memory_per_gpu_mib(1))
        ),
        default=0,
    )


def _fewest(total: int, capacities: Ints) -> int:
    """Fewest GPUs, the largest first, whose capacities add up to `total`; all and one more where even all do not."""
    if total <= 0:
        return 0
    return int(np.searchsorted(np.cumsum(capacities), total)) + 1
