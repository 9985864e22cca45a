"""The placement problem, and the one way to tell whether a placement of it is valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dilu_core import _checks as check
from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.slots import Placement, Slot, slots_by_name
from dilu_core.verification import Violation, ViolationCode, violations

__all__ = ["Placement", "PlacementProblem", "Slot", "Violation", "ViolationCode", "verify_placement"]

_VERSION = 1


@dataclass(frozen=True)
class PlacementProblem:
    """Instances to place on a cluster under the caps of `oversubscription`.

    `current` says where some of them run now. Names in it that are not among `instances` have left and are dropped; the
    rest must be valid on this cluster (`InvalidArgumentError` says what is not; drop such instances with
    `Placement.restricted` and they count as new). Instances without a current place are free to go anywhere.
    """

    cluster: Cluster
    instances: tuple[Instance, ...]
    oversubscription: Oversubscription = field(default_factory=Oversubscription)
    current: Placement | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.cluster, Cluster):
            check.fail("cluster", f"is {self.cluster!r:.120}; expected a Cluster.")
        object.__setattr__(self, "instances", check.instances_of("instances", self.instances, Instance))
        check.distinct("instances", [instance.name for instance in self.instances])
        if not isinstance(self.oversubscription, Oversubscription):
            check.fail("oversubscription", f"is {self.oversubscription!r:.120}; expected an Oversubscription.")
        if self.current is None:
            return
        if not isinstance(self.current, Placement):
            check.fail("current", f"is {self.current!r:.120}; expected a Placement or None.")
        kept = self.current.restricted(instance.name for instance in self.instances)
        broken = violations(self.cluster, self.instances, self.oversubscription, kept)
        if broken:
            first, *others = broken
            more = f" (and {len(others)} more violations)" if others else ""
            check.fail("current", f"is not valid on this cluster: {first.message}{more}")
        object.__setattr__(self, "current", kept)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        caps = self.oversubscription
        return {
            "version": _VERSION,
            "cluster": self.cluster.to_dict(),
            "instances": [instance.to_dict() for instance in self.instances],
            "oversubscription": {"request_milli": caps.request_milli, "limit_milli": caps.limit_milli},
            "current": None if self.current is None else self.current.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlacementProblem:
        """The problem `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("problem", data, version=_VERSION)
        current = check.item("problem", document, "current")
        return cls(
            Cluster.from_dict(check.item("problem", document, "cluster")),
            tuple(Instance.from_dict(entry) for _, entry in check.entries("problem", document, "instances")),
            read_oversubscription("problem", document),
            None if current is None else Placement.from_dict(current),
        )


def read_oversubscription(argument: str, document: Mapping[str, Any]) -> Oversubscription:
    """The caps that stand under "oversubscription" in a document some `to_dict` wrote."""
    caps = check.item(argument, document, "oversubscription")
    where = f"{argument}.oversubscription"
    if not isinstance(caps, Mapping):
        check.fail(where, f"is {caps!r:.120}; expected a mapping.")
    return check.build(where, caps, Oversubscription, required=("request_milli", "limit_milli"))


def verify_placement(
    problem: PlacementProblem, placement: Mapping[str, tuple[Slot, ...]], *, require_all: bool = False
) -> tuple[Violation, ...]:
    """Every rule that `placement` breaks; empty for a valid one.

    Checks, per instance: it, its node, its GPUs and its configuration exist; GPU types; one node; distinct GPUs; the
    number of slots (one per GPU of a gang; one, or several parts, where it may be split) and the memory of each; a
    partition that suffices, where the GPU is partitioned. Per GPU: the sums of requests, limits and memory, disjoint
    partitions, and anti-affinity, where either side's word is enough. Per node: CPU and host memory. A valid placement
    may leave instances out (`place` names them in `unplaced`), so that is a violation only with `require_all`. Raises
    `InvalidArgumentError` for what is no problem or no mapping of names to slots.
    """
    if not isinstance(problem, PlacementProblem):
        check.fail("problem", f"is {problem!r:.120}; expected a PlacementProblem.")
    placement = slots_by_name("placement", placement)
    return violations(problem.cluster, problem.instances, problem.oversubscription, placement, require_all=require_all)
