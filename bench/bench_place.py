"""Static placement: ours beside first-fit decreasing and, where it can solve at all, one CP-SAT model of everything."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from ortools.sat.python import cp_model
from placement_data import A100, first_fit_decreasing, serving_mix

from dilu_core.cluster import Cluster, Instance
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.solvers.placement.place import place


def whole_model(instances: tuple[Instance, ...], seconds: float) -> int | None:
    """GPUs found by a plain assignment model over as many GPUs as first fit needs; `None` where it finds nothing."""
    gpus = range(first_fit_decreasing(instances))
    model = cp_model.CpModel()
    used = [model.new_bool_var("") for _ in gpus]
    on = [[model.new_bool_var("") for _ in gpus] for _ in instances]
    for row in on:
        model.add_exactly_one(row)
    for g in gpus:
        for cap, demands in (
            (1000, [each.request_milli for each in instances]),
            (1500, [each.limit_milli for each in instances]),
            (40960, [each.total_memory_mib for each in instances]),
        ):
            load = sum(demand * row[g] for demand, row in zip(demands, on, strict=True))
            model.add(load <= cap * used[g])
    for a, b in itertools.pairwise(used):
        model.add_implication(b, a)
    model.minimize(sum(used))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = seconds
    found = solver.solve(model) in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return round(solver.objective_value) if found else None


@pytest.mark.parametrize("count", [50, 200, 800, 3200])
@pytest.mark.parametrize("method", ["place", "first-fit decreasing", "one CP-SAT model"])
def test_serving_mix(benchmark: Any, method: str, count: int) -> None:
    """GPUs for a serving mix, with ten seconds for those that search."""
    benchmark.group = f"place, serving mix of {count}"
    instances = serving_mix(count)
    if method == "place":
        problem = PlacementProblem(Cluster.homogeneous(count // 4 + 1, 4, A100), instances)
        place(PlacementProblem(problem.cluster, instances[:2]), time_limit_s=0)  # compiles
        result = benchmark.pedantic(place, (problem,), {"time_limit_s": 10.0}, rounds=1)
        assert not verify_placement(problem, result.placement, require_all=True)
        benchmark.extra_info.update(
            gpus=result.gpus_used, bound=result.lower_bound, gap=result.gap, proof=result.bound_proof
        )
    elif method == "first-fit decreasing":
        benchmark.extra_info["gpus"] = benchmark.pedantic(first_fit_decreasing, (instances,), rounds=1)
    elif count > 200:
        pytest.skip("a whole model finds nothing in ten seconds beyond some 200 instances")
    else:
        benchmark.extra_info["gpus"] = benchmark.pedantic(whole_model, (instances, 10.0), rounds=1)
