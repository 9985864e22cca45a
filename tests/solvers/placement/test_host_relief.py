"""Moving reservations of CPU and host memory so that pending instances reach free GPUs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance, Node
from dilu_core.errors import InvalidArgumentError, StateError
from dilu_core.solvers.placement.migration_plan import HostMove, MigrationPlan
from dilu_core.solvers.placement.online import ClusterState, HostReservation

A100, H100 = GpuType("A100", 40960), GpuType("H100", 81920)
WANTING = tuple(Instance(f"w{i}", "inference", 1000, 1000, 1024, cpu_milli=4000, gpu_types=("A100",)) for i in range(3))


def crowded() -> ClusterState:
    """Two GPUs free on a host that reservations fill, and a busy node whose host is idle."""
    state = ClusterState(Cluster((Node("free", A100, 2, 16000, 65536), Node("busy", H100, 2, 16000, 65536))))
    for i in range(2):
        assert state.place(Instance(f"runs{i}", "training", 1000, 1000, 1024, gpu_types=("H100",))).placed
    for name, cpu in (("small", 3000), ("large", 10000), ("medium", 3000)):
        assert state.reserve_host(name, cpu_milli=cpu, memory_mib=1024, node="free").placed
    return state


def host_left(state: ClusterState, at: dict[str, str]) -> dict[str, list[int]]:
    """CPU and memory that each host has left with reservations `at` these nodes, from public values alone."""
    left = {node.name: [node.cpu_milli or 0, node.memory_mib or 0] for node in state.cluster.nodes}
    for each in state.host_reservations:
        left[at[each.name]][0] -= each.cpu_milli
        left[at[each.name]][1] -= each.memory_mib
    placement = state.placement()
    for instance in state.instances:
        left[placement[instance.name][0].node][0] -= instance.cpu_milli
        left[placement[instance.name][0].node][1] -= instance.host_memory_mib
    return left


def test_one_reservation_moves_and_two_instances_come_in() -> None:
    """The largest alone lets both in; without leave to move any, nobody comes."""
    state = crowded()
    assert not state.replan(max_migrations=5, pending=WANTING).admissions
    plan = state.replan(max_migrations=5, pending=WANTING, movable_reservations=("small", "medium", "large"))
    assert plan.host_moves == (HostMove("large", "free", "busy"),)
    assert (plan.migrations, len(plan.admissions), plan.moves) == (1, 2, ())
    assert MigrationPlan.from_dict(plan.to_dict()) == plan
    state.apply(plan)
    assert {each.name: each.node for each in state.host_reservations}["large"] == "busy"
    assert all(name in state for name in plan.admitted)
    assert min(min(pair) for pair in host_left(state, {r.name: r.node for r in state.host_reservations}).values()) >= 0


def test_only_what_may_move_moves() -> None:
    """Named or told; the budget of migrations counts reservations; no migration, no admission."""
    state = crowded()
    told = state.replan(max_migrations=5, pending=WANTING, movable_reservations=lambda each: each.cpu_milli < 5000)
    assert {each.name for each in told.host_moves} == {"small", "medium"}
    assert len(told.admissions) == 1
    assert not state.replan(max_migrations=1, pending=WANTING, movable_reservations=("small",)).host_moves
    assert not state.replan(max_migrations=0, pending=WANTING, movable_reservations=("large",)).host_moves
    with pytest.raises(InvalidArgumentError, match="movable_reservations"):
        state.replan(max_migrations=1, pending=WANTING, movable_reservations="large")


def fill_target(state: ClusterState, move: HostMove) -> None:
    """Something else takes the target's CPU."""
    assert state.reserve_host("new", cpu_milli=14000, memory_mib=1, node=move.target).placed


def take_away(state: ClusterState, move: HostMove) -> None:
    """The reservation ends."""
    state.remove(move.name)


def elsewhere(state: ClusterState, move: HostMove) -> None:
    """Somebody else has moved it."""
    held = state.remove(move.name)
    assert isinstance(held, HostReservation)
    state.reserve_host(move.name, cpu_milli=held.cpu_milli, memory_mib=held.memory_mib, node=move.target)


@pytest.mark.parametrize("change", [fill_target, take_away, elsewhere])
def test_a_plan_that_no_longer_fits_changes_nothing(change: Callable[[ClusterState, HostMove], None]) -> None:
    """A stale plan is a StateError, and the state is as it was."""
    state = crowded()
    plan = state.replan(max_migrations=5, pending=WANTING, movable_reservations=("large",))
    change(state, plan.host_moves[0])
    before = state.to_dict()
    with pytest.raises(StateError, match=plan.host_moves[0].name):
        state.apply(plan)
    assert state.to_dict() == before


def test_a_host_move_goes_somewhere() -> None:
    """From a node to the same node is no move."""
    with pytest.raises(InvalidArgumentError, match="target"):
        HostMove("a", "n", "n")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_step_leaves_room_on_every_host(data: st.DataObject) -> None:
    """Both copies of a reservation on its way fit, none that must not moves, and room for all admitted is there."""
    nodes = data.draw(st.integers(1, 5))
    state = ClusterState(Cluster(tuple(Node(f"n{i}", A100, 2, 16000, 32768) for i in range(nodes))))
    pending = []
    for i in range(data.draw(st.integers(0, 8))):
        cpu, share = data.draw(st.integers(0, 9000)), data.draw(st.sampled_from((200, 500, 1000)))
        instance = Instance(f"i{i}", "inference", share, share, 1024, cpu_milli=cpu, host_memory_mib=2048)
        if data.draw(st.booleans()) or not state.place(instance).placed:
            pending.append(instance)
    for i in range(data.draw(st.integers(0, 8))):
        amounts = data.draw(st.integers(0, 9000)), data.draw(st.integers(0, 9000))
        state.reserve_host(f"r{i}", cpu_milli=amounts[0], memory_mib=amounts[1])
    movable = {each.name for each in state.host_reservations if data.draw(st.booleans())}
    most = data.draw(st.integers(0, 4))
    for moving in (movable, set[str]()):
        plan = state.replan(max_migrations=most, pending=pending, time_limit_s=5.0, movable_reservations=moving)
        assert plan.migrations <= most
        assert {each.name for each in plan.host_moves} <= moving
        at = {each.name: each.node for each in state.host_reservations}
        size = {each.name: (each.cpu_milli, each.memory_mib) for each in state.host_reservations}
        for move in plan.host_moves:
            left = host_left(state, at)[move.target]
            assert at[move.name] == move.source
            assert all(room >= amount for room, amount in zip(left, size[move.name], strict=True))
            at[move.name] = move.target
        after = ClusterState.from_dict(state.to_dict())
        after.apply(plan)
        where = {each.name: each.node for each in after.host_reservations}
        assert where == at
        assert all(min(pair) >= 0 for pair in host_left(after, where).values())
        assert len(after) == len(state) + len(plan.admissions)
