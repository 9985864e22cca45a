"""rank_gpus against the scores of what_if, the same on every back end."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, Configuration, GpuType, Instance
from dilu_core.errors import InvalidArgumentError
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.ranking import rank_gpus

CLUSTER = Cluster.homogeneous(6, 4, GpuType("A100", 40960))


def filled() -> ClusterState:
    """Half a cluster in use."""
    state = ClusterState(CLUSTER)
    rng = np.random.default_rng(3)
    for i in range(25):
        request = 50 * int(rng.integers(2, 12))
        memory = 1024 * int(rng.integers(1, 16))
        state.place(Instance(f"i{i}", "inference", request, min(1000, 2 * request), memory))
    return state


@settings(max_examples=60)
@given(st.data())
def test_ranking_is_what_if(crowds: Any, data: st.DataObject) -> None:
    """For every kind of instance, plain or not, the k best GPUs and their scores are those of `what_if`."""
    problem = data.draw(crowds)
    state = ClusterState(problem.cluster, oversubscription=problem.oversubscription)
    cut = data.draw(st.integers(0, len(problem.instances)))
    for instance in problem.instances[:cut]:
        state.place(instance)
    asked, k = problem.instances[cut:], data.draw(st.integers(1, 6))
    before = state.to_dict()
    found = rank_gpus(state, asked, k=k)
    assert state.to_dict() == before
    assert found.gpu.shape == (len(asked), min(k, sum(node.gpus for node in problem.cluster.nodes)))
    for i, expected in enumerate(state.what_if(asked).best(k)):
        assert found.candidates(i) == expected


def test_every_back_end_ranks_alike(backend: str) -> None:
    """Rows and scores are equal to the bit, alternatives included, and the first is where `place` would go."""
    state = filled()
    asked = [
        Instance(f"n{r}", "inference", r, r + 100, 8192, alternatives=(Configuration(r - 50, r, 4096),))
        for r in range(100, 900, 50)
    ]
    found, expected = (rank_gpus(state, asked, k=5, backend=each) for each in (backend, "cpu"))
    assert np.array_equal(found.gpu, expected.gpu)
    assert np.array_equal(found.score, expected.score, equal_nan=True)
    assert found.stats.backend == backend
    assert found.stats.counts["by_matrix"] == 0
    for i, decision in enumerate(state.what_if(asked)):
        assert found.candidates(i)[0][:2] == (decision.slots[0].node, decision.slots[0].gpu)


def test_more_wanted_than_there_are() -> None:
    """Missing places are -1 and nan; k may exceed the cluster by any factor; nobody asked is nobody ranked."""
    state = filled()
    found = rank_gpus(state, [Instance("i0", "inference", 1000, 1000, 40960)], k=10**12)
    assert found.gpu.shape == found.score.shape == (1, 24)
    count = len(found.candidates(0))
    assert 0 < count < 24
    assert (found.gpu[0, count:] == -1).all()
    assert np.isnan(found.score[0, count:]).all()
    assert rank_gpus(state, []).gpu.shape == (0, 1)
    again = pickle.loads(pickle.dumps(found))
    assert not again.gpu.flags.writeable
    assert len({found, again, found}) == 2  # values of arrays: equal only to themselves


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"state": CLUSTER}, "state"),
        ({"instances": 3}, "instances"),
        ({"instances": ["x"]}, "instances[0]"),
        ({"k": 0}, "k"),
        ({"backend": "tpu"}, "backend"),
        ({"backend": np.array(["auto", "cpu"]), "k": 100}, "backend"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], argument: str) -> None:
    """The error names the argument."""
    wide = Cluster.homogeneous(10, 4, GpuType("A100", 40960))
    arguments: dict[str, Any] = {"state": ClusterState(wide), "instances": []} | changes
    with pytest.raises(InvalidArgumentError) as caught:
        rank_gpus(arguments.pop("state"), arguments.pop("instances"), **arguments)
    assert caught.value.argument == argument
    with pytest.raises(InvalidArgumentError):
        rank_gpus(ClusterState(CLUSTER), []).candidates(0)
