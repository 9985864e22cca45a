"""Placements and problems as values: mapping behaviour, equality, JSON, and what a problem refuses."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance, Oversubscription
from dilu_core.errors import InvalidArgumentError
from dilu_core.placement import Placement, PlacementProblem, Slot

CLUSTER = Cluster.homogeneous(2, 2, GpuType("A100", 40960))
A = Instance("a", "inference", 300, 500, 4096)
B = Instance("b", "training", 500, 800, 8192, gpus=2)


def test_placement_is_a_mapping_of_slots() -> None:
    """A placement answers by name, counts GPUs once, and refuses unknown names."""
    placement = Placement({"a": [Slot("node-0", 0, 4096)], "b": [Slot("node-0", 0, 1), Slot("node-0", 1, 1)]})
    assert placement.names == ("a", "b")
    assert placement.gpus_used == 2
    assert placement.by_gpu == {("node-0", 0): ("a", "b"), ("node-0", 1): ("b",)}
    assert placement.slots("a") == placement["a"] == (Slot("node-0", 0, 4096),)
    with pytest.raises(InvalidArgumentError, match="'c'"):
        placement.slots("c")


def test_moved_from_ignores_slot_order_and_strangers() -> None:
    """Only instances in both placements whose slots differ have moved."""
    one, two = Slot("n", 0, 1), Slot("n", 1, 1)
    before = Placement({"a": [one, two], "b": [one], "c": [one]})
    after = Placement({"a": [two, one], "b": [two], "d": [one]})
    assert after.moved_from(before) == ("b",)


slots = st.builds(Slot, st.text(min_size=1, max_size=3).filter(str.strip), st.integers(0, 9), st.integers(0, 10**6))


@given(st.dictionaries(st.text(min_size=1, max_size=3).filter(str.strip), st.lists(slots, min_size=1, max_size=3)))
def test_placements_survive_json_and_pickle(held: dict[str, list[Slot]]) -> None:
    """A placement read back from JSON, or unpickled, equals the one written."""
    placement = Placement(held)
    assert Placement.from_dict(json.loads(json.dumps(placement.to_dict()))) == placement
    assert pickle.loads(pickle.dumps(placement)) == placement


@pytest.mark.parametrize(
    ("data", "argument"),
    [
        (None, "placement"),
        ({"version": 1}, "placement.slots"),
        ({"version": 1, "slots": []}, "placement.slots"),
        ({"version": 1, "slots": {"a": [["n", 0]]}}, "placement.slots['a'][0]"),
        ({"version": 1, "slots": {"a": [["n", -1, 5]]}}, "placement.slots['a'][0].gpu"),
        ({"version": 1, "slots": {"a": []}}, "slots['a']"),
    ],
)
def test_corrupt_placement_documents_name_the_fault(data: Any, argument: str) -> None:
    """A corrupt document raises an error that names the entry at fault."""
    with pytest.raises(InvalidArgumentError) as caught:
        Placement.from_dict(data)
    assert caught.value.argument == argument


def test_problem_survives_json() -> None:
    """A problem read back from JSON equals the one written, caps and current placement included."""
    current = Placement({"a": [Slot("node-1", 1, 4096)]})
    problem = PlacementProblem(CLUSTER, (A, B), Oversubscription(900, 1200), current)
    assert PlacementProblem.from_dict(json.loads(json.dumps(problem.to_dict()))) == problem


def test_current_forgets_who_has_left() -> None:
    """Names in `current` that the problem does not know have left and are dropped."""
    current = Placement({"a": [Slot("node-0", 0, 4096)], "gone": [Slot("node-9", 7, 1)]})
    problem = PlacementProblem(CLUSTER, (A,), current=current)
    assert problem.current == Placement({"a": [Slot("node-0", 0, 4096)]})


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"cluster": None, "instances": ()}, "cluster"),
        ({"cluster": CLUSTER, "instances": (CLUSTER,)}, "instances[0]"),
        ({"cluster": CLUSTER, "instances": (A, A)}, "instances[1]"),
        ({"cluster": CLUSTER, "instances": (), "oversubscription": 1.5}, "oversubscription"),
        ({"cluster": CLUSTER, "instances": (A,), "current": {}}, "current"),
        ({"cluster": CLUSTER, "instances": (A,), "current": Placement({"a": [Slot("node-0", 0, 1)]})}, "current"),
        ({"cluster": CLUSTER, "instances": (A,), "current": Placement({"a": [Slot("gone", 0, 4096)]})}, "current"),
    ],
)
def test_bad_problems_are_refused_by_name(arguments: dict[str, Any], argument: str) -> None:
    """Each wrong argument of a problem raises an error that names it."""
    with pytest.raises(InvalidArgumentError) as caught:
        PlacementProblem(**arguments)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda p: Placement([("a", [Slot("n", 0, 1)])]), "slots"),  # type: ignore[arg-type]
        (lambda p: p.slots(["a"]), "name"),
        (lambda p: p.restricted(None), "names"),
        (lambda p: p.restricted("a"), "names"),
        (lambda p: p.restricted([["a"]]), "names[0]"),
        (lambda p: p.moved_from(None), "other"),
    ],
)
def test_misused_placements_name_the_argument(make: Callable[[Any], object], argument: str) -> None:
    """What is no name, no names or no placement is refused by the argument's name."""
    with pytest.raises(InvalidArgumentError) as caught:
        make(Placement({"a": [Slot("node-0", 0, 4096)]}))
    assert caught.value.argument == argument


def test_equal_placements_and_problems_hash_alike() -> None:
    """Placements, and problems that hold one, can stand in sets, whatever the order their names came in."""
    slots = {"a": [Slot("node-0", 0, 4096)], "b": [Slot("node-1", 0, 8192), Slot("node-1", 1, 8192)]}
    one, two = Placement(slots), Placement(dict(reversed(slots.items())))
    assert len({one, two}) == 1
    assert len({PlacementProblem(CLUSTER, (A, B), current=each) for each in (one, two)}) == 1
