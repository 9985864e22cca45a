"""From the two profiles of an LLM function to its configuration: fit both phases, search, and check the measurements.

As in `solvers.configuration` the model never decides against the tables it was fitted on: a cell whose measured decode
step and prefill amount to more than a TTFT or TPOT budget is blocked, whatever the fits say.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dilu_core import _checks as checks
from dilu_core.cluster import Oversubscription
from dilu_core.functions import FunctionSpec
from dilu_core.llm_fit import DECODE, PREFILL
from dilu_core.quota import LimitRule, QuotaConfig, QuotaGrid, QuotaSearchResult
from dilu_core.solvers.configuration import Configuration, chosen_for, default_grid, without_repeats
from dilu_core.solvers.interference_margin import SharingMargin
from dilu_core.solvers.llm_fitting import fit_llm
from dilu_core.solvers.llm_quota import measured_in_both, search_llm_quota
from dilu_core.solvers.llm_tables import PhaseTables
from dilu_core.solvers.quota_answers import BUDGET_TOLERANCE
from dilu_core.token_latency import LatencyCheck, TokenLatency
from dilu_core.units import FULL_GPU_MILLI


def configure_llm(
    function: FunctionSpec,
    caps: Oversubscription,
    *,
    quantile: float | None,
    exec_fraction: float,
    sizing: str,
    headroom: float,
    step_milli: int,
    limit_factor: float | None,
    margin: SharingMargin | None = None,
) -> Configuration:
    """The configuration of an LLM `function` with two phases; see `dilu_core.plan` for the other arguments.

    With a `margin` both objectives are kept even where either phase is slowed by so much.
    """
    phases = function.phases
    if phases is None:
        checks.fail("function", f"is {function.name!r}, which has no phases; see FunctionSpec.prefill_samples.")
    prefill, of_prefill = without_repeats(phases.prefill_samples)
    decode, of_decode = without_repeats(function.samples)
    fit = fit_llm(
        prefill,
        decode,
        prompt_tokens=phases.prompt_tokens,
        output_tokens=phases.output_tokens,
        ttft_prompt_tokens=phases.ttft_prompt_tokens,
    )
    left_out = [(PREFILL, sentence) for sentence in of_prefill] + [(DECODE, sentence) for sentence in of_decode]
    warnings = (*(f"{phase}: {sentence}" for phase, sentence in left_out), *fit.diagnostics())
    tables = PhaseTables(fit, prefill.merged(), decode.merged())
    grid = function.grid or measured_in_both(default_grid(decode, step_milli), prefill)
    ttft = LatencyCheck(slo_ms=phases.ttft_slo_ms, budget_ms=exec_fraction * phases.ttft_slo_ms)
    tpot = LatencyCheck(slo_ms=phases.tpot_slo_ms, budget_ms=phases.tpot_slo_ms)
    budget_ms = ttft.budget_ms + fit.decode_steps * tpot.budget_ms
    blocked = tables.cells_over(grid, ttft.budget_ms, tpot.budget_ms)
    if margin is not None:
        blocked += _cells_over_when_slowed(tables, grid, ttft.budget_ms, tpot.budget_ms, quantile, margin)

    def search(over: QuotaGrid) -> QuotaSearchResult:
        return search_llm_quota(
            fit,
            ttft_slo_ms=phases.ttft_slo_ms,
            tpot_slo_ms=phases.tpot_slo_ms,
            grid=over,
            quantile=quantile,
            exec_fraction=exec_fraction,
            limit_rule=LimitRule(request_factor=limit_factor),
            blocked=blocked,
        )

    def tokens(ttft: LatencyCheck, tpot: LatencyCheck) -> TokenLatency:
        return TokenLatency(
            prompt_tokens=fit.prompt_tokens,
            output_tokens=fit.output_tokens,
            ttft_prompt_tokens=fit.promised_tokens,
            ttft=ttft,
            tpot=tpot,
        )

    def described(config: QuotaConfig) -> Configuration:
        cell = config.batch, config.request_milli
        ttft_measured_ms, of_ttft = tables.ttft_ms(*cell)
        tpot_measured_ms, of_tpot = tables.tpot_ms(*cell)
        first = replace(
            ttft,
            latency_ms=float(fit.ttft_ms(*cell)),
            upper_ms=None if quantile is None else float(fit.ttft_upper_ms(*cell, quantile)),
            measured_ms=ttft_measured_ms,
            evidence=of_ttft,
        )
        further = replace(
            tpot,
            latency_ms=float(fit.tpot_ms(*cell)),
            upper_ms=None if quantile is None else float(fit.tpot_upper_ms(*cell, quantile)),
            measured_ms=tpot_measured_ms,
            evidence=of_tpot,
        )
        rate = float(fit.throughput_rps(config.batch, config.limit_milli))
        measured_ms, evidence = tables.latency_ms(*cell)
        return Configuration(
            config,
            "",
            budget_ms,
            rate,
            measured_ms,
            evidence,
            warnings,
            model=fit.decode.roofline,
            tokens=tokens(first, further),
        )

    found = search(grid)
    if found.best is None:
        return Configuration(None, found.termination.detail, budget_ms, warnings=warnings, tokens=tokens(ttft, tpot))
    whole = search(QuotaGrid(grid.batches, (FULL_GPU_MILLI,))).best
    load_rps = function.load_rps * (1.0 + headroom) if sizing == "load" else None
    return chosen_for(load_rps, found, whole, caps, described)


def _cells_over_when_slowed(
    tables: PhaseTables,
    grid: QuotaGrid,
    ttft_budget_ms: float,
    tpot_budget_ms: float,
    quantile: float | None,
    margin: SharingMargin,
) -> list[tuple[int, int]]:
    """Cells of `grid` whose bound or measurement exceeds a budget when slowed as the worse of both phases is."""
    fit, cells = tables.fit, (np.array(grid.batches)[:, None], np.array(grid.sm_milli))
    of_prefill = margin.factors(fit.prefill.roofline, QuotaGrid((fit.prompt_tokens,), grid.sm_milli))
    factors = np.maximum(margin.factors(fit.decode.roofline, grid), of_prefill)
    ttft_ms = fit.ttft_ms(*cells) if quantile is None else fit.ttft_upper_ms(*cells, quantile)
    tpot_ms = fit.tpot_ms(*cells) if quantile is None else fit.tpot_upper_ms(*cells, quantile)
    over = ttft_ms * factors > ttft_budget_ms * (1.0 + BUDGET_TOLERANCE)
    over |= tpot_ms * factors > tpot_budget_ms * (1.0 + BUDGET_TOLERANCE)
    for i, batch in enumerate(grid.batches):
        for j, share in enumerate(grid.sm_milli):
            first_ms, further_ms = tables.ttft_ms(batch, share)[0], tables.tpot_ms(batch, share)[0]
            over[i, j] |= first_ms is not None and first_ms * factors[i, j] > ttft_budget_ms
            over[i, j] |= further_ms is not None and further_ms * factors[i, j] > tpot_budget_ms
    return [(grid.batches[i], grid.sm_milli[j]) for i, j in np.argwhere(over).tolist()]
