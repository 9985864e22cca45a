"""ClusterState: event by event within capacity, exactly empty when emptied, and the same after a way through JSON."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance, Oversubscription
from dilu_core.errors import InvalidArgumentError, StateError
from dilu_core.placement import verify_placement
from dilu_core.solvers.placement.online import ClusterState

A100 = GpuType("A100", 40960)


def inference(name: str, request: int = 300, limit: int = 500, memory: int = 4096, **more: Any) -> Instance:
    """An inference instance of one GPU."""
    return Instance(name, "inference", request, limit, memory, **more)


@given(st.data())
def test_every_event_leaves_a_valid_placement(problems: Any, crowds: Any, data: st.DataObject) -> None:
    """Whatever comes and goes, the placement verifies, the columns match it, and an emptied state is a new one."""
    problem = data.draw(crowds)
    state = ClusterState(problem.cluster, oversubscription=problem.oversubscription)
    for instance in problem.instances:
        before = state.to_dict()
        (foretold,) = state.what_if([instance])
        assert state.to_dict() == before
        decision = state.place(instance)
        assert decision == foretold
        assert decision.placed == (instance.name in state)
        assert decision.reason
        if state.instances and data.draw(st.booleans()):
            gone = data.draw(st.sampled_from([each.name for each in state.instances]))
            assert state.remove(gone).name == gone
        assert verify_placement(problem, state.placement()) == ()
        assert state.gpus_used == state.placement().gpus_used
        booked = state.cluster.gpus * problem.oversubscription.request_milli - int(state._bookings.free[:, 0].sum())
        assert booked == sum(each.request_milli * len(state.placement()[each.name]) for each in state.instances)
    for instance in state.instances:
        state.remove(instance.name)
    fresh = ClusterState(problem.cluster, oversubscription=problem.oversubscription)
    assert state.to_dict() == fresh.to_dict()
    for column in ("free", "held", "gpus_used", "function_on", "refused_on", "gangs_on", "on_gpu"):
        assert np.array_equal(getattr(state._bookings, column), getattr(fresh._bookings, column)), column


@given(st.data())
def test_a_restored_state_decides_alike(crowds: Any, data: st.DataObject) -> None:
    """A state restored from JSON is the same state, and answers the next instances as the original does."""
    problem = data.draw(crowds)
    cut = data.draw(st.integers(0, len(problem.instances)))
    state = ClusterState(problem.cluster, oversubscription=problem.oversubscription)
    for instance in problem.instances[:cut]:
        state.place(instance)
    restored = ClusterState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert restored.to_dict() == state.to_dict()
    for instance in problem.instances[cut:]:
        assert restored.place(instance) == state.place(instance)


@pytest.mark.parametrize("copied", [lambda state: pickle.loads(pickle.dumps(state)), copy.deepcopy, copy.copy])
@given(st.data())
def test_a_copy_is_a_state_of_its_own(copied: Callable[[ClusterState], ClusterState], crowds: Any, data: Any) -> None:
    """Pickled or copied, by either rule and in the midst of learning, it decides alike and the original stays."""
    problem = data.draw(crowds)
    rule = data.draw(st.sampled_from(["best-fit", "fragmentation-gradient"]))
    cut = data.draw(st.integers(0, len(problem.instances)))
    state = ClusterState(problem.cluster, oversubscription=problem.oversubscription, rule=rule)
    for instance in problem.instances[:cut]:
        state.place(instance)
    state.reserve_host("agent", cpu_milli=100, memory_mib=1)
    before = state.to_dict()
    other = copied(state)
    answers = [other.place(instance) for instance in problem.instances[cut:]]
    other.remove("agent")
    assert state.to_dict() == before
    assert [state.place(instance) for instance in problem.instances[cut:]] == answers
    state.remove("agent")
    assert other.to_dict() == state.to_dict()


@pytest.mark.parametrize(("size", "most"), [(100, 82), (400, 263), (800, 500), (3200, 1326)])
def test_event_logs_stay_below_the_published_peaks(
    read_events: Callable[[int], Any], event_cluster: Cluster, size: int, most: int
) -> None:
    """A replayed log peaks at no more GPUs than asked for, no GPU is over a cap after any event, and all can leave."""
    state = ClusterState(event_cluster)
    load: dict[tuple[str, int], list[int]] = {}
    booked: dict[str, list[tuple[tuple[str, int], int, int, int]]] = {}
    peak = 0
    for action, subject in read_events(size):
        if action == "start":
            decision = state.place(subject)
            assert decision.placed, decision.reason
            split = subject.gpus == 1 and len(decision.slots) > 1
            assert sum(slot.memory_mib for slot in decision.slots) == subject.total_memory_mib
            assert len({slot.node for slot in decision.slots}) == 1
            assert len({slot.gpu for slot in decision.slots}) == len(decision.slots)
            assert split or len(decision.slots) == subject.gpus
            limit = subject.request_milli if split else subject.limit_milli
            rows = [((s.node, s.gpu), subject.request_milli, limit, s.memory_mib) for s in decision.slots]
            booked[subject.name] = rows
            for gpu, *demand in rows:
                here = load.setdefault(gpu, [0, 0, 0])
                load[gpu] = [a + b for a, b in zip(here, demand, strict=True)]
                assert load[gpu][0] <= 1000
                assert load[gpu][1] <= 1500
                assert load[gpu][2] <= 40960
        else:
            state.remove(subject)
            for gpu, *demand in booked.pop(subject):
                load[gpu] = [a - b for a, b in zip(load[gpu], demand, strict=True)]
                if not any(load[gpu]):
                    del load[gpu]
        assert state.gpus_used == len(load)
        peak = max(peak, len(load))
    assert peak <= most
    for instance in state.instances:
        state.remove(instance.name)
    assert state.to_dict() == ClusterState(event_cluster).to_dict()


def test_best_fit_takes_the_fullest_gpu_with_room() -> None:
    """Of two active GPUs with room, the fuller one is chosen, and no new one is opened."""
    state = ClusterState(Cluster.homogeneous(1, 4, A100))
    for name, request in (("a", 600), ("b", 700)):
        state.place(inference(name, request, request))
    assert state.place(inference("c", 300, 300)).slots == state.placement()["b"]
    assert state.gpus_used == 2


def test_an_instance_follows_its_function_to_the_other_workers_of_a_gang() -> None:
    """Workload affinity: the second copy goes to the gang's other GPU although the first GPU fits better."""
    state = ClusterState(Cluster.homogeneous(2, 4, A100))
    state.place(Instance("gang", "training", 300, 400, 8192, gpus=2, function="t"))
    first = state.place(inference("a", 200, 300, function="f"))
    second = state.place(inference("b", 200, 300, function="f"))
    assert {first.slots[0].gpu, second.slots[0].gpu} == {slot.gpu for slot in state.placement()["gang"]}
    assert "beside a gang" in second.reason


def test_soft_affinity_outweighs_fit() -> None:
    """An instance goes beside a function it likes although another active GPU fits better."""
    state = ClusterState(Cluster.homogeneous(1, 4, A100))
    state.place(inference("friend", 300, 600, function="cache"))
    state.place(inference("full", 750, 950))
    decision = state.place(inference("a", 200, 300, affinity=("cache",)))
    assert decision.slots[0].gpu == state.placement()["friend"][0].gpu
    assert "affinity" in decision.reason


def test_memory_splits_over_active_gpus_of_one_node() -> None:
    """What fits no active GPU whole is split over active ones of a node, and books its request as its limit."""
    state = ClusterState(Cluster.homogeneous(2, 2, A100))
    state.place(Instance("gang", "training", 400, 1000, 30000, gpus=2))
    decision = state.place(Instance("llm", "llm-inference", 400, 800, 20000, splittable=True))
    assert sorted(slot.memory_mib for slot in decision.slots) == [9040, 10960]
    assert state.gpus_used == 2
    assert "split" in decision.reason


@pytest.mark.parametrize(
    ("instance", "words"),
    [
        (inference("x", memory=50000), "50000 MiB"),
        (Instance("x", "training", 1, 1, 1, gpus=3), "gang of 3"),
        (inference("x", gpu_types=("H100",)), "only on H100"),
        (Instance("x", "llm-inference", 1, 1, 90000, splittable=True), "even split"),
        (inference("x", 300, 300), "request on 2"),
        (inference("x", 100, 900), "limit on 2"),
        (inference("x", 1, 1, 20000), "memory on 2"),
        (inference("x", 1, 1, 1, anti_affinity=("full",)), "anti-affinity on 2"),
        (Instance("x", "training", 300, 300, 1, gpus=2), "the best node has 0"),
        (Instance("x", "llm-inference", 1, 1, 30000, splittable=True), "together"),
    ],
)
def test_rejections_say_what_stood_in_the_way(instance: Instance, words: str) -> None:
    """A rejection names the resource or rule in the way and on how many GPUs, and changes nothing."""
    state = ClusterState(Cluster.homogeneous(1, 2, A100))
    for name in ("a", "b"):
        state.place(inference(name, 800, 1000, 30000, function="full"))
    before = state.to_dict()
    decision = state.place(instance)
    assert not decision.placed
    assert decision.slots == ()
    assert words in decision.reason
    assert state.to_dict() == before


def test_why_not_split_speaks_of_gpus_with_room() -> None:
    """Free memory on GPUs without request to spare is no memory to be split over, and is not counted as such."""
    state = ClusterState(Cluster.homogeneous(1, 3, A100))
    llm = Instance("llm", "llm-inference", 200, 900, 50000, splittable=True)
    for name in ("a", "b", "c"):
        state.place(inference(name, 900, 1000, 1000))
    assert "no node has two GPUs with room" in state.place(llm).reason
    for name in ("a", "b"):
        state.remove(name)
    for name in ("d", "e"):
        state.place(inference(name, 800, 1000, 20960))
    assert "at most 40000 MiB together" in state.place(llm).reason
    assert state.gpus_used == 3


def test_gangs_of_unlike_parts_are_refused_truly() -> None:
    """Where every GPU has room for the least part alone, the reason says that this is what it counted."""
    state = ClusterState(Cluster.homogeneous(1, 2, A100))
    for name in ("a", "b"):
        state.place(inference(name, 600, 700, 20960))
    reason = state.place(Instance("gang", "training", 300, 300, (30000, 10000), gpus=2)).reason
    assert "the best node has 2 with room for the least of its parts" in reason


def test_caps_below_an_instance_are_a_reason() -> None:
    """Where a cap is below what the instance books, the rejection says so."""
    state = ClusterState(Cluster.homogeneous(1, 1, A100), oversubscription=Oversubscription(500, 600))
    assert "request of 700" in state.place(inference("a", 700, 900)).reason
    assert "limit of 900" in state.place(inference("b", 400, 900)).reason
    assert "no nodes" in ClusterState(Cluster(())).place(inference("a")).reason


def test_misuse_is_an_error_that_names_it() -> None:
    """Duplicate names, unknown names and wrong types are errors; the state is left as it was."""
    state = ClusterState(Cluster.homogeneous(1, 1, A100))
    state.place(inference("a"))
    with pytest.raises(InvalidArgumentError, match=r"instance\.name is 'a'"):
        state.place(inference("a"))
    with pytest.raises(InvalidArgumentError, match="instance"):
        state.place("a")  # type: ignore[arg-type]
    with pytest.raises(StateError, match="'b'"):
        state.remove("b")
    with pytest.raises(InvalidArgumentError, match="name"):
        state.remove(["a"])  # type: ignore[arg-type]
    assert ["a"] not in state
    with pytest.raises(InvalidArgumentError, match="cluster"):
        ClusterState("cluster")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="oversubscription"):
        ClusterState(state.cluster, oversubscription=2)  # type: ignore[arg-type]
    assert len(state) == 1


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"version": 2}, "state.version"),
        ({"cluster": {}}, "cluster.version"),
        ({"oversubscription": 7}, "state.oversubscription"),
        ({"instances": [{"version": 1}]}, "instance.name"),
        ({"instances": []}, "state.placement"),
        ({"placement": {"version": 1, "slots": {}}}, "state.placement"),
        ({"placement": {"version": 1, "slots": {"a": [["node-0", 5, 4096]]}}}, "state.placement"),
    ],
)
def test_corrupt_states_name_the_fault(change: dict[str, Any], argument: str) -> None:
    """A corrupt or inconsistent document raises an error that names the entry at fault."""
    state = ClusterState(Cluster.homogeneous(1, 1, A100))
    state.place(inference("a"))
    with pytest.raises(InvalidArgumentError) as caught:
        ClusterState.from_dict({**state.to_dict(), **change})
    assert caught.value.argument == argument
    data = state.to_dict()
    del data["placement"]
    with pytest.raises(InvalidArgumentError, match=r"state\.placement"):
        ClusterState.from_dict(data)
