"""Replanning: every step of a plan is feasible, the budget holds, and stale plans change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from dilu_core.cluster import Cluster, GpuType, Instance
from dilu_core.errors import InvalidArgumentError, StateError
from dilu_core.placement import Placement, PlacementProblem, Slot, verify_placement
from dilu_core.solvers.placement.migration_plan import MigrationPlan, Move
from dilu_core.solvers.placement.online import ClusterState

CLUSTER = Cluster.homogeneous(2, 4, GpuType("A100", 40960))


def scattered() -> ClusterState:
    """Four GPUs, each left with one small instance after its large neighbour has gone."""
    state = ClusterState(CLUSTER)
    for i in range(4):
        state.place(Instance(f"big-{i}", "inference", 800, 900, 1024))
        state.place(Instance(f"small-{i}", "inference", 200, 300, 1024))
    for i in range(4):
        state.remove(f"big-{i}")
    return state


def test_scattered_instances_are_drained_onto_one_gpu() -> None:
    """Four small instances on four GPUs need one: three moves free three."""
    state = scattered()
    plan = state.replan(max_migrations=10)
    assert (plan.gpus_before, plan.gpus_after, plan.gpus_freed, len(plan.moves)) == (4, 1, 3, 3)
    state.apply(plan)
    assert state.gpus_used == 1


@pytest.mark.parametrize(("most", "freed"), [(0, 0), (1, 1), (2, 2)])
def test_the_budget_of_migrations_holds(most: int, freed: int) -> None:
    """With k migrations at most k instances move, and here as many GPUs are freed."""
    plan = scattered().replan(max_migrations=most)
    assert len(plan.moves) <= most
    assert plan.gpus_freed == freed


@given(st.data())
def test_every_step_of_a_plan_is_feasible(crowds: Any, data: st.DataObject) -> None:
    """Carried out one by one, the moves keep the placement valid, start where the plan says, and end at its count."""
    problem = data.draw(crowds)
    state = ClusterState(problem.cluster, oversubscription=problem.oversubscription)
    for instance in problem.instances:
        state.place(instance)
    for name in state.placement().names:
        if data.draw(st.booleans()):
            state.remove(name)
    before = state.to_dict()
    most = data.draw(st.integers(0, 4))
    plan = state.replan(max_migrations=most, time_limit_s=5)
    assert state.to_dict() == before
    assert len(plan.moves) <= most
    slots = dict(state.placement())
    for move in plan.moves:
        assert slots[move.name] == move.source
        slots[move.name] = move.target
        assert verify_placement(problem, Placement(slots)) == ()
    assert Placement(slots).gpus_used == plan.gpus_after <= plan.gpus_before
    state.apply(plan)
    assert state.placement() == Placement(slots)


def test_stale_plans_change_nothing() -> None:
    """A plan made before the state changed is refused as a whole, with what changed."""
    fresh = scattered().replan(max_migrations=10)
    first, *_, last = fresh.moves

    gone = scattered()
    gone.remove(last.name)
    full = scattered()
    for i in range(4):
        full.place(Instance(f"new-{i}", "inference", 700, 900, 1024))
    moved = scattered()
    moved.apply(MigrationPlan((last,), 4, 3))
    for state, words in ((gone, "not placed any more"), (full, "no longer fits"), (moved, "moved meanwhile")):
        before = state.to_dict()
        with pytest.raises(StateError, match=words):
            state.apply(fresh)
        assert state.to_dict() == before
    nowhere = Move(first.name, first.source, (Slot("gone", 0, 1024),))
    with pytest.raises(StateError, match="not in the cluster"):
        scattered().apply(MigrationPlan((nowhere,), 4, 4))


def test_instances_that_refuse_each_other_are_not_joined() -> None:
    """Copies that must spread stay apart although their GPUs are nearly empty."""
    state = ClusterState(CLUSTER)
    for i in range(3):
        state.place(Instance(f"i{i}", "inference", 100, 100, 1, function="f", anti_affinity=("f",)))
    assert state.replan(max_migrations=3).moves == ()


@pytest.mark.parametrize(("arguments", "argument"), [({"max_migrations": -1}, "max_migrations"),
    ({"max_migrations": 1, "time_limit_s": -1.0}, "time_limit_s")])  # fmt: skip
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], argument: str) -> None:
    """Each argument out of range raises an error that names it, as does a plan that is none."""
    with pytest.raises(InvalidArgumentError) as caught:
        scattered().replan(**arguments)
    assert caught.value.argument == argument
    with pytest.raises(InvalidArgumentError, match="plan"):
        scattered().apply([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: MigrationPlan((1,), 1, 1), "moves[0]"),  # type: ignore[arg-type]
        (lambda: MigrationPlan((), -1, 1), "gpus_before"),
        (lambda: MigrationPlan((), 1, 0.5), "gpus_after"),  # type: ignore[arg-type]
        (lambda: Move("", (), ()), "name"),
        (lambda: Move("a", (("n", 0, 1),), ()), "source[0]"),  # type: ignore[arg-type]
        (lambda: Move("a", (), None), "target"),  # type: ignore[arg-type]
    ],
)
def test_bad_plans_are_refused_by_name(make: Callable[[], object], argument: str) -> None:
    """A plan is made of moves and a move of slots; anything else is named where the plan is made."""
    with pytest.raises(InvalidArgumentError) as caught:
        make()
    assert caught.value.argument == argument


def test_plans_are_json_able() -> None:
    """A plan written as JSON says who moves from where to where, at which cost, and is read back as it was."""
    plan = scattered().replan(max_migrations=1)
    data = json.loads(json.dumps(plan.to_dict()))
    (move,) = plan.moves
    assert data == {
        "version": 2,
        "moves": [
            {
                "name": move.name,
                "source": [[slot.node, slot.gpu, slot.memory_mib] for slot in move.source],
                "target": [[slot.node, slot.gpu, slot.memory_mib] for slot in move.target],
                "cost_gpu_s": 0.0,
                "gpu_hours_saved": 1.0,
            }
        ],
        "admissions": [],
        "gpus_before": 4,
        "gpus_after": 3,
        "termination": plan.termination.to_dict(),
    }
    again = MigrationPlan.from_dict(data)
    assert again == plan
    assert again.termination == plan.termination


def test_no_time_gives_an_empty_plan() -> None:
    """Without time there are no moves."""
    assert scattered().replan(max_migrations=5, time_limit_s=0) == MigrationPlan((), 4, 4)
    assert PlacementProblem(CLUSTER, ()).instances == ()


def test_an_interrupt_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """CP-SAT leaves Ctrl-C to Python, so that a host can stop a replan instead of getting half a plan."""
    leaves_it: list[bool] = []
    solve = cp_model.CpSolver.solve

    def watched(solver: cp_model.CpSolver, model: cp_model.CpModel) -> cp_model.CpSolverStatus:
        leaves_it.append(not solver.parameters.catch_sigint_signal)
        return solve(solver, model)

    monkeypatch.setattr(cp_model.CpSolver, "solve", watched)
    scattered().replan(max_migrations=3)
    assert leaves_it
    assert all(leaves_it)
