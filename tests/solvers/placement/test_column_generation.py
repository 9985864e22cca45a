"""Column generation: bounds never above the optimum, known answers, interruption, and dives that pack everything."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, Configuration, GpuType, Instance, Node, Oversubscription
from dilu_core.mig import MigGeometry, MigProfile
from dilu_core.placement import PlacementProblem
from dilu_core.solvers.placement.bounds import lower_bound
from dilu_core.solvers.placement.column_generation import ColumnBound, ColumnGeneration, column_bound
from dilu_core.solvers.placement.diving import dive
from dilu_core.solvers.placement.item_types import item_types
from dilu_core.solvers.placement.pattern_prices import certify, rounded

CAPS = Oversubscription()
A100 = GpuType("A100", 40960)


def proven(cluster: Cluster, caps: Oversubscription, instances: Any, **more: Any) -> ColumnBound:
    """The bound without a limit of time."""
    return column_bound(cluster, caps, instances, deadline=time.perf_counter() + 600, **more)


def mix(count: int, seed: int, step: int = 10) -> tuple[Instance, ...]:
    """Small inference and large LLM instances, none splittable, demands in multiples of `step` milli and 1 GiB / 8."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        memory, low, high = (24, 200, 400) if draw.random() < 0.75 else (160, 400, 600)
        request = draw.randrange(low, high, step)
        limit = min(request + draw.randrange(100, 300, step), 1000)
        found.append(Instance(f"i{i}", "inference", request, limit, draw.randrange(memory, memory + 80) * 128))
    return tuple(found)


@given(st.data())
def test_no_bound_exceeds_the_optimum(problems: Any, brute_force: Any, data: st.DataObject) -> None:
    """Where everything can be placed, the bound is at most the fewest GPUs that brute force finds."""
    problem = data.draw(problems)
    left_out, optimum = brute_force(problem)
    if left_out == 0 and problem.instances:
        assert proven(problem.cluster, problem.oversubscription, problem.instances).value <= optimum


@given(st.data())
def test_no_bound_exceeds_the_best_configurations(problems: Any, brute_force: Any, data: st.DataObject) -> None:
    """With alternatives, no bound exceeds the optimum over all choices of a configuration for each instance."""
    problem = data.draw(problems)
    several = tuple(
        replace(each, alternatives=(Configuration(*data.draw(st.sampled_from([(200, 200), (300, 800), (500, 500)])),
                                                  data.draw(st.sampled_from([0, each.memory_mib, 3]))),))
        if each.gpus == 1 and k < 2 else each
        for k, each in enumerate(problem.instances)
    )  # fmt: skip
    optimum = None
    for chosen in itertools.product(*(each.configurations for each in several)):
        fixed = tuple(
            replace(
                each, request_milli=c.request_milli, limit_milli=c.limit_milli, memory_mib=c.memory_mib, alternatives=()
            )
            for each, c in zip(several, chosen, strict=True)
        )
        left_out, gpus = brute_force(PlacementProblem(problem.cluster, fixed, problem.oversubscription))
        if left_out == 0:
            optimum = gpus if optimum is None else min(optimum, gpus)
    if optimum is not None and several:
        assert proven(problem.cluster, problem.oversubscription, several).value <= optimum
        assert lower_bound(problem.cluster, problem.oversubscription, several).value <= optimum


GEOMETRY = MigGeometry(4, (MigProfile("s", 250, 2, 1, (0, 1, 2)), MigProfile("l", 500, 4, 2, (0, 2))))


def fewest_partitioned(instances: tuple[Instance, ...], gpus: int) -> int | None:
    """The fewest partitioned GPUs that hold all instances, by trying every partition of every GPU for each."""

    def descend(i: int, used: dict[int, int], booked: dict[int, tuple[int, int]]) -> int | None:
        if i == len(instances):
            return len(used)
        each, best = instances[i], None
        for g, profile in itertools.product(range(gpus), GEOMETRY.profiles):
            if profile.share_milli < each.request_milli or profile.memory_mib < each.total_memory_mib:
                continue
            request, limit = booked.get(g, (0, 0))
            now = (request + each.request_milli, limit + min(each.limit_milli, profile.share_milli))
            if now[0] > 1000 or now[1] > 1500:
                continue
            for start in profile.starts:
                mask = profile.mask(start)
                if not used.get(g, 0) & mask:
                    found = descend(i + 1, {**used, g: used.get(g, 0) | mask}, {**booked, g: now})
                    best = found if best is None or (found is not None and found < best) else best
        return best

    return descend(0, {}, {})


_DEMANDS = st.tuples(st.sampled_from([100, 250, 400]), st.sampled_from([400, 900]), st.integers(0, 4))


@given(st.lists(_DEMANDS, max_size=5))
def test_no_bound_exceeds_the_optimum_on_partitioned_gpus(demands: list[tuple[int, int, int]]) -> None:
    """Where limits shrink to a partition's share, both bounds still hold."""
    instances = tuple(Instance(f"i{k}", "inference", *demand) for k, demand in enumerate(demands))
    optimum = fewest_partitioned(instances, 3)
    if optimum is not None and instances:
        cluster = Cluster.homogeneous(1, 3, GpuType("split", 8, GEOMETRY))
        assert lower_bound(cluster, CAPS, instances).value <= optimum
        assert proven(cluster, CAPS, instances).value <= optimum


def test_slices_bound_partitioned_gpus() -> None:
    """Six instances that need two of four slices each need three GPUs, though shares and memory would fit two."""
    cluster = Cluster.homogeneous(1, 4, GpuType("split", 40, GEOMETRY))
    six = tuple(Instance(f"i{k}", "inference", 300, 300, 1) for k in range(6))
    bound = lower_bound(cluster, CAPS, six)
    assert (bound.value, bound.proof) == (3, "slices total")


@pytest.mark.parametrize(
    ("instances", "value"),
    [
        ([(340, 400, 1)] * 9, 5),  # two to a GPU
        ([(600, 600, 100), (600, 600, 100), (300, 300, 30000), (300, 300, 30000)], 2),
        ([(600, 600, 30000), (600, 600, 30000), (300, 300, 30000), (300, 300, 30000)], 4),
        ([(500, 700, 1), (400, 700, 1), (100, 200, 1)] * 4, 5),  # limits pair up, and pairs leave too little for more
        ([(1, 1, 0)] * 3000, 3),
    ],
)
def test_known_bounds(instances: list[tuple[int, int, int]], value: int) -> None:
    """What one works out by hand: patterns see all resources at once."""
    found = tuple(Instance(f"i{k}", "inference", *each) for k, each in enumerate(instances))
    bound = proven(Cluster.homogeneous(1000, 4, A100), CAPS, found)
    assert (bound.value, bound.proof, bound.converged) == (value, "column generation", True)


def test_splits_are_counted_as_parts() -> None:
    """Three instances of 600 milli on GPUs of 24 GiB: whole they are one to a GPU; split, six parts need six GPUs."""
    cluster = Cluster.homogeneous(4, 4, GpuType("T4", 24576))
    large = tuple(Instance(f"l{k}", "llm-inference", 600, 600, 30720, splittable=True) for k in range(3))
    assert proven(cluster, CAPS, large).value == 6
    small = tuple(replace(each, memory_mib=24576) for each in large)
    assert proven(cluster, CAPS, small).value == 3
    gangs = tuple(Instance(f"g{k}", "training", 300, 300, 20480, gpus=2) for k in range(3))
    assert proven(cluster, CAPS, (*large, *gangs)).value == 9  # 90 GiB in parts, 4 on each GPU of a gang


def test_scarce_gpus_raise_the_bound() -> None:
    """With one large GPU the second large half-and-half pair cannot share, which only the count of large GPUs tells."""
    cluster = Cluster((Node("small", GpuType("S", 10), 8), Node("large", GpuType("L", 20), 1)))
    pairs = tuple(Instance(f"i{k}", "inference", 400, 400, 10) for k in range(6))
    assert proven(cluster, CAPS, pairs).value == 5
    apart = tuple(Instance(f"a{k}", "inference", 400, 400, 10, gpu_types=("S",)) for k in range(2))
    alone = (Instance("b", "inference", 400, 400, 10, gpu_types=("L",)),)
    both = proven(cluster, CAPS, (*apart, *alone))
    assert (both.value, both.proof) == (3, "column generation on 2 sets of GPU types")


@pytest.mark.parametrize(("seed", "step"), [(0, 10), (1, 10), (2, 1)])
def test_the_dive_packs_everything_close_to_the_bound(seed: int, step: int) -> None:
    """On mixes of 300 the packing is complete, within every capacity, and within two GPUs of the bound."""
    instances = mix(300, seed, step)
    bound = proven(Cluster.homogeneous(300, 4, A100), CAPS, instances)
    assert bound.value >= lower_bound(Cluster.homogeneous(300, 4, A100), CAPS, instances).value
    packing = dive(bound, deadline=time.perf_counter() + 600)
    assert sorted(i for gpu in packing for i in gpu) == list(range(300))
    for gpu in packing:
        here = [instances[i] for i in gpu]
        assert here
        assert sum(each.request_milli for each in here) <= 1000
        assert sum(each.limit_milli for each in here) <= 1500
        assert sum(each.total_memory_mib for each in here) <= 40960
    assert bound.value <= len(packing) <= bound.value + 2


def test_a_dive_without_time_still_packs_everything() -> None:
    """At a deadline that has passed, best fit packs what there is; what cannot be whole anywhere is left out."""
    cluster = Cluster.homogeneous(300, 4, A100)
    instances = (*mix(40, 5), Instance("l", "llm-inference", 200, 200, 50_000, splittable=True))
    packing = dive(proven(cluster, CAPS, instances), deadline=0.0)
    assert sorted(i for gpu in packing for i in gpu) == list(range(40))


def test_stop_target_and_deadline_end_the_work_with_what_is_proven() -> None:
    """Each ends it early, the bound is then valid (not above the final one), and `report` has told each better one."""
    cluster, instances = Cluster.homogeneous(300, 4, A100), mix(300, 7)
    told: list[int] = []
    full = proven(cluster, CAPS, instances, report=told.append)
    assert told == sorted(set(told))
    assert told[-1] == full.value
    asked = iter(range(10))
    stopped = proven(cluster, CAPS, instances, stop=lambda: next(asked) == 2)
    assert (stopped.counts["rounds"], stopped.converged) == (2, False)
    assert stopped.value <= full.value
    assert column_bound(cluster, CAPS, instances, deadline=0.0).value == 0
    early = proven(cluster, CAPS, instances, target=full.value // 2)
    assert full.value // 2 <= early.value
    assert early.counts["rounds"] <= full.counts["rounds"]


def test_patterns_of_a_good_placement_save_rounds() -> None:
    """Warm columns from a packing change nothing in the bound; with them fewer columns are generated."""
    cluster, instances = Cluster.homogeneous(300, 4, A100), mix(300, 8)
    cold = proven(cluster, CAPS, instances)
    warm = proven(cluster, CAPS, instances, patterns=dive(cold, deadline=time.perf_counter() + 600))
    assert warm.value == cold.value
    assert warm.counts["rounds"] <= cold.counts["rounds"]


def test_columns_say_what_the_program_uses() -> None:
    """The patterns in use fit their GPU, and their values add up to the program's optimum."""
    bound = proven(Cluster.homogeneous(100, 4, A100), CAPS, mix(100, 3))
    assert sum(used.value for used in bound.columns) == pytest.approx(bound.lp_value)
    for used in bound.columns:
        assert used.gpu_type == "A100"
        assert (np.sum(used.items, axis=0) <= (1000, 1500, 40960)).all()


@given(st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12), st.floats(0.0, 1.0), st.data())
def test_any_prices_prove_a_valid_bound(
    problems: Any, brute_force: Any, prices: list[float], memory: float, data: st.DataObject
) -> None:
    """Prices out of thin air certify a bound that the optimum respects: nothing rests on the linear program."""
    problem = data.draw(problems)
    left_out, optimum = brute_force(problem)
    if left_out == 0 and problem.instances:
        types = item_types(problem.cluster, problem.oversubscription, problem.cluster.gpu_types, problem.instances)
        item = np.resize(prices, len(types.demand))
        found = certify(types, rounded(types, item, memory), (0,) * len(types.gpu_types))
        assert found.bound <= optimum


def test_programs_of_one_kind_can_go_on() -> None:
    """A run cut short goes on where it was, to the same bound."""
    cluster, instances = Cluster.homogeneous(300, 4, A100), mix(200, 9)
    generation = ColumnGeneration(item_types(cluster, CAPS, cluster.gpu_types, instances))
    asked = iter(range(10))
    generation.run(time.perf_counter() + 600, stop=lambda: next(asked) == 3)
    assert not generation.converged
    generation.run(time.perf_counter() + 600)
    assert generation.value == proven(cluster, CAPS, instances).value
