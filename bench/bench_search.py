"""The quota search: pruned and compiled beside a numpy broadcast over the whole grid.

    python -m pytest bench/bench_search.py

Random rooflines; 32 batches by 1000 shares, a tight and a loose SLO. Both sides report the mean efficacy they found,
which must agree.
"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dilu_core.performance import RooflineModel
from dilu_core.quota import QuotaGrid
from dilu_core.solvers.quota_search import search_quota, search_quota_many

GRID = QuotaGrid(tuple(range(1, 33)), tuple(range(1, 1001)))
COUNT = 200


@pytest.fixture(scope="module")
def models() -> list[RooflineModel]:
    """200 rooflines of a few milliseconds."""
    rng = np.random.default_rng(0)
    logs = np.array([1.0, -2.5, -1.0, -1.0, -2.0, 1.1]) + rng.standard_normal((COUNT, 6)) * [1, 1, 1, 1, 1, 0.4]
    found = [RooflineModel(*row.tolist()) for row in np.exp(logs)]
    search_quota(found[0], slo_ms=100.0, grid=GRID, quantile=None)
    return found


def broadcast(models: list[RooflineModel], slo_ms: float) -> list[float | None]:
    """Best efficacy per model by evaluating every grid point."""
    batch, share = np.array(GRID.batches)[:, None], np.array(GRID.sm_milli)
    found: list[float | None] = []
    for model in models:
        latency = model.latency_ms(batch, share)
        efficacy = np.where(latency <= 0.5 * slo_ms, 1e6 * batch / (latency * share), -1.0)
        found.append(float(efficacy.max()) if efficacy.max() > 0 else None)
    return found


@pytest.mark.parametrize("slo_ms", [20.0, 200.0])
@pytest.mark.benchmark(group="best configuration of 200 functions, 6.4 M grid points")
def test_search_quota_many(benchmark: BenchmarkFixture, models: list[RooflineModel], slo_ms: float) -> None:
    """Ours."""
    results = benchmark(search_quota_many, models, slo_ms, grid=GRID, quantile=None)
    efficacies = [result.best.efficacy for result in results if result.best is not None]
    benchmark.extra_info |= {
        "evaluated": sum(result.evaluated for result in results),
        "grid_points": COUNT * len(GRID),
        "feasible": len(efficacies),
        "mean_efficacy": float(np.mean(efficacies)),
    }


@pytest.mark.parametrize("slo_ms", [20.0, 200.0])
@pytest.mark.benchmark(group="best configuration of 200 functions, 6.4 M grid points")
def test_numpy_broadcast(benchmark: BenchmarkFixture, models: list[RooflineModel], slo_ms: float) -> None:
    """Baseline: every point by numpy, one function at a time."""
    found = benchmark.pedantic(broadcast, (models, slo_ms), rounds=1)
    efficacies = [efficacy for efficacy in found if efficacy is not None]
    benchmark.extra_info |= {
        "evaluated": COUNT * len(GRID),
        "feasible": len(efficacies),
        "mean_efficacy": float(np.mean(efficacies)),
    }


@pytest.mark.benchmark(group="one function with its Pareto front, default grid")
def test_search_quota(benchmark: BenchmarkFixture, models: list[RooflineModel]) -> None:
    """Ours, as an embedding scheduler calls it."""
    result = benchmark(search_quota, models[0], slo_ms=100.0, quantile=None)
    benchmark.extra_info |= {"front": len(result.pareto), "evaluated": result.evaluated}
