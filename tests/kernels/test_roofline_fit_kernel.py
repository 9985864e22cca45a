"""The fitting kernel: its derivatives, its descent, and its independence of the company it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dilu_core.kernels.cpu.roofline_fit import fit_rooflines
from dilu_core.kernels.roofline_objective import damped_step, objective

CENTER = np.array([-1.0, -4.5, -3.0, -3.0, -4.0, 1.1])
SPREAD = np.array([2.0, 2.0, 2.0, 2.0, 2.0, 0.5])
ROOT = np.diag(1.0 / SPREAD) + 0.1 * np.tri(6, k=-1)
PRECISION = ROOT @ ROOT.T  # a prior whose parameters hang together
STARTS = np.zeros((1, 6))

Columns = tuple[NDArray[Any], ...]


def prior(with_bandwidth: bool) -> NDArray[np.float64]:
    """The precision, with nothing said of a bandwidth that takes no part."""
    precision = PRECISION.copy()
    if not with_bandwidth:
        precision[4, :] = precision[:, 4] = 0.0
    return precision


def problem(seed: int, count: int) -> Columns:
    rng = np.random.default_rng(seed)
    batch = rng.choice([1.0, 2.0, 4.0, 8.0, 16.0], count)
    share = rng.integers(1, 11, count) / 10.0
    return batch, share, 0.5 * np.log(1.0 + batch / share) + 0.1 * rng.standard_normal(count) - 1.0


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 8), st.booleans())
def test_gradient_is_that_of_the_cost(seed: int, count: int, with_bandwidth: bool) -> None:
    """Central differences of C agree with the gradient the kernel returns."""
    batch, share, logs_t = problem(seed, count)
    at = CENTER + np.random.default_rng(seed).standard_normal(6)
    gradient, scratch, scratch_slope = np.empty(6), np.empty(6), np.empty(6)
    newton = np.empty((6, 6))
    precision = prior(with_bandwidth)

    def cost(logs: NDArray[np.float64], out: NDArray[np.float64]) -> float:
        return objective(
            np.log(batch),
            np.log(share),
            logs_t,
            with_bandwidth,
            0.05,
            0.05,
            CENTER,
            precision,
            1.0,
            True,
            logs,
            out,
            newton,
            scratch_slope,
        )

    cost(at, gradient)
    for k in range(6):
        step = np.zeros(6)
        step[k] = 1e-5
        slope = (cost(at + step, scratch) - cost(at - step, scratch)) / 2e-5
        expected = 0.0 if k == 4 and not with_bandwidth else slope
        assert gradient[k] == pytest.approx(expected, rel=1e-3, abs=1e-3)


@given(st.integers(0, 10**6), st.floats(0.0, 10.0))
def test_step_solves_the_damped_system(seed: int, damping: float) -> None:
    """Cholesky agrees with numpy on positive definite matrices and says no to others."""
    rng = np.random.default_rng(seed)
    root, gradient = rng.standard_normal((6, 6)), rng.standard_normal(6)
    matrix = root @ root.T + 0.1 * np.eye(6)
    factor, step = np.zeros((6, 6)), np.empty(6)
    assert damped_step(matrix, gradient, damping, factor, step)
    expected = np.linalg.solve(matrix + damping * np.diag(np.diag(matrix)), -gradient)
    np.testing.assert_allclose(step, expected, rtol=1e-6, atol=1e-9)
    assert not damped_step(matrix - 100.0 * np.eye(6), gradient, 0.0, factor, step)


def run(parts: list[Columns], limit: int = 60, belief: float = 1e12) -> Columns:
    count = len(parts)
    first = np.cumsum([0] + [len(part[0]) for part in parts])
    logs, curvatures, costs, noises = np.empty((count, 6)), np.empty((count, 6, 6)), np.empty(count), np.empty(count)
    iterations, converged = np.empty(count, np.int64), np.empty(count, np.int64)
    batch, share, logs_t = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    centers, family = np.tile(CENTER, (count, 1)), np.arange(count) % 2
    fit_rooflines(
        np.log(batch),
        np.log(share),
        logs_t,
        first,
        family,
        centers,
        np.array([prior(bool(f)) for f in family]),
        STARTS,
        0.05,
        0.05,
        belief,
        limit,
        1e-8,
        logs,
        curvatures,
        costs,
        noises,
        iterations,
        converged,
    )
    return logs, curvatures, costs, iterations, converged


def test_minimum_is_stationary_and_curvature_symmetric() -> None:
    """At the end the gradient is all but zero in the metric of the curvature."""
    parts = [problem(seed, 9) for seed in range(4)]
    logs, curvatures, costs, _, converged = run(parts, 300)
    assert converged.all()
    for f, (batch, share, logs_t) in enumerate(parts):
        gradient, curvature = np.empty(6), np.empty((6, 6))
        cost = objective(
            np.log(batch),
            np.log(share),
            logs_t,
            bool(f % 2),
            0.05,
            0.05,
            CENTER,
            prior(bool(f % 2)),
            1.0,
            False,
            logs[f],
            gradient,
            curvature,
            np.empty(6),
        )
        assert cost == pytest.approx(costs[f])
        np.testing.assert_allclose(curvatures[f], curvatures[f].T)
        np.testing.assert_allclose(np.tril(curvatures[f]), np.tril(curvature))
        assert gradient @ np.linalg.solve(curvatures[f], gradient) < 1e-4 * (1.0 + cost)


def test_functions_do_not_touch_each_other() -> None:
    """A function fitted alone and in company gets the same parameters to the last bit."""
    parts = [problem(seed, 4 + seed) for seed in range(4)]
    together = run(parts)[0]
    assert (run(parts[:1])[0][0] == together[0]).all()
    assert (run(parts[:3])[0][2] == together[2]).all()


def test_an_iteration_limit_is_reported() -> None:
    """One iteration to compare, to finish and to polish do not converge, and the kernel says so."""
    _, _, _, iterations, converged = run([problem(0, 8)], limit=1)
    assert iterations[0] == 3
    assert not converged[0]
