"""`place` on the peaks of the recorded event logs, with and without splits, and GPUs against splits at their price.

python bench/static_peaks.py [--sizes 100 400 800 3200] [--seconds 10] [--no-curve]

Per peak (the instances alive when most are): GPUs, split instances and their parts of one-pass peers and of `place`;
its lower bound, the proof's name, the gap (GPUs - bound) / bound, and seconds in all. The curve solves the same peak by
weighted sums, a GPU weighing 100 and a split instance what the column says, and by both lexicographic orders. Where the
curve is a line, no weights lead to the points between its ends; they come from allowing splits only to some of the
instances that are split where GPUs come first. An asterisk marks points no other one beats in both. Every placement is
checked by `verify_placement`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from peak_peers import PEERS, OnePass
from placement_data import LOG_CLUSTER, LOG_SIZES, data_dir_or_exit, most_live, read_events

from dilu_core.cluster import Instance
from dilu_core.placement import Placement, PlacementProblem, verify_placement
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.place import place
from dilu_core.solvers.warm_up import warm_up

KNOWN = {100: 76, 400: 251, 800: 467, 3200: 1213}
"""Best GPUs known before, with splits."""

WEIGHTS = (10, 30, 60, 90, 120)
"""Of a split instance, where a GPU weighs 100."""

EIGHTHS = (1, 2, 3, 4, 5, 6, 7)
"""Of the instances split where GPUs come first, which alone may be split."""


def splits_of(problem: PlacementProblem, placement: Placement) -> tuple[int, int]:
    """Split instances and their parts; every rule is checked."""
    faults = verify_placement(problem, placement, require_all=True)
    assert not faults, faults[:3]
    parts = [len(placement[each.name]) for each in problem.instances if each.gpus == 1]
    split = [count for count in parts if count > 1]
    return len(split), sum(split)


def peak(live: tuple[Instance, ...], size: int, seconds: float, *, splits: bool) -> None:
    """Print the peers and `place` for one peak."""
    if not splits:
        live = tuple(replace(each, splittable=False) for each in live)
    problem = PlacementProblem(LOG_CLUSTER, live)
    print(f"\npeak of {size}, {len(live)} instances, {'with' if splits else 'no'} splits", end="")
    print(f" (best known before: {KNOWN[size]} GPUs)" if splits else "")
    result = place(problem, time_limit_s=seconds)
    bound = result.lower_bound

    def row(name: str, placement: Placement, rest: str = "") -> None:
        gpus, (count, parts) = placement.gpus_used, splits_of(problem, placement)
        print(f"  {name:28} {gpus:5} GPUs  {(gpus - bound) / bound:6.2%} gap {count:5} splits {parts:5} parts  {rest}")

    for name, (price, order) in PEERS.items():
        row(name, OnePass(LOG_CLUSTER, price, splits=splits).pack(order(live)))
    ended = f"{result.stats.seconds:5.1f} s, {result.termination.reason.value}; bound {bound} by {result.bound_proof}"
    row("place", result.placement, ended)


def curve(live: tuple[Instance, ...], size: int, seconds: float) -> None:
    """Print GPUs against splits for one peak."""
    found: list[tuple[str, int, int, int, float, float]] = []

    def add(name: str, objective: Objective, instances: tuple[Instance, ...]) -> Placement:
        problem = PlacementProblem(LOG_CLUSTER, instances)
        result = place(problem, time_limit_s=seconds, objective=objective)
        count, parts = splits_of(problem, result.placement)
        found.append((name, result.gpus_used, count, parts, result.gap, result.stats.seconds))
        return result.placement

    gpus_first = Objective(("gpus", "splits", "split_parts"))
    fewest = add("GPUs first", gpus_first, live)
    for weight in WEIGHTS:
        add(f"split weighs {weight}", Objective(weights={"gpus": 100, "splits": weight}), live)
    split = [each.name for each in live if each.gpus == 1 and len(fewest[each.name]) > 1]
    for eighths in EIGHTHS if split else ():
        allowed = set(split[: len(split) * eighths // 8])
        some = tuple(replace(each, splittable=each.name in allowed) for each in live)
        add(f"{len(allowed)} may be split", gpus_first, some)
    add("splits first", Objective(("splits", "gpus")), live)
    print(f"\npeak of {size}: GPUs against splits")
    for name, gpus, count, parts, gap, took in found:
        beaten = any(g <= gpus and c <= count and (g, c) != (gpus, count) for _, g, c, *_ in found)
        row = f"  {name:20} {gpus:5} GPUs {count:5} splits {parts:5} parts {gap:7.2%} gap {took:5.1f} s"
        print(row, "" if beaten else "*")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(LOG_SIZES), choices=LOG_SIZES)
    parser.add_argument("--seconds", type=float, default=10.0, help="time limit of each place()")
    parser.add_argument("--no-curve", action="store_true", help="leave the curve out")
    args = parser.parse_args()
    folder = data_dir_or_exit()
    warm_up()
    for size in args.sizes:
        live = most_live(read_events(folder, size))
        peak(live, size, args.seconds, splits=True)
        peak(live, size, args.seconds, splits=False)
        if not args.no_curve:
            curve(live, size, args.seconds)


if __name__ == "__main__":
    main()
