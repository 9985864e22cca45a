"""Adopting a policy in stages: watch the data feed, shadow the decisions, then let it act, and survive its failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Generic, NamedTuple, TypeVar, cast

from dilu_core._checks import choice, fail, integer, shown
from dilu_core.coscaling.audit import plain
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import (
    Observation,
    Policy,
    ScalingDecision,
    ScalingReason,
    expect,
    expect_policy,
    fault_of,
)
from dilu_core.coscaling.reading import Reading, read
from dilu_core.coscaling.reports import ObserveReport, ShadowReport
from dilu_core.coscaling.shadow import ShadowFleet
from dilu_core.coscaling.staged_state import StagedState, is_document
from dilu_core.coscaling.watch import counted, headroom, watched
from dilu_core.fragmentation_report import FragmentationReport

__all__ = ["STAGES", "StagedPolicy", "StagedState"]

State = TypeVar("State")

STAGES = ("observe", "shadow", "enforce")
"""In the order of adoption."""

_RECORDED = tuple(field.name for field in fields(ScalingDecision) if field.name != "audit")


class _Answer(NamedTuple):
    """What a policy said, or what went wrong."""

    decision: ScalingDecision | None
    state: Any
    error: str | None


class StagedPolicy(Generic[State]):
    """Any horizontal policy, held back to a stage; the host need not guard the call.

    "observe": the policy is not asked; the decision says what of the observation is known and what room the fleet has.
    "shadow": the policy decides and remembers, its decisions are carried out on a fleet on paper (`ShadowFleet`), and
    saving and risk of that fleet are counted beside the real one. "enforce": its decisions go through.

    Where the policy raises, or answers nothing that can be carried out, its state stays as it was and the reason says
    so. Nothing changes at the first errors. After `fallback_after` in a row while enforcing, `fallback` decides - any
    other horizontal policy, kept informed all the time so that its memory is warm - or, by default, nothing goes on
    changing. Its scale-in is left out: nothing is removed while the policy fails. The policy is asked again every
    time; its first sound answer ends the fallback, but its scale-in is held until `fallback_after` sound answers
    stand in a row.

    `params` describes the function for the reports and the fleet on paper; by default it is the policy's own. Without,
    reports know no capacity and no GPU-seconds, and launches on paper serve at once.

    Every decision carries a plain `audit` record: `stage`, `time_s`, `clock` (how it moved), `headroom` (load, capacity
    at request and burst, spare share), `proposed` (the wrapped policy's decision, or `None`), `unknown` (fields that a
    sensor left out or garbled), `error`, `failures` in a row, `fallback` (its decision, its error, or `None`), and
    `shadow_instances` (planned on paper before the decision, in that stage alone).
    """

    def __init__(
        self,
        policy: Policy[State],
        stage: str = "observe",
        *,
        params: HorizontalParams | None = None,
        fallback: Policy[Any] | None = None,
        fallback_after: int = 3,
    ) -> None:
        expect_policy("policy", policy)
        self.policy = policy
        self.stage = choice("stage", stage, STAGES)
        if params is not None and not isinstance(params, HorizontalParams):
            fail("params", f"is {shown(params, 80)}; expected HorizontalParams or None.")
        own = getattr(policy, "params", None)
        self.params = params if params is not None else own if isinstance(own, HorizontalParams) else None
        if fallback is not None:
            expect_policy("fallback", fallback)
        self.fallback = fallback
        self.fallback_after = integer("fallback_after", fallback_after, at_least=1)

    def __repr__(self) -> str:
        return f"StagedPolicy({self.policy!r}, stage={self.stage!r})"

    def initial_state(self) -> StagedState[State]:
        """The wrapped policy's, and nothing counted."""
        standby = None if self.fallback is None else self.fallback.initial_state()
        return StagedState(self.policy.initial_state(), standby)

    def restore_state(self, data: Mapping[str, Any]) -> StagedState[State]:
        """The state whose `to_dict` is `data`. Raises `InvalidArgumentError` for anything else."""
        standby = None if self.fallback is None else type(self.fallback.initial_state())
        return StagedState.from_dict(data, type(self.policy.initial_state()), standby)

    def decide(
        self, state: StagedState[State] | State, observation: Observation
    ) -> tuple[ScalingDecision, StagedState[State]]:
        """The wrapped policy's decision as far as the stage lets it through, and the state to pass next time.

        A bare state of the wrapped policy is taken as one with nothing counted yet. What `to_dict` wrote, of either
        state, is an `InvalidArgumentError` until it is restored.
        """
        if not isinstance(state, StagedState):
            state = self._begun(state)
        reading = read(observation)
        before_s = state.watch.time_s
        clock, elapsed, watch = watched(state.watch, self.params, reading)
        unknown = counted(state.unknown, reading)
        audit: dict[str, object] = {
            "stage": self.stage,
            "time_s": reading.time_s,
            "clock": clock,
            "headroom": headroom(self.params, reading)._asdict(),
            "proposed": None,
            "unknown": list(reading.unknown),
            "error": None,
            "failures": state.failures,
            "fallback": None,
        }
        if self.stage == "observe":
            detail = f"not known: {', '.join(reading.unknown) or 'nothing'}"
            return self._nothing(reading, ScalingReason.OBSERVE_ONLY, detail, audit), state._replace(
                watch=watch, unknown=unknown, fleet=None
            )
        if self.stage == "shadow":
            state = state._replace(watch=watch, unknown=unknown)
            return self._shadow(state, observation, reading, before_s, elapsed, audit)
        state = state._replace(watch=watch, unknown=unknown, fleet=None)
        return self._enforce(state, observation, reading, audit)

    def observe_report(
        self, state: StagedState[State], *, fragmentation: FragmentationReport | None = None
    ) -> ObserveReport:
        """What watching taught so far: data quality and headroom, beside the fragmentation of a placement if given."""
        self._expect(state)
        return ObserveReport.of(state.watch, state.unknown, self.params, fragmentation)

    def shadow_report(self, state: StagedState[State]) -> ShadowReport:
        """What the shadowed decisions would have saved and risked so far."""
        self._expect(state)
        return ShadowReport(state.shadow, state.failed, self.params)

    def _begun(self, bare: object) -> StagedState[State]:
        """The state that goes on from one of the wrapped policy."""
        if is_document(bare):
            fail("state", f"is {shown(bare, 80)}; expected a StagedState. Restore it with restore_state or from_dict.")
        initial = self.initial_state()
        if hasattr(initial.inner, "to_dict"):
            expect("state", bare, type(initial.inner))
        return initial._replace(inner=cast(State, bare))

    def _shadow(
        self,
        state: StagedState[State],
        observation: Observation,
        reading: Reading,
        before_s: float | None,
        elapsed: float | None,
        audit: dict[str, object],
    ) -> tuple[ScalingDecision, StagedState[State]]:
        fleet, counts = state.fleet, state.shadow
        now_s = reading.time_s
        if fleet is not None and now_s is not None:
            fleet = fleet.advanced(before_s, now_s)
            counts = counts.judge(self.params, reading, elapsed, fleet)
        elif now_s is not None and reading.ready is not None and reading.starting is not None:
            fleet = ShadowFleet(reading.ready).changed(reading.starting, now_s, self._cold_start_s)
        answer = _ask(self.policy, state.inner, _as_seen(observation, reading, fleet))
        state = self._counted(state, answer)
        audit |= {"shadow_instances": None if fleet is None else fleet.planned, "failures": state.failures}
        if answer.decision is None:
            audit["error"] = answer.error
            state = state._replace(fleet=fleet, shadow=counts)
            return self._nothing(reading, ScalingReason.POLICY_FAILED, str(answer.error), audit), state
        change = answer.decision.change
        if fleet is not None and now_s is not None:
            fleet = fleet.changed(change, now_s, self._cold_start_s)
            counts = counts.acted(change)
        audit["proposed"] = _record(answer.decision)
        detail = f"would change by {change:+d}: {answer.decision.detail}"
        state = state._replace(fleet=fleet, shadow=counts)
        return self._nothing(reading, ScalingReason.SHADOWED, detail, audit), state

    def _enforce(
        self, state: StagedState[State], observation: Observation, reading: Reading, audit: dict[str, object]
    ) -> tuple[ScalingDecision, StagedState[State]]:
        answer, standby = _ask(self.policy, state.inner, observation), None
        distrust = state.distrust
        state = self._counted(state, answer)
        audit["failures"] = state.failures
        if self.fallback is not None:
            standby = _ask(self.fallback, state.standby, observation)
            state = state._replace(standby=standby.state)
            if standby.error is not None:
                audit["fallback"] = {"error": standby.error}
        if answer.decision is not None:
            audit["proposed"] = _record(answer.decision)
            if distrust and answer.decision.change < 0:
                detail = f"would change by {answer.decision.change:+d}, but the policy failed not long ago"
                held = self._nothing(reading, ScalingReason.HOLDING, detail, audit)
                return replace(held, clipped_by="recovery"), state
            return replace(answer.decision, audit=audit), state
        audit["error"] = answer.error
        detail = f"{answer.error} ({state.failures} in a row)"
        if standby is None or standby.decision is None or state.failures < self.fallback_after:
            return self._nothing(reading, ScalingReason.POLICY_FAILED, detail, audit), state
        audit["fallback"] = _record(standby.decision)
        detail = f"{detail}; the fallback: {standby.decision.detail}"
        if standby.decision.change < 0:
            held = self._nothing(reading, ScalingReason.FALLBACK, detail, audit)
            return replace(held, clipped_by="fallback"), state
        return replace(standby.decision, reason=ScalingReason.FALLBACK, detail=detail, audit=audit), state

    def _counted(self, state: StagedState[State], answer: _Answer) -> StagedState[State]:
        """`state` with one more answer, sound or not."""
        if answer.error is None:
            return state._replace(inner=answer.state, failures=0, distrust=max(0, state.distrust - 1))
        return state._replace(failures=state.failures + 1, failed=state.failed + 1, distrust=self.fallback_after)

    @property
    def _cold_start_s(self) -> float:
        return 0.0 if self.params is None else self.params.cold_start_s

    def _nothing(
        self, reading: Reading, reason: ScalingReason, detail: str, audit: dict[str, object]
    ) -> ScalingDecision:
        return ScalingDecision(reading.planned, 0, reason, detail, audit=audit)

    def _expect(self, state: object) -> None:
        if not isinstance(state, StagedState):
            fail("state", f"is {shown(state, 80)}; expected the StagedState that decide gave back.")


def _ask(policy: Policy[Any], state: Any, observation: Observation) -> _Answer:
    """The policy's answer, or its error with the state it had."""
    try:
        answer = policy.decide(state, observation)
        fault = fault_of(answer, observation)
        if fault is not None:
            raise TypeError(f"the policy {fault}")
    except Exception as error:  # whatever it is, the host's loop must go on
        return _Answer(None, state, _told(error))
    return _Answer(answer[0], answer[1], None)


def _told(error: Exception) -> str:
    """The error in words, if it has any."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ failed
        return f"{type(error).__name__}, which cannot be printed"


def _as_seen(observation: Observation, reading: Reading, fleet: ShadowFleet | None) -> Observation:
    """The observation with the counts of the fleet on paper; queue and latency are its own only while it is as large.

    Counts that are not known stay so.
    """
    if fleet is None or reading.planned is None or (fleet.ready, fleet.starting) == (reading.ready, reading.starting):
        return observation
    if fleet.ready == reading.ready:
        return replace(observation, starting=fleet.starting)
    return replace(observation, ready=fleet.ready, starting=fleet.starting, in_flight=None, latency_p95_ms=None)


def _record(decision: ScalingDecision) -> dict[str, object]:
    """The decision as a JSON-able record, without the audit of its own."""
    return {name: plain(getattr(decision, name)) for name in _RECORDED}
