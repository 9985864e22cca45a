"""A cluster that takes one event at a time: `ClusterState` places, removes, answers what-ifs, and replans.

Each decision follows the rules of `dilu_core.solvers.placement.choose` on the cluster as it stands. It depends on what
is booked (and, placing by fragmentation gradient, on the mix of arrivals learnt) alone, not on the events that led
there, so a state that went through JSON decides exactly as the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from dilu_core import _checks as check
from dilu_core.arrival_mix import TaskMix
from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.correlation import LoadCorrelation
from dilu_core.errors import StateError
from dilu_core.instances import MOST_CPU_MILLI, MOST_MEMORY_MIB
from dilu_core.mix_estimator import MixEstimator
from dilu_core.placement import read_oversubscription
from dilu_core.slots import Placement
from dilu_core.solvers.placement.bookings import Booking, Bookings, HostBooking
from dilu_core.solvers.placement.choice import Choice, Rule
from dilu_core.solvers.placement.choose import Chooser
from dilu_core.solvers.placement.decisions import HostReservation, PlacementDecision, placed
from dilu_core.solvers.placement.executing import carry_out
from dilu_core.solvers.placement.gradient import Gradient
from dilu_core.solvers.placement.host_room import choose_host, why_no_host
from dilu_core.solvers.placement.migration_plan import MigrationPlan
from dilu_core.solvers.placement.move_cost import MoveCost
from dilu_core.solvers.placement.reasons import refusal
from dilu_core.solvers.placement.replan import chosen_names, plan_admission, plan_drain, plan_room, start_draft
from dilu_core.solvers.placement.spreading import Spreading
from dilu_core.solvers.placement.what_if import WhatIf
from dilu_core.verification import violations

__all__ = ["ClusterState", "HostReservation", "PlacementDecision"]

PlacementRule = Literal["best-fit", "fragmentation-gradient"]

_RULES = ("best-fit", "fragmentation-gradient")
_VERSION = 1


class ClusterState:
    """The instances on a cluster now. Not safe for use by several threads at once; each may have its own.

    A copy, also a shallow one, and what is unpickled are states of their own that decide alike, as by `to_dict`.

    Arguments:
        cluster: the nodes.
        oversubscription: the caps per GPU.
        rule: `"best-fit"`, or `"fragmentation-gradient"` (Weng et al., ATC 2023): where the share that arrivals are
            expected not to be able to use grows least, in steps of 40 milli. A gang goes to the node where it grows
            least with the gang on the tightest GPUs; others of that node may add less. The first rule needs fewer GPUs,
            the second packs a full cluster tighter.
        mix: only for the second, the arrivals it expects: a `TaskMix`, or a `MixEstimator` that learns it from the
            instances that `place` is asked for; `None` for one that halves their weight in 4,000 arrivals.
        correlation: which functions' loads rise together; among GPUs that are open to an instance anyway, those with
            such neighbours are avoided. `None` leaves loads aside.
    Raises `InvalidArgumentError` for arguments that are not such.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        oversubscription: Oversubscription | None = None,
        rule: PlacementRule = "best-fit",
        mix: TaskMix | MixEstimator | None = None,
        correlation: LoadCorrelation | None = None,
    ) -> None:
        if not isinstance(cluster, Cluster):
            check.fail("cluster", f"is {cluster!r:.120}; expected a Cluster.")
        caps = Oversubscription() if oversubscription is None else oversubscription
        if not isinstance(caps, Oversubscription):
            check.fail("oversubscription", f"is {caps!r:.120}; expected an Oversubscription.")
        check.choice("rule", rule, _RULES)
        if mix is not None and not isinstance(mix, TaskMix | MixEstimator):
            check.fail("mix", f"is {mix!r:.120}; expected a TaskMix, a MixEstimator, or None.")
        if mix is not None and rule == "best-fit":
            check.fail("mix", "is given with rule 'best-fit', which expects nothing; use 'fragmentation-gradient'.")
        if isinstance(mix, MixEstimator) and mix.half_life_s is not None:
            check.fail("mix", "forgets by seconds, but events carry no time; expected half_life_arrivals.")
        if correlation is not None and not isinstance(correlation, LoadCorrelation):
            check.fail("correlation", f"is {correlation!r:.120}; expected a LoadCorrelation, or None.")
        self._bookings = Bookings(cluster, caps)
        self._gradient: Gradient | None = None
        if rule == "fragmentation-gradient":
            given = mix if isinstance(mix, TaskMix) else None
            learner = (
                None
                if given is not None
                else mix
                if isinstance(mix, MixEstimator)
                else MixEstimator(half_life_arrivals=4000.0)
            )
            self._gradient = Gradient(self._bookings, mix=given, estimator=learner)
        self._correlation = correlation
        spreading = None if correlation is None else Spreading(correlation)
        self._chooser = Chooser(self._bookings, gradient=self._gradient, spreading=spreading)

    @property
    def cluster(self) -> Cluster:
        """The cluster this is the state of."""
        return self._bookings.cluster

    @property
    def oversubscription(self) -> Oversubscription:
        """The caps per GPU."""
        return self._bookings.oversubscription

    @property
    def mix(self) -> TaskMix | None:
        """The arrivals that placing by fragmentation gradient expects now; `None` under best fit."""
        return None if self._gradient is None else self._gradient.mix

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances placed now, in order of arrival."""
        return tuple(booking.instance for booking in self._bookings.by_name.values())

    @property
    def host_reservations(self) -> tuple[HostReservation, ...]:
        """What holds CPU and host memory without a GPU, in order of arrival."""
        return tuple(self._reservation(booking) for booking in self._bookings.reserved.values())

    @property
    def gpus_used(self) -> int:
        """GPUs that hold at least one instance."""
        return self._bookings.gpus_used

    def __reduce__(self) -> tuple[Callable[[Mapping[str, Any]], ClusterState], tuple[dict[str, Any]]]:
        return type(self).from_dict, (self.to_dict(),)

    def __len__(self) -> int:
        return len(self._bookings.by_name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._bookings.by_name or name in self._bookings.reserved)

    def place(self, instance: Instance) -> PlacementDecision:
        """Give `instance` a place and book it, or say why there is none (then nothing changes).

        Raises `InvalidArgumentError` where an instance of that name is placed already.
        """
        self._check_new(instance)
        found = self._chooser.place(instance)
        decision = self._refuse(instance) if found is None else self._decision(*found)
        if self._gradient is not None:
            self._gradient.observe(instance)
        return decision

    def what_if(self, instances: Iterable[Instance]) -> WhatIf:
        """What `place` would answer to each of `instances`, each alone against the present state; nothing changes.

        A sequence of decisions; its `scores` rate every GPU for every instance. Scores are worked out when first asked
        for, which the state must not have changed before.
        """
        asked = check.instances_of("instances", instances, Instance)
        return WhatIf(self._chooser, asked, tuple(self._foretell(each) for each in asked))

    def _foretell(self, instance: Instance) -> PlacementDecision:
        self._check_new(instance)
        choice = self._chooser.choose(instance)
        if choice is None:
            return self._refuse(instance)
        booking = Booking(instance, choice.gpus, choice.memory_mib, choice.configuration, choice.mig)
        return self._decision(choice, booking)

    def _check_new(self, instance: Instance) -> None:
        if not isinstance(instance, Instance):
            check.fail("instance", f"is {instance!r:.120}; expected an Instance.")
        self._check_name("instance.name", instance.name)

    def _check_name(self, argument: str, name: str) -> None:
        if name in self._bookings.by_name or name in self._bookings.reserved:
            check.fail(argument, f"is {name!r}, which is placed already; remove it first or use another name.")

    def _decision(self, choice: Choice, booking: Booking) -> PlacementDecision:
        return placed(booking.instance.name, self._bookings.slots(booking), choice)

    def _refuse(self, instance: Instance) -> PlacementDecision:
        why = refusal(self._bookings, instance)
        return PlacementDecision(instance.name, False, (), why.reason, why.rule, why.blocked, why.nearly)

    def reserve_host(self, name: str, *, cpu_milli: int, memory_mib: int, node: str | None = None) -> PlacementDecision:
        """Book CPU and host memory for something that uses no GPU, until `remove(name)`.

        On `node`, or where it hurts the GPUs least: by fragmentation gradient, where the fewest free GPUs lose the host
        that the expected mix asks for; else, and among equals, on the node with the least free share of GPUs, then the
        least CPU left. The decision names the node; it has no slots.
        Raises `InvalidArgumentError` for negative amounts, a name in use, and a node that does not exist.
        """
        self._check_name("name", check.text("name", name))
        cpu = check.integer("cpu_milli", cpu_milli, at_least=0, at_most=MOST_CPU_MILLI)
        memory = check.integer("memory_mib", memory_mib, at_least=0, at_most=MOST_MEMORY_MIB)
        b = self._bookings
        if node is not None and check.text("node", node) not in b.node_number:
            check.fail("node", f"is {node!r}, which is not in the cluster.")
        wanted = None if node is None else b.node_number[node]
        number = choose_host(b, cpu, memory, wanted, self._chooser)
        if number is None:
            reason, rule, blocked = why_no_host(b, cpu, memory, wanted)
            return PlacementDecision(name, False, (), reason, rule, blocked)
        b.reserve(HostBooking(name, number, cpu, memory))
        reason = "the node asked for" if node is not None else "the node whose GPUs lose least by it"
        return PlacementDecision(name, True, (), reason, Rule.HOST, node=self.cluster.nodes[number].name)

    def _reservation(self, booking: HostBooking) -> HostReservation:
        node = self.cluster.nodes[booking.node].name
        return HostReservation(booking.name, node, booking.cpu_milli, booking.memory_mib)

    def remove(self, name: str) -> Instance | HostReservation:
        """Take `name` off its GPUs, or give back what it reserved, and return it; `StateError` where it is not here."""
        if isinstance(name, str) and name in self._bookings.by_name:
            return self._bookings.cancel(name).instance
        if check.text("name", name) in self._bookings.reserved:
            return self._reservation(self._bookings.unreserve(name))
        raise StateError(f"no instance {name!r} is placed here; {len(self)} others are.")

    def placement(self) -> Placement:
        """Where every instance sits now."""
        return self._bookings.placement()

    def replan(
        self,
        *,
        max_migrations: int,
        time_limit_s: float = 1.0,
        pending: Iterable[Instance] = (),
        cost: MoveCost | None = None,
        horizon_s: float = 3600.0,
        exempt: Iterable[str] | Callable[[Instance], bool] = (),
        movable_reservations: Iterable[str] | Callable[[HostReservation], bool] = (),
        mix: TaskMix | None = None,
        may_pause: bool = False,
        seed: int = 0,
    ) -> MigrationPlan:
        """At most `max_migrations` moves that free GPUs, or that let `pending` in; nothing changes until `apply`.

        Every state between two moves is valid, and so is a move under way: the instance holds source and target.

        Arguments:
            max_migrations: how often an instance or a reservation may leave its place.
            time_limit_s: when to stop with what was found.
            pending: with instances here, the plan lets in the greatest GPU share of them instead of freeing GPUs.
            cost: what a move costs; then a plan must save more GPU-seconds than its moves cost. `None`: moves are free,
                and as few as will do.
            horizon_s: how long a freed GPU is expected to stay free.
            exempt: names of instances that must not move, or a function that tells them.
            movable_reservations: with `pending`, names of host reservations that may move to another node, or a
                function that tells them: the host may be all that keeps free GPUs from a pending instance.
            mix: what is expected to arrive: among plans that free as many GPUs, room of use to it is kept. By default
                the mix of `rule="fragmentation-gradient"`, if that is the rule.
            may_pause: with `pending`, moves that wait for one another in a circle may stop an instance for a while.
            seed: of the search with `pending`.
        Raises `InvalidArgumentError` for arguments out of range and names of nobody here.
        See `dilu_core.solvers.placement.replan`.
        """
        seconds = check.finite("time_limit_s", time_limit_s, at_least=0.0)
        waiting = check.instances_of("pending", pending, Instance)
        check.distinct("pending", [each.name for each in waiting])
        for each in waiting:
            self._check_new(each)
        number = check.integer("seed", seed, at_least=0)
        draft = start_draft(
            self._bookings, max_migrations=max_migrations, cost=cost, horizon_s=horizon_s, exempt=exempt,
            mix=self.mix if mix is None else mix,
        )  # fmt: skip
        pause = check.flag("may_pause", may_pause)
        known = {each.name: each for each in self.host_reservations}
        reservations = chosen_names("movable_reservations", movable_reservations, known)
        if not waiting:
            return plan_drain(self._bookings, draft, time_limit_s=seconds)
        return plan_admission(
            self._bookings, draft, waiting,
            time_limit_s=seconds, reservations=reservations, may_pause=pause, seed=number,
        )  # fmt: skip

    def make_room(
        self,
        instance: Instance,
        *,
        max_migrations: int,
        time_limit_s: float = 1.0,
        cost: MoveCost | None = None,
        exempt: Iterable[str] | Callable[[Instance], bool] = (),
    ) -> MigrationPlan:
        """The fewest moves, the cheapest among those, that would let `instance` in; nothing changes until `apply`.

        The plan has one admission, or none, and then its `termination` says what stands in the way: proven infeasible
        or not found. Arguments and errors as for `replan`.
        """
        seconds = check.finite("time_limit_s", time_limit_s, at_least=0.0)
        self._check_new(instance)
        draft = start_draft(self._bookings, max_migrations=max_migrations, cost=cost, exempt=exempt, mix=self.mix)
        choice = self._chooser.choose(instance)
        direct = None
        if choice is not None:
            direct = Booking(instance, choice.gpus, choice.memory_mib, choice.configuration, choice.mig)
        return plan_room(self._bookings, draft, instance, direct, time_limit_s=seconds)

    def apply(self, plan: MigrationPlan) -> None:
        """Carry out the moves of `plan` in order, then place the instances it lets in.

        Raises `StateError`, and changes nothing, where the state has changed since so that a step no longer fits it.
        """
        if not isinstance(plan, MigrationPlan):
            check.fail("plan", f"is {plan!r:.120}; expected a MigrationPlan.")
        reason = carry_out(self._bookings, plan)
        if reason is not None:
            raise StateError(f"the plan is stale: {reason}. Nothing was moved; ask for a new plan.")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back; a restored state decides exactly as this one."""
        caps = self.oversubscription
        data: dict[str, Any] = {
            "version": _VERSION,
            "cluster": self.cluster.to_dict(),
            "oversubscription": {"request_milli": caps.request_milli, "limit_milli": caps.limit_milli},
            "instances": [instance.to_dict() for instance in self.instances],
            "placement": self.placement().to_dict(),
        }
        if self._bookings.reserved:
            data["host_reservations"] = [
                {"name": each.name, "node": each.node, "cpu_milli": each.cpu_milli, "memory_mib": each.memory_mib}
                for each in self.host_reservations
            ]
        if self._correlation is not None:
            data["correlation"] = self._correlation.to_dict()
        if self._gradient is not None:
            data["rule"] = "fragmentation-gradient"
            data["mix"] = self._gradient.mix.to_dict()
            if self._gradient.estimator is not None:
                data["estimator"] = self._gradient.estimator.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClusterState:
        """The state `to_dict` wrote. `InvalidArgumentError` names what is missing, wrong or over capacity."""
        document = check.document("state", data, version=_VERSION)
        cluster = Cluster.from_dict(check.item("state", document, "cluster"))
        caps = read_oversubscription("state", document)
        rule = check.choice("state.rule", document.get("rule", "best-fit"), _RULES)
        loads = LoadCorrelation.from_dict(document["correlation"]) if "correlation" in document else None
        if rule == "best-fit":
            state = cls(cluster, oversubscription=caps, correlation=loads)
        else:
            mix = TaskMix.from_dict(check.item("state", document, "mix"))
            learner = MixEstimator.from_dict(document["estimator"]) if "estimator" in document else None
            state = cls(
                cluster, oversubscription=caps, rule="fragmentation-gradient", mix=learner or mix, correlation=loads
            )
            assert state._gradient is not None
            state._gradient.expect(mix)
        instances = tuple(Instance.from_dict(entry) for _, entry in check.entries("state", document, "instances"))
        check.distinct("state.instances", [instance.name for instance in instances])
        placement = Placement.from_dict(check.item("state", document, "placement"))
        broken = violations(cluster, instances, state.oversubscription, placement, require_all=True)
        if broken:
            check.fail("state.placement", f"is not valid: {broken[0].message}")
        for instance in instances:
            booking = state._bookings.booking(instance, placement[instance.name])
            state._bookings.book(*booking.fields)
        state._read_reservations(document)
        return state

    def _read_reservations(self, document: Mapping[str, Any]) -> None:
        if "host_reservations" not in document:
            return
        required = ("name", "node", "cpu_milli", "memory_mib")
        for where, entry in check.entries("state", document, "host_reservations"):
            asked: dict[str, Any] = check.build(where, entry, dict, required=required)
            if asked["node"] is None:
                check.fail(f"{where}.node", "is None; expected the name of a node.")
            if not self.reserve_host(**asked).placed:
                check.fail(where, f"takes more of the host of {asked['node']!r} than is left.")
