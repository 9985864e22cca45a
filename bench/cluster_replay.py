"""The cluster replay in the shape of the Dilu paper's experiments: eight systems on one workload, and its claims.

    python bench/cluster_replay.py [local|light|large|all] [SEEDS]     # all, 3 seeds

local: 5 nodes of 4 GPUs as in the paper's testbed, 15 minutes, 14 functions that come and go, whose load peaks at 0.1
to 1.5 of what a whole GPU serves. light: 20 functions that peak at 0.03 to 0.4 of it. large: 1000 nodes of 4 GPUs as in
its simulation, 5 minutes, 400 functions, loads as in local. `cluster_workloads.py` says where latencies and loads come
from. "dilu_core + moves" is dilu_core with `Replan()`: at most four moves of running instances a minute. All systems
see the same arrivals. Figures are means over seeds, ratios are taken seed by seed; the parameters of both and of the
reactive systems were chosen on other seeds, 0 to 3 of local and light.

SM free: request that is not booked, on GPUs in use (the published fragmentation). beyond: that, and what is booked
beyond the most efficient quota. idle: SM time nobody ran. late: requests over their SLO, of all and as the mean over
functions. goodput, training: requests in time, and seconds of whole-GPU training, per hour of a GPU in use, over
Exclusive's. speed: training over that of whole GPUs. wait: seconds that instances waited for a place. moves: of running
instances.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from cluster_workloads import Mix, Setting, setting, workload

from dilu_core.cluster import Cluster
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.solvers.cluster_measures import ClusterReplayResult
from dilu_core.solvers.cluster_replay import ClusterMoment, replay_cluster
from dilu_core.solvers.cluster_systems import CLUSTER_SYSTEMS, DILU, EXCLUSIVE, OURS, ClusterSystem, Replan

SCENARIOS = {  # nodes of 4 GPUs, and what comes
    "local": (5, Mix(14, 900.0, (1, 2), (0.1, 1.5))),
    "light": (5, Mix(20, 900.0, (1, 2), (0.03, 0.4))),
    "large": (1000, Mix(400, 300.0, (2, 4), (0.1, 1.5))),
}
MOVING = replace(OURS, name="dilu_core + moves", replan=Replan())
SYSTEMS = (*CLUSTER_SYSTEMS, MOVING)
FIRST_SEED = 100
VERIFY_S = 60.0
COLUMNS = (
    ("gpus_mean", "GPUs", "7.1f"), ("gpus_peak", "peak", "6.0f"), ("request_free", "SM free", "9.1%"),
    ("request_unneeded", "beyond", "8.1%"), ("idle", "idle", "7.1%"), ("memory_free", "memory", "8.1%"),
    ("training_speed", "speed", "7.2f"), ("violation_rate", "late", "8.2%"), ("mean_violation_rate", "mean", "8.2%"),
    ("cold_starts", "cold", "7.0f"), ("waiting_s", "wait", "8.0f"), ("moves", "moves", "7.0f"),
)  # fmt: skip
Runs = list[ClusterReplayResult]


def main() -> int:
    """Print the tables of the scenarios asked for."""
    which = sys.argv[1] if len(sys.argv) > 1 else "all"
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    if which not in (*SCENARIOS, "all") or seeds < 1:
        print(__doc__, file=sys.stderr)
        return 2
    where = setting()
    print(f"latencies and loads: {where.source}")
    for name in SCENARIOS if which == "all" else (which,):
        started = time.perf_counter()
        results = run(where, name, range(FIRST_SEED, FIRST_SEED + seeds))
        table(results)
        for system in (DILU, OURS, MOVING):
            claims(results, system.name)
        print(f"\n{time.perf_counter() - started:.0f} s")
    return 0


def run(where: Setting, name: str, seeds: range) -> dict[str, Runs]:
    """Every system on every seed's workload; the placement is verified once a minute."""
    nodes, mix = SCENARIOS[name]
    cluster = where.cluster(nodes)
    print(
        f"\n{name}: {nodes} nodes x 4 {where.gpu_type.name}, {mix.functions} functions in {mix.duration_s:g} s, loads "
        f"of {mix.loads[0]:g} to {mix.loads[1]:g} GPUs, gangs of {mix.gangs}, seeds {seeds[0]}..{seeds[-1]}"
    )
    results: dict[str, Runs] = {}
    for seed in seeds:
        functions = workload(where, mix, seed)
        for system in SYSTEMS:
            observer = verifier(cluster, system)
            done = replay_cluster(functions, cluster, system, duration_s=mix.duration_s, observer=observer)
            results.setdefault(system.name, []).append(done)
    return results


def verifier(cluster: Cluster, system: ClusterSystem) -> Callable[[ClusterMoment], None]:
    """Stops the bench where a placement breaks a rule."""

    def check(moment: ClusterMoment) -> None:
        if moment.time_s % VERIFY_S == 0.0:
            problem = PlacementProblem(cluster, moment.instances, system.oversubscription)
            assert verify_placement(problem, moment.placement, require_all=True) == ()

    return check


def table(results: dict[str, Runs]) -> None:
    """One row per system, means over seeds."""
    titles = "".join(f"{title:>{width.split('.')[0]}}" for _, title, width in COLUMNS)
    print(f"{'system':18}{titles}{'goodput':>9}{'training':>9}{'s':>6}")
    for name, runs in results.items():
        figures = "".join(f"{np.mean([getattr(one, key) for one in runs]):{width}}" for key, _, width in COLUMNS)
        relative = (ratio(runs, results[EXCLUSIVE.name], key) for key in ("goodput_per_gpu_hour", "training_per_gpu"))
        seconds = np.mean([one.stats.seconds for one in runs])
        print(f"{name:18}{figures}{''.join(f'{each:9.2f}' for each in relative)}{seconds:6.1f}")


def claims(results: dict[str, Runs], name: str) -> None:
    """One system against those before it, beside what the paper says of Dilu against its baselines."""
    ours = results[name]
    others = list(results)[: list(results).index(name)]
    print(f"\n{name + ' against':32}{''.join(f'{other:>18}' for other in others)}   paper")

    def row(title: str, figure: Callable[[Runs], str], paper: str = "") -> None:
        print(f"  {title:30}{''.join(f'{figure(results[other]):>18}' for other in others)}   {paper}")

    row("fragmentation: SM free", lambda runs: points(ours, runs, "request_free"), "-10 to -46 %")
    row("fragmentation: SM beyond need", lambda runs: points(ours, runs, "request_unneeded"))
    row("fragmentation: memory free", lambda runs: points(ours, runs, "memory_free"))
    row("idle SM time", lambda runs: points(ours, runs, "idle"))
    row("GPU time", lambda runs: f"{ratio(ours, runs, 'gpu_seconds'):.2f}x")
    row("inference throughput per GPU", lambda runs: f"{ratio(ours, runs, 'goodput_per_gpu_hour'):.2f}x", "up to 1.8x")
    row("training throughput per GPU", lambda runs: f"{ratio(ours, runs, 'training_per_gpu'):.2f}x", "up to 1.1x")
    row("violations, mean of functions", lambda runs: points(ours, runs, "mean_violation_rate"), "-11 to -71 %")


def ratio(ours: Runs, theirs: Runs, key: str) -> float:
    """The mean over seeds of the ratio of a figure; NaN where theirs is 0 throughout."""
    pairs = [(getattr(a, key), getattr(b, key)) for a, b in zip(ours, theirs, strict=True)]
    ratios = [a / b for a, b in pairs if b > 0.0]
    return float(np.mean(ratios)) if ratios else float("nan")


def points(ours: Runs, theirs: Runs, key: str) -> str:
    """How much a part changes: in points, and of theirs (of the means over seeds)."""
    a, b = (float(np.mean([getattr(one, key) for one in runs])) for runs in (ours, theirs))
    relative = f" ({(a - b) / b:+.0%})" if b > 0.0 else ""
    return f"{100.0 * (a - b):+.1f}{relative}"


if __name__ == "__main__":
    sys.exit(main())
