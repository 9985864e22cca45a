"""`place` against the exhaustive optimum on thousands of small random problems with every constraint type mixed.

python bench/small_exact.py [PROBLEMS [FIRST_SEED]]     # default 4000 problems from seed 0; exits 1 on a mismatch

Each problem has up to 12 instances: gangs, splits, affinity and anti-affinity, GPU types, partitioned GPUs, hosts,
alternative configurations, and in half of them running instances with or without a budget of migrations; the objective
is the default, another order of its terms, or weights. Compared are the instances left out and every term in order,
and the lower bound must not exceed the fewest GPUs of any placement that leaves out as few. Problems that the oracle
would take too long for are counted apart.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from dilu_core.placement import verify_placement
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.oracle import cost_of, exhaustive_placement
from dilu_core.solvers.placement.place import place
from dilu_core.solvers.placement.small_problems import SmallProblem, small_problem

_MOST_STATES = 2_000


def faults(small: SmallProblem, seconds: Counter[str]) -> list[str] | None:
    """What is wrong with the answer of `place`; `None` where the oracle would take too long."""
    problem = small.problem
    started = time.perf_counter()
    best = exhaustive_placement(
        problem, order=small.order, weights=small.weights, max_migrations=small.max_migrations, most_states=_MOST_STATES
    )
    fewest = exhaustive_placement(problem, order=("gpus",), most_states=_MOST_STATES)
    seconds["oracle"] += time.perf_counter() - started
    if best is None or fewest is None:
        return None
    objective = Objective(small.order) if small.weights is None else Objective(weights=small.weights)
    started = time.perf_counter()
    result = place(problem, objective=objective, max_migrations=small.max_migrations, time_limit_s=60.0)
    seconds["place"] += time.perf_counter() - started
    found = [str(each) for each in verify_placement(problem, result.placement)]
    cost = cost_of(problem, result.placement, order=small.order, weights=small.weights)
    if cost != best:
        found.append(f"costs {cost}, the optimum is {best} ({result.termination.reason}: {result.termination.detail})")
    if result.lower_bound > result.gpus_used:
        found.append(f"bound {result.lower_bound} above the {result.gpus_used} GPUs used")
    if not result.unplaced and result.lower_bound > fewest[1]:
        found.append(f"bound {result.lower_bound} above the fewest GPUs, {fewest[1]}")
    if set(result.unplaced) | set(result.placement) != {each.name for each in problem.instances}:
        found.append("some instances are neither placed nor unplaced")
    return found


def main() -> None:
    """Print counts, mismatches and seconds."""
    problems = int(sys.argv[1]) if len(sys.argv) > 1 else 4_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    seconds: Counter[str] = Counter()
    mix: Counter[str] = Counter()
    for seed in range(first, first + problems):
        small = small_problem(seed)
        wrong = faults(small, seconds)
        if wrong is None:
            mix["too large for the oracle"] += 1
            continue
        instances, problem = small.problem.instances, small.problem
        mix["compared"] += 1
        mix["with gangs"] += any(each.gpus > 1 for each in instances)
        mix["with splittable"] += any(each.splittable for each in instances)
        mix["with alternatives"] += any(each.alternatives for each in instances)
        mix["with partitioned GPUs"] += any(node.gpu_type.mig is not None for node in problem.cluster.nodes)
        mix["with host limits"] += any(node.cpu_milli is not None for node in problem.cluster.nodes)
        mix["with running instances"] += bool(problem.current)
        mix["with a budget of migrations"] += bool(problem.current) and small.max_migrations is not None
        mix["with 8 instances or more"] += len(instances) >= 8
        mix["mismatches"] += bool(wrong)
        for each in wrong:
            print(f"seed {seed}: {each}", flush=True)
    for what, count in mix.items():
        print(f"{count:7} {what}")
    print(f"oracle {seconds['oracle']:.0f} s, place {seconds['place']:.0f} s")
    sys.exit(1 if mix["mismatches"] or not mix["compared"] else 0)


if __name__ == "__main__":
    main()
