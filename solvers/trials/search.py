"""TrialSearch: which configuration to measure next, until the answer is certified or no trial is worth its price.

    search = TrialSearch(grid, slo_ms=200)
    while (trial := search.ask()) is not None:
        search.tell(trial, measure(trial.batch, trial.sm_milli))
    search.best, search.termination

What is asked next depends on the settings, what was told (in any order) and what is outstanding, and on nothing else.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from dilu_core import _checks as check
from dilu_core.errors import StateError
from dilu_core.latency_fit import LatencyFit
from dilu_core.latency_prior import LatencyPrior
from dilu_core.performance import MemoryModel, RooflineModel
from dilu_core.quota import LimitRule, QuotaConfig, QuotaGrid
from dilu_core.result import Limit, Termination, TerminationReason
from dilu_core.samples import FAILURE_CODES, ProfileSamples, failed_latencies
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.quota_answers import TIE, quota_config
from dilu_core.solvers.trials.bisection import propose_bisection
from dilu_core.solvers.trials.evidence import MOST_MEASUREMENTS, Evidence, gather
from dilu_core.solvers.trials.growth import propose_growth
from dilu_core.solvers.trials.guided import propose_guided, worth_a_trial
from dilu_core.solvers.trials.proposal import Proposal
from dilu_core.trials import LONGEST_MS, SHORTEST_MS, Trial, TrialRecord, TrialSettings, trial_of_pair
from dilu_core.units import FULL_GPU_MILLI

_VERSION = 1


class TrialSearch:
    """An ask/tell search for the measured configuration of greatest throughput efficacy within the latency budget.

    Parameters
    ----------
    grid
        Batches and shares to choose from.
    slo_ms
        Latency objective of a request; `None` with strategy "bisection".
    exec_fraction
        The part of the SLO that a batch may execute: the budget is `exec_fraction * slo_ms`.
    guard
        Relative noise that measurements are taken to have until repeats show it. A measurement that stays this fraction
        below the budget is trusted; before the search ends, its answer is measured again unless it lies twice as far
        below (less far after repeats, or where those scatter less). A cell that repeats leave in doubt is a miss. 0
        takes measurements at their word.
    strategy
        "guided"; "hybrid-growth", the search of the Dilu paper, its faults mended; "bisection", for training: the least
        share with `fraction` of a whole GPU's throughput at the grid's only batch.
    seed
        Of the draws behind the probability in `termination`; no trial depends on it.
    prior
        Handed to `fit_latency`.
    tolerance
        Relative efficacy that is not worth a trial. 0 searches until the bounds rule out every other cell.
    max_trials, max_gpu_s
        Budget of trials, repeats included, and of the GPU-seconds told; `None`: no limit. Measurements that were not
        asked for are free.
    memory_limit_mib, memory_model
        Batches whose memory lies above the limit, as measured at this or a smaller batch or by the model, are excluded.
    blocked
        Cells (batch, sm_milli) that must not be asked for or returned.
    fraction
        See "bisection".
    limit_rule
        How the limit of the answer follows from its request and the fit; `None`: `LimitRule()`, for training without
        its `request_factor`.
    failure_codes
        Latencies that stand for failed trials.

    Raises `InvalidArgumentError` naming the argument.
    """

    def __init__(
        self,
        grid: QuotaGrid,
        *,
        slo_ms: float | None,
        exec_fraction: float = 0.5,
        guard: float = 0.03,
        strategy: str = "guided",
        seed: int = 0,
        prior: LatencyPrior | RooflineModel | None = None,
        tolerance: float = 0.01,
        max_trials: int | None = None,
        max_gpu_s: float | None = None,
        memory_limit_mib: float | None = None,
        memory_model: MemoryModel | None = None,
        blocked: Iterable[Trial | tuple[int, int]] = (),
        fraction: float = 0.8,
        limit_rule: LimitRule | None = None,
        failure_codes: Sequence[float] = FAILURE_CODES,
    ) -> None:
        self._settings = TrialSettings(
            grid,
            slo_ms,
            exec_fraction=exec_fraction,
            guard=guard,
            strategy=strategy,
            seed=seed,
            tolerance=tolerance,
            max_trials=max_trials,
            max_gpu_s=max_gpu_s,
            memory_limit_mib=memory_limit_mib,
            memory_model=memory_model,
            blocked=blocked,  # type: ignore[arg-type]  # made a frozenset of trials at the door
            fraction=fraction,
            limit_rule=limit_rule,
            failure_codes=tuple(failure_codes),
        )
        if prior is not None:  # refused now, by the fit itself, rather than at the second trial
            fit_latency(ProfileSamples([1], [FULL_GPU_MILLI], [1.0]), prior=prior)
        self._prior = prior
        self._records: list[TrialRecord] = []
        self._outstanding: list[Trial] = []
        self._evidence: Evidence | None = None
        self._proposal: Proposal | None = None

    @overload
    def ask(self, count: None = None) -> Trial | None: ...
    @overload
    def ask(self, count: int) -> tuple[Trial, ...]: ...
    def ask(self, count: int | None = None) -> Trial | tuple[Trial, ...] | None:
        """The next trial; `None` where nothing is worth one, or all that is depends on trials still outstanding.

        With `count`, up to that many distinct trials to run side by side, chosen as if those before them had come back
        as predicted; an empty tuple for none. Every trial asked for stays outstanding until told, and is distinct from
        the others that are. A cell that was measured is asked for again where the answer hangs on its noise.
        """
        wanted = 1 if count is None else check.integer("count", count, at_least=0)
        trials: list[Trial] = []
        while len(trials) < wanted:
            proposal = self._propose()
            if proposal.cell is None or self._spent(self._outstanding) is not None:
                break
            trials.append(self._gathered().trial(proposal.cell))
            self._outstanding.append(trials[-1])
            self._proposal = None
        if count is not None:
            return tuple(trials)
        return trials[0] if trials else None

    def tell(
        self,
        trial: Trial,
        latency_ms: float | None,
        *,
        memory_mib: float | None = None,
        gpu_s: float | None = None,
        out_of_memory: bool = False,
    ) -> None:
        """What a trial gave, whether it was asked for or not, on the grid or off it; any number of times.

        `None`, NaN, an infinite, zero or negative latency and the failure codes stand for a failed trial, which counts
        as a miss and excludes the batches at least as great on shares no greater; with `out_of_memory`, on every share.
        `memory_mib` is what it used, `gpu_s` what it cost. Raises `InvalidArgumentError` naming the argument.
        """
        if not isinstance(trial, Trial):
            check.fail("trial", f"is {trial!r:.80}; expected a Trial.")
        asked = trial in self._outstanding
        latency = None if out_of_memory else self._latency(latency_ms)
        self._records.append(TrialRecord(trial, latency, memory_mib, gpu_s, out_of_memory, asked))
        if asked:
            self._outstanding.remove(trial)
        self._evidence = self._proposal = None

    def withdraw(self, trial: Trial) -> None:
        """Forget that an outstanding trial was asked for, such as one whose machine was lost; it may be asked again.

        Raises `StateError` where it is not outstanding.
        """
        if trial not in self._outstanding:
            raise StateError(f"{trial} is not outstanding; outstanding are {self._outstanding or 'none'}.")
        self._outstanding.remove(trial)
        self._proposal = None

    def tell_samples(self, samples: ProfileSamples) -> None:
        """Measurements made before, every row one; they cost none of the budget."""
        if not isinstance(samples, ProfileSamples):
            check.fail("samples", f"is {samples!r:.80}; expected ProfileSamples.")
        for i in range(len(samples)):
            memory = math.nan if samples.memory_mib is None else float(samples.memory_mib[i])
            trial = Trial(int(samples.batch[i]), int(samples.sm_milli[i]))
            latency = self._latency(samples.latency_ms[i])
            self._records.append(TrialRecord(trial, latency, None if math.isnan(memory) else memory, asked=False))
        self._evidence = self._proposal = None

    @property
    def best(self) -> QuotaConfig | None:
        """The measured cell of greatest efficacy (training: least share) that is trusted to meet the budget.

        Its latency is the median of its measurements; its limit follows from the fit. `None`: there is none yet.
        """
        evidence = self._gathered()
        cell = evidence.best_of(evidence.trusted)
        if cell is None:
            return None
        trial = evidence.trial(cell)
        return quota_config(trial.batch, trial.sm_milli, self._limit_of(trial), float(evidence.latency_ms[cell]))

    @property
    def termination(self) -> Termination:
        """Why the search stopped and what is known about `best`, or that it is under way.

        `OPTIMAL`: certified, in the sense that `detail` states. `FEASIBLE`: `detail` says what could still be better,
        and with which odds. `INFEASIBLE`: certified by a measured miss and monotonicity. `NO_SOLUTION_FOUND`: nothing
        trusted, nothing proven.
        """
        limit = self._spent(())
        proposal = self._propose()
        known = TerminationReason.NO_SOLUTION_FOUND if self.best is None else TerminationReason.FEASIBLE
        if not self._outstanding and proposal.termination is not None:
            ended = proposal.termination
            if known is TerminationReason.FEASIBLE or ended.reason is TerminationReason.INFEASIBLE:
                return ended
            return Termination(known, None, ended.detail)
        if limit is not None and not self._outstanding:
            what = "trials" if limit is Limit.TRIALS else "GPU-seconds"
            return Termination(known, limit, f"the budget of {what} is spent; {self._in_doubt(proposal)}")
        return Termination(known, None, "under way")

    @property
    def done(self) -> bool:
        """Whether nothing is outstanding and `ask` would return `None`."""
        if self._outstanding:
            return False
        return self._propose().cell is None or self._spent(()) is not None

    @property
    def trials(self) -> tuple[TrialRecord, ...]:
        """Everything told, in that order."""
        return tuple(self._records)

    @property
    def outstanding(self) -> tuple[Trial, ...]:
        """Trials asked for and not yet told."""
        return tuple(self._outstanding)

    @property
    def settings(self) -> TrialSettings:
        """What the search was told at its start."""
        return self._settings

    @property
    def budget_ms(self) -> float | None:
        """What a batch may take; for training `None` until a whole GPU was measured."""
        budget = self._gathered().budget_ms
        return None if math.isnan(budget) else budget

    @property
    def samples(self) -> ProfileSamples | None:
        """Every successful measurement, one row each, in the order told; `None` before the first."""
        told = [record for record in self._records if record.latency_ms is not None]
        if not told:
            return None
        memory = [math.nan if record.memory_mib is None else record.memory_mib for record in told]
        return ProfileSamples(
            [record.trial.batch for record in told],
            [record.trial.sm_milli for record in told],
            [record.latency_ms or math.nan for record in told],
            memory_mib=None if np.isnan(memory).all() else memory,
            dropped=len(self._records) - len(told),
            failure_codes=(),
        )

    @property
    def fit(self) -> LatencyFit | None:
        """The latency fit of what was measured, one row per cell; `None` before the first."""
        seen = self._gathered().seen
        return None if seen is None else fit_latency(seen, prior=self._prior)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value from which `from_dict` continues identically."""
        return {
            "version": _VERSION,
            "settings": self._settings.to_dict(),
            "prior": None if self._prior is None else self._prior.to_dict(),
            "records": [record.to_dict() for record in self._records],
            "outstanding": [[trial.batch, trial.sm_milli] for trial in self._outstanding],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialSearch:
        """The search `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("trial_search", data, version=_VERSION)
        settings = TrialSettings.from_dict(check.item("trial_search", document, "settings"))
        kept = check.item("trial_search", document, "prior")
        prior: LatencyPrior | RooflineModel | None = None
        if kept is not None:
            prior = (RooflineModel if isinstance(kept, Mapping) and "form" in kept else LatencyPrior).from_dict(kept)
        values = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
        search = cls(values.pop("grid"), prior=prior, **values)
        for where, entry in check.entries("trial_search", document, "records"):
            search._records.append(TrialRecord.from_dict(entry, argument=where))
        pairs = check.item("trial_search", document, "outstanding")
        if not isinstance(pairs, list | tuple):
            check.fail("trial_search.outstanding", f"is {pairs!r:.80}; expected a list of pairs.")
        for i, pair in enumerate(pairs):
            where = f"trial_search.outstanding[{i}]"
            trial = trial_of_pair(where, pair)
            if trial.batch not in settings.grid.batches or trial.sm_milli not in settings.grid.sm_milli:
                check.fail(where, f"is {pair!r}, which lies off the grid; it was never asked for.")
            search._outstanding.append(trial)
        return search

    def _gathered(self) -> Evidence:
        if self._evidence is None:
            self._evidence = gather(self._settings, self._records)
        return self._evidence

    def _propose(self) -> Proposal:
        """The strategy's proposal; where it would stop with its answer in doubt, a repeat of the deciding trial."""
        if self._proposal is not None:
            return self._proposal
        evidence, settings = self._gathered(), self._settings
        outstanding = frozenset(cell for trial in self._outstanding if (cell := evidence.cell(trial)) is not None)
        if settings.strategy == "guided":
            proposal = propose_guided(settings, evidence, outstanding, self._prior)
        elif settings.strategy == "hybrid-growth":
            proposal = propose_growth(settings, evidence, outstanding)
        else:
            proposal = propose_bisection(settings, evidence, outstanding)
        if proposal.cell is None and proposal.termination is not None:
            doubtful = _doubtful(settings, evidence, proposal.termination)
            if doubtful is not None:
                proposal = Proposal() if doubtful in outstanding else Proposal(doubtful)
        self._proposal = proposal
        return proposal

    def _spent(self, outstanding: Sequence[Trial]) -> Limit | None:
        """The budget that leaves no room for one trial more."""
        asked = [record for record in self._records if record.asked]
        most, most_s = self._settings.max_trials, self._settings.max_gpu_s
        if most is not None and len(asked) + len(outstanding) >= most:
            return Limit.TRIALS
        if most_s is not None and sum(record.gpu_s or 0.0 for record in asked) >= most_s:
            return Limit.TIME
        return None

    def _latency(self, value: object) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real | np.integer | np.floating):
            check.fail("latency_ms", f"is {value!r:.80}; expected a number, or None for a failed trial.")
        try:
            latency = np.array([value], dtype=np.float64)
        except OverflowError:
            return None
        if failed_latencies(latency, self._settings.failure_codes)[0] or not SHORTEST_MS <= latency[0] <= LONGEST_MS:
            return None
        return float(latency[0])

    def _in_doubt(self, proposal: Proposal) -> str:
        evidence = self._gathered()
        if proposal.cell is None:
            return "what was measured says no more"
        trial = evidence.trial(proposal.cell)
        where = f"batch {trial.batch}, share {trial.sm_milli}"
        return f"{where} would be measured {'again' if evidence.measured[proposal.cell] else 'next'}"

    def _limit_of(self, trial: Trial) -> int:
        fit, rule = self.fit, self._settings.limit_rule
        assert fit is not None
        assert rule is not None
        shares = np.array(self._settings.grid.sm_milli)
        whole = float(fit.latency_ms(trial.batch, FULL_GPU_MILLI))
        enough = fit.latency_ms(trial.batch, shares) <= whole / rule.throughput_fraction * (1.0 + TIE)
        saturating = int(shares[np.argmax(enough)]) if enough.any() else FULL_GPU_MILLI
        return rule.limit_milli(trial.sm_milli, saturating)


def _doubtful(settings: TrialSettings, evidence: Evidence, ended: Termination) -> int | None:
    """The measured cell on which the answer hangs, if noise may have put it on the wrong side of the budget.

    First the answer itself; then a better cell that was measured over the budget, where its chance to be within it,
    times the gain, is worth a trial; without an answer, the least latency, which decides that there is none.
    """
    again = evidence.measured & evidence.open & ~evidence.settled & (evidence.tries < MOST_MEASUREMENTS)
    best = evidence.best_of(evidence.meets)
    if best is not None and again[best]:
        return best
    over = again & (evidence.latency_ms > evidence.budget_ms)
    if best is None:
        if ended.reason is not TerminationReason.INFEASIBLE or not over.any():
            return None
        return int(np.argmin(np.where(over, evidence.latency_ms, np.inf)))
    gain = np.where(over, evidence.chance * np.log(evidence.score / evidence.score[best]), 0.0)
    likely = int(np.argmax(gain))
    return likely if gain[likely] > worth_a_trial(settings, evidence) else None
