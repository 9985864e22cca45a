"""Run a trial search to its end: ask, measure, tell; one after the other, or side by side on an executor."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path

from dilu_core import _checks as check
from dilu_core.result import SolveStats
from dilu_core.solvers.trials.search import TrialSearch
from dilu_core.trials import Trial, TrialResult

Measurement = float | None | tuple[float | None, float | None]
"""A latency in ms, or (latency in ms, memory in MiB); `None` for what failed, or was not measured."""

Measure = Callable[[int, int], Measurement]
Progress = Callable[[TrialSearch], None]


def run_trials(
    search: TrialSearch,
    measure: Measure,
    *,
    progress: Progress | None = None,
    executor: Executor | None = None,
    parallel: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
) -> TrialResult:
    """Feed the search with `measure(batch, sm_milli)` until it stops.

    Parameters
    ----------
    search
        Fresh, or restored from JSON; trials that were outstanding then are run first.
    measure
        The caller's own measurement. An out-of-memory error (`MemoryError`, or any whose class is called
        `OutOfMemoryError`) is a failed trial; any other error ends the run and is raised, with what was told before
        still in the search. Its wall time is told as the trial's GPU-seconds.
    progress
        Called with the search after every trial, and once before the first.
    executor, parallel
        `parallel` trials at a time on this `concurrent.futures.Executor` (one GPU each; a process pool needs a
        `measure` that pickles). Which trials are run then depends on the order in which they end.
    checkpoint
        File that holds the search as JSON after every trial, replaced in one step, for `TrialSearch.from_dict`.

    Raises `InvalidArgumentError` naming the argument.
    """
    if not isinstance(search, TrialSearch):
        check.fail("search", f"is {search!r:.80}; expected a TrialSearch.")
    if not callable(measure):
        check.fail("measure", f"is {measure!r:.80}; expected a function of (batch, sm_milli).")
    if progress is not None and not callable(progress):
        check.fail("progress", f"is {progress!r:.80}; expected a function of the search, or None.")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        check.fail("executor", f"is {executor!r:.80}; expected a concurrent.futures.Executor.")
    width = check.integer("parallel", parallel, at_least=1)
    if executor is None and width > 1:
        check.fail("parallel", f"is {width} without an executor; give one that runs that many trials side by side.")
    began = time.perf_counter()

    def told() -> None:
        if checkpoint is not None:
            _write(Path(checkpoint), search)
        if progress is not None:
            progress(search)

    if progress is not None:
        progress(search)
    if executor is None:
        _one_by_one(search, measure, told)
    else:
        _side_by_side(search, measure, told, executor, width)
    counts = {"trials": len(search.trials), "cells": len({record.trial for record in search.trials})}
    stats = SolveStats(time.perf_counter() - began, counts=counts)
    return TrialResult(search.best, search.samples, search.trials, search.termination, stats)


def _one_by_one(search: TrialSearch, measure: Measure, told: Callable[[], None]) -> None:
    left_over = list(search.outstanding)
    while (trial := left_over.pop(0) if left_over else search.ask()) is not None:
        _tell(search, trial, _timed(measure, trial.batch, trial.sm_milli))
        told()


def _side_by_side(
    search: TrialSearch, measure: Measure, told: Callable[[], None], executor: Executor, width: int
) -> None:
    running: dict[Future[_Outcome], Trial] = {}
    starting = list(search.outstanding)
    try:
        while True:
            starting += search.ask(max(0, width - len(running) - len(starting)))
            for trial in starting[: width - len(running)]:
                running[executor.submit(_timed, measure, trial.batch, trial.sm_milli)] = trial
                starting.remove(trial)
            if not running:
                return
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in [future for future in running if future in ended]:
                _tell(search, running.pop(future), future.result())
                told()
    finally:
        for future in running:
            future.cancel()


_Outcome = tuple[Measurement, bool, float]  # what was measured, whether memory ran out, seconds


def _timed(measure: Measure, batch: int, sm_milli: int) -> _Outcome:
    """A plain function of plain values, so that it can run in another process."""
    began = time.perf_counter()
    try:
        measured, out_of_memory = measure(batch, sm_milli), False
    except Exception as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
            raise
        measured, out_of_memory = None, True
    return measured, out_of_memory, time.perf_counter() - began


def _tell(search: TrialSearch, trial: Trial, outcome: _Outcome) -> None:
    measured, out_of_memory, seconds = outcome
    latency, memory = measured if isinstance(measured, tuple) else (measured, None)
    search.tell(trial, latency, memory_mib=memory, gpu_s=seconds, out_of_memory=out_of_memory)


def _write(path: Path, search: TrialSearch) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(search.to_dict()) + "\n", encoding="utf-8")
    os.replace(beside, path)
