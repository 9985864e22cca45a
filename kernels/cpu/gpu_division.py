"""One GPU divided among the instances on it in one step: by need and fairness, by caps, or by fixed slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

WORK_CONSERVING, HARD_CAPS, TIME_SLICES = range(3)
"""The rules of `kernels.cpu.shared_gpus`."""

_WHOLE_GPU = 1000.0
_TIERS = 2


@compiled
def divide_gpu(
    sharing: int, members: Integers, request: Integers, tier: Integers, want: Floats, grant: Floats
) -> float:
    """Write what each of the rows `members` of one GPU gets of its `want`; return the cut that oversold ones suffer.

    `request` and `tier` are columns over all rows, as are `want` (>= 0, at most what the rule allows) and `grant`.
    """
    wanted, guaranteed = 0.0, 0.0
    for i in members:
        wanted += want[i]
        guaranteed += min(want[i], float(request[i]))
    if wanted <= _WHOLE_GPU:
        for i in members:
            grant[i] = want[i]
        return 1.0
    if sharing != WORK_CONSERVING:
        for i in members:
            grant[i] = want[i] * (_WHOLE_GPU / wanted)
        return _WHOLE_GPU / wanted
    if guaranteed >= _WHOLE_GPU:
        for i in members:
            grant[i] = min(want[i], float(request[i])) * (_WHOLE_GPU / guaranteed)
        return _WHOLE_GPU / guaranteed
    left = _WHOLE_GPU - guaranteed
    for i in members:
        grant[i] = min(want[i], float(request[i]))
    for level in range(_TIERS):
        left -= _lend(left, level, members, request, tier, want, grant)
    return 1.0


@compiled
def _lend(
    left: float, level: int, members: Integers, request: Integers, tier: Integers, want: Floats, grant: Floats
) -> float:
    """Add to the grants of tier `level` their max-min part of `left`, weighted by request; return what was lent."""
    lent, weight = 0.0, 0.0
    for i in members:
        if tier[i] == level and grant[i] < want[i]:
            weight += request[i]
    while weight > 0.0 and lent < left:
        per_weight, met = (left - lent) / weight, False
        for i in members:  # those whose want the level passes are met in full, and the level rises
            if tier[i] == level and grant[i] < want[i] and want[i] - grant[i] <= per_weight * request[i]:
                lent += want[i] - grant[i]
                weight -= request[i]
                grant[i] = want[i]
                met = True
        if not met:
            for i in members:
                if tier[i] == level and grant[i] < want[i]:
                    grant[i] += per_weight * request[i]
            return left
    return lent


@compiled
def borrowable(
    sharing: int,
    members: Integers,
    request: Integers,
    limit: Integers,
    tier: Integers,
    want: Floats,
    grant: Floats,
    spare: Floats,
) -> None:
    """Add to `spare` what each row could have borrowed beyond its request, had it alone wanted its limit."""
    if sharing == TIME_SLICES:
        return
    wanted, guaranteed = 0.0, 0.0
    for i in members:
        wanted += want[i]
        guaranteed += min(want[i], float(request[i]))
    for i in members:
        room = float(limit[i] - request[i])
        others = wanted - want[i]
        if others + limit[i] <= _WHOLE_GPU or want[i] >= limit[i]:
            spare[i] += room if want[i] < limit[i] else max(grant[i] - request[i], 0.0)
        elif sharing == HARD_CAPS:
            spare[i] += max(limit[i] * _WHOLE_GPU / (others + limit[i]) - request[i], 0.0)
        else:
            left = _WHOLE_GPU - request[i] - (guaranteed - min(want[i], float(request[i])))
            spare[i] += min(room, _own_part(left, i, members, request, tier, want))


@compiled
def _own_part(left: float, own: int, members: Integers, request: Integers, tier: Integers, want: Floats) -> float:
    """The part of `left` that row `own` is lent beyond its request, if it wants without end."""
    weight = float(request[own])
    for i in members:
        beyond = want[i] - request[i]
        if i != own and beyond > 0.0:
            if tier[i] < tier[own]:
                left -= beyond
            elif tier[i] == tier[own]:
                weight += request[i]
    below = -1.0  # wants up to this multiple of the request are met
    while left > 0.0:
        per_weight, met = left / weight, False
        for i in members:
            ratio = (want[i] - request[i]) / request[i]
            if i != own and tier[i] == tier[own] and below < ratio <= per_weight and ratio > 0.0:
                left -= want[i] - request[i]
                weight -= request[i]
                met = True
        if not met:
            return float(per_weight * request[own])
        below = per_weight
    return 0.0
