"""Small placement problems, brute force over all their placements, and the event logs of the measured data."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance, Node, Oversubscription
from dilu_core.placement import PlacementProblem
from dilu_core.units import demand_mib_from_gib, demand_milli

SMALL, LARGE = GpuType("small", 4), GpuType("large", 6)
Event = tuple[str, Instance | str]


@st.composite
def _instances(draw: st.DrawFn, name: str) -> Instance:
    shape = draw(st.sampled_from(["one", "one", "one", "split", "gang"]))
    request = draw(st.sampled_from([200, 300, 400, 500, 700, 1000]))
    gpus = draw(st.integers(2, 3)) if shape == "gang" else 1
    sizes = st.integers(0, 5) if shape == "one" else st.integers(1, 4)
    memory = draw(st.integers(0, 9)) if shape == "split" else tuple(draw(st.lists(sizes, min_size=gpus, max_size=gpus)))
    function = draw(st.sampled_from(["", "f", "g"]))
    anti = draw(st.sampled_from([(), (), (), ("f",), ("g",)]))
    friends = draw(st.sampled_from([(), (), ("f",)]))
    return Instance(
        name,
        {"one": "inference", "split": "llm-inference", "gang": "training"}[shape],  # type: ignore[arg-type]
        request,
        draw(st.sampled_from([limit for limit in (300, 500, 800, 1000) if limit >= request])),
        memory,
        gpus=gpus,
        splittable=shape == "split",
        function=function,
        affinity=() if set(friends) & set(anti) else friends,
        anti_affinity=anti,
        gpu_types=draw(st.sampled_from([None, None, None, ("small",), ("large",)])),
    )


@st.composite
def _problems(draw: st.DrawFn, most: int = 4) -> PlacementProblem:
    shapes = draw(st.lists(st.tuples(st.sampled_from([SMALL, LARGE]), st.integers(1, 2)), min_size=1, max_size=2))
    nodes = tuple(Node(f"n{i}", kind, gpus) for i, (kind, gpus) in enumerate(shapes))
    count = draw(st.integers(0, most))
    instances = tuple(draw(_instances(f"i{k}")) for k in range(count))
    caps = draw(st.sampled_from([Oversubscription(), Oversubscription(1000, 1200), Oversubscription(800, 1500)]))
    return PlacementProblem(Cluster(nodes), instances, caps)


@pytest.fixture(scope="session")
def problems() -> st.SearchStrategy[PlacementProblem]:
    """Problems of up to 4 instances on up to 2 nodes of 1-2 GPUs, with every feature."""
    return _problems()


@pytest.fixture(scope="session")
def crowds() -> st.SearchStrategy[PlacementProblem]:
    """Problems of up to 12 instances on the same clusters, too many for brute force."""
    return _problems(12)


def _ways(instance: Instance, cluster: Cluster) -> Iterator[tuple[tuple[tuple[int, int], ...], tuple[int, ...], int]]:
    """Every (GPUs, memory on each, limit on each) of an instance on an empty cluster of nothing but its types."""
    for n, node in enumerate(cluster.nodes):
        if instance.gpu_types is not None and node.gpu_type.name not in instance.gpu_types:
            continue
        gpus = [(n, g) for g in range(node.gpus)]
        for chosen in itertools.permutations(gpus, instance.gpus):
            yield chosen, instance.memory_per_gpu_mib, instance.limit_milli
        if instance.splittable:
            for k in range(2, len(gpus) + 1):
                for chosen in itertools.combinations(gpus, k):
                    for cuts in itertools.combinations(range(1, instance.total_memory_mib), k - 1):
                        edges = (0, *cuts, instance.total_memory_mib)
                        yield chosen, tuple(b - a for a, b in itertools.pairwise(edges)), instance.request_milli


def _best(problem: PlacementProblem) -> tuple[int, int]:
    """(fewest instances left out, then fewest GPUs used) over all placements, by trying every one."""
    caps, cluster = problem.oversubscription, problem.cluster
    ways = [list(_ways(instance, cluster)) for instance in problem.instances]
    held: dict[tuple[int, int], list[tuple[Instance, int, int]]] = {}
    best = (len(problem.instances), 0)

    def fits(gpu: tuple[int, int]) -> bool:
        here = held[gpu]
        if (
            sum(each.request_milli for each, _, _ in here) > caps.request_milli
            or sum(limit for _, limit, _ in here) > caps.limit_milli
            or sum(mib for _, _, mib in here) > cluster.nodes[gpu[0]].gpu_type.memory_mib
        ):
            return False
        return not any(b.function in a.anti_affinity for (a, _, _), (b, _, _) in itertools.permutations(here, 2))

    def descend(i: int, left_out: int) -> None:
        nonlocal best
        used = sum(1 for here in held.values() if here)
        if (left_out, used) >= best:
            return
        if i == len(ways):
            best = (left_out, used)
            return
        for gpus, memory, limit in ways[i]:
            for gpu, mib in zip(gpus, memory, strict=True):
                held.setdefault(gpu, []).append((problem.instances[i], limit, mib))
            if all(fits(gpu) for gpu in gpus):
                descend(i + 1, left_out)
            for gpu in gpus:
                held[gpu].pop()
        descend(i + 1, left_out + 1)

    best = (len(problem.instances) + 1, 0)
    descend(0, 0)
    return best


@pytest.fixture(scope="session")
def brute_force() -> Callable[[PlacementProblem], tuple[int, int]]:
    """(fewest instances left out, then fewest GPUs used), by trying every placement."""
    return _best


@pytest.fixture(scope="session")
def read_events(data_dir: Path) -> Callable[[int], list[Event]]:
    """The events of the log of a size: ("start", instance) or ("delete", name)."""

    def read(size: int) -> list[Event]:
        events: list[Event] = []
        for line in (data_dir / "placement" / f"dilu_events_{size}.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["action"] != "start":
                events.append(("delete", row["name"]))
                continue
            instance = Instance(
                row["name"],
                row["kind"],
                demand_milli(row["sm_request"]),
                demand_milli(row["sm_limit"]),
                tuple(demand_mib_from_gib(gib) for gib in row["memory_gb"]),
                gpus=row["gpus"],
                splittable=row["kind"] == "llm-inference",
            )
            events.append(("start", instance))
        return events

    return read


@pytest.fixture(scope="session")
def event_cluster() -> Cluster:
    """The cluster the event logs were recorded for: 1000 nodes of four 40 GB GPUs."""
    return Cluster.homogeneous(1000, 4, GpuType("A100-40GB", 40 * 1024))
