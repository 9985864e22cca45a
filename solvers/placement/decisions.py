"""What `ClusterState` answers: decisions that say why, and reservations of host capacity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from dilu_core.slots import Slot
from dilu_core.solvers.placement.choice import Choice, Rule, reason_of
from dilu_core.solvers.placement.unchecked import unchecked

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


@dataclass(frozen=True, slots=True)
class PlacementDecision:
    """Whether the instance `name` is `placed`, on which `slots`, and which rule chose them or what stood in the way.

    Attributes:
        name, placed, slots: of the instance; `slots` is empty where it is not placed.
        reason: in words.
        rule: what decided, as a code (a string): such as `"best-fit"`, `"opened"`, `"split"`, `"gang"`; `"never"` where
            it would not even fit alone, `"not-now"` where others stand in the way.
        blocked: for an instance not placed, resource -> number of GPUs where it stood in the way.
        nearly: resource -> up to three GPUs ("node/number") where nothing else stood in the way.
        node: the node it is on.
    """

    name: str
    placed: bool
    slots: tuple[Slot, ...]
    reason: str
    rule: Rule
    blocked: Mapping[str, int] = field(default_factory=_nothing, hash=False)
    nearly: Mapping[str, tuple[str, ...]] = field(default_factory=_nothing, hash=False)
    node: str | None = None

    def __reduce__(self) -> tuple[type[PlacementDecision], tuple[Any, ...]]:
        blocked, nearly = dict(self.blocked), dict(self.nearly)
        return PlacementDecision, (
            self.name, self.placed, self.slots, self.reason, self.rule, blocked, nearly, self.node,
        )  # fmt: skip


_made = unchecked(PlacementDecision)


def placed(name: str, slots: tuple[Slot, ...], choice: Choice) -> PlacementDecision:
    """The decision for an instance that found a place."""
    rule = choice.rule
    reason = reason_of(rule, len(slots), choice.opened, choice.liked, choice.configuration)
    return _made(name, True, slots, reason, rule, _NOTHING, _NOTHING, slots[0].node)


@dataclass(frozen=True, slots=True)
class HostReservation:
    """CPU and host memory that `name`, which uses no GPU, holds on a node."""

    name: str
    node: str
    cpu_milli: int
    memory_mib: int
