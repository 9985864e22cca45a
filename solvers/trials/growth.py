"""Hybrid growth search for inference, as Dilu publishes it (Lv et al., ASPLOS 2025, doi 10.1145/3669940.3707251).

From the smallest batch on the least share, give more share until the budget holds; then double the batch, which may
cost one more step of share, until that still misses or throughput efficacy falls.

Mended: shares and batches are those of the grid, so that no step leaves it; an infeasible budget ends at the greatest
share; efficacy may fall by a relative tolerance, whatever the scale; and the best point seen is returned, not the last.
"""

from __future__ import annotations

import math

import numpy as np

from dilu_core.result import Termination, TerminationReason
from dilu_core.solvers.trials.evidence import Evidence
from dilu_core.solvers.trials.proposal import Proposal, Walk, follow
from dilu_core.trials import TrialSettings


def propose_growth(settings: TrialSettings, evidence: Evidence, outstanding: frozenset[int]) -> Proposal:
    """The next step of the growth; one at a time, since each depends on the last."""
    return follow(_growth(settings, evidence), evidence, outstanding)


def _growth(settings: TrialSettings, evidence: Evidence) -> Walk:
    grid, tolerance = settings.grid, settings.tolerance
    shares, batches = len(grid.sm_milli), len(grid.batches)
    share = 0
    while not (yield share):
        share += 1
        if share == shares:
            return _no_start(settings, evidence)
    accepted, batch = float(evidence.score[share]), 0
    while True:
        batch = _doubled(grid.batches, batch)
        if batch == batches:
            return _stopped("the greatest batch of the grid was reached")
        if not (yield batch * shares + share):
            share += 1
            if share == shares:
                return _stopped("the next batch needs more than the greatest share")
            if not (yield batch * shares + share):
                return _stopped("the next batch misses, with one more step of share too")
        efficacy = float(evidence.score[batch * shares + share])
        if efficacy < accepted * (1.0 - tolerance):
            return _stopped("efficacy fell with the next batch")
        accepted = max(accepted, efficacy)


def _doubled(batches: tuple[int, ...], batch: int) -> int:
    """The first batch of the grid that is at least twice this one; the greatest where none is; then the end."""
    if batch == len(batches) - 1:
        return len(batches)
    wanted = 2 * batches[batch]
    return next((i for i in range(batch + 1, len(batches)) if batches[i] >= wanted), len(batches) - 1)


def _stopped(why: str) -> Termination:
    return Termination(
        TerminationReason.FEASIBLE, None, f"the growth ended where {why}; what lies off its path was not looked at"
    )


def _no_start(settings: TrialSettings, evidence: Evidence) -> Termination:
    smallest = evidence.latency_ms[: len(settings.grid.sm_milli)]
    if np.isnan(smallest[-1]):
        detail = f"batch {settings.grid.batches[0]} could not be measured at the greatest share"
        return Termination(TerminationReason.NO_SOLUTION_FOUND, None, detail)
    least = float(np.nanmin(smallest)) if not np.isnan(smallest).all() else math.nan
    detail = (
        f"batch {settings.grid.batches[0]}, the smallest, misses the budget of {evidence.budget_ms:.4g} ms at every "
        f"share (at least {least:.4g} ms), and latency rises in the batch"
    )
    return Termination(TerminationReason.INFEASIBLE, None, detail)
