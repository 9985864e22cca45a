"""Plans for small clusters against every sequence of moves there is, tried one by one by code of this file alone.

The walk takes instances on one GPU with one configuration; a move needs room on its target while its source is held.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dilu_core.cluster import Cluster, GpuType, Instance, Node
from dilu_core.placement import Placement
from dilu_core.result import TerminationReason
from dilu_core.slots import Slot
from dilu_core.solvers.placement.online import ClusterState

SMALL = GpuType("small", 8)
MOST = 3

State = tuple[int, ...]
"""The GPU of each instance."""


class Walk:
    """Every state that at most `MOST` moves reach, with the fewest it takes."""

    def __init__(self, cluster: Cluster, instances: list[Instance], start: State, exempt: frozenset[str]) -> None:
        self.instances, self.exempt = instances, exempt
        self.gpus = sum(node.gpus for node in cluster.nodes)
        self.reached: dict[State, int] = {start: 0}
        edge = [start]
        for moves in range(1, MOST + 1):
            found = [after for state in edge for after in self.moves(state)]
            edge = [after for after in dict.fromkeys(found) if after not in self.reached]
            self.reached.update(dict.fromkeys(edge, moves))

    def fits(self, state: State, instance: Instance, gpu: int) -> bool:
        """Whether a GPU has room beside what is on it."""
        here = [each for each, at in zip(self.instances, state, strict=True) if at == gpu]
        return (
            sum(each.request_milli for each in here) + instance.request_milli <= 1000
            and sum(each.limit_milli for each in here) + instance.limit_milli <= 1500
            and sum(each.total_memory_mib for each in here) + instance.total_memory_mib <= SMALL.memory_mib
            and not any(
                each.function in instance.anti_affinity or instance.function in each.anti_affinity for each in here
            )
        )

    def moves(self, state: State) -> Iterator[State]:
        """The states that one move leads to."""
        for i, instance in enumerate(self.instances):
            for gpu in range(self.gpus):
                if instance.name not in self.exempt and gpu != state[i] and self.fits(state, instance, gpu):
                    yield (*state[:i], gpu, *state[i + 1 :])

    def least_gpus(self) -> tuple[int, int]:
        """(fewest GPUs in use, fewest moves to get there)."""
        return min((len(set(state)), moves) for state, moves in self.reached.items())

    def least_moves(self, newcomer: Instance) -> int | None:
        """The fewest moves after which there is room for one more, or `None`."""
        able = [
            moves
            for state, moves in self.reached.items()
            if any(self.fits(state, newcomer, gpu) for gpu in range(self.gpus))
        ]
        return min(able, default=None)

    def greatest_share(self, pending: list[Instance]) -> int:
        """The greatest request of `pending` that some state has room for."""
        return max(self._share(state, tuple(pending)) for state in self.reached)

    def _share(self, state: State, pending: tuple[Instance, ...]) -> int:
        if not pending:
            return 0
        first, rest = pending[0], pending[1:]
        best = self._share(state, rest)
        for gpu in range(self.gpus):
            if self.fits(state, first, gpu):
                beside = Walk.__new__(Walk)
                beside.instances, beside.gpus = [*self.instances, first], self.gpus
                best = max(best, first.request_milli + beside._share((*state, gpu), rest))
        return best


def instance(draw: random.Random, name: str, *, least_milli: int = 200) -> Instance:
    """An instance of one GPU, with or without a function that refuses another."""
    request = draw.choice([share for share in (200, 300, 400, 500, 700, 900) if share >= least_milli])
    refused = ("f",) if draw.random() < 0.15 else ()
    return Instance(
        name, "inference", request, draw.choice((request, min(1000, request + 300))), draw.choice((1, 2, 3, 5)),
        function=draw.choice(("f", "g")), anti_affinity=refused,
    )  # fmt: skip


def small_case(seed: int) -> tuple[ClusterState, Walk, frozenset[str], random.Random]:
    """Up to six instances thrown onto three or four GPUs of two nodes."""
    draw = random.Random(seed)
    cluster = Cluster((Node("n0", SMALL, 2), Node("n1", SMALL, draw.choice((1, 2)))))
    gpus = [(node.name, g) for node in cluster.nodes for g in range(node.gpus)]
    held, at = list[Instance](), list[int]()
    empty = Walk.__new__(Walk)
    empty.gpus, empty.instances = len(gpus), held
    for k in range(draw.randint(2, 6)):
        each = instance(draw, f"i{k}")
        able = [gpu for gpu in range(len(gpus)) if empty.fits(tuple(at), each, gpu)]
        if able:
            at.append(draw.choice(able))
            held.append(each)
    exempt = frozenset(each.name for each in held if draw.random() < 0.2)
    data = ClusterState(cluster).to_dict()
    data["instances"] = [each.to_dict() for each in held]
    slots = {each.name: (Slot(*gpus[gpu], each.total_memory_mib),) for each, gpu in zip(held, at, strict=True)}
    data["placement"] = Placement(slots).to_dict()
    return ClusterState.from_dict(data), Walk(cluster, held, tuple(at), exempt), exempt, draw


@pytest.mark.parametrize("seed", range(40))
def test_a_small_cluster_is_drained_as_far_as_any_sequence_of_moves_can(seed: int) -> None:
    """The fewest GPUs that `MOST` moves can reach, and by the fewest moves that reach them."""
    state, walk, exempt, _ = small_case(seed)
    plan = state.replan(max_migrations=MOST, time_limit_s=60, exempt=exempt)
    assert (plan.gpus_after, plan.migrations) == walk.least_gpus()


@pytest.mark.parametrize("seed", range(150))
def test_the_moves_that_let_an_instance_in_are_necessary_and_sufficient(seed: int) -> None:
    """As few as any sequence that makes room, so none of them can be left out; none where no sequence does."""
    state, walk, exempt, draw = small_case(seed)
    newcomer = instance(draw, "new", least_milli=500)
    fewest = walk.least_moves(newcomer)
    plan = state.make_room(newcomer, max_migrations=MOST, time_limit_s=60, exempt=exempt)
    if fewest is None:
        assert (plan.moves, plan.admissions) == ((), ())
        assert plan.termination.reason is TerminationReason.INFEASIBLE
        return
    assert plan.termination.reason is TerminationReason.OPTIMAL
    assert plan.migrations == fewest
    assert plan.admitted == ("new",)
    state.apply(plan)
    assert "new" in state.placement()


@pytest.mark.parametrize("seed", range(60))
def test_a_small_cluster_lets_in_the_greatest_share_of_those_that_wait(seed: int) -> None:
    """As much as any state within `MOST` moves has room for."""
    state, walk, exempt, draw = small_case(seed)
    pending = [instance(draw, f"new{k}", least_milli=400) for k in range(3)]
    plan = state.replan(max_migrations=MOST, time_limit_s=60, pending=pending, exempt=exempt)
    assert sum(each.instance.request_milli for each in plan.admissions) == walk.greatest_share(pending)


def test_a_large_cluster_finds_the_one_move_that_lets_an_instance_in() -> None:
    """Sixty full GPUs but for two holes: a gang of two needs both on one node, which one move gives."""
    state = ClusterState(Cluster.homogeneous(30, 2, SMALL))
    for i in range(60):
        state.place(Instance(f"i{i}", "inference", 1000, 1000, 8))
    apart = [slots[0] for _, slots in sorted(state.placement().items())]
    first = next(name for name, slots in state.placement().items() if slots[0].node == apart[0].node)
    second = next(name for name, slots in state.placement().items() if slots[0].node != apart[0].node)
    state.remove(first)
    state.remove(second)
    gang = Instance("gang", "training", 1000, 1000, 8, gpus=2)
    assert not state.make_room(gang, max_migrations=0).admissions
    plan = state.make_room(gang, max_migrations=3, time_limit_s=60)
    assert (plan.migrations, plan.admitted) == (1, ("gang",))
    state.apply(plan)
    assert len(state.placement()["gang"]) == 2
