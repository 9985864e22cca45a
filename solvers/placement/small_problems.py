"""Small random placement problems in which every rule and every term of the objective can matter.

A few GPUs of up to three types, one of them partitioned; gangs, splits, affinity both ways, types, hosts, alternative
configurations, and in half of them instances that run already. Memory comes in a few units, so that an oracle can try
every split. A seed gives the same problem everywhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from dilu_core.cluster import Cluster, Configuration, GpuType, Instance, Node, Oversubscription
from dilu_core.mig import MigGeometry, MigProfile, MigSlice
from dilu_core.placement import Placement, PlacementProblem, Slot, verify_placement
from dilu_core.solvers.placement.objective import DEFAULT_ORDER
from dilu_core.solvers.placement.value import TERMS

_GEOMETRY = MigGeometry(
    4,
    (
        MigProfile("1g", 250, 1, 1, (0, 1, 2, 3)),
        MigProfile("1g+m", 250, 2, 2, (0, 2)),
        MigProfile("2g", 500, 2, 2, (0, 1, 2)),
        MigProfile("4g", 1000, 5, 4, (0,)),
    ),
)
_TYPES = (GpuType("small", 4), GpuType("large", 6), GpuType("sliced", 5, _GEOMETRY))


@dataclass(frozen=True)
class SmallProblem:
    """A problem, and what to solve it for: exactly one of `order` and `weights` is to be used."""

    problem: PlacementProblem
    order: tuple[str, ...]
    weights: dict[str, int] | None
    max_migrations: int | None


def small_problem(seed: int, *, most_instances: int = 12, most_gpus: int = 7) -> SmallProblem:
    """The problem of this seed: 0 to `most_instances` instances on 1 to `most_gpus` GPUs."""
    draw = random.Random(seed)
    nodes: list[Node] = []
    shapes = [
        (draw.choice(_TYPES), draw.choice((1, 2, 2, 3)), draw.choice((None, None, 3, 5)), draw.choice((None, None, 4)))
        for _ in range(2)
    ]
    while not nodes or draw.random() < 0.6:
        kind, gpus, cpu, memory = draw.choice(shapes)
        if nodes and gpus + sum(node.gpus for node in nodes) > most_gpus:
            break
        nodes.append(Node(f"n{len(nodes)}", kind, gpus, cpu, memory))
    count = min(draw.randint(0, most_instances), draw.randint(1, most_instances))
    caps = draw.choice([Oversubscription(*each) for each in ((), (), (1000, 1200), (800, 1500))])
    instances = [_instance(draw, f"i{k}") for k in range(count)]
    if count > 2 and draw.random() < 0.3:  # replicas, which are alike but for their names
        instances[1:3] = [replace(instances[0], name=f"i{k}") for k in (1, 2)]
    problem = PlacementProblem(Cluster(tuple(nodes)), tuple(instances), caps)
    max_migrations = None
    if draw.random() < 0.5:
        problem = replace(problem, current=_running(draw, problem))
        max_migrations = draw.choice((None, 0, 1, 2, 3))
    order: tuple[str, ...] = DEFAULT_ORDER
    weights = None
    if draw.random() < 0.5:
        order = tuple(draw.sample(TERMS, draw.randint(1, len(TERMS))))
    if draw.random() < 0.3:
        weights = {term: draw.choice((0, 1, 2, 5, 30)) for term in TERMS} | {draw.choice(TERMS): 3}
    return SmallProblem(problem, order, weights, max_migrations)


def _instance(draw: random.Random, name: str) -> Instance:
    shape = draw.choice(("one", "one", "one", "split", "gang"))
    gpus = draw.choice((2, 2, 3)) if shape == "gang" else 1
    function = draw.choice(("", "f", "g", "h"))
    refused = draw.choice(((), (), (), (), ("f",), ("g",), ("h", "f")))
    friends = draw.choice(((), (), ("f",), ("g", "h"), ("nobody",)))
    alternatives = tuple(_configuration(draw, shape, gpus) for _ in range(draw.choice((0, 0, 0, 1, 2))))
    own = _configuration(draw, shape, gpus)
    return Instance(
        name,
        "llm-inference" if shape == "split" else "training" if shape == "gang" else "inference",
        own.request_milli,
        own.limit_milli,
        own.memory_mib,
        gpus=gpus,
        splittable=shape == "split",
        function=function,
        affinity=() if set(friends) & set(refused) else friends,
        anti_affinity=refused,
        gpu_types=draw.choice((None, None, None, None, ("small", "sliced"), ("large",))),
        cpu_milli=draw.choice((0, 0, 1, 2)),
        host_memory_mib=draw.choice((0, 0, 0, 1, 3)),
        alternatives=alternatives,
    )


def _configuration(draw: random.Random, shape: str, gpus: int) -> Configuration:
    request = draw.choice((100, 200, 250, 300, 400, 500, 700, 1000))
    limit = draw.choice([limit for limit in (300, 500, 800, 1000) if limit >= request])
    if shape == "split":
        return Configuration(request, limit, draw.choice((0, 1, 2, 3, 5, 6, 7, 9)))
    sizes = tuple(draw.randint(0 if shape == "one" else 1, 4) for _ in range(gpus))
    return Configuration(request, limit, sizes if gpus > 1 and draw.random() < 0.4 else sizes[0])


def _running(draw: random.Random, problem: PlacementProblem) -> Placement:
    """Some of the instances at places drawn at random that keep every rule, as `verify_placement` tells."""
    held: dict[str, tuple[Slot, ...]] = {}
    for instance in problem.instances:
        if draw.random() < 0.3:
            continue
        for _ in range(12):
            tried = {**held, instance.name: _slots(draw, problem.cluster, instance)}
            if not verify_placement(problem, tried):
                held = tried
                break
    return Placement(held)


def _slots(draw: random.Random, cluster: Cluster, instance: Instance) -> tuple[Slot, ...]:
    """Slots that may or may not keep the rules."""
    node = draw.choice(cluster.nodes)
    c = draw.randrange(len(instance.configurations))
    memory = instance.configurations[c].memory_per_gpu_mib(instance.gpus)
    if instance.splittable and node.gpus > 1 and memory[0] > 1 and draw.random() < 0.5:
        first = draw.randint(1, memory[0] - 1)
        memory = (first, memory[0] - first)
    gpus = draw.sample(range(node.gpus), min(len(memory), node.gpus))
    mig = None
    if node.gpu_type.mig is not None:
        profile = draw.choice(node.gpu_type.mig.profiles)
        mig = MigSlice(profile.name, draw.choice(profile.starts))
    return tuple(Slot(node.name, gpu, mib, c, mig) for gpu, mib in zip(gpus, memory, strict=False))
