"""One period of the vertical policy on many GPUs: the rules of `dilu_core.coscaling.vertical`, which explains them.

Numbers in, numbers out, equal to the last unit. A reading that is not known is NaN, negative or 1e12 and more. The
instances of GPU g are the rows `order[starts[g]:starts[g + 1]]`, ascending.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, inlined
from dilu_core.kernels.cpu.sharing import fit_proportionally, headrooms, water_fill

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Positions of `VerticalParams` in the row of parameters.
EMERGENCY_RATIO, LLM_EMERGENCY_RATIO, RECOVERY_RATIO, GREATEST_CUT, RECOVERY_EVERY, RECOVERY_GROWTH = range(6)
BASELINE_FALL, BASELINE_RISE, STARVATION_SHARE, MOST_OWED_MILLI, PARAMETERS = range(6, 11)

LLM_SLO, BEST_EFFORT = 1, 2  # kinds; 0: with an SLO
EMERGENCY, CONTENTION, RECOVERY = range(3)  # modes

_FULL_MILLI = 1000
_UNKNOWN = 1e12  # as in `dilu_core.coscaling.policy`
_WORST_INFLATION = 1e12  # as in `dilu_core.coscaling.vertical`


@inlined
def _known(value: float) -> bool:
    return 0.0 <= value < _UNKNOWN


@inlined
def _moved_baseline(before: float, cycle: float, solo: float, fall: float, rise: float) -> float:
    """`cycle` is 0 where it is not known, `before` NaN, `solo` infinite."""
    if cycle > 0.0:
        before = cycle if math.isnan(before) else min(max(cycle, before * (1.0 - fall)), before * (1.0 + rise))
    return min(before, solo) if not math.isnan(before) else before


@compiled
def vertical_period(
    params: Floats,
    starts: Ints,
    order: Ints,
    kind: Ints,
    request: Ints,
    limit: Ints,
    weight: Ints,
    solo: Floats,
    demand: Floats,
    cycle: Floats,
    baseline: Floats,
    cap: Floats,
    period: Ints,
    owed: Ints,
    milli: Ints,
    headroom: Ints,
    mode: Ints,
    allowed_milli: Ints,
    inflation: Floats,
    oversold: NDArray[np.bool_],
    relieved: NDArray[np.bool_],
) -> None:
    """Decide all GPUs: `params` (PARAMETERS,), columns (n,) by instance, from `cap` to `owed` (gpus,) the state.

    `baseline` (NaN: none), `cap`, `period` and `owed` change in place; what follows them is filled, `milli` and
    `headroom` (n,), the rest (gpus,), `inflation` NaN where no cycle is known.
    """
    most = 1
    for g in range(starts.size - 1):
        most = max(most, starts[g + 1] - starts[g])
    # claimants of the tier at hand: SLO instances, the idle among them, or active best-effort ones
    rows, wants, weights = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    active, ratios = np.empty(most, np.bool_), np.empty(most)
    shares, unmet, keys = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    met, unmet_weight = np.empty(most + 1, np.int64), np.empty(most + 1, np.int64)
    others, other_wants = np.empty(most, np.int64), np.empty(most, np.int64)
    for g in range(starts.size - 1):
        slo, best_effort, asked, floor, any_slo = 0, 0, 0, 0, False
        worst, cut = math.nan, 1.0
        for at in range(int(starts[g]), int(starts[g + 1])):
            i = int(order[at])
            idle = demand[i] == 0.0
            milli[i] = 0 if idle else request[i]
            asked += int(milli[i])
            want = 0
            if not idle:
                want = limit[i] - request[i]
                if _known(demand[i]) and demand[i] < limit[i]:
                    want = max(0, math.ceil(demand[i]) - request[i])
            headroom[i] = 0
            if kind[i] == BEST_EFFORT:
                baseline[i] = math.nan
                if not idle:
                    others[best_effort], other_wants[best_effort] = i, want
                    best_effort += 1
                    floor += request[i]
                continue
            rows[slo], wants[slo], weights[slo], active[slo] = i, want, weight[i], not idle
            slo += 1
            any_slo |= not idle
            seen = cycle[i] if not idle and _known(cycle[i]) else 0.0
            baseline[i] = _moved_baseline(baseline[i], seen, solo[i], params[BASELINE_FALL], params[BASELINE_RISE])
            if seen > 0.0:
                ratio = min(seen / baseline[i], _WORST_INFLATION)
                worst = ratio if math.isnan(worst) else max(worst, ratio)
                if ratio >= params[LLM_EMERGENCY_RATIO if kind[i] == LLM_SLO else EMERGENCY_RATIO]:
                    cut = max(cut, min(ratio, params[GREATEST_CUT]))
        spare = _FULL_MILLI - asked
        oversold[g] = spare < 0
        if spare < 0:
            first, count = starts[g], starts[g + 1] - starts[g]
            for k in range(count):
                unmet[k], weights[k] = k, milli[order[first + k]]
            fit_proportionally(_FULL_MILLI, weights, unmet, count, shares, keys)
            for k in range(count):
                milli[order[first + k]] = shares[k]
        else:
            headrooms(
                spare, rows, slo, wants, weights, request, limit, active, ratios, shares, met, unmet_weight, headroom
            )
            spare -= water_fill(spare, wants, weights, slo, shares, unmet, keys)
            for k in range(slo):
                milli[rows[k]] += shares[k]

        floor, reach = min(_FULL_MILLI, floor), 0
        for k in range(best_effort):
            reach += int(other_wants[k])
            weights[k] = weight[others[k]]
        reach = max(0, min(spare, reach))
        bound = max(cap[g], float(floor))
        if cut > 1.0:
            mode[g] = EMERGENCY
            if floor > 0:
                bound = max(min(bound, float(floor + reach)) / cut, float(floor))
        elif any_slo and not worst < params[RECOVERY_RATIO]:
            mode[g] = CONTENTION
        else:
            mode[g] = RECOVERY
            if period[g] == int(params[RECOVERY_EVERY]) - 1:
                bound = min(float(_FULL_MILLI), max(bound, 1.0) * params[RECOVERY_GROWTH])
        allowed = math.floor(bound) - floor
        owed_now = int(params[STARVATION_SHARE] * reach)
        relieved[g] = allowed < owed_now and owed[g] + owed_now - allowed > params[MOST_OWED_MILLI]
        if relieved[g]:
            allowed = owed_now
        lent = 0
        if reach > 0 and allowed > 0:
            lent = water_fill(min(reach, allowed), other_wants, weights, best_effort, shares, unmet, keys)
            for k in range(best_effort):
                milli[others[k]] += shares[k]
        allowed_milli[g], inflation[g], cap[g] = floor + allowed, worst, bound
        owed[g] = max(0, owed[g] + owed_now - lent)
        period[g] = (period[g] + 1) % int(params[RECOVERY_EVERY])
