"""The best placement of a small problem by its definitions, trying every one: slow, and independent of the solvers.

Instances are placed one after another, and all that can follow is kept in layers: a layer maps every state of the
cluster that can be reached to the least cost of reaching it. Two ways to the same state have the same future, so only
the cheaper is followed. GPUs of a node and nodes of one shape that look alike are one state, whichever is which; where
an instance runs now tells GPUs apart until it has been placed. Nothing else is pruned. It shares no code with the
solvers, nor with `dilu_core.verification`: tests and benchmarks compare it with `place`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations
from typing import NamedTuple

from dilu_core.cluster import Instance, Node
from dilu_core.placement import PlacementProblem
from dilu_core.slots import Slot

Key = tuple[int, ...]


class _Gpu(NamedTuple):
    """What is booked on a GPU, and what of it still matters to those to come; functions are bits."""

    request: int = 0
    limit: int = 0
    memory: int = 0
    slices: int = 0
    functions: int = 0
    refused: int = 0
    hoping: tuple[int, ...] = ()  # instances here with affinities none of which is met so far
    running: tuple[tuple[int, int, int, str], ...] = ()  # who of those to come runs here: memory, configuration, mig


class _Node(NamedTuple):
    """The node's number among the distinct shapes, the CPU and host memory taken, and its GPUs, sorted."""

    shape: int
    cpu: int
    memory: int
    gpus: tuple[_Gpu, ...]


class _Slot(NamedTuple):
    """What an instance would book on a GPU of a node (by its place there)."""

    gpu: int
    request: int
    limit: int
    memory: int
    configuration: int
    mig: str = ""
    slices: int = 0


State = tuple[_Node, ...]


def exhaustive_placement(
    problem: PlacementProblem,
    *,
    order: Sequence[str] = ("gpus", "moves", "split_parts", "configurations", "affinities"),
    weights: Mapping[str, int] | None = None,
    max_migrations: int | None = None,
    most_states: int | None = None,
) -> Key | None:
    """The least (instances left out, then the terms in `order`, or their sum under `weights`) of all placements.

    Running instances are not left out, and at most `max_migrations` of them get other slots. `None` where a layer grows
    beyond `most_states`, that is where the problem is too large to try everything.
    """
    walk = _Walk(problem, tuple(order), weights, max_migrations)
    for left_out in range(len(walk.instances) + 1):
        layer: dict[tuple[State, int, int], Key] = {(walk.start(), 0, 0): walk.key({})}
        for i in range(len(walk.instances)):
            layer = walk.step(i, layer, left_out)
            if most_states is not None and len(layer) > most_states:
                return None
        ends = [walk.add(cost, walk.terms_of(state)) for (state, out, _), cost in layer.items() if out == left_out]
        if ends:
            return (left_out, *min(ends))
    raise AssertionError("what runs now can always stay, and all else be left out")


def cost_of(
    problem: PlacementProblem,
    placement: Mapping[str, tuple[Slot, ...]],
    *,
    order: Sequence[str] = ("gpus", "moves", "split_parts", "configurations", "affinities"),
    weights: Mapping[str, int] | None = None,
) -> Key:
    """What `exhaustive_placement` minimises, of one placement."""
    current: Mapping[str, tuple[Slot, ...]] = problem.current or {}
    here: dict[tuple[str, int], list[Instance]] = {}
    for each in problem.instances:
        for slot in placement.get(each.name, ()):
            here.setdefault((slot.node, slot.gpu), []).append(each)
    lonely = 0
    for each in problem.instances:
        beside = [other for slot in placement.get(each.name, ()) for other in here[slot.node, slot.gpu]]
        if each.affinity and not any(other is not each and other.function in each.affinity for other in beside):
            lonely += 1
    parts = [len(placement[e.name]) for e in problem.instances if e.gpus == 1 and len(placement.get(e.name, ())) > 1]
    terms = {
        "gpus": len(here),
        "nodes": len({node for node, _ in here}),
        "moves": sum(1 for name, slots in current.items() if set(slots) != set(placement.get(name, ()))),
        "splits": len(parts),
        "split_parts": sum(parts),
        "configurations": sum(slots[0].configuration for slots in placement.values()),
        "affinities": lonely,
    }
    unplaced = sum(1 for each in problem.instances if each.name not in placement)
    return (unplaced, *_Walk(problem, tuple(order), weights, None).key(terms))


@dataclass
class _Walk:
    """The instances in the order they are placed, and how costs add up."""

    problem: PlacementProblem
    order: tuple[str, ...]
    weights: Mapping[str, int] | None
    max_migrations: int | None

    def __post_init__(self) -> None:
        current: Mapping[str, tuple[Slot, ...]] = self.problem.current or {}
        # running ones first, so that their GPUs become alike soonest; then large ones, so that states stay few
        self.instances = sorted(
            self.problem.instances,
            key=lambda e: (e.name not in current, -e.gpus, -e.request_milli, -max(e.memory_per_gpu_mib), e.name),
        )
        self.current = current
        self.shapes = list(dict.fromkeys(_shape(node) for node in self.problem.cluster.nodes))
        functions = sorted({each.function for each in self.instances if each.function})
        self.bit = {function: 1 << i for i, function in enumerate(functions)}
        # functions that anyone still to come is, refuses, or would rather sit beside
        self.coming = [self._bits([e.function for e in self.instances[i + 1 :]]) for i in range(len(self.instances))]
        self.minded = [
            self._bits([f for e in self.instances[i + 1 :] for f in (*e.anti_affinity, *e.affinity)])
            for i in range(len(self.instances))
        ]

    def _bits(self, functions: Sequence[str]) -> int:
        return sum(self.bit[function] for function in set(functions) if function in self.bit)

    def key(self, terms: Mapping[str, int]) -> Key:
        """The cost of these terms, all others being 0."""
        if self.weights is None:
            return tuple(terms.get(name, 0) for name in self.order)
        return (sum(weight * terms.get(name, 0) for name, weight in self.weights.items()),)

    def add(self, cost: Key, terms: Mapping[str, int]) -> Key:
        """`cost` and the cost of these terms."""
        return tuple(a + b for a, b in zip(cost, self.key(terms), strict=True))

    def start(self) -> State:
        """The empty cluster, and who runs where now."""
        runs: dict[tuple[str, int], tuple[tuple[int, int, int, str], ...]] = {}
        for i, instance in enumerate(self.instances):
            for slot in self.current.get(instance.name, ()):
                mig = "" if slot.mig is None else f"{slot.mig.profile}@{slot.mig.start}"
                here = runs.get((slot.node, slot.gpu), ())
                runs[slot.node, slot.gpu] = (*here, (i, slot.memory_mib, slot.configuration, mig))
        nodes = [
            (self.shapes.index(_shape(node)), [_Gpu(running=runs.get((node.name, g), ())) for g in range(node.gpus)])
            for node in self.problem.cluster.nodes
        ]
        return tuple(sorted(_Node(shape, 0, 0, tuple(sorted(gpus))) for shape, gpus in nodes))

    def terms_of(self, state: State) -> dict[str, int]:
        """The terms that depend on the last state alone; hopes not met by now are counted when they fade."""
        used = [sum(1 for gpu in node.gpus if gpu.request) for node in state]
        return {"gpus": sum(used), "nodes": sum(1 for count in used if count)}

    def step(
        self, i: int, layer: Mapping[tuple[State, int, int], Key], most_out: int
    ) -> dict[tuple[State, int, int], Key]:
        """Every state after instance `i` has been placed or left out; a state goes with (left out, moved) so far."""
        instance, found = self.instances[i], dict[tuple[State, int, int], Key]()
        runs = instance.name in self.current

        def reach(state: State, out: int, moved: int, cost: Key) -> None:
            at = (state, out, moved if self.max_migrations is not None else 0)
            if at not in found or cost < found[at]:
                found[at] = cost

        for (state, out, moved), cost in layer.items():
            if out < most_out and not runs:
                left, faded = self._settle(i, state)
                reach(left, out + 1, moved, self.add(cost, {"affinities": bool(instance.affinity) + faded}))
            for n, node in enumerate(state):
                if n and node == state[n - 1]:
                    continue
                for slots in self._ways(instance, node):
                    moves = int(runs and not self._stays(i, node, slots))
                    if self.max_migrations is not None and moved + moves > self.max_migrations:
                        continue
                    after, faded = self._settle(i, self._booked(i, state, n, slots))
                    is_split = instance.gpus == 1 and len(slots) > 1
                    terms = {
                        "moves": moves,
                        "splits": int(is_split),
                        "split_parts": len(slots) if is_split else 0,
                        "configurations": slots[0].configuration,  # pyright: ignore[reportGeneralTypeIssues]
                        "affinities": faded,
                    }
                    reach(after, out, moved + moves, self.add(cost, terms))
        return found

    def _ways(self, instance: Instance, node: _Node) -> Iterator[tuple[_Slot, ...]]:
        """Every choice of slots for `instance` on `node` that keeps all rules."""
        shape = self.shapes[node.shape]
        if instance.gpu_types is not None and shape.gpu_type.name not in instance.gpu_types:
            return
        if shape.cpu_milli is not None and node.cpu + instance.cpu_milli > shape.cpu_milli:
            return
        if shape.memory_mib is not None and node.memory + instance.host_memory_mib > shape.memory_mib:
            return
        seen: set[tuple[tuple[_Gpu, _Slot], ...]] = set()
        for slots in self._shapes_of(instance, node, shape):
            alike = tuple(sorted((node.gpus[slot.gpu], slot._replace(gpu=0)) for slot in slots))
            if alike not in seen and all(self._fits(instance, shape, node.gpus[slot.gpu], slot) for slot in slots):
                seen.add(alike)
                yield slots

    def _shapes_of(self, instance: Instance, node: _Node, shape: Node) -> Iterator[tuple[_Slot, ...]]:
        geometry, count = shape.gpu_type.mig, len(node.gpus)
        own = (instance.request_milli, instance.limit_milli, instance.memory_mib)
        others = [(each.request_milli, each.limit_milli, each.memory_mib) for each in instance.alternatives]
        for c, (request, limit, memory) in enumerate([own, *others]):
            each = (memory,) * instance.gpus if isinstance(memory, int) else memory
            if geometry is not None:
                for profile in geometry.profiles if instance.gpus == 1 else ():
                    if profile.share_milli < request or profile.memory_mib < each[0]:
                        continue
                    for start in profile.starts:
                        bits = sum(1 << piece for piece in range(start, start + profile.slices))
                        name, booked = f"{profile.name}@{start}", min(limit, profile.share_milli)
                        for g in range(count):
                            yield (_Slot(g, request, booked, each[0], c, name, bits),)
                continue
            for chosen in combinations(range(count), instance.gpus):
                for sizes in set(permutations(each)):
                    yield tuple(_Slot(g, request, limit, mib, c) for g, mib in zip(chosen, sizes, strict=True))
            for parts in range(2, count + 1) if instance.splittable else ():
                for chosen in combinations(range(count), parts):
                    for sizes in _compositions(each[0], parts):
                        yield tuple(_Slot(g, request, request, mib, c) for g, mib in zip(chosen, sizes, strict=True))

    def _fits(self, instance: Instance, shape: Node, gpu: _Gpu, slot: _Slot) -> bool:
        caps = self.problem.oversubscription
        return (
            gpu.request + slot.request <= caps.request_milli
            and gpu.limit + slot.limit <= caps.limit_milli
            and gpu.memory + slot.memory <= shape.gpu_type.memory_mib
            and not gpu.slices & slot.slices
            and not gpu.functions & self._bits(instance.anti_affinity)
            and not gpu.refused & self._bits([instance.function])
        )

    def _stays(self, i: int, node: _Node, slots: Sequence[_Slot]) -> bool:
        """Whether these are the slots that instance `i` has now."""
        now = {
            (g, memory, configuration, mig)
            for g, gpu in enumerate(node.gpus)
            for who, memory, configuration, mig in gpu.running
            if who == i
        }
        return now == {(slot.gpu, slot.memory, slot.configuration, slot.mig) for slot in slots}

    def _booked(self, i: int, state: State, n: int, slots: Sequence[_Slot]) -> State:
        """The state with instance `i` on these slots; it hopes where no friend is there, and ends others' hopes."""
        instance, node = self.instances[i], state[n]
        mine, refuses = self._bits([instance.function]), self._bits(instance.anti_affinity)
        friends = self._bits(instance.affinity)
        hopes = bool(instance.affinity) and not any(node.gpus[slot.gpu].functions & friends for slot in slots)
        met: set[int] = set()
        for slot in slots:
            for who in node.gpus[slot.gpu].hoping:
                if mine & self._bits(self.instances[who].affinity):
                    met.add(who)
        gpus = list(node.gpus)
        for slot in slots:
            gpu = gpus[slot.gpu]
            gpus[slot.gpu] = gpu._replace(
                request=gpu.request + slot.request,
                limit=gpu.limit + slot.limit,
                memory=gpu.memory + slot.memory,
                slices=gpu.slices | slot.slices,
                functions=gpu.functions | mine,
                refused=gpu.refused | refuses,
                hoping=(*gpu.hoping, i) if hopes else gpu.hoping,
            )
        gpus = [gpu._replace(hoping=tuple(who for who in gpu.hoping if who not in met)) for gpu in gpus]
        booked = node._replace(
            cpu=node.cpu + instance.cpu_milli, memory=node.memory + instance.host_memory_mib, gpus=tuple(gpus)
        )
        return (*state[:n], booked, *state[n + 1 :])

    def _settle(self, i: int, state: State) -> tuple[State, int]:
        """The state without what no longer matters after instance `i`, in one form, and how many hopes have faded."""
        hopeless = {
            who
            for node in state
            for gpu in node.gpus
            for who in gpu.hoping
            if not self._bits(self.instances[who].affinity) & self.coming[i]
        }
        nodes = []
        for node in state:
            gpus = [
                gpu._replace(
                    functions=gpu.functions & self.minded[i],
                    refused=gpu.refused & self.coming[i],
                    hoping=tuple(who for who in gpu.hoping if who not in hopeless),
                    running=tuple(each for each in gpu.running if each[0] != i),
                )
                for gpu in node.gpus
            ]
            nodes.append(node._replace(gpus=tuple(sorted(gpus))))
        return tuple(sorted(nodes)), len(hopeless)


def _shape(node: Node) -> Node:
    """The node but for its name."""
    return Node("any", node.gpu_type, node.gpus, node.cpu_milli, node.memory_mib)


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write `total` as a sum of this many positive integers, order counting."""
    for cuts in combinations(range(1, total), parts - 1):
        edges = (0, *cuts, total)
        yield tuple(b - a for a, b in pairwise(edges))
