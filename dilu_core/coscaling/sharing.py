"""Dividing whole units among claimants: weighted max-min fairness and proportional cuts, exact in integers."""

from __future__ import annotations

from collections.abc import Sequence


def water_fill(budget: int, wants: Sequence[int], weights: Sequence[int]) -> list[int]:
    """Weighted max-min shares of `budget`: x_i = min(want_i, level * weight_i) with the level that spends it.

    All three are non-negative integers (weights positive). The shares are integers with sum min(budget, sum of wants)
    and none exceeds its want; rounding leaves each within one unit of the real solution, and the units left by
    rounding down go to the largest fractions, earlier ones first. O(n log n).
    """
    shares = [0] * len(wants)
    order = sorted(range(len(wants)), key=lambda i: (wants[i] / weights[i], i))
    left, weight_left = budget, sum(weights)
    for rank, i in enumerate(order):
        if wants[i] * weight_left <= left * weights[i]:  # the level rises above this want: it is met in full
            shares[i] = wants[i]
            left -= wants[i]
            weight_left -= weights[i]
        else:
            open_ones = order[rank:]
            for j, part in zip(open_ones, fit_proportionally(left, [weights[j] for j in open_ones]), strict=True):
                shares[j] = part
            break
    return shares


def fit_proportionally(budget: int, weights: Sequence[int]) -> list[int]:
    """`budget` units in proportion to `weights` (not all 0), in integers: largest fractions first, then the earlier."""
    total = sum(weights)
    shares = [budget * weight // total for weight in weights]
    rounded = sorted(range(len(weights)), key=lambda i: (-(budget * weights[i] % total), i))
    for i in rounded[: budget - sum(shares)]:
        shares[i] += 1
    return shares
