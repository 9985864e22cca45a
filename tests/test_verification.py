"""The verifier: each rule broken alone is reported as that rule, and valid placements report nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance, Node, Oversubscription
from dilu_core.errors import InvalidArgumentError
from dilu_core.fragmentation import fragmentation
from dilu_core.placement import Placement, PlacementProblem, Slot, ViolationCode, verify_placement
from dilu_core.solvers.placement.place import place

SMALL, LARGE = GpuType("small", 100), GpuType("large", 200)
CLUSTER = Cluster((Node("s", SMALL, 2), Node("t", SMALL, 2), Node("l", LARGE, 2)))
INSTANCES = (
    Instance("a", "inference", 600, 700, 60, function="f"),
    Instance("b", "inference", 300, 800, 50, function="g", anti_affinity=("h",)),
    Instance("c", "inference", 300, 400, 30, function="h"),
    Instance("spread-0", "inference", 100, 100, 10, function="p", anti_affinity=("p",)),
    Instance("spread-1", "inference", 100, 100, 10, function="p", anti_affinity=("p",)),
    Instance("gang", "training", 400, 500, (40, 20), gpus=2, function="t"),
    Instance("split", "llm-inference", 400, 900, 150, splittable=True, function="m"),
    Instance("picky", "inference", 100, 100, 10, gpu_types=("large",)),
)
PROBLEM = PlacementProblem(CLUSTER, INSTANCES)


def codes(**slots: list[Slot]) -> list[ViolationCode]:
    """The codes of what the placement of these slots breaks."""
    placement = Placement({name.replace("_", "-"): each for name, each in slots.items()})
    return [violation.code for violation in verify_placement(PROBLEM, placement)]


@pytest.mark.parametrize(
    "slots",
    [
        {},
        {"a": [Slot("s", 0, 60)], "c": [Slot("s", 0, 30)]},
        {"gang": [Slot("s", 0, 20), Slot("s", 1, 40)], "a": [Slot("s", 1, 60)]},
        {"split": [Slot("s", 0, 100), Slot("s", 1, 50)], "a": [Slot("l", 0, 60)]},
        {"split": [Slot("l", 0, 150)], "picky": [Slot("l", 0, 10)]},
        {"spread_0": [Slot("s", 0, 10)], "spread_1": [Slot("s", 1, 10)]},
    ],
)
def test_valid_placements_report_nothing(slots: dict[str, list[Slot]]) -> None:
    """Placements that keep every rule have no violations."""
    assert codes(**slots) == []


@pytest.mark.parametrize(
    ("slots", "code"),
    [
        ({"stranger": [Slot("s", 0, 1)]}, ViolationCode.UNKNOWN_INSTANCE),
        ({"a": [Slot("nowhere", 0, 60)]}, ViolationCode.UNKNOWN_NODE),
        ({"a": [Slot("s", 2, 60)]}, ViolationCode.UNKNOWN_GPU),
        ({"a": [Slot("s", 0, 30), Slot("s", 1, 30)]}, ViolationCode.GPU_COUNT),
        ({"gang": [Slot("s", 0, 40)]}, ViolationCode.GPU_COUNT),
        ({"gang": [Slot("s", 0, 40), Slot("t", 0, 20)]}, ViolationCode.SEVERAL_NODES),
        ({"split": [Slot("s", 0, 75), Slot("t", 0, 75)]}, ViolationCode.SEVERAL_NODES),
        ({"gang": [Slot("s", 0, 40), Slot("s", 0, 20)]}, ViolationCode.SAME_GPU),
        ({"gang": [Slot("s", 0, 40), Slot("s", 1, 40)]}, ViolationCode.SLOT_MEMORY),
        ({"a": [Slot("s", 0, 59)]}, ViolationCode.SLOT_MEMORY),
        ({"split": [Slot("s", 0, 100), Slot("s", 1, 51)]}, ViolationCode.SLOT_MEMORY),
        ({"split": [Slot("l", 0, 150), Slot("l", 1, 0)]}, ViolationCode.SLOT_MEMORY),
        ({"picky": [Slot("s", 0, 10)]}, ViolationCode.GPU_TYPE),
        ({"a": [Slot("l", 0, 60)], "split": [Slot("l", 0, 75), Slot("l", 1, 75)], "spread_0": [Slot("l", 0, 10)]},
         ViolationCode.REQUEST_CAPACITY),
        ({"b": [Slot("l", 0, 50)], "split": [Slot("l", 0, 150)]}, ViolationCode.LIMIT_CAPACITY),
        ({"gang": [Slot("s", 0, 40), Slot("s", 1, 20)], "split": [Slot("s", 0, 100), Slot("s", 1, 50)]},
         ViolationCode.MEMORY_CAPACITY),
        ({"b": [Slot("s", 0, 50)], "c": [Slot("s", 0, 30)]}, ViolationCode.ANTI_AFFINITY),
    ],
)  # fmt: skip
def test_each_broken_rule_is_reported_alone(slots: dict[str, list[Slot]], code: ViolationCode) -> None:
    """A placement that breaks one rule is reported with that rule's code and no other."""
    found = codes(**slots)
    assert set(found) == {code}


def test_copies_that_spread_are_both_told() -> None:
    """Two copies of a function that refuses itself may not share a GPU; both are named."""
    placement = Placement({"spread-0": [Slot("s", 0, 10)], "spread-1": [Slot("s", 0, 10)]})
    assert [violation.instance for violation in verify_placement(PROBLEM, placement)] == ["spread-0", "spread-1"]


def test_missing_instances_count_only_on_demand() -> None:
    """Leaving instances out is valid, unless all are required."""
    assert verify_placement(PROBLEM, Placement()) == ()
    found = verify_placement(PROBLEM, Placement(), require_all=True)
    assert [violation.instance for violation in found] == [instance.name for instance in INSTANCES]
    assert {violation.code for violation in found} == {ViolationCode.UNPLACED}


def test_violations_read_as_sentences() -> None:
    """A violation prints its code and a sentence that names who and where."""
    (found,) = verify_placement(PROBLEM, Placement({"a": [Slot("s", 7, 60)]}))
    assert str(found) == "unknown-gpu: 'a' lies on GPU 7 of 's' (it has 2)."


@given(st.integers(1, 1000), st.integers(1, 12), st.integers(1, 1000))
def test_capacity_is_exact(request_milli: int, copies: int, cap: int) -> None:
    """n equal instances on one GPU are valid exactly while n times the request stays within the cap."""
    cluster = Cluster.homogeneous(1, 1, LARGE)
    instances = [Instance(f"i{i}", "inference", request_milli, request_milli, 0) for i in range(copies)]
    problem = PlacementProblem(cluster, tuple(instances), Oversubscription(cap, 100_000))
    placement = Placement({each.name: [Slot("node-0", 0, 0)] for each in instances})
    assert (verify_placement(problem, placement) == ()) == (copies * request_milli <= cap)


@pytest.mark.parametrize(
    ("problem", "placement", "argument"),
    [
        (None, Placement(), "problem"),
        (PROBLEM, None, "placement"),
        (PROBLEM, [("a", ())], "placement"),
        (PROBLEM, {"a": None}, "placement['a']"),
        (PROBLEM, {"a": ["s"]}, "placement['a'][0]"),
        (PROBLEM, {3: ()}, "placement"),
    ],
)
def test_what_is_no_placement_is_refused_by_name(problem: Any, placement: Any, argument: str) -> None:
    """Arguments of other kinds raise an error that names them, from the verifier and from the fragmentation report."""
    with pytest.raises(InvalidArgumentError) as caught:
        verify_placement(problem, placement)
    assert caught.value.argument == argument
    with pytest.raises(InvalidArgumentError) as caught:
        fragmentation(problem, placement)
    assert caught.value.argument == argument


def test_a_result_in_place_of_its_placement_is_told_so() -> None:
    """Who passes the whole result is told to pass its placement, and any mapping of slots will do."""
    result = place(PROBLEM)
    with pytest.raises(InvalidArgumentError, match="Pass its `placement`"):
        verify_placement(PROBLEM, result)  # type: ignore[arg-type]
    assert verify_placement(PROBLEM, result.placement) == ()
    assert verify_placement(PROBLEM, {name: list(each) for name, each in result.placement.items()}) == ()  # type: ignore[misc]
