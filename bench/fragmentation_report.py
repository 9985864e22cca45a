"""Fragmentation by request, limit, memory and FGD's measure: what placement does to it, and what it costs to know.

python bench/fragmentation_report.py [SECONDS]     # time limit of place(), default 10

First the peak of each recorded log: online best fit before, `place` after. Then the public openb list of production
pods on its 1,213 nodes: best fit beside descent along FGD's measure, computed by `node_fragmentation_each` and kept per
node and shape, on the same pods; once with exact scores and once rounded to 100 steps as its authors' simulator does.
Allocated share when pods worth 130 % (and 100 %) of the GPUs have come, and what is then unusable.
"""

from __future__ import annotations

import csv
import itertools
import random
import sys
import time
from pathlib import Path

import numpy as np
from numba import njit
from placement_data import LOG_CLUSTER, LOG_SIZES, data_dir_or_exit, most_live, read_events

from dilu_core.arrival_mix import TaskMix, TaskShape
from dilu_core.fragmentation import fragmentation
from dilu_core.kernels.cpu.fragmentation import (
    node_fragmentation,
    node_fragmentation_after,
    node_fragmentation_each,
)
from dilu_core.placement import PlacementProblem
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.place import place

SEEDS = (42, 43, 44)
LOAD = 1.3
BEST_FIT, EXACT, ROUNDED = 0, 1, 2


def logs(folder: Path, seconds: float) -> None:
    """Before and after at the peak of each log."""
    for size in LOG_SIZES:
        live = most_live(read_events(folder, size))
        problem = PlacementProblem(LOG_CLUSTER, live)
        state = ClusterState(LOG_CLUSTER)
        for each in live:
            state.place(each)
        before = fragmentation(problem, state.placement())
        result = place(problem, time_limit_s=seconds)
        started = time.perf_counter()
        after = fragmentation(problem, result.placement)
        took = time.perf_counter() - started
        print(f"\ndilu_events_{size}: {len(live)} instances, {len(after.mix)} shapes; the report takes {took:.2f} s")
        print(after.change_from(before))


@njit(cache=True)
def run(pods, shape_of, cluster, shapes, weight, rule, share):  # type: ignore[no-untyped-def]
    """Place `pods` (request, GPUs, CPU, memory) one by one; the milli allocated and the time line of it in `share`."""
    free, node_start, host = cluster
    nodes = node_start.size - 1
    kinds = shape_of.max() + 1
    score = np.empty((kinds, nodes))
    gpu_of = np.empty((kinds, nodes), np.int64)
    seen = np.full((kinds, nodes), -1, np.int64)
    version = np.zeros(nodes, np.int64)
    after = np.empty(64)
    columns, work = np.ascontiguousarray(shapes.T), np.empty((3, weight.size), np.int64)
    chosen, no_memory = np.empty(64, np.int64), np.zeros(64, np.int64)
    allocated = 0
    for p in range(shape_of.size):
        request, gpus, cpu, memory = pods[p]
        kind = shape_of[p]
        best_node = -1
        best = np.inf
        for n in range(nodes):
            if seen[kind, n] != version[n]:
                seen[kind, n] = version[n]
                a, b = node_start[n], node_start[n + 1]
                score[kind, n] = np.inf
                gpu_of[kind, n] = -1
                if host[n, 0] < cpu or host[n, 1] < memory:
                    continue
                left = 0
                count = 0
                for g in range(a, b):
                    left += free[g, 0]
                    if free[g, 0] >= request and count < gpus:
                        chosen[count] = g
                        count += 1
                if count < gpus:
                    continue
                if rule == BEST_FIT:
                    # FGD's authors' best fit: the least left over of CPU and GPU
                    score[kind, n] = 0.5 * (host[n, 0] - cpu) / 128000 + 0.5 * (left - gpus * request) / 8000
                    tightest = 1 << 60
                    for g in range(a, b):
                        if gpus == 1 and request <= free[g, 0] < tightest:
                            tightest = free[g, 0]
                            gpu_of[kind, n] = g
                elif gpus == 1:
                    now = node_fragmentation_each(
                        free, a, b, host[n, 0], host[n, 1], columns, weight, request, request, 0, cpu, memory, after,
                        work,
                    )  # fmt: skip
                    g = np.argmin(after[: b - a])
                    gpu_of[kind, n] = a + g
                    score[kind, n] = after[g] - now
                else:
                    now = node_fragmentation(free, a, b, host[n, 0], host[n, 1], shapes, weight)
                    then = node_fragmentation_after(
                        free, a, b, host[n, 0], host[n, 1], shapes, weight,
                        chosen, count, request, request, no_memory, cpu, memory,
                    )  # fmt: skip
                    score[kind, n] = then - now
                if rule == ROUNDED:  # as the authors' simulator does: 100 steps, and among equals the first node
                    score[kind, n] = -np.floor(100.0 / (1.0 + np.exp(score[kind, n] / 1000.0)))
                if rule == EXACT:  # among equals the fuller node
                    score[kind, n] += 1e-4 * left + 1e-6 * (host[n, 0] - cpu)
            if score[kind, n] < best:
                best, best_node = score[kind, n], n
        if best_node >= 0:
            n = best_node
            version[n] += 1
            host[n, 0] -= cpu
            host[n, 1] -= memory
            allocated += request * gpus
            if gpus == 1:
                free[gpu_of[kind, n], 0] -= request
                free[gpu_of[kind, n], 1] -= request
            else:
                left = gpus
                for g in range(node_start[n], node_start[n + 1]):
                    if left > 0 and free[g, 0] >= request:
                        free[g, 0] -= request
                        free[g, 1] -= request
                        left -= 1
        share[p] = allocated
    return allocated


def openb(folder: Path) -> None:
    """Best fit beside descent along FGD's measure on the public list."""
    with (folder / "node_list_gpu_node.csv").open() as file:
        nodes = [(int(row["gpu"]), int(row["cpu_milli"]), int(row["memory_mib"])) for row in csv.DictReader(file)]
    with (folder / "pod_list_default.csv").open() as file:
        pods = [
            (int(row["gpu_milli"] or 0), int(row["num_gpu"]), int(row["cpu_milli"]), int(row["memory_mib"]))
            for row in csv.DictReader(file)
        ]
    sizes = np.array([gpus for gpus, _, _ in nodes])
    total = int(sizes.sum()) * 1000
    counts: dict[TaskShape, float] = {}
    for request, gpus, cpu, memory in pods:
        shape = TaskShape(request, request, 0, gpus, cpu, memory)
        counts[shape] = counts.get(shape, 0.0) + 1.0
    mix = TaskMix.from_weights(counts).common(most=60, coverage=0.95)
    number = {pod: i for i, pod in enumerate(sorted(set(pods)))}
    print(f"\nopenb: {len(nodes)} nodes, {total // 1000} GPUs, {len(number)} shapes, {len(mix)} in the mix, {LOAD:.0%}")
    print(f"{'seed':>4} {'rule':<9} {'allocated':>10} {'at 100 %':>9} {'unusable':>9} {'of free':>8} {'us/pod':>7}")
    for seed in SEEDS:
        draw = random.Random(seed)
        queue, wanted = list(pods), sum(request * gpus for request, gpus, _, _ in pods)
        while True:
            extra = draw.choice(pods)
            if wanted + extra[0] * extra[1] > LOAD * total:
                break
            wanted += extra[0] * extra[1]
            queue.append(extra)
        draw.shuffle(queue)
        arrived = np.cumsum([request * gpus for request, gpus, _, _ in queue])
        columns = np.array(queue, np.int64)
        shape_of = np.array([number[pod] for pod in queue], np.int64)
        for name, rule in (("best fit", BEST_FIT), ("FGD exact", EXACT), ("FGD", ROUNDED)):
            node_start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
            took = float("inf")
            for _ in range(2):  # the first compiles
                free = np.full((total // 1000, 3), 1000, np.int64)
                free[:, 2] = 0
                host = np.array([(cpu, memory) for _, cpu, memory in nodes], np.int64)
                share = np.zeros(len(queue))
                started = time.perf_counter()
                allocated = run(columns, shape_of, (free, node_start, host), mix.shapes, mix.weight, rule, share)
                took = min(took, time.perf_counter() - started)
            unusable = sum(
                node_fragmentation(free, int(a), int(b), *map(int, host[i]), mix.shapes, mix.weight)
                for i, (a, b) in enumerate(itertools.pairwise(node_start))
            )
            at_full = share[int(np.searchsorted(arrived, total, side="right")) - 1] / total
            print(
                f"{seed:>4} {name:<9} {allocated / total:>10.2%} {at_full:>9.2%} {unusable / total:>9.2%} "
                f"{unusable / max(1, total - allocated):>8.1%} {1e6 * took / len(queue):>7.1f}"
            )


if __name__ == "__main__":
    data = data_dir_or_exit()
    logs(data, float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
    openb(data / "openb")
