"""`place` on the serving mix beside every peer: GPUs, bound, gap, proof, seconds and memory, several seeds per size.

python bench/serving_mix.py [--sizes 150 3200 10000 100000] [--seeds 5] [--seconds S]

The mix is 75 % inference and 25 % LLM inference, none of which may be split (`placement_data.serving_mix`). Each solve
runs in a process of its own, whose greatest resident memory is reported, with 9.8, 30 and 60 s for up to 3,200, 10,000
and more instances (`--seconds` sets another limit for all). Gaps are (GPUs - bound) / bound to the bound `place`
proved; those of peers too. Plain models of the whole assignment (CP-SAT, scipy's MILP) get the same time, up to 200
instances: beyond, they find nothing in it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from placement_data import A100, serving_mix
from placement_peers import check_packing, cpsat_model, demands, milp_model, one_pass_peers

from dilu_core.cluster import Cluster
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.solvers.placement.place import place
from dilu_core.solvers.warm_up import warm_up

_WHOLE_MODELS = 200
_MIB = 1024  # KiB


@dataclass(frozen=True)
class Solved:
    """What one solve gave; `peak_mib` is the greatest resident memory of its process, `cpu_s` of all its threads."""

    gpus: int
    bound: int
    gap: float
    proof: str
    ended: str
    seconds: float
    cpu_s: float
    peak_mib: int


def limit_s(count: int) -> float:
    """The time limit for a size; the least leaves room for the end of a solve, so that all of it takes 10 s."""
    return 9.8 if count <= 3_200 else 30.0 if count <= 10_000 else 60.0


def solve(count: int, seed: int, seconds: float) -> Solved:
    """Place one mix; seconds are counted outside `place`, compilation apart."""
    warm_up()
    problem = PlacementProblem(Cluster.homogeneous(count // 4 + 1, 4, A100), serving_mix(count, seed))
    started, cpu = time.perf_counter(), time.process_time()
    result = place(problem, time_limit_s=seconds, seed=seed)
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // _MIB
    assert not verify_placement(problem, result.placement, require_all=True)
    return Solved(
        result.gpus_used, result.lower_bound, result.gap, result.bound_proof, result.termination.reason.value,
        took, cpu, peak,
    )  # fmt: skip


def peers_of(count: int, seed: int, seconds: float) -> dict[str, tuple[int | None, float]]:
    """Name -> GPUs (`None`: nothing found) and seconds of every peer."""
    demand = demands(serving_mix(count, seed))
    found: dict[str, tuple[int | None, float]] = {}
    for name, pack in one_pass_peers().items():
        pack(demand[:2])  # compiles
        started = time.perf_counter()
        where = pack(demand)
        found[name] = check_packing(demand, where), time.perf_counter() - started
    if count <= _WHOLE_MODELS:
        most = min(gpus for gpus, _ in found.values() if gpus is not None)
        for name, model in (("CP-SAT, whole model", cpsat_model), ("scipy MILP, whole model", milp_model)):
            started = time.perf_counter()
            found[name] = model(demand, most, seconds), time.perf_counter() - started
    return found


def size_table(count: int, seeds: range, seconds: float) -> None:
    """Print the runs of one size, then every peer's mean gap."""
    print(f"\n{count} instances, {seconds:g} s\n seed   GPUs  bound     gap  seconds   CPU s  peak MiB  ended")
    gaps: dict[str, list[float]] = {}
    solved = []
    for seed in seeds:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            one = pool.submit(solve, count, seed, seconds).result()
        solved.append(one)
        print(
            f"{seed:5} {one.gpus:6} {one.bound:6} {one.gap:7.3%} {one.seconds:8.1f} {one.cpu_s:7.1f} {one.peak_mib:9}"
            f"  {one.ended}, bound by {one.proof}",
            flush=True,
        )
        for name, (gpus, took) in peers_of(count, seed, seconds).items():
            gaps.setdefault(name, []).append(float("nan") if gpus is None else (gpus - one.bound) / one.bound)
            gaps.setdefault(f"{name} s", []).append(took)
    print("  mean    min median    max gap, mean seconds")
    ours = {"place": [one.gap for one in solved], "place s": [one.seconds for one in solved]}
    for name, found in {**ours, **gaps}.items():
        if name.endswith(" s"):
            continue
        took = statistics.fmean({**ours, **gaps}[f"{name} s"])
        print(
            f"{statistics.fmean(found):6.2%} {min(found):6.2%} {statistics.median(found):6.2%} {max(found):6.2%}"
            f" {took:8.2f}  {name}"
        )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[150, 3_200, 10_000, 100_000])
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--seconds", type=float, help="time limit of every solve")
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores")
    for count in args.sizes:
        size_table(count, range(args.seeds), args.seconds or limit_s(count))


if __name__ == "__main__":
    main()
