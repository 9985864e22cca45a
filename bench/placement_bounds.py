"""Bounds on the serving mix, each with its seconds, against packings by first fit, local search and the dive.

python bench/placement_bounds.py [SECONDS] [SIZE ...]     # of local search, default 5; default 200 1000 3200

Gaps are (GPUs - bound) / bound to the better of the bounds. Local search starts from first fit; it sees no bound.
"""

from __future__ import annotations

import itertools
import sys
import time

from placement_data import A100, first_fit_decreasing, serving_mix

from dilu_core.cluster import Cluster, Oversubscription
from dilu_core.placement import PlacementProblem
from dilu_core.solvers.placement.bounds import lower_bound
from dilu_core.solvers.placement.column_generation import column_bound
from dilu_core.solvers.placement.construct import construct
from dilu_core.solvers.placement.diving import dive
from dilu_core.solvers.placement.local_search import squeeze
from dilu_core.solvers.placement.objective import Objective

CAPS = Oversubscription()
SEEDS = range(5)


def local_search(cluster: Cluster, instances: tuple, seconds: float) -> int:
    """GPUs after squeezing the first construction for some seconds."""
    built = construct(
        PlacementProblem(cluster, instances), instances, stay={}, current={}, deadline=0.0, objective=Objective()
    )
    squeeze(built.ledger, target=1, deadline=time.perf_counter() + seconds, seed=0)
    return built.ledger.gpus_used


def row(count: int, seed: int, seconds: float) -> None:
    """Measure and print one mix."""
    instances = serving_mix(count, seed)
    cluster = Cluster.homogeneous(count // 2, 4, A100)
    marks = [time.perf_counter()]
    quick = lower_bound(cluster, CAPS, instances)
    marks.append(time.perf_counter())
    columns = column_bound(cluster, CAPS, instances, deadline=marks[-1] + 60)
    marks.append(time.perf_counter())
    packing = len(dive(columns, deadline=marks[-1] + 60))
    marks.append(time.perf_counter())
    quick_s, columns_s, dive_s = (b - a for a, b in itertools.pairwise(marks))
    packed = (first_fit_decreasing(instances), local_search(cluster, instances, seconds), packing)
    best = max(quick.value, columns.value)
    gaps = "  ".join(f"{gpus:>7} {100 * (gpus - best) / best:>6.2f}%" for gpus in packed)
    print(
        f"{count:>7} {seed:>4} | {quick.value:>6} {quick_s:>6.2f} | {columns.value:>6} {columns_s:>6.2f}"
        f" {columns.counts['rounds']:>6} | {gaps} {dive_s:>6.2f} | {quick.proof}"
    )


def main() -> None:
    """Print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    sizes = [int(size) for size in sys.argv[2:]] or [200, 1000, 3200]
    warm = Cluster.homogeneous(50, 4, A100)
    soon = time.perf_counter() + 60
    dive(column_bound(warm, CAPS, serving_mix(50), deadline=soon), deadline=soon)
    lower_bound(warm, CAPS, serving_mix(50))
    print("   size seed |  quick      s | column      s rounds | first fit, local search, dive: GPUs and gap      s")
    for size in sizes:
        for seed in SEEDS:
            row(size, seed, seconds)


if __name__ == "__main__":
    main()
