"""Bounds: never above the optimum, by functions that are truly dual feasible, and named after the proof that wins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance, Node, Oversubscription
from dilu_core.placement import PlacementProblem
from dilu_core.solvers.placement.bounds import lower_bound
from dilu_core.solvers.placement.dual_feasible import halves, martello_toth, staircase
from dilu_core.solvers.placement.place import place

CAPS = Oversubscription()
A100 = GpuType("A100", 40960)
CLUSTER = Cluster.homogeneous(20, 4, A100)


def some(count: int, request: int, limit: int, memory: int, **more: Any) -> tuple[Instance, ...]:
    """Equal inference instances."""
    return tuple(Instance(f"i{k}", "inference", request, limit, memory, **more) for k in range(count))


@given(st.data())
def test_no_bound_exceeds_the_optimum(problems: Any, brute_force: Any, data: st.DataObject) -> None:
    """Where everything can be placed, the bound is at most the fewest GPUs that brute force finds."""
    problem = data.draw(problems)
    left_out, optimum = brute_force(problem)
    if left_out == 0:
        bound = lower_bound(problem.cluster, problem.oversubscription, problem.instances)
        assert bound.value <= optimum, bound.proof


@given(
    st.sampled_from([martello_toth, staircase, halves]),
    st.integers(2, 60),
    st.data(),
)
def test_functions_are_dual_feasible(function: Any, capacity: int, data: st.DataObject) -> None:
    """Each family is nonnegative, nondecreasing and superadditive on 0..C, which is what the proof uses."""
    parameter = data.draw(st.integers(1, 20) if function is staircase else st.integers(1, capacity // 2))
    value = function(np.arange(capacity + 1), capacity, parameter)
    assert value[0] == 0
    assert (np.diff(value) >= 0).all()
    for total in range(capacity + 1):
        assert (value[: total + 1] + value[: total + 1][::-1] <= value[total]).all()


@pytest.mark.parametrize(
    ("instances", "value", "proof"),
    [
        ((), 0, "nothing to place"),
        (some(10, 500, 600, 100), 5, "SM request total"),
        (some(10, 300, 750, 100), 5, "SM limit total"),
        (some(10, 100, 100, 20480), 5, "memory total"),
        (some(10, 100, 100, 24000), 10, "dual feasible function u_k on memory"),
        (some(9, 340, 400, 100), 5, "dual feasible function u_k on SM request"),
        (some(9, 1, 1, 1, function="f", anti_affinity=("f",)), 9, "anti-affinity clique"),
        ((Instance("g", "training", 1, 1, 1, gpus=4),), 4, "largest gang"),
    ],
)
def test_known_bounds_and_their_proofs(instances: tuple[Instance, ...], value: int, proof: str) -> None:
    """Textbook cases give the bound one works out by hand, named after the right proof."""
    bound = lower_bound(CLUSTER, CAPS, instances)
    assert (bound.value, bound.proof) == (value, proof)


@pytest.mark.parametrize(
    ("instances", "proof"),
    [
        (some(6, 100, 100, 1000, function="f", anti_affinity=("f",)), "anti-affinity clique"),
        (
            (Instance("g", "training", 100, 100, 1000, gpus=2), Instance("i", "inference", 950, 950, 1000)),
            "clique of instances that cannot share a GPU",
        ),
    ],
)
def test_cliques_are_named_by_what_keeps_their_members_apart(instances: tuple[Instance, ...], proof: str) -> None:
    """The proof names the conflict that every pair of the clique has, or none where there is no such conflict."""
    bound = lower_bound(CLUSTER, CAPS, instances)
    assert bound.proof == proof


def test_splittable_instances_without_memory_take_none() -> None:
    """A GPU full of memory has room for a splittable instance that needs none, so the bound is one GPU."""
    cluster = Cluster.homogeneous(1, 2, A100)
    full = Instance("full", "inference", 100, 100, 40960)
    empty = Instance("empty", "llm-inference", 100, 100, 0, splittable=True)
    assert lower_bound(cluster, CAPS, (full, empty)).value == 1
    result = place(PlacementProblem(cluster, (full, empty)))
    assert (result.gpus_used, result.lower_bound) == (1, 1)


def test_split_instances_count_by_their_memory_alone() -> None:
    """Two instances of 30 GiB that may be split fit three GPUs of 20 GiB, so the bound is three, not more."""
    cluster = Cluster.homogeneous(1, 4, GpuType("T4", 20480))
    pair = tuple(Instance(f"l{k}", "llm-inference", 200, 900, 30720, splittable=True) for k in range(2))
    assert lower_bound(cluster, CAPS, pair).value == 3
    assert place(PlacementProblem(cluster, pair)).gpus_used == 3


def test_mixed_types_are_bounded_by_what_they_have() -> None:
    """Memory is covered by the largest GPUs first, and types that nothing links are bounded apart."""
    large = GpuType("H100", 81920)
    cluster = Cluster((Node("a", A100, 4), Node("b", large, 1)))
    loose = tuple(Instance(f"i{k}", "inference", 10, 10, 10240) for k in range(12))  # 120 GiB: one large, one small
    assert lower_bound(cluster, CAPS, loose).value == 2
    tied = (*some(2, 600, 600, 1, gpu_types=("A100",)), Instance("h", "inference", 1, 1, 1, gpu_types=("H100",)))
    bound = lower_bound(cluster, CAPS, tied)
    assert bound.value == 3
    assert bound.proof.startswith("sum over GPU types")


def test_greatest_legal_numbers_stay_exact() -> None:
    """With the most memory and the highest cap that are legal, bounds count on instead of overflowing."""
    caps = Oversubscription(1000, 2**53)
    cluster = Cluster.homogeneous(1100, 4, GpuType("vast", 2**40))
    full = some(1100, 10, 1000, 2**40)
    assert lower_bound(cluster, caps, full).value == 1100
    assert lower_bound(cluster, caps, some(1100, 10, 1000, 1)).value == 11
