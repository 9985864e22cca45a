"""Horizontal co-scaling of one function: from an observation to the number of instances, with the reason.

`CoScaler.decide` is the recipe: sort out what is not known, remember whole seconds, look after zero, ask the rule
(`dilu_core.coscaling.rules`), keep to the bounds.
"""

from __future__ import annotations

from dataclasses import replace

from dilu_core._checks import fail, shown
from dilu_core.coscaling.delivery import Fleet, backlog_rps, full_lean, seen_delivery, shown_load, trusted_lean
from dilu_core.coscaling.forecast import Forecast, followed, passed
from dilu_core.coscaling.hold import Carried
from dilu_core.coscaling.params import RULES, HorizontalParams
from dilu_core.coscaling.policy import (
    Observation,
    ScalingDecision,
    ScalingReason,
    expect,
    known_count,
    known_number,
    known_time,
)
from dilu_core.coscaling.rules import Peaks, Proposal, co_scaling_rule, hold_peaks, lazy_rule, pre_warm
from dilu_core.coscaling.state import HorizontalState

__all__ = ["RULES", "CoScaler", "HorizontalParams", "HorizontalState"]

_FIRST_PERIOD_S = 1.0  # what the first observation is taken to span: nothing says when the one before it was
_WHOLE = 1e-9  # seconds; a hundred periods of 0.01 s must make one second in spite of rounding


class CoScaler:
    """The horizontal policy of one function: pure, deterministic, at peace with any observation.

    The rule "co-scaling" adds as many instances at once as the short mean of arrivals and the backlog need, counting
    on the burst share that is really there, and removes them only when the peak of a long window would leave the
    survivors at ease; it launches ahead of a load that a forecast sees coming, and where a learnt period is sure it
    does not wait for the end of the window. The rule "lazy" is the one of Lv et al. (ASPLOS 2025): one instance at a
    time, on the majority of the latest seconds. In both, starting instances are planned for but serve nothing yet, and
    missing data move nothing.
    """

    def __init__(self, params: HorizontalParams) -> None:
        if not isinstance(params, HorizontalParams):
            fail("params", f"is {shown(params, 80)}; expected HorizontalParams.")
        self.params = params

    def __repr__(self) -> str:
        return f"CoScaler({self.params!r})"

    def initial_state(self) -> HorizontalState:
        """Nothing seen yet."""
        return HorizontalState()

    def decide(self, state: HorizontalState, observation: Observation) -> tuple[ScalingDecision, HorizontalState]:
        """The decision for `observation` and the state to pass with the next one.

        Whatever cannot be true counts as not known: without a clock that moved on, arrivals or instance counts, the
        decision changes nothing and says what was missing. Never raises on odd data; a `state` or `observation` of
        another type is an `InvalidArgumentError`.
        """
        expect("state", state, HorizontalState)
        expect("observation", observation, Observation)
        decision, state = self._decide(state, observation)
        return replace(decision, inputs=observation), state

    def _decide(self, state: HorizontalState, observation: Observation) -> tuple[ScalingDecision, HorizontalState]:
        ready, starting = known_count(observation.ready), known_count(observation.starting)
        planned = None if ready is None or starting is None else ready + starting
        now = known_time(observation.time_s)
        if now is None:
            return _stay(planned, ScalingReason.CLOCK, "time_s is not known"), state
        elapsed = _FIRST_PERIOD_S if state.time_s is None else now - state.time_s
        if elapsed <= 0.0:
            motion = "has not moved since the last observation" if elapsed == 0.0 else f"went back by {-elapsed:g} s"
            skipped = state if elapsed == 0.0 else state._replace(time_s=now, in_flight=None)
            return _stay(planned, ScalingReason.CLOCK, f"time_s {motion}"), skipped
        if elapsed > self.params.stale_after_s:
            detail = f"{elapsed:g} s since the last observation; what was known before no longer counts"
            return _stay(planned, ScalingReason.LEARNING, detail), HorizontalState(time_s=now)

        arrivals = known_number(observation.arrivals_rps)
        since_change = None if state.since_change_s is None else state.since_change_s + elapsed
        if arrivals is None:
            skipped = self._skipped(state, now, elapsed, since_change)
            return _stay(planned, ScalingReason.NO_DATA, "arrivals_rps is not known, which is not zero"), skipped

        in_flight = known_number(observation.in_flight)
        fleet = None if ready is None or starting is None else Fleet(ready, starting, arrivals, in_flight)
        state = self._remember(state, now, elapsed, arrivals, since_change, fleet, observation)
        if fleet is None:
            missing = "ready" if ready is None else "starting"
            return _stay(None, ScalingReason.NO_DATA, f"{missing} is not known, which is not zero"), state

        proposal = self._propose(state, fleet, known_number(observation.latency_p95_ms))
        decision = self._bounded(fleet, proposal)
        if decision.change:
            lazy = self.params.rule == "lazy"
            state = state._replace(
                since_change_s=0.0,
                samples_rps=() if lazy else state.samples_rps,
                delivered=state.delivered if decision.change > 0 else None,
            )
        if decision.change < 0 and proposal.forgets_to is not None:
            state = state._replace(peaks=(proposal.forgets_to,))
        return decision, state

    def _skipped(
        self, state: HorizontalState, now: float, elapsed: float, since_change_s: float | None
    ) -> HorizontalState:
        """`state` after a stretch of which nothing is known; the queue's growth in it is not known either."""
        forecast = passed(self.params, state.forecast, elapsed) if self._remembers else Forecast()
        return state._replace(time_s=now, since_change_s=since_change_s, in_flight=None, forecast=forecast)

    @property
    def _remembers(self) -> bool:
        """Whether the past beyond the window matters: to a forecast, or to a window that is learnt."""
        params = self.params
        return params.rule == "co-scaling" and (params.predict != "off" or params.late_weight > 0.0)

    def _remember(
        self,
        state: HorizontalState,
        now: float,
        elapsed: float,
        arrivals: float,
        since_change: float | None,
        fleet: Fleet | None,
        observation: Observation,
    ) -> HorizontalState:
        """`state` with one more stretch of `elapsed` known seconds, cut into whole seconds."""
        params = self.params
        kept = params.lazy_samples if params.rule == "lazy" else params.short_s
        partial_s, partial_requests = state.partial_s + elapsed, state.partial_requests + arrivals * elapsed
        new: tuple[float, ...] = ()
        seconds = int(partial_s + _WHOLE)
        if seconds:
            partial_s = max(0.0, partial_s - seconds)
            first = state.partial_requests + arrivals * (1.0 - state.partial_s)
            new = (first,) + (arrivals,) * min(seconds - 1, max(kept, params.window_s))
            partial_requests = arrivals * partial_s

        spare = known_number(observation.spare_milli)
        if spare is not None and state.spare_milli is not None:
            spare = state.spare_milli + (spare - state.spare_milli) * min(1.0, elapsed / params.short_s)
        delivered = state.delivered if fleet is None else seen_delivery(params, state, fleet, elapsed)
        shown = state.shown if fleet is None else shown_load(params, state, fleet, elapsed, delivered)
        forecast = state.forecast if self._remembers else Forecast()  # of other parameters, it would rule for ever
        if params.rule == "lazy":
            held = Peaks((state.samples_rps + new)[-kept:], (), 0)
        else:
            held = Peaks(state.samples_rps, state.peaks, state.peak_filled_s)
            lean = trusted_lean(params, spare, delivered)
            held, means = hold_peaks(params, held, new, lean, backlog_rps(params, fleet))
            if self._remembers and seconds:
                if seconds > len(new):
                    forecast = passed(params, forecast, float(seconds - len(new)))
                carried = Carried(lean, full_lean(params, spare, delivered))
                forecast = followed(params, forecast, means, carried)
        wanted_s = state.wanted_s
        if fleet is not None:
            wanted_s = wanted_s + elapsed if fleet.planned == 0 and fleet.anything else 0.0
        return HorizontalState(
            time_s=now,
            samples_rps=held.samples_rps,
            partial_s=partial_s,
            partial_requests=partial_requests,
            peaks=held.needs,
            peak_filled_s=held.filled_s,
            known_s=min(params.window_s, state.known_s + seconds),
            quiet_s=state.quiet_s + elapsed if arrivals == 0.0 else 0.0,
            since_change_s=since_change,
            spare_milli=spare,
            delivered=delivered,
            shown=shown,
            in_flight=None if fleet is None else fleet.in_flight,
            ready=None if fleet is None else fleet.ready,
            wanted_s=wanted_s,
            forecast=forecast,
        )

    def _propose(self, state: HorizontalState, fleet: Fleet, latency_p95_ms: float | None) -> Proposal:
        params, lazy = self.params, self.params.rule == "lazy"
        early = None if lazy else pre_warm(params, state, fleet)
        if fleet.planned == 0 and not fleet.anything:
            return early or Proposal(0, ScalingReason.STEADY, "no instance and nothing to serve")
        if fleet.planned == 0 and state.wanted_s < params.from_zero_delay_s:
            detail = f"requests have met no instance for {state.wanted_s:g} of {params.from_zero_delay_s:g} s"
            return Proposal(0, ScalingReason.HOLDING, detail)
        proposal = lazy_rule(params, state, fleet) if lazy else co_scaling_rule(params, state, fleet, latency_p95_ms)
        if fleet.planned == 0:
            return Proposal(max(1, proposal.target), ScalingReason.FROM_ZERO, "requests and no instance")
        last = fleet.ready == 1 and fleet.planned == 1
        if last and params.min_instances == 0 and not fleet.anything and early is None:
            if state.quiet_s >= params.zero_delay_s:
                return Proposal(0, ScalingReason.TO_ZERO, f"nothing arrived for {state.quiet_s:g} s")
            detail = f"nothing arrived for {state.quiet_s:g} of {params.zero_delay_s:g} s"
            return Proposal(1, ScalingReason.HOLDING, detail)
        return proposal

    def _bounded(self, fleet: Fleet, proposal: Proposal) -> ScalingDecision:
        least, most = self.params.min_instances, self.params.max_instances
        target, clipped_by = self._within_step(fleet.planned, proposal.target)
        if not least <= target <= most:
            clipped_by = "min_instances" if target < least else "max_instances"
            target = min(max(target, least), most)
        change = target - fleet.planned
        if change > 0 and proposal.target <= fleet.planned:
            return ScalingDecision(
                target, change, ScalingReason.BELOW_MINIMUM, f"{fleet.planned} of at least {least}", clipped_by
            )
        if change < 0 and proposal.target >= fleet.planned:
            return ScalingDecision(
                target, change, ScalingReason.ABOVE_MAXIMUM, f"{fleet.planned} of at most {most}", clipped_by
            )
        return ScalingDecision(target, change, proposal.reason, proposal.detail, clipped_by)

    def _within_step(self, planned: int, target: int) -> tuple[int, str | None]:
        """`target` no further from `planned` than one decision may go, and the bound that said so."""
        out, into = self.params.max_step_out, self.params.max_step_in
        if out is not None and target > planned + out:
            return planned + out, "max_step_out"
        if into is not None and target < planned - into:
            return planned - into, "max_step_in"
        return target, None


def _stay(planned: int | None, reason: ScalingReason, detail: str) -> ScalingDecision:
    return ScalingDecision(planned, 0, reason, detail)
