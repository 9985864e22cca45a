"""profile_function: find the quota of one function by measuring it, with a progress bar where tqdm is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from dilu_core.errors import InvalidArgumentError
from dilu_core.quota import QuotaGrid
from dilu_core.solvers.trials.drive import Measure, Progress, resumed, run_trials
from dilu_core.solvers.trials.search import TrialSearch
from dilu_core.trials import TrialResult


def profile_function(
    measure: Measure,
    grid: QuotaGrid | None = None,
    *,
    slo_ms: float | None = None,
    search: TrialSearch | None = None,
    progress: bool | Callable[[TrialSearch], None] = True,
    executor: Executor | None = None,
    parallel: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> TrialResult:
    """The best measured quota of a function, from few trials of `measure(batch, sm_milli) -> latency_ms`.

    Give `search` or `checkpoint` where trials are dear. One of the two keeps what was measured when `measure` raises or
    the run is interrupted; without either it is lost with the call.

    Parameters
    ----------
    measure
        Runs the function on the hardware: the latency in ms of a batch on a share, or (latency_ms, memory_mib); `None`
        or an out-of-memory error for a failure.
    grid, slo_ms, settings
        Handed to `TrialSearch` (grid `None`: `QuotaGrid.regular()`), with any of its keywords.
    search
        A search to continue instead, such as one restored by `TrialSearch.from_dict`; it brings its own settings.
    progress
        `True`: a bar on standard error, where tqdm is installed and somebody watches. Or a function that is called with
        the search after every trial.
    executor, parallel
        As of `run_trials`: trials side by side.
    checkpoint
        As of `run_trials`: a file that holds the search after every trial. Where it exists and no `search` is given,
        the search in it is continued; its settings must equal those asked for here.

    Raises `InvalidArgumentError` naming the argument. An infeasible SLO is a result.
    """
    if search is None:
        search = TrialSearch(QuotaGrid.regular() if grid is None else grid, slo_ms=slo_ms, **settings)
        if checkpoint is not None:
            search = resumed(search, checkpoint)
    elif grid is not None or slo_ms is not None or settings:
        named = [*(["grid"] if grid is not None else []), *(["slo_ms"] if slo_ms is not None else []), *settings]
        raise InvalidArgumentError(named[0], "is given beside search, which has its own; give one or the other.")
    with _watching(progress) as report:
        return run_trials(search, measure, progress=report, executor=executor, parallel=parallel, checkpoint=checkpoint)


@contextmanager
def _watching(progress: bool | Callable[[TrialSearch], None]) -> Iterator[Progress | None]:
    """The caller's own function, nothing, or a bar; the bar has no total, since a search ends when it is sure."""
    if progress is not True:
        yield None if progress is False else progress
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(desc="trials", unit="trial", disable=None, leave=False, mininterval=0) as bar:

        def report(search: TrialSearch) -> None:
            bar.total = search.settings.max_trials
            best = search.best
            if best is None:
                bar.set_postfix_str("nothing within the budget yet", refresh=False)
            else:
                bar.set_postfix_str(f"batch {best.batch}, share {best.request_milli}, {best.latency_ms:.4g} ms", False)
            bar.update(len(search.trials) - bar.n)

        yield report
