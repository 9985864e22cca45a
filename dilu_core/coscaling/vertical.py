"""Vertical co-scaling of one GPU: every few milliseconds, who gets how much of it.

Every active instance gets its request. What is left - the shares of idle instances included - is lent up to each
limit, functions with an SLO first, best-effort work after them under a cap. The cap follows the kernel-launch cycles
of the SLO instances on this GPU: inflated cycles shrink it at once (emergency), good ones let it grow slowly
(recovery), in between it holds (contention). Source: Lv et al., ASPLOS 2025, doi 10.1145/3669940.3707251.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from enum import StrEnum

from dilu_core._checks import fail, finite, integer, text
from dilu_core.coscaling.gpu import KINDS, GpuInstance, GpuObservation
from dilu_core.coscaling.policy import expect, known_number
from dilu_core.coscaling.sharing import fit_proportionally, water_fill
from dilu_core.units import FULL_GPU_MILLI

__all__ = [
    "KINDS",
    "GpuInstance",
    "GpuObservation",
    "Grants",
    "VerticalMode",
    "VerticalParams",
    "VerticalScaler",
    "VerticalState",
]

_VERSION = 1
_WORST = 1e12  # an inflation beyond this is a broken clock; infinity could not be written as JSON


@dataclass(frozen=True)
class VerticalParams:
    """Thresholds on the cycle inflation r = cycle / baseline, and how fast cap and baselines move.

    r of at least `emergency_ratio` (`llm_emergency_ratio` for LLMs) divides what best-effort work could hold by r, at
    most by `greatest_cut`, and makes that the cap. While every r is below `recovery_ratio`, every `recovery_every`-th
    period multiplies the cap by `recovery_growth`. A baseline follows lower cycles down by at most `baseline_fall` (a
    part of itself) and higher ones up by at most `baseline_rise` per period: a slow first cycle is forgotten in
    milliseconds, a good baseline lasts for minutes, and one false reading moves it little.
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

    def __post_init__(self) -> None:
        for name in ("recovery_ratio", "recovery_growth", "greatest_cut"):
            object.__setattr__(self, name, finite(name, getattr(self, name), above=1.0))
        for name in ("emergency_ratio", "llm_emergency_ratio"):
            object.__setattr__(self, name, finite(name, getattr(self, name), at_least=self.recovery_ratio))
        object.__setattr__(self, "recovery_every", integer("recovery_every", self.recovery_every, at_least=1))
        for name in ("baseline_fall", "baseline_rise"):
            object.__setattr__(self, name, finite(name, getattr(self, name), above=0.0, at_most=0.9))

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `from_dict` gives the parameters back."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> VerticalParams:
        """The parameters that `to_dict` wrote; what is left out takes its default."""
        if not isinstance(data, Mapping) or data.get("version") != _VERSION:
            fail("data", f"is not VerticalParams of version {_VERSION}: {data!r:.80}.")
        values = {key: value for key, value in data.items() if key != "version"}
        unknown = sorted(str(key) for key in values.keys() - {one.name for one in fields(cls)})
        if unknown:
            fail("data", f"has unknown keys {unknown}; expected what VerticalParams.to_dict wrote.")
        return cls(**values)  # type: ignore[arg-type]


class VerticalMode(StrEnum):
    """What the cycles said about the best-effort cap in this period."""

    EMERGENCY = "emergency"
    """An SLO instance is slowed badly: the cap shrank."""
    CONTENTION = "contention"
    """Some slow-down, or nothing known: the cap holds."""
    RECOVERY = "recovery"
    """No slow-down: the cap grows on every n-th period."""


@dataclass(frozen=True)
class Grants(Mapping[str, int]):
    """Shares in milli-GPU by instance name (0 for the idle), for one period, and why.

    `best_effort_cap_milli` bounds what best-effort instances may hold together beyond their requests; `inflation` is
    the worst r known. `oversold` says that the requests of the active instances exceed the GPU, so that each was cut in
    proportion: the only case in which an active instance gets less than its request.
    """

    milli: Mapping[str, int]
    mode: VerticalMode
    best_effort_cap_milli: int
    inflation: float | None
    oversold: bool
    detail: str

    def __getitem__(self, name: str) -> int:
        return self.milli[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.milli)

    def __len__(self) -> int:
        return len(self.milli)


@dataclass(frozen=True, slots=True)
class VerticalState:
    """The memory of one GPU: its best-effort cap, the place in the recovery rhythm, and cycle baselines by name."""

    cap_milli: float = float(FULL_GPU_MILLI)
    period: int = 0
    baselines_ms: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value; `from_dict` gives the state back, bit for bit."""
        return {
            "version": _VERSION,
            "cap_milli": self.cap_milli,
            "period": self.period,
            "baselines_ms": dict(self.baselines_ms),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> VerticalState:
        """The state that `to_dict` wrote. Raises `InvalidArgumentError` for anything else."""
        expected = {"version", "cap_milli", "period", "baselines_ms"}
        if not isinstance(data, Mapping) or data.get("version") != _VERSION or data.keys() != expected:
            fail("data", f"is not a VerticalState of version {_VERSION}: {data!r:.80}.")
        baselines = data["baselines_ms"]
        if not isinstance(baselines, Mapping):
            fail("data['baselines_ms']", f"is {baselines!r:.80}; expected cycles by instance name.")
        return cls(
            cap_milli=finite("data['cap_milli']", data["cap_milli"], at_least=0.0, at_most=FULL_GPU_MILLI),
            period=integer("data['period']", data["period"], at_least=0),
            baselines_ms={
                text("data['baselines_ms']", name): finite(f"data['baselines_ms'][{name!r}]", value, above=0.0)
                for name, value in baselines.items()
            },
        )


class VerticalScaler:
    """The vertical policy of one GPU: pure and deterministic, O(n log n) for n instances."""

    def __init__(self, params: VerticalParams | None = None) -> None:
        if params is not None and not isinstance(params, VerticalParams):
            fail("params", f"is {params!r:.80}; expected VerticalParams.")
        self.params = params or VerticalParams()

    def __repr__(self) -> str:
        return f"VerticalScaler({self.params!r})"

    def initial_state(self) -> VerticalState:
        """No baseline known, best effort uncapped."""
        return VerticalState()

    def decide(self, state: VerticalState, observation: GpuObservation) -> tuple[Grants, VerticalState]:
        """The grants for this period and the state to pass with the next one.

        A `state` or `observation` of another type is an `InvalidArgumentError`.
        """
        expect("state", state, VerticalState)
        expect("observation", observation, GpuObservation)
        baselines = self._baselines(state, observation)
        active = [instance for instance in observation.instances if instance.active]
        best_effort = [instance for instance in active if instance.kind == "best-effort"]
        urgent = [instance for instance in active if instance.kind != "best-effort"]
        milli = {instance.name: 0 for instance in observation.instances}
        guaranteed = [instance.request_milli for instance in active]
        spare = FULL_GPU_MILLI - sum(guaranteed)
        oversold = spare < 0
        if oversold:
            shares = fit_proportionally(FULL_GPU_MILLI, guaranteed)
            milli.update(zip((instance.name for instance in active), shares, strict=True))
            spare = 0
        else:
            spare -= _lend(milli, urgent, spare)

        floor = min(FULL_GPU_MILLI, sum(instance.request_milli for instance in best_effort))
        within_reach = floor + min(spare, sum(one.wanted_milli - one.request_milli for one in best_effort))
        mode, cap, inflation = self._cap(state, urgent, baselines, floor, within_reach)
        if oversold:
            detail = f"the requests of active instances add up to {sum(guaranteed)}; all were cut in proportion"
        else:
            spare -= _lend(milli, best_effort, min(spare, math.floor(cap) - floor))
            detail = f"{spare} of {FULL_GPU_MILLI} milli-GPU are left over"
        period = (state.period + 1) % self.params.recovery_every
        grants = Grants(milli, mode, math.floor(cap), inflation, oversold, detail)
        return grants, VerticalState(cap, period, baselines)

    def _baselines(self, state: VerticalState, observation: GpuObservation) -> dict[str, float]:
        """Baselines of the instances here, moved towards this period's cycles; those who left are forgotten."""
        params, baselines = self.params, {}
        for instance in observation.instances:
            before, cycle = state.baselines_ms.get(instance.name), known_number(instance.cycle_ms)
            if not cycle or not instance.active:  # an idle instance launches nothing, whatever it reports
                if before is not None:
                    baselines[instance.name] = before
            elif before is None:
                baselines[instance.name] = cycle
            else:
                low, high = before * (1.0 - params.baseline_fall), before * (1.0 + params.baseline_rise)
                baselines[instance.name] = min(max(cycle, low), high)
        return baselines

    def _cap(
        self,
        state: VerticalState,
        urgent: list[GpuInstance],
        baselines: Mapping[str, float],
        floor: int,
        within_reach: int,
    ) -> tuple[VerticalMode, float, float | None]:
        """The mode, the best-effort cap and the worst r.

        The cap is never below `floor`, what best-effort instances are guaranteed. An emergency cuts from what they
        could hold (`within_reach`): cutting from a cap far above that would change nothing for several periods.
        """
        params = self.params
        worst, cut = None, 1.0
        for instance in urgent:
            cycle = known_number(instance.cycle_ms)
            if not cycle:
                continue
            inflation = min(cycle / baselines[instance.name], _WORST)
            worst = inflation if worst is None else max(worst, inflation)
            ratio = params.llm_emergency_ratio if instance.kind == "llm-slo" else params.emergency_ratio
            if inflation >= ratio:
                cut = max(cut, min(inflation, params.greatest_cut))
        cap = max(state.cap_milli, float(floor))
        if cut > 1.0:
            return VerticalMode.EMERGENCY, max(min(cap, within_reach) / cut, float(floor)), worst
        calm = worst < params.recovery_ratio if worst is not None else not urgent
        if not calm:
            return VerticalMode.CONTENTION, cap, worst
        if state.period == params.recovery_every - 1:
            # growth from what is held now, or a cap at a floor of 0 could never rise again
            cap = min(float(FULL_GPU_MILLI), max(cap, 1.0) * params.recovery_growth)
        return VerticalMode.RECOVERY, cap, worst


def _lend(milli: dict[str, int], instances: list[GpuInstance], spare: int) -> int:
    """Grant `instances` their requests and their part of `spare`; return how much of it was taken."""
    wants = [instance.wanted_milli - instance.request_milli for instance in instances]
    extra = water_fill(max(0, spare), wants, [instance.request_milli for instance in instances])
    for instance, more in zip(instances, extra, strict=True):
        milli[instance.name] = instance.request_milli + more
    return sum(extra)
