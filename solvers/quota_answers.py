"""What every quota search is asked, and how the cells it chose become a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.kernels import formulas
from dilu_core.performance import LatencyModel
from dilu_core.quota import LimitRule, QuotaConfig, QuotaGrid, QuotaSearchResult
from dilu_core.result import SolveStats, Termination, TerminationReason

BUDGET_TOLERANCE = 1e-9
"""A bound this little above the budget, relative, still meets it: float noise decides nothing."""

TIE = 1e-9
"""Efficacies and throughputs closer than this, relative, are equal."""


@dataclass(frozen=True)
class Query:
    model: LatencyModel
    budget_ms: float
    grid: QuotaGrid
    blocked: tuple[tuple[int, int], ...]


def quota_result(
    query: Query,
    quantile: float | None,
    rule: LimitRule,
    chosen: tuple[int, int] | None,
    front: Sequence[tuple[int, int]],
    saturating: NDArray[np.int64],
    stats: SolveStats,
) -> QuotaSearchResult:
    """Configurations of the grid cells that a search chose."""
    looked, pruned = stats.counts["evaluated"], stats.counts["pruned"]
    if chosen is None:
        termination = Termination(TerminationReason.INFEASIBLE, None, _why_infeasible(query, quantile))
        return QuotaSearchResult(None, (), looked, pruned, termination, stats)
    cells = [chosen, *front]
    batches = np.array([query.grid.batches[i] for i, _ in cells])
    requests = np.array([query.grid.sm_milli[j] for _, j in cells])
    latency = query.model.latency_ms(batches, requests)
    upper = None if quantile is None else upper_of(query.model, batches, requests, quantile, latency)
    configs = [
        quota_config(
            int(batches[c]),
            int(requests[c]),
            rule.limit_milli(int(requests[c]), int(saturating[i])),
            float(latency[c]),
            None if upper is None else float(upper[c]),
        )
        for c, (i, _) in enumerate(cells)
    ]
    termination = Termination(TerminationReason.OPTIMAL)
    return QuotaSearchResult(configs[0], tuple(configs[1:]), looked, pruned, termination, stats)


def quota_config(batch: int, request: int, limit: int, latency_ms: float, upper_ms: float | None = None) -> QuotaConfig:
    throughput, efficacy = formulas.throughput_rps(batch, latency_ms), formulas.efficacy(batch, latency_ms, request)
    return QuotaConfig(batch, request, limit, latency_ms, throughput, efficacy, upper_ms)


def _why_infeasible(query: Query, quantile: float | None) -> str:
    """What the smallest batch needs at best, beside the budget."""
    batch, shares = query.grid.batches[0], np.array(query.grid.sm_milli)
    latency = query.model.latency_ms(batch, shares)
    upper = upper_of(query.model, np.array(batch), shares, quantile, latency)
    least = int(np.argmin(upper))
    what = "predicted mean" if quantile is None else f"bound at quantile {quantile:g}"
    over = f"least {what} {upper[least]:.4g} ms at batch {batch}, share {shares[least]}"
    if query.blocked:
        return f"no cell that is not blocked meets the budget of {query.budget_ms:.4g} ms ({over})"
    return f"nothing meets the budget of {query.budget_ms:.4g} ms: {over}"


def upper_of(
    model: LatencyModel,
    batch: NDArray[np.int64],
    sm_milli: NDArray[np.int64],
    quantile: float | None,
    latency: NDArray[np.float64],
) -> NDArray[np.float64]:
    bound = getattr(model, "upper_ms", None)
    if quantile is None or bound is None:
        return latency
    return checked_prediction("upper_ms", bound(batch, sm_milli, quantile), latency.shape)


def checked_prediction(name: str, values: object, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """What somebody's model predicted, refused unless it is positive, finite and of the shape asked for."""
    predicted = np.asarray(values, dtype=np.float64)
    if predicted.shape != shape:
        check.fail("fit", f"predicts {name} of shape {predicted.shape} where the inputs broadcast to {shape}.")
    if not (np.isfinite(predicted) & (predicted > 0)).all():
        check.fail("fit", f"predicts {name} that are not all positive and finite on the grid.")
    return predicted


def mark_cells(mask: NDArray[np.uint8], grid: QuotaGrid, cells: Iterable[tuple[int, int]]) -> None:
    batch_index = {batch: i for i, batch in enumerate(grid.batches)}
    share_index = {share: j for j, share in enumerate(grid.sm_milli)}
    for batch, share in cells:
        if batch in batch_index and share in share_index:
            mask[batch_index[batch], share_index[share]] = 1
