"""What a joint search does before it branches: leave out what no best answer holds, price the rest, sort it.

Three kinds of options are left out (weights w of an option, m of the lightest option of its function, per dimension):
those that do not fit beside the lightest of all other functions (w - m + sum of all m > capacity); those whose loss
exceeds the slack (below); and those dominated by another option of their function, which is no heavier in any dimension
and of greater value, or of the same value and listed earlier.

With integer prices per capacity, on a scale of `unit` to one of value, the *loss* of an option is what it lacks of the
greatest reduced value of its function, and the bound on a choice is L - sum of its losses. A choice can match the best
answer so far only if its losses sum up to at most slack = L - unit * gain of that answer. Everything from here on is
integer arithmetic, so the search is exact whatever the prices are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.cpu.joint_multipliers import LANES, LEAST_GAIN, SCALE, improve, tighten
from dilu_core.kernels.cpu.joint_packing import FIELD, FIELD_BITS, fits, lightest, packed

MOST_FUNCTIONS = 64
LARGEST_VALUE = 1 << 40
"""Bounds of value and number of functions within which no sum on the scale of `unit` overflows 63 bits."""

_HEADROOM_BITS = 61


@compiled
def list_options(
    value: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: NDArray[np.int64],
    count: NDArray[np.int64],
    option: NDArray[np.int64],
    gain: NDArray[np.int64],
    load: NDArray[np.int64],
) -> bool:
    """List the options that fit alone: number per function, index, value, packed weight. False: a function has none."""
    functions, options = value.shape
    for i in range(functions):
        found = 0
        for k in range(options):
            if weight[i, k, 0] <= capacity[0] and weight[i, k, 1] <= capacity[1] and weight[i, k, 2] <= capacity[2]:
                option[i, found], gain[i, found] = k, value[i, k]
                load[i, found] = packed(weight[i, k, 0], weight[i, k, 1], weight[i, k, 2])
                found += 1
        count[i] = found
        if found == 0:
            return False
    return True


@compiled
def beside_lightest(capacity: int, least: NDArray[np.int64]) -> int:
    """What the lightest of all functions, `least` (n,), leave of `capacity`, all packed; -1 where they do not fit."""
    room = capacity
    for i in range(least.shape[0]):
        if not fits(room, least[i]):
            return -1
        room -= least[i]
    return room


@compiled
def drop_unreachable(
    capacity: int,
    count: NDArray[np.int64],
    option: NDArray[np.int64],
    gain: NDArray[np.int64],
    load: NDArray[np.int64],
    least: NDArray[np.int64],
) -> bool:
    """Leave out options that do not fit beside the lightest of the others, until all do. False: nothing fits.

    `least` (n,) receives the packed least weights of each function.
    """
    functions = count.shape[0]
    for i in range(functions):
        least[i] = lightest(load[i], count[i])
    while True:
        room = beside_lightest(capacity, least)
        if room < 0:
            return False
        dropped = False
        for i in range(functions):
            within, kept = room + least[i], 0
            for k in range(count[i]):
                if fits(within, load[i, k]):
                    option[i, kept], gain[i, kept], load[i, kept] = option[i, k], gain[i, k], load[i, k]
                    kept += 1
            if kept < count[i]:
                dropped, count[i] = True, kept
                if kept == 0:
                    return False
                least[i] = lightest(load[i], kept)
        if not dropped:
            return True


@compiled
def price(
    capacity: NDArray[np.int64],
    count: NDArray[np.int64],
    gain: NDArray[np.int64],
    load: NDArray[np.int64],
    loss: NDArray[np.int64],
    incumbent: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Losses of all options at good prices: (L, unit, gain of `incumbent`, -1 if none is known).

    Gains are counted from the least of each function, so 0 <= gain. `incumbent` (n,) receives positions in the lists.
    """
    functions = count.shape[0]
    room = packed(capacity[0], capacity[1], capacity[2])
    lanes = (count.max() + LANES - 1) // LANES * LANES
    real_gain = np.empty((functions, lanes), dtype=np.float32)
    part = np.zeros((functions, 3, lanes), dtype=np.float32)
    share = np.zeros(3, dtype=np.float32)
    for d in range(3):
        if capacity[d] > 0:
            share[d] = np.float32(1.0 / capacity[d])
    greatest = 0
    for i in range(functions):
        greatest += gain[i, : count[i]].max()
    scale = np.float32(SCALE / (greatest + 1.0))
    for i in range(functions):
        for k in range(count[i]):
            each = load[i, k]
            real_gain[i, k] = np.float32(gain[i, k]) * scale
            part[i, 0, k] = np.float32(each & FIELD) * share[0]
            part[i, 1, k] = np.float32((each >> 21) & FIELD) * share[1]
            part[i, 2, k] = np.float32((each >> 42) & FIELD) * share[2]
        real_gain[i, count[i] :] = LEAST_GAIN
    prices = np.empty(3, dtype=np.float32)
    best = tighten(real_gain, part, scale, load, room, gain, incumbent, prices)
    if best >= 0:
        best = improve(count, gain, load, room, incumbent)

    # Prices are at most four times all that can be gained, so sums of losses stay below 13 n * greatest * unit.
    headroom = _HEADROOM_BITS - int(np.ceil(np.log2(13.0 * functions * (greatest + 1))))
    unit = 1 << min(20, max(0, headroom))
    integer_price = np.zeros(3, dtype=np.int64)
    for d in range(3):
        if capacity[d] > 0:
            whole = min(np.float64(prices[d]) / scale, 4.0 * (greatest + 1))
            integer_price[d] = np.int64(whole * unit / capacity[d])
    bound = integer_price[0] * capacity[0] + integer_price[1] * capacity[1] + integer_price[2] * capacity[2]
    for i in range(functions):
        top = -1 << 62
        for k in range(count[i]):
            each = load[i, k]
            paid = integer_price[0] * (each & FIELD)
            paid += integer_price[1] * ((each >> 21) & FIELD) + integer_price[2] * ((each >> 42) & FIELD)
            loss[i, k] = unit * gain[i, k] - paid
            top = max(top, loss[i, k])
        for k in range(count[i]):
            loss[i, k] = top - loss[i, k]
        bound += top
    return bound, unit, best


@compiled
def _holds_better(gain: NDArray[np.int64], load: NDArray[np.int64], least_gain: int, most_load: int) -> bool:
    """Whether any option gains at least `least_gain` and is no heavier than `most_load`; no exit: a vectorised loop."""
    found = False
    for k in range(gain.shape[0]):
        found |= (gain[k] >= least_gain) & fits(most_load, load[k])
    return found


@compiled
def drop_losing(
    slack: int,
    count: NDArray[np.int64],
    option: NDArray[np.int64],
    gain: NDArray[np.int64],
    load: NDArray[np.int64],
    loss: NDArray[np.int64],
    least: NDArray[np.int64],
) -> None:
    """Leave out options whose loss exceeds the slack, and then those dominated within their function.

    `least` (n,) receives the packed least weights of each function again. Where no answer is known and none exists,
    they may no longer fit together, and a function may have no option left, whose `least` then fits nowhere.
    """
    for i in range(count.shape[0]):
        near = 0
        for k in range(count[i]):
            if loss[i, k] <= slack:
                option[i, near], gain[i, near] = option[i, k], gain[i, k]
                load[i, near], loss[i, near] = load[i, k], loss[i, k]
                near += 1
        kept = 0
        for k in range(near):
            each, own = load[i, k], gain[i, k]
            dominated = _holds_better(gain[i, :kept], load[i, :kept], own, each)
            dominated = dominated or _holds_better(gain[i, k + 1 : near], load[i, k + 1 : near], own + 1, each)
            if not dominated:
                option[i, kept], gain[i, kept] = option[i, k], gain[i, k]
                load[i, kept], loss[i, kept] = load[i, k], loss[i, k]
                kept += 1
        count[i] = kept
        least[i] = lightest(load[i], kept)


@compiled
def beyond_lightest(
    count: NDArray[np.int64], load: NDArray[np.int64], least: NDArray[np.int64], room: int
) -> tuple[NDArray[np.int64], int]:
    """A fourth weight that follows from the three, above the least of it, per option (n, K); and its capacity.

    Weights beyond the lightest, each as a part of the `room` that the lightest of all functions leave, add up to at
    most 3 in a choice that fits (a surrogate constraint: Glover, Surrogate constraints, Operations Research 1968,
    doi 10.1287/opre.16.4.741). What is light in one dimension is often heavy in another, so its least is more telling.
    """
    share = np.zeros(3, dtype=np.int64)
    capacity = 0
    for d in range(3):
        each = (room >> (FIELD_BITS * d)) & FIELD
        share[d] = (1 << 40) // max(each, 1)
        capacity += share[d] * each
    excess = np.zeros(load.shape, dtype=np.int64)
    for i in range(count.shape[0]):
        lowest = 1 << 62
        for k in range(count[i]):
            for d in range(3):
                beyond = ((load[i, k] >> (FIELD_BITS * d)) & FIELD) - ((least[i] >> (FIELD_BITS * d)) & FIELD)
                excess[i, k] += min(share[d] * beyond, 1 << 44)
            lowest = min(lowest, excess[i, k])
        for k in range(count[i]):
            excess[i, k] -= lowest
        capacity -= lowest
    return excess, capacity
