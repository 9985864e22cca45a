"""Prices of items, the best patterns at those prices, and the bound on GPUs that they prove.

Let v_t >= 0 be a price of each item type, p_s of each type of part, and mu of each unit of memory given to parts. A
pattern is what one GPU holds. It is worth the prices of its items; if it holds a part, all the memory that its whole
items leave is worth mu as well. With P_g the greatest worth of a pattern on a GPU of type g, of which there are n_g,
and any threshold T > 0 (linear programming duality; with one type and T = P it is Farley's bound,
10.1287/opre.38.5.922):

    GPUs >= (sum_t count_t w_t - sum_g n_g max(0, P_g - T)) / T      w_t = v_t, or min(v_t, least parts p_s + memory mu)

because what the GPUs hold is worth at least sum_t count_t w_t together, and one of type g is worth at most P_g. All
numbers are integers and P_g is exact (or rounded up where the search ran out of budget), so the bound is rigorous at
any prices, wherever they come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.pattern_pricing import best_patterns
from dilu_core.solvers.placement.item_types import ItemTypes

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UNIT = 2**40
"""The price of a whole GPU: prices of items count in fractions of it."""

_DEAREST = 4.0  # GPUs; only where GPUs of a type run short can an item be worth more than one
_MOST_CELLS = 2**20  # of an exact table of best single items
_COARSE_CELLS = 2**17
NODES = 96_000_000  # of a search over all anchors: seconds
_LONGEST = 64  # items of a pattern


@dataclass(frozen=True)
class Prices:
    """(n_types,) of items and parts, and of a unit of memory of parts; integers, `UNIT` for a whole GPU."""

    item: Ints
    memory: int


@dataclass(frozen=True)
class Patterns:
    """The best pattern on one type of GPU for every anchor.

    Arguments:
        kind: the GPU type.
        items: (n_patterns, width) rows of item types, -1 for none.
        memory: (n_patterns,) memory left for parts; 0 in patterns without any.
        upper: no pattern on this type is worth more.
    """

    kind: int
    items: Ints
    memory: Ints
    upper: int


@dataclass(frozen=True)
class Certificate:
    """The proven bound, the patterns found on the way, the price of a GPU it uses, and whether pricing was exact."""

    bound: Fraction
    patterns: tuple[Patterns, ...]
    gpu_price: int


def rounded(types: ItemTypes, item: Floats, memory: float) -> Prices:
    """Prices in fractions of a GPU as integers, none negative, each item worth at most what it is in parts.

    `memory` is the price of all the memory of the largest GPU.
    """
    prices = np.floor(np.clip(item, 0.0, _DEAREST) * UNIT).astype(np.int64)
    return capped(types, Prices(prices, int(min(max(memory, 0.0), _DEAREST) * UNIT) // int(types.capacity[:, 2].max())))


def capped(types: ItemTypes, prices: Prices) -> Prices:
    """The prices with no item worth more than in parts: a dearer item would not count for more in the bound."""
    splits = np.flatnonzero(types.part >= 0)
    if not splits.size:
        return prices
    item = prices.item.copy()
    memory = types.demand[splits, 2].astype(object) * prices.memory
    in_parts = types.least_parts[splits].astype(object) * item[types.part[splits]] + memory
    item[splits] = np.minimum(item[splits].astype(object), in_parts).astype(np.int64)
    return Prices(item, prices.memory)


def certify(types: ItemTypes, prices: Prices, thresholds: tuple[int, ...], nodes: int = NODES) -> Certificate:
    """The bound that (capped) prices prove, with the patterns on each GPU type worth more than its threshold."""
    found = tuple(
        each for kind, threshold in enumerate(thresholds) for each in _price(types, prices, kind, threshold, nodes)
    )
    worth = [max([each.upper for each in found if each.kind == kind], default=0) for kind in range(len(thresholds))]
    total = sum(count * price for count, price in zip(types.count.tolist(), prices.item.tolist(), strict=False))
    best, at = Fraction(0), UNIT
    for price in worth:
        if price > 0:
            excess = sum(n * max(0, each - price) for n, each in zip(types.gpus.tolist(), worth, strict=True))
            bound = Fraction(total - excess, price)
            if bound > best:
                best, at = bound, price
    return Certificate(best, found, at)


def _price(types: ItemTypes, prices: Prices, kind: int, threshold: int, nodes: int) -> list[Patterns]:
    """The best patterns on a GPU of a kind: those without parts, and those with."""
    rows = types.fits(kind)
    is_part = rows >= types.n_whole
    whole, parts = rows[~is_part], rows[is_part]
    found = [_search(types, kind, whole, prices.item[whole], whole.size, 0, threshold, nodes)]
    if parts.size:
        # with a part, memory that a whole item takes is worth mu to the parts: only what it is worth beyond counts
        mu, capacity = prices.memory, int(types.capacity[kind, 2])
        beyond = prices.item[whole] - np.minimum(types.demand[whole, 2].astype(object) * mu, 8 * UNIT).astype(np.int64)
        value = np.concatenate([prices.item[parts], beyond])
        both = np.concatenate([parts, whole])
        found.append(_search(types, kind, both, value, parts.size, mu * capacity, threshold, nodes))
    return found


def _search(
    types: ItemTypes, kind: int, rows: Ints, value: Ints, first: int, base: int, threshold: int, nodes: int
) -> Patterns:
    """Best patterns of the types `rows` at `value`, for each of the `first` of them that has one above threshold."""
    capacity = types.capacity[kind]
    n_anchors = int((value[:first] > 0).sum()) if base == 0 else first
    if base and not (value[:first] > 0).all():
        value = value.copy()
        value[:first] = np.maximum(value[:first], 1)  # a part brings its memory even where it is worth nothing itself
    good = np.flatnonzero(value > 0)
    good = good[np.argsort(-value[good], kind="stable")]
    if not good.size or not n_anchors:
        return Patterns(kind, np.empty((0, 1), np.int64), np.empty(0, np.int64), max(threshold, 0))
    anchors = np.flatnonzero(good < first)
    demand = types.demand[rows[good]]
    width, shape = _cells(capacity)
    least = demand.min(axis=0)
    longest = min([_LONGEST, *(capacity[least > 0] // least[least > 0]).tolist()])
    best, items, upper = best_patterns(
        demand, value[good], capacity, anchors, base, threshold, width, shape, longest, nodes
    )
    beats = best > threshold
    items = np.where(items[beats] >= 0, rows[good][items[beats]], -1)
    held = np.where(items >= 0, types.demand[:, 2][items], 0).sum(axis=1)
    has_part = (items >= types.n_whole).any(axis=1)
    return Patterns(kind, items, np.where(has_part, capacity[2] - held, 0), int(upper.max()))


def _cells(capacity: Ints) -> tuple[Ints, Ints]:
    """Extent and number of the cells of the table of best single items, per resource: exact where small enough."""
    width = np.ones(3, np.int64)
    shape = capacity + 1
    if float(np.prod(shape.astype(np.float64))) > _MOST_CELLS:
        while float(np.prod(shape.astype(np.float64))) > _COARSE_CELLS:
            width[np.argmax(shape)] *= 2
            shape = capacity // width + 1
    return width, shape
