"""Partitioned GPUs: geometries describe the legal partitions, and the verifier holds placements against them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dilu_core.cluster import Cluster, GpuType, Instance, Oversubscription
from dilu_core.errors import InvalidArgumentError
from dilu_core.mig import A100_40GB, A100_80GB, MigGeometry, MigProfile, MigSlice
from dilu_core.placement import PlacementProblem, Slot, ViolationCode, verify_placement

A100 = GpuType("A100-40GB-mig", 40960, A100_40GB)
UNSTARTED = {
    "slices": 2,
    "profiles": [{"name": "p", "share_milli": 100, "memory_mib": 1, "slices": 1, "starts": None}],
}
CLUSTER = Cluster.homogeneous(1, 2, A100)


def codes(instances: list[Instance], slots: dict[str, list[Slot]]) -> set[ViolationCode]:
    """The codes of what the slots break."""
    problem = PlacementProblem(CLUSTER, tuple(instances), Oversubscription(1000, 1000))
    return {each.code for each in verify_placement(problem, {name: tuple(each) for name, each in slots.items()})}


def taken(profile: str, start: int, mib: int = 4000, gpu: int = 0) -> list[Slot]:
    """The one slot of an instance on a partition."""
    return [Slot("node-0", gpu, mib, mig=MigSlice(profile, start))]


def small(name: str, request: int = 100, mib: int = 4000, limit: int | None = None) -> Instance:
    """An inference instance."""
    return Instance(name, "inference", request, limit or request, mib)


@pytest.mark.parametrize("geometry", [A100_40GB, A100_80GB])
def test_nvidia_geometries_hold_what_the_user_guide_lists(geometry: MigGeometry) -> None:
    """Seven small partitions, or 4g and 3g, or 3g twice, but not 4g twice, fit one GPU."""
    profiles = {profile.name.split(".")[0]: profile for profile in geometry.profiles if profile.slices != 2}
    profiles["2g"] = next(profile for profile in geometry.profiles if profile.name.startswith("2g"))
    assert len(profiles["1g"].starts) == 7
    assert profiles["4g"].mask(0) & profiles["3g"].mask(4) == 0
    assert profiles["3g"].mask(0) & profiles["3g"].mask(4) == 0
    assert profiles["4g"].starts == (0,)
    assert profiles["7g"].mask(0) == 255
    assert profiles["2g"].starts == (0, 2, 4)


def test_the_smallest_sufficient_profile_comes_first() -> None:
    """Share and memory both count; fewest slices first; none where nothing suffices."""
    assert [p.name for p in A100_40GB.sufficient(100, 4000)][:2] == ["1g.5gb", "1g.10gb"]
    assert A100_40GB.sufficient(100, 6000)[0].name == "1g.10gb"
    assert A100_40GB.sufficient(300, 4000)[0].name == "3g.20gb"
    assert A100_40GB.sufficient(1000, 40960)[0].name == "7g.40gb"
    assert A100_40GB.sufficient(100, 50_000) == ()


def test_disjoint_partitions_are_valid() -> None:
    """A 4g and a 3g partition side by side break nothing, and a limit beyond the share is cut to it."""
    both = [small("a", 500, 18_000, 1000), small("b", 400, 18_000, 1000)]
    assert codes(both, {"a": taken("4g.20gb", 0, 18_000), "b": taken("3g.20gb", 4, 18_000)}) == set()


@pytest.mark.parametrize(
    "slots",
    [
        {"a": taken("1g.5gb", 0), "b": taken("1g.5gb", 0)},  # the same slice twice
        {"a": taken("2g.10gb", 0), "b": taken("1g.5gb", 1)},  # overlapping
        {"a": taken("2g.10gb", 1)},  # an illegal start
        {"a": taken("9g", 0)},  # no such profile
        {"a": [Slot("node-0", 0, 4000)]},  # none named
    ],
)
def test_illegal_partitions_are_reported(slots: dict[str, list[Slot]]) -> None:
    """Whatever the geometry forbids is a violation of the partition rule and of no other."""
    assert codes([small("a"), small("b")], slots) == {ViolationCode.PARTITION}


def test_a_partition_must_suffice_and_is_for_one_gpu() -> None:
    """Too little share, too little memory, and gangs on partitioned GPUs are violations."""
    assert codes([small("a", 200)], {"a": taken("1g.5gb", 0)}) == {ViolationCode.PARTITION}
    assert codes([small("a", 100, 6000)], {"a": taken("1g.5gb", 0, 6000)}) == {ViolationCode.PARTITION}
    gang = Instance("a", "training", 100, 100, 4000, gpus=2)
    assert codes([gang], {"a": taken("1g.5gb", 0) + taken("1g.5gb", 0, gpu=1)}) == {ViolationCode.PARTITION}


def test_no_partition_on_a_whole_gpu() -> None:
    """Naming a partition of a GPU that is not partitioned is a violation."""
    problem = PlacementProblem(Cluster.homogeneous(1, 1, GpuType("whole", 40960)), (small("a"),))
    (found,) = verify_placement(problem, {"a": tuple(taken("1g.5gb", 0))})
    assert found.code is ViolationCode.PARTITION


def test_geometries_go_through_json() -> None:
    """A cluster with partitioned GPUs and slots on partitions are read back as they were."""
    assert Cluster.from_dict(CLUSTER.to_dict()) == CLUSTER
    for slot in (Slot("n", 0, 5), Slot("n", 0, 5, 2), Slot("n", 0, 5, 1, MigSlice("1g.5gb", 3))):
        assert Slot.from_row(slot.to_row()) == slot


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: MigProfile("p", 0, 1, 1, (0,)), "share_milli"),
        (lambda: MigProfile("p", 100, 1, 0, (0,)), "slices"),
        (lambda: MigProfile("p", 100, 1, 1, ()), "starts"),
        (lambda: MigProfile("p", 100, 1, 2, (-1,)), "starts[0]"),
        (lambda: MigProfile("p", 100, 1, 1, None), "starts"),  # type: ignore[arg-type]
        (lambda: MigProfile("p", 100, 1, 1, 5), "starts"),  # type: ignore[arg-type]
        (lambda: MigProfile("p", 100, 1, 1, float("nan")), "starts"),  # type: ignore[arg-type]
        (lambda: MigProfile("p", 100, 1, 1, np.array(0)), "starts"),  # type: ignore[arg-type]
        (lambda: MigGeometry.from_dict(UNSTARTED), "mig.profiles[0].starts"),
        (lambda: MigGeometry(2, ()), "profiles"),
        (lambda: MigGeometry(2, (MigProfile("p", 100, 1, 2, (0, 1)),)), "profiles[0].starts"),
        (lambda: MigGeometry(2, (MigProfile("p", 100, 1, 1, (0,)),) * 2), "profiles"),
        (lambda: MigGeometry.from_dict({"slices": 2}), "mig.profiles"),
        (lambda: GpuType("x", 1, "1g"), "mig"),  # type: ignore[arg-type]
        (lambda: Slot("n", 0, 1, mig=("1g", 0)), "mig"),  # type: ignore[arg-type]
        (lambda: MigSlice("1g", -1), "start"),
    ],
)
def test_what_is_wrong_is_named(make: Any, argument: str) -> None:
    """Bad geometry is refused by the argument at fault."""
    with pytest.raises(InvalidArgumentError) as caught:
        make()
    assert caught.value.argument.startswith(argument)
