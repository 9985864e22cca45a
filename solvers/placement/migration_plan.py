"""The value that replanning returns: moves in the order to carry them out, and the instances let in by them.

A move is made before it is broken: the instance is started on its target while it still runs on its source, and holds
both until the target serves. So each GPU must have room for what it will get before anything on it leaves. Only where
the caller allows pauses may a move have two halves: a stop (no target), which frees the source at once, and later a
start (no source). Instances let in are placed after all moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dilu_core import _checks as check
from dilu_core.cluster import Instance
from dilu_core.result import Termination, TerminationReason
from dilu_core.slots import Slot

_VERSION = 2
_MOVE, _OF_A_MOVE = ("name", "source", "target"), ("cost_gpu_s", "gpu_hours_saved")
_HOST_MOVE = ("name", "source", "target")
_PLAN = ("moves", "gpus_before", "gpus_after", "admissions", "termination")


@dataclass(frozen=True, slots=True)
class Move:
    """The instance `name` goes from its `source` slots to its `target` slots.

    Without a target it is stopped, to be started by a later move of the plan that has no source. `cost_gpu_s` is what
    the move costs; `gpu_hours_saved` is its share of what the plan saves, after its cost.
    """

    name: str
    source: tuple[Slot, ...]
    target: tuple[Slot, ...]
    cost_gpu_s: float = 0.0
    gpu_hours_saved: float = 0.0

    def __post_init__(self) -> None:
        check.text("name", self.name)
        for column in ("source", "target"):
            object.__setattr__(self, column, check.instances_of(column, getattr(self, column), Slot))
        if not self.source and not self.target:
            check.fail("target", "is empty, and so is source; a move leaves a place or takes one.")
        object.__setattr__(self, "cost_gpu_s", check.finite("cost_gpu_s", self.cost_gpu_s, at_least=0.0))
        object.__setattr__(self, "gpu_hours_saved", check.finite("gpu_hours_saved", self.gpu_hours_saved))

    @property
    def stops(self) -> bool:
        """Whether the instance is down after this step."""
        return not self.target

    @property
    def starts(self) -> bool:
        """Whether the instance was down before this step."""
        return not self.source


@dataclass(frozen=True, slots=True)
class Admission:
    """A pending `instance` and the `slots` it takes once the moves are done."""

    instance: Instance
    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.instance, Instance):
            check.fail("instance", f"is {self.instance!r:.120}; expected an Instance.")
        object.__setattr__(self, "slots", check.instances_of("slots", self.slots, Slot))
        if not self.slots:
            check.fail("slots", "is empty; an instance that is let in takes a place.")


@dataclass(frozen=True, slots=True)
class HostMove:
    """The reservation `name` of CPU and host memory goes from the node `source` to the node `target`."""

    name: str
    source: str
    target: str

    def __post_init__(self) -> None:
        for column in ("name", "source", "target"):
            check.text(column, getattr(self, column))
        if self.source == self.target:
            check.fail("target", f"is {self.target!r}, where the reservation is already.")


def _searched() -> Termination:
    return Termination(TerminationReason.FEASIBLE)


@dataclass(frozen=True)
class MigrationPlan:
    """Moves to carry out in order, each keeping every GPU and host within capacity, then the instances let in.

    `host_moves`, of what uses no GPU, come before all `moves`; there are none unless the caller allowed them.

    `gpus_before` and `gpus_after` count GPUs that hold something, before the first move and after the last admission.
    `termination` says why the search ended, and, where it let nobody in, what stood in the way.
    """

    moves: tuple[Move, ...]
    gpus_before: int
    gpus_after: int
    admissions: tuple[Admission, ...] = ()
    termination: Termination = field(default_factory=_searched, compare=False)
    host_moves: tuple[HostMove, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "moves", check.instances_of("moves", self.moves, Move))
        object.__setattr__(self, "admissions", check.instances_of("admissions", self.admissions, Admission))
        object.__setattr__(self, "host_moves", check.instances_of("host_moves", self.host_moves, HostMove))
        for column in ("gpus_before", "gpus_after"):
            object.__setattr__(self, column, check.integer(column, getattr(self, column), at_least=0))
        if not isinstance(self.termination, Termination):
            check.fail("termination", f"is {self.termination!r:.120}; expected a Termination.")

    @property
    def migrations(self) -> int:
        """How often an instance or a reservation leaves its place; a stop and its start count once."""
        return len(self.host_moves) + sum(1 for move in self.moves if move.source)

    @property
    def gpus_freed(self) -> int:
        """GPUs in use before, less those in use afterwards."""
        return self.gpus_before - self.gpus_after

    @property
    def admitted(self) -> tuple[str, ...]:
        """Names of the pending instances that get a place."""
        return tuple(each.instance.name for each in self.admissions)

    @property
    def cost_gpu_s(self) -> float:
        """What all the moves cost."""
        return sum(move.cost_gpu_s for move in self.moves)

    @property
    def gpu_hours_saved(self) -> float:
        """GPU-hours the plan saves over the horizon it was made for, after the cost of its moves."""
        return sum(move.gpu_hours_saved for move in self.moves)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back; slots as `Slot.to_row` writes them."""
        host_moves = [{"name": each.name, "source": each.source, "target": each.target} for each in self.host_moves]
        return {
            "version": _VERSION,
            **({"host_moves": host_moves} if host_moves else {}),
            "moves": [
                {
                    "name": move.name,
                    "source": _rows(move.source),
                    "target": _rows(move.target),
                    "cost_gpu_s": move.cost_gpu_s,
                    "gpu_hours_saved": move.gpu_hours_saved,
                }
                for move in self.moves
            ],
            "admissions": [
                {"instance": each.instance.to_dict(), "slots": _rows(each.slots)} for each in self.admissions
            ],
            "gpus_before": self.gpus_before,
            "gpus_after": self.gpus_after,
            "termination": self.termination.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MigrationPlan:
        """The plan `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("plan", data, version=_VERSION)
        moves = []
        for where, entry in check.entries("plan", document, "moves"):
            slots = {key: _read(f"{where}.{key}", check.item(where, entry, key)) for key in ("source", "target")}
            moves.append(check.build(where, {**entry, **slots}, Move, required=_MOVE, optional=_OF_A_MOVE))
        admissions = []
        for where, entry in check.entries("plan", document, "admissions"):
            fields = {
                "instance": Instance.from_dict(check.item(where, entry, "instance")),
                "slots": _read(f"{where}.slots", check.item(where, entry, "slots")),
            }
            admissions.append(check.build(where, fields, Admission, required=("instance", "slots")))
        host_moves = [
            check.build(where, entry, HostMove, required=_HOST_MOVE)
            for where, entry in (check.entries("plan", document, "host_moves") if "host_moves" in document else ())
        ]
        fields = {
            **document,
            "host_moves": host_moves,
            "moves": moves,
            "admissions": admissions,
            "termination": Termination.from_dict(
                check.item("plan", document, "termination"), argument="plan.termination"
            ),
        }
        return check.build("plan", fields, cls, required=_PLAN, optional=("host_moves",))


def _rows(slots: tuple[Slot, ...]) -> list[list[Any]]:
    return [slot.to_row() for slot in slots]


def _read(where: str, rows: object) -> tuple[Slot, ...]:
    if not isinstance(rows, list | tuple):
        check.fail(where, f"is {rows!r:.120}; expected a list of slots.")
    return tuple(Slot.from_row(row, argument=f"{where}[{i}]") for i, row in enumerate(rows))
