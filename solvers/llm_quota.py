"""The quota search of an LLM function: concurrent sequences and share that keep both TTFT and TPOT."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.llm_fit import LlmFit
from dilu_core.quota import LimitRule, QuotaGrid, QuotaSearchResult
from dilu_core.result import Termination, TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.quota_answers import BUDGET_TOLERANCE
from dilu_core.solvers.quota_search import search_quota
from dilu_core.units import FULL_GPU_MILLI

_NO_THIRD_SLO_MS = 1e300  # the time of a request in its slot has no objective of its own


def search_llm_quota(
    fit: LlmFit,
    *,
    ttft_slo_ms: float,
    tpot_slo_ms: float,
    grid: QuotaGrid | None = None,
    quantile: float | None = 0.95,
    exec_fraction: float = 0.5,
    limit_rule: LimitRule | None = None,
    backend: str = "auto",
    blocked: Iterable[tuple[int, int]] = (),
) -> QuotaSearchResult:
    """The configuration of greatest throughput efficacy that keeps both SLOs at its request.

    A cell (b sequences, share s) is feasible if, by the bounds of `fit` at `quantile` (its means for `None`),

        TTFT(b, s) <= exec_fraction * ttft_slo_ms   and   TPOT(b, s) <= tpot_slo_ms.

    The rest of the TTFT SLO is for waiting: for a free slot and for the prompts ahead. By default that is one half,
    which in simulation lasts for 97 % of requests that arrive at random, up to 70 % of capacity
    (`bench/llm_serving.py`). TPOT has its stalls inside and needs no such rest.
    Bounds need not be monotone, so every cell of the grid is looked at, and the answer is exact.

    Parameters
    ----------
    fit
        See `fit_llm`.
    ttft_slo_ms, tpot_slo_ms
        Objectives for the time to first token and the mean time per further token.
    grid
        Concurrent sequences (its batches) and requests to choose from; `None`: `QuotaGrid.covering` of the decode
        samples, from the least share of the prefill samples up.
    quantile, exec_fraction, limit_rule, backend, blocked
        As for `search_quota`; throughput counts requests.

    Returns
    -------
    QuotaSearchResult
        Of its configurations `batch` is the number of sequences, `latency_ms` and `upper_ms` are the time of a request
        in its slot, and `throughput_rps` are requests per second. `INFEASIBLE` says in `detail` which of the SLOs
        cannot be met.

    Raises
    ------
    InvalidArgumentError
        Naming the argument.
    """
    if not isinstance(fit, LlmFit):
        check.fail("fit", f"is {fit!r:.80}; expected an LlmFit (see fit_llm).")
    ttft_ms = check.finite("ttft_slo_ms", ttft_slo_ms, above=0.0)
    tpot_ms = check.finite("tpot_slo_ms", tpot_slo_ms, above=0.0)
    fraction = check.finite("exec_fraction", exec_fraction, above=0.0, at_most=1.0)
    if grid is None:
        grid = measured_in_both(QuotaGrid.covering(fit.decode.samples), fit.prefill.samples)
    elif not isinstance(grid, QuotaGrid):
        check.fail("grid", f"is {grid!r:.80}; expected a QuotaGrid.")
    if quantile is not None and not 0.0 < check.finite("quantile", quantile) < 1.0:
        check.fail("quantile", f"is {quantile!r}; expected a probability strictly between 0 and 1, or None.")
    cells = np.array(grid.batches)[:, None], np.array(grid.sm_milli)
    if quantile is None:
        ttft_bound, tpot_bound = fit.ttft_ms(*cells), fit.tpot_ms(*cells)
    else:
        ttft_bound, tpot_bound = fit.ttft_upper_ms(*cells, quantile), fit.tpot_upper_ms(*cells, quantile)
    ttft = _Objective("TTFT", fraction * ttft_ms, ttft_bound)
    tpot = _Objective("TPOT", tpot_ms, tpot_bound)
    missed = [(grid.batches[i], grid.sm_milli[j]) for i, j in np.argwhere(~(ttft.kept & tpot.kept)).tolist()]
    known = list(blocked) if isinstance(blocked, Iterable) else blocked
    found = search_quota(
        fit,
        slo_ms=_NO_THIRD_SLO_MS,
        grid=grid,
        quantile=quantile,
        exec_fraction=1.0,
        limit_rule=limit_rule,
        backend=backend,
        blocked=[*known, *missed] if isinstance(known, list) else known,
    )
    if found.best is not None:
        return found
    detail = _why_infeasible(ttft, tpot, grid, quantile)
    return replace(found, termination=Termination(TerminationReason.INFEASIBLE, None, detail))


def measured_in_both(grid: QuotaGrid, prefill: ProfileSamples) -> QuotaGrid:
    """The grid of a decode profile without the shares below any of the prefill profile's; a whole GPU where none is."""
    least = int(prefill.sm_milli.min())
    return QuotaGrid(grid.batches, tuple(share for share in grid.sm_milli if share >= least) or (FULL_GPU_MILLI,))


@dataclass(frozen=True)
class _Objective:
    """One of the two SLOs over the grid: what a cell takes against the budget."""

    name: str
    budget_ms: float
    bound_ms: NDArray[np.float64]

    @property
    def kept(self) -> NDArray[np.bool_]:
        return np.asarray(self.bound_ms <= self.budget_ms * (1.0 + BUDGET_TOLERANCE))

    def least(self, grid: QuotaGrid, quantile: float | None) -> str:
        i, j = np.unravel_index(int(np.argmin(self.bound_ms)), self.bound_ms.shape)
        what = "predicted mean" if quantile is None else f"bound at quantile {quantile:g}"
        cell = f"batch {grid.batches[int(i)]}, share {grid.sm_milli[int(j)]}"
        return f"least {what} {self.bound_ms[i, j]:.4g} ms at {cell}"


def _why_infeasible(ttft: _Objective, tpot: _Objective, grid: QuotaGrid, quantile: float | None) -> str:
    never = [each for each in (ttft, tpot) if not each.kept.any()]
    if never:
        return "; ".join(
            f"nothing meets the {each.name} budget of {each.budget_ms:.4g} ms: {each.least(grid, quantile)}"
            for each in never
        )
    if not (ttft.kept & tpot.kept).any():
        return (
            f"no cell meets the TTFT budget of {ttft.budget_ms:.4g} ms and the TPOT budget of {tpot.budget_ms:.4g} ms "
            f"together ({ttft.name}: {ttft.least(grid, quantile)}; {tpot.name}: {tpot.least(grid, quantile)})"
        )
    return (
        f"no cell that is not blocked meets the TTFT budget of {ttft.budget_ms:.4g} ms and the TPOT budget of "
        f"{tpot.budget_ms:.4g} ms"
    )
