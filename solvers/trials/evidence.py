"""All that a trial search knows at one moment, as columns over the grid; strategies read this and nothing else.

It does not depend on the order in which trials came back: repeated measurements of a cell count as their median, and
how far they scatter is the noise. A failed trial excludes what needs as much or more: a run out of memory every greater
or equal batch, another failure the batches at least as great on shares no greater. A cell that was measured is never
excluded by the failure of another.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.quota_answers import BUDGET_TOLERANCE, TIE
from dilu_core.trials import Trial, TrialRecord, TrialSettings

MOST_FAILURES = 2
"""A cell that failed although one that needs as much ran is tried again, until it failed so often."""

MOST_MEASUREMENTS = 8
"""Of one cell. What is still in doubt then counts as a miss."""

_SIGMAS = 2.0  # below the budget where a cell is settled
_CONFIDENCE = 0.99  # the same, by Student's t over the scatter of repeats
_BELIEF = 2.0  # how many repeats' worth of belief stands behind the guard as the noise

Column = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Columns over the n cells of the grid, batch by batch.

    Parameters
    ----------
    grid, batch, sm_milli
        The cells, (n,) in the order of the grid.
    open
        (n,) whether a cell may be asked for, and be the answer.
    latency_ms, count
        (n,) median of the measurements, NaN where there is none, and their number.
    tries
        (n,) how often the cell was measured or failed to be.
    score
        (n,) what the search wants most of: throughput efficacy; for training the reciprocal share. NaN: not measured.
    seen
        The measured cells, on the grid or off it, one row each, ascending; `None` before the first.
    asked
        How many distinct cells the search asked for.
    budget_ms
        What a batch may take. NaN for training until a whole GPU was measured.
    noise, freedom
        Relative scatter of repeated measurements, and the degrees of freedom behind it; 0 and 0 without repeats.
    """

    grid: QuotaGrid
    batch: Column
    sm_milli: Column
    open: Mask
    latency_ms: Column
    count: NDArray[np.int64]
    tries: NDArray[np.int64]
    score: Column
    seen: ProfileSamples | None
    asked: int
    budget_ms: float
    guard: float
    noise: float
    freedom: int

    @property
    def measured(self) -> Mask:
        return self.count > 0

    @property
    def meets(self) -> Mask:
        """Measured, open, and within the budget; cells that repeats could not settle are not."""
        within = self.measured & self.open & (self.latency_ms <= self.budget_ms * (1.0 + BUDGET_TOLERANCE))
        return within & ((self.tries < MOST_MEASUREMENTS) | self.settled)

    @property
    def settled(self) -> Mask:
        """On which side of the budget the latency lies is beyond doubt: `_SIGMAS` of the median's noise away."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.measured & (np.abs(self._distance) >= _SIGMAS * self._believed_noise))

    @property
    def chance(self) -> Column:
        """(n,) probability that a measured latency truly is within the budget; NaN where unmeasured."""
        if self._believed_noise == 0.0:
            return np.where(self.measured, (self._distance >= 0.0).astype(np.float64), np.nan)
        return np.asarray(ndtr(self._distance / self._believed_noise))

    @property
    def _distance(self) -> Column:
        """(n,) how far below the budget the median lies, in logs, times the root of its measurements."""
        return np.asarray(np.log(self.budget_ms / self.latency_ms) * np.sqrt(self.count))

    @property
    def _believed_noise(self) -> float:
        """Standard deviation of a log latency. Before repeats show the noise, the guard stands for it; repeats draw it
        towards their own scatter, and where that is small, Student's t over it does so sooner."""
        belief = (_BELIEF * self.guard**2 + self.freedom * self.noise**2) / (_BELIEF + self.freedom)
        if self.freedom < 2:
            return math.sqrt(belief)
        return min(math.sqrt(belief), float(stdtrit(self.freedom, _CONFIDENCE)) / _SIGMAS * self.noise)

    @property
    def trusted(self) -> Mask:
        """Within the budget by the guard, or settled: what may be the answer."""
        guarded = self.latency_ms <= self.budget_ms * (1.0 - self.guard) * (1.0 + BUDGET_TOLERANCE)
        return np.asarray(self.meets & (guarded | self.settled))

    def best_of(self, cells: Mask) -> int | None:
        """The cell of greatest score among these; ties by less share, then the smaller batch."""
        if not cells.any():
            return None
        tied = np.flatnonzero(cells & (self.score >= self.score[cells].max() * (1.0 - TIE)))
        return int(min(tied, key=lambda i: (self.sm_milli[i], self.batch[i])))

    def trial(self, cell: int) -> Trial:
        return Trial(int(self.batch[cell]), int(self.sm_milli[cell]))

    def cell(self, trial: Trial) -> int | None:
        """Where a trial lies among the cells; `None` off the grid."""
        return cell_of(self.grid, trial)


def cell_of(grid: QuotaGrid, trial: Trial) -> int | None:
    if trial.batch not in grid.batches or trial.sm_milli not in grid.sm_milli:
        return None
    return grid.batches.index(trial.batch) * len(grid.sm_milli) + grid.sm_milli.index(trial.sm_milli)


def gather(settings: TrialSettings, records: Sequence[TrialRecord]) -> Evidence:
    """What these records, in any order, say under these settings."""
    grid = settings.grid
    batch = np.repeat(np.array(grid.batches, dtype=np.float64), len(grid.sm_milli))
    sm_milli = np.tile(np.array(grid.sm_milli, dtype=np.float64), len(grid.batches))
    found: dict[Trial, list[float]] = defaultdict(list)
    for record in records:
        if record.latency_ms is not None:
            found[record.trial].append(record.latency_ms)
    cells = sorted(found)
    medians = np.array([np.median(found[cell]) for cell in cells])
    latency, count = np.full(batch.shape, np.nan), np.zeros(batch.shape, dtype=np.int64)
    for trial, median in zip(cells, medians, strict=True):
        cell = cell_of(grid, trial)
        if cell is not None:
            latency[cell], count[cell] = median, len(found[trial])
    tries = np.zeros(batch.shape, dtype=np.int64)
    for record in records:
        cell = cell_of(grid, record.trial)
        if cell is not None:
            tries[cell] += 1
    seen = None
    if cells:
        seen = ProfileSamples([c.batch for c in cells], [c.sm_milli for c in cells], medians, failure_codes=())
    budget = settings.budget_ms
    if budget is None:
        budget = float(latency[-1]) / settings.fraction  # the only batch on a whole GPU
    noise, freedom = _scatter(list(found.values()))
    return Evidence(
        grid=grid,
        batch=batch,
        sm_milli=sm_milli,
        open=_open_cells(settings, records, batch, sm_milli, count > 0),
        latency_ms=latency,
        count=count,
        tries=tries,
        score=np.where(count > 0, 1.0 / sm_milli, np.nan) if settings.training else 1e6 * batch / (latency * sm_milli),
        seen=seen,
        asked=len({record.trial for record in records if record.asked}),
        budget_ms=budget,
        guard=settings.guard,
        noise=noise,
        freedom=freedom,
    )


def _scatter(measurements: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Pooled standard deviation of log latency within cells, and its degrees of freedom."""
    squares, freedom = 0.0, 0
    for values in measurements:
        if len(values) > 1:
            logs = np.log(np.sort(values))
            squares += float(((logs - logs.mean()) ** 2).sum())
            freedom += len(values) - 1
    return (math.sqrt(squares / freedom), freedom) if freedom else (0.0, 0)


def _open_cells(
    settings: TrialSettings,
    records: Sequence[TrialRecord],
    batch: Column,
    sm_milli: Column,
    measured: Mask,
) -> Mask:
    excluded = np.zeros(batch.shape, dtype=np.bool_)
    ran = [record.trial for record in records if record.latency_ms is not None]
    failures = [record for record in records if record.latency_ms is None]
    for record in failures:
        failed = record.trial
        needs_as_much = batch >= failed.batch
        if not record.out_of_memory:
            needs_as_much &= sm_milli <= failed.sm_milli
        refuted = any(
            trial.batch >= failed.batch and (record.out_of_memory or trial.sm_milli <= failed.sm_milli) for trial in ran
        )
        if not refuted:
            excluded |= needs_as_much
        elif sum(other.trial == failed for other in failures) >= MOST_FAILURES:
            excluded |= (batch == failed.batch) & (sm_milli == failed.sm_milli)
    excluded &= ~measured
    if settings.memory_limit_mib is not None:
        # Memory never falls with the batch, so each measurement bounds every greater batch from below.
        least = np.zeros(batch.shape)
        for record in records:
            if record.memory_mib is not None:
                least = np.where(batch >= record.trial.batch, np.maximum(least, record.memory_mib), least)
        if settings.memory_model is not None:
            modelled = [settings.memory_model.memory_mib(b) for b in settings.grid.batches]
            least = np.maximum(least, np.repeat(modelled, len(settings.grid.sm_milli)))
        excluded |= least > settings.memory_limit_mib
    for trial in settings.blocked:
        cell = cell_of(settings.grid, trial)
        if cell is not None:
            excluded[cell] = True
    return ~excluded
