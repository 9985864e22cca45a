"""Vertical co-scaling of one GPU: every few milliseconds, who gets how much of it.

Every active instance gets its request. What is left - the shares of idle instances included - is lent up to each
limit, functions with an SLO first, best-effort work after them under a cap. The cap follows the kernel-launch cycles
of the SLO instances on this GPU: inflated cycles shrink it at once (emergency), good ones let it grow slowly
(recovery), in between it holds (contention). Best effort never falls below its requests, nor, over time, below a small
part of what SLO functions leave over. Source: Lv et al., ASPLOS 2025, doi 10.1145/3669940.3707251.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from dilu_core._checks import fail, shown
from dilu_core.coscaling.gpu import KINDS, GpuInstance, GpuObservation, reading
from dilu_core.coscaling.grants import Grants, VerticalMode, spare_milli
from dilu_core.coscaling.policy import expect
from dilu_core.coscaling.sharing import fit_proportionally, water_fill
from dilu_core.coscaling.vertical_params import VerticalParams
from dilu_core.coscaling.vertical_state import VerticalState
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
    "spare_milli",
]

WORST_INFLATION = 1e12
"""An inflation beyond this is a broken clock; infinity could not be written as JSON."""


class _Tier(NamedTuple):
    """Active instances that are lent spare share together, and what each wants beyond its request."""

    instances: list[GpuInstance]
    wants: list[int]

    def lend(self, milli: dict[str, int], budget: int) -> int:
        """Divide `budget` among them on top of what `milli` says, and return how much of it was taken."""
        if budget <= 0 or not any(self.wants):
            return 0
        weights = [one.weight or one.request_milli for one in self.instances]
        extra = water_fill(budget, self.wants, weights)
        for instance, more in zip(self.instances, extra, strict=True):
            milli[instance.name] += more
        return sum(extra)


class VerticalScaler:
    """The vertical policy of one GPU: pure and deterministic, O(n log n) for n instances.

    `solvers.batch_vertical.BatchVerticalScaler` decides the same for thousands of GPUs in one compiled call.
    """

    def __init__(self, params: VerticalParams | None = None) -> None:
        if params is not None and not isinstance(params, VerticalParams):
            fail("params", f"is {shown(params, 80)}; expected VerticalParams.")
        self.params = params or VerticalParams()

    def __repr__(self) -> str:
        return f"VerticalScaler({self.params!r})"

    def initial_state(self) -> VerticalState:
        """No baseline known, best effort uncapped and owed nothing."""
        return VerticalState()

    def decide(self, state: VerticalState, observation: GpuObservation) -> tuple[Grants, VerticalState]:
        """The grants for this period and the state to pass with the next one.

        A `state` or `observation` of another type is an `InvalidArgumentError`.
        """
        expect("state", state, VerticalState)
        expect("observation", observation, GpuObservation)
        params = self.params
        milli: dict[str, int] = {}
        baselines: dict[str, float] = {}
        slo, best_effort = _Tier([], []), _Tier([], [])
        worst, cut = None, 1.0
        for one in observation.instances:
            demand = reading(one.demand_milli)
            active = demand != 0.0
            milli[one.name] = one.request_milli if active else 0
            if active:
                tier = best_effort if one.kind == "best-effort" else slo
                tier.instances.append(one)
                tier.wants.append(one.wanted_at(demand) - one.request_milli)
            if one.kind == "best-effort":
                continue
            cycle = reading(one.cycle_ms) if active else None  # an idle one launches nothing, whatever it reports
            baseline = self._baseline(state.baselines_ms.get(one.name), cycle, one.solo_cycle_ms)
            if baseline is not None:
                baselines[one.name] = baseline
            if cycle and baseline is not None:
                inflation = min(cycle / baseline, WORST_INFLATION)
                worst = inflation if worst is None else max(worst, inflation)
                ratio = params.llm_emergency_ratio if one.kind == "llm-slo" else params.emergency_ratio
                if inflation >= ratio:
                    cut = max(cut, min(inflation, params.greatest_cut))

        asked = sum(milli.values())
        spare = FULL_GPU_MILLI - asked
        oversold = spare < 0
        if oversold:
            milli = dict(zip(milli, fit_proportionally(FULL_GPU_MILLI, list(milli.values())), strict=True))
        else:
            spare -= slo.lend(milli, spare)
        floor = min(FULL_GPU_MILLI, sum(one.request_milli for one in best_effort.instances))
        reach = max(0, min(spare, sum(best_effort.wants)))
        mode, cap = self._cap(state, cut, worst, bool(slo.instances), floor, reach)
        allowed = math.floor(cap) - floor
        owed_now = int(params.starvation_share * reach)
        relieved = allowed < owed_now and state.owed_milli + owed_now - allowed > params.most_owed_milli
        if relieved:
            allowed = owed_now
        lent = best_effort.lend(milli, min(reach, allowed))
        owed = max(0, state.owed_milli + owed_now - lent)
        if oversold:
            detail = f"the requests of active instances add up to {asked}; all were cut in proportion"
        else:
            detail = f"{spare - lent} of {FULL_GPU_MILLI} milli-GPU are left over"
        period = (state.period + 1) % params.recovery_every
        grants = Grants(milli, mode, floor + allowed, worst, oversold, detail, relieved, observation)
        return grants, VerticalState(cap, period, baselines, owed)

    def _baseline(self, before: float | None, cycle: float | None, solo: float | None) -> float | None:
        """The baseline moved towards this period's cycle, at most the solo cycle.

        It may rise, however slowly, or work that has become slower for good would be an emergency for ever; one that
        rose through minutes of contention falls back within a dozen good cycles.
        """
        if cycle:
            if before is None:
                before = cycle
            else:
                low, high = before * (1.0 - self.params.baseline_fall), before * (1.0 + self.params.baseline_rise)
                before = min(max(cycle, low), high)
        return before if before is None or solo is None else min(before, solo)

    def _cap(
        self, state: VerticalState, cut: float, worst: float | None, any_slo: bool, floor: int, reach: int
    ) -> tuple[VerticalMode, float]:
        """The mode and the best-effort cap, which is never below `floor`, what best-effort instances are guaranteed.

        An emergency cuts from what they could hold (`floor` + `reach`): cutting from a cap far above that would change
        nothing for several periods. With no best effort active, it is not at fault, and there is nothing to cut.
        """
        params = self.params
        cap = max(state.cap_milli, float(floor))
        if cut > 1.0:
            return VerticalMode.EMERGENCY, max(min(cap, floor + reach) / cut, float(floor)) if floor else cap
        calm = worst < params.recovery_ratio if worst is not None else not any_slo
        if not calm:
            return VerticalMode.CONTENTION, cap
        if state.period == params.recovery_every - 1:
            # growth from what is held now, or a cap at a floor of 0 could never rise again
            cap = min(float(FULL_GPU_MILLI), max(cap, 1.0) * params.recovery_growth)
        return VerticalMode.RECOVERY, cap
