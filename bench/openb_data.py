"""The openb cluster and pods (Alibaba's GPU cluster, as published with FGD, ATC 2023), and arrivals drawn from them.

1,213 nodes with 6,212 GPUs of eight models, 8,152 pods. The published protocol shuffles the pods, adds more drawn at
random until they ask for `load` times the GPUs there are, shuffles again, and places one after another; nothing leaves.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dilu_core.arrival_mix import TaskMix
from dilu_core.cluster import Cluster, GpuType, Instance, Node, Oversubscription

CAPS = Oversubscription(1000, 1000)


@dataclass(frozen=True)
class Pod:
    """What one pod asks for; one without GPUs has `gpus` 0."""

    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int

    @property
    def share_milli(self) -> int:
        """GPU share over all its GPUs."""
        return self.gpus * self.gpu_milli

    def instance(self, name: str) -> Instance:
        """The pod as an instance; GPU memory is not told."""
        return Instance(
            name, "inference", self.gpu_milli, self.gpu_milli, 0, gpus=self.gpus, cpu_milli=self.cpu_milli,
            host_memory_mib=self.memory_mib,
        )  # fmt: skip


def read_cluster(folder: Path) -> Cluster:
    """The nodes; GPU memory is not told, so that every model has 1 MiB."""
    with (folder / "openb" / "node_list_gpu_node.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    types = {row["model"]: GpuType(row["model"], 1) for row in rows}
    return Cluster(
        tuple(
            Node(row["sn"], types[row["model"]], int(row["gpu"]), int(row["cpu_milli"]), int(row["memory_mib"]))
            for row in rows
        )
    )


def read_pods(folder: Path) -> list[Pod]:
    """The default list of pods."""
    with (folder / "openb" / "pod_list_default.csv").open(encoding="utf-8") as lines:
        return [
            Pod(int(row["cpu_milli"]), int(row["memory_mib"]), int(row["num_gpu"]), int(row["gpu_milli"] or 0))
            for row in csv.DictReader(lines)
        ]


def draw_arrivals(pods: list[Pod], *, gpus: int, load: float, seed: int) -> list[Pod]:
    """The pods and more of them, shuffled, that ask for `load` times as much share as `gpus` GPUs have."""
    random = np.random.default_rng(seed)
    order = list(range(len(pods)))
    random.shuffle(order)
    total, extra = sum(pod.share_milli for pod in pods), []
    while True:
        drawn = int(random.integers(len(pods)))
        if total + pods[drawn].share_milli > load * gpus * 1000:
            break
        total += pods[drawn].share_milli
        extra.append(drawn)
    arrivals = np.array(order + extra)
    random.shuffle(arrivals)
    return [pods[i] for i in arrivals.tolist()]


def typical_mix(pods: list[Pod]) -> TaskMix:
    """The mix the published scheduler is given: the commonest demands of the list, up to 95 % of the pods."""
    ranked = Counter((pod.gpu_milli, pod.gpus, pod.cpu_milli) for pod in pods).most_common()
    covered, kept = 0, []
    for number, (shape, count) in enumerate(ranked, start=1):
        kept.append((shape, count))
        covered += count
        if covered >= 0.95 * len(pods) and number % 10 == 0:
            break
    milli, gpus, cpu = (np.array([shape[i] for shape, _ in kept]) for i in range(3))
    nothing = np.zeros(len(kept), np.int64)
    return TaskMix(milli, milli, nothing, gpus, cpu, nothing, np.array([float(count) for _, count in kept]))
