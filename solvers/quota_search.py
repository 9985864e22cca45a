"""The exact search for quotas: which batch, request and limit give the most throughput per share within the SLO.

Of a fitted roofline the whole grid need not be looked at (see `kernels.cpu.quota_search`); of any other model every
cell is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.calibration import LEVERAGE_CAP, NOISE, SPREAD_FLOOR
from dilu_core.kernels import formulas
from dilu_core.kernels.backend import resolve_backend
from dilu_core.kernels.cpu.quota_search import search_quotas
from dilu_core.latency_fit import LatencyFit, TrainingFit
from dilu_core.performance import LatencyModel, RooflineModel, TrainingModel
from dilu_core.quota import LimitRule, QuotaConfig, QuotaGrid, QuotaSearchResult
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.units import FULL_GPU_MILLI

BUDGET_TOLERANCE = 1e-9
"""A bound this little above the budget, relative, still meets it: float noise decides nothing."""


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
        unless `quantile` is `None`. Only rooflines are searched with pruning.
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
        blocked=[tuple(blocked)],
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
    models = tuple(fits)
    rule = LimitRule() if limit_rule is None else limit_rule
    if not isinstance(rule, LimitRule):
        check.fail("limit_rule", f"is {limit_rule!r:.80}; expected a LimitRule.")
    if grid is not None and not isinstance(grid, QuotaGrid):
        check.fail("grid", f"is {grid!r:.80}; expected a QuotaGrid.")
    if quantile is not None and not 0.0 < check.finite("quantile", quantile) < 1.0:
        check.fail("quantile", f"is {quantile!r}; expected a probability strictly between 0 and 1, or None.")
    fraction = check.finite("exec_fraction", exec_fraction, above=0, at_most=1)
    ran_on = _resolved(backend)
    slos = np.broadcast_to(_slo_column(slo_ms), len(models)) if np.ndim(slo_ms) == 0 else _slo_column(slo_ms)
    if len(slos) != len(models):
        check.fail("slo_ms", f"has {len(slos)} values for {len(models)} fits; expected one, or one per fit.")
    if blocked is not None and len(blocked) != len(models):
        check.fail("blocked", f"has {len(blocked)} entries for {len(models)} fits; expected one per fit.")

    queries = []
    for position, model in enumerate(models):
        _check_model(f"fits[{position}]" if len(models) > 1 else "fit", model, quantile)
        cells = () if blocked is None else _cells(blocked[position])
        queries.append(_Query(model, fraction * float(slos[position]), grid or _default_grid(model), cells))
    by_grid: dict[QuotaGrid, list[int]] = {}
    for position, query in enumerate(queries):
        if isinstance(query.model, LatencyFit | RooflineModel):
            by_grid.setdefault(query.grid, []).append(position)
    results: dict[int, QuotaSearchResult] = {}
    for shared_grid, positions in by_grid.items():
        chosen = [queries[position] for position in positions]
        answers = _search_rooflines(chosen, shared_grid, quantile, rule, pareto, ran_on)
        results.update(zip(positions, answers, strict=True))
    for position, query in enumerate(queries):
        if position not in results:
            results[position] = _search_every_cell(query, quantile, rule, pareto, ran_on)
    return [results[position] for position in range(len(queries))]


def search_training_quota(
    fit: TrainingFit | TrainingModel,
    *,
    fraction: float = 0.8,
    grid: QuotaGrid | None = None,
    limit_fraction: float = 0.98,
) -> QuotaSearchResult:
    """Request and limit of a training job: the least shares with `fraction` and `limit_fraction` of full throughput.

    Full throughput is what the model gives on a whole GPU. Of `grid` only the shares matter (`None`: 10, 20, ..., 1000;
    for a `TrainingFit` from the least measured share on). Where no share of the grid reaches `limit_fraction` the limit
    is a whole GPU; where none reaches `fraction` the result is `INFEASIBLE`. `pareto` holds the shares from the request
    on that still gain throughput. Raises `InvalidArgumentError` naming the argument.
    """
    started = time.perf_counter()
    if isinstance(fit, TrainingFit):
        model, least = fit.model, int(fit.step.samples.sm_milli.min())
    elif isinstance(fit, TrainingModel):
        model, least = fit, 1
    else:
        check.fail("fit", f"is {fit!r:.80}; expected a TrainingFit or TrainingModel.")
    wanted = check.finite("fraction", fraction, above=0, at_most=1)
    saturated = check.finite("limit_fraction", limit_fraction, above=0, at_most=1)
    if grid is None:
        grid = QuotaGrid.regular(model.batch, 10, least_milli=least)
    elif not isinstance(grid, QuotaGrid):
        check.fail("grid", f"is {grid!r:.80}; expected a QuotaGrid.")
    shares = np.array(grid.sm_milli)
    latency = model.step_ms(shares)
    part = float(model.step_ms(FULL_GPU_MILLI)) / latency * (1.0 + BUDGET_TOLERANCE)
    enough = np.flatnonzero(part >= wanted)
    stats = SolveStats(time.perf_counter() - started, counts={"evaluated": len(shares)})
    if not enough.size:
        detail = (
            f"the greatest share of the grid, {shares[-1]}, gives {part[-1]:.1%} of full throughput, not {wanted:.1%}"
        )
        return QuotaSearchResult(
            None, (), len(shares), 0, Termination(TerminationReason.INFEASIBLE, None, detail), stats
        )
    saturating = shares[part >= saturated]
    limit = int(saturating[0]) if saturating.size else FULL_GPU_MILLI
    gaining = [j for j in range(enough[0], len(shares)) if j == enough[0] or latency[j] < latency[j - 1] * (1.0 - 1e-9)]
    configs = [_config(model.batch, int(shares[j]), max(limit, int(shares[j])), float(latency[j])) for j in gaining]
    termination = Termination(TerminationReason.OPTIMAL)
    return QuotaSearchResult(configs[0], tuple(configs), len(shares), 0, termination, stats)


@dataclass(frozen=True)
class _Query:
    model: LatencyModel
    budget_ms: float
    grid: QuotaGrid
    blocked: tuple[tuple[int, int], ...]


def _search_rooflines(
    queries: Sequence[_Query], grid: QuotaGrid, quantile: float | None, rule: LimitRule, pareto: bool, backend: str
) -> list[QuotaSearchResult]:
    """The compiled search over rooflines that share a grid."""
    started = time.perf_counter()
    count, n_batches, n_shares = len(queries), len(grid.batches), len(grid.sm_milli)
    models, covariances, errors = np.empty((count, 6)), np.zeros((count, 6, 6)), np.zeros((count, 4))
    for position, query in enumerate(queries):
        models[position], covariances[position], errors[position] = _roofline_rows(query.model, quantile)
    any_blocked = any(query.blocked for query in queries)
    blocked = np.zeros((count, n_batches, n_shares) if any_blocked else (0, 0, 0), dtype=np.uint8)
    for position, query in enumerate(queries):
        _mark(blocked[position] if any_blocked else blocked, grid, query.blocked)
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
        results.append(_result(query, quantile, rule, chosen, cells, saturating[f], stats))
    return results


def _roofline_rows(
    model: LatencyModel, quantile: float | None
) -> tuple[tuple[float, ...], NDArray[np.float64], tuple[float, float, float, float]]:
    """Parameters, covariance in noise units, and (k, scatter, leverage cap, floor) of one roofline."""
    if isinstance(model, LatencyFit):
        level = 0.0 if quantile is None else model.error_level(quantile)
        return (
            model.model.parameters,
            model.covariance / NOISE**2,
            (level, model.scatter, LEVERAGE_CAP, SPREAD_FLOOR),
        )
    assert isinstance(model, RooflineModel)
    return model.parameters, np.zeros((6, 6)), (0.0, 0.0, LEVERAGE_CAP, SPREAD_FLOOR)


def _search_every_cell(
    query: _Query, quantile: float | None, rule: LimitRule, pareto: bool, backend: str
) -> QuotaSearchResult:
    """The search of a model of which nothing is known but its predictions."""
    started = time.perf_counter()
    batches = np.array(query.grid.batches)[:, None]
    shares = np.array(query.grid.sm_milli)
    latency = _predicted("latency_ms", query.model.latency_ms(batches, shares), (len(batches), len(shares)))
    upper = _upper(query.model, batches, shares, quantile, latency)
    whole = _predicted("latency_ms", query.model.latency_ms(batches, FULL_GPU_MILLI), (len(batches), 1))
    blocked = np.zeros(latency.shape, dtype=np.uint8)
    _mark(blocked, query.grid, query.blocked)
    feasible = (upper <= query.budget_ms * (1.0 + BUDGET_TOLERANCE)) & (blocked == 0)
    throughput = 1000.0 * batches / latency
    efficacy = np.where(feasible, throughput / (shares / 1000.0), 0.0)
    chosen = None
    if feasible.any():
        tied = np.argwhere(feasible & (efficacy >= efficacy.max() * (1.0 - 1e-9)))
        i, j = min(tied.tolist(), key=lambda cell: (cell[1], cell[0]))
        chosen = (i, j)
    cells, top = [], 0.0
    for j in range(len(shares)) if pareto else ():
        gain = np.where(feasible[:, j] & (throughput[:, j] > top * (1.0 + 1e-9)), throughput[:, j], 0.0)
        if gain.max() > 0:
            i = int(np.argmax(gain >= gain.max() * (1.0 - 1e-9)))
            cells.append((i, j))
            top = float(throughput[i, j])
    enough = latency <= whole / rule.throughput_fraction * (1.0 + 1e-9)
    saturating = np.where(enough.any(axis=1), shares[np.argmax(enough, axis=1)], FULL_GPU_MILLI)
    stats = SolveStats(time.perf_counter() - started, backend, {"evaluated": latency.size, "pruned": 0})
    return _result(query, quantile, rule, chosen, cells, saturating, stats)


def _result(
    query: _Query,
    quantile: float | None,
    rule: LimitRule,
    chosen: tuple[int, int] | None,
    front: Sequence[tuple[int, int]],
    saturating: NDArray[np.int64],
    stats: SolveStats,
) -> QuotaSearchResult:
    """Configurations of the grid cells that a search chose."""
    looked, pruned = stats.counts["evaluated"], stats.counts["pruned"]
    if chosen is None:
        termination = Termination(TerminationReason.INFEASIBLE, None, _why_infeasible(query, quantile))
        return QuotaSearchResult(None, (), looked, pruned, termination, stats)
    cells = [chosen, *front]
    batches = np.array([query.grid.batches[i] for i, _ in cells])
    requests = np.array([query.grid.sm_milli[j] for _, j in cells])
    latency = query.model.latency_ms(batches, requests)
    upper = None if quantile is None else _upper(query.model, batches, requests, quantile, latency)
    configs = [
        _config(
            int(batches[c]),
            int(requests[c]),
            rule.limit_milli(int(requests[c]), int(saturating[i])),
            float(latency[c]),
            None if upper is None else float(upper[c]),
        )
        for c, (i, _) in enumerate(cells)
    ]
    termination = Termination(TerminationReason.OPTIMAL)
    return QuotaSearchResult(configs[0], tuple(configs[1:]), looked, pruned, termination, stats)


def _config(batch: int, request: int, limit: int, latency_ms: float, upper_ms: float | None = None) -> QuotaConfig:
    throughput, efficacy = formulas.throughput_rps(batch, latency_ms), formulas.efficacy(batch, latency_ms, request)
    return QuotaConfig(batch, request, limit, latency_ms, throughput, efficacy, upper_ms)


def _why_infeasible(query: _Query, quantile: float | None) -> str:
    """What the smallest batch needs at best, beside the budget."""
    batch, shares = query.grid.batches[0], np.array(query.grid.sm_milli)
    latency = query.model.latency_ms(batch, shares)
    upper = _upper(query.model, np.array(batch), shares, quantile, latency)
    least = int(np.argmin(upper))
    what = "predicted mean" if quantile is None else f"bound at quantile {quantile:g}"
    over = f"least {what} {upper[least]:.4g} ms at batch {batch}, share {shares[least]}"
    if query.blocked:
        return f"no cell that is not blocked meets the budget of {query.budget_ms:.4g} ms ({over})"
    return f"nothing meets the budget of {query.budget_ms:.4g} ms: {over}"


def _upper(
    model: LatencyModel,
    batch: NDArray[np.int64],
    sm_milli: NDArray[np.int64],
    quantile: float | None,
    latency: NDArray[np.float64],
) -> NDArray[np.float64]:
    bound = getattr(model, "upper_ms", None)
    if quantile is None or bound is None:
        return latency
    return _predicted("upper_ms", bound(batch, sm_milli, quantile), latency.shape)


def _predicted(name: str, values: object, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """What somebody's model predicted, refused unless it is positive, finite and of the shape asked for."""
    predicted = np.asarray(values, dtype=np.float64)
    if predicted.shape != shape:
        check.fail("fit", f"predicts {name} of shape {predicted.shape} where the inputs broadcast to {shape}.")
    if not (np.isfinite(predicted) & (predicted > 0)).all():
        check.fail("fit", f"predicts {name} that are not all positive and finite on the grid.")
    return predicted


def _check_model(argument: str, model: object, quantile: float | None) -> None:
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


def _slo_column(slo_ms: float | Sequence[float]) -> NDArray[np.float64]:
    if np.ndim(slo_ms) == 0:
        return np.array([check.finite("slo_ms", slo_ms, above=0)])
    column = check.float_column("slo_ms", slo_ms)
    for position, value in enumerate(column.tolist()):
        check.finite(f"slo_ms[{position}]", value, above=0)
    return column


def _cells(blocked: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    found = []
    for position, cell in enumerate(blocked):
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


def _mark(mask: NDArray[np.uint8], grid: QuotaGrid, cells: Iterable[tuple[int, int]]) -> None:
    batch_index = {batch: i for i, batch in enumerate(grid.batches)}
    share_index = {share: j for j, share in enumerate(grid.sm_milli)}
    for batch, share in cells:
        if batch in batch_index and share in share_index:
            mask[batch_index[batch], share_index[share]] = 1


def _resolved(backend: str) -> str:
    try:
        return resolve_backend(backend)
    except ValueError as error:
        check.fail("backend", f"cannot be resolved: {error}")
