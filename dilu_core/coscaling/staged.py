"""Adopting a policy in stages: watch the data feed, shadow the decisions, then let it act."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Generic, TypeVar

from dilu_core._checks import choice, fail
from dilu_core.coscaling.policy import (
    Observation,
    Policy,
    ScalingDecision,
    ScalingReason,
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
    its decisions go through. If it raises, or returns no decision, nothing changes, its state stays as it was, and the
    reason says so; the host need not guard the call.

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
        ready, starting = known_count(observation.ready), known_count(observation.starting)
        planned = None if ready is None or starting is None else ready + starting
        audit: dict[str, object] = {
            "stage": self.stage,
            "time_s": known_time(observation.time_s),
            "proposed": None,
            "unknown": _unknown(observation),
            "error": None,
        }
        if self.stage == "observe":
            detail = f"not known: {', '.join(_unknown(observation)) or 'nothing'}"
            return ScalingDecision(planned, 0, ScalingReason.OBSERVE_ONLY, detail, audit=audit), state
        try:
            proposed, next_state = self.policy.decide(state, observation)
            if not isinstance(proposed, ScalingDecision):
                raise TypeError(f"the policy returned {proposed!r:.80} instead of a ScalingDecision")
        except Exception as error:  # whatever it is, the host's loop must go on
            audit["error"] = f"{type(error).__name__}: {error}"
            return ScalingDecision(planned, 0, ScalingReason.POLICY_FAILED, str(audit["error"]), audit=audit), state
        record = asdict(replace(proposed, audit=None))
        del record["audit"]
        audit["proposed"] = {**record, "reason": str(proposed.reason)}
        if self.stage == "shadow":
            detail = f"would change by {proposed.change:+d}: {proposed.detail}"
            return ScalingDecision(planned, 0, ScalingReason.SHADOWED, detail, audit=audit), next_state
        return replace(proposed, audit=audit), next_state


def _unknown(observation: Observation) -> list[str]:
    """The names of the fields that are not known."""
    settled = {
        "time_s": known_time(observation.time_s),
        "arrivals_rps": known_number(observation.arrivals_rps),
        "ready": known_count(observation.ready),
        "starting": known_count(observation.starting),
        "in_flight": known_number(observation.in_flight),
        "spare_milli": known_number(observation.spare_milli),
        "latency_p95_ms": known_number(observation.latency_p95_ms),
    }
    return [name for name, value in settled.items() if value is None]
