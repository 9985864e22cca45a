"""Run a trial search to its end: ask, measure, tell; one after the other, or side by side on an executor."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from dilu_core import _checks as check
from dilu_core.errors import InvalidArgumentError
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
        `OutOfMemoryError`) is a failed trial; any other error, an interrupt, or an answer that is no `Measurement` ends
        the run and is raised. What was measured is in the search and the checkpoint by then, the trial at fault is
        outstanding. Its wall time is told as the trial's GPU-seconds.
    progress
        Called with the search after every trial, and once before the first.
    executor, parallel
        `parallel` trials at a time on this `concurrent.futures.Executor` (one GPU each; a process pool needs a
        `measure` that pickles). Which trials are run then depends on the order in which they end. Where one raises, or
        the run is interrupted, trials that have begun are waited for and told; a second interrupt ends the wait.
    checkpoint
        File that holds the search as JSON from the start and after every trial, replaced in one step, for
        `TrialSearch.from_dict`. One that exists must hold nothing that was measured and is not in `search`.

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
    file = None if checkpoint is None else _opened(checkpoint, search)
    began = time.perf_counter()

    def keep() -> None:
        if file is not None:
            _write(file, search)

    def told() -> None:
        keep()
        if progress is not None:
            progress(search)

    if progress is not None:
        progress(search)
    try:
        if executor is None:
            _one_by_one(search, measure, told)
        else:
            _side_by_side(search, measure, told, executor, width)
    except BaseException:
        keep()
        raise
    counts = {"trials": len(search.trials), "cells": len({record.trial for record in search.trials})}
    stats = SolveStats(time.perf_counter() - began, counts=counts)
    return TrialResult(search.best, search.samples, search.trials, search.termination, stats)


def resumed(fresh: TrialSearch, checkpoint: str | os.PathLike[str]) -> TrialSearch:
    """The search in the file where there is one, of the same settings and prior as `fresh`; else `fresh` itself.

    Raises `InvalidArgumentError` naming `checkpoint` where the file holds anything else.
    """
    held = _held(_path(checkpoint))
    if held is None:
        return fresh
    wanted, found = ({"prior": data["prior"], **data["settings"]} for data in (_plain(fresh), _plain(held)))
    differing = [name for name in wanted if wanted[name] != found.get(name)]
    if differing:
        check.fail(
            "checkpoint",
            f"{os.fspath(checkpoint)!r} holds a search of other settings ({', '.join(differing)}); {_HOW_TO_RESUME}",
        )
    return held


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
                _tell(search, running[future], future.result())
                del running[future]
                told()
    except BaseException:
        _tell_the_rest(search, running)
        raise


def _tell_the_rest(search: TrialSearch, running: dict[Future[_Outcome], Trial]) -> None:
    """Tell what ended and what has begun, once it ends; trials that never began, or raised, stay outstanding."""
    begun = {future: trial for future, trial in running.items() if not future.cancel()}
    try:
        wait(begun)
    finally:
        for future, trial in begun.items():
            if future.done() and not future.cancelled() and future.exception() is None and trial in search.outstanding:
                with suppress(InvalidArgumentError):  # the error that ended the run is the one to raise
                    _tell(search, trial, future.result())


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
    latency, memory = measured if isinstance(measured, tuple) and len(measured) == 2 else (measured, None)
    try:
        search.tell(trial, latency, memory_mib=memory, gpu_s=seconds, out_of_memory=out_of_memory)
    except InvalidArgumentError as error:
        where = f"batch {trial.batch}, share {trial.sm_milli}"
        wanted = "latency_ms, (latency_ms, memory_mib), or None for a failed trial"
        raise InvalidArgumentError("measure", f"returned {measured!r:.80} at {where}; expected {wanted}.") from error


_HOW_TO_RESUME = (
    "to continue it, read it with TrialSearch.from_dict(json.load(file)) and give that as search; "
    "to start afresh, name another file."
)


def _opened(checkpoint: object, search: TrialSearch) -> Path:
    """The file, which holds the search from now on: whatever is wrong with it shows before the first trial."""
    path = _path(checkpoint)
    held = _held(path)
    if held is not None and held.trials != search.trials[: len(held.trials)]:
        check.fail(
            "checkpoint", f"{str(path)!r} holds {len(held.trials)} trials that are not in search; {_HOW_TO_RESUME}"
        )
    try:
        _write(path, search)
    except (OSError, ValueError) as error:  # ValueError: a null character, or one that file names cannot hold
        check.fail("checkpoint", f"{str(path)!r} cannot be written: {error}.")
    return path


def _path(checkpoint: object) -> Path:
    """A file that exists or can be made; a name may still turn out not to be writable."""
    if not isinstance(checkpoint, str | os.PathLike):
        check.fail("checkpoint", f"is {checkpoint!r:.80}; expected the path of a file, or None.")
    try:
        path = Path(checkpoint)
        if path.exists() and not path.is_file():
            check.fail("checkpoint", f"is {str(path)!r}, which is no file; expected the path of a file.")
        if not path.parent.is_dir():
            check.fail("checkpoint", f"is {str(path)!r}, whose folder does not exist; make it first.")
    except (OSError, TypeError) as error:
        check.fail("checkpoint", f"is {checkpoint!r:.80}, which is no usable path: {error}.")
    return path


def _held(path: Path) -> TrialSearch | None:
    """The search that the file holds; `None` where there is no file."""
    if not path.exists():
        return None
    try:
        return TrialSearch.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        check.fail("checkpoint", f"{str(path)!r} exists and holds no search that can be read ({error}); name another.")


def _plain(search: TrialSearch) -> dict[str, Any]:
    """As it reads back from a file: lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(search.to_dict()))
    return plain


def _write(path: Path, search: TrialSearch) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(search.to_dict()) + "\n", encoding="utf-8")
    os.replace(beside, path)
