"""Quota sweeps: what would each function need if the SLO, the load, the certainty or the GPU type were another?

Functions by scenarios by the whole grid of configurations is a space of billions of points; of rooflines all but a few
per search are decided without a look (`kernels.cpu.quota_sweep`), on a GPU where there is enough to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.gpu_scaling import GpuScale
from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu import quota_front as cpu_front
from dilu_core.kernels.cpu import quota_sweep as cpu_sweep
from dilu_core.kernels.quota_rows import SweepCells, SweepFronts, SweepRows
from dilu_core.performance import LatencyModel
from dilu_core.quota import LimitRule, QuotaGrid
from dilu_core.result import Termination, TerminationReason
from dilu_core.solvers import sweep_tables
from dilu_core.solvers.backends import resolved, stats_of
from dilu_core.solvers.quota_search import check_model
from dilu_core.solvers.sweep_answers import QuotaFronts, QuotaSweep, fronts_of, sweep_of
from dilu_core.solvers.sweep_question import (
    Scenario,
    SweepQuestion,
    is_roofline,
    per_function,
    swept_gpus,
    swept_limits,
    swept_quantiles,
)
from dilu_core.traces import MOST_RPS

__all__ = ["QuotaFronts", "QuotaSweep", "Scenario", "sweep_quota"]

Columns = TypeVar("Columns", SweepCells, SweepFronts)


def sweep_quota(
    fits: Iterable[LatencyModel],
    *,
    slo_ms: ArrayLike,
    load_rps: ArrayLike | None = None,
    quantiles: float | Sequence[float | None] | None = 0.95,
    gpus: Sequence[GpuScale] | None = None,
    grid: QuotaGrid | None = None,
    exec_fraction: float = 0.5,
    limit_rule: LimitRule | None = None,
    limits_milli: Sequence[int] | None = None,
    backend: str = "auto",
) -> QuotaSweep:
    """The best configuration of every function in every scenario: GPU types x quantiles x SLOs x loads.

    The best is that of `search_quota`: greatest throughput efficacy within the budget, ties within 1e-9 to the least
    share, then the smaller batch.

    Parameters
    ----------
    fits
        F functions, as for `search_quota`. Plain rooflines are searched with pruning, on the CPU or on a GPU; any other
        model is tabulated and searched on the CPU.
    slo_ms, load_rps
        A number, n values that every function is asked at, or (F, n): each function's own. Without loads no
        instances are counted; a load is at most 1e15, and what its instances request within 2**53 milli-GPU.
    quantiles
        One or several bounds that must meet the budget; `None` lets the mean decide.
    gpus
        GPU types to carry the functions over to (see `gpu_scale`); `None`: the one they were measured on.
    grid
        Batches and requests to choose from; `None`: `QuotaGrid.regular(32, 10)`. Mind that this may extrapolate.
    exec_fraction
        The part of the SLO a batch may execute, in (0, 1].
    limit_rule
        How the limit follows from the request; `None`: `LimitRule()`.
    limits_milli
        Limits on offer: of these the greatest that the rule allows is taken, the request itself where there is none.
        `None`: saturation is looked for among the grid's shares, and any limit may follow.
    backend
        "auto", "cpu" or "cuda". All give the same answers, index for index.

    Raises
    ------
    InvalidArgumentError
        Naming the argument.
    BackendUnavailableError
        Where "cuda" cannot run.
    """
    question = _question(fits, slo_ms, load_rps, quantiles, gpus, grid, exec_fraction, limit_rule, limits_milli)
    functions = list(range(len(question.models)))
    points = len(functions) * len(question.gpus) * len(question.quantiles) * question.slo_ms.shape[1]
    ran_on = resolved(backend, "sweep", float(points * len(question.grid) * len(question.limits)))
    started = time.perf_counter()
    cells, record = _by_kind(question, functions, partial(_cells_of, ran_on), sweep_tables.sweep_cells)
    searched = cells.chosen[..., 0]
    counts = {"evaluated": int(cells.evaluated.sum()), "searches": int(searched.size)}
    stats = stats_of(record, time.perf_counter() - started, counts)
    return sweep_of(
        question, cells, _termination(int((searched < 0).sum()), searched.size), stats, _Fronts(question, ran_on)
    )


@dataclass(frozen=True)
class _Fronts:
    """The fronts of a question, looked for when asked."""

    question: SweepQuestion
    backend: str

    def __call__(self, functions: tuple[int, ...]) -> QuotaFronts:
        found, _ = _by_kind(
            self.question, list(functions), partial(_dense_fronts_of, self.backend), sweep_tables.sweep_fronts
        )
        return fronts_of(self.question, functions, found)


def _cells_of(backend: str, rows: SweepRows) -> tuple[SweepCells, RunRecord]:
    if backend == "cpu":
        return cpu_sweep.sweep_quotas(rows), RunRecord()
    from dilu_core.kernels.cuda import sweep

    return sweep.sweep_quotas(rows)


def _dense_fronts_of(backend: str, rows: SweepRows) -> tuple[SweepFronts, RunRecord]:
    if backend == "cpu":
        return cpu_front.sweep_fronts(rows), RunRecord()
    from dilu_core.kernels.cuda import sweep

    return sweep.sweep_fronts(rows)


def _question(
    fits: Iterable[LatencyModel],
    slo_ms: ArrayLike,
    load_rps: ArrayLike | None,
    quantiles: float | Sequence[float | None] | None,
    gpus: Sequence[GpuScale] | None,
    grid: QuotaGrid | None,
    exec_fraction: float,
    limit_rule: LimitRule | None,
    limits_milli: Sequence[int] | None,
) -> SweepQuestion:
    """The arguments, checked."""
    models = check.listed("fits", fits, "fits")
    if not models:
        check.fail("fits", "is empty; expected at least one function.")
    if load_rps is None:
        loads = np.empty((len(models), 0))
    else:
        loads = per_function("load_rps", load_rps, len(models), zero=True, at_most=MOST_RPS)
    wanted = swept_quantiles(quantiles)
    bound = next((each for each in wanted if each is not None), None)
    for position, model in enumerate(models):
        check_model(f"fits[{position}]", model, bound)
    rule = LimitRule() if limit_rule is None else limit_rule
    if not isinstance(rule, LimitRule):
        check.fail("limit_rule", f"is {limit_rule!r:.80}; expected a LimitRule.")
    over = QuotaGrid.regular(32, 10) if grid is None else grid
    if not isinstance(over, QuotaGrid):
        check.fail("grid", f"is {grid!r:.80}; expected a QuotaGrid.")
    return SweepQuestion(
        models,
        swept_gpus(gpus),
        wanted,
        per_function("slo_ms", slo_ms, len(models), zero=False),
        loads,
        over,
        check.finite("exec_fraction", exec_fraction, above=0, at_most=1),
        rule,
        swept_limits(limits_milli),
    )


def _by_kind(
    question: SweepQuestion,
    functions: list[int],
    of_rooflines: Callable[[SweepRows], tuple[Columns, RunRecord]],
    of_tables: Callable[[SweepQuestion, list[int]], Columns],
) -> tuple[Columns, RunRecord]:
    """Rooflines to the pruned search, other models to their tables; the rows come back in the order asked."""
    straight = [is_roofline(question.models[f]) for f in functions]
    if all(straight):
        return of_rooflines(question.rows(functions))
    tabulated = of_tables(question, [f for f, plain in zip(functions, straight, strict=True) if not plain])
    if not any(straight):
        return tabulated, RunRecord()
    found, record = of_rooflines(question.rows([f for f, plain in zip(functions, straight, strict=True) if plain]))
    plain_rows = np.repeat(np.array(straight), len(question.gpus))
    merged = [_merged(plain_rows, ours, theirs) for ours, theirs in zip(found.columns, tabulated.columns, strict=True)]
    return type(found)(*merged), record


def _merged(first: NDArray[np.bool_], ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
    """Rows of `ours` where `first` holds, of `theirs` elsewhere."""
    column = np.empty((first.size, *ours.shape[1:]), ours.dtype)
    column[first], column[~first] = ours, theirs
    return column


def _termination(missed: int, searched: int) -> Termination:
    if missed == searched:
        return Termination(TerminationReason.INFEASIBLE, None, "nothing meets its budget in any scenario")
    detail = f"nothing meets the budget in {missed} of {searched} searches" if missed else ""
    return Termination(TerminationReason.OPTIMAL, None, detail)
