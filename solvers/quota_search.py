"""The exact search for quotas: which batch, request and limit give the most throughput per share within the SLO.

Of a roofline only the edge of the feasible region is looked at (see `kernels.cpu.quota_search`); of any other model
every cell (`solvers.quota_every_cell`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.calibration import LEVERAGE_CAP, NOISE, SPREAD_FLOOR
from dilu_core.kernels.cpu.quota_search import search_quotas
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import LatencyModel, RooflineModel
from dilu_core.quota import LimitRule, QuotaGrid, QuotaSearchResult
from dilu_core.result import SolveStats
from dilu_core.solvers.backends import resolved
from dilu_core.solvers.quota_answers import BUDGET_TOLERANCE, Query, mark_cells, quota_result
from dilu_core.solvers.quota_every_cell import search_every_cell
from dilu_core.solvers.training_quota import search_training_quota

__all__ = ["search_quota", "search_quota_many", "search_training_quota"]


def search_quota(
    fit: LatencyModel,
    *,
    slo_ms: float,
    grid: QuotaGrid | None = None,
    quantile: float | None = 0.95,
    exec_fraction: float = 0.5,
    limit_rule: LimitRule | None = None,
    backend: str = "auto",
    blocked: Iterable[tuple[int, int]] = (),
) -> QuotaSearchResult:
    """The configuration of greatest throughput efficacy whose batches execute within `exec_fraction * slo_ms`.

    Parameters
    ----------
    fit
        A `LatencyFit`; or any object with `latency_ms(batch, sm_milli)`, and `upper_ms(batch, sm_milli, quantile)` too
        unless `quantile` is `None`. Only plain rooflines are searched with pruning.
    slo_ms
        Latency objective of a request.
    grid
        Batches and requests to choose from. `None`: `QuotaGrid.covering(fit.samples)`, or `QuotaGrid.regular()` for a
        model without samples.
    quantile
        The upper bound that must meet the budget; `None` lets the mean prediction decide.
    exec_fraction
        The part of the SLO a batch may execute, in (0, 1]; the rest is for filling the batch.
    limit_rule
        How the limit follows from the request; `None`: `LimitRule()`. Saturation is looked for among the grid's
        shares; where none saturates, a whole GPU does.
    backend
        "auto" or "cpu".
    blocked
        Cells (batch, sm_milli) known to miss, such as measured over the budget: never returned. Cells off the grid
        are ignored.

    Returns
    -------
    QuotaSearchResult
        `OPTIMAL` with the best configuration (efficacies within 1e-9 are tied: least share, then smaller batch) and
        the Pareto front of throughput over request; or `INFEASIBLE`, with the least latency within reach in `detail`.

    Raises
    ------
    InvalidArgumentError
        Naming the argument.
    """
    return search_quota_many(
        [fit],
        slo_ms,
        grid=grid,
        quantile=quantile,
        exec_fraction=exec_fraction,
        limit_rule=limit_rule,
        backend=backend,
        blocked=[blocked],
        pareto=True,
    )[0]


def search_quota_many(
    fits: Iterable[LatencyModel],
    slo_ms: float | Sequence[float],
    *,
    grid: QuotaGrid | None = None,
    quantile: float | None = 0.95,
    exec_fraction: float = 0.5,
    limit_rule: LimitRule | None = None,
    backend: str = "auto",
    blocked: Sequence[Iterable[tuple[int, int]]] | None = None,
    pareto: bool = False,
) -> list[QuotaSearchResult]:
    """`search_quota` for every fit; `slo_ms` and `blocked` may differ per fit.

    The Pareto fronts are left empty unless asked for by `pareto`: building their configurations takes longer than the
    search. All results of one grid share the wall time in `.stats`.
    """
    models = check.listed("fits", fits, "fits")
    rule = LimitRule() if limit_rule is None else limit_rule
    if not isinstance(rule, LimitRule):
        check.fail("limit_rule", f"is {limit_rule!r:.80}; expected a LimitRule.")
    if grid is not None and not isinstance(grid, QuotaGrid):
        check.fail("grid", f"is {grid!r:.80}; expected a QuotaGrid.")
    if quantile is not None and not 0.0 < check.finite("quantile", quantile) < 1.0:
        check.fail("quantile", f"is {quantile!r}; expected a probability strictly between 0 and 1, or None.")
    fraction = check.finite("exec_fraction", exec_fraction, above=0, at_most=1)
    ran_on = resolved(backend)
    slos = _slo_column(slo_ms, len(models))
    taken = [()] * len(models) if blocked is None else check.listed("blocked", blocked, "cells of each fit")
    if len(taken) != len(models):
        check.fail("blocked", f"has {len(taken)} entries for {len(models)} fits; expected one per fit.")

    queries = []
    for position, model in enumerate(models):
        check_model(f"fits[{position}]" if len(models) > 1 else "fit", model, quantile)
        cells = _cells(taken[position])
        queries.append(Query(model, fraction * float(slos[position]), grid or _default_grid(model), cells))
    by_grid: dict[QuotaGrid, list[int]] = {}
    for position, query in enumerate(queries):
        if _is_roofline(query.model):
            by_grid.setdefault(query.grid, []).append(position)
    results: dict[int, QuotaSearchResult] = {}
    for shared_grid, positions in by_grid.items():
        chosen = [queries[position] for position in positions]
        answers = _search_rooflines(chosen, shared_grid, quantile, rule, pareto, ran_on)
        results.update(zip(positions, answers, strict=True))
    for position, query in enumerate(queries):
        if position not in results:
            results[position] = search_every_cell(query, quantile, rule, pareto, ran_on)
    return [results[position] for position in range(len(queries))]


def _search_rooflines(
    queries: Sequence[Query], grid: QuotaGrid, quantile: float | None, rule: LimitRule, pareto: bool, backend: str
) -> list[QuotaSearchResult]:
    """The compiled search over rooflines that share a grid."""
    started = time.perf_counter()
    count, n_batches, n_shares = len(queries), len(grid.batches), len(grid.sm_milli)
    models, covariances, errors = np.empty((count, 6)), np.zeros((count, 6, 6)), np.zeros((count, 4))
    for position, query in enumerate(queries):
        models[position], covariances[position], errors[position] = _roofline_rows(query.model, quantile)
    any_blocked = any(query.blocked for query in queries)
    blocked = np.zeros((count, n_batches, n_shares) if any_blocked else (0, 0, 0), dtype=np.uint8)
    if any_blocked:
        for mask, query in zip(blocked, queries, strict=True):
            mark_cells(mask, grid, query.blocked)
    best = np.empty((count, 2), dtype=np.int64)
    fronts, saturating = np.empty((count, n_shares), np.int64), np.empty((count, n_batches), np.int64)
    evaluated = np.empty(count, dtype=np.int64)
    search_quotas(
        models,
        covariances,
        errors,
        np.array([query.budget_ms * (1.0 + BUDGET_TOLERANCE) for query in queries]),
        np.array(grid.batches, dtype=np.float64),
        np.array(grid.sm_milli, dtype=np.float64),
        blocked,
        rule.throughput_fraction,
        pareto,
        best,
        fronts,
        saturating,
        evaluated,
    )
    seconds = time.perf_counter() - started
    results = []
    for f, query in enumerate(queries):
        cells = [(int(fronts[f, j]), int(j)) for j in np.flatnonzero(fronts[f] >= 0)] if pareto else []
        chosen = (int(best[f, 0]), int(best[f, 1])) if best[f, 0] >= 0 else None
        looked = int(evaluated[f])
        stats = SolveStats(seconds, backend, {"evaluated": looked, "pruned": len(grid) - looked})
        results.append(quota_result(query, quantile, rule, chosen, cells, saturating[f], stats))
    return results


def _is_roofline(model: LatencyModel) -> bool:
    """Whether the predictions are those of a roofline and nothing but, so that its inverse finds the edge."""
    return isinstance(model.model if isinstance(model, LatencyFit) else model, RooflineModel)


def _roofline_rows(
    model: LatencyModel, quantile: float | None
) -> tuple[tuple[float, ...], NDArray[np.float64], tuple[float, float, float, float]]:
    """Parameters, covariance in noise units, and (k, scatter, leverage cap, floor) of one roofline."""
    if isinstance(model, LatencyFit):
        level = 0.0 if quantile is None else model.error_quantile(quantile)
        return (
            model.roofline.parameters,
            model.covariance / NOISE**2,
            (level, model.scatter, LEVERAGE_CAP, model.floor),
        )
    assert isinstance(model, RooflineModel)
    return model.parameters, np.zeros((6, 6)), (0.0, 0.0, LEVERAGE_CAP, SPREAD_FLOOR)


def check_model(argument: str, model: object, quantile: float | None) -> None:
    if not callable(getattr(model, "latency_ms", None)):
        check.fail(argument, f"is {model!r:.80}; expected a LatencyFit or an object with latency_ms(batch, sm_milli).")
    if quantile is not None and not callable(getattr(model, "upper_ms", None)):
        check.fail(
            argument,
            f"is a {type(model).__name__} without upper_ms(batch, sm_milli, quantile), so no bound can decide; "
            "give a LatencyFit, or quantile=None to let the mean prediction decide.",
        )


def _default_grid(model: LatencyModel) -> QuotaGrid:
    return QuotaGrid.covering(model.samples) if isinstance(model, LatencyFit) else QuotaGrid.regular()


def _slo_column(slo_ms: float | Sequence[float], fits: int) -> NDArray[np.float64]:
    """One SLO for all fits, or one for each."""
    if isinstance(slo_ms, str | bytes) or not isinstance(slo_ms, Iterable):
        return np.full(fits, check.finite("slo_ms", slo_ms, above=0))
    column = check.float_column("slo_ms", slo_ms)
    for position, value in enumerate(column.tolist()):
        check.finite(f"slo_ms[{position}]", value, above=0)
    if len(column) != fits:
        check.fail("slo_ms", f"has {len(column)} values for {fits} fits; expected one, or one per fit.")
    return column


def _cells(blocked: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    found = []
    for position, cell in enumerate(check.listed("blocked", blocked, "pairs (batch, sm_milli)")):
        try:
            batch, share = cell
        except (TypeError, ValueError):
            check.fail(f"blocked[{position}]", f"is {cell!r:.80}; expected a pair (batch, sm_milli).")
        found.append(
            (
                check.integer(f"blocked[{position}][0]", batch, at_least=1),
                check.share_milli(f"blocked[{position}][1]", share),
            )
        )
    return tuple(found)
