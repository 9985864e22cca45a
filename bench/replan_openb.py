"""Fill the openb cluster to 100 % of arrivals by fragmentation gradient, then re-plan: GPU allocation before and after.

python bench/replan_openb.py [SEEDS [MIGRATIONS [SECONDS]]]     # default 10 100 600

Alibaba's openb trace: 1,213 nodes, 6,212 GPUs, pods drawn as Weng et al. (ATC 2023) do: the default list shuffled, pods
drawn again until 130 % of the GPUs are asked for, shuffled, and cut where arrivals reach 100 %. Pods that find no place
stay pending; the re-plan may let them in by at most MIGRATIONS moves of pods that use a GPU (letting in is no
migration). Moves in a circle may pause a pod ("paused" counts those). Every step is checked by code of this file alone.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np
from placement_data import data_dir_or_exit

from dilu_core.arrival_mix import TaskMix
from dilu_core.cluster import Cluster, GpuType, Instance, Node, Oversubscription
from dilu_core.solvers.placement.migration_plan import MigrationPlan
from dilu_core.solvers.placement.online import ClusterState

SHARE_COVERED = 0.95  # of pods, by their typical shapes


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_cluster(folder: Path) -> Cluster:
    """The nodes; their GPUs' memory is not stated, and pods ask for none."""
    rows = read_rows(folder / "openb" / "node_list_gpu_node.csv")
    return Cluster(
        tuple(
            Node(r["sn"], GpuType(r["model"], 1), int(r["gpu"]), int(r["cpu_milli"]), int(r["memory_mib"]))
            for r in rows
        )
    )


def arrivals(pods: list[dict[str, str]], gpus: int, seed: int) -> list[dict[str, str]]:
    """Pods in order of arrival until what they ask for reaches all GPUs."""
    random = np.random.default_rng(seed)
    order = list(range(len(pods)))
    random.shuffle(order)
    asked = [int(pod["num_gpu"]) * int(pod["gpu_milli"] or 0) for pod in pods]
    total, extra = sum(asked), []
    while True:
        j = int(random.integers(len(pods)))
        if total + asked[j] > 1.3 * gpus * 1000:
            break
        total += asked[j]
        extra.append(j)
    drawn = np.array(order + extra)
    random.shuffle(drawn)
    reached = np.cumsum([asked[j] for j in drawn])
    return [pods[j] for j in drawn[: int(np.searchsorted(reached, gpus * 1000, side="right"))]]


def as_instance(number: int, pod: dict[str, str]) -> Instance:
    """A pod that uses GPUs."""
    share = int(pod["gpu_milli"])
    return Instance(
        f"{number}-{pod['name']}", "training", share, share, 0, gpus=int(pod["num_gpu"]),
        cpu_milli=int(pod["cpu_milli"]), host_memory_mib=int(pod["memory_mib"]),
    )  # fmt: skip


def check(cluster: Cluster, hosts: dict[str, list[int]], placed: dict[str, tuple[Instance, tuple]]) -> int:
    """GPUs and hosts over capacity."""
    gpu: dict[tuple[str, int], int] = {}
    left = {node.name: [node.cpu_milli, node.memory_mib] for node in cluster.nodes}
    for name, (cpu, memory) in hosts.items():
        left[name][0] -= cpu
        left[name][1] -= memory
    for instance, slots in placed.values():
        assert len({(slot.node, slot.gpu) for slot in slots}) == instance.gpus
        assert len({slot.node for slot in slots}) == 1
        left[slots[0].node][0] -= instance.cpu_milli
        left[slots[0].node][1] -= instance.host_memory_mib
        for slot in slots:
            gpu[slot.node, slot.gpu] = gpu.get((slot.node, slot.gpu), 0) + instance.request_milli
    return sum(share > 1000 for share in gpu.values()) + sum(min(pair) < 0 for pair in left.values())


def violations(state: ClusterState, plan: MigrationPlan) -> int:
    """Broken rules over all steps: during a move both places count, after it the new one, a stopped pod not at all."""
    cluster = state.cluster
    hosts = {node.name: [0, 0] for node in cluster.nodes}
    for each in state.host_reservations:
        hosts[each.node][0] += each.cpu_milli
        hosts[each.node][1] += each.memory_mib
    placement = state.placement()
    placed = {each.name: (each, placement[each.name]) for each in state.instances}
    known = dict(placed)
    broken = 0
    for move in plan.moves:
        if move.source:
            assert placed[move.name][1] == move.source
        if move.stops:
            del placed[move.name]
            continue
        instance = known[move.name][0]
        if move.source:
            placed[f"{move.name} (under way)"] = (instance, move.target)
            broken += check(cluster, hosts, placed)
            del placed[f"{move.name} (under way)"]
        placed[move.name] = (instance, move.target)
        broken += check(cluster, hosts, placed)
    for each in plan.admissions:
        placed[each.instance.name] = (each.instance, each.slots)
    return broken + check(cluster, hosts, placed)


def fill(cluster: Cluster, pods: list[dict[str, str]], mix: TaskMix) -> tuple[ClusterState, list[Instance]]:
    """The cluster after all arrivals, and who found no place."""
    caps = Oversubscription(limit_milli=1000)
    state = ClusterState(cluster, oversubscription=caps, rule="fragmentation-gradient", mix=mix)
    pending = []
    for number, pod in enumerate(pods):
        if int(pod["num_gpu"]) == 0:
            host = {"cpu_milli": int(pod["cpu_milli"]), "memory_mib": int(pod["memory_mib"])}
            state.reserve_host(f"{number}-{pod['name']}", **host)
            continue
        instance = as_instance(number, pod)
        if not state.place(instance).placed:
            pending.append(instance)
    return state, pending


def typical(pods: list[dict[str, str]]) -> TaskMix:
    """The commonest shapes of pods that use a GPU."""
    every = [as_instance(i, pod) for i, pod in enumerate(pods) if int(pod["num_gpu"])]
    return TaskMix.of(every).common(coverage=SHARE_COVERED)


def main() -> None:
    """Print a row per seed."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 600.0
    folder = data_dir_or_exit()
    cluster = read_cluster(folder)
    pods = read_rows(folder / "openb" / "pod_list_default.csv")
    mix = typical(pods)
    gpus = cluster.gpus
    befores, afters = [], []
    print("seed  pending  before %  after %  migrations  paused  let in  seconds  violations")
    for seed in range(42, 42 + seeds):
        state, pending = fill(cluster, arrivals(pods, gpus, seed), mix)
        before = sum(each.request_milli * each.gpus for each in state.instances) / gpus / 10
        started = time.perf_counter()
        plan = state.replan(max_migrations=most, time_limit_s=seconds, pending=pending, mix=mix, may_pause=True)
        taken = time.perf_counter() - started
        broken = violations(state, plan)
        state.apply(plan)
        after = sum(each.request_milli * each.gpus for each in state.instances) / gpus / 10
        befores.append(before)
        afters.append(after)
        paused = sum(move.stops for move in plan.moves)
        print(
            f"{seed:4} {len(pending):8} {before:9.2f} {after:8.2f} {plan.migrations:11} {paused:7}"
            f" {len(plan.admissions):7} {taken:8.1f} {broken:11}",
            flush=True,
        )
    print(f"mean {'':8} {np.mean(befores):9.2f} {np.mean(afters):8.2f}")


if __name__ == "__main__":
    main()
