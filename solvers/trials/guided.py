"""The guided strategy: measure where the fit expects most, stop when nothing is worth a trial, and say what is left.

The first trial is the middle of the grid, in log batch and log share. While nothing meets the budget, the next one is
the cell of greatest efficacy times its chance to meet it; once something does, the cell of greatest expected
improvement of log efficacy,

    EI = E[ max(0, g - l - log best) ; l <= log budget ],   l = log t ~ N(mean, spread),  g = log(batch / share),

among cells that the monotone bounds, loosened by the unevenness seen, do not rule out. It stops when they rule out all
(`OPTIMAL`), or when no trial is expected to gain `STOP` of the tolerance, and more beyond `PATIENCE` trials
(`FEASIBLE`, with the odds of what is left).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from dilu_core.latency_fit import LatencyFit
from dilu_core.latency_prior import LatencyPrior
from dilu_core.performance import RooflineModel
from dilu_core.result import Termination, TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.quota_answers import BUDGET_TOLERANCE
from dilu_core.solvers.trials.bounds import dominated_ms, largest_violation, monotone_bounds
from dilu_core.solvers.trials.evidence import Evidence, Mask
from dilu_core.solvers.trials.proposal import Proposal
from dilu_core.solvers.trials.surrogate import Surrogate
from dilu_core.trials import TrialSettings

STOP = 0.3
"""A trial must be expected to gain this part of the tolerance."""

UNEVENNESS = 0.05
"""By how much latencies may break the monotone bounds, at least; 1.2 times what they were seen to, if that is more."""

PATIENCE = 10
"""Beyond so many trials each must be expected to gain more, in proportion: on a fine grid thousands of cells differ by
less than the roughness of latencies, and some of them would seem worth a trial for ever."""

_MOST_UNEVENNESS = 0.4  # where measurements break the bounds by more, these are no longer believed
_LONG_SHOT = 0.5  # without a cell likelier than this to meet the budget, the likeliest of all is asked for
_DRAWS, _DRAWN_CELLS = 1000, 200
_LEAST_ODDS = 0.02  # stated odds below this are no better than this: the fit does not know how it may be wrong
_STARTS = ((0.5, 0.5), (0.75, 0.25), (0.25, 0.25), (0.75, 0.75), (0.25, 0.75))  # of the log ranges of batch and share

Column = NDArray[np.float64]
Prior = LatencyPrior | RooflineModel | None


def propose_guided(
    settings: TrialSettings,
    evidence: Evidence,
    outstanding: frozenset[int],
    prior: Prior = None,
) -> Proposal:
    """The trial to run next, as if those outstanding had come back as predicted."""
    waiting = np.zeros(evidence.open.shape, dtype=np.bool_)
    waiting[list(outstanding)] = True
    fresh = evidence.open & ~evidence.measured & ~waiting
    best = evidence.best_of(evidence.meets)
    if best is None and _surely_infeasible(evidence):
        return Proposal(termination=_infeasible(evidence))
    if evidence.seen is None:
        cell = _start(evidence, fresh)
        return _nothing_left(evidence, waiting) if cell is None else Proposal(cell)
    view = _look(settings, evidence, fresh, best, waiting, prior)
    if not view.promising.any():
        if best is None:
            return _nothing_left(evidence, waiting)
        return Proposal(termination=_optimal(settings, evidence, view))
    if best is None:
        return Proposal(_likeliest(view))
    gain = np.where(view.promising, _expected_improvement(view), -1.0)
    cell = int(np.argmax(gain))
    if gain[cell] >= worth_a_trial(settings, evidence):
        return Proposal(cell)
    return Proposal(termination=_feasible(settings, evidence, view, float(gain[cell])))


def worth_a_trial(settings: TrialSettings, evidence: Evidence) -> float:
    """The gain of log efficacy that a trial must be expected to bring."""
    return STOP * settings.tolerance * max(1.0, evidence.asked / PATIENCE)


@dataclass(frozen=True, eq=False)
class _View:
    """The grid as the guided search sees it: logs of latency in ms, of the budget and of the efficacy to beat."""

    promising: Mask  # not measured, not outstanding, and not ruled out by the bounds
    mean: Column
    spread: Column
    lower: Column
    upper: Column
    worth: Column  # g: log efficacy + log latency
    budget: float
    best: float
    slack: float
    surrogate: Surrogate
    evidence: Evidence


def _look(
    settings: TrialSettings,
    evidence: Evidence,
    fresh: Mask,
    best: int | None,
    waiting: Mask,
    prior: Prior,
) -> _View:
    assert evidence.seen is not None
    seen, batch, sm_milli = evidence.seen, evidence.batch, evidence.sm_milli
    slack = _slack(seen)
    lower, upper = monotone_bounds(*_seen(seen), batch, sm_milli)
    if slack > _MOST_UNEVENNESS:  # what was measured refutes the bounds, so that they rule out nothing
        lower, upper = np.zeros(batch.shape), np.full(batch.shape, np.inf)
    with np.errstate(divide="ignore"):
        low, high = np.log(lower * (1.0 - slack)), np.log(upper * (1.0 + slack))
    worth = np.log(1e6 * batch / sm_milli)
    target = -math.inf if best is None else math.log(float(evidence.score[best]))
    budget = math.log(evidence.budget_ms)
    surrogate = Surrogate(_believing(evidence, waiting, _fit(seen, prior), prior), evidence.noise)
    mean, spread = surrogate.at(batch, sm_milli)
    return _View(
        promising=fresh & (low <= budget) & (worth - low > target + math.log1p(settings.tolerance)),
        mean=np.clip(mean, low, high),
        spread=spread,
        lower=low,
        upper=high,
        worth=worth,
        budget=budget,
        best=target,
        slack=slack,
        surrogate=surrogate,
        evidence=evidence,
    )


def _believing(evidence: Evidence, waiting: Mask, fit: LatencyFit, prior: Prior) -> LatencyFit:
    """The fit as if outstanding trials had come back as it predicts (kriging believer): sure of them, not moved."""
    if not waiting.any():
        return fit
    batch, sm_milli = evidence.batch[waiting], evidence.sm_milli[waiting]
    mean, _ = Surrogate(fit, evidence.noise).at(batch, sm_milli)
    assert evidence.seen is not None
    seen = evidence.seen
    together = ProfileSamples(
        np.append(seen.batch, batch),
        np.append(seen.sm_milli, sm_milli),
        np.append(seen.latency_ms, np.exp(mean)),
        failure_codes=(),
    )
    return _fit(together, prior)


def _fit(samples: ProfileSamples, prior: Prior) -> LatencyFit:
    return fit_latency(samples, prior=prior, residual=False)


def _start(evidence: Evidence, fresh: Mask) -> int | None:
    """The middle of what may be asked for, in log scales; where that is taken, the middles of its quarters."""
    if not fresh.any():
        return None
    x, y = _unit(np.log(evidence.batch), evidence.open), _unit(np.log(evidence.sm_milli), evidence.open)
    nearest = None
    for u, v in _STARTS:
        far = (x - u) ** 2 + (y - v) ** 2
        nearest = int(np.argmin(np.where(evidence.open, far, np.inf)))
        if fresh[nearest]:
            return nearest
    return int(np.flatnonzero(fresh)[0])


def _unit(values: Column, mask: Mask) -> Column:
    low, high = values[mask].min(), values[mask].max()
    return np.asarray((values - low) / (high - low if high > low else 1.0))


def _likeliest(view: _View) -> int:
    """Before anything meets the budget: efficacy times the chance to meet it; a long shot asks for the best chance."""
    chance = np.where(view.promising, ndtr((view.budget - view.mean) / view.spread), -1.0)
    if chance.max() < _LONG_SHOT:
        return int(np.argmax(chance))
    efficacy = np.exp(view.worth - view.mean - (view.worth - view.mean).max())
    return int(np.argmax(chance * efficacy))


def _expected_improvement(view: _View) -> Column:
    """EI of log efficacy, in closed form: with c = min(log budget, g - log best), z = (c - mean) / spread,
    (g - log best - mean) Phi(z) + spread phi(z)."""
    target = view.worth - view.best
    z = (np.minimum(view.budget, target) - view.mean) / view.spread
    density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return np.asarray((target - view.mean) * ndtr(z) + view.spread * density)


def _surely_infeasible(evidence: Evidence) -> bool:
    """Every open cell was measured over the budget, needs at least what a measured miss does, or lies over the budget
    by the loosened bounds."""
    if evidence.seen is None or not evidence.open.any():
        return False
    if _slack(evidence.seen) > _MOST_UNEVENNESS:
        least = evidence.latency_ms[evidence.open]
        return bool((least > evidence.budget_ms * (1.0 + BUDGET_TOLERANCE)).all())
    columns = _seen(evidence.seen)
    lower, _ = monotone_bounds(*columns, evidence.batch, evidence.sm_milli)
    bound = np.maximum(lower * (1.0 - _slack(evidence.seen)), dominated_ms(*columns, evidence.batch, evidence.sm_milli))
    least = np.where(evidence.measured, evidence.latency_ms, bound)[evidence.open]
    return bool((least > evidence.budget_ms * (1.0 + BUDGET_TOLERANCE)).all())


def _seen(samples: ProfileSamples) -> tuple[Column, Column, Column]:
    return samples.batch.astype(np.float64), samples.sm_milli.astype(np.float64), samples.latency_ms


def _slack(samples: ProfileSamples) -> float:
    """By which part latencies are allowed to break the bounds; beyond _MOST_UNEVENNESS these are refuted."""
    return min(max(UNEVENNESS, 1.2 * largest_violation(*_seen(samples))), 0.99)


def _infeasible(evidence: Evidence) -> Termination:
    looked_at = evidence.open & evidence.measured
    detail = (
        f"nothing meets the budget of {evidence.budget_ms:.4g} ms, if latency rises in the batch and falls in the share"
    )
    if looked_at.any():
        least = int(np.nanargmin(np.where(looked_at, evidence.latency_ms, np.nan)))
        cell = evidence.trial(least)
        detail += f": {evidence.latency_ms[least]:.4g} ms at batch {cell.batch}, share {cell.sm_milli}"
    return Termination(TerminationReason.INFEASIBLE, None, detail + _left_out(evidence))


def _left_out(evidence: Evidence) -> str:
    """What no certificate speaks of: cells that failed trials, memory or the caller took out of the search."""
    count = int((~evidence.open).sum())
    if not count:
        return ""
    return f"; of {count} {'cell' if count == 1 else 'cells'} blocked, failed or beyond memory nothing is said"


def _nothing_left(evidence: Evidence, waiting: Mask) -> Proposal:
    if waiting.any():
        return Proposal()
    detail = "every cell failed, is excluded, or could not be shown to meet the budget"
    if evidence.open.any():
        detail = (
            "no cell that could meet the budget is left to measure, and none that was measured does so beyond doubt"
        )
    return Proposal(termination=Termination(TerminationReason.NO_SOLUTION_FOUND, None, detail))


def _optimal(settings: TrialSettings, evidence: Evidence, view: _View) -> Termination:
    if view.slack > _MOST_UNEVENNESS:
        detail = "every cell was measured, or cannot be" + _left_out(evidence)
        return Termination(TerminationReason.FEASIBLE, None, detail)
    detail = (
        f"no unmeasured cell can have over {settings.tolerance:.3g} more efficacy, relative, if latencies keep the "
        f"monotone bounds within {view.slack:.1%}"
    )
    return Termination(TerminationReason.OPTIMAL, None, detail + _left_out(evidence))


def _feasible(settings: TrialSettings, evidence: Evidence, view: _View, gain: float) -> Termination:
    """Stopped by expectation: what could still be better, with which odds by the fit, and by how much."""
    expected = _expected_improvement(view)
    cells = np.flatnonzero(view.promising)
    cells = cells[np.argsort(-expected[cells], kind="stable")][:_DRAWN_CELLS]
    logs = view.surrogate.draws(evidence.batch[cells], evidence.sm_milli[cells], _DRAWS, settings.seed)
    logs = np.clip(logs, view.lower[cells], view.upper[cells])
    gains = np.where(logs <= view.budget, view.worth[cells] - logs - view.best, 0.0).max(axis=1)
    better = gains > math.log1p(settings.tolerance)
    likely = evidence.trial(int(cells[0]))
    count = int(view.promising.sum())
    odds = f"{better.mean():.1%}" if better.mean() >= _LEAST_ODDS else f"below {_LEAST_ODDS:.0%}"
    detail = (
        f"{count} unmeasured {'cell' if count == 1 else 'cells'} could still be better; by the fit, with probability "
        f"{odds} one is by over {settings.tolerance:.3g}, relative"
    )
    if better.any():
        detail += f", then by {math.expm1(float(gains[better].mean())):.1%} on average"
    detail += (
        f". The likeliest is batch {likely.batch}, share {likely.sm_milli}, and a trial of it is expected to gain "
        f"{max(gain, 0.0):.2%}{_left_out(evidence)}"
    )
    if view.slack > _MOST_UNEVENNESS:
        detail += ". Measurements contradict each other by more than the monotone bounds forgive; nothing is proven"
    return Termination(TerminationReason.FEASIBLE, None, detail)
