"""Plans followed step by step by a simulation that shares no code with the planner: every state, and who may move."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

from dilu_core.cluster import Cluster, GpuType, Instance, Node
from dilu_core.errors import StateError
from dilu_core.placement import Placement, PlacementProblem, Slot, verify_placement
from dilu_core.result import Limit, TerminationReason
from dilu_core.solvers.placement.bookings import Booking
from dilu_core.solvers.placement.migration_plan import MigrationPlan, Move
from dilu_core.solvers.placement.move_cost import MoveCost
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.ordering import carry_out_all
from dilu_core.solvers.placement.replan import start_draft
from dilu_core.solvers.placement.small_problems import small_problem

A100 = GpuType("A100", 40960)
Slots = tuple[Slot, ...]


class Simulation:
    """Who holds what by the words of the plan alone; `follow` asserts that both ends of every move have room."""

    def __init__(self, state: ClusterState) -> None:
        self.cluster, self.caps = state.cluster, state.oversubscription
        self.known = {each.name: each for each in state.instances}
        self.slots: dict[str, Slots] = dict(state.placement())
        self.reserved = {each.node: (each.cpu_milli, each.memory_mib) for each in state.host_reservations}

    def follow(self, plan: MigrationPlan) -> None:
        """Carry out every step of `plan` and hold each state against the rules."""
        down: set[str] = set()
        for move in plan.moves:
            assert (move.name in down) == move.starts
            if not move.starts:
                assert self.slots[move.name] == move.source
            if move.stops:
                down.add(move.name)
                del self.slots[move.name]
            elif move.starts:
                down.remove(move.name)
                self.slots[move.name] = move.target
            else:
                self.assert_room({move.name: move.target})
                self.slots[move.name] = move.target
            self.assert_rules()
        assert not down
        for each in plan.admissions:
            self.known[each.instance.name] = each.instance
            self.slots[each.instance.name] = each.slots
        self.assert_rules()
        assert Placement(self.slots).gpus_used == plan.gpus_after

    def assert_rules(self) -> None:
        """The state between two steps keeps every rule."""
        problem = PlacementProblem(self.cluster, tuple(self.known.values()), self.caps)
        assert verify_placement(problem, Placement(self.slots)) == ()

    def assert_room(self, under_way: Mapping[str, Slots]) -> None:
        """A move under way holds both ends: the greater amount on a GPU that is in both, and two on the host."""
        gpu: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
        host: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for name, slots in self.slots.items():
            held: dict[tuple[str, int], tuple[int, ...]] = {}
            for place in (slots, under_way.get(name, ())):
                for slot in place:
                    amount = self.amount(self.known[name], slot, len(place))
                    before = held.get((slot.node, slot.gpu), (0, 0, 0))
                    held[slot.node, slot.gpu] = tuple(map(max, before, amount))
                if place:
                    host[place[0].node][0] += self.known[name].cpu_milli
                    host[place[0].node][1] += self.known[name].host_memory_mib
            for where, amount in held.items():
                gpu[where] = [a + b for a, b in zip(gpu[where], amount, strict=True)]
        for node in self.cluster.nodes:
            cpu, memory = (a + b for a, b in zip(host[node.name], self.reserved.get(node.name, (0, 0)), strict=True))
            assert node.cpu_milli is None or cpu <= node.cpu_milli
            assert node.memory_mib is None or memory <= node.memory_mib
            most = (self.caps.request_milli, self.caps.limit_milli, node.gpu_type.memory_mib)
            for number in range(node.gpus):
                assert all(a <= b for a, b in zip(gpu[node.name, number], most, strict=True))

    def amount(self, instance: Instance, slot: Slot, parts: int) -> tuple[int, int, int]:
        """Request, limit and memory that `instance` takes in this slot."""
        configuration = instance.configurations[slot.configuration]
        limit = configuration.limit_milli
        if parts > 1 and instance.gpus == 1:
            limit = configuration.request_milli
        if slot.mig is not None:
            node = next(each for each in self.cluster.nodes if each.name == slot.node)
            assert node.gpu_type.mig is not None
            profile = next(each for each in node.gpu_type.mig.profiles if each.name == slot.mig.profile)
            limit = min(limit, profile.share_milli)
        return configuration.request_milli, limit, slot.memory_mib


def crowd(draw: random.Random, nodes: int, instances: int) -> tuple[ClusterState, list[Instance]]:
    """A cluster with holes where instances have left, and who did not fit: gangs, splits, hosts and refusals."""
    hosts = [(None, None), (16000, 65536)]
    cluster = Cluster(tuple(Node(f"n{i}", A100, 4, *draw.choice(hosts)) for i in range(nodes)))
    state, pending = ClusterState(cluster), []
    for i in range(instances):
        kind = draw.choice(("inference", "inference", "inference", "llm-inference", "training"))
        request = draw.choice((100, 200, 300, 400, 600))
        refused = ("f1",) if draw.random() < 0.1 else ()
        instance = Instance(
            f"i{i}", kind, request, min(1000, request + draw.choice((0, 100, 300))), draw.choice((2048, 8192, 20480)),
            gpus=2 if kind == "training" else 1, splittable=kind == "llm-inference", function=f"f{i % 4}",
            anti_affinity=refused, cpu_milli=draw.choice((0, 1000, 3000)), host_memory_mib=draw.choice((0, 8192)),
        )  # fmt: skip
        if not state.place(instance).placed:
            pending.append(instance)
    for each in state.instances:
        if draw.random() < 0.4:
            state.remove(each.name)
    return state, pending


def follow(state: ClusterState, plan: MigrationPlan, most: int) -> Simulation:
    """Simulate `plan`, then apply it to `state`, which must end where the plan says."""
    assert plan.migrations <= most
    simulation = Simulation(state)
    assert plan.gpus_before == state.gpus_used
    before = state.to_dict()
    simulation.follow(plan)
    assert state.to_dict() == before
    state.apply(plan)
    assert dict(state.placement()) == simulation.slots
    assert state.gpus_used == plan.gpus_after
    return simulation


@pytest.mark.parametrize("seed", range(3))
def test_plans_for_crowds_are_feasible_at_every_step(seed: int) -> None:
    """Drains, admissions and room made in clusters too large to be solved whole keep to the rules and the budget."""
    draw = random.Random(seed)
    state, pending = crowd(draw, nodes=8, instances=70)
    exempt = {each.name for each in state.instances if draw.random() < 0.2}
    drained = state.replan(max_migrations=5, time_limit_s=60, exempt=exempt)
    follow(state, drained, 5)
    assert drained.gpus_freed >= 0
    admitted = state.replan(max_migrations=4, time_limit_s=60, pending=pending[:4], exempt=exempt, may_pause=True)
    follow(state, admitted, 4)
    large = Instance("large", "training", 800, 1000, 30000, gpus=3)
    room = state.make_room(large, max_migrations=4, time_limit_s=60, exempt=exempt)
    follow(state, room, 4)
    assert not exempt & {move.name for plan in (drained, admitted, room) for move in plan.moves}


@pytest.mark.parametrize("seed", range(16))
def test_plans_for_small_problems_with_every_rule_are_feasible_at_every_step(seed: int) -> None:
    """The same with partitions, configurations, types and hosts mixed, from placements no placer would have made."""
    problem = small_problem(seed, most_instances=6).problem
    running = problem.current or {}
    data: dict[str, Any] = ClusterState(problem.cluster, oversubscription=problem.oversubscription).to_dict()
    data["instances"] = [each.to_dict() for each in problem.instances if each.name in running]
    data["placement"] = Placement(running).to_dict()
    state = ClusterState.from_dict(data)
    follow(state, state.replan(max_migrations=2, time_limit_s=60), 2)
    waiting = [each for each in problem.instances if each.name not in running]
    follow(state, state.replan(max_migrations=3, time_limit_s=60, pending=waiting), 3)


def test_hundreds_of_instances_make_room_by_exchange() -> None:
    """Annealed exchange lets in a share that nothing short of moves could, and each of its steps is feasible."""
    draw = random.Random(5)
    state, pending = crowd(draw, nodes=60, instances=700)
    assert len(state.instances) >= 200
    large = [Instance(f"w{i}", "training", 1000, 1000, 30000, gpus=4) for i in range(6)]
    plan = state.replan(max_migrations=30, time_limit_s=1.5, pending=[*pending, *large], may_pause=True, seed=1)
    follow(state, plan, 30)
    assert plan.admissions


def test_exempt_instances_never_move() -> None:
    """Named or told by a function: what is exempt keeps its place, and the GPU it holds cannot be freed."""

    def scattered() -> ClusterState:
        state = ClusterState(Cluster.homogeneous(2, 2, A100))
        for i in range(3):
            state.place(Instance(f"big-{i}", "inference", 900, 900, 1024))
            state.place(Instance(f"small-{i}", "inference", 100, 100, 1024))
        for i in range(3):
            state.remove(f"big-{i}")
        return state

    assert scattered().replan(max_migrations=5).gpus_freed == 2
    named = scattered().replan(max_migrations=5, exempt=("small-0", "small-1"))
    assert [move.name for move in named.moves] == ["small-2"]
    told = scattered().replan(max_migrations=5, exempt=lambda each: each.request_milli == 100)
    assert told.moves == ()


def test_the_cost_of_a_move_changes_the_choice() -> None:
    """Of two instances of which either would free a GPU, the one with less memory to copy moves, or none pays."""
    state = ClusterState(Cluster.homogeneous(1, 2, A100))
    state.place(Instance("heavy", "inference", 200, 200, 20000, function="h"))
    state.place(Instance("filler", "inference", 800, 900, 1024))
    state.place(Instance("light", "inference", 200, 200, 2000, function="l"))
    state.remove("filler")
    assert state.gpus_used == 2
    copying = MoveCost(bandwidth_mib_s=100)
    (move,) = state.replan(max_migrations=1, cost=copying, horizon_s=60).moves
    assert (move.name, move.cost_gpu_s) == ("light", pytest.approx(20 * 0.2))
    assert move.gpu_hours_saved == pytest.approx((60 - 4) / 3600)
    starting = MoveCost(cold_start_s=1, of_function={"l": 100.0})
    (move,) = state.replan(max_migrations=1, cost=starting, horizon_s=60).moves
    assert move.name == "heavy"
    assert state.replan(max_migrations=1, cost=MoveCost(cold_start_s=301), horizon_s=60).moves == ()
    plan = state.replan(max_migrations=1, cost=copying, horizon_s=7200)
    assert plan.gpu_hours_saved == pytest.approx(2 - 4 / 3600)
    assert plan.cost_gpu_s == pytest.approx(4.0)


def test_nothing_to_do_is_an_empty_plan() -> None:
    """An empty cluster, no moves allowed, or no time: a plan without steps, whose termination says why."""
    empty = ClusterState(Cluster.homogeneous(2, 2, A100))
    assert empty.replan(max_migrations=5) == MigrationPlan((), 0, 0)
    state, _ = crowd(random.Random(1), nodes=3, instances=30)
    still = state.replan(max_migrations=0)
    assert (still.moves, still.termination.limit) == ((), Limit.MIGRATIONS)
    cut = state.replan(max_migrations=9, time_limit_s=0)
    assert (cut.moves, cut.termination.limit) == ((), Limit.TIME)
    newcomer = Instance("new", "inference", 1000, 1000, 40960)
    assert [each.instance for each in empty.make_room(newcomer, max_migrations=0).admissions] == [newcomer]
    assert empty.make_room(newcomer, max_migrations=0).termination.reason is TerminationReason.OPTIMAL
    cannot = empty.make_room(Instance("huge", "inference", 1000, 1000, 50000), max_migrations=3)
    assert cannot.termination.reason is TerminationReason.INFEASIBLE


def swapped(gpus: int) -> tuple[ClusterState, Placement]:
    """Two GPUs whose instances fill them, and the placement in which they have changed places."""
    state = ClusterState(Cluster.homogeneous(1, gpus, A100))
    for name in ("a", "b"):
        state.place(Instance(name, "inference", 1000, 1000, 1024))
    here = state.placement()
    return state, Placement({"a": here["b"], "b": here["a"]})


def order(state: ClusterState, goal: Placement, most: int, *, may_pause: bool) -> Any:
    """The draft that orders the moves to `goal`."""
    ledger = state._bookings
    draft = start_draft(ledger, max_migrations=most)
    wanted: dict[str, Booking] = {
        name: ledger.booking(ledger.by_name[name].instance, slots) for name, slots in goal.items()
    }
    carry_out_all(draft, wanted, (), may_pause=may_pause)
    return draft


def test_a_cycle_is_broken_through_a_spare_gpu() -> None:
    """Two instances change places by three moves, the first of them to the third GPU."""
    state, goal = swapped(gpus=3)
    draft = order(state, goal, 3, may_pause=False)
    assert [step.name for step in draft.steps] in (["a", "b", "a"], ["b", "a", "b"])
    assert draft.ledger.placement() == goal


@pytest.mark.parametrize(("gpus", "most"), [(2, 9), (3, 2)])
def test_a_cycle_without_a_spare_gpu_or_move_is_left_out(gpus: int, most: int) -> None:
    """Where there is no spare GPU, or no third move, nothing moves."""
    state, goal = swapped(gpus)
    draft = order(state, goal, most, may_pause=False)
    assert draft.ledger.placement() == state.placement()


def test_a_cycle_may_be_broken_by_a_pause() -> None:
    """With pauses allowed, one instance stops, the other moves, and the first starts again: two migrations."""
    state, goal = swapped(gpus=2)
    draft = order(state, goal, 2, may_pause=True)
    assert [(step.held is None, step.wanted is None) for step in draft.steps] == [
        (False, True), (False, False), (True, False),
    ]  # fmt: skip
    assert draft.ledger.placement() == goal


def test_moves_are_ordered_so_that_each_has_room() -> None:
    """A chain of three, given in the wrong order, is carried out from its free end."""
    state = ClusterState(Cluster.homogeneous(1, 4, A100))
    for name in ("a", "b", "c"):
        state.place(Instance(name, "inference", 1000, 1000, 1024))
    here = state.placement()
    (free,) = {0, 1, 2, 3} - {slots[0].gpu for slots in here.values()}
    goal = Placement({"a": here["b"], "b": here["c"], "c": (Slot(here["c"][0].node, free, 1024),)})
    draft = order(state, goal, 3, may_pause=False)
    assert [step.name for step in draft.steps] == ["c", "b", "a"]


def test_a_plan_that_stops_amid_its_steps_changes_nothing() -> None:
    """The first move is fine, the second does not fit: neither remains, and the error says what stood in the way."""
    state = ClusterState(Cluster.homogeneous(1, 3, A100))
    for name in ("a", "b"):
        state.place(Instance(name, "inference", 700, 700, 1024))
    here = state.placement()
    (free,) = {0, 1, 2} - {slots[0].gpu for slots in here.values()}
    spare = (Slot(here["a"][0].node, free, 1024),)
    plan = MigrationPlan((Move("a", here["a"], spare), Move("b", here["b"], spare)), 2, 1)
    before = state.to_dict()
    with pytest.raises(StateError, match="'b' no longer fits"):
        state.apply(plan)
    assert state.to_dict() == before
    lost = MigrationPlan((Move("a", here["a"], ()),), 2, 1)
    with pytest.raises(StateError, match="never started again"):
        state.apply(lost)
    assert state.to_dict() == before
