"""What the vertical policy sees of one GPU: its instances, what they are promised, and what was measured of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dilu_core._checks import choice, distinct, fail, instances_of, share_milli, text
from dilu_core.coscaling.policy import known_number

KINDS = ("slo", "llm-slo", "best-effort")
"""Latency-bound, latency-bound with the earlier LLM threshold, and best effort (training)."""


@dataclass(frozen=True)
class GpuInstance:
    """One instance on the GPU. `name`, `kind` and shares are the host's own and checked; measurements may be anything.

    `demand_milli`: the share it could use now, 0 if it is idle, `None` if not known (it may then want its limit).
    `cycle_ms`: its latest kernel-launch cycle, `None` if not known.
    """

    name: str
    kind: str
    request_milli: int
    limit_milli: int
    demand_milli: float | None = None
    cycle_ms: float | None = None

    def __post_init__(self) -> None:
        text("name", self.name)
        choice("kind", self.kind, KINDS)
        object.__setattr__(self, "request_milli", share_milli("request_milli", self.request_milli))
        object.__setattr__(self, "limit_milli", share_milli("limit_milli", self.limit_milli))
        if self.limit_milli < self.request_milli:
            fail("limit_milli", f"is {self.limit_milli}; expected at least request_milli, {self.request_milli}.")

    @property
    def active(self) -> bool:
        """Whether it has work, or may have."""
        return known_number(self.demand_milli) != 0.0

    @property
    def wanted_milli(self) -> int:
        """The share to give it if there is plenty: between request and limit while active, 0 while idle."""
        demand = known_number(self.demand_milli)
        if demand == 0.0:
            return 0
        if demand is None or demand >= self.limit_milli:
            return self.limit_milli
        return max(self.request_milli, math.ceil(demand))


@dataclass(frozen=True)
class GpuObservation:
    """The instances on one GPU in one period, with distinct names."""

    instances: tuple[GpuInstance, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "instances", instances_of("instances", self.instances, GpuInstance))
        distinct("instances", [instance.name for instance in self.instances])
