"""The two horizontal rules: what a function's memory and its present fleet say about the number of instances."""

from __future__ import annotations

import math
from typing import NamedTuple

from dilu_core.coscaling.delivery import Fleet, backlog_rps, trusted_lean
from dilu_core.coscaling.forecast import HORIZON, RETURN, Forecast
from dilu_core.coscaling.hold import stretches_held, window_held_s
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import ScalingReason
from dilu_core.coscaling.state import HorizontalState

_MOST_NEED = 1e9  # instances; keeps the arithmetic finite whatever a sensor reports
_NOISE = 1e-9  # relative; a load of exactly n instances must need n, not n + 1


class Proposal(NamedTuple):
    """The number of instances a rule wants, before bounds, and why.

    `forgets_to`: the need (in instances) that is held from now on, where a forecast vouches that the peaks of the
    window are over.
    """

    target: int
    reason: ScalingReason
    detail: str
    forgets_to: float | None = None


def lazy_rule(params: HorizontalParams, state: HorizontalState, fleet: Fleet) -> Proposal:
    """One instance more or fewer when most of the latest seconds say so (Lv et al., ASPLOS 2025, section 4.4).

    With n instances planned and r ready: +1 if at least `lazy_out` of the last `lazy_samples` seconds exceed
    n * capacity, -1 if none is starting and at least `lazy_in` are below (r - 1) * capacity.
    """
    capacity, samples = params.capacity_rps, state.samples_rps
    all_serve, one_fewer_serves = fleet.planned * capacity, (fleet.ready - 1) * capacity
    above = len([rate for rate in samples if rate > all_serve * (1.0 + _NOISE)])
    if above >= params.lazy_out:
        detail = f"{above} of the last {len(samples)} s exceeded {fleet.planned} x {capacity:g} rps"
        return Proposal(fleet.planned + 1, ScalingReason.LOAD, detail)
    if fleet.planned > 1 and fleet.starting == 0:
        below = len([rate for rate in samples if rate < one_fewer_serves * (1.0 - _NOISE)])
        if below >= params.lazy_in:
            detail = f"{below} of the last {len(samples)} s were below {fleet.ready - 1} x {capacity:g} rps"
            return Proposal(fleet.planned - 1, ScalingReason.SPARE_CAPACITY, detail)
    return Proposal(fleet.planned, ScalingReason.STEADY, "the latest seconds have no majority for a change")


class Peaks(NamedTuple):
    """The latest seconds, and the held peaks of need with the age of the running stretch."""

    samples_rps: tuple[float, ...]
    needs: tuple[float, ...]
    filled_s: int


def hold_peaks(
    params: HorizontalParams, before: Peaks, new: tuple[float, ...], lean: float, backlog_rps: float
) -> tuple[Peaks, tuple[float, ...]]:
    """`before` with the need of each `new` second (its mean rate) entered, and the short means at those seconds.

    The need is (x + e) / (capacity * lean) instances, with x the mean rate of the last `short_s` seconds, e the extra
    rate that clears the backlog, and lean what an instance is trusted to carry over its capacity. The backlog may raise
    it only so far that scale-in would leave it there: a turn-round at constant load helps nobody.
    """
    stretch_s = params.stretch_s
    kept = math.ceil(params.window_s / stretch_s) + 1  # the running stretch on top of a whole window of full ones
    per_instance = params.capacity_rps * lean
    samples, needs, filled = before
    means: list[float] = []
    for rate in new:
        samples = (*samples, rate)[-params.short_s :]
        means.append(sum(samples) / len(samples))
        need = min(means[-1] / per_instance, _MOST_NEED)
        if backlog_rps > 0.0:
            ceiling = _ceil(need / (0.5 + 0.5 * params.scale_in_load))
            need = max(need, min(need + backlog_rps / per_instance, ceiling))
        if not needs or filled >= stretch_s:
            needs, filled = (*needs, need)[-kept:], 0
        elif need > needs[-1]:
            needs = (*needs[:-1], need)
        filled += 1
    return Peaks(samples, needs, filled), tuple(means)


def co_scaling_rule(
    params: HorizontalParams, state: HorizontalState, fleet: Fleet, latency_p95_ms: float | None
) -> Proposal:
    """As many instances as the held peak or a forecast needs, at once when more, hesitating when fewer.

    Out to ceil(held need), or to ceil(need of the forecast), so early that the instances serve when it comes. In to
    ceil(held need / scale_in_load) once the whole window is known, nothing starts, the cool-down is over and the
    latency is not above its objective; that need trusts an instance with no more than it has shown to carry, and never
    falls below the forecast's. Between the two counts nothing moves, which is why a constant load - with jitter below
    1 - scale_in_load - never changes direction, wherever an instance serves its capacity at its request.

    Where a period is so sure that it vouches for the next `RETURN` buckets, the peaks of the window that is over do not
    hold instances back: the held need shrinks as the load just now and the one to come are less than that of the
    window. What returns later than that is cheaper to launch anew than to wait for.
    """
    lean = trusted_lean(params, state.spare_milli, state.delivered)
    per_instance = params.capacity_rps * lean
    forecast = state.forecast
    held = max(state.peaks[-1 - stretches_held(params, forecast.hold) :], default=0.0)
    coming = _coming(forecast, per_instance)
    planned = fleet.planned
    out, early = _ceil(held), _ceil(coming)
    if max(out, early) > planned:
        return _scale_out(params, state, fleet, max(out, early), per_instance, held, coming)
    proven = lean if state.shown is None else min(lean, state.shown)
    forgets_to = None
    if vouches(params, forecast) and backlog_rps(params, fleet) == 0.0:
        known, behind = max(forecast.recent_rps, forecast.ahead_rps), max(forecast.recent_rps, forecast.behind_rps)
        if known < behind:
            held = forgets_to = held * (known / behind)
    # the load this instant counts in full, or a jump that shows what instances can carry would remove some
    need = max(held, coming, min(fleet.arrivals_rps / per_instance, _MOST_NEED))
    survivors = max(1, _ceil(need * (lean / proven) / params.scale_in_load))
    if survivors >= planned:
        return Proposal(planned, ScalingReason.STEADY, f"the load of the window needs {need:.2f} instances")
    obstacle = _obstacle(params, state, fleet, latency_p95_ms)
    if obstacle is not None:
        return Proposal(planned, ScalingReason.HOLDING, f"{survivors} instances would do, but {obstacle}")
    if forgets_to is not None:
        detail = f"{survivors} instances carry the load now and that of the next {RETURN * params.bucket_s} s"
        return Proposal(survivors, ScalingReason.SPARE_CAPACITY, f"{detail}: {_basis(params, forecast)}", forgets_to)
    window_s = window_held_s(params, forecast.hold)
    detail = f"{survivors} instances carry the peak of the last {window_s} s, a need of {need:.2f}"
    return Proposal(survivors, ScalingReason.SPARE_CAPACITY, detail)


def pre_warm(params: HorizontalParams, state: HorizontalState, fleet: Fleet) -> Proposal | None:
    """What the forecast alone asks for; `None` where it expects nothing."""
    per_instance = params.capacity_rps * trusted_lean(params, state.spare_milli, state.delivered)
    coming = _coming(state.forecast, per_instance)
    if coming == 0.0:
        return None
    return _scale_out(params, state, fleet, max(1, _ceil(coming)), per_instance, 0.0, coming)


def _coming(forecast: Forecast, per_instance: float) -> float:
    """The instances that the forecast needs."""
    return min(max(forecast.soon_rps, forecast.drift_rps) / per_instance, _MOST_NEED)


def vouches(params: HorizontalParams, forecast: Forecast) -> bool:
    """Whether a period is trusted to say what will not come: confident halfway from the least to certainty."""
    return forecast.vouched >= 0.5 + 0.5 * params.least_confidence


def _scale_out(
    params: HorizontalParams,
    state: HorizontalState,
    fleet: Fleet,
    target: int,
    per_instance: float,
    held: float,
    coming: float,
) -> Proposal:
    """More instances and what asks for them, unless the last change was just now."""
    if state.since_change_s is not None and state.since_change_s < params.scale_out_cooldown_s:
        detail = f"{target} instances are needed, but the last change was {state.since_change_s:g} s ago"
        return Proposal(fleet.planned, ScalingReason.HOLDING, detail)
    if _ceil(held) <= fleet.planned:
        detail = f"the load expected within {HORIZON * params.bucket_s} s needs {coming:.2f} instances"
        return Proposal(target, ScalingReason.PREDICTED, f"{detail}: {_basis(params, state.forecast)}")
    lately = min(sum(state.samples_rps) / max(1, len(state.samples_rps)) / per_instance, _MOST_NEED)
    if backlog_rps(params, fleet) > 0.0 and _ceil(lately) <= fleet.planned:
        return Proposal(target, ScalingReason.BACKLOG, f"the load and those who wait need {held:.2f} instances")
    return Proposal(target, ScalingReason.LOAD, f"the load needs {held:.2f} instances")


def _basis(params: HorizontalParams, forecast: Forecast) -> str:
    """What a forecast rests on, in words."""
    if forecast.drift_rps > forecast.soon_rps:
        return (
            f"a trend of {forecast.trend_rps / params.bucket_s:+.3g} rps/s, confidence {forecast.trend_confidence:.2f}"
        )
    return f"a period of {forecast.period * params.bucket_s} s, confidence {forecast.vouched:.2f}"


def _obstacle(
    params: HorizontalParams, state: HorizontalState, fleet: Fleet, latency_p95_ms: float | None
) -> str | None:
    """What speaks against scale-in, if anything."""
    window_s = window_held_s(params, state.forecast.hold)
    if state.known_s < window_s:
        return f"only {state.known_s} of {window_s} s are known"
    if fleet.starting > 0:
        return f"{fleet.starting} are still starting"
    if state.since_change_s is not None and state.since_change_s < params.scale_in_cooldown_s:
        return f"the last change was {state.since_change_s:g} s ago"
    if params.slo_ms is not None and latency_p95_ms is not None and latency_p95_ms > params.slo_ms:
        return f"the latency of {latency_p95_ms:g} ms is above its objective"
    return None


def _ceil(instances: float) -> int:
    return math.ceil(instances - _NOISE * max(1.0, instances))
