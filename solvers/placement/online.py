"""A cluster that takes one event at a time: `ClusterState` places, removes, answers what-ifs, and replans.

Each decision follows the rules of `dilu_core.solvers.placement.choose` on the cluster as it stands. It depends on what
is booked alone, not on the events that led there, so a state that went through JSON decides exactly as the original.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dilu_core import _checks as check
from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.errors import StateError
from dilu_core.placement import read_oversubscription
from dilu_core.slots import Placement, Slot
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.choose import Choice, Chooser
from dilu_core.solvers.placement.reasons import why_not_now
from dilu_core.solvers.placement.replan import MigrationPlan, Move, plan_drain
from dilu_core.verification import violations

_VERSION = 1


@dataclass(frozen=True, slots=True)
class PlacementDecision:
    """Whether the instance `name` is `placed`, on which `slots`, and which rule chose them or what stood in the way."""

    name: str
    placed: bool
    slots: tuple[Slot, ...]
    reason: str


class ClusterState:
    """The instances on a cluster now. Not safe for use by several threads at once; each may have its own.

    Raises `InvalidArgumentError` for arguments that are not a `Cluster` and an `Oversubscription`.
    """

    def __init__(self, cluster: Cluster, *, oversubscription: Oversubscription | None = None) -> None:
        if not isinstance(cluster, Cluster):
            check.fail("cluster", f"is {cluster!r:.120}; expected a Cluster.")
        caps = Oversubscription() if oversubscription is None else oversubscription
        if not isinstance(caps, Oversubscription):
            check.fail("oversubscription", f"is {caps!r:.120}; expected an Oversubscription.")
        self._bookings = Bookings(cluster, caps)
        self._chooser = Chooser(self._bookings)

    @property
    def cluster(self) -> Cluster:
        """The cluster this is the state of."""
        return self._bookings.cluster

    @property
    def oversubscription(self) -> Oversubscription:
        """The caps per GPU."""
        return self._bookings.oversubscription

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances placed now, in order of arrival."""
        return tuple(booking.instance for booking in self._bookings.by_name.values())

    @property
    def gpus_used(self) -> int:
        """GPUs that hold at least one instance."""
        return self._bookings.gpus_used

    def __len__(self) -> int:
        return len(self._bookings.by_name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._bookings.by_name

    def place(self, instance: Instance) -> PlacementDecision:
        """Give `instance` a place and book it, or say why there is none (then nothing changes).

        Raises `InvalidArgumentError` where an instance of that name is placed already.
        """
        decision, choice = self._answer(instance)
        if choice is not None:
            self._bookings.book(instance, choice.gpus, choice.memory_mib)
        return decision

    def what_if(self, instances: Iterable[Instance]) -> tuple[PlacementDecision, ...]:
        """What `place` would answer to each of `instances`, each alone against the present state; nothing changes."""
        return tuple(self._answer(each)[0] for each in check.instances_of("instances", instances, Instance))

    def _answer(self, instance: Instance) -> tuple[PlacementDecision, Choice | None]:
        if not isinstance(instance, Instance):
            check.fail("instance", f"is {instance!r:.120}; expected an Instance.")
        name = instance.name
        if name in self._bookings.by_name:
            check.fail("instance.name", f"is {name!r}, which is placed already; remove it first or use another name.")
        choice = self._chooser.choose(instance)
        if choice is None:
            return PlacementDecision(name, False, (), why_not_now(self._bookings, instance)), None
        slots = self._bookings.slots(Booking(instance, choice.gpus, choice.memory_mib))
        return PlacementDecision(name, True, slots, choice.rule), choice

    def remove(self, name: str) -> Instance:
        """Take the instance `name` off its GPUs and return it; `StateError` where it is not placed."""
        if check.text("name", name) not in self._bookings.by_name:
            raise StateError(f"no instance {name!r} is placed here; {len(self)} others are.")
        return self._bookings.cancel(name).instance

    def placement(self) -> Placement:
        """Where every instance sits now."""
        return self._bookings.placement()

    def replan(self, *, max_migrations: int, time_limit_s: float = 1.0) -> MigrationPlan:
        """Moves that free GPUs, at most `max_migrations` of them; nothing changes until `apply`.

        See `dilu_core.solvers.placement.replan`. Raises `InvalidArgumentError` for negative arguments.
        """
        most = check.integer("max_migrations", max_migrations, at_least=0)
        seconds = check.finite("time_limit_s", time_limit_s, at_least=0.0)
        return plan_drain(self._bookings, max_migrations=most, time_limit_s=seconds)

    def apply(self, plan: MigrationPlan) -> None:
        """Carry out the moves of `plan` in order.

        Raises `StateError`, and changes nothing, where the state has changed since so that a move no longer fits it.
        """
        if not isinstance(plan, MigrationPlan):
            check.fail("plan", f"is {plan!r:.120}; expected a MigrationPlan.")
        done: list[Booking] = []
        for move in plan.moves:
            reason = self._obstacle(move)
            if reason is None:
                done.append(self._bookings.by_name[move.name])
                memory = [slot.memory_mib for slot in move.target]
                if self._bookings.move(move.name, self._bookings.rows(move.target), memory):
                    continue
                done.pop()
                reason = f"{move.name!r} no longer fits where it was to go"
            for held in reversed(done):
                self._bookings.move(held.instance.name, held.gpus, held.memory_mib)
            raise StateError(f"the plan is stale: {reason}. Nothing was moved; ask for a new plan.")

    def _obstacle(self, move: Move) -> str | None:
        """What makes `move` meaningless in this state, room aside."""
        held = self._bookings.by_name.get(move.name)
        if held is None:
            return f"{move.name!r} is not placed any more"
        if self._bookings.slots(held) != move.source:
            return f"{move.name!r} has moved meanwhile"
        broken = violations(self.cluster, (held.instance,), self.oversubscription, {move.name: move.target})
        return broken[0].message.rstrip(".") if broken else None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back; a restored state decides exactly as this one."""
        caps = self.oversubscription
        return {
            "version": _VERSION,
            "cluster": self.cluster.to_dict(),
            "oversubscription": {"request_milli": caps.request_milli, "limit_milli": caps.limit_milli},
            "instances": [instance.to_dict() for instance in self.instances],
            "placement": self.placement().to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClusterState:
        """The state `to_dict` wrote. `InvalidArgumentError` names what is missing, wrong or over capacity."""
        document = check.document("state", data, version=_VERSION)
        cluster = Cluster.from_dict(check.item("state", document, "cluster"))
        state = cls(cluster, oversubscription=read_oversubscription("state", document))
        instances = tuple(Instance.from_dict(entry) for _, entry in check.entries("state", document, "instances"))
        check.distinct("state.instances", [instance.name for instance in instances])
        placement = Placement.from_dict(check.item("state", document, "placement"))
        broken = violations(cluster, instances, state.oversubscription, placement, require_all=True)
        if broken:
            check.fail("state.placement", f"is not valid: {broken[0].message}")
        for instance in instances:
            slots = placement[instance.name]
            state._bookings.book(instance, state._bookings.rows(slots), (slot.memory_mib for slot in slots))
        return state
