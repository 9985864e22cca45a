"""From one function's profile to its quota configuration: fit, search, and a check against the measurements.

The model decides, but never against the table it was fitted on: a cell that the profile itself shows to miss the budget
is blocked, whatever the fit says of it, and a batch that only repeats a smaller one's latencies is not believed.
Between two measured shares of a batch the table is read by interpolation of log latency over log share, which lies
above any curve that is convex there, as the roofline's is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dilu_core.cluster import Oversubscription
from dilu_core.evidence import Evidence
from dilu_core.fit_diagnostics import repeated_batches
from dilu_core.functions import FunctionSpec
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import RooflineModel
from dilu_core.quota import LimitRule, QuotaConfig, QuotaGrid, QuotaSearchResult
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency, fit_training
from dilu_core.solvers.interference_margin import SharingMargin
from dilu_core.solvers.quota_answers import BUDGET_TOLERANCE
from dilu_core.solvers.quota_search import search_quota, search_training_quota
from dilu_core.token_latency import TokenLatency
from dilu_core.units import FULL_GPU_MILLI


@dataclass(frozen=True)
class Configuration:
    """A function's chosen configuration and the rate at its limit, per instance.

    `config` is `None` where nothing is feasible; `detail` then says why. Rates are requests per second, for training
    samples per second. `measured_ms` is what the profile says of the configuration, `evidence` how. Inference also has
    `whole_gpu`, the configuration of greatest throughput on a whole GPU (`None` where that is not feasible), and
    `alternatives`, other good ways to carry the load, in a fixed order (empty unless sized by load). An LLM whose
    phases are planned apart has `tokens` (see `solvers.llm_configuration`). `model` predicted its latencies.
    """

    config: QuotaConfig | None
    detail: str
    budget_ms: float | None = None
    limit_rps: float | None = None
    measured_ms: float | None = None
    evidence: Evidence = "model"
    warnings: tuple[str, ...] = ()
    whole_gpu: Configuration | None = None
    alternatives: tuple[Configuration, ...] = ()
    tokens: TokenLatency | None = None
    model: RooflineModel | None = None


def configure(
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
    """The configuration of `function`, one latency surface, for GPUs under `caps`.

    See `dilu_core.plan` for the other arguments. With a `margin`, inference keeps its budget even where it is slowed by
    so much.
    """
    trusted, warnings = without_repeats(function.samples)
    samples = trusted.merged()
    grid = function.grid or default_grid(samples, step_milli)
    if function.is_training:
        return _configure_training(function, trusted, samples, grid, warnings)
    slo_ms = function.slo_ms
    assert slo_ms is not None  # FunctionSpec holds this for every kind of inference
    budget_ms = exec_fraction * slo_ms
    fit = fit_latency(trusted, prior=function.prior)
    warnings += fit.diagnostics()  # of what is left, so nothing is said twice
    blocked = cells_over(samples, grid, budget_ms)
    if margin is not None:
        blocked += _cells_over_when_slowed(fit, samples, grid, budget_ms, quantile, margin)
    rule = LimitRule(request_factor=limit_factor)

    def search(over: QuotaGrid) -> QuotaSearchResult:
        return search_quota(
            fit,
            slo_ms=slo_ms,
            grid=over,
            quantile=quantile,
            exec_fraction=exec_fraction,
            limit_rule=rule,
            blocked=blocked,
        )

    def described(config: QuotaConfig) -> Configuration:
        at_limit_ms = float(fit.model.latency_ms(config.batch, config.limit_milli))
        measured_ms, evidence = read_table(samples, config.batch, config.request_milli)
        rate = 1000.0 * config.batch / at_limit_ms
        return Configuration(config, "", budget_ms, rate, measured_ms, evidence, warnings, model=fit.roofline)

    found = search(grid)
    if found.best is None:
        return Configuration(None, found.termination.detail, budget_ms, warnings=warnings)
    whole = search(QuotaGrid(grid.batches, (FULL_GPU_MILLI,))).best
    load_rps = function.load_rps * (1.0 + headroom) if sizing == "load" else None
    return chosen_for(load_rps, found, whole, caps, described)


def chosen_for(
    load_rps: float | None,
    found: QuotaSearchResult,
    whole: QuotaConfig | None,
    caps: Oversubscription,
    described: Callable[[QuotaConfig], Configuration],
) -> Configuration:
    """The best of `found` (with a load: what carries it in the least share first), with its alternatives."""
    assert found.best is not None
    wanted = [found.best]
    if load_rps is not None:
        wanted = [_least(found.pareto, load_rps, share) for share in (_request, _scarcer_cap(caps))] + wanted
    first, *others = (described(config) for config in wanted)
    return replace(first, whole_gpu=None if whole is None else described(whole), alternatives=tuple(others))


def _configure_training(
    function: FunctionSpec,
    trusted: ProfileSamples,
    samples: ProfileSamples,
    grid: QuotaGrid,
    warnings: tuple[str, ...],
) -> Configuration:
    fit = fit_training(trusted, batch=None if function.grid is None else function.grid.batches[0], prior=function.prior)
    found = search_training_quota(fit, fraction=function.throughput_fraction, grid=grid)
    config = found.best
    warnings += fit.diagnostics()
    if config is None:
        return Configuration(None, found.termination.detail, warnings=warnings)
    measured_ms, evidence = read_table(samples, config.batch, config.request_milli)
    rate = float(fit.model.throughput_sps(config.limit_milli))
    return Configuration(config, "", None, rate, measured_ms, evidence, warnings, model=fit.step.roofline)


def _least(pareto: Sequence[QuotaConfig], load_rps: float, share_of: Callable[[QuotaConfig], int]) -> QuotaConfig:
    """The configuration that carries `load_rps` with the least share in all (ties: efficacy, fewer instances)."""

    def total_share(config: QuotaConfig) -> tuple[int, float, int]:
        count = instances_for(load_rps, config.throughput_rps)
        return count * share_of(config), -config.efficacy, count

    return min(pareto, key=total_share)


def _request(config: QuotaConfig) -> int:
    return config.request_milli


def _scarcer_cap(caps: Oversubscription) -> Callable[[QuotaConfig], int]:
    """What an instance takes of the scarcer of the two caps of a GPU, in units that make them comparable."""
    return lambda config: max(config.request_milli * caps.limit_milli, config.limit_milli * caps.request_milli)


def instances_for(load_rps: float, capacity_rps: float) -> int:
    """Instances of `capacity_rps` each that carry `load_rps`; float noise adds none."""
    return int(np.ceil(load_rps / capacity_rps * (1.0 - 1e-12)))


def without_repeats(samples: ProfileSamples) -> tuple[ProfileSamples, tuple[str, ...]]:
    """The samples without batches that repeat a smaller one's latencies, and a sentence for each batch left out."""
    repeats = repeated_batches(samples)
    if not repeats:
        return samples, ()
    left_out = tuple(
        f"Batch {batch} repeats the latencies of batch {of}, so its rows were left out: the profiler may have run out "
        "of inputs."
        for batch, of in repeats.items()
    )
    return samples.select(~np.isin(samples.batch, list(repeats))), left_out


def default_grid(samples: ProfileSamples, step_milli: int) -> QuotaGrid:
    """The measured batches, with the multiples of `step_milli` and every measured share, from the least measured up.

    Nothing is extrapolated: a larger batch than any measured may not fit the memory, and below the least measured share
    the roofline has never been seen.
    """
    shares = np.unique(samples.sm_milli)
    steps = np.arange(step_milli, FULL_GPU_MILLI + 1, step_milli)
    chosen = np.union1d(shares, steps[steps >= shares[0]])
    return QuotaGrid(tuple(np.unique(samples.batch).tolist()), tuple({*chosen.tolist(), FULL_GPU_MILLI}))


def read_table(samples: ProfileSamples, batch: int, sm_milli: int) -> tuple[float | None, Evidence]:
    """Latency in ms that the table itself gives for a cell, and how; `(None, "model")` where it says nothing.

    `samples` holds one row per cell, ascending (see `ProfileSamples.merged`). Measured, or interpolated between the two
    neighbouring shares of the same batch; never extrapolated.
    """
    rows = samples.batch == batch
    shares, latencies = samples.sm_milli[rows], samples.latency_ms[rows]
    exact = shares == sm_milli
    if exact.any():
        return float(latencies[exact][0]), "measured"
    if shares.size == 0 or not shares[0] < sm_milli < shares[-1]:
        return None, "model"
    return float(np.exp(np.interp(np.log(sm_milli), np.log(shares), np.log(latencies)))), "interpolated"


def cells_over(samples: ProfileSamples, grid: QuotaGrid, budget_ms: float) -> list[tuple[int, int]]:
    """Cells of `grid` that the table itself shows to take longer than `budget_ms`."""
    over = []
    for batch in grid.batches:
        for share in grid.sm_milli:
            measured_ms, _ = read_table(samples, batch, share)
            if measured_ms is not None and measured_ms > budget_ms:
                over.append((batch, share))
    return over


def _cells_over_when_slowed(
    fit: LatencyFit,
    samples: ProfileSamples,
    grid: QuotaGrid,
    budget_ms: float,
    quantile: float | None,
    margin: SharingMargin,
) -> list[tuple[int, int]]:
    """Cells of `grid` whose bound, or whose measurement, times the slowdown of `margin` exceeds `budget_ms`."""
    batches, shares = np.array(grid.batches)[:, None], np.array(grid.sm_milli)
    factors = margin.factors(fit.roofline, grid)
    bound_ms = fit.latency_ms(batches, shares) if quantile is None else fit.upper_ms(batches, shares, quantile)
    over = bound_ms * factors > budget_ms * (1.0 + BUDGET_TOLERANCE)
    for i, batch in enumerate(grid.batches):
        for j, share in enumerate(grid.sm_milli):
            measured_ms, _ = read_table(samples, batch, share)
            over[i, j] |= measured_ms is not None and measured_ms * factors[i, j] > budget_ms
    return [(grid.batches[i], grid.sm_milli[j]) for i, j in np.argwhere(over).tolist()]
