"""Fitting rooflines: the compiled batch beside scipy.optimize.least_squares on the same objective.

    python -m pytest bench/bench_fit.py

Synthetic samples: 12 cells each of random rooflines with 3 % noise.
"""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fit_oracle import fit_latency_by_scipy
from dilu_core.solvers.fitting import fit_latency, fit_latency_many

COUNT = 400


def synthetic_samples(count: int) -> list[ProfileSamples]:
    """Sets of 12 noisy samples."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        logs = np.array([1.0, -2.5, -1.0, -1.0, -2.0, 1.1]) + rng.standard_normal(6) * [1, 1, 1, 1, 1, 0.4]
        batch, share = 2 ** rng.integers(0, 6, 12), 100 * rng.integers(1, 11, 12)
        latency = RooflineModel(*np.exp(logs).tolist()).latency_ms(batch, share)
        found.append(ProfileSamples(batch, share, latency * np.exp(0.03 * rng.standard_normal(12)), failure_codes=()))
    return found


@pytest.fixture(scope="module")
def sample_sets() -> list[ProfileSamples]:
    """400 sets of samples, with the kernel compiled."""
    found = synthetic_samples(COUNT)
    fit_latency(found[0])
    return found


@pytest.mark.benchmark(group="fit one function, 12 samples")
def test_fit_latency(benchmark: BenchmarkFixture, sample_sets: list[ProfileSamples]) -> None:
    """Ours: three starts, noise estimate, precision matrix."""
    benchmark(fit_latency, sample_sets[0])


@pytest.mark.benchmark(group="fit one function, 12 samples")
def test_scipy_least_squares(benchmark: BenchmarkFixture, sample_sets: list[ProfileSamples]) -> None:
    """Baseline: same starts and noise estimate, numeric Jacobian, method lm."""
    benchmark(fit_latency_by_scipy, sample_sets[0])


@pytest.mark.benchmark(group="fit 400 functions")
def test_fit_latency_many(benchmark: BenchmarkFixture, sample_sets: list[ProfileSamples]) -> None:
    """Ours, over all cores."""
    fits = benchmark(fit_latency_many, sample_sets)
    errors = [np.abs(np.expm1(fit.residuals)).mean() for fit in fits]
    benchmark.extra_info |= {"mean_residual": float(np.mean(errors)), "backend": fits[0].stats.backend}


@pytest.mark.benchmark(group="fit 400 functions")
def test_scipy_least_squares_in_a_loop(benchmark: BenchmarkFixture, sample_sets: list[ProfileSamples]) -> None:
    """Baseline: the loop one would write, from one start, noise not estimated."""
    models = benchmark.pedantic(
        lambda: [fit_latency_by_scipy(samples, starts=1, reweighed=False)[0] for samples in sample_sets], rounds=1
    )
    errors = [
        np.abs(model.latency_ms(samples.batch, samples.sm_milli) / samples.latency_ms - 1).mean()
        for model, samples in zip(models, sample_sets, strict=True)
    ]
    benchmark.extra_info |= {"mean_residual": float(np.mean(errors))}
