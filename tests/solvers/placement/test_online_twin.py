"""ClusterState beside a naive cluster (in bench/): random events of every kind, and they agree throughout."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from dilu_core.cluster import Cluster, GpuType, Instance
from dilu_core.errors import InvalidArgumentError
from dilu_core.solvers.placement.bookings import Bookings
from dilu_core.solvers.placement.moving import Draft
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.room import _targets

BENCH = Path(__file__).resolve().parents[3] / "bench"
A100 = GpuType("A100", 40960)

randoms = st.randoms(use_true_random=False)


@pytest.fixture(scope="module")
def events() -> Iterator[Any]:
    """The module of random events in bench/, which is no package."""
    names = ("naive_cluster", "online_twin", "online_events")
    sys.path.insert(0, str(BENCH))
    try:
        yield [import_module(name) for name in names][-1]
    finally:
        sys.path.remove(str(BENCH))
        for name in names:
            del sys.modules[name]


def machine(events: Any) -> type[RuleBasedStateMachine]:
    """The state machine: a cluster, then arrivals, departures, questions, saving, and plans in any order."""

    class Online(RuleBasedStateMachine):
        @initialize(draw=randoms)
        def begin(self, draw: random.Random) -> None:
            self.stream = events.Stream(draw, most_nodes=3, rare=0.0)

        @rule(draw=randoms, copies=st.integers(1, 4))
        def place(self, draw: random.Random, copies: int) -> None:
            self.stream.draw = draw
            first = self.stream.new()
            for k in range(copies):
                self.stream.twin.place(replace(first, name=f"{first.name}-{k}"))

        @rule(draw=randoms)
        def remove(self, draw: random.Random) -> None:
            self.stream.draw = draw
            self.stream.twin.remove(self.stream.name())

        @precondition(lambda self: self.stream.twin.naive.home)
        @rule(draw=randoms)
        def place_again(self, draw: random.Random) -> None:
            self.stream.draw = draw
            taken = draw.choice(list(self.stream.twin.naive.home))
            self.stream.twin.place_again(replace(self.stream.new(), name=taken))

        @rule(draw=randoms, cpu=st.integers(0, 4), host_memory=st.integers(0, 4))
        def reserve(self, draw: random.Random, cpu: int, host_memory: int) -> None:
            twin = self.stream.twin
            self.stream.arrived += 1
            twin.reserve(f"h{self.stream.arrived}", cpu, host_memory, draw.choice((None, *twin.naive.nodes)))

        @rule(draw=randoms, count=st.integers(1, 3))
        def what_if(self, draw: random.Random, count: int) -> None:
            self.stream.draw = draw
            self.stream.twin.what_if([self.stream.new() for _ in range(count)])

        @rule()
        def save_and_load(self) -> None:
            self.stream.twin.save_and_load()

        @rule()
        def check(self) -> None:
            self.stream.twin.check()

        def teardown(self) -> None:
            if hasattr(self, "stream"):
                self.stream.twin.clear(random.Random(0))

    return Online


def test_random_events_agree_with_a_naive_cluster(events: Any) -> None:
    """What fits is placed and what does not is refused for true reasons, nothing is lost, and emptied it is new."""
    run_state_machine_as_test(
        machine(events), settings=settings(settings.default, max_examples=25, stateful_step_count=50)
    )  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_streams_with_plans_agree_with_a_naive_cluster(events: Any, seed: int) -> None:
    """Every step of every plan is feasible, a plan that the state has outrun changes nothing, and emptied it is new."""
    draw = random.Random(seed)
    stream = events.Stream(draw, most_nodes=3, rare=0.01)
    for _ in range(1000):
        stream.step()
    assert stream.twin.counts["planned"]
    stream.twin.clear(draw)


def test_room_is_looked_for_on_each_gpu_once() -> None:
    """An empty GPU that is among the roomiest anyway is not listed again: a gang could be given it twice."""
    bookings = Bookings(Cluster.homogeneous(2, 4, A100), ClusterState(Cluster(())).oversubscription)
    targets = _targets(Draft(bookings, 5, set(), 3600.0), [0, 1])
    assert sorted(targets) == sorted(set(targets))
    assert not {0, 1} & set(targets)


def test_a_gang_larger_than_any_node_has_no_scores() -> None:
    """By gradient too, a gang that no node is large enough for has no score anywhere instead of an error."""
    state = ClusterState(Cluster.homogeneous(2, 2, A100), rule="fragmentation-gradient")
    answers = state.what_if([Instance("gang", "training", 100, 100, 1, gpus=3)])
    assert not answers[0].placed
    assert (answers.scores != answers.scores).all()


def test_one_name_is_not_taken_for_many() -> None:
    """A string as `exempt` would exempt nobody, letter by letter, and is an error instead."""
    with pytest.raises(InvalidArgumentError, match="exempt"):
        ClusterState(Cluster(())).replan(max_migrations=1, exempt="abc")
