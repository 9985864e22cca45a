"""Dividing whole units among claimants, compiled: `dilu_core.coscaling.sharing`, to the last unit.

Columns hold a claimant per element; the arrays named last are scratch, as long as the longest column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, compiled_in_place, inlined

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

INDEX_BITS = 20
"""At most 2^20 claimants: the place among them and the fraction lost by rounding share an int64 in sorting."""

_FEW = 64  # sorted by insertion; more are sorted by numpy's


@compiled
def fit_proportionally(budget: int, weights: Ints, who: Ints, count: int, shares: Ints, keys: Ints) -> None:
    """`sharing.fit_proportionally` among the claimants `who[:count]`, ascending, into `shares`."""
    total = 0
    for k in range(count):
        total += weights[who[k]]
    missing = budget
    for k in range(count):
        i = who[k]
        product = budget * weights[i]
        shares[i] = product // total
        missing -= shares[i]
        keys[k] = ((total - product % total) << INDEX_BITS) | k  # ascending: largest fraction first, then the earlier
    keys[:count].sort()
    for k in range(missing):
        shares[who[keys[k] & ((1 << INDEX_BITS) - 1)]] += 1


@compiled_in_place
def water_fill(budget: int, wants: Ints, weights: Ints, count: int, shares: Ints, unmet: Ints, keys: Ints) -> int:
    """`sharing.water_fill` of the first `count` claimants into `shares`; returns what was taken.

    In rounds: whoever wants no more than the level of those still unmet is met, until nobody is.
    """
    wanted = 0
    for i in range(count):
        wanted += int(wants[i])
        shares[i] = wants[i]
        unmet[i] = i
    if wanted <= budget:
        return wanted
    left, weight_left, still = budget, 0, count
    for i in range(count):
        weight_left += int(weights[i])
    while True:
        kept, met, met_weight = 0, 0, 0
        for k in range(still):
            i = int(unmet[k])
            if wants[i] * weight_left <= left * weights[i]:
                met += int(wants[i])
                met_weight += int(weights[i])
            else:
                unmet[kept] = i
                kept += 1
        if kept == still:
            break
        left, weight_left, still = left - met, weight_left - met_weight, kept
    fit_proportionally(left, weights, unmet, still, shares, keys)
    return budget


@inlined
def _sort_by_ratio(ratios: Floats, order: Ints, count: int) -> None:
    """The places 0..count - 1 in the order of their ratios, into `order`; by insertion, as GPUs hold few instances."""
    for k in range(count):
        at = k
        while at > 0 and ratios[order[at - 1]] > ratios[k]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = k


@compiled
def headrooms(
    spare: int,
    rows: Ints,
    count: int,
    wants: Ints,
    weights: Ints,
    request: Ints,
    limit: Ints,
    active: NDArray[np.bool_],
    ratios: Floats,
    order: Ints,
    met: Ints,
    unmet_weight: Ints,
    headroom: Ints,
) -> None:
    """`sharing.headrooms` of the SLO instances `rows[:count]`; `wants` and `weights` are in that order."""
    for k in range(count):
        ratios[k] = wants[k] / weights[k]
    if count <= _FEW:
        _sort_by_ratio(ratios, order, count)
    else:
        order[:count] = np.argsort(ratios[:count])
    met[0] = unmet_weight[count] = 0
    for rank in range(count):
        met[rank + 1] = met[rank] + wants[order[rank]]
        unmet_weight[count - 1 - rank] = unmet_weight[count - rank] + weights[order[count - 1 - rank]]
    for rank in range(count):
        k = order[rank]
        row, want, weight = rows[k], wants[k], weights[k]
        budget = spare if active[k] else spare - request[row]
        if budget <= 0:
            headroom[row] = 0
            continue
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            level, per = wants[order[middle]], weights[order[middle]]
            spent = met[middle + 1] * per + level * unmet_weight[middle + 1]
            if rank <= middle:
                spent += level * weight - want * per
            if spent <= budget * per:
                low = middle + 1
            else:
                high = middle
        left, weight_left = budget - met[low], unmet_weight[low]
        if rank < low:
            left, weight_left = left + want, weight_left + weight
        headroom[row] = min(limit[row] - request[row], weight * left // weight_left)
