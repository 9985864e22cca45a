"""Partitioned GPUs: which slices an instance may take on a GPU in multi-instance (MIG) mode.

The memory of such a GPU is divided into slices, and a profile covers some consecutive ones from a legal first slice on.
Any set of profiles on disjoint slices is legal. That is how NVIDIA describes the geometry of its GPUs ("Multi-Instance
GPU User Guide", and the placements that `nvidia-smi mig -lgipp` prints), and it makes every legal combination follow
from the profiles alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dilu_core import _checks as check

MOST_SLICES = 62
"""Slices of one GPU at most, so that those taken fit a machine word."""

MOST_PROFILE_MIB = 2**40


@dataclass(frozen=True)
class MigProfile:
    """A shape of partition: the share of the SMs and the memory it gives, the slices it covers, where it may start."""

    name: str
    share_milli: int
    memory_mib: int
    slices: int
    starts: tuple[int, ...]

    def __post_init__(self) -> None:
        check.text("name", self.name)
        object.__setattr__(self, "share_milli", check.share_milli("share_milli", self.share_milli))
        memory = check.integer("memory_mib", self.memory_mib, at_least=0, at_most=MOST_PROFILE_MIB)
        object.__setattr__(self, "memory_mib", memory)
        object.__setattr__(self, "slices", check.integer("slices", self.slices, at_least=1, at_most=MOST_SLICES))
        listed = check.listed("starts", self.starts, "first slices")
        starts = check.int_column("starts", listed, at_least=0, at_most=MOST_SLICES - self.slices)
        if not starts.size:
            check.fail("starts", "is empty, so the profile could go nowhere; expected the legal first slices.")
        object.__setattr__(self, "starts", tuple(sorted({int(start) for start in starts})))

    def mask(self, start: int) -> int:
        """The slices covered from `start` on, as bits."""
        return ((1 << self.slices) - 1) << start


@dataclass(frozen=True)
class MigGeometry:
    """How a GPU may be partitioned: its number of memory `slices` and the `profiles` it offers."""

    slices: int
    profiles: tuple[MigProfile, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "slices", check.integer("slices", self.slices, at_least=1, at_most=MOST_SLICES))
        profiles = check.instances_of("profiles", self.profiles, MigProfile)
        if not profiles:
            check.fail("profiles", "is empty; expected at least one MigProfile.")
        check.distinct("profiles", [profile.name for profile in profiles])
        for i, profile in enumerate(profiles):
            if profile.starts[-1] + profile.slices > self.slices:
                check.fail(
                    f"profiles[{i}].starts",
                    f"has {profile.starts[-1]}, from where {profile.slices} slices run past the last of {self.slices}.",
                )
        object.__setattr__(self, "profiles", profiles)

    def profile(self, name: str) -> MigProfile | None:
        """The profile of that name, if there is one."""
        return next((profile for profile in self.profiles if profile.name == name), None)

    def sufficient(self, request_milli: int, memory_mib: int) -> tuple[MigProfile, ...]:
        """The profiles that give this share and memory, those of fewest slices, least share and least memory first."""
        enough = [p for p in self.profiles if p.share_milli >= request_milli and p.memory_mib >= memory_mib]
        return tuple(sorted(enough, key=lambda p: (p.slices, p.share_milli, p.memory_mib, p.name)))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "slices": self.slices,
            "profiles": [
                {
                    "name": profile.name,
                    "share_milli": profile.share_milli,
                    "memory_mib": profile.memory_mib,
                    "slices": profile.slices,
                    "starts": list(profile.starts),
                }
                for profile in self.profiles
            ],
        }

    @classmethod
    def from_dict(cls, data: object, *, argument: str = "mig") -> MigGeometry:
        """The geometry `to_dict` wrote; `InvalidArgumentError` names what of `argument` is missing or wrong."""
        if not isinstance(data, Mapping):
            check.fail(argument, f"is {data!r:.120}; expected a mapping.")
        required = ("name", "share_milli", "memory_mib", "slices", "starts")
        profiles = tuple(
            check.build(where, entry, MigProfile, required=required)
            for where, entry in check.entries(argument, data, "profiles")
        )
        return check.build(argument, {**data, "profiles": profiles}, cls, required=("slices", "profiles"))


@dataclass(frozen=True, slots=True)
class MigSlice:
    """A partition on one GPU: the `profile`'s name and its first slice."""

    profile: str
    start: int

    def __post_init__(self) -> None:
        check.text("profile", self.profile)
        object.__setattr__(self, "start", check.integer("start", self.start, at_least=0, at_most=MOST_SLICES))


def _nvidia(slice_gb: int) -> MigGeometry:
    """Seven compute and eight memory slices of `slice_gb` GB each, as on A100 and H100.

    Shares are sevenths of the GPU rounded down; memory is the nominal size, of which drivers keep a few per cent.
    """
    shapes = (
        ("1g", 1, 1, (0, 1, 2, 3, 4, 5, 6)),
        ("1g", 1, 2, (0, 2, 4, 6)),
        ("2g", 2, 2, (0, 2, 4)),
        ("3g", 3, 4, (0, 4)),
        ("4g", 4, 4, (0,)),
        ("7g", 7, 8, (0,)),
    )
    return MigGeometry(
        8,
        tuple(
            MigProfile(f"{name}.{size * slice_gb}gb", 1000 * compute // 7, size * slice_gb * 1024, size, starts)
            for name, compute, size, starts in shapes
        ),
    )


A100_40GB = _nvidia(5)
"""NVIDIA A100 with 40 GB, of the MIG User Guide's table of profiles."""

A100_80GB = _nvidia(10)
"""NVIDIA A100 or H100 with 80 GB, of the MIG User Guide's table of profiles."""

GEOMETRIES = {"A100-40GB": A100_40GB, "A100-80GB": A100_80GB, "H100-80GB": A100_80GB}
"""Published geometries by the name of the GPU."""
