"""What the vertical policy answers for one GPU and one period, and what that tells the horizontal policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from dilu_core._checks import instances_of, names
from dilu_core.coscaling.gpu import GpuObservation
from dilu_core.coscaling.sharing import headrooms
from dilu_core.units import FULL_GPU_MILLI


class VerticalMode(StrEnum):
    """What the cycles said about the best-effort cap in this period."""

    EMERGENCY = "emergency"
    """An SLO instance is slowed badly: the cap shrank."""
    CONTENTION = "contention"
    """Some slow-down, or nothing known: the cap holds."""
    RECOVERY = "recovery"
    """No slow-down: the cap grows on every n-th period."""


@dataclass(frozen=True)
class Grants(Mapping[str, int]):
    """Shares in milli-GPU by instance name (0 for the idle), for one period, and why.

    `best_effort_cap_milli` bounds what best-effort instances may hold together; `inflation` is the worst r known.
    `oversold` says that the requests of the active instances exceed the GPU, so that each was cut in proportion: the
    only case in which an active instance gets less than its request. `relieved`: best effort was lent more than its cap
    allows, because it is owed that. `observation` is what was decided, for `headroom`.
    """

    milli: Mapping[str, int]
    mode: VerticalMode
    best_effort_cap_milli: int
    inflation: float | None
    oversold: bool
    detail: str
    relieved: bool = False
    observation: GpuObservation | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, name: str) -> int:
        return self.milli[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.milli)

    def __len__(self) -> int:
        return len(self.milli)

    @cached_property
    def headroom(self) -> dict[str, int]:
        """`headroom_milli` of the observation that was decided; empty where that is not known."""
        return {} if self.observation is None else headroom_milli(self.observation)


def headroom_milli(observation: GpuObservation) -> dict[str, int]:
    """For each SLO instance, the milli-GPU beyond its request that it could have borrowed in this period.

    That is: had it alone wanted its limit, with everybody else as they were. It includes what it did borrow, and what
    best effort borrowed, for SLO functions come first. 0 where its request itself would not have fitted.
    """
    spare = FULL_GPU_MILLI - sum(one.request_milli for one in observation.instances if one.active)
    slo = [one for one in observation.instances if one.kind != "best-effort"]
    found = headrooms(
        # an idle instance would first have taken its request back
        budgets=[spare if one.active else spare - one.request_milli for one in slo],
        wants=[one.wanted_milli - one.request_milli if one.active else 0 for one in slo],
        weights=[one.weight or one.request_milli for one in slo],
        rooms=[one.limit_milli - one.request_milli for one in slo],
    )
    return dict(zip((one.name for one in slo), found, strict=True))


def spare_milli(periods: Iterable[Grants], instances: Iterable[str]) -> float | None:
    """`Observation.spare_milli` of the function that has these `instances`, from the grants of, say, one second.

    The mean of `Grants.headroom` over its instances and the periods in which they were there; `periods` may hold grants
    of several GPUs, in any order. `None` where no instance was seen.
    """
    wanted = set(names("instances", instances))
    total = seen = 0
    for grants in instances_of("periods", periods, Grants):
        found = grants.headroom
        for name in wanted & found.keys():
            total += found[name]
            seen += 1
    return total / seen if seen else None
