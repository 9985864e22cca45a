"""The two horizontal rules: what a function's memory and its present fleet say about the number of instances."""

from __future__ import annotations

import math
from typing import NamedTuple

from dilu_core.coscaling.forecast import HORIZON, RETURN, Forecast
from dilu_core.coscaling.hold import stretches_held, window_held_s
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import ScalingReason
from dilu_core.coscaling.state import LEAST_DELIVERED, HorizontalState

_STANDING = 0.02  # a queue that changes by less than this part of the arrivals stands still
_MOST_NEED = 1e9  # instances; keeps the arithmetic finite whatever a sensor reports
_NOISE = 1e-9  # relative; a load of exactly n instances must need n, not n + 1


class Fleet(NamedTuple):
    """The present: instances by state, arrivals, and requests in the system where that is known."""

    ready: int
    starting: int
    arrivals_rps: float
    in_flight: float | None

    @property
    def planned(self) -> int:
        """Instances that serve or will."""
        return self.ready + self.starting

    @property
    def anything(self) -> bool:
        """Whether a request came or is in the system."""
        return self.arrivals_rps > 0.0 or bool(self.in_flight)


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


def trusted_lean(params: HorizontalParams, spare_milli: float | None, delivered: float | None) -> float:
    """The load over capacity that an instance is trusted with: between 1 and limit / request, or what it delivered."""
    return _lean(params, spare_milli, delivered, params.spare_trust)


def full_lean(params: HorizontalParams, spare_milli: float | None, delivered: float | None) -> float:
    """The load over capacity that an instance carries with all of its spare share, or, not known, as trusted."""
    return _lean(params, spare_milli, delivered, 1.0)


def _lean(params: HorizontalParams, spare_milli: float | None, delivered: float | None, trust: float) -> float:
    lean = params.lean if spare_milli is None else 1.0 + trust * spare_milli / params.request_milli
    lean = min(lean, params.burst)
    return lean if delivered is None else min(lean, delivered)


def seen_delivery(params: HorizontalParams, before: HorizontalState, fleet: Fleet, elapsed_s: float) -> float | None:
    """What a ready instance serves over its capacity, as seen while requests waited; `None` if never seen.

    A queue that did not run dry in the last `elapsed_s` measures the service rate: arrivals less the growth of the
    queue. It mends a capacity that was promised too high, or a burst share that is not there. Starting instances do
    not blur it, and it counts only while the number of ready ones stands still.
    """
    usual = _usual_in_flight(params, fleet)
    if fleet.in_flight is None or before.in_flight is None or usual is None:
        return before.delivered
    if fleet.ready == 0 or fleet.ready != before.ready or min(before.in_flight, fleet.in_flight) <= usual:
        return before.delivered
    growth = (fleet.in_flight - before.in_flight) / elapsed_s
    if abs(growth) <= _STANDING * fleet.arrivals_rps:
        return before.delivered  # what stands still may be slow service as well as a queue: no evidence of a rate
    rate = fleet.arrivals_rps - growth
    seen = min(max(rate / (fleet.ready * params.capacity_rps), LEAST_DELIVERED), params.burst)
    if before.delivered is None:
        return seen
    return before.delivered + (seen - before.delivered) * min(1.0, elapsed_s / params.short_s)


def shown_load(
    params: HorizontalParams, before: HorizontalState, fleet: Fleet, elapsed_s: float, delivered: float | None
) -> float | None:
    """The load over capacity that a ready instance has shown to carry; `None` if nothing ever measured it.

    It starts at the promise, 1, rises to any load that came in without queueing up, and is what was measured where a
    queue measured it: where `delivered` differs from that of `before`. Scale-in trusts no more than this, because a
    burst that is not there shows only when the instances are gone.
    """
    if fleet.in_flight is None or before.in_flight is None or _usual_in_flight(params, fleet) is None:
        return before.shown
    if fleet.ready == 0 or fleet.ready != before.ready:
        return before.shown
    if delivered is not None and delivered != before.delivered:
        return delivered
    queued_rps = max(0.0, fleet.in_flight - before.in_flight) / elapsed_s
    carried = min((fleet.arrivals_rps - queued_rps) / (fleet.ready * params.capacity_rps), params.burst)
    return max(1.0 if before.shown is None else before.shown, carried)


def backlog_rps(params: HorizontalParams, fleet: Fleet | None) -> float:
    """The extra rate that clears the backlog in `clear_s`; 0 where it is not known or new instances are starting."""
    if fleet is None or fleet.in_flight is None or fleet.starting > 0:
        return 0.0
    usual = _usual_in_flight(params, fleet)
    return 0.0 if usual is None else max(0.0, fleet.in_flight - usual) / params.clear_s


def _usual_in_flight(params: HorizontalParams, fleet: Fleet) -> float | None:
    """Requests in the system while all is well, and one per instance: Little's law at the SLO or the base latency.

    The greater counts: a base latency above the SLO breaks the SLO, but with no request waiting.
    """
    if params.slo_ms is None and params.base_latency_ms is None:
        return None
    latency_ms = max(params.slo_ms or 0.0, params.base_latency_ms or 0.0)
    return fleet.arrivals_rps * latency_ms / 1000.0 + fleet.ready


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
