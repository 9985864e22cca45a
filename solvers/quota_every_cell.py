"""The quota search of a model of which nothing is known but its predictions: every cell of the grid is looked at."""

from __future__ import annotations

import time

import numpy as np

from dilu_core.quota import LimitRule, QuotaSearchResult
from dilu_core.result import SolveStats
from dilu_core.solvers.quota_answers import (
    BUDGET_TOLERANCE,
    TIE,
    Query,
    checked_prediction,
    mark_cells,
    quota_result,
    upper_of,
)
from dilu_core.units import FULL_GPU_MILLI


def search_every_cell(
    query: Query, quantile: float | None, rule: LimitRule, pareto: bool, backend: str
) -> QuotaSearchResult:
    """The search of a model of which nothing is known but its predictions."""
    started = time.perf_counter()
    batches = np.array(query.grid.batches)[:, None]
    shares = np.array(query.grid.sm_milli)
    latency = checked_prediction("latency_ms", query.model.latency_ms(batches, shares), (len(batches), len(shares)))
    upper = upper_of(query.model, batches, shares, quantile, latency)
    whole = checked_prediction("latency_ms", query.model.latency_ms(batches, FULL_GPU_MILLI), (len(batches), 1))
    blocked = np.zeros(latency.shape, dtype=np.uint8)
    mark_cells(blocked, query.grid, query.blocked)
    feasible = (upper <= query.budget_ms * (1.0 + BUDGET_TOLERANCE)) & (blocked == 0)
    throughput = 1000.0 * batches / latency
    efficacy = np.where(feasible, throughput / (shares / 1000.0), 0.0)
    chosen = None
    if feasible.any():
        tied = np.argwhere(feasible & (efficacy >= efficacy.max() * (1.0 - TIE)))
        i, j = min(tied.tolist(), key=lambda cell: (cell[1], cell[0]))
        chosen = (i, j)
    cells, top = [], 0.0
    for j in range(len(shares)) if pareto else ():
        gain = np.where(feasible[:, j] & (throughput[:, j] > top * (1.0 + TIE)), throughput[:, j], 0.0)
        if gain.max() > 0:
            i = int(np.argmax(gain >= gain.max() * (1.0 - TIE)))
            cells.append((i, j))
            top = float(throughput[i, j])
    enough = latency <= whole / rule.throughput_fraction * (1.0 + TIE)
    saturating = np.where(enough.any(axis=1), shares[np.argmax(enough, axis=1)], FULL_GPU_MILLI)
    stats = SolveStats(time.perf_counter() - started, backend, {"evaluated": latency.size, "pruned": 0})
    return quota_result(query, quantile, rule, chosen, cells, saturating, stats)
