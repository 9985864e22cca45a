"""Fill the openb cluster to 100 % of arrivals by fragmentation gradient, then re-plan: GPU allocation before and after.

python bench/replan_openb.py [SEEDS [MIGRATIONS [SECONDS [FIRST_SEED]]]]     # default 10 100 600 42

Alibaba's openb trace (`openb_data`): pods drawn until they ask for 130 % of the GPUs, cut where arrivals reach 100 %.
Pods that find no place stay pending; the re-plan may let them in by at most MIGRATIONS moves of pods, with a GPU or
without (letting in is no migration; "hosts" counts moves of pods without). Moves in a circle may pause a pod ("paused"
counts those). Every step is checked by code of this file alone.
"""

from __future__ import annotations

import sys
import time
from itertools import accumulate

import numpy as np
from openb_data import CAPS, Pod, draw_arrivals, read_cluster, read_pods
from placement_data import data_dir_or_exit

from dilu_core.arrival_mix import TaskMix
from dilu_core.cluster import Cluster, Instance
from dilu_core.solvers.placement.migration_plan import MigrationPlan
from dilu_core.solvers.placement.online import ClusterState

SHARE_COVERED = 0.95  # of pods, by their typical shapes


def arrivals(pods: list[Pod], gpus: int, seed: int) -> list[Pod]:
    """Pods in order of arrival until what they ask for reaches all GPUs."""
    drawn = draw_arrivals(pods, gpus=gpus, load=1.3, seed=seed)
    reached = accumulate(pod.share_milli for pod in drawn)
    return [pod for pod, total in zip(drawn, reached, strict=True) if total <= gpus * 1000]


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
    for each in plan.host_moves:
        cpu, memory = next((r.cpu_milli, r.memory_mib) for r in state.host_reservations if r.name == each.name)
        hosts[each.target][0] += cpu
        hosts[each.target][1] += memory
        broken += check(cluster, hosts, placed)  # both copies count
        hosts[each.source][0] -= cpu
        hosts[each.source][1] -= memory
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


def fill(cluster: Cluster, pods: list[Pod], mix: TaskMix) -> tuple[ClusterState, list[Instance]]:
    """The cluster after all arrivals, and who found no place."""
    state = ClusterState(cluster, oversubscription=CAPS, rule="fragmentation-gradient", mix=mix)
    pending = []
    for number, pod in enumerate(pods):
        if pod.gpus == 0:
            state.reserve_host(f"pod-{number}", cpu_milli=pod.cpu_milli, memory_mib=pod.memory_mib)
            continue
        instance = pod.instance(f"pod-{number}")
        if not state.place(instance).placed:
            pending.append(instance)
    return state, pending


def typical(pods: list[Pod]) -> TaskMix:
    """The commonest shapes of pods that use a GPU."""
    every = [pod.instance(f"{i}") for i, pod in enumerate(pods) if pod.gpus]
    return TaskMix.of(every).common(coverage=SHARE_COVERED)


def main() -> None:
    """Print a row per seed."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 600.0
    first = int(sys.argv[4]) if len(sys.argv) > 4 else 42
    folder = data_dir_or_exit()
    cluster = read_cluster(folder)
    pods = read_pods(folder)
    mix = typical(pods)
    gpus = cluster.gpus
    befores, afters = [], []
    print("seed  pending  before %  after %  migrations  hosts  paused  let in  seconds  violations")
    for seed in range(first, first + seeds):
        state, pending = fill(cluster, arrivals(pods, gpus, seed), mix)
        before = sum(each.request_milli * each.gpus for each in state.instances) / gpus / 10
        started = time.perf_counter()
        plan = state.replan(
            max_migrations=most, time_limit_s=seconds, pending=pending, mix=mix, may_pause=True,
            movable_reservations=lambda each: True,
        )  # fmt: skip
        taken = time.perf_counter() - started
        broken = violations(state, plan)
        state.apply(plan)
        after = sum(each.request_milli * each.gpus for each in state.instances) / gpus / 10
        befores.append(before)
        afters.append(after)
        paused = sum(move.stops for move in plan.moves)
        print(
            f"{seed:4} {len(pending):8} {before:9.2f} {after:8.2f} {plan.migrations:11} {len(plan.host_moves):6}"
            f" {paused:7} {len(plan.admissions):7} {taken:8.1f} {broken:11}",
            flush=True,
        )
    print(f"mean {'':8} {np.mean(befores):9.2f} {np.mean(afters):8.2f}")


if __name__ == "__main__":
    main()
