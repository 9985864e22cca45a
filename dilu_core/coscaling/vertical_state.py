"""What the vertical policy remembers of one GPU: a small value that survives a JSON round trip unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dilu_core._checks import fail, finite, integer, shown, text
from dilu_core.units import FULL_GPU_MILLI

_VERSION = 1


@dataclass(frozen=True, slots=True)
class VerticalState:
    """The memory of one GPU.

    `cap_milli` bounds its best-effort work, `period` is the place in the recovery rhythm, `baselines_ms` holds the
    cycle baselines of SLO instances by name, and `owed_milli` (milli-GPU periods) what best effort was denied of the
    share that it is owed.
    """

    cap_milli: float = float(FULL_GPU_MILLI)
    period: int = 0
    baselines_ms: Mapping[str, float] = field(default_factory=dict)
    owed_milli: int = 0

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `from_dict` gives the state back, bit for bit."""
        return {
            "version": _VERSION,
            "cap_milli": self.cap_milli,
            "period": self.period,
            "baselines_ms": dict(self.baselines_ms),
            "owed_milli": self.owed_milli,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> VerticalState:
        """The state that `to_dict` wrote (a missing `owed_milli` is 0). `InvalidArgumentError` for anything else."""
        required = {"version", "cap_milli", "period", "baselines_ms"}
        known = isinstance(data, Mapping) and data.get("version") == _VERSION
        if not known or data.keys() | {"owed_milli"} != required | {"owed_milli"}:
            fail("data", f"is not a VerticalState of version {_VERSION}: {shown(data, 80)}.")
        baselines = data["baselines_ms"]
        if not isinstance(baselines, Mapping):
            fail("data['baselines_ms']", f"is {shown(baselines, 80)}; expected cycles by instance name.")
        return cls(
            cap_milli=finite("data['cap_milli']", data["cap_milli"], at_least=0.0, at_most=FULL_GPU_MILLI),
            period=integer("data['period']", data["period"], at_least=0),
            baselines_ms={
                text("data['baselines_ms']", name): finite(f"data['baselines_ms'][{name!r}]", value, above=0.0)
                for name, value in baselines.items()
            },
            owed_milli=integer("data['owed_milli']", data.get("owed_milli", 0), at_least=0),
        )
