"""What correlation-aware spreading is worth: burst that finds no spare share, placed with and without load traces.

python bench/correlated_spreading.py [INSTANCES]     # default 400

Forty functions with daily loads: half peak at noon, half at midnight. Their instances arrive in random order; the
correlation is learnt from the first three days, and the burst is counted on the four days after.
"""

from __future__ import annotations

import sys

import numpy as np
from burst_fluid import DAY_S, burst_service, daily_loads

from dilu_core.cluster import Cluster, GpuType
from dilu_core.correlation import LoadCorrelation
from dilu_core.instances import Instance
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.solvers.placement.online import ClusterState

FUNCTIONS, DAYS_LEARNT, DAYS, PERIOD_S, SEEDS = 40, 3, 7, 300.0, 5


def instances_of(count: int, seed: int) -> list[Instance]:
    """Small inference instances whose limit is twice their request, in random order."""
    draw = np.random.default_rng(seed)
    request = draw.integers(10, 26, FUNCTIONS) * 10
    memory = draw.integers(2, 9, FUNCTIONS) * 1024
    found = []
    for i, k in enumerate(draw.integers(0, FUNCTIONS, count).tolist()):
        share, mib = int(request[k]), int(memory[k])
        found.append(Instance(f"i{i}", "inference", share, 2 * share, mib, function=f"f{k}"))
    return found


def main(count: int) -> None:
    """Print one row per seed and arrangement."""
    cluster = Cluster.homogeneous(count, 4, GpuType("A100-40GB", 40960))
    print(f"{count} instances of {FUNCTIONS} functions; burst wanted beyond requests that found no spare share")
    print(f"{'seed':>4} {'GPUs without':>13} {'GPUs with':>10} {'lost without':>13} {'lost with':>10}")
    rows = []
    for seed in range(SEEDS):
        phases = {f"f{k}": 0.5 * (k % 2) for k in range(FUNCTIONS)}
        loads = daily_loads(phases, days=DAYS, period_s=PERIOD_S, peak=2.0, seed=seed)
        learnt = LoadCorrelation.of({name: trace.slice(0.0, DAYS_LEARNT * DAY_S) for name, trace in loads.items()})
        later = {name: trace.slice(DAYS_LEARNT * DAY_S).rates_rps for name, trace in loads.items()}
        instances = instances_of(count, seed)
        row: list[float] = []
        for state in (ClusterState(cluster), ClusterState(cluster, correlation=learnt)):
            for each in instances:
                assert state.place(each).placed
            placement = state.placement()
            assert not verify_placement(PlacementProblem(cluster, tuple(instances)), placement, require_all=True)
            row += [state.gpus_used, burst_service({each.name: each for each in instances}, placement, later).lost]
        rows.append(row)
        print(f"{seed:>4} {row[0]:>13} {row[2]:>10} {row[1]:>13.2%} {row[3]:>10.2%}")
    mean = np.mean(rows, axis=0)
    print(f"mean {mean[0]:>13.1f} {mean[2]:>10.1f} {mean[1]:>13.2%} {mean[3]:>10.2%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
