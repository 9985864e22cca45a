"""What `replan` and `make_room` take and tell: names, costs, and what cut the search short."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dilu_core.cluster import Cluster, Configuration, GpuType, Instance, Node
from dilu_core.errors import InvalidArgumentError
from dilu_core.placement import Placement, Slot
from dilu_core.result import Limit
from dilu_core.solvers.placement import admission
from dilu_core.solvers.placement.migration_plan import MigrationPlan
from dilu_core.solvers.placement.move_cost import MoveCost
from dilu_core.solvers.placement.movers import movable, movers
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.pricing import Prices
from dilu_core.solvers.placement.replan import start_draft
from dilu_core.solvers.placement.room import Room

LARGE = GpuType("large", 2000)


def one(name: str, request: int = 100, memory: int = 1, **more: Any) -> Instance:
    """An instance of one GPU whose limit is its request."""
    return Instance(name, "inference", request, request, memory, **more)


def state_of(cluster: Cluster, running: dict[str, Slot], instances: list[Instance]) -> ClusterState:
    """The state in which these run."""
    data = ClusterState(cluster).to_dict()
    data["instances"] = [each.to_dict() for each in instances]
    data["placement"] = Placement({name: (slot,) for name, slot in running.items()}).to_dict()
    return ClusterState.from_dict(data)


def two() -> ClusterState:
    """An instance on either of two GPUs, and a reservation."""
    cluster = Cluster((Node("n0", LARGE, 1, 10, 10), Node("n1", LARGE, 1, 10, 10)))
    state = state_of(cluster, {"a": Slot("n0", 0, 1), "b": Slot("n1", 0, 1)}, [one("a"), one("b")])
    state.reserve_host("host", cpu_milli=1, memory_mib=1, node="n0")
    return state


def halves(gpus: int) -> ClusterState:
    """GPUs, four to a node, in use by half: too little for a newcomer that one move lets in."""
    cluster = Cluster.homogeneous(gpus // 4, 4, LARGE)
    running = {f"i{n}-{g}": Slot(node.name, g, 1) for n, node in enumerate(cluster.nodes) for g in range(4)}
    return state_of(cluster, running, [one(name, 500) for name in running])


@pytest.mark.parametrize(
    ("ask", "argument"),
    [
        (lambda state, wrong: state.replan(max_migrations=1, exempt=wrong), "exempt"),
        (lambda state, wrong: state.make_room(one("new"), max_migrations=1, exempt=wrong), "exempt"),
        (lambda state, wrong: state.replan(max_migrations=1, movable_reservations=wrong), "movable_reservations"),
    ],
)
def test_what_does_not_name_those_here_is_refused(ask: Callable[..., object], argument: str) -> None:
    """No list of names, or a name that nobody here has, is an error that says so, and not a name ignored."""
    for wrong in (None, 5, float("nan"), np.array(3), "a"):
        with pytest.raises(InvalidArgumentError) as caught:
            ask(two(), wrong)
        assert caught.value.argument == argument
    for wrong in (["nobody"], ("a", "host", "nobody")):
        with pytest.raises(InvalidArgumentError, match=r"which is not placed here") as caught:
            ask(two(), wrong)
        assert caught.value.argument.startswith(argument)


def test_may_pause_is_checked_without_pending_instances() -> None:
    """A string is no answer to whether moves may pause, also where it does not matter."""
    with pytest.raises(InvalidArgumentError) as caught:
        two().replan(max_migrations=1, may_pause="yes")  # type: ignore[arg-type]
    assert caught.value.argument == "may_pause"
    assert two().replan(max_migrations=1, exempt={"a"}, movable_reservations=["host"]).gpus_freed == 1


def test_a_move_costs_what_the_configuration_that_runs_takes() -> None:
    """The instance runs in its alternative, whose 1000 MiB take 1000 s to copy at a tenth of a GPU."""
    running = one("run", memory=10, alternatives=(Configuration(100, 100, 1000),))
    at = {"run": Slot("n0", 0, 1000, 1), "o": Slot("n1", 0, 1)}
    state = state_of(Cluster((Node("n0", LARGE, 1), Node("n1", LARGE, 1))), at, [running, one("o")])
    cost = MoveCost(bandwidth_mib_s=1.0)
    assert state.replan(max_migrations=1, cost=cost, exempt=["o"]).cost_gpu_s == pytest.approx(100.0)
    assert (cost.seconds(running), cost.seconds(running, 1000)) == (10.0, 1000.0)


def test_room_is_made_by_the_fewest_moves_even_where_two_cost_less() -> None:
    """Moving the heavy one lets the newcomer in at once; the two light ones would copy a hundredth of its memory."""
    at = {"heavy": Slot("n0", 0, 1000), "x": Slot("n1", 0, 1), "y": Slot("n1", 0, 1), "full": Slot("n2", 0, 1)}
    instances = [one("heavy", 200, 1000), one("x", 100, 1), one("y", 100, 1), one("full", 800, 1)]
    cluster = Cluster(tuple(Node(f"n{i}", LARGE, 1) for i in range(3)))
    state = state_of(cluster, at, instances)
    cost = MoveCost(bandwidth_mib_s=1.0)
    plan = state.make_room(one("new", 1000), max_migrations=3, time_limit_s=30, cost=cost, exempt=["full"])
    assert [move.name for move in plan.moves] == ["heavy"]


def slow(draft: Any, instance: Instance, deadline: float) -> Room:
    """A search for room that finds nothing in its time."""
    while time.perf_counter() < deadline:
        time.sleep(0.001)
    return Room([], None, False)


def test_an_admission_that_time_cut_off_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no room was found before time was up, time is what limited the plan, also with one or two of a demand."""
    monkeypatch.setattr(admission, "make_room", slow)
    for count in (1, 2):
        pending = [one(f"new{k}", 600) for k in range(count)]
        plan = halves(20).replan(max_migrations=3, time_limit_s=0.02, pending=pending)
        assert (plan.admissions, plan.termination.limit) == ((), Limit.TIME)


def test_what_a_first_try_was_too_short_for_gets_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first search is cut by its own limit; the second has all the time, finds room, and nothing was cut."""
    given: list[float] = []
    search = admission.make_room

    def cut_at_first(draft: Any, instance: Instance, deadline: float) -> Room:
        given.append(deadline)
        return slow(draft, instance, deadline) if len(given) == 1 else search(draft, instance, deadline)

    monkeypatch.setattr(admission, "_ROOM_S", 0.001)
    monkeypatch.setattr(admission, "make_room", cut_at_first)
    plan = halves(20).replan(max_migrations=3, time_limit_s=60, pending=[one("new", 600)])
    assert given[1] > given[0] + 1
    assert (plan.admitted, plan.termination.limit) == (("new",), None)


def test_a_single_newcomer_is_made_room_for_before_any_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cluster large enough for an exchange, one move for one newcomer is found without it."""

    def unwanted(*_: Any, **__: Any) -> None:
        raise AssertionError("exchanged")

    monkeypatch.setattr(admission, "exchange", unwanted)
    plan: MigrationPlan = halves(200).replan(max_migrations=3, time_limit_s=60, pending=[one("new", 600)])
    assert (plan.migrations, plan.admitted, plan.termination.limit) == (1, ("new",), None)


def test_who_may_move_is_gathered_within_the_time() -> None:
    """Past the deadline nobody is looked at any more."""
    state = halves(20)
    draft = start_draft(state._bookings, max_migrations=3)
    rows = list(range(20))
    everybody = movable(draft, rows)
    for now in (False, True):
        assert movers(draft, everybody, rows, Prices.of(draft), 0.0, now=now) == []
        found = movers(draft, everybody, rows, Prices.of(draft), float("inf"), now=now)
        assert [mover.held for mover in found] == list(everybody.values())
