"""Annealed swaps that pack items into a fixed number of bins: the inner loop of a local search for vector packing.

Some items have no bin. A step either tries to bring one of them into a random bin (outright, or in exchange for one or
two of its items), or moves or swaps items between two random bins. With w the sizes of items,

    bring in    gain = w(item) - w(items put out): less size is left without a bin
    exchange    gain = change of sum over bins of (sum of w)^2: room gathers in few bins, where it is of use

and a step of negative gain is taken with probability exp(gain / temperature), the temperature falling geometrically.
Sizes that are prices of a packing's dual make full bins alike, which is what lets so simple a search come close to the
bound. Columns of the arrays:

    demand  (n_items, 3) int64    what an item takes of three resources; free (n_bins, 3) is what is left of them
    ties    (n_items, 3) int64    bit sets: what an item is, what it refuses, the kinds of bins it may use
    bars    (n_bins, 3) int64     bit sets: what others are there, what they refuse, the bin's kind
    members, count                (n_bins, width) and (n_bins,): the items of a bin
    fill    (n_bins,) float64     their sum of w
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_COOL_EVERY = 4096


@compiled
def draw(state: Ints) -> float:
    """The next number in (0, 1) of the Lehmer generator of Park and Miller; `state` (1,) holds 1..2**31 - 2."""
    state[0] = state[0] * 48271 % 2147483647
    return float(state[0]) / 2147483647.0


@compiled
def anneal(
    demand: Ints,
    size: Floats,
    ties: Ints,
    has_ties: bool,
    members: Ints,
    count: Ints,
    free: Ints,
    fill: Floats,
    bars: Ints,
    homeless: Ints,
    homeless_count: int,
    steps: int,
    hot: float,
    cold: float,
    random: Ints,
) -> tuple[int, int]:
    """Up to `steps` steps in place, cooling from `hot` to `cold`: (how many items have no bin in the end, steps made).

    `size` is about 1 on average. The first `homeless_count` entries of `homeless` (n_items,) have no bin at first.
    Without `has_ties`, `ties` and `bars` are not looked at.
    """
    bins = count.size
    temperature = hot
    for step in range(steps):
        if homeless_count == 0 or bins == 0:
            return homeless_count, step
        if step % _COOL_EVERY == 0:
            temperature = hot * (cold / hot) ** (step / steps)
        if draw(random) < 0.5:
            at = int(draw(random) * homeless_count)
            b = int(draw(random) * bins)
            homeless_count = _bring_in(
                demand, size, ties, has_ties, members, count, free, fill, bars, homeless, homeless_count, at, b,
                temperature, random,
            )  # fmt: skip
        else:
            a = int(draw(random) * bins)
            b = int(draw(random) * bins)
            if a != b and count[a] > 0:
                _exchange(demand, size, ties, has_ties, members, count, free, fill, bars, a, b, temperature, random)
    return homeless_count, steps


@compiled
def may_join(ties: Ints, members: Ints, count: Ints, bars: Ints, b: int, item: int, first: int, second: int) -> bool:
    """Whether `item` may share bin `b` with all that is there but its members number `first` and `second`."""
    own, refused = ties[item, 0], ties[item, 1]
    if ties[item, 2] & bars[b, 2] == 0:
        return False
    if own & bars[b, 1] or refused & bars[b, 0]:
        return False
    if own or refused:
        for k in range(count[b]):
            other = members[b, k]
            if k != first and k != second and (own & ties[other, 1] or refused & ties[other, 0]):
                return False
    return True


@compiled
def _bring_in(
    demand: Ints,
    size: Floats,
    ties: Ints,
    has_ties: bool,
    members: Ints,
    count: Ints,
    free: Ints,
    fill: Floats,
    bars: Ints,
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
    has_room = request >= 0 and limit >= 0 and memory >= 0 and held < members.shape[1]
    if has_room and (not has_ties or may_join(ties, members, count, bars, b, item, -1, -1)):
        members[b, held] = item
        count[b] += 1
        free[b, 0], free[b, 1], free[b, 2] = request, limit, memory
        fill[b] += size[item]
        homeless[at] = homeless[homeless_count - 1]
        return homeless_count - 1
    if held == 0:
        return homeless_count
    i = int(draw(random) * held)
    first = members[b, i]
    request, limit, memory = request + demand[first, 0], limit + demand[first, 1], memory + demand[first, 2]
    gain = size[item] - size[first]
    if request >= 0 and limit >= 0 and memory >= 0:
        if gain < 0 and draw(random) >= np.exp(gain / temperature):
            return homeless_count
        if has_ties and not may_join(ties, members, count, bars, b, item, i, -1):
            return homeless_count
        members[b, i] = item
        homeless[at] = first
        free[b, 0], free[b, 1], free[b, 2] = request, limit, memory
        fill[b] += gain
        return homeless_count
    if held < 2:
        return homeless_count
    j = int(draw(random) * (held - 1))
    if j >= i:
        j += 1
    second = members[b, j]
    request, limit, memory = request + demand[second, 0], limit + demand[second, 1], memory + demand[second, 2]
    gain -= size[second]
    if request < 0 or limit < 0 or memory < 0 or (gain < 0 and draw(random) >= np.exp(gain / temperature)):
        return homeless_count
    if has_ties and not may_join(ties, members, count, bars, b, item, i, j):
        return homeless_count
    members[b, i] = item
    members[b, j] = members[b, held - 1]
    count[b] = held - 1
    homeless[at] = first
    homeless[homeless_count] = second
    free[b, 0], free[b, 1], free[b, 2] = request, limit, memory
    fill[b] += gain
    return homeless_count + 1


@compiled
def _exchange(
    demand: Ints,
    size: Floats,
    ties: Ints,
    has_ties: bool,
    members: Ints,
    count: Ints,
    free: Ints,
    fill: Floats,
    bars: Ints,
    a: int,
    b: int,
    temperature: float,
    random: Ints,
) -> None:
    """Move an item of bin `a` to bin `b`, or swap it for one of its; uneven fills are liked."""
    i = int(draw(random) * count[a])
    j = int(draw(random) * (count[b] + 1))
    here = members[a, i]
    there = members[b, j] if j < count[b] else -1
    if there < 0 and count[b] >= members.shape[1]:
        return
    for k in range(3):
        change = demand[here, k] - (demand[there, k] if there >= 0 else 0)
        if free[b, k] < change or free[a, k] < -change:
            return
    shift = size[here] - (size[there] if there >= 0 else 0.0)
    gain = 2.0 * shift * (fill[b] - fill[a] + shift)
    if gain < 0 and draw(random) >= np.exp(gain / temperature):
        return
    if has_ties:
        if not may_join(ties, members, count, bars, b, here, j if there >= 0 else -1, -1):
            return
        if there >= 0 and not may_join(ties, members, count, bars, a, there, i, -1):
            return
    for k in range(3):
        change = demand[here, k] - (demand[there, k] if there >= 0 else 0)
        free[b, k] -= change
        free[a, k] += change
    fill[b] += shift
    fill[a] -= shift
    if there >= 0:
        members[a, i], members[b, j] = there, here
    else:
        members[a, i] = members[a, count[a] - 1]
        count[a] -= 1
        members[b, count[b]] = here
        count[b] += 1
