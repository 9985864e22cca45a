"""The Pareto fronts of a quota sweep: at each share the batch of greatest feasible throughput, where that is a gain.

Throughput b / t never falls with b at a fixed share, so each share walks its batches downward until one falls short of
what is feasible there, or of what a smaller share gives already. Columns, rows and promises are those of
`kernels.cpu.quota_sweep`.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_ieee, compiled_ieee_parallel
from dilu_core.kernels.cpu.quota_batches import invert_all, prepare_row
from dilu_core.kernels.cpu.quota_decision import upper_at
from dilu_core.kernels.cpu.quota_point import N_CONSTANTS, latency_at
from dilu_core.kernels.cpu.quota_sweep import (
    TIE,
    WIDEST_BUDGET_MS,
    least_factor_at,
    logs_of_shares,
    saturating_limit,
)
from dilu_core.kernels.quota_rows import SweepFronts, SweepRows

Floats = NDArray[np.float64]
Shorts = NDArray[np.int16]


@compiled_ieee
def front_of_row(
    model: Floats, covariance: Floats, error: Floats, levels: Floats, budgets: Floats, batches: Floats,
    shares: Floats, log_shares: Floats, limits: Floats, log_limits: Floats, saturation: float, fronts: Shorts,
    latencies: Floats, saturating: Shorts,
) -> int:  # fmt: skip
    """All fronts of one row; returns how often the roofline or its inverse was evaluated."""
    n_batches, n_shares = batches.shape[0], shares.shape[0]
    constants, columns = np.empty(N_CONSTANTS), np.empty((6, n_batches))
    log_work, log_floor, first_milli, most = columns[0], columns[1], columns[2], columns[3]
    prepare_row(model, batches, constants, log_work, log_floor, columns[4], columns[5])
    looked = 0
    for i in range(n_batches):
        index, more = saturating_limit(
            constants, batches[i], log_work[i], log_floor[i], saturation, limits, log_limits
        )  # fmt: skip
        saturating[i] = index
        looked += more
    for q in range(levels.shape[0]):
        factor = least_factor_at(levels[q], error) if covariance.shape[0] > 0 else 1.0
        for n in range(budgets.shape[0]):
            budget = budgets[n]
            mean_budget = min(budget / factor, WIDEST_BUDGET_MS)
            invert_all(constants, batches, log_work, log_floor, mean_budget, first_milli, most, columns[4])
            looked += n_batches
            top = 0.0
            for j in range(n_shares):
                fronts[q, n, j] = -1
                latencies[q, n, j] = np.nan
                at_share, chosen_rps = 0.0, 0.0
                for i in range(n_batches - 1, -1, -1):
                    if first_milli[i] > shares[j]:
                        continue
                    t = latency_at(constants, batches[i], log_work[i], log_floor[i], log_shares[j])
                    throughput = 1000.0 * batches[i] / t
                    looked += 1
                    if throughput < at_share * (1.0 - TIE) or throughput <= top * (1.0 + TIE):
                        break
                    if t > mean_budget:
                        continue
                    above = upper_at(
                        constants, covariance, error, levels[q], batches[i], log_work[i], log_shares[j], t
                    )  # fmt: skip
                    if above > budget:
                        continue
                    fronts[q, n, j], latencies[q, n, j], chosen_rps = i, t, throughput
                    at_share = max(at_share, throughput)
                if fronts[q, n, j] >= 0:
                    top = chosen_rps
    return looked


@compiled_ieee
def fronts_serial(
    models: Floats, covariances: Floats, errors: Floats, levels: Floats, budgets: Floats, batches: Floats,
    shares: Floats, limits: Floats, saturation: float, fronts: Shorts, latencies: Floats, saturating: Shorts,
    evaluated: NDArray[np.int64],
) -> None:  # fmt: skip
    """Fill `fronts` and `latencies` (R, Q, N, S): batch index or -1, its latency; `saturating` (R, B): limit index."""
    log_shares, log_limits = logs_of_shares(shares), logs_of_shares(limits)
    for r in range(models.shape[0]):
        evaluated[r] = front_of_row(
            models[r], covariances[r], errors[r], levels[r], budgets[r], batches, shares, log_shares, limits,
            log_limits, saturation, fronts[r], latencies[r], saturating[r],
        )  # fmt: skip


@compiled_ieee_parallel
def fronts_parallel(
    models: Floats, covariances: Floats, errors: Floats, levels: Floats, budgets: Floats, batches: Floats,
    shares: Floats, limits: Floats, saturation: float, fronts: Shorts, latencies: Floats, saturating: Shorts,
    evaluated: NDArray[np.int64],
) -> None:  # fmt: skip
    """`fronts_serial` over all cores."""
    log_shares, log_limits = logs_of_shares(shares), logs_of_shares(limits)
    for r in numba.prange(models.shape[0]):
        evaluated[r] = front_of_row(
            models[r], covariances[r], errors[r], levels[r], budgets[r], batches, shares, log_shares, limits,
            log_limits, saturation, fronts[r], latencies[r], saturating[r],
        )  # fmt: skip


PARALLEL_FROM = 1_000
"""Searches from which threads repay their start."""


def sweep_fronts(rows: SweepRows) -> SweepFronts:
    """The front of every search, on one core or, where that pays, on all."""
    count = rows.models.shape[0]
    shape = (*rows.shape, rows.shares.size)
    fronts = SweepFronts(
        np.empty(shape, np.int16),
        np.empty(shape),
        np.empty((count, rows.batches.size), np.int16),
        np.empty(count, np.int64),
    )
    run = fronts_parallel if rows.searches >= PARALLEL_FROM else fronts_serial
    run(*rows, *fronts)
    return fronts
