"""What-if scores of gangs: a GPU has one where, and only where, some seating of all the parts uses it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance
from dilu_core.slots import Slot
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.verification import violations

NODE = Cluster.homogeneous(1, 2, GpuType("A", 40))


def seatings(state: ClusterState, gang: Instance) -> Iterator[tuple[tuple[str, int, int], ...]]:
    """Every valid way to place a gang, as (node, GPU, memory) of each part: all permutations, verified."""
    there = state.placement()
    for node in state.cluster.nodes:
        for gpus in itertools.permutations(range(node.gpus), gang.gpus):
            slots = [Slot(node.name, *each) for each in zip(gpus, gang.memory_per_gpu_mib, strict=True)]
            proposed = {**there, gang.name: slots}
            if not violations(state.cluster, (*state.instances, gang), state.oversubscription, proposed):
                yield tuple((slot.node, slot.gpu, slot.memory_mib) for slot in slots)


@settings(max_examples=80)
@given(st.data())
def test_a_gpu_has_a_score_where_a_seating_uses_it(crowds: Any, data: st.DataObject) -> None:
    """Scored are exactly the GPUs that some valid seating of the gang uses; none where the gang has no place."""
    problem = data.draw(crowds)
    state = ClusterState(problem.cluster, oversubscription=problem.oversubscription)
    for instance in problem.instances:
        state.place(instance)
    size = data.draw(st.integers(2, 3))
    memory = tuple(data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size)))
    gang = Instance("new", "training", data.draw(st.sampled_from([200, 400])), 400, memory, gpus=size)
    answers = state.what_if([gang])
    used = {(node, gpu) for way in seatings(state, gang) for node, gpu, _ in way}
    assert {(each.node, each.gpu) for each in answers.best(100)[0]} == used
    assert answers[0].placed == bool(used)


def test_a_part_is_scored_as_the_greatest_that_a_gpu_has_room_for() -> None:
    """A GPU with 25 MiB free is scored for the part of 10 MiB it could take, not for 25."""
    state = ClusterState(NODE)
    state.place(Instance("x", "inference", 100, 100, 15))
    score = state.what_if(
        [
            Instance("unlike", "training", 100, 100, (10, 30), gpus=2),
            Instance("alike", "training", 100, 100, (10, 10), gpus=2),
        ]
    ).scores
    full = int(np.argmin(state._bookings.free[:, 2]))
    assert score[0, full] == score[1, full]


@pytest.mark.parametrize("rule", ["best-fit", "fragmentation-gradient"])
def test_a_refused_gang_of_unlike_parts_says_which_part_is_short(rule: Any) -> None:
    """Where the least part fits everywhere and the greatest nowhere, memory is named, on the GPUs that lack it."""
    state = ClusterState(NODE, rule=rule)
    for k in range(2):
        state.place(Instance(f"b{k}", "inference", 300, 1000, 15, function="b", anti_affinity=("b",)))
    answers = state.what_if([Instance("g", "training", 100, 100, (10, 30), gpus=2)])
    decision = answers[0]
    assert not decision.placed
    assert answers.best(2) == ((),)
    assert decision.blocked == {"memory": 2}
    assert decision.nearly == {"memory": ("node-0/0", "node-0/1")}
    assert "in its way: memory on 2; it needs 2 GPUs of one node" in decision.reason
    assert decision.reason.endswith("with room for the least of its parts, 0 of the 1 it needs for 30 MiB or more")
