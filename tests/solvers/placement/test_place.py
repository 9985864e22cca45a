"""place(): equal to brute force where possible, valid and bounded everywhere, and with an answer to odd input."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance, Node
from dilu_core.errors import InvalidArgumentError
from dilu_core.placement import Placement, PlacementProblem, Slot, verify_placement
from dilu_core.result import Limit, TerminationReason
from dilu_core.solvers.placement import neighbourhood
from dilu_core.solvers.placement.choose import Choice, Chooser
from dilu_core.solvers.placement.local_search import LocalSearch
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.place import place

A100 = GpuType("A100", 40960)


def serving_mix(count: int, seed: int = 0) -> tuple[Instance, ...]:
    """Three in four small inference instances, one in four large LLM instances; none may be split."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        if draw.random() < 0.75:
            request = draw.randint(200, 400)
            found.append(Instance(f"i{i}", "inference", request, request + 200, draw.randint(3, 10) * 1024))
        else:
            request = draw.randint(400, 600)
            found.append(Instance(f"l{i}", "llm-inference", request, request + 200, draw.randint(20, 30) * 1024))
    return tuple(found)


@given(st.data())
def test_small_problems_are_solved_to_the_optimum(problems: Any, brute_force: Any, data: st.DataObject) -> None:
    """On tiny problems as many are placed, on as few GPUs, as brute force can; the bound is never above that."""
    problem = data.draw(problems)
    result = place(problem)
    assert verify_placement(problem, result.placement) == ()
    assert (len(result.unplaced), result.gpus_used) == brute_force(problem)
    assert result.lower_bound <= result.gpus_used
    assert set(result.unplaced) | set(result.placement) == {each.name for each in problem.instances}
    assert not set(result.unplaced) & set(result.placement)
    assert result.termination.reason in (TerminationReason.OPTIMAL, TerminationReason.INFEASIBLE)
    assert (result.termination.reason == TerminationReason.INFEASIBLE) == bool(result.unplaced)


@given(st.data())
@settings(max_examples=25)
def test_crowds_are_placed_validly_and_alike(crowds: Any, data: st.DataObject) -> None:
    """A problem with every feature gets a valid placement within its bound, the same one each time."""
    problem = data.draw(crowds)
    result = place(problem, seed=3)
    assert verify_placement(problem, result.placement) == ()
    assert result.lower_bound <= result.gpus_used
    if result.termination.limit is not Limit.TIME:
        assert place(problem, seed=3).placement == result.placement


@given(st.data())
@settings(max_examples=12)
def test_running_instances_move_no_more_than_allowed(crowds: Any, data: st.DataObject) -> None:
    """With `current`, no running instance is evicted, at most `max_migrations` move, and none moves for nothing."""
    problem = data.draw(crowds)
    state = ClusterState(problem.cluster, oversubscription=problem.oversubscription)
    for instance in problem.instances:
        state.place(instance)
    for name in state.placement().names:
        if data.draw(st.booleans()):
            state.remove(name)
    current = state.placement()
    again = PlacementProblem(problem.cluster, problem.instances, problem.oversubscription, current)
    before = None
    for most in (0, 1, None):
        result = place(again, max_migrations=most)
        assert verify_placement(again, result.placement) == ()
        assert set(current) <= set(result.placement)
        moved = result.placement.moved_from(current)
        assert len(moved) <= (len(current) if most is None else most)
        value = (len(result.unplaced), result.gpus_used)
        if before is not None:
            assert value <= before
        before = value


@pytest.mark.parametrize("size", [100, 400, 800])
def test_peaks_of_the_logs_need_no_more_than_online(
    read_events: Callable[[int], Any], event_cluster: Cluster, size: int
) -> None:
    """All at once, the instances live at a log's peak fit on no more GPUs than the online path holds them on."""
    state = ClusterState(event_cluster)
    peak, live = 0, state.instances
    for action, subject in read_events(size):
        if action == "start":
            state.place(subject)
        else:
            state.remove(subject)
        if state.gpus_used > peak:
            peak, live = state.gpus_used, state.instances
    problem = PlacementProblem(event_cluster, live)
    result = place(problem, time_limit_s=1.0)
    assert verify_placement(problem, result.placement, require_all=True) == ()
    assert result.lower_bound <= result.gpus_used <= peak


def test_search_improves_on_construction_and_meets_the_bound() -> None:
    """On a serving mix the search uses no more GPUs than the construction it starts from, and says why it stopped."""
    problem = PlacementProblem(Cluster.homogeneous(30, 4, A100), serving_mix(60))
    built = place(problem, time_limit_s=0)
    found = place(problem, time_limit_s=1.5, gap=0.02)
    assert built.termination.limit in (Limit.TIME, None)
    assert verify_placement(problem, found.placement, require_all=True) == ()
    assert found.gpus_used <= built.gpus_used
    assert found.gap <= 0.02 or found.termination.limit is Limit.TIME
    assert found.stats.counts["constructions"] >= 1


def test_a_full_cluster_places_what_it_can() -> None:
    """Where not all fit, the rest is unplaced with what stood in its way, and the bound holds for the placed ones."""
    problem = PlacementProblem(Cluster.homogeneous(1, 2, A100), serving_mix(12))
    result = place(problem)
    assert result.unplaced
    assert verify_placement(problem, result.placement) == ()
    assert result.lower_bound <= result.gpus_used == 2
    assert all("GPUs" in reason for reason in result.unplaced.values())


def test_impossible_instances_are_results_not_errors() -> None:
    """What fits nowhere even alone is unplaced with the reason, and the others are placed."""
    cluster = Cluster((Node("a", A100, 2), Node("b", GpuType("H100", 81920), 1)))
    instances = (
        Instance("fits", "inference", 300, 500, 4096),
        Instance("too big", "inference", 300, 500, 100_000),
        Instance("too big split", "llm-inference", 300, 500, 100_000, splittable=True, gpu_types=("A100",)),
        Instance("gang", "training", 300, 500, 4096, gpus=3),
        Instance("gang of big", "training", 300, 500, 50_000, gpus=2),
        Instance("unknown type", "inference", 300, 500, 4096, gpu_types=("TPU",)),
    )
    result = place(PlacementProblem(cluster, instances))
    assert result.placement.names == ("fits",)
    assert {name: reason.split(",")[0] for name, reason in result.unplaced.items()} == {
        "too big": "it needs 100000 MiB on one GPU",
        "too big split": "it needs 100000 MiB",
        "gang": "it is a gang of 3 GPUs",
        "gang of big": "it needs 50000 MiB on one GPU",
        "unknown type": "it runs only on TPU",
    }
    assert result.termination.reason is TerminationReason.INFEASIBLE


@pytest.mark.parametrize("instances", [(), serving_mix(3)])
def test_nothing_to_place_and_nowhere_to_place_it(instances: tuple[Instance, ...]) -> None:
    """No instances, or no nodes: an empty placement on 0 GPUs with gap 0."""
    result = place(PlacementProblem(Cluster(()), instances))
    assert len(result.placement) == result.gpus_used == result.lower_bound == 0
    assert result.gap == 0.0
    assert all(reason == "the cluster has no nodes" for reason in result.unplaced.values())
    assert len(result.unplaced) == len(instances)


@pytest.mark.parametrize(("step", "hosts"), [((neighbourhood, "assign"), True), ((LocalSearch, "run"), False)])
def test_an_interrupt_returns_the_incumbent(
    monkeypatch: pytest.MonkeyPatch, step: tuple[object, str], hosts: bool
) -> None:
    """Ctrl-C during the search gives the best placement so far, and says that it was interrupted."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*step, interrupted)
    hosted = tuple(replace(each, cpu_milli=1) for each in serving_mix(90))  # local search moves none of them
    problem = PlacementProblem(Cluster.homogeneous(100, 4, A100), hosted if hosts else serving_mix(90))
    result = place(problem, gap=0.0)
    assert result.termination.limit is Limit.INTERRUPTED
    assert verify_placement(problem, result.placement, require_all=True) == ()


@pytest.mark.parametrize("running", [0, 3])
@pytest.mark.parametrize("answers", [0, 25, 60])
def test_an_interrupt_during_construction_keeps_what_stands(
    monkeypatch: pytest.MonkeyPatch, answers: int, running: int
) -> None:
    """Ctrl-C in the first pass keeps the instances placed till then and all that run; in a later pass, all of them."""
    problem = PlacementProblem(Cluster.homogeneous(20, 4, A100), serving_mix(50))
    state = ClusterState(problem.cluster)
    for each in problem.instances[:running]:
        state.place(each)
    problem = PlacementProblem(problem.cluster, problem.instances, current=state.placement())
    choose, asked = Chooser.choose, 0

    def interrupted(chooser: Chooser, instance: Instance) -> Choice | None:
        nonlocal asked
        asked += 1
        if asked > answers:
            raise KeyboardInterrupt
        return choose(chooser, instance)

    monkeypatch.setattr(Chooser, "choose", interrupted)
    result = place(problem)
    assert result.termination.limit is Limit.INTERRUPTED
    assert result.termination.reason is TerminationReason.FEASIBLE
    assert verify_placement(problem, result.placement) == ()
    assert len(result.placement) == min(50, running + answers)
    assert set(state.placement()) <= set(result.placement)
    assert all("search ended" in reason for reason in result.unplaced.values())


@pytest.mark.parametrize("seed", [2**31, 2**40])
def test_any_seed_is_taken(seed: int) -> None:
    """Seeds beyond 32 bits work where CP-SAT runs, also with an executor, which counts on from them."""
    lonely = Instance("a", "inference", 340, 400, 13700, affinity=("nobody",))  # leaves CP-SAT something to gain
    problem = PlacementProblem(Cluster.homogeneous(2, 2, A100), (lonely, Instance("b", "inference", 340, 400, 13700)))
    result = place(problem, seed=seed)
    assert result.stats.counts["neighbourhoods"] == 1
    assert result.gpus_used == 1
    with ThreadPoolExecutor(1) as executor:
        assert place(problem, seed=seed - 1, executor=executor).gpus_used == 1


def test_a_gap_beyond_all_measure_takes_the_first_construction() -> None:
    """Any finite gap is legal; a huge one asks for nothing."""
    problem = PlacementProblem(Cluster.homogeneous(20, 4, A100), serving_mix(30))
    assert verify_placement(problem, place(problem, gap=1e308).placement, require_all=True) == ()


def test_progress_is_told_incumbent_bound_and_seconds() -> None:
    """The progress callback sees the bound never above the incumbent, and time going on."""
    seen: list[tuple[int, int, float]] = []
    problem = PlacementProblem(Cluster.homogeneous(60, 4, A100), serving_mix(90))
    place(problem, time_limit_s=1.0, progress=lambda *told: seen.append(told))
    assert seen
    assert all(bound <= incumbent for incumbent, bound, _ in seen)
    assert [seconds for _, _, seconds in seen] == sorted(seconds for _, _, seconds in seen)


def test_an_executor_searches_several_seeds() -> None:
    """With an executor the answer is valid and no worse than the construction; results travel by pickle."""
    problem = PlacementProblem(Cluster.homogeneous(30, 4, A100), serving_mix(40))
    with ThreadPoolExecutor(2) as executor:
        result = place(problem, time_limit_s=0.5, executor=executor)
    assert verify_placement(problem, result.placement, require_all=True) == ()
    assert result.gpus_used <= place(problem, time_limit_s=0).gpus_used
    assert pickle.loads(pickle.dumps(result.placement)) == result.placement


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"problem": None}, "problem"),
        ({"time_limit_s": -1}, "time_limit_s"),
        ({"time_limit_s": float("nan")}, "time_limit_s"),
        ({"gap": -0.1}, "gap"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"max_migrations": -1}, "max_migrations"),
        ({"executor": 3}, "executor"),
        ({"progress": 3}, "progress"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], argument: str) -> None:
    """Each argument out of range raises an error that names it."""
    with pytest.raises(InvalidArgumentError) as caught:
        place(**{"problem": PlacementProblem(Cluster(()), ()), **arguments})
    assert caught.value.argument == argument


def test_unicode_names_and_any_kind_of_current_survive() -> None:
    """Names in any script are carried through, and a placement that is already best stays as it is."""
    cluster = Cluster((Node("Knoten-ß", A100, 4),))
    instances = (Instance("函数-1", "inference", 300, 500, 4096), Instance("ф", "inference", 300, 500, 4096))
    first = place(PlacementProblem(cluster, instances))
    assert set(first.placement) == {"函数-1", "ф"}
    again = place(PlacementProblem(cluster, instances, current=Placement(dict(first.placement))))
    assert again.placement == first.placement


def test_a_budget_of_migrations_is_not_taken_for_a_proof() -> None:
    """Two instances that run apart stay so without migrations; the bound stays 1 and the budget is named as limit."""
    cluster = Cluster.homogeneous(1, 2, A100)
    pair = tuple(Instance(name, "inference", 300, 500, 4096) for name in "ab")
    apart = Placement({"a": [Slot("node-0", 0, 4096)], "b": [Slot("node-0", 1, 4096)]})
    problem = PlacementProblem(cluster, pair, current=apart)
    stuck = place(problem, max_migrations=0)
    assert (stuck.gpus_used, stuck.lower_bound, stuck.placement) == (2, 1, apart)
    assert stuck.termination.limit is Limit.MIGRATIONS
    assert stuck.termination.reason is TerminationReason.FEASIBLE
    free = place(problem)
    assert (free.gpus_used, len(free.placement.moved_from(apart))) == (1, 1)


def test_running_instances_move_only_to_free_gpus() -> None:
    """A placement on as few GPUs as any is left alone, although other placements are as good."""
    cluster = Cluster.homogeneous(2, 2, A100)
    pair = tuple(Instance(name, "inference", 300, 500, 4096) for name in "ab")
    here = Placement({name: [Slot("node-1", 1, 4096)] for name in "ab"})
    assert place(PlacementProblem(cluster, pair, current=here)).placement == here
