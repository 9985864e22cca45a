"""Random clusters, instances and events for `Twin`: every feature of online placement, in small numbers that collide.

`draw` is a `random.Random`, which hypothesis can play too.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from online_twin import Twin

from dilu_core.cluster import Cluster, Configuration, GpuType, Instance, Node, Oversubscription
from dilu_core.correlation import LoadCorrelation
from dilu_core.mig import MigGeometry, MigProfile
from dilu_core.solvers.placement.move_cost import MoveCost

GEOMETRY = MigGeometry(
    4,
    (
        MigProfile("1g", 250, 1, 1, (0, 1, 2, 3)),
        MigProfile("1g+m", 250, 2, 2, (0, 2)),
        MigProfile("2g", 500, 2, 2, (0, 1, 2)),
        MigProfile("4g", 1000, 5, 4, (0,)),
    ),
)
WHOLE = (GpuType("small", 4), GpuType("large", 6), GpuType("huge", 10))
TYPES = (*WHOLE, GpuType("sliced", 5, GEOMETRY))
REQUESTS = (1, 100, 200, 250, 300, 333, 400, 500, 700, 1000)

RARE = 0.0005
"""How often an event is a search for a plan, which takes a thousand times as long as another event."""


def cluster(draw: random.Random, most_nodes: int) -> Cluster:
    """Nodes of 1 to 4 GPUs of one to three types, many alike; some hosts are limited."""
    types = draw.sample(TYPES if draw.random() < 0.4 else WHOLE, draw.randint(1, 3))
    shapes = [
        (draw.choice(types), draw.randint(1, 4), draw.choice((None, None, 6)), draw.choice((None, None, 9)))
        for _ in range(draw.randint(1, 3))
    ]
    nodes = [draw.choice(shapes) for _ in range(draw.randint(1, most_nodes))]
    return Cluster(tuple(Node(f"n{i}", *shape) for i, shape in enumerate(nodes)))


def functions(draw: random.Random) -> tuple[str, ...]:
    """Few functions that meet often, or more than fit one word of bits."""
    return tuple(f"f{k}" for k in range(draw.choice((3, 3, 6, 150))))


def instance(draw: random.Random, name: str, known: tuple[str, ...]) -> Instance:
    """An instance of any kind, with every field in use now and then."""
    shape = draw.choice(("one", "one", "one", "one", "split", "gang"))
    gpus = draw.choice((2, 2, 3, 4)) if shape == "gang" else 1
    function = draw.choice(("", *known))
    refused = tuple(draw.sample(known, draw.choice((0, 0, 0, 0, 0, 1, 2))))
    friends = tuple(set(draw.sample(known, draw.choice((0, 0, 0, 1)))) - set(refused))
    own = _configuration(draw, shape, gpus)
    types = draw.choice((None, None, None, None, None, ("small", "sliced"), ("large",), ("elsewhere", "huge")))
    return Instance(
        name,
        "llm-inference" if shape == "split" else "training" if shape == "gang" else "inference",
        own.request_milli,
        own.limit_milli,
        own.memory_mib,
        gpus=gpus,
        splittable=shape == "split",
        function=function,
        affinity=friends,
        anti_affinity=refused,
        gpu_types=types,
        cpu_milli=draw.choice((0, 0, 0, 1, 2)),
        host_memory_mib=draw.choice((0, 0, 0, 1, 3)),
        alternatives=tuple(_configuration(draw, shape, gpus) for _ in range(draw.choice((0, 0, 0, 0, 1, 2)))),
    )


def _configuration(draw: random.Random, shape: str, gpus: int) -> Configuration:
    request = draw.choice(REQUESTS)
    limit = draw.choice([limit for limit in (*REQUESTS, 800) if limit >= request])
    if shape == "split":
        return Configuration(request, limit, draw.choice((0, 1, 2, 3, 5, 6, 7, 9, 14)))
    sizes = tuple(draw.randint(0, 4) for _ in range(gpus))
    return Configuration(request, limit, sizes if gpus > 1 and draw.random() < 0.4 else sizes[0])


def correlation(draw: random.Random, known: tuple[str, ...]) -> LoadCorrelation:
    """Scores of most functions with one another, any that are symmetric."""
    names = known[: max(1, len(known) - 1)]
    scores = np.random.default_rng(draw.randrange(2**32)).uniform(-1.0, 1.0, (len(names), len(names)))
    scores = (scores + scores.T) / 2
    return LoadCorrelation(names, scores, np.abs(scores), np.abs(scores))


class Stream:
    """One cluster and the events on it; `fill` is how full it is kept, as a chance that an event is an arrival."""

    def __init__(self, draw: random.Random, *, most_nodes: int = 8, rare: float = RARE) -> None:
        self.draw, self.rare = draw, rare
        self.functions = functions(draw)
        caps = draw.choice((Oversubscription(), Oversubscription(1000, 1200), Oversubscription(800, 1500)))
        rule = draw.choice(("best-fit", "best-fit", "fragmentation-gradient"))
        loads = correlation(draw, self.functions) if draw.random() < 0.3 else None
        self.twin = Twin(cluster(draw, most_nodes), caps, rule=rule, correlation=loads)
        self.arrived = 0
        self.fill = draw.uniform(0.45, 0.7)

    def new(self) -> Instance:
        """An instance with a name of its own; often a copy of a running one but for that."""
        self.arrived += 1
        running = self.twin.state.instances
        if running and self.draw.random() < 0.2:
            return replace(self.draw.choice(running), name=f"i{self.arrived}")
        return instance(self.draw, f"i{self.arrived}", self.functions)

    def outsider(self) -> Instance:
        """An instance that finds no place now, if a few attempts come across one, but would alone."""
        found = self.new()
        for _ in range(8):
            if self.twin.empty.has_place(found) and not self.twin.naive.has_place(found):
                break
            found = self.new()
        return found

    def name(self) -> str:
        """Somebody who is there, or nobody."""
        names = [*self.twin.naive.home, *self.twin.naive.reserved]
        return self.draw.choice(names) if names and self.draw.random() < 0.98 else "nobody"

    def step(self) -> None:
        """One event."""
        draw, twin = self.draw, self.twin
        chance = draw.random()
        if draw.random() < self.rare:
            self.search()
        elif chance < 0.002:
            twin.save_and_load()
        elif chance < 0.02:
            twin.what_if([self.new() for _ in range(draw.randint(1, 3))])
        elif chance < 0.025 and twin.naive.home:
            twin.place_again(replace(self.new(), name=draw.choice(list(twin.naive.home))))
        elif chance < 0.06:
            self.arrived += 1
            node = draw.choice((None, *twin.naive.nodes))
            twin.reserve(f"h{self.arrived}", draw.randint(0, 4), draw.randint(0, 4), node)
        elif draw.random() < self.fill:
            twin.place(self.new())
        else:
            twin.remove(self.name())
        if draw.random() < 0.002:
            twin.check()

    def search(self) -> None:
        """A plan of one of the three kinds, applied at once or after something has changed."""
        draw, twin = self.draw, self.twin
        most = draw.choice((0, 1, 2, 5, 20))
        exempt = [name for name in twin.naive.home if draw.random() < 0.1]
        cost = draw.choice((None, MoveCost(bandwidth_mib_s=1.0, cold_start_s=2.0)))
        limit = 0.3
        what = draw.choice(("drain", "admit", "room"))
        if what == "drain":
            plan = twin.state.replan(max_migrations=most, time_limit_s=limit, exempt=exempt, cost=cost)
        elif what == "admit":
            pending = [self.outsider() for _ in range(draw.randint(1, 4))]
            plan = twin.state.replan(
                max_migrations=most, time_limit_s=limit, exempt=exempt, pending=pending, may_pause=draw.random() < 0.5
            )
        else:
            plan = twin.state.make_room(
                self.outsider(), max_migrations=most, time_limit_s=limit, exempt=exempt, cost=cost
            )
        twin.plan(plan, most=most, exempt=exempt, then=[self.new() for _ in range(draw.choice((0, 0, 0, 2)))])
