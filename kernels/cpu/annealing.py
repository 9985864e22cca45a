"""Annealed swaps that pack items into a fixed number of bins: the inner loop of a local search for vector packing.

Some items have no bin. A step either tries to bring one of them into a random bin (outright, or in exchange for one or
two of its items), or moves or swaps items between two random bins. Exchanges that leave more size without a bin, and
moves that even out the fill of bins, are accepted with probability exp(gain / temperature), so that small items end up
outside, where they are easily placed, and room gathers in few bins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def draw(state: Ints) -> float:
    """The next number in (0, 1) of the Lehmer generator of Park and Miller; `state` (1,) holds 1..2**31 - 2."""
    state[0] = state[0] * 48271 % 2147483647
    return float(state[0]) / 2147483647.0


@compiled
def anneal(
    demand: Ints,
    size: Floats,
    members: Ints,
    count: Ints,
    free: Ints,
    bins: int,
    homeless: Ints,
    homeless_count: int,
    steps: int,
    temperature: float,
    random: Ints,
) -> int:
    """Up to `steps` steps over the first `bins` bins, in place; returns how many items have no bin in the end.

    Arguments:
        demand: (n_items, 3) what an item takes of three resources.
        size: (n_items,) its size for the acceptance rules, about 1 on average.
        members, count: (n_bins, width) and (n_bins,) the items of a bin.
        free: (n_bins, 3) what is left of the resources.
        homeless: (n_items,) the items without a bin, the first `homeless_count` entries.
    """
    width = members.shape[1]
    for _ in range(steps):
        if homeless_count == 0 or bins == 0:
            break
        if draw(random) < 0.5:
            at = int(draw(random) * homeless_count)
            b = int(draw(random) * bins)
            homeless_count = _bring_in(
                demand, size, members, count, free, homeless, homeless_count, at, b, temperature, random
            )
        else:
            a = int(draw(random) * bins)
            b = int(draw(random) * bins)
            if a != b and count[a] > 0:
                _exchange(demand, size, members, count, free, a, b, width, temperature, random)
    return homeless_count


@compiled
def _bring_in(
    demand: Ints,
    size: Floats,
    members: Ints,
    count: Ints,
    free: Ints,
    homeless: Ints,
    homeless_count: int,
    at: int,
    b: int,
    temperature: float,
    random: Ints,
) -> int:
    """Put homeless item number `at` into bin `b`, at the cost of none, one or two of its items."""
    item = homeless[at]
    request, limit, memory = free[b, 0] - demand[item, 0], free[b, 1] - demand[item, 1], free[b, 2] - demand[item, 2]
    held = count[b]
    if request >= 0 and limit >= 0 and memory >= 0 and held < members.shape[1]:
        members[b, held] = item
        count[b] += 1
        free[b, 0], free[b, 1], free[b, 2] = request, limit, memory
        homeless[at] = homeless[homeless_count - 1]
        return homeless_count - 1
    if held == 0:
        return homeless_count
    i = int(draw(random) * held)
    first = members[b, i]
    request, limit, memory = request + demand[first, 0], limit + demand[first, 1], memory + demand[first, 2]
    gain = size[item] - size[first]
    if request >= 0 and limit >= 0 and memory >= 0:
        if gain >= 0 or draw(random) < np.exp(gain / temperature):
            members[b, i] = item
            homeless[at] = first
            free[b, 0], free[b, 1], free[b, 2] = request, limit, memory
        return homeless_count
    if held < 2:
        return homeless_count
    j = int(draw(random) * (held - 1))
    if j >= i:
        j += 1
    second = members[b, j]
    request, limit, memory = request + demand[second, 0], limit + demand[second, 1], memory + demand[second, 2]
    gain -= size[second]
    if request >= 0 and limit >= 0 and memory >= 0 and (gain >= 0 or draw(random) < np.exp(gain / temperature)):
        members[b, i] = item
        members[b, j] = members[b, held - 1]
        count[b] = held - 1
        homeless[at] = first
        homeless[homeless_count] = second
        homeless_count += 1
        free[b, 0], free[b, 1], free[b, 2] = request, limit, memory
    return homeless_count


@compiled
def _exchange(
    demand: Ints,
    size: Floats,
    members: Ints,
    count: Ints,
    free: Ints,
    a: int,
    b: int,
    width: int,
    temperature: float,
    random: Ints,
) -> None:
    """Move an item of bin `a` to bin `b`, or swap it for one of its; uneven fills are liked."""
    i = int(draw(random) * count[a])
    j = int(draw(random) * (count[b] + 1))
    here = members[a, i]
    there = members[b, j] if j < count[b] else -1
    if there < 0 and count[b] >= width:
        return
    for k in range(3):
        change = demand[here, k] - (demand[there, k] if there >= 0 else 0)
        if free[b, k] < change or free[a, k] < -change:
            return
    fill_a = 0.0
    for k in range(count[a]):
        fill_a += size[members[a, k]]
    fill_b = 0.0
    for k in range(count[b]):
        fill_b += size[members[b, k]]
    shift = size[here] - (size[there] if there >= 0 else 0.0)
    gain = (fill_b + shift) ** 2 + (fill_a - shift) ** 2 - fill_a**2 - fill_b**2
    if gain < 0 and draw(random) >= np.exp(gain / temperature):
        return
    for k in range(3):
        change = demand[here, k] - (demand[there, k] if there >= 0 else 0)
        free[b, k] -= change
        free[a, k] += change
    if there >= 0:
        members[a, i], members[b, j] = there, here
    else:
        members[a, i] = members[a, count[a] - 1]
        count[a] -= 1
        members[b, count[b]] = here
        count[b] += 1
