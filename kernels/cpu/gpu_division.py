"""One GPU divided among the instances on it in one step: by need and fairness, by caps, or by fixed slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_in_place

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

WORK_CONSERVING, HARD_CAPS, TIME_SLICES = range(3)
"""The rules of `kernels.cpu.shared_gpus`."""

_WHOLE_GPU = 1000.0
_EVERY_TIER = -1


@compiled_in_place
def divide_gpu(
    sharing: int, members: Integers, request: Integers, limit: Integers, tier: Integers, want: Floats, grant: Floats
) -> None:
    """Write what each of the rows `members` of one GPU gets of its `want`, at most that.

    Columns are over all rows; `want` is at most the limit, in TIME_SLICES at most the request. Where the wants exceed
    the GPU, it goes by max-min fairness weighted by limit (HARD_CAPS) or by request: from nothing, or for
    WORK_CONSERVING first up to the requests, then beyond them tier by tier.
    """
    wanted, guaranteed = 0.0, 0.0
    for at in range(members.shape[0]):
        i = int(members[at])
        wanted += want[i]
        guaranteed += min(want[i], float(request[i]))
    if wanted <= _WHOLE_GPU:
        for at in range(members.shape[0]):
            i = int(members[at])
            grant[i] = want[i]
        return
    if sharing == WORK_CONSERVING and guaranteed <= _WHOLE_GPU:
        for at in range(members.shape[0]):
            i = int(members[at])
            grant[i] = min(want[i], float(request[i]))
        left = _WHOLE_GPU - guaranteed
        left -= _fill(left, 0, members, request, limit, tier, want, grant)
        _fill(left, 1, members, request, limit, tier, want, grant)
        return
    for at in range(members.shape[0]):
        i = int(members[at])
        grant[i] = 0.0
    weight = limit if sharing == HARD_CAPS else request
    _fill(_WHOLE_GPU, _EVERY_TIER, members, weight, weight, tier, want, grant)


@compiled_in_place
def _fill(
    left: float,
    level: int,
    members: Integers,
    weight: Integers,
    ceiling: Integers,
    tier: Integers,
    want: Floats,
    grant: Floats,
) -> float:
    """Raise the grants of tier `level` by their weighted max-min part of `left`; return what that took.

    No grant exceeds its want, nor `ceiling`.
    """
    taken, weights = 0.0, 0.0
    for at in range(members.shape[0]):
        i = int(members[at])
        if (level == _EVERY_TIER or tier[i] == level) and grant[i] < min(want[i], float(ceiling[i])):
            weights += weight[i]
    while weights > 0.0 and taken < left:
        per_weight, met = (left - taken) / weights, False
        for at in range(members.shape[0]):  # those whose goal the level passes are met in full, and the level rises
            i = int(members[at])
            goal = min(want[i], float(ceiling[i]))
            beyond = goal - grant[i]
            if (level == _EVERY_TIER or tier[i] == level) and 0.0 < beyond <= per_weight * weight[i]:
                taken += beyond
                weights -= weight[i]
                grant[i] = goal
                met = True
        if not met:
            for at in range(members.shape[0]):
                i = int(members[at])
                if (level == _EVERY_TIER or tier[i] == level) and grant[i] < min(want[i], float(ceiling[i])):
                    grant[i] += per_weight * weight[i]
            return left
    return taken


@compiled_in_place
def reachable(
    sharing: int,
    members: Integers,
    request: Integers,
    limit: Integers,
    tier: Integers,
    want: Floats,
    grant: Floats,
    reach: Floats,
) -> None:
    """Write what each of the rows `members` would get if it alone wanted its most: its limit, or in TIME_SLICES its
    request."""
    wanted, guaranteed = 0.0, 0.0
    for at in range(members.shape[0]):
        i = int(members[at])
        wanted += want[i]
        guaranteed += min(want[i], float(request[i]))
    for at in range(members.shape[0]):
        i = int(members[at])
        most = float(request[i] if sharing == TIME_SLICES else limit[i])
        needed = guaranteed - min(want[i], float(request[i])) + request[i]
        if want[i] >= most:
            reach[i] = grant[i]
        elif wanted - want[i] + most <= _WHOLE_GPU:
            reach[i] = most
        elif sharing == HARD_CAPS:
            reach[i] = min(most, _own_part(_WHOLE_GPU, i, members, limit, tier, want, False))
        elif sharing == TIME_SLICES or needed > _WHOLE_GPU:
            reach[i] = min(float(request[i]), _own_part(_WHOLE_GPU, i, members, request, tier, want, False))
        else:
            beyond = _own_part(_WHOLE_GPU - needed, i, members, request, tier, want, True)
            reach[i] = min(most, request[i] + beyond)


@compiled_in_place
def _asked(i: int, own: int, weight: Integers, tier: Integers, want: Floats, tiered: bool) -> float:
    """What row `i` asks for beside `own` in this round: up to its weight, or beyond it where tiers count."""
    if i == own or (tiered and tier[i] != tier[own]):
        return 0.0
    return max(float(want[i]) - weight[i], 0.0) if tiered else min(float(want[i]), float(weight[i]))


@compiled_in_place
def _own_part(
    left: float, own: int, members: Integers, weight: Integers, tier: Integers, want: Floats, tiered: bool
) -> float:
    """The max-min part of `left` that row `own` gets if it asks without end.

    With `tiered`, what is divided is what requests (`weight`) leave, and lower tiers come first.
    """
    weights = float(weight[own])
    for at in range(members.shape[0]):
        i = int(members[at])
        if tiered and tier[i] < tier[own]:
            left -= max(want[i] - weight[i], 0.0)
        if _asked(i, own, weight, tier, want, tiered) > 0.0:
            weights += weight[i]
    below = 0.0  # what is asked for up to this level per weight is met
    while left > 0.0:
        level, met = left / weights, False
        for at in range(members.shape[0]):
            i = int(members[at])
            asked = _asked(i, own, weight, tier, want, tiered)
            if below * weight[i] < asked <= level * weight[i]:
                left -= asked
                weights -= weight[i]
                met = True
        if not met:
            return float(level * weight[own])
        below = level
    return 0.0
