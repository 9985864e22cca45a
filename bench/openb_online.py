"""openb: share of all GPUs allocated when arrivals reach 95, 100 and 110 % of capacity, by placing rule.

python bench/openb_online.py [SEEDS]     # number of seeds from 42 on, default 10

`gradient` is `ClusterState(rule="fragmentation-gradient")` given the mix that the published scheduler is given;
`learnt` learns it from the arrivals; `best fit, ours` is `rule="best-fit"`. The others are the peers of that paper as
plain packers over nodes, re-implemented from its description, all on the tightest GPU of the node:

    first fit     the first node
    best fit      least CPU and GPU share left over
    packing       onto GPUs in use, then unused GPUs of nodes in use, then unused nodes; the tightest of each
    clustering    the node with most pods that ask for as many GPUs and as much of them, then the least free share
    dot product   the greatest of demand and free (Tetris)
    random        any

Everything placed is counted anew from the decisions, GPU by GPU and node by node. Instances are made before the clock
starts.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from openb_data import CAPS, Pod, draw_arrivals, read_cluster, read_pods, typical_mix
from placement_data import data_dir_or_exit

from dilu_core.cluster import Cluster, Instance
from dilu_core.solvers.placement.online import ClusterState

MARKS = (0.95, 1.0, 1.1)
FIRST_SEED = 42

Place = Callable[[int, Pod], tuple[int, list[int]] | None]


class Watch:
    """GPUs and hosts as the decisions leave them, by code of its own; breaks as soon as one is over its capacity."""

    def __init__(self, cluster: Cluster) -> None:
        self.gpu = [[1000] * node.gpus for node in cluster.nodes]
        self.host = [[node.cpu_milli or 0, node.memory_mib or 0] for node in cluster.nodes]
        self.allocated = 0

    def take(self, pod: Pod, node: int, gpus: list[int]) -> None:
        """Book a pod on GPUs of a node."""
        assert len(gpus) == len(set(gpus)) == pod.gpus
        for gpu in gpus:
            self.gpu[node][gpu] -= pod.gpu_milli
            assert self.gpu[node][gpu] >= 0
        self.host[node][0] -= pod.cpu_milli
        self.host[node][1] -= pod.memory_mib
        assert min(self.host[node]) >= 0
        self.allocated += pod.share_milli


class Packer:
    """A plain packer: the node of greatest score among those with room, the tightest of its GPUs."""

    def __init__(self, cluster: Cluster, rule: str, seed: int) -> None:
        self.rule = rule
        self.random = np.random.default_rng(seed)
        self.gpu = np.full((len(cluster.nodes), max(node.gpus for node in cluster.nodes)), -1)
        for i, node in enumerate(cluster.nodes):
            self.gpu[i, : node.gpus] = 1000
        self.host = np.array([[node.cpu_milli, node.memory_mib] for node in cluster.nodes])
        self.most = np.array([self.host[:, 0].max(), self.host[:, 1].max(), 1000.0 * self.gpu.shape[1]])
        self.pods = np.zeros(len(cluster.nodes), np.int64)
        self.alike: dict[tuple[int, int], NDArray[np.int64]] = {}

    def __call__(self, _: int, pod: Pod) -> tuple[int, list[int]] | None:
        """Node and GPUs, or nothing."""
        fits = (self.host >= [pod.cpu_milli, pod.memory_mib]).all(axis=1)
        if pod.gpus:
            fits &= (self.gpu >= pod.gpu_milli).sum(axis=1) >= pod.gpus
        nodes = np.flatnonzero(fits)
        if not nodes.size:
            return None
        free = np.maximum(self.gpu[nodes], 0).sum(axis=1)
        cpu, memory = self.host[nodes].T
        if self.rule == "first fit":
            score = -nodes
        elif self.rule == "best fit":
            score = -0.5 * (cpu - pod.cpu_milli) / 128_000 - 0.5 * (free - pod.share_milli) / 8_000
        elif self.rule == "packing":
            room = np.where(self.gpu[nodes] >= max(pod.gpu_milli, 1), self.gpu[nodes], 2000)
            tightest = np.sort(room, axis=1)[:, max(pod.gpus - 1, 0)]
            score = 2.0 * (tightest < 1000) + (self.pods[nodes] > 0) - tightest / 4000
        elif self.rule == "clustering":
            alike = self.alike.setdefault((pod.gpus, pod.gpu_milli), np.zeros_like(self.pods))[nodes]
            score = alike - free / 1e5
        elif self.rule == "dot product":
            wants = np.array([pod.cpu_milli, pod.memory_mib, pod.share_milli]) / self.most
            score = np.stack([cpu, memory, free], axis=1) / self.most @ wants
        else:
            score = self.random.random(nodes.size)
        node = int(nodes[np.argmax(score)])
        room = [g for g in range(self.gpu.shape[1]) if pod.gpus and self.gpu[node, g] >= pod.gpu_milli]
        gpus = sorted(room, key=lambda g: int(self.gpu[node, g]))[: pod.gpus]
        self.gpu[node, gpus] -= pod.gpu_milli
        self.host[node] -= [pod.cpu_milli, pod.memory_mib]
        self.pods[node] += 1
        self.alike.setdefault((pod.gpus, pod.gpu_milli), np.zeros_like(self.pods))[node] += 1
        return node, gpus


def ours(cluster: Cluster, state: ClusterState, instances: Sequence[Instance | None]) -> Place:
    """`ClusterState` as a packer; a pod without GPUs is no instance."""
    number = {node.name: i for i, node in enumerate(cluster.nodes)}

    def place(i: int, pod: Pod) -> tuple[int, list[int]] | None:
        instance = instances[i]
        if instance is not None:
            decision = state.place(instance)
        else:
            decision = state.reserve_host(f"pod-{i}", cpu_milli=pod.cpu_milli, memory_mib=pod.memory_mib)
        if not decision.placed:
            return None
        return number[str(decision.node)], [slot.gpu for slot in decision.slots]

    return place


def replay(cluster: Cluster, arrivals: list[Pod], place: Place) -> tuple[list[float], float]:
    """Share of GPUs allocated [%] as arrivals pass each mark, and microseconds per pod."""
    watch, capacity = Watch(cluster), 1000 * cluster.gpus
    arrived, found, seconds = 0, [], 0.0
    for i, pod in enumerate(arrivals):
        if len(found) == len(MARKS):
            break
        while len(found) < len(MARKS) and arrived + pod.share_milli > MARKS[len(found)] * capacity:
            found.append(100 * watch.allocated / capacity)
        arrived += pod.share_milli
        started = time.perf_counter()
        where = place(i, pod)
        seconds += time.perf_counter() - started
        if where is not None:
            watch.take(pod, *where)
    return found, 1e6 * seconds / i


def main() -> None:
    """Print the table."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    folder = data_dir_or_exit()
    cluster, pods = read_cluster(folder), read_pods(folder)
    mix = typical_mix(pods)

    def state(arrivals: list[Pod], **how: object) -> Place:
        instances = [pod.instance(f"pod-{i}") if pod.gpus else None for i, pod in enumerate(arrivals)]
        return ours(cluster, ClusterState(cluster, oversubscription=CAPS, **how), instances)  # type: ignore[arg-type]

    rules: dict[str, Callable[[int, list[Pod]], Place]] = {
        "gradient": lambda _, arrivals: state(arrivals, rule="fragmentation-gradient", mix=mix),
        "learnt": lambda _, arrivals: state(arrivals, rule="fragmentation-gradient"),
        "best fit, ours": lambda _, arrivals: state(arrivals),
    }
    for name in ("first fit", "best fit", "packing", "clustering", "dot product", "random"):
        rules[name] = lambda seed, _, name=name: Packer(cluster, name, seed)  # type: ignore[misc]
    for rule in list(rules)[:3]:
        few = draw_arrivals(pods, gpus=cluster.gpus, load=1.0, seed=0)[:50]
        replay(cluster, few, rules[rule](0, few))  # compiles
    print(
        f"{seeds} seeds; allocated [%] when arrivals reach 95 / 100 / 110 % of {cluster.gpus} GPUs; least and median us"
    )
    for rule, make in rules.items():
        found, micros = [], []
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            arrivals = draw_arrivals(pods, gpus=cluster.gpus, load=1.3, seed=seed)
            marks, us = replay(cluster, arrivals, make(seed, arrivals))
            found.append(marks)
            micros.append(us)
        columns = list(zip(*found, strict=True))
        means = "  ".join(f"{statistics.fmean(column):6.2f}" for column in columns)
        spread = statistics.stdev(columns[1]) if seeds > 1 else 0.0
        print(f"{rule:15} {means}   +- {spread:.2f} at 100 %   {min(micros):7.1f} {statistics.median(micros):7.1f} us",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
