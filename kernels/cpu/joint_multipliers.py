"""Lagrangian multipliers of a joint search: the prices of the three capacities at which the relaxation is tightest.

For prices m >= 0 (3,) the relaxation falls apart into its functions:

    L(m) = m . capacity + sum_i max_k (gain_ik - m . weight_ik)  >=  the greatest joint gain,

convex and piecewise linear in m. Its minimum is sought by subgradient steps of Polyak's length (Fisher, Management
Science 1981, doi 10.1287/mnsc.27.1.1), in single precision and, for the choice of k, whole parts of `SCALE`: any m >= 0
gives a valid bound, so rounding costs a little tightness and never the answer. The choices that the steps pass through
are answers where they fit; the best is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.cpu.joint_packing import fits

STEPS = 60
"""Subgradient steps; more tighten the bound by less than they cost."""

SCALE = 1 << 20
"""What all that can be gained counts as, so that reduced gains and an option's number share 32 bits."""

MOST_PRICE = 4 * SCALE
"""The greatest price of a whole capacity. Reduced gains stay above -12 `SCALE`."""

LEAST_GAIN = -16 * SCALE
"""The gain of what fills a row up to whole lanes: it is never the greatest."""

LANES_BITS = 6
LANES = 1 << LANES_BITS
"""Options that one vectorised loop compares; rows are filled up to a multiple."""

_LOWEST = np.int32(-(1 << 31))
_SHIFT = np.int32(LANES_BITS)
_PATIENCE = 4
_SHORTER = np.float32(0.6)
_ZERO, _ONE, _MOST = np.float32(0.0), np.float32(1.0), np.float32(MOST_PRICE)


@compiled
def greatest_reduced(
    gain: NDArray[np.float32], part: NDArray[np.float32], p0: np.float32, p1: np.float32, p2: np.float32
) -> int:
    """The option with the greatest reduced gain, the first of equals; a function's rows of what `tighten` takes.

    Reduced gain and place among the lanes form one integer, so that the loop takes maxima alone and is vectorised.
    """
    most, chosen = -(1 << 62), 0
    for start in range(0, gain.shape[0], LANES):
        stop = start + LANES
        g, a, b, c = gain[start:stop], part[0, start:stop], part[1, start:stop], part[2, start:stop]
        top = _LOWEST
        for k in range(LANES):
            reduced = np.int32(g[k] - p0 * a[k] - p1 * b[k] - p2 * c[k])
            top = max(top, np.int32((reduced << _SHIFT) | np.int32(LANES - 1 - k)))
        if np.int64(top) >> LANES_BITS > most:
            most = int(np.int64(top) >> LANES_BITS)
            chosen = start + LANES - 1 - int(np.int64(top) & (LANES - 1))
    return chosen


@compiled
def tighten(
    gain: NDArray[np.float32],
    part: NDArray[np.float32],
    unit: np.float32,
    weight: NDArray[np.int64],
    capacity: int,
    gains: NDArray[np.int64],
    incumbent: NDArray[np.int64],
    prices: NDArray[np.float32],
) -> int:
    """The least L(m) met, as `prices` (3,) of a whole capacity each; returns the greatest gain of a choice that fits.

    Option k of function i has `gain[i, k]` (`gains` on a scale of `unit` to one, of which all that can be gained makes
    `SCALE`) and takes `part[i, d, k]` of capacity d (packed: `weight` of `capacity`). Rows are filled up with
    `LEAST_GAIN` to a multiple of `LANES`. Prices are on the same scale. `incumbent` (n,) receives the choice with the
    returned gain; -1 if none was met.
    """
    n = gain.shape[0]
    price = np.zeros(3, dtype=np.float32)
    pick = np.zeros(n, dtype=np.int64)
    prices[:] = _ZERO
    least, known, best = np.float32(np.inf), _ZERO, -1
    length, failed = _ONE, 0
    for _ in range(STEPS):
        p0, p1, p2 = price[0], price[1], price[2]
        bound = p0 + p1 + p2
        g0, g1, g2 = _ONE, _ONE, _ONE
        for i in range(n):
            k = greatest_reduced(gain[i], part[i], p0, p1, p2)
            pick[i] = k
            bound += gain[i, k] - p0 * part[i, 0, k] - p1 * part[i, 1, k] - p2 * part[i, 2, k]
            g0 -= part[i, 0, k]
            g1 -= part[i, 1, k]
            g2 -= part[i, 2, k]
        if g0 > -1e-5 and g1 > -1e-5 and g2 > -1e-5:
            total = gain_within(pick, gains, weight, capacity)
            if total > best:
                best, known = total, np.float32(total) * unit
                incumbent[:] = pick
        better = least < np.inf and bound < least - np.float32(1e-4) * (least - known)
        failed = 0 if better else failed + 1
        if bound < least:
            least = bound
            prices[:] = price
        if failed == _PATIENCE:
            length, failed = length * _SHORTER, 0
            price[:] = prices
            continue
        if g0 > 0 and p0 == 0:
            g0 = _ZERO
        if g1 > 0 and p1 == 0:
            g1 = _ZERO
        if g2 > 0 and p2 == 0:
            g2 = _ZERO
        norm = g0 * g0 + g1 * g1 + g2 * g2
        if norm < 1e-12 or bound <= known:
            break
        step = length * (bound - known) / norm
        price[0] = min(max(_ZERO, p0 - step * g0), _MOST)
        price[1] = min(max(_ZERO, p1 - step * g1), _MOST)
        price[2] = min(max(_ZERO, p2 - step * g2), _MOST)
    return best


@compiled
def gain_within(pick: NDArray[np.int64], gain: NDArray[np.int64], weight: NDArray[np.int64], room: int) -> int:
    """The gain of the choice `pick` (n,) if it fits in the packed `room`, else -1."""
    total = 0
    for i in range(pick.shape[0]):
        each = weight[i, pick[i]]
        if not fits(room, each):
            return -1
        room -= each
        total += gain[i, pick[i]]
    return total


@compiled
def improve(
    count: NDArray[np.int64],
    gain: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: int,
    choice: NDArray[np.int64],
) -> int:
    """Change one function at a time in `choice` (n,) for the greatest rise in gain that fits, until none is left.

    Returns the gain reached.
    """
    total, room = 0, capacity
    for i in range(choice.shape[0]):
        total += gain[i, choice[i]]
        room -= weight[i, choice[i]]
    while True:
        rise, function, option = 0, -1, -1
        for i in range(choice.shape[0]):
            within, present = room + weight[i, choice[i]], gain[i, choice[i]]
            for k in range(count[i]):
                if gain[i, k] - present > rise and fits(within, weight[i, k]):
                    rise, function, option = gain[i, k] - present, i, k
        if function < 0:
            return total
        room += weight[function, choice[function]] - weight[function, option]
        choice[function] = option
        total += rise
