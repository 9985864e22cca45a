"""A horizontal policy that does what it is told, for replays whose outcome is worked out by hand."""

from __future__ import annotations

from typing import Any

from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason


class Script:
    """A policy that makes the changes it is given, one a call, and keeps what it saw."""

    def __init__(self, *changes: Any) -> None:
        self.changes = changes
        self.seen: list[Observation] = []

    def initial_state(self) -> int:
        return 0

    def decide(self, state: int, observation: Observation) -> tuple[ScalingDecision, int]:
        self.seen.append(observation)
        change = self.changes[state] if state < len(self.changes) else 0
        return ScalingDecision(None, change, ScalingReason.STEADY), state + 1
