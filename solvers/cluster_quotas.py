"""How each system of a cluster replay chooses quotas: for a function, the configurations its instances may run in.

A rule answers a menu, the configurations in order of preference, and an empty one where no batch keeps the latency
budget on any share. Systems that scale uniformly use the first of it. Rates and times are the model's mean, which is
also what the replay takes for true.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dilu_core.quota import LimitRule, QuotaConfig, QuotaGrid
from dilu_core.solvers.cluster_workload import ClusterFunction
from dilu_core.solvers.quota_search import search_quota
from dilu_core.units import FULL_GPU_MILLI

Menu = tuple[QuotaConfig, ...]
QuotaRule = Callable[[ClusterFunction], Menu]

TRAINING_REQUEST, TRAINING_LIMIT = 0.7, 0.98
"""Parts of a whole GPU's training throughput that the request and the limit give, in every system that shares GPUs. In
the published event logs training requests 0.70 of its limit on the mean."""

BURST = 4.0
"""The greatest limit over request in `most_efficient`; `LimitRule` and the published system have 2."""

_PUBLISHED_STEP_MILLI = 100


def whole_gpu(function: ClusterFunction) -> Menu:
    """A whole GPU per instance, at the batch of greatest throughput within the budget."""
    if function.is_training:
        return (function.configuration(function.grid.batches[0], FULL_GPU_MILLI, FULL_GPU_MILLI),)
    grid = QuotaGrid(function.grid.batches, (FULL_GPU_MILLI,))
    best = search_quota(function.model, slo_ms=_slo(function), grid=grid, quantile=None).best
    return () if best is None else (best,)


def most_efficient(function: ClusterFunction) -> Menu:
    """Ours: the exact search's configuration of greatest throughput per share, free to burst to `BURST` times that."""
    if function.is_training:
        return (_training(function),)
    best = search_quota(
        function.model,
        slo_ms=_slo(function),
        grid=function.grid,
        quantile=None,
        limit_rule=LimitRule(request_factor=BURST),
    ).best
    return () if best is None else (best,)


def hybrid_growth(function: ClusterFunction) -> Menu:
    """The published search (Lv et al., ASPLOS 2025, section 3.2, HGSS), on the model instead of on a GPU.

    From batch 1 the share grows by 10 % until the batch keeps its budget; then the batch doubles, and if it misses the
    share grows once more; it stops where that still misses or the efficacy falls, with the last accepted point. Its
    tolerance of 0.2 requests per second and per cent of share is kept.
    """
    if function.is_training:
        return (_training(function),)
    budget_ms, batches = function.budget_ms, function.grid.batches
    shares = range(_PUBLISHED_STEP_MILLI, FULL_GPU_MILLI + 1, _PUBLISHED_STEP_MILLI)

    def tried(batch: int, share: int) -> QuotaConfig | None:
        found = function.configuration(batch, share, share)
        return found if found.latency_ms <= budget_ms else None

    accepted = next((found for share in shares if (found := tried(batches[0], share))), None)
    if accepted is None:
        return ()
    for batch in batches[1:]:
        share = accepted.request_milli
        found = tried(batch, share) or tried(batch, min(share + _PUBLISHED_STEP_MILLI, FULL_GPU_MILLI))
        if found is None or found.efficacy / 100.0 < accepted.efficacy / 100.0 - 0.2:
            break
        accepted = found
    rates, rule = function.tables(accepted.batch)[0], LimitRule()
    saturating = int(np.argmax(rates >= rule.throughput_fraction * rates[-1]))
    return (replace(accepted, limit_milli=rule.limit_milli(accepted.request_milli, saturating)),)


def static_at_limit(function: ClusterFunction) -> Menu:
    """The published configuration, with its limit reserved."""
    return tuple(
        function.configuration(each.batch, each.limit_milli, each.limit_milli) for each in hybrid_growth(function)
    )


def static_at_request(function: ClusterFunction) -> Menu:
    """The published configuration, with its request reserved and no burst."""
    return tuple(replace(each, limit_milli=each.request_milli) for each in hybrid_growth(function))


def one_per_batch(function: ClusterFunction) -> Menu:
    """For every batch, largest first, the share of greatest throughput per share that keeps the budget."""
    if function.is_training:
        return (_static(_training(function)),)
    found = (
        search_quota(
            function.model, slo_ms=_slo(function), grid=QuotaGrid((batch,), function.grid.sm_milli), quantile=None
        ).best
        for batch in reversed(function.grid.batches)
    )
    return tuple(_static(each) for each in found if each is not None)


def throughput_front(function: ClusterFunction) -> Menu:
    """The configuration of greatest throughput per share, then the front of throughput over share, ascending."""
    if function.is_training:
        return (_static(_training(function)),)
    found = search_quota(function.model, slo_ms=_slo(function), grid=function.grid, quantile=None)
    if found.best is None:
        return ()
    best = _static(found.best)
    return (best, *(each for each in map(_static, found.pareto) if each != best))


def _training(function: ClusterFunction) -> QuotaConfig:
    """The least shares of the grid that give `TRAINING_REQUEST` and `TRAINING_LIMIT` of a whole GPU's throughput."""
    batch, shares = function.grid.batches[0], function.grid.sm_milli
    rates = function.tables(batch)[0]

    def least(part: float) -> int:
        return next((share for share in shares if rates[share] >= part * rates[-1]), FULL_GPU_MILLI)

    request = least(TRAINING_REQUEST)
    return function.configuration(batch, request, max(request, least(TRAINING_LIMIT)))


def _static(config: QuotaConfig) -> QuotaConfig:
    return replace(config, limit_milli=config.request_milli)


def _slo(function: ClusterFunction) -> float:
    assert function.slo_ms is not None
    return function.slo_ms
