"""The quota sweep: for each function, quantile and budget the best configuration of a grid, exact and pruned.

A row is a function on a GPU type, a scenario of it a quantile and a latency budget T. A cell (batch b, share s) is
feasible if t(b, s) exp(k sigma(b, s)) <= T (`kernels.cpu.quota_search` states the problem). Per batch:

- exp(k sigma) is at least the factor at no leverage, so nothing below the share that solves t(b, s) = T / factor is
  feasible: one evaluation of the inverse prunes a row of the grid, and the first feasible cell from there on is all
  that the batch can offer, since efficacy b / (t s) never rises with s.
- The efficacy at that share is what the batch could reach at most. Batches that fall short of the best cell found are
  not looked at further. The inverses of all batches are one vectorised loop.

The limit's share of saturation is found by the same inverse among the shares a limit may take.

Every comparison is made on the same bits as in `kernels/cuda/quota_sweep.cu` (see `kernels.cpu.elementary`), and what
one side prunes and the other does not loses by more than a tie, so the answers are equal index for index.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_ieee, compiled_ieee_parallel
from dilu_core.kernels.cpu.elementary import exp_of, log_of
from dilu_core.kernels.cpu.quota_batches import invert_all, prepare_row
from dilu_core.kernels.cpu.quota_decision import CAP, FLOOR, SCATTER, bound_within, upper_at
from dilu_core.kernels.cpu.quota_point import N_CONSTANTS, latency_at, least_share_at, point_at
from dilu_core.kernels.quota_rows import SweepCells, SweepRows

Floats = NDArray[np.float64]
Starts = NDArray[np.int32]

TIE = 1e-9
"""Efficacies and throughputs closer than this, relative, are equal."""

LOSES = 1.0 - 2e-9
"""Below this part of the best efficacy so far nothing can tie with the best, whatever rounding did."""

WIDEST_BUDGET_MS = 1e290
"""A budget for the mean beyond this counts as this."""

_UNKNOWN = -2

_SPAN = 16
"""Rows that one thread takes at a time."""

BATCH, SHARE, LIMIT = 0, 1, 2
"""Columns of `chosen`."""

LATENCY, UPPER = 0, 1
"""Columns of `predicted`."""


@compiled_ieee
def least_factor_at(level: float, error: Floats) -> float:
    """exp(k sigma) is nowhere less, but for rounding: its value at no leverage, or at the cap where k < 0."""
    if level >= 0.0:
        return exp_of(level * error[FLOOR]) * (1.0 - 1e-12)
    widest = np.sqrt((error[SCATTER] * error[SCATTER]) * error[CAP] + error[FLOOR] * error[FLOOR])
    return exp_of(level * widest) * (1.0 - 1e-12)


@compiled_ieee
def first_at_least(wanted: float, milli: Floats) -> int:
    """Index of the first of the ascending `milli` that is at least `wanted`, or their number."""
    low, high = 0, milli.shape[0]
    while low < high:
        middle = (low + high) // 2
        if milli[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@compiled_ieee
def saturating_limit(
    constants: Floats, batch: float, log_work: float, log_floor: float, saturation: float, limits: Floats,
    log_limits: Floats,
) -> tuple[int, int]:  # fmt: skip
    """Index of the least of `limits` at which throughput reaches `saturation` of a whole GPU's, or -1; evaluations."""
    enough = latency_at(constants, batch, log_work, log_floor, 0.0) / saturation * (1.0 + TIE)
    share = least_share_at(constants, batch, log_work, log_floor, enough)
    first = first_at_least(1000.0 * share, limits)
    for k in range(first, limits.shape[0]):
        if latency_at(constants, batch, log_work, log_floor, log_limits[k]) <= enough:
            return k, 3 + k - first
    return -1, 2 + limits.shape[0] - first


@compiled_ieee
def _winner(least: NDArray[np.int32], efficacy: Floats, enough: float) -> int:
    """The first batch with the least share of those with `enough` efficacy; -1 for none."""
    i = -1
    for k in range(least.shape[0]):
        if least[k] >= 0 and efficacy[k] >= enough and (i < 0 or least[k] < least[i]):
            i = k
    return i


@compiled_ieee
def search_rows(
    start: int, stop: int, models: Floats, covariances: Floats, errors: Floats, levels: Floats, budgets: Floats,
    batches: Floats, shares: Floats, log_shares: Floats, starts: Starts, limits: Floats, log_limits: Floats,
    saturation: float, chosen: NDArray[np.int32], predicted: Floats, evaluated: NDArray[np.int64],
) -> None:  # fmt: skip
    """All scenarios of rows `start` to `stop`, by one call: calls, views and allocations per row cost as much as a row.

    `evaluated` receives how often the roofline or its inverse was evaluated; see `sweep_quotas`.
    """
    n_batches, n_shares = batches.shape[0], shares.shape[0]
    constants, columns = np.empty(N_CONSTANTS), np.empty((9, n_batches))
    log_work, log_floor, first_milli, most = columns[0], columns[1], columns[2], columns[3]
    efficacy, latency, scratch, log_stream, apart_floor = columns[4], columns[5], columns[6], columns[7], columns[8]
    bounded = covariances.shape[1] > 0
    least, saturating = np.empty(n_batches, np.int32), np.empty(n_batches, np.int32)
    for r in range(start, stop):
        covariance, error = covariances[r], errors[r]
        prepare_row(models[r], batches, constants, log_work, log_floor, log_stream, apart_floor)
        saturating[:] = _UNKNOWN
        looked = 0
        for q in range(levels.shape[1]):
            factor = least_factor_at(levels[r, q], error) if bounded else 1.0
            for n in range(budgets.shape[1]):
                budget = budgets[r, n]
                mean_budget = min(budget / factor, WIDEST_BUDGET_MS)
                invert_all(constants, batches, log_work, log_floor, mean_budget, first_milli, most, scratch)
                looked += n_batches
                leader = 0
                for i in range(n_batches):
                    least[i] = -1
                    efficacy[i] = 0.0
                    if first_milli[i] > shares[n_shares - 1]:
                        most[i] = 0.0
                    elif most[i] > most[leader]:
                        leader = i
                best = 0.0
                for turn in range(-1, n_batches):
                    i = leader if turn < 0 else turn
                    if (turn >= 0 and i == leader) or most[i] == 0.0 or most[i] < best * LOSES:
                        continue
                    first = starts[int(first_milli[i])]
                    while shares[first] < first_milli[i]:
                        first += 1
                    for j in range(first, n_shares):
                        t, log_norm, apart = point_at(constants, batches[i], log_work[i], log_floor[i], log_shares[j])
                        looked += 1
                        gain = 1e6 * batches[i] / (t * shares[j])
                        if gain < best * LOSES:
                            break
                        if t > mean_budget:
                            continue
                        if not bounded:
                            within = t <= budget
                        else:
                            within = bound_within(
                                constants, covariance, error, levels[r, q], batches[i], log_work[i], log_floor[i],
                                log_stream[i], apart_floor[i], log_shares[j], t, log_norm, apart, budget,
                            )  # fmt: skip
                        if within:
                            least[i], efficacy[i], latency[i] = j, gain, t
                            best = max(best, gain)
                            break
                i = _winner(least, efficacy, best * (1.0 - TIE))
                chosen[r, q, n, :] = -1
                predicted[r, q, n, :] = np.nan
                if i >= 0:
                    if saturating[i] == _UNKNOWN:
                        saturating[i], more = saturating_limit(
                            constants, batches[i], log_work[i], log_floor[i], saturation, limits, log_limits
                        )
                        looked += more
                    chosen[r, q, n, BATCH], chosen[r, q, n, SHARE], chosen[r, q, n, LIMIT] = i, least[i], saturating[i]
                    predicted[r, q, n, LATENCY] = latency[i]
                    predicted[r, q, n, UPPER] = upper_at(
                        constants, covariance, error, levels[r, q], batches[i], log_work[i],
                        float(log_shares[least[i]]), latency[i],
                    )  # fmt: skip
        evaluated[r] = looked


@compiled_ieee
def logs_of_shares(milli: Floats) -> Floats:
    """log (milli / 1000)."""
    logs = np.empty(milli.shape[0])
    for j in range(milli.shape[0]):
        logs[j] = log_of(milli[j] / 1000.0)
    return logs


@compiled_ieee
def starts_of(milli: Floats) -> Starts:
    """Entry m is the index of the first of the ascending `milli` that is at least m, for m from 0 to the last of them.

    Looked up instead of searched for: a bisection's branches cannot be foretold, and cost more than a latency.
    """
    starts = np.empty(int(milli[-1]) + 1, np.int32)
    j = 0
    for m in range(starts.shape[0]):
        while milli[j] < m:
            j += 1
        starts[m] = j
    return starts


@compiled_ieee
def sweep_serial(
    models: Floats, covariances: Floats, errors: Floats, levels: Floats, budgets: Floats, batches: Floats,
    shares: Floats, limits: Floats, saturation: float, chosen: NDArray[np.int32], predicted: Floats,
    evaluated: NDArray[np.int64],
) -> None:  # fmt: skip
    """`sweep_quotas` on one core."""
    log_shares, log_limits, starts = logs_of_shares(shares), logs_of_shares(limits), starts_of(shares)
    search_rows(
        0, models.shape[0], models, covariances, errors, levels, budgets, batches, shares, log_shares, starts, limits,
        log_limits, saturation, chosen, predicted, evaluated,
    )  # fmt: skip


@compiled_ieee_parallel
def sweep_parallel(
    models: Floats, covariances: Floats, errors: Floats, levels: Floats, budgets: Floats, batches: Floats,
    shares: Floats, limits: Floats, saturation: float, chosen: NDArray[np.int32], predicted: Floats,
    evaluated: NDArray[np.int64],
) -> None:  # fmt: skip
    """`sweep_quotas` over all cores."""
    log_shares, log_limits, starts = logs_of_shares(shares), logs_of_shares(limits), starts_of(shares)
    for span in numba.prange((models.shape[0] + _SPAN - 1) // _SPAN):
        search_rows(
            span * _SPAN, min((span + 1) * _SPAN, models.shape[0]), models, covariances, errors, levels, budgets,
            batches, shares, log_shares, starts, limits, log_limits, saturation, chosen, predicted, evaluated,
        )  # fmt: skip


PARALLEL_FROM = 4_000
"""Searches from which threads repay their start."""


def threads(rows: SweepRows) -> int:
    """How many threads `sweep_quotas` takes for it."""
    return int(numba.get_num_threads()) if rows.searches >= PARALLEL_FROM else 1


def sweep_quotas(rows: SweepRows) -> SweepCells:
    """The best cell of every search, on one core or, where that pays, on all."""
    cells = SweepCells(
        np.empty((*rows.shape, 3), np.int32), np.empty((*rows.shape, 2)), np.empty(rows.models.shape[0], np.int64)
    )
    run = sweep_parallel if threads(rows) > 1 else sweep_serial
    run(*rows, *cells)
    return cells
