"""What the vertical policy remembers of one GPU: a small value that survives a JSON round trip unchanged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dilu_core import _checks as check
from dilu_core._checks import finite, integer, text
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

    def __post_init__(self) -> None:
        if self._as_decided():
            return
        set_, cycles = object.__setattr__, self.baselines_ms
        set_(self, "cap_milli", finite("cap_milli", self.cap_milli, at_least=0.0, at_most=FULL_GPU_MILLI))
        set_(self, "period", integer("period", self.period, at_least=0))
        set_(self, "owed_milli", integer("owed_milli", self.owed_milli, at_least=0))
        if not isinstance(cycles, Mapping):
            check.fail("baselines_ms", f"is {check.shown(cycles, 80)}; expected cycles by instance name.")
        checked = {text("baselines_ms", name): _cycle(name, cycle) for name, cycle in cycles.items()}
        set_(self, "baselines_ms", checked)

    def _as_decided(self) -> bool:
        """Whether all is plainly what `VerticalScaler` writes: quick, for it does so in every period."""
        cycles = self.baselines_ms
        return (
            (type(self.cap_milli), type(self.period), type(self.owed_milli), type(cycles)) == (float, int, int, dict)
            and 0.0 <= self.cap_milli <= FULL_GPU_MILLI
            and self.period >= 0
            and 0 <= self.owed_milli <= check.LARGEST
            and set(map(type, cycles)) <= {str}
            and set(map(type, cycles.values())) <= {float}
            and min(cycles.values(), default=1.0) > 0.0
            and sum(cycles.values()) < math.inf  # neither infinite nor NaN
        )

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
            check.fail("data", f"is not a VerticalState of version {_VERSION}: {check.shown(data, 80)}.")
        return check.build(
            "data", data, cls, required=("cap_milli", "period", "baselines_ms"), optional=("owed_milli",)
        )


def _cycle(name: object, value: object) -> float:
    return finite(f"baselines_ms[{check.shown(name)}]", value, above=0.0)
