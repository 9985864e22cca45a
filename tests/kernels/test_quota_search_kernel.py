"""The search kernel: its bisection, its bracket, and the whole answer against a look at every cell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.kernels import formulas
from dilu_core.kernels.cpu.quota_search import bound_factor, least_share_within, mean_ms, search_quotas

SHARES = np.array([50.0, 100.0, 200.0, 300.0, 500.0, 700.0, 1000.0])
BATCHES = np.array([1.0, 2.0, 4.0, 8.0, 16.0])

models = st.tuples(
    st.floats(-1, 3), st.floats(-4, 1), st.floats(-2, 3), st.floats(-2, 2), st.floats(-4, 1), st.floats(-0.5, 2)
).map(np.exp)


@given(models, st.sampled_from(BATCHES.tolist()), st.integers(0, 7), st.floats(0.1, 1e4))
def test_bisection_finds_the_least_share(model: np.ndarray, batch: float, first: int, greatest_ms: float) -> None:
    """The answer of a walk over all shares, and every cell looked at is marked."""
    row, looked_at = np.zeros(len(SHARES), dtype=np.uint8), np.zeros(1, dtype=np.int64)
    found = least_share_within(model, batch, SHARES, first, greatest_ms, row, looked_at)
    walked = [j for j in range(first, len(SHARES)) if mean_ms(model, batch, SHARES[j]) <= greatest_ms]
    assert found == min(walked, default=len(SHARES))
    assert row.sum() == looked_at[0] <= 5


@given(st.floats(1e-9, 1e-3), st.floats(2.0, 12.0), st.integers(1, 1000), st.floats(-3e-16, 3e-16))
def test_bisection_goes_on_where_rounding_misleads_the_inverse(
    fixed: float, sharpness: float, share: int, nudge: float
) -> None:
    """So near the launch floor that the inverse has no digits left, the answer is still that of a walk."""
    model, shares = np.array([10.0, 0.0, fixed, 0.0, 0.0, sharpness]), np.arange(1.0, 1001.0)
    greatest_ms = mean_ms(model, 1.0, float(share)) * (1.0 + nudge)
    row, looked_at = np.zeros(len(shares), dtype=np.uint8), np.zeros(1, dtype=np.int64)
    found = least_share_within(model, 1.0, shares, 0, greatest_ms, row, looked_at)
    walked = [j for j, s in enumerate(shares.tolist()) if mean_ms(model, 1.0, s) <= greatest_ms]
    assert found == min(walked, default=len(shares))


@given(models, st.integers(0, 10**6), st.floats(-5, 5), st.floats(0.01, 0.3))
def test_bound_lies_within_the_bracket_that_prunes(model: np.ndarray, seed: int, level: float, scatter: float) -> None:
    """exp(k sigma) of any point is between its values at no and at full leverage."""
    root = np.random.default_rng(seed).standard_normal((6, 6))
    error = np.array([level, scatter, 64.0, 0.05])
    ends = [np.exp(level * formulas.error_spread(scatter, v, 64.0, 0.05)) for v in (0.0, 64.0)]
    for batch in BATCHES:
        factor = bound_factor(model, root @ root.T, error, batch, 300.0)
        assert min(ends) * (1 - 1e-12) <= factor <= max(ends) * (1 + 1e-12)


def answer(
    model: np.ndarray, covariance: np.ndarray, error: np.ndarray, budget: float, blocked: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    best, fronts = np.empty((1, 2), np.int64), np.empty((1, len(SHARES)), np.int64)
    saturating, evaluated = np.empty((1, len(BATCHES)), np.int64), np.empty(1, np.int64)
    search_quotas(
        model[None],
        covariance[None],
        error[None],
        np.array([budget]),
        BATCHES,
        SHARES,
        blocked,
        0.98,
        True,
        best,
        fronts,
        saturating,
        evaluated,
    )
    return best[0], fronts[0], saturating[0], int(evaluated[0])


@settings(max_examples=40)
@given(models, st.integers(0, 10**6), st.sampled_from([0.0, 1.5, -1.0]), st.floats(0.3, 30.0), st.booleans())
def test_kernel_agrees_with_every_cell(
    model: np.ndarray, seed: int, level: float, looseness: float, with_blocked: bool
) -> None:
    """Best, front and saturation equal those of the definitions, whatever the covariance and the blocked cells."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((6, 6))
    covariance, error = root @ root.T, np.array([level, 0.1, 64.0, 0.05])
    shape = (1, len(BATCHES), len(SHARES))
    blocked = (rng.random(shape) < 0.3).astype(np.uint8) if with_blocked else np.zeros((0, 0, 0), np.uint8)
    mean = np.array([[mean_ms(model, b, s) for s in SHARES] for b in BATCHES])
    factor = np.array([[bound_factor(model, covariance, error, b, s) for s in SHARES] for b in BATCHES])
    budget = looseness * mean[0, -1]
    feasible = mean * factor <= budget
    if with_blocked:
        feasible &= blocked[0] == 0
    best, front, saturating, evaluated = answer(model, covariance, error, budget, blocked)
    assert 0 < evaluated <= mean.size
    if not feasible.any():
        assert (best == -1).all()
        assert (front == -1).all()
        return
    efficacy = np.where(feasible, BATCHES[:, None] / (mean * SHARES), 0.0)
    tied = np.argwhere(efficacy >= efficacy.max() * (1 - 1e-9))
    assert tuple(best) == min(map(tuple, tied), key=lambda cell: (cell[1], cell[0]))
    top = 0.0
    for j in range(len(SHARES)):
        gains = [i for i in range(len(BATCHES)) if feasible[i, j] and BATCHES[i] / mean[i, j] > top * (1 + 1e-9)]
        if not gains:
            assert front[j] == -1
            continue
        most = max(BATCHES[i] / mean[i, j] for i in gains)
        assert front[j] == min(i for i in gains if BATCHES[i] / mean[i, j] >= most * (1 - 1e-9))
        top = BATCHES[front[j]] / mean[front[j], j]
    i = best[0]
    assert saturating[i] == SHARES[np.argmax(mean[i] <= mean[i, -1] / 0.98 * (1 + 1e-9))]


def test_a_large_grid_is_mostly_pruned() -> None:
    """Of 32,000 cells without a front, fewer than one in a hundred is looked at."""
    batches, shares = np.arange(1.0, 33.0), np.arange(1.0, 1001.0)
    best, fronts = np.empty((1, 2), np.int64), np.empty((1, 1000), np.int64)
    saturating, evaluated = np.empty((1, 32), np.int64), np.empty(1, np.int64)
    model = np.array([[8.0, 0.2, 1.5, 1.2, 0.4, 3.0]])
    nothing = np.zeros((0, 0, 0), np.uint8)
    error = np.array([[0.0, 0.0, 64.0, 0.05]])
    search_quotas(
        model,
        np.zeros((1, 6, 6)),
        error,
        np.array([40.0]),
        batches,
        shares,
        nothing,
        0.98,
        False,
        best,
        fronts,
        saturating,
        evaluated,
    )
    assert best[0, 0] >= 0
    assert evaluated[0] < 320
    assert mean_ms(model[0], float(batches[best[0, 0]]), float(shares[best[0, 1]])) == pytest.approx(40.0, rel=0.05)
