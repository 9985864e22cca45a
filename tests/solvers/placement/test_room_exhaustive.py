"""Room made on small clusters with every rule, against all sequences of two moves, tried by code of this file alone.

An instance may move to any GPUs, in any configuration and divided in any way. While it does it holds the greater of
both amounts on a GPU in both places (the sum of two partitions), and both on the hosts.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, Configuration, GpuType, Instance, Node
from dilu_core.mig import MigSlice
from dilu_core.placement import Placement, PlacementProblem, Slot, verify_placement
from dilu_core.result import TerminationReason
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.small_problems import small_problem

Ints = NDArray[np.int64]
Slots = tuple[Slot, ...]
FORTY = GpuType("A", 40)
MOST = 2
HARD = (213, 338, 527, 975, 1175, 1197, 1290, 1298)  # all ways are needed to tell


def one(name: str, request: int, memory: int | tuple[int, ...], **more: object) -> Instance:
    """An instance whose limit is its request."""
    return Instance(name, "inference", request, request, memory, **more)  # type: ignore[arg-type]


def state_of(problem: PlacementProblem, running: dict[str, Slots]) -> ClusterState:
    """The state in which these instances run."""
    data = ClusterState(problem.cluster, oversubscription=problem.oversubscription).to_dict()
    data["instances"] = [each.to_dict() for each in problem.instances if each.name in running]
    data["placement"] = Placement(running).to_dict()
    return ClusterState.from_dict(data)


def divided(memory: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to divide `memory` into that many parts of at least 1."""
    for cuts in itertools.combinations(range(1, memory), parts - 1):
        yield tuple(b - a for a, b in itertools.pairwise((0, *cuts, memory)))


def all_slots(cluster: Cluster, instance: Instance) -> Iterator[Slots]:
    """Every list of slots that might be a place of `instance`."""
    for node, (c, configuration) in itertools.product(cluster.nodes, enumerate(instance.configurations)):
        memory = configuration.memory_per_gpu_mib(instance.gpus)
        sizes = set(itertools.permutations(memory))
        if instance.splittable:
            sizes.update(each for parts in range(2, node.gpus + 1) for each in divided(memory[0], parts))
        geometry = node.gpu_type.mig
        slices: list[MigSlice | None] = [None]
        if geometry is not None:
            slices = [MigSlice(profile.name, start) for profile in geometry.profiles for start in profile.starts]
        for each, mig in itertools.product(sizes, slices):
            for gpus in itertools.combinations(range(node.gpus), len(each)):
                yield tuple(Slot(node.name, gpu, mib, c, mig) for gpu, mib in zip(gpus, each, strict=True))


class Places:
    """The legal places of an instance, as rows of what each takes of every GPU, host and slice of a GPU."""

    def __init__(self, problem: PlacementProblem, instance: Instance) -> None:
        alone = replace(problem, instances=(instance,), current=None)
        legal = [
            each for each in all_slots(problem.cluster, instance) if not verify_placement(alone, {instance.name: each})
        ]
        nodes = {node.name: number for number, node in enumerate(problem.cluster.nodes)}
        gpus = [(node.name, gpu) for node in problem.cluster.nodes for gpu in range(node.gpus)]
        self.slots = [tuple(sorted(each, key=lambda slot: slot.gpu)) for each in legal]
        self.on = np.zeros((len(legal), len(gpus)), np.bool_)
        self.gpu = np.zeros((len(legal), len(gpus), 3), np.int64)
        self.rest = np.zeros((len(legal), 2 * len(nodes) + 4 * len(gpus)), np.int64)
        self.partitioned = np.array([each[0].mig is not None for each in legal], np.bool_)
        for i, each in enumerate(legal):
            number = nodes[each[0].node]
            geometry = problem.cluster.nodes[number].gpu_type.mig
            configuration = instance.configurations[each[0].configuration]
            limit = configuration.limit_milli if len(each) == instance.gpus else configuration.request_milli
            self.rest[i, 2 * number : 2 * number + 2] = instance.cpu_milli, instance.host_memory_mib
            for slot in each:
                row = gpus.index((slot.node, slot.gpu))
                if slot.mig is not None and geometry is not None:
                    profile = next(known for known in geometry.profiles if known.name == slot.mig.profile)
                    limit = min(limit, profile.share_milli)
                    first = 2 * len(nodes) + 4 * row + slot.mig.start
                    self.rest[i, first : first + profile.slices] = 1
                self.on[i, row] = True
                self.gpu[i, row] = configuration.request_milli, limit, slot.memory_mib


class Walk:
    """All states that few moves lead to."""

    def __init__(self, problem: PlacementProblem, running: dict[str, Slots], newcomer: Instance) -> None:
        self.instances = [each for each in problem.instances if each.name in running]
        self.places = [Places(problem, each) for each in self.instances]
        self.new, self.newcomer = Places(problem, newcomer), newcomer
        self.start = tuple(
            places.slots.index(tuple(sorted(running[each.name], key=lambda slot: slot.gpu)))
            for each, places in zip(self.instances, self.places, strict=True)
        )
        caps, cluster = problem.oversubscription, problem.cluster
        room = [
            [caps.request_milli, caps.limit_milli, node.gpu_type.memory_mib]
            for node in cluster.nodes
            for _ in range(node.gpus)
        ]
        host = [10**9 if most is None else most for node in cluster.nodes for most in (node.cpu_milli, node.memory_mib)]
        self.gpu_room, self.rest_room = np.array(room), np.array(host + [1] * 4 * len(room))

    def fewest(self) -> int | None:
        """The fewest moves after which there is room for the newcomer; `None`: more than `MOST`."""
        edge, seen = {self.start}, {self.start}
        for moves in range(MOST + 1):
            if any(self.able(state, self.newcomer, self.new, None).any() for state in edge):
                return moves
            if moves < MOST:
                edge = {after for state in edge for after in self.moves(state)} - seen
                seen |= edge
        return None

    def moves(self, state: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """The states that one move leads to."""
        for i, (instance, places) in enumerate(zip(self.instances, self.places, strict=True)):
            for place in np.flatnonzero(self.able(state, instance, places, i)).tolist():
                yield (*state[:i], place, *state[i + 1 :])

    def able(self, state: tuple[int, ...], instance: Instance, places: Places, mover: int | None) -> NDArray[np.bool_]:
        """At which of its places an instance has room, while it holds the one it has in `state`, if any."""
        gpu, rest = places.gpu, places.rest
        if mover is not None:
            held = state[mover]
            both = places.partitioned | places.partitioned[held]
            gpu = np.where(both[:, None, None], gpu + gpu[held], np.maximum(gpu, gpu[held]))
            rest = rest + rest[held]
        free_gpu, free_rest = self.gpu_room.copy(), self.rest_room.copy()
        refused = np.zeros(len(free_gpu), np.bool_)
        for j, (other, theirs, at) in enumerate(zip(self.instances, self.places, state, strict=True)):
            if j != mover:
                free_gpu -= theirs.gpu[at]
                free_rest -= theirs.rest[at]
                if other.function in instance.anti_affinity or instance.function in other.anti_affinity:
                    refused |= theirs.on[at]
        roomy = (gpu <= free_gpu).all(axis=(1, 2)), (rest <= free_rest).all(axis=1)
        return np.logical_and.reduce([*roomy, ~(places.on & refused).any(axis=1)])


@pytest.mark.parametrize("seeds", [range(60), range(60, 120), HARD], ids=str)
def test_a_claim_about_room_is_what_all_sequences_of_moves_say(seeds: Sequence[int]) -> None:
    """Proven infeasible only where no two moves help, optimal only with the fewest moves; most answers are proofs."""
    said = Counter[TerminationReason]()
    for seed in seeds:
        problem = small_problem(seed, most_instances=7, most_gpus=4).problem
        running = dict(problem.current or {})
        for newcomer in [each for each in problem.instances if each.name not in running][:2]:
            fewest = Walk(problem, running, newcomer).fewest()
            plan = state_of(problem, running).make_room(newcomer, max_migrations=MOST, time_limit_s=60)
            said[plan.termination.reason] += 1
            assert plan.termination.reason is not TerminationReason.INFEASIBLE or fewest is None
            assert plan.termination.reason is not TerminationReason.OPTIMAL or plan.migrations == fewest
            assert not plan.admissions or (fewest is not None and plan.migrations >= fewest)
    assert said[TerminationReason.INFEASIBLE] + said[TerminationReason.OPTIMAL] >= 0.7 * said.total()


TWO_AND_ONE = Cluster((Node("n0", FORTY, 2), Node("n1", FORTY, 1)))
THREE = {"a": (Slot("n0", 0, 25),), "b": (Slot("n0", 1, 20),), "c": (Slot("n1", 0, 20),)}
FOURTHS = Cluster((Node("n0", FORTY, 4), Node("n1", FORTY, 1), Node("n2", GpuType("B", 200), 1)))
EIGHT = Cluster.homogeneous(1, 8, GpuType("B", 400))
PAIRS = {f"x{g}_{j}": (Slot("node-0", g, 10),) for g, n in ((0, 2), (1, 2), (2, 2), (3, 1), (7, 1)) for j in range(n)}


@pytest.mark.parametrize(
    ("cluster", "running", "instances", "newcomer", "mover"),
    [
        pytest.param(
            TWO_AND_ONE, THREE, [one("a", 100, 25), one("b", 100, 20), one("c", 100, 20)],
            one("new", 100, (30, 10), gpus=2), "b", id="a gang's greater memory on the GPU with less of it",
        ),
        pytest.param(
            TWO_AND_ONE, THREE, [one("a", 100, 25), one("b", 100, 20), one("c", 100, 20)],
            one("new", 100, 50, splittable=True), "b", id="a part smaller than its empty GPU would hold",
        ),
        pytest.param(
            EIGHT, PAIRS, [one(name, 500, 10) for name in PAIRS], one("new", 600, 10, gpus=4), None,
            id="one of seventy sets of GPUs",
        ),
        pytest.param(
            FOURTHS, {"b": (Slot("n0", 1, 20),), "big": (Slot("n2", 0, 150),)},
            [one("b", 100, 20), one("big", 1000, 150)], one("new", 100, 150, splittable=True), "b", id="four parts",
        ),
        pytest.param(
            Cluster.homogeneous(1, 1, FORTY), {"run": (Slot("node-0", 0, 10),)},
            [one("run", 800, 10, alternatives=(Configuration(400, 400, 10),))], one("new", 600, 10), "run",
            id="another configuration in place",
        ),
    ],
)  # fmt: skip
def test_one_move_is_found_where_it_does(
    cluster: Cluster, running: dict[str, Slots], instances: list[Instance], newcomer: Instance, mover: str | None
) -> None:
    """One move lets the newcomer in, and the plan can be carried out."""
    state = state_of(PlacementProblem(cluster, tuple(instances)), running)
    plan = state.make_room(newcomer, max_migrations=1, time_limit_s=30)
    assert (plan.termination.reason, plan.admitted, plan.migrations) == (TerminationReason.OPTIMAL, ("new",), 1)
    assert mover is None or plan.moves[0].name == mover
    state.apply(plan)
    assert "new" in state
    again = state_of(PlacementProblem(cluster, tuple(instances)), running)
    assert again.replan(max_migrations=1, pending=[newcomer], time_limit_s=30).admitted == ("new",)
