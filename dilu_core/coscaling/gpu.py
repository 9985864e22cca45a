"""What the vertical policy sees of one GPU: its instances, what they are promised, and what was measured of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dilu_core._checks import choice, distinct, fail, finite, instances_of, integer, share_milli, text
from dilu_core.coscaling.policy import known_number

KINDS = ("slo", "llm-slo", "best-effort")
"""Latency-bound, latency-bound with the earlier LLM threshold, and best effort (training)."""

MOST_WEIGHT = 10**6
"""The largest weight, so that products of weights and shares stay exact in 64 bits."""

_SURELY_KNOWN = 1e12  # as in `known_number`, which decides whatever is not plainly a reading


@dataclass(frozen=True)
class GpuInstance:
    """One instance on the GPU. All but the two measurements is the host's own and checked; those may be anything.

    `demand_milli`: the share it could use now, 0 if it is idle, `None` if not known (it may then want its limit).
    `cycle_ms`: its latest kernel-launch cycle, `None` if not known. `weight` (1 to 10^6): its part of the spare share
    beside others of its tier, its request unless told. `solo_cycle_ms`: its cycle at its request with nobody beside it,
    where profiling told; no slower cycle then becomes its baseline, not even in an hour of slow ones.
    """

    name: str
    kind: str
    request_milli: int
    limit_milli: int
    demand_milli: float | None = None
    cycle_ms: float | None = None
    weight: int | None = None
    solo_cycle_ms: float | None = None

    def __post_init__(self) -> None:
        text("name", self.name)
        choice("kind", self.kind, KINDS)
        object.__setattr__(self, "request_milli", share_milli("request_milli", self.request_milli))
        object.__setattr__(self, "limit_milli", share_milli("limit_milli", self.limit_milli))
        if self.limit_milli < self.request_milli:
            fail("limit_milli", f"is {self.limit_milli}; expected at least request_milli, {self.request_milli}.")
        if self.weight is not None:
            object.__setattr__(self, "weight", integer("weight", self.weight, at_least=1, at_most=MOST_WEIGHT))
        if self.solo_cycle_ms is not None:
            object.__setattr__(self, "solo_cycle_ms", finite("solo_cycle_ms", self.solo_cycle_ms, above=0.0))

    @property
    def active(self) -> bool:
        """Whether it has work, or may have."""
        return reading(self.demand_milli) != 0.0

    @property
    def wanted_milli(self) -> int:
        """The share to give it if there is plenty: between request and limit while active, 0 while idle."""
        demand = reading(self.demand_milli)
        return 0 if demand == 0.0 else self.wanted_at(demand)

    def wanted_at(self, demand_milli: float | None) -> int:
        """`wanted_milli` while active with this demand, as `reading` returns it."""
        if demand_milli is None or demand_milli >= self.limit_milli:
            return self.limit_milli
        return max(self.request_milli, math.ceil(demand_milli))


@dataclass(frozen=True)
class GpuObservation:
    """The instances on one GPU in one period, idle ones too, with distinct names. Who is not listed has left."""

    instances: tuple[GpuInstance, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "instances", instances_of("instances", self.instances, GpuInstance))
        distinct("instances", [instance.name for instance in self.instances])

    @property
    def limits_milli(self) -> dict[str, int]:
        """The limits by name: what a cap that is set once, at the start of an instance, must leave room for."""
        return {instance.name: instance.limit_milli for instance in self.instances}


def reading(value: Any) -> float | None:
    """`known_number`, quick where a sensor reports what it should."""
    return value if type(value) is float and 0.0 <= value < _SURELY_KNOWN else known_number(value)
