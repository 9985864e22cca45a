"""`ClusterState` and the naive cluster side by side: every event goes to both, and they must agree.

what fits is placed, what does not is refused, with the same obstacles counted GPU by GPU
every place, every step of every plan keeps every rule of the naive cluster
what is asked (what_if, replan, make_room, save) changes nothing; what fails changes nothing
the columns of the ledger are what the naive cluster has left
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from naive_cluster import NaiveCluster

from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.correlation import LoadCorrelation
from dilu_core.errors import InvalidArgumentError, StateError
from dilu_core.solvers.placement.migration_plan import MigrationPlan
from dilu_core.solvers.placement.online import ClusterState


class Twin:
    """Both clusters, and how many events of each kind they have seen."""

    def __init__(
        self, cluster: Cluster, caps: Oversubscription, *, rule: str, correlation: LoadCorrelation | None = None
    ) -> None:
        self.state = ClusterState(cluster, oversubscription=caps, rule=rule, correlation=correlation)  # type: ignore[arg-type]
        self.naive = NaiveCluster(cluster, caps)
        self.empty = NaiveCluster(cluster, caps)
        self.best_fit = rule == "best-fit"
        self.counts: dict[str, int] = {}

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def place(self, instance: Instance) -> None:
        """Placed exactly where the naive cluster has a place, or refused for the reasons that it counts too."""
        possible = self.naive.has_place(instance)
        whole = self._fits_in_use(replace(instance, splittable=False))
        in_use = whole or self._fits_in_use(instance)
        decision = self.state.place(instance)
        assert decision.name == instance.name
        assert decision.placed == possible, f"{decision} but the naive cluster has {possible} for {instance}"
        assert decision.reason
        assert (instance.name in self.state) == possible
        if possible:
            self._count(f"placed: {decision.rule}")
            assert not (in_use and decision.rule == "opened"), f"{decision}, though GPUs in use have room"
            assert not (whole and decision.rule == "split"), f"{decision}, though one GPU in use has room"
            assert decision.node == decision.slots[0].node
            self.naive.book(instance, decision.slots)
            self.check_columns(decision.node)
            return
        self._count("refused")
        never = not self.empty.has_place(instance)
        assert decision.rule == ("never" if never else "not-now"), f"{decision} for {instance}"
        if not never:
            obstacles = self.naive.obstacles(instance)
            assert dict(decision.blocked) == {what: len(gpus) for what, gpus in obstacles.items()}
            for what, named in decision.nearly.items():
                others = set[str]().union(*(gpus for other, gpus in obstacles.items() if other != what))
                assert set(named) <= obstacles[what] - others

    def _fits_in_use(self, instance: Instance) -> bool:
        """Whether best fit may neither open a GPU for it nor, if it is one that does not split, split it."""
        return self.best_fit and instance.gpus == 1 and self.naive.has_place(instance, in_use=True)

    def place_again(self, instance: Instance) -> None:
        """A name in use is an error."""
        self._count("name in use")
        _raises(InvalidArgumentError, lambda: self.state.place(instance))

    def remove(self, name: str) -> None:
        """Gone from both; a name that nobody has is an error."""
        self._count("removed")
        if name in self.naive.reserved:
            self.state.remove(name)
            self.naive.unreserve(name)
        elif name in self.naive.home:
            node = self.naive.home[name][1][0].node
            assert self.state.remove(name) == self.naive.cross_out(name)
            self.check_columns(node)
        else:
            _raises(StateError, lambda: self.state.remove(name))
        assert name not in self.state

    def reserve(self, name: str, cpu: int, host_memory: int, node: str | None) -> None:
        """Reserved exactly where some node asked for has both."""
        self._count("reserved")
        nodes = self.naive.nodes.items() if node is None else [(node, self.naive.nodes[node])]
        possible = any(each["cpu"] >= cpu and each["host_memory"] >= host_memory for _, each in nodes)
        decision = self.state.reserve_host(name, cpu_milli=cpu, memory_mib=host_memory, node=node)
        assert decision.placed == possible, str(decision)
        assert decision.reason
        if possible:
            assert decision.node is not None
            assert node is None or decision.node == node
            self.naive.reserve(name, decision.node, cpu, host_memory)

    def what_if(self, instances: Sequence[Instance]) -> None:
        """Nothing changes; each decision is what `place` answers, and the least score is where it places."""
        self._count("what-if")
        changes = self.state._bookings.node_state.copy()
        answers = self.state.what_if(instances)
        scores = answers.scores
        assert np.array_equal(changes, self.state._bookings.node_state)
        first = {
            node.name: int(row)
            for node, row in zip(self.state.cluster.nodes, self.state._bookings.node_start, strict=False)
        }
        for instance, decision, row in zip(instances, answers, scores, strict=True):
            assert decision.placed == self.naive.has_place(instance)
            rows = [first[slot.node] + slot.gpu for slot in decision.slots]
            assert not np.isnan(row[rows]).any(), f"{instance} has a place without a score"
            if decision.placed and len(rows) == 1:
                assert int(np.nanargmin(row)) == rows[0], f"{instance} goes to {rows[0]}, scores {row}"
        if instances:
            self.place(instances[0])
            placed = instances[0].name in self.naive.home
            assert not placed or self.naive.home[instances[0].name][1] == answers[0].slots

    def save_and_load(self) -> None:
        """The restored state is the same, and takes the place of the one saved."""
        self._count("saved and loaded")
        text = json.dumps(self.state.to_dict())
        restored = ClusterState.from_dict(json.loads(text))
        assert json.dumps(restored.to_dict()) == text
        for column in ("free", "held", "host_free", "totals"):
            assert np.array_equal(getattr(restored._bookings, column), getattr(self.state._bookings, column)), column
        assert np.array_equal(restored._bookings.partitions.used, self.state._bookings.partitions.used)
        self.state = restored

    def plan(
        self, plan: MigrationPlan, *, most: int, exempt: Iterable[str] = (), then: Sequence[Instance] = ()
    ) -> None:
        """Every step is feasible, and applied it leads there. With `then` the state changes first: all or nothing."""
        self._count("planned")
        assert plan.migrations <= most
        assert not {move.name for move in plan.moves} & set(exempt)
        assert plan.gpus_before == self.naive.gpus_used
        assert MigrationPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
        self._count("moves planned" if plan.moves else "plans without moves")
        self._follow(self.naive.copy(), plan)
        for instance in then:
            self.place(instance)
        before = self.state.to_dict()
        try:
            self.state.apply(plan)
        except StateError:
            self._count("stale plans")
            assert then, "a fresh plan was refused"
            assert self.state.to_dict() == before
            self.check()
            return
        self._follow(self.naive, plan)
        self.check()
        assert then or self.state.gpus_used == plan.gpus_after

    def _follow(self, naive: NaiveCluster, plan: MigrationPlan) -> None:
        """Carry a plan out on a naive cluster, step by step."""
        stopped: dict[str, Instance] = {}
        for move in plan.moves:
            if move.starts:
                naive.book(stopped.pop(move.name), move.target)
                continue
            assert naive.home[move.name][1] == move.source
            if move.stops:
                stopped[move.name] = naive.cross_out(move.name)
            else:
                naive.move(move.name, move.target)
        assert not stopped
        for admission in plan.admissions:
            naive.book(admission.instance, admission.slots)

    def clear(self, draw: random.Random) -> None:
        """Everything leaves in random order, and the state is exactly a new one."""
        names = [*self.naive.home, *self.naive.reserved]
        draw.shuffle(names)
        for name in names:
            self.remove(name)
        self.check()
        fresh = ClusterState(self.state.cluster, oversubscription=self.state.oversubscription)._bookings
        here = self.state._bookings
        for column in ("free", "held", "host_free", "totals"):
            assert np.array_equal(getattr(here, column), getattr(fresh, column)), column
        assert not here.partitions.used.any()
        assert not here.functions.has.any()
        assert not here.functions.refuses.any()
        for index in (
            here.by_name,
            here.reserved,
            here.gangs_on,
            here.function_on,
            here.refused_on,
            here.functions.number,
        ):
            assert not index
        assert not any(here.on_gpu)

    def check(self) -> None:
        """Everything agrees: who is where, every column of every GPU and node."""
        state, naive = self.state, self.naive
        assert {name: slots for name, (_, slots) in naive.home.items()} == {
            name: state.placement()[name] for name in state.placement().names
        }
        assert [each.name for each in state.host_reservations] == list(naive.reserved)
        assert state.gpus_used == naive.gpus_used
        assert len(state) == len(naive.home)
        for node in naive.nodes:
            self.check_columns(node)

    def check_columns(self, name: str) -> None:
        """The ledger's columns of one node are what the naive cluster has left of it."""
        ledger, node = self.state._bookings, self.naive.nodes[name]
        number = ledger.node_number[name]
        start = int(ledger.node_start[number])
        for row, gpu in enumerate(node["gpus"], start):
            assert ledger.free[row].tolist() == [gpu["request"], gpu["limit"], gpu["memory"]], ledger.gpu_name(row)
            assert ledger.on_gpu[row].keys() == gpu["tenants"].keys()
            assert ledger.held[row] == len(gpu["tenants"])
            assert int(ledger.partitions.used[row]) == sum(1 << piece for piece in gpu["slices"])
        for left, what in zip(ledger.host_free[number].tolist(), ("cpu", "host_memory"), strict=True):
            assert math.isinf(node[what]) or left == node[what], f"{what} of {name}"


def _raises(kind: type[Exception], call: Any) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}")
