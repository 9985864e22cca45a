"""Local search on a ledger: fewer GPUs, the same instances, and those that are tied down stay."""

from __future__ import annotations

import random
import time

from dilu_core.cluster import Cluster, GpuType, Instance, Oversubscription
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.result import Limit
from dilu_core.solvers.placement.bookings import Bookings
from dilu_core.solvers.placement.construct import construct, fill
from dilu_core.solvers.placement.local_search import squeeze
from dilu_core.solvers.placement.place import place

CLUSTER = Cluster.homogeneous(20, 4, GpuType("A100", 40960))


def crowd() -> tuple[Instance, ...]:
    """Small instances in random order, with a gang, a pair that must not meet, and a picky one among them."""
    draw = random.Random(4)
    small = [
        Instance(f"i{k}", "inference", request := draw.randint(200, 450), request + 150, draw.randint(3, 12) * 1024)
        for k in range(60)
    ]
    tied = [
        Instance("gang", "training", 500, 700, 20000, gpus=2),
        Instance("a", "inference", 200, 300, 1024, function="f", anti_affinity=("g",)),
        Instance("b", "inference", 200, 300, 1024, function="g"),
        Instance("picky", "inference", 200, 300, 1024, gpu_types=("A100",)),
    ]
    return (*tied, *small)


def test_squeezing_keeps_everything_and_uses_fewer_gpus() -> None:
    """From arrival-order best fit, local search empties GPUs; the placement stays valid and tied instances stay put."""
    instances = crowd()
    problem = PlacementProblem(CLUSTER, instances)
    ledger = Bookings(CLUSTER, Oversubscription())
    fill(ledger, instances)
    before, tied = ledger.gpus_used, {name: ledger.by_name[name] for name in ("gang", "a", "b", "picky")}
    steps, late = squeeze(ledger, target=0, deadline=time.perf_counter() + 60, seed=1)
    assert steps > 0
    assert not late
    assert ledger.gpus_used < before
    assert verify_placement(problem, ledger.placement(), require_all=True) == ()
    assert {name: ledger.by_name[name] for name in tied} == tied


def test_squeezing_is_repeatable_and_stops_at_its_target() -> None:
    """The same seed gives the same placement, and no GPU is given up beyond the target or without time."""
    placements = []
    for _ in range(2):
        built = construct(PlacementProblem(CLUSTER, crowd()), crowd(), stay={}, current={}, deadline=0.0)
        squeeze(built.ledger, target=0, deadline=time.perf_counter() + 60, seed=7)
        placements.append(built.ledger.placement())
    assert placements[0] == placements[1]
    ledger = Bookings(CLUSTER, Oversubscription())
    fill(ledger, crowd())
    used = ledger.gpus_used
    assert squeeze(ledger, target=used, deadline=time.perf_counter() + 60, seed=0) == (0, False)
    assert squeeze(ledger, target=0, deadline=0.0, seed=0) == (0, True)
    assert ledger.gpus_used == used


def test_the_last_gpu_is_never_given_up() -> None:
    """With everything on one GPU there is nothing to empty, whatever the target."""
    ledger = Bookings(CLUSTER, Oversubscription())
    fill(ledger, [Instance(name, "inference", 100, 100, 1) for name in ("a", "b")])
    assert squeeze(ledger, target=0, deadline=time.perf_counter() + 60, seed=0) == (0, False)
    assert ledger.gpus_used == 1


def test_a_search_cut_by_the_clock_says_so() -> None:
    """Where time, not work, ends the search, the termination names that limit, as the answer may differ next time."""
    result = place(PlacementProblem(CLUSTER, crowd()), time_limit_s=0.0)
    assert result.termination.limit in (None, Limit.TIME)
    if result.gpus_used > result.lower_bound:
        assert result.termination.limit is Limit.TIME
