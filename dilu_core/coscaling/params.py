"""The parameters of the horizontal policy, checked at the door."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields

from dilu_core._checks import choice, fail, finite, integer, share_milli, shown

_VERSION = 3  # version 1 knew no forecasts and version 2 no learnt windows: their policies go on without

RULES = ("co-scaling", "lazy")
"""Names of the horizontal rules."""

PREDICTIONS = ("off", "trend", "season", "both")
"""What the rule "co-scaling" may forecast: nothing, a damped trend, the return of an earlier load, or both."""

LAGS = 128
"""Buckets of load that a forecast remembers, and the longest period, in buckets, that it can learn."""

STRETCHES = 12
"""The peaks of a window are remembered as those of this many stretches, so that the state stays small."""

HELD_STRETCHES = (1, 2, 3, 6, STRETCHES)
"""The windows that a policy may hold peaks for, in stretches besides the running one; the last one is `window_s`."""

SHORTEST_LAG = 3  # buckets: a forecast looks two of them ahead, and one period has to reach further back than that

_LEAST_BUCKET_S = 5.0
_GREATEST_BUCKET_S = 86_400.0


@dataclass(frozen=True)
class HorizontalParams:
    """What the horizontal policy must know about one function; all of it validated, all of it JSON-able.

    `capacity_rps` is what one instance serves at its request, `request_milli` and `limit_milli` its guaranteed and its
    greatest share. Where `slo_ms` or `base_latency_ms` (execution without waiting) is known, requests beyond
    those that such a latency explains count as backlog.

    For the rule "co-scaling": `lean` (>= 1) is the load over capacity that an instance is trusted to carry by bursting
    while its spare share is not known, `spare_trust` the part of a known spare share that is counted on. The short mean
    spans `short_s`, waiting requests should be gone in `clear_s`; the recent peak is held for `window_s`, or for a part
    of it that is learnt where `late_weight` is above 0 (see `dilu_core.coscaling.hold`): 1 % of late requests is then
    worth `late_weight` % of a fixed fleet for the peak. Scale-in leaves the survivors at most `scale_in_load` of what
    they are trusted with - where requests in flight are known, no burst counts before an instance has shown it - and
    waits `scale_in_cooldown_s` after the last change. Until a queue proves otherwise, an instance is taken to serve
    `capacity_rps` at its request.

    `predict` adds a forecast to the rule "co-scaling" (see `dilu_core.coscaling.forecast`), which counts while its
    confidence, between 0 and 1, is at least `least_confidence`: instances for a coming peak are launched so early that
    they serve `pre_warm_s` before it, and one halfway from there to 1 lets idle instances go before the window is
    over. A known `period_s` is looked at from its second round on, and no other is sought.

    `max_step_out` and `max_step_in` bound one decision; a further scale-out waits `scale_out_cooldown_s` after the last
    change. An instance is launched from zero once requests have been coming for `from_zero_delay_s`.

    For the rule "lazy": of the last `lazy_samples` seconds, `lazy_out` above capacity add one instance, and `lazy_in`
    below the capacity of one instance fewer remove one.

    The last instance goes after `zero_delay_s` without arrivals where `min_instances` is 0. A silence longer than
    `stale_after_s` makes the policy forget and learn anew.
    """

    capacity_rps: float
    request_milli: int
    limit_milli: int
    _: KW_ONLY
    slo_ms: float | None = None
    base_latency_ms: float | None = None
    cold_start_s: float = 10.0
    min_instances: int = 1
    max_instances: int = 100
    rule: str = "co-scaling"
    lean: float = 1.2
    spare_trust: float = 0.5
    short_s: int = 2
    clear_s: float = 10.0
    window_s: int = 180
    scale_in_load: float = 0.85
    scale_in_cooldown_s: float = 30.0
    lazy_samples: int = 40
    lazy_out: int = 20
    lazy_in: int = 30
    zero_delay_s: float = 300.0
    stale_after_s: float = 600.0
    predict: str = "season"
    least_confidence: float = 0.4
    pre_warm_s: float = 0.0
    period_s: float | None = None
    late_weight: float = 3.0
    max_step_out: int | None = None
    max_step_in: int | None = None
    scale_out_cooldown_s: float = 0.0
    from_zero_delay_s: float = 0.0

    def __post_init__(self) -> None:
        def settle(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        settle("capacity_rps", finite("capacity_rps", self.capacity_rps, above=0.0))
        settle("request_milli", share_milli("request_milli", self.request_milli))
        settle("limit_milli", share_milli("limit_milli", self.limit_milli))
        if self.limit_milli < self.request_milli:
            fail("limit_milli", f"is {self.limit_milli}; expected at least request_milli, {self.request_milli}.")
        for name in ("slo_ms", "base_latency_ms"):
            if getattr(self, name) is not None:
                settle(name, finite(name, getattr(self, name), above=0.0))
        for name in (
            "cold_start_s", "scale_in_cooldown_s", "zero_delay_s", "pre_warm_s", "scale_out_cooldown_s",
            "from_zero_delay_s", "late_weight",
        ):  # fmt: skip
            settle(name, finite(name, getattr(self, name), at_least=0.0))
        for name in ("clear_s", "stale_after_s"):
            settle(name, finite(name, getattr(self, name), above=0.0))
        settle("min_instances", integer("min_instances", self.min_instances, at_least=0))
        settle("max_instances", integer("max_instances", self.max_instances, at_least=1))
        if self.max_instances < self.min_instances:
            fail("max_instances", f"is {self.max_instances}; expected at least min_instances, {self.min_instances}.")
        choice("rule", self.rule, RULES)
        settle("lean", finite("lean", self.lean, at_least=1.0))
        settle("spare_trust", finite("spare_trust", self.spare_trust, at_least=0.0, at_most=1.0))
        settle("scale_in_load", finite("scale_in_load", self.scale_in_load, above=0.0, at_most=1.0))
        settle("short_s", integer("short_s", self.short_s, at_least=1, at_most=60))
        settle("window_s", integer("window_s", self.window_s, at_least=self.short_s, at_most=86_400))
        settle("lazy_samples", integer("lazy_samples", self.lazy_samples, at_least=1, at_most=3_600))
        for name in ("lazy_out", "lazy_in"):
            settle(name, integer(name, getattr(self, name), at_least=1, at_most=self.lazy_samples))
        choice("predict", self.predict, PREDICTIONS)
        settle("least_confidence", finite("least_confidence", self.least_confidence, above=0.0, at_most=1.0))
        for name in ("max_step_out", "max_step_in"):
            if getattr(self, name) is not None:
                settle(name, integer(name, getattr(self, name), at_least=1))
        if self.period_s is not None:
            settle("period_s", finite("period_s", self.period_s, above=0.0, at_most=LAGS * _GREATEST_BUCKET_S))
            if self.period_s < SHORTEST_LAG * self.bucket_s:
                least = SHORTEST_LAG * self.bucket_s
                fail("period_s", f"is {self.period_s:g}; expected at least {least} s, or instances start too late.")

    @property
    def burst(self) -> float:
        """The greatest share over the guaranteed one, limit / request >= 1."""
        return self.limit_milli / self.request_milli

    @property
    def stretch_s(self) -> int:
        """Seconds of the window of which the peak is remembered together."""
        return math.ceil(self.window_s / STRETCHES)

    @property
    def held_buckets(self) -> tuple[int, ...]:
        """The windows of `HELD_STRETCHES` in buckets, rounded up, and not beyond what is remembered."""
        windows_s = (min(self.window_s, stretches * self.stretch_s) for stretches in HELD_STRETCHES)
        return tuple(min(-(-window_s // self.bucket_s), LAGS) for window_s in windows_s)

    @property
    def bucket_s(self) -> int:
        """Seconds of load that a forecast takes together: as many as an instance takes to serve, or more.

        More where `LAGS` of them would not span a known period.
        """
        lead_s = max(self.cold_start_s + self.pre_warm_s, (self.period_s or 0.0) / LAGS, _LEAST_BUCKET_S)
        return math.ceil(min(lead_s, _GREATEST_BUCKET_S))

    @property
    def lags(self) -> tuple[int, int]:
        """The shortest and the longest period in buckets that a forecast considers."""
        if self.period_s is None:
            return SHORTEST_LAG, LAGS
        lag = math.floor(self.period_s / self.bucket_s + 0.5)
        return lag, lag

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `from_dict` gives the parameters back."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> HorizontalParams:
        """The parameters that `to_dict` wrote; what is left out takes its default, or is off if its version had none.

        Raises `InvalidArgumentError` for a wrong version, a missing or unknown key, or a value out of bounds.
        """
        if not isinstance(data, Mapping) or data.get("version") not in (1, 2, _VERSION):
            fail("data", f"is not HorizontalParams of version 1 to {_VERSION}: {shown(data, 80)}.")
        values = {key: value for key, value in data.items() if key != "version"}
        if data["version"] == 1:
            values.setdefault("predict", "off")
        if data["version"] != _VERSION:
            values.setdefault("late_weight", 0.0)
        unknown = sorted(str(key) for key in values.keys() - {field.name for field in fields(cls)})
        missing = [key for key in ("capacity_rps", "request_milli", "limit_milli") if key not in values]
        if unknown or missing:
            fail(
                "data", f"has unknown keys {unknown} and lacks {missing}; expected what HorizontalParams.to_dict wrote."
            )
        return cls(**values)  # type: ignore[arg-type]
