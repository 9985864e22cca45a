"""Local search on a ledger: fewer GPUs, the same instances, every state valid, and those that are tied down stay."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance, Node, Oversubscription
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.result import Limit
from dilu_core.solvers.placement.bins import Bins, bins_of, repacked, write_back
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.construct import construct, fill, ledger_of
from dilu_core.solvers.placement.local_search import LocalSearch, Part, anneal_part, squeeze
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.place import place

A100 = GpuType("A100", 40960)
CLUSTER = Cluster.homogeneous(20, 4, A100)


def crowd() -> tuple[Instance, ...]:
    """Small instances in random order, with a gang, one with a host demand, a pair that must not meet, a picky one."""
    draw = random.Random(4)
    small = [
        Instance(f"i{k}", "inference", request := draw.randint(200, 450), request + 150, draw.randint(3, 12) * 1024)
        for k in range(60)
    ]
    tied = [
        Instance("gang", "training", 500, 700, 20000, gpus=2),
        Instance("host", "inference", 200, 300, 1024, cpu_milli=1000),
        Instance("a", "inference", 200, 300, 1024, function="f", anti_affinity=("g",)),
        Instance("b", "inference", 200, 300, 1024, function="g"),
        Instance("picky", "inference", 200, 300, 1024, gpu_types=("A100",)),
    ]
    return (*tied, *small)


def placed(instances: Iterable[Instance], cluster: Cluster = CLUSTER) -> Bookings:
    """A ledger with the instances by best fit, in the order given."""
    ledger = Bookings(cluster, Oversubscription())
    fill(ledger, list(instances))
    return ledger


def in_order(parts: list[Part]) -> list[Part]:
    """Anneals parts one after another."""
    return [anneal_part(part) for part in parts]


def soon() -> float:
    """A deadline that is never met."""
    return time.perf_counter() + 60


def test_squeezing_keeps_everything_and_uses_fewer_gpus() -> None:
    """From arrival-order best fit, local search empties GPUs; the placement stays valid, gangs and hosted ones stay."""
    problem = PlacementProblem(CLUSTER, crowd())
    ledger = placed(crowd())
    before, tied = ledger.gpus_used, {name: ledger.by_name[name] for name in ("gang", "host")}
    steps, late = squeeze(ledger, target=0, deadline=soon(), seed=1)
    assert steps > 0
    assert not late
    assert ledger.gpus_used < before
    assert verify_placement(problem, ledger.placement(), require_all=True) == ()
    assert {name: ledger.by_name[name] for name in tied} == tied


def test_squeezing_is_repeatable_and_stops_at_its_target() -> None:
    """The same seed gives the same placement, and no GPU is given up beyond the target or without time."""
    placements = []
    for _ in range(2):
        built = construct(PlacementProblem(CLUSTER, crowd()), crowd(), Objective(), stay={}, current={}, deadline=0.0)
        squeeze(built.ledger, target=0, deadline=soon(), seed=7)
        placements.append(built.ledger.placement())
    assert placements[0] == placements[1]
    ledger = placed(crowd())
    used = ledger.gpus_used
    assert squeeze(ledger, target=used, deadline=soon(), seed=0) == (0, False)
    assert squeeze(ledger, target=0, deadline=0.0, seed=0) == (0, True)
    assert ledger.gpus_used == used


def test_the_last_gpu_is_never_given_up() -> None:
    """With everything on one GPU there is nothing to empty, whatever the target."""
    ledger = placed([Instance(name, "inference", 100, 100, 1) for name in ("a", "b")])
    assert squeeze(ledger, target=0, deadline=soon(), seed=0) == (0, False)
    assert ledger.gpus_used == 1


def test_a_search_cut_by_the_clock_says_so() -> None:
    """Where time, not work, ends the search, the termination names that limit, as the answer may differ next time."""
    result = place(PlacementProblem(CLUSTER, crowd()), time_limit_s=0.0)
    assert result.termination.limit in (None, Limit.TIME)
    if result.gpus_used > result.lower_bound:
        assert result.termination.limit is Limit.TIME


def checked(problem: PlacementProblem, before: dict[str, Booking], movable: list[Booking], bins: Bins) -> int:
    """GPUs of the placement that `bins` stand for, all rules being checked by `verify_placement`."""
    ledger = ledger_of(problem, before)
    write_back(ledger, movable, bins)
    assert verify_placement(problem, ledger.placement()) == ()
    assert ledger.by_name.keys() == before.keys()
    moved = {booking.instance.name for booking in movable}
    assert all(ledger.by_name[name] == booking for name, booking in before.items() if name not in moved)
    return ledger.gpus_used


@given(data=st.data(), seed=st.integers(0, 1000))
def test_every_incumbent_is_a_valid_placement(
    crowds: st.SearchStrategy[PlacementProblem], data: st.DataObject, seed: int
) -> None:
    """Whatever is asked for, each incumbent of the search holds the same instances by every rule, on fewer GPUs."""
    problem: PlacementProblem = data.draw(crowds)
    problem = PlacementProblem(
        Cluster.homogeneous(data.draw(st.integers(1, 3)), 4, problem.cluster.nodes[0].gpu_type),
        problem.instances, problem.oversubscription,
    )  # fmt: skip
    ledger = Bookings(problem.cluster, problem.oversubscription)
    fill(ledger, list(problem.instances), split_last=True)
    before, used = dict(ledger.by_name), ledger.gpus_used
    bins, movable = bins_of(ledger)
    told: list[int] = []
    search = LocalSearch(bins, seed, lambda _: told.append(checked(problem, before, movable, search.best)))
    search.run(in_order, target=0, deadline=soon(), steps_per_item=1_000)
    assert all(b < a for a, b in itertools.pairwise([used, *told]))
    assert checked(problem, before, movable, search.best) == ([used, *told])[-1]


@given(st.lists(st.tuples(st.integers(1, 10), st.integers(1, 15)), min_size=1, max_size=20), st.randoms())
def test_a_packing_is_taken_only_where_it_is_one(sizes: list[tuple[int, int]], draw: random.Random) -> None:
    """Lists of items become bins that hold just these, where each has room for its list and there are enough bins; else
    nothing is offered. What fewer bins hold becomes the incumbent."""
    instances = [
        Instance(f"i{k}", "inference", 100 * r, min(1000, 100 * max(r, m)), 2048 * m) for k, (r, m) in enumerate(sizes)
    ]
    problem = PlacementProblem(CLUSTER, tuple(instances))
    ledger = placed(instances)
    before = dict(ledger.by_name)
    bins, movable = bins_of(ledger)
    lists: list[list[int]] = [[] for _ in range(draw.randint(1, bins.used + 1))]
    for item in range(len(sizes)):
        draw.choice(lists).append(item)
    lists = [each for each in lists if each]
    load = [bins.demand[each].sum(axis=0) for each in lists]
    fits = len(lists) <= bins.used and all((one <= [1000, 1500, 40960]).all() for one in load)
    found = repacked(bins, lists)
    assert (found is not None) == fits
    assert repacked(bins, lists[1:]) is None or not lists[1:]
    if found is None:
        return
    assert [sorted(found.members[b, : found.count[b]]) for b in range(found.used)] == [sorted(each) for each in lists]
    assert checked(problem, before, movable, found) == len(lists)
    search = LocalSearch(bins, 0)
    search.offer(found)
    assert search.best is (found if found.used < bins.used else bins)
    search.run(in_order, target=0, deadline=soon(), steps_per_item=500)
    assert checked(problem, before, movable, search.best) <= min(found.used, bins.used)


def test_no_packing_is_taken_where_more_than_room_matters() -> None:
    """Where GPUs differ, hold what stays, or items are tied, a packing by room alone is not offered."""
    small = [Instance(f"i{k}", "inference", 400, 400, 1024) for k in range(4)]
    refused = Instance("a", "inference", 400, 400, 1, function="f", anti_affinity=("g",))
    mixed = Cluster((Node("m", GpuType("B", 81920), 1), Node("n", A100, 3)))
    for cluster, others in (
        (CLUSTER, [Instance("gang", "training", 300, 300, 1024, gpus=2)]),
        (CLUSTER, [refused, Instance("b", "inference", 400, 400, 1, function="g")]),
        (mixed, [replace(each, name=f"more-{each.name}") for each in small]),
    ):
        bins, movable = bins_of(placed([*others, *small], cluster))
        every = np.array_split(np.arange(len(movable)), bins.used)
        assert repacked(bins, [each.tolist() for each in every]) is None
    alike, _ = bins_of(placed(small))
    assert repacked(alike, [[0, 1], [2, 3]]) is not None


def test_closing_and_opening_lose_nobody() -> None:
    """Closed bins leave their items homeless, and opening bins for the homeless brings all of them back."""
    bins, movable = bins_of(placed(crowd()))
    work = bins.copy()
    closed = work.close(5)
    inside = np.arange(work.members.shape[1]) < work.count[:, None]
    assert sorted([*work.members[inside].tolist(), *work.homeless.tolist()]) == list(range(len(movable)))
    assert (closed, work.used) == (5, bins.used - 5)
    assert work.open_for_homeless()
    assert work.used <= bins.used
    assert checked(PlacementProblem(CLUSTER, crowd()), dict(placed(crowd()).by_name), movable, work)
