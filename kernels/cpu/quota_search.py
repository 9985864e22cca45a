"""The exact pruning search for quotas, many functions in one call.

A cell (batch b_i, share s_j) is feasible if upper = t(b, s) exp(k sigma(b, s)) <= budget, where t is the p-norm
roofline and sigma the spread of its log error (`formulas.error_spread`). t rises in b and falls in s; the bound as a
whole need not, but sigma lies within known ends, so t exp(k sigma) is bracketed by two monotone functions. Below the
lower one nothing is feasible, which prunes a staircase of the grid found by inverting t; above the upper one everything
is. Only cells between the two, along the edge of the staircase, need their own sigma.

Efficacy b / (t s) never rises with s at fixed b, since d log t / d log s >= -1: the least feasible share of each batch
is all that the best configuration needs. Throughput b / t never falls with b at fixed s: the greatest feasible batch of
each share is all that the Pareto front needs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels import formulas
from dilu_core.kernels.cpu.compiled import compiled

TIE = 1e-9
"""Efficacies and throughputs closer than this, relative, are equal."""

_SLACK = 1.0 + 1e-12  # the brackets give way to rounding, so that only a cell's own bound ever decides

_least_share = compiled(formulas.roofline_least_share)
_roofline_ms = compiled(formulas.roofline_ms)
_log_gradient = compiled(formulas.roofline_log_gradient)
_error_spread = compiled(formulas.error_spread)
_efficacy = compiled(formulas.efficacy)
_throughput_rps = compiled(formulas.throughput_rps)


@compiled
def mean_ms(model: NDArray[np.float64], batch: float, share_milli: float) -> float:
    """Mean latency by the parameters (L, h, m, w, d, p)."""
    return _roofline_ms(model[0], model[1], model[2], model[3], model[4], model[5], batch, share_milli / 1000.0)


@compiled
def bound_factor(
    model: NDArray[np.float64],
    covariance: NDArray[np.float64],
    error: NDArray[np.float64],
    batch: float,
    share_milli: float,
) -> float:
    """exp(k sigma) at one point; `error` holds (k, scatter, leverage cap, floor), `covariance` is in noise units."""
    if error[0] == 0.0:
        return 1.0
    gradient = np.empty(6)
    _, gradient[0], gradient[1], gradient[2], gradient[3], gradient[4], gradient[5] = _log_gradient(
        model[0], model[1], model[2], model[3], model[4], model[5], batch, share_milli / 1000.0
    )
    leverage = 0.0
    for i in range(6):
        for j in range(6):
            leverage += gradient[i] * covariance[i, j] * gradient[j]
    return math.exp(error[0] * _error_spread(error[1], max(leverage, 0.0), error[2], error[3]))


@compiled
def least_share_within(
    model: NDArray[np.float64],
    batch: float,
    shares: NDArray[np.float64],
    first: int,
    greatest_ms: float,
    row: NDArray[np.uint8],
    looked_at: NDArray[np.int64],
) -> int:
    """Least index >= `first` whose mean latency is within `greatest_ms`, or n_shares.

    The inverse of the model says where to look, and the cells on either side decide. Should rounding have misled it,
    bisection goes on from what they said. Cells looked at are marked in `row`, new ones counted in `looked_at[0]`.
    """
    low, high = first, shares.shape[0]
    share = 1000.0 * _least_share(model[0], model[1], model[2], model[3], model[4], model[5], batch, greatest_ms)
    guess = min(max(int(np.searchsorted(shares, share)), low), high)
    for middle in (guess, guess - 1):
        if low <= middle < high:
            looked_at[0] += 1 - row[middle]
            row[middle] = 1
            if mean_ms(model, batch, shares[middle]) <= greatest_ms:
                high = middle
            else:
                low = middle + 1
    while low < high:
        middle = (low + high) // 2
        looked_at[0] += 1 - row[middle]
        row[middle] = 1
        if mean_ms(model, batch, shares[middle]) <= greatest_ms:
            high = middle
        else:
            low = middle + 1
    return low


@compiled
def search_one(
    model: NDArray[np.float64],
    covariance: NDArray[np.float64],
    error: NDArray[np.float64],
    budget_ms: float,
    batches: NDArray[np.float64],
    shares: NDArray[np.float64],
    blocked: NDArray[np.uint8],
    saturation: float,
    with_front: bool,
    best: NDArray[np.int64],
    front: NDArray[np.int64],
    saturating: NDArray[np.int64],
) -> int:
    """Search one function; returns the number of distinct grid cells looked at. See `search_quotas` for the arrays."""
    n_batches, n_shares = batches.shape[0], shares.shape[0]
    seen = np.zeros((n_batches, n_shares), dtype=np.uint8)
    looked_at = np.zeros(1, dtype=np.int64)
    any_blocked = blocked.shape[0] > 0
    widest = _error_spread(error[1], error[2], error[2], error[3])
    one_end, other_end = math.exp(error[0] * error[3]), math.exp(error[0] * widest)
    least_factor, greatest_factor = min(one_end, other_end) / _SLACK, max(one_end, other_end) * _SLACK

    # The staircase: from edge[i] on, shares of batch i may be feasible. It never steps back as the batch grows.
    edge = np.full(n_batches, n_shares)
    start = 0
    for i in range(n_batches):
        start = least_share_within(model, batches[i], shares, start, budget_ms / least_factor, seen[i], looked_at)
        edge[i] = start
        if start == n_shares:
            break

    least = np.full(n_batches, -1)
    greatest_efficacy = 0.0
    for i in range(n_batches):
        for j in range(edge[i], n_shares):
            if any_blocked and blocked[i, j]:
                continue
            looked_at[0] += 1 - seen[i, j]
            seen[i, j] = 1
            latency = mean_ms(model, batches[i], shares[j])
            if latency * greatest_factor > budget_ms:
                factor = bound_factor(model, covariance, error, batches[i], shares[j])
                if latency * factor > budget_ms:
                    continue
            least[i] = j
            greatest_efficacy = max(greatest_efficacy, _efficacy(batches[i], latency, shares[j]))
            break
    best[0], best[1] = -1, -1
    for i in range(n_batches):
        j = int(least[i])
        if j < 0 or (best[0] >= 0 and j >= best[1]):
            continue
        latency = mean_ms(model, batches[i], shares[j])
        if _efficacy(batches[i], latency, shares[j]) >= greatest_efficacy * (1.0 - TIE):
            best[0], best[1] = i, j

    front[:] = -1
    needed = np.zeros(n_batches, dtype=np.uint8)
    if best[0] >= 0:
        needed[best[0]] = 1
    if with_front:
        top, reach = 0.0, -1
        for j in range(n_shares):
            while reach + 1 < n_batches and edge[reach + 1] <= j:
                reach += 1
            at_share = 0.0
            for i in range(reach, -1, -1):
                if least[i] < 0 or least[i] > j or (any_blocked and blocked[i, j]):
                    continue
                looked_at[0] += 1 - seen[i, j]
                seen[i, j] = 1
                latency = mean_ms(model, batches[i], shares[j])
                throughput = _throughput_rps(batches[i], latency)
                if throughput < at_share * (1.0 - TIE) or throughput <= top * (1.0 + TIE):
                    break
                if latency * greatest_factor > budget_ms:
                    factor = bound_factor(model, covariance, error, batches[i], shares[j])
                    if latency * factor > budget_ms:
                        continue
                front[j] = i
                at_share = max(at_share, throughput)
            chosen = int(front[j])
            if chosen >= 0:
                needed[chosen] = 1
                top = _throughput_rps(batches[chosen], mean_ms(model, batches[chosen], shares[j]))

    for i in range(n_batches):
        saturating[i] = 1000
        if needed[i]:
            enough_ms = mean_ms(model, batches[i], 1000.0) / saturation * (1.0 + TIE)
            j = least_share_within(model, batches[i], shares, 0, enough_ms, seen[i], looked_at)
            if j < n_shares:
                saturating[i] = int(shares[j])
    return int(looked_at[0])


@compiled
def search_quotas(
    models: NDArray[np.float64],
    covariances: NDArray[np.float64],
    errors: NDArray[np.float64],
    budgets_ms: NDArray[np.float64],
    batches: NDArray[np.float64],
    shares: NDArray[np.float64],
    blocked: NDArray[np.uint8],
    saturation: float,
    with_front: bool,
    best: NDArray[np.int64],
    fronts: NDArray[np.int64],
    saturating: NDArray[np.int64],
    evaluated: NDArray[np.int64],
) -> None:
    """Search F functions over one grid.

    `models` (F, 6), `covariances` (F, 6, 6) of the log parameters in units of the noise variance, `errors` (F, 4) as
    (k, scatter, leverage cap, floor), `budgets_ms` (F,), ascending `batches` (B,) and `shares` (S,) in milli-GPU,
    `blocked` (F, B, S) or (0, 0, 0), `saturation` the fraction of whole-GPU throughput that counts as saturated.

    Fills `best` (F, 2) with the indices of batch and share or -1, `fronts` (F, S) with the batch index of the front at
    each share or -1, `saturating` (F, B) with the share in milli-GPU at which each batch of `best` or the front
    saturates (1000 elsewhere), and `evaluated` (F,).
    """
    none_blocked = np.empty((0, 0), dtype=np.uint8)
    for f in range(models.shape[0]):
        evaluated[f] = search_one(
            models[f],
            covariances[f],
            errors[f],
            budgets_ms[f],
            batches,
            shares,
            blocked[f] if blocked.shape[0] > 0 else none_blocked,
            saturation,
            with_front,
            best[f],
            fronts[f],
            saturating[f],
        )
