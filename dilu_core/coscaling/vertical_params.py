"""The parameters of the vertical policy, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields

from dilu_core._checks import fail, finite, integer, shown
from dilu_core.units import FULL_GPU_MILLI

_VERSION = 1
_MOST_PERIODS = 10**9


@dataclass(frozen=True)
class VerticalParams:
    """Thresholds on the cycle inflation r = cycle / baseline, and how fast cap and baselines move.

    r of at least `emergency_ratio` (`llm_emergency_ratio` for LLMs) divides what best-effort work could hold by r, at
    most by `greatest_cut`, and makes that the cap. While every r is below `recovery_ratio`, every `recovery_every`-th
    period multiplies the cap by `recovery_growth`. A baseline follows lower cycles down by at most `baseline_fall` (a
    part of itself) and higher ones up by at most `baseline_rise` per period: a slow first cycle is forgotten in
    milliseconds, a good baseline lasts for minutes, and one false reading moves it little.

    Best effort is owed `starvation_share` of what SLO functions leave over and it could use, whatever the cycles say.
    What a cap keeps back of that is a debt; once it would exceed that share of a whole GPU over `starvation_periods`,
    the share is lent (a share of 0 turns this off). So over any stretch of periods best effort borrows at least what it
    is owed less that much, and an emergency never lets it have more than what it is owed.
    """

    _: KW_ONLY
    emergency_ratio: float = 1.6
    llm_emergency_ratio: float = 1.3
    recovery_ratio: float = 1.2
    greatest_cut: float = 4.0
    recovery_every: int = 5
    recovery_growth: float = 1.3
    baseline_fall: float = 0.1
    baseline_rise: float = 1e-5
    starvation_share: float = 0.1
    starvation_periods: int = 200

    def __post_init__(self) -> None:
        for name in ("recovery_ratio", "recovery_growth", "greatest_cut"):
            object.__setattr__(self, name, finite(name, getattr(self, name), above=1.0))
        for name in ("emergency_ratio", "llm_emergency_ratio"):
            object.__setattr__(self, name, finite(name, getattr(self, name), at_least=self.recovery_ratio))
        for name in ("baseline_fall", "baseline_rise"):
            object.__setattr__(self, name, finite(name, getattr(self, name), above=0.0, at_most=0.9))
        share = finite("starvation_share", self.starvation_share, at_least=0.0, at_most=1.0)
        object.__setattr__(self, "starvation_share", share)
        for name, least in (("recovery_every", 1), ("starvation_periods", 0)):
            periods = integer(name, getattr(self, name), at_least=least, at_most=_MOST_PERIODS)
            object.__setattr__(self, name, periods)

    @property
    def most_owed_milli(self) -> int:
        """The debt to best effort beyond which it is lent its share, in milli-GPU periods."""
        return int(self.starvation_share * FULL_GPU_MILLI * self.starvation_periods)

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `from_dict` gives the parameters back."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> VerticalParams:
        """The parameters that `to_dict` wrote; what is left out takes its default."""
        if not isinstance(data, Mapping) or data.get("version") != _VERSION:
            fail("data", f"is not VerticalParams of version {_VERSION}: {shown(data, 80)}.")
        values = {key: value for key, value in data.items() if key != "version"}
        unknown = sorted(str(key) for key in values.keys() - {one.name for one in fields(cls)})
        if unknown:
            fail("data", f"has unknown keys {unknown}; expected what VerticalParams.to_dict wrote.")
        return cls(**values)  # type: ignore[arg-type]
