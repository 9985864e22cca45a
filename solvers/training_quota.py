"""Request and limit of a training job: the least shares that give most, and all but all, of full throughput."""

from __future__ import annotations

import time

import numpy as np

from dilu_core import _checks as check
from dilu_core.latency_fit import TrainingFit
from dilu_core.quota import QuotaGrid, QuotaSearchResult
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.solvers.quota_answers import TIE, quota_config
from dilu_core.training_model import TrainingModel
from dilu_core.units import FULL_GPU_MILLI


def search_training_quota(
    fit: TrainingFit | TrainingModel,
    *,
    fraction: float = 0.8,
    grid: QuotaGrid | None = None,
    limit_fraction: float = 0.98,
) -> QuotaSearchResult:
    """Request and limit of a training job: the least shares with `fraction` and `limit_fraction` of full throughput.

    Full throughput is what the model gives on a whole GPU. Of `grid` only the shares matter (`None`: 10, 20, ..., 1000;
    for a `TrainingFit` from the least measured share on). Where no share of the grid reaches `limit_fraction` the limit
    is a whole GPU; where none reaches `fraction` the result is `INFEASIBLE`. `pareto` holds the shares from the request
    on that still gain throughput. Raises `InvalidArgumentError` naming the argument.
    """
    started = time.perf_counter()
    if isinstance(fit, TrainingFit):
        model, least = fit.model, int(fit.step.samples.sm_milli.min())
    elif isinstance(fit, TrainingModel):
        model, least = fit, 1
    else:
        check.fail("fit", f"is {fit!r:.80}; expected a TrainingFit or TrainingModel.")
    wanted = check.finite("fraction", fraction, above=0, at_most=1)
    saturated = check.finite("limit_fraction", limit_fraction, above=0, at_most=1)
    if grid is None:
        grid = QuotaGrid.regular(model.batch, 10, least_milli=least)
    elif not isinstance(grid, QuotaGrid):
        check.fail("grid", f"is {grid!r:.80}; expected a QuotaGrid.")
    shares = np.array(grid.sm_milli)
    latency = model.step_ms(shares)
    part = float(model.step_ms(FULL_GPU_MILLI)) / latency * (1.0 + TIE)
    enough = np.flatnonzero(part >= wanted)
    stats = SolveStats(time.perf_counter() - started, counts={"evaluated": len(shares)})
    if not enough.size:
        detail = f"share {shares[-1]}, the grid's greatest, gives {part[-1]:.1%} of full throughput, not {wanted:.1%}"
        return QuotaSearchResult(
            None, (), len(shares), 0, Termination(TerminationReason.INFEASIBLE, None, detail), stats
        )
    saturating = shares[part >= saturated]
    limit = int(saturating[0]) if saturating.size else FULL_GPU_MILLI
    gaining = [j for j in range(enough[0], len(shares)) if j == enough[0] or latency[j] < latency[j - 1] * (1.0 - TIE)]
    configs = [
        quota_config(model.batch, int(shares[j]), max(limit, int(shares[j])), float(latency[j])) for j in gaining
    ]
    termination = Termination(TerminationReason.OPTIMAL)
    return QuotaSearchResult(configs[0], tuple(configs), len(shares), 0, termination, stats)
