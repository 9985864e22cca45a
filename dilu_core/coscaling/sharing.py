"""Dividing whole units among claimants: weighted max-min fairness and proportional cuts, exact in integers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def water_fill(budget: int, wants: Sequence[int], weights: Sequence[int]) -> list[int]:
    """Weighted max-min shares of `budget`: x_i = min(want_i, level * weight_i) with the level that spends it.

    All three are non-negative integers (weights positive). The shares are integers with sum min(budget, sum of wants)
    and none exceeds its want; rounding leaves each within one unit of the real solution, and the units left by
    rounding down go to the largest fractions, earlier ones first. Wanting more never brings less. O(n log n).
    """
    if sum(wants) <= budget:
        return list(wants)
    shares = list(wants)
    ratios = [want / weight for want, weight in zip(wants, weights, strict=True)]
    order = sorted(range(len(shares)), key=ratios.__getitem__)
    left, weight_left = budget, sum(weights)
    for rank, i in enumerate(order):
        if wants[i] * weight_left <= left * weights[i]:  # the level rises above this want: it is met in full
            left -= wants[i]
            weight_left -= weights[i]
        else:
            # In the order of the claimants: in that of their wants, wanting more could lose a tie, and so a unit.
            unmet = sorted(order[rank:])
            for j, part in zip(unmet, fit_proportionally(left, [weights[j] for j in unmet]), strict=True):
                shares[j] = part
            break
    return shares


def fit_proportionally(budget: int, weights: Sequence[int]) -> list[int]:
    """`budget` units in proportion to `weights` (not all 0), in integers: largest fractions first, then the earlier."""
    total = sum(weights)
    shares = [budget * weight // total for weight in weights]
    missing = [-(budget * weight % total) for weight in weights]
    for i in sorted(range(len(shares)), key=missing.__getitem__)[: budget - sum(shares)]:
        shares[i] += 1
    return shares


def headrooms(budgets: Sequence[int], wants: Sequence[int], weights: Sequence[int], rooms: Sequence[int]) -> list[int]:
    """What each claimant would be sure to get if it alone wanted all its room, and the others what they want now.

    For claimant i that is floor(min(room_i, level_i * weight_i)) with the level at which a `water_fill` of `budgets[i]`
    with want_i without end is spent; 0 where the budget is negative. Integers, exact; O(n log n).

    With the claimants sorted by want / weight, P_k the wants of the first k and S_k the weights of the others, the
    first q + 1 are met together with claimant i at rank p if
    P_(q+1) + r_q S_(q+1) + [p <= q] (r_q weight_i - want_i) <= budget_i, r_q = want_q / weight_q; this grows with q.
    """
    count = len(wants)
    ratios = [want / weight for want, weight in zip(wants, weights, strict=True)]
    order = sorted(range(count), key=ratios.__getitem__)
    met = [0, *accumulate(wants[i] for i in order)]
    unmet_weight = [0, *accumulate(weights[i] for i in reversed(order))][::-1]
    found = [0] * count
    for rank, i in enumerate(order):
        budget, want, weight = budgets[i], wants[i], weights[i]
        if budget <= 0:
            continue
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            level, per = wants[order[middle]], weights[order[middle]]  # their ratio is the level
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
        found[i] = min(rooms[i], weight * left // weight_left)
    return found
