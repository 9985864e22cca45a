"""Ruin and recreate: each incumbent is valid and better than the last by the objective; a seed fixes the answer."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.solvers.placement.bookings import Bookings
from dilu_core.solvers.placement.construct import fill, ledger_of
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.oracle import cost_of
from dilu_core.solvers.placement.recreate import RuinRecreate
from dilu_core.solvers.placement.small_problems import small_problem
from dilu_core.solvers.placement.value import Value, value

A100 = GpuType("A100", 40960)


def never(_: Value) -> bool:
    """Nothing is ever good enough."""
    return False


def soon() -> float:
    """A deadline that is never met."""
    return time.perf_counter() + 60


def training_mix(count: int, seed: int) -> tuple[Instance, ...]:
    """Gangs that take most of their GPUs' memory, LLMs that may be split over what is left, and small instances."""
    draw = random.Random(seed)
    found = []
    for k in range(count):
        what, request = draw.random(), draw.randint(20, 40) * 10
        if what < 0.3:
            found.append(Instance(f"t{k}", "training", request, request + 200, draw.randint(24, 34) * 1024,
                                  gpus=draw.choice((2, 4))))  # fmt: skip
        elif what < 0.5:
            found.append(Instance(f"l{k}", "llm-inference", request, request + 200, draw.randint(14, 30) * 1024,
                                  splittable=True))  # fmt: skip
        else:
            found.append(Instance(f"i{k}", "inference", request, request + 200, draw.randint(3, 10) * 1024))
    return tuple(found)


@given(st.integers(0, 10**6))
@settings(max_examples=60)
def test_every_incumbent_is_valid_and_better(seed: int) -> None:
    """On problems with every rule and any objective, each incumbent keeps the rules and costs less than the one before,
    by a count of its own."""
    small = small_problem(seed)
    problem = PlacementProblem(small.problem.cluster, small.problem.instances, small.problem.oversubscription)
    objective = Objective(small.order) if small.weights is None else Objective(weights=small.weights)
    ledger = Bookings(problem.cluster, problem.oversubscription)
    fill(ledger, list(problem.instances))
    before = dict(ledger.by_name)
    costs = [cost_of(problem, ledger.placement(), order=small.order, weights=small.weights)]

    def report(gpus: int) -> None:
        placement = search.best.placement()
        assert verify_placement(problem, placement) == ()
        assert placement.gpus_used == gpus
        costs.append(cost_of(problem, placement, order=small.order, weights=small.weights))

    search = RuinRecreate(ledger, problem.instances, objective, seed, report)
    search.run(enough=never, deadline=soon(), stalled=40)
    assert all(b < a for a, b in itertools.pairwise(costs))
    assert search.value == value(search.best, problem.instances, {})
    assert dict(ledger.by_name) == before  # what it started from is as it was
    rebuilt = ledger_of(problem, search.best.by_name)  # the columns are those of its bookings
    assert (rebuilt.free == search.best.free).all()
    assert (rebuilt.held == search.best.held).all()


def test_it_frees_gpus_that_one_pass_leaves() -> None:
    """Gangs, splits and small ones packed in one pass leave GPUs to save; a seed always saves the same."""
    instances = training_mix(45, 2)
    problem = PlacementProblem(Cluster.homogeneous(40, 4, A100), instances)
    ledger = ledger_of(problem, {})
    fill(ledger, sorted(instances, key=lambda each: (-each.gpus, not each.splittable)))
    found = []
    for seed in (1, 1):
        search = RuinRecreate(ledger, instances, Objective(), seed)
        search.run(enough=never, deadline=soon(), stalled=500)
        assert not search.was_cut
        assert search.value.gpus < ledger.gpus_used
        assert verify_placement(problem, search.best.placement(), require_all=True) == ()
        found.append(search.best.placement())
    assert found[0] == found[1]


def test_those_without_a_place_are_brought_in() -> None:
    """A gang that found no node with two free GPUs gets one once the small instances in its way have moved."""
    cluster = Cluster.homogeneous(2, 2, A100)
    small = tuple(Instance(f"i{k}", "inference", 400, 400, 10 * 1024) for k in range(2))
    gang = Instance("gang", "training", 700, 700, 20 * 1024, gpus=2)
    problem = PlacementProblem(cluster, (*small, gang))
    ledger = ledger_of(problem, {})
    for k, each in enumerate(small):
        ledger.book(each, (2 * k,), (each.total_memory_mib,))
    search = RuinRecreate(ledger, problem.instances, Objective(), 0)
    search.run(enough=lambda found: not found.unplaced, deadline=soon(), stalled=2_000)
    assert search.value.unplaced == 0
    assert verify_placement(problem, search.best.placement(), require_all=True) == ()


@pytest.mark.parametrize(
    ("objective", "splits", "gpus"),
    [(Objective(), 1, 3), (Objective(("splits", "gpus")), 0, 4), (Objective(weights={"gpus": 1, "splits": 2}), 0, 4)],
)
def test_a_price_of_splits_decides_who_is_split(objective: Objective, splits: int, gpus: int) -> None:
    """Four LLMs of 26 GB on GPUs of 40 GB: to split one of them saves a GPU, which is worth it or is not."""
    instances = tuple(Instance(f"l{k}", "llm-inference", 300, 300, 26 * 1024, splittable=True) for k in range(4))
    problem = PlacementProblem(Cluster.homogeneous(1, 4, A100), instances)
    ledger = ledger_of(problem, {})
    fill(ledger, list(instances))
    search = RuinRecreate(ledger, instances, objective, 0)
    search.run(enough=never, deadline=soon(), stalled=1_000)
    assert (search.value.splits, search.value.gpus) == (splits, gpus)


def test_nothing_to_do_ends_at_once() -> None:
    """One GPU cannot be closed, nor can none; a deadline that has passed is respected and said."""
    problem = PlacementProblem(Cluster.homogeneous(1, 2, A100), (Instance("a", "inference", 100, 100, 1),))
    ledger = ledger_of(problem, {})
    for _ in range(2):
        search = RuinRecreate(ledger, tuple(booking.instance for booking in ledger.by_name.values()), Objective(), 0)
        search.run(enough=never, deadline=soon())
        assert search.steps == 0
        fill(ledger, list(problem.instances))
    instances = training_mix(20, 0)
    ledger = ledger_of(PlacementProblem(Cluster.homogeneous(20, 4, A100), instances), {})
    fill(ledger, list(instances))
    search = RuinRecreate(ledger, instances, Objective(), 0)
    search.run(enough=never, deadline=0.0)
    assert search.was_cut
    assert search.best.by_name == ledger.by_name
