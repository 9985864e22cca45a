"""Bisection for training: the least share with a fraction of a whole GPU's throughput, at the job's batch.

The published search (Lv et al., ASPLOS 2025) starts at a half and only goes up, and may loop at the end. This one
keeps two measured ends, a share that misses and one that meets, so that it reaches every share and always ends.
"""

from __future__ import annotations

import math

from dilu_core.result import Termination, TerminationReason
from dilu_core.solvers.trials.evidence import Evidence
from dilu_core.solvers.trials.proposal import Proposal, Walk, follow
from dilu_core.trials import TrialSettings


def propose_bisection(settings: TrialSettings, evidence: Evidence, outstanding: frozenset[int]) -> Proposal:
    """The whole GPU, then the middle of the shares in question; one at a time, since each depends on the last."""
    return follow(_bisection(settings, evidence), evidence, outstanding)


def _bisection(settings: TrialSettings, evidence: Evidence) -> Walk:
    shares = settings.grid.sm_milli
    meets = len(shares) - 1
    yield meets
    if math.isnan(evidence.budget_ms):
        detail = "training failed on a whole GPU, so there is no throughput to ask a fraction of"
        return Termination(TerminationReason.NO_SOLUTION_FOUND, None, detail)
    misses = -1
    while meets - misses > 1:
        middle = (misses + meets) // 2
        if (yield middle):
            meets = middle
        else:
            misses = middle
    least = f"share {shares[meets]} is the least with {settings.fraction:.0%} of full throughput"
    if misses >= 0:
        least += f": {shares[misses]}, the next smaller, has less"
    return Termination(TerminationReason.OPTIMAL, None, f"{least}, if throughput does not fall with more share")
