"""Adopting a policy in stages: watch the data feed, shadow the decisions, then let it act."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Generic, TypeVar

from dilu_core._checks import choice, fail
from dilu_core.coscaling.policy import (
    Observation,
    Policy,
    ScalingDecision,
    ScalingReason,
    fault_of,
    known_count,
    known_number,
    known_time,
)

State = TypeVar("State")

STAGES = ("observe", "shadow", "enforce")
"""In the order of adoption."""


class StagedPolicy(Generic[State]):
    """Any horizontal policy, held back to a stage.

    "observe": the policy is not asked; the decision only says what of the observation is known. "shadow": the policy
    decides and remembers, nothing is carried out, and what it would have done stands in the audit record. "enforce":
    its decisions go through. If it raises, or answers nothing that can be carried out, nothing changes, its state stays
    as it was, and the reason says so; the host need not guard the call.

    Every decision carries a plain `audit` record: `stage`, `time_s`, `proposed` (instances, change, reason, detail,
    clipped_by of the wrapped policy, or `None`), `unknown` (fields that a sensor left out or garbled) and `error`.
    """

    def __init__(self, policy: Policy[State], stage: str = "observe") -> None:
        if not callable(getattr(policy, "decide", None)) or not callable(getattr(policy, "initial_state", None)):
            fail(
                "policy", f"is {policy!r:.80}; expected an object with initial_state() and decide(state, observation)."
            )
        self.policy = policy
        self.stage = choice("stage", stage, STAGES)

    def __repr__(self) -> str:
        return f"StagedPolicy({self.policy!r}, stage={self.stage!r})"

    def initial_state(self) -> State:
        """The wrapped policy's."""
        return self.policy.initial_state()

    def decide(self, state: State, observation: Observation) -> tuple[ScalingDecision, State]:
        """The wrapped policy's decision as far as the stage lets it through, and its state."""
        unknown = _unknown(observation)
        ready = known_count(getattr(observation, "ready", None))
        starting = known_count(getattr(observation, "starting", None))
        planned = None if ready is None or starting is None else ready + starting
        audit: dict[str, object] = {
            "stage": self.stage,
            "time_s": known_time(getattr(observation, "time_s", None)),
            "proposed": None,
            "unknown": unknown,
            "error": None,
        }
        if self.stage == "observe":
            detail = f"not known: {', '.join(unknown) or 'nothing'}"
            return ScalingDecision(planned, 0, ScalingReason.OBSERVE_ONLY, detail, audit=audit), state
        try:
            answer = self.policy.decide(state, observation)
            fault = fault_of(answer)
            if fault is not None:
                raise TypeError(f"the policy {fault}")
        except Exception as error:  # whatever it is, the host's loop must go on
            audit["error"] = f"{type(error).__name__}: {error}"
            return ScalingDecision(planned, 0, ScalingReason.POLICY_FAILED, str(audit["error"]), audit=audit), state
        proposed, next_state = answer
        record = asdict(replace(proposed, audit=None))
        del record["audit"]
        audit["proposed"] = {**record, "reason": str(proposed.reason)}
        if self.stage == "shadow":
            detail = f"would change by {proposed.change:+d}: {proposed.detail}"
            return ScalingDecision(planned, 0, ScalingReason.SHADOWED, detail, audit=audit), next_state
        return replace(proposed, audit=audit), next_state


def _unknown(observation: object) -> list[str]:
    """The names of the fields that are not known; all of them where `observation` is none."""
    counts, clocks = ("ready", "starting"), ("time_s",)
    unknown = []
    for field in fields(Observation):
        read = known_count if field.name in counts else known_time if field.name in clocks else known_number
        if read(getattr(observation, field.name, None)) is None:
            unknown.append(field.name)
    return unknown
