"""A host for horizontal policies that carries out what they decide, and the function it runs."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation

RULES = ["co-scaling", "lazy"]


def params(**changes):
    chosen = {"slo_ms": 200.0, "base_latency_ms": 50.0, **changes}
    return HorizontalParams(10.0, 300, 600, **chosen)


def anything(value: Any) -> Any:
    """`value`, hidden from type checkers that would refuse the misuse under test."""
    return value


class Host:
    """Calls the policy every `period_s` and carries out its decisions; launches are ready after the cold start."""

    def __init__(self, scaler, ready=1):
        self.scaler, self.state = scaler, scaler.initial_state()
        self.now, self.ready, self.starting = 0.0, ready, []
        self.changes = []

    def step(self, arrivals, *, period_s=1.0, **known):
        self.now += period_s
        self.ready += sum(at <= self.now for at in self.starting)
        self.starting = [at for at in self.starting if at > self.now]
        seen = Observation(self.now, arrivals, self.ready, len(self.starting), **known)
        decision, self.state = self.scaler.decide(self.state, seen)
        assert decision.instances == self.ready + len(self.starting) + decision.change
        if decision.change:
            self.changes.append((self.now, decision.change))
        self.starting += [self.now + self.scaler.params.cold_start_s] * max(0, decision.change)
        for _ in range(-decision.change):
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1
        return decision

    @property
    def turns(self):
        signs = [math.copysign(1, change) for _, change in self.changes]
        return sum(a != b for a, b in pairwise(signs))
