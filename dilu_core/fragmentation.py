"""What GPUs hold free and what of it is of use: the fragmentation of a placement.

For a set of GPUs with capacity C and bookings b of a resource (SM request, SM limit or memory),

    fragmentation = sum(C - b) / sum(C)    over those GPUs, 0 where there is none

as in Lv et al., "Dilu", ASPLOS 2025 (doi 10.1145/3669940.3707251): the unallocated share of SMs, or of memory, on
active GPUs. Empty GPUs do not count there: they can be handed back. Capacities are the caps of the problem's
oversubscription and the memory of the GPU's type; a slot books as `dilu_core.gpu_bookings` says.

Some of what is free is stranded: no instance of the problem could use it, because another resource is used up there.
The yardstick is the least request, the least limit and the least memory that any configuration of these instances wants
on a GPU, whatever the mix of arrivals. Free request of an active GPU is stranded by memory (or limit) where the least
request still fits but the least memory (or limit) does not; free memory is stranded by request (or limit) likewise.

How much free request is expected to be unusable for what arrives, `unusable_milli`, is FGD's measure (Weng et al.,
USENIX ATC 2023): see `dilu_core.unusable_share`. It counts empty GPUs too, because tasks may want several of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce

from dilu_core import _checks as check
from dilu_core.arrival_mix import TaskMix
from dilu_core.fragmentation_report import Fragmentation, FragmentationChange, FragmentationReport, Room, Stranded
from dilu_core.gpu_columns import gpu_columns
from dilu_core.placement import Placement, PlacementProblem, verify_placement
from dilu_core.slots import Slot, slots_by_name
from dilu_core.unusable_share import expected_unusable

__all__ = ["Fragmentation", "FragmentationChange", "FragmentationReport", "Room", "Stranded", "fragmentation"]


def fragmentation(
    problem: PlacementProblem,
    placement: Mapping[str, tuple[Slot, ...]],
    *,
    mix: TaskMix | None = None,
    over: str = "active",
) -> FragmentationReport:
    """The report on `placement`, which must be valid for `problem` (`InvalidArgumentError` says what is not).

    `mix` is what arrives, for which `unusable_milli` is measured; the problem's own instances if `None`. GPUs and nodes
    of the report are the active ones, or all of the cluster with `over="all"`; its sum over the whole cluster stands
    beside them in either case. The work grows with the GPUs of the cluster times the shapes of the mix;
    `TaskMix.common` keeps a long mix short.
    """
    placement = slots_by_name("placement", placement)
    broken = verify_placement(problem, placement)
    if broken:
        check.fail("placement", f"is not valid for this problem: {broken[0].message}")
    check.choice("over", over, ("active", "all"))
    if mix is None:
        largest = max((kind.memory_mib for kind in problem.cluster.gpu_types), default=None)
        mix = TaskMix.of(problem.instances, largest_gpu_mib=largest)
    elif not isinstance(mix, TaskMix):
        check.fail("mix", f"is {mix!r:.120}; expected a TaskMix or None.")
    columns = gpu_columns(problem, Placement(placement))
    rows = zip(
        columns.held.tolist(),
        columns.capacity.tolist(),
        columns.free.tolist(),
        expected_unusable(problem.cluster, columns, mix).tolist(),
        strict=True,
    )
    everything: dict[tuple[str, int], Fragmentation] = {}
    for node in problem.cluster.nodes:
        for gpu in range(node.gpus):
            held, capacity, free, unusable = next(rows)
            request, limit, memory = (Room(*each) for each in zip(capacity, free, strict=True))
            everything[node.name, gpu] = Fragmentation(int(held > 0), request, limit, memory, unusable)
    active = {where: each for where, each in sorted(everything.items()) if each.active_gpus}
    covered = active if over == "active" else everything
    by_node: dict[str, list[Fragmentation]] = {}
    for (name, _), each in covered.items():
        by_node.setdefault(name, []).append(each)
    return FragmentationReport(
        covered,
        {name: _sum(each) for name, each in by_node.items()},
        _sum(covered.values()),
        _stranded(problem, active.values()),
        _sum(everything.values()),
        mix,
    )


def _sum(parts: Iterable[Fragmentation]) -> Fragmentation:
    return reduce(
        lambda total, part: Fragmentation(
            total.active_gpus + part.active_gpus,
            total.request_milli + part.request_milli,
            total.limit_milli + part.limit_milli,
            total.memory_mib + part.memory_mib,
            total.unusable_milli + part.unusable_milli,
        ),
        parts,
        Fragmentation(0, Room(0, 0), Room(0, 0), Room(0, 0)),
    )


def _stranded(problem: PlacementProblem, gpus: Iterable[Fragmentation]) -> Stranded:
    """What is free on GPUs where the least that an instance of the problem wants is kept out by something else."""
    wanted = [(each, choice) for each in problem.instances for choice in each.configurations]
    least_request = min((choice.request_milli for _, choice in wanted), default=1)
    least_limit = min((choice.limit_milli for _, choice in wanted), default=1)
    least_memory = min((min(choice.memory_per_gpu_mib(each.gpus)) for each, choice in wanted), default=0)
    by_memory = by_limit = mib_by_request = mib_by_limit = 0
    for gpu in gpus:
        request, limit, mib = gpu.request_milli.free, gpu.limit_milli.free, gpu.memory_mib.free
        if request >= least_request:
            by_memory += request if mib < least_memory else 0
            by_limit += request if limit < least_limit else 0
        if mib >= least_memory:
            mib_by_request += mib if request < least_request else 0
            mib_by_limit += mib if limit < least_limit else 0
    return Stranded(by_memory, by_limit, mib_by_request, mib_by_limit)
