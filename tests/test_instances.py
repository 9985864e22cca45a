"""Instances: alternative configurations and host demands, as values and before the verifier."""

from __future__ import annotations

from typing import Any

import pytest

from dilu_core.cluster import Cluster, Configuration, GpuType, Instance, Node
from dilu_core.errors import InvalidArgumentError
from dilu_core.placement import PlacementProblem, Slot, ViolationCode, verify_placement

GPU = GpuType("g", 100)
CLUSTER = Cluster((Node("n", GPU, 2, cpu_milli=1000, memory_mib=50), Node("free", GPU, 1)))


def codes(instances: tuple[Instance, ...], slots: dict[str, tuple[Slot, ...]]) -> list[ViolationCode]:
    """The codes of what the slots break."""
    return [violation.code for violation in verify_placement(PlacementProblem(CLUSTER, instances), slots)]


def test_its_own_configuration_is_number_zero() -> None:
    """Alternatives follow the instance's own configuration, in the order given."""
    other = Configuration(200, 300, 90)
    instance = Instance("a", "inference", 400, 500, 60, alternatives=(other,))
    assert instance.configurations == (Configuration(400, 500, 60), other)


def test_the_chosen_configuration_is_what_counts() -> None:
    """Request, limit and memory are those of the configuration that the slot names."""
    pair = tuple(
        Instance(name, "inference", 600, 600, 40, alternatives=(Configuration(300, 400, 60),)) for name in "ab"
    )
    assert codes(pair, {"a": (Slot("n", 0, 40),), "b": (Slot("n", 0, 60, 1),)}) == []
    assert codes(pair, {"a": (Slot("n", 0, 40),), "b": (Slot("n", 0, 40),)}) == [ViolationCode.REQUEST_CAPACITY]
    assert codes(pair, {"a": (Slot("n", 0, 60, 1),), "b": (Slot("n", 0, 60, 1),)}) == [ViolationCode.MEMORY_CAPACITY]
    assert codes(pair, {"a": (Slot("n", 0, 40, 1),)}) == [ViolationCode.SLOT_MEMORY]


def test_a_configuration_must_exist_and_be_one() -> None:
    """Unknown configurations, and two at once, are violations of that rule."""
    gang = Instance("a", "training", 100, 100, 10, gpus=2, alternatives=(Configuration(50, 50, 10),))
    assert codes((gang,), {"a": (Slot("n", 0, 10, 2), Slot("n", 1, 10, 2))}) == [ViolationCode.CONFIGURATION]
    assert codes((gang,), {"a": (Slot("n", 0, 10, 1), Slot("n", 1, 10))}) == [ViolationCode.CONFIGURATION]
    assert codes((gang,), {"a": (Slot("n", 0, 10, 1), Slot("n", 1, 10, 1))}) == []


def test_host_resources_count_once_per_instance() -> None:
    """A gang takes its CPU once; sums beyond the node are violations; nodes without a figure have no limit."""
    gang = Instance("a", "training", 100, 100, 10, gpus=2, cpu_milli=800, host_memory_mib=30)
    other = Instance("b", "inference", 100, 100, 10, cpu_milli=300, host_memory_mib=30)
    both = {"a": (Slot("n", 0, 10), Slot("n", 1, 10)), "b": (Slot("n", 1, 10),)}
    assert codes((gang, other), {"a": both["a"]}) == []
    assert codes((gang, other), both) == [ViolationCode.CPU_CAPACITY, ViolationCode.HOST_MEMORY_CAPACITY]
    assert codes((other,), {"b": (Slot("free", 0, 10),)}) == []


def test_instances_go_through_json() -> None:
    """Every field is read back."""
    instance = Instance(
        "a", "training", 100, 200, (10, 20), gpus=2, cpu_milli=5, host_memory_mib=6,
        alternatives=(Configuration(50, 60, (7, 8)), Configuration(40, 60, 9)),
    )  # fmt: skip
    assert Instance.from_dict(instance.to_dict()) == instance


@pytest.mark.parametrize(
    ("fields", "argument"),
    [
        ({"cpu_milli": -1}, "cpu_milli"),
        ({"host_memory_mib": 1.5}, "host_memory_mib"),
        ({"alternatives": (1,)}, "alternatives[0]"),
        ({"alternatives": (Configuration(1, 1, (1, 2)),)}, "alternatives[0].memory_mib"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], argument: str) -> None:
    """A bad field is refused by name."""
    with pytest.raises(InvalidArgumentError) as caught:
        Instance("a", "inference", 100, 100, 10, **fields)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("arguments", "argument"), [((0, 1, 1), "request_milli"), ((5, 4, 1), "limit_milli"), ((1, 1, -1), "memory_mib")]
)
def test_configurations_are_checked(arguments: tuple[int, int, int], argument: str) -> None:
    """A configuration keeps the rules of an instance's own."""
    with pytest.raises(InvalidArgumentError) as caught:
        Configuration(*arguments)
    assert caught.value.argument == argument
