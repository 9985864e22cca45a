"""The joint choice by its definition, and problems to ask it about; shares nothing with the search.

`enumerated` looks at every choice. `by_capacity` fills a table over all remaining capacities (dynamic programming), so
it takes any number of functions and options while capacities are small.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Asked:
    """A problem of value (n, K), weight (n, K, 3) and capacity (3,)."""

    value: NDArray[np.int64]
    weight: NDArray[np.int64]
    capacity: NDArray[np.int64]


def enumerated(asked: Asked) -> tuple[tuple[int, ...], int] | None:
    """The best choice, the first of them in lexicographic order, and its value; `None` if nothing fits."""
    functions, options = asked.value.shape
    best: tuple[tuple[int, ...], int] | None = None
    for choice in itertools.product(range(options), repeat=functions):
        taken = np.sum([asked.weight[i, k] for i, k in enumerate(choice)], axis=0)
        total = sum(int(asked.value[i, k]) for i, k in enumerate(choice))
        if (taken <= asked.capacity).all() and (best is None or total > best[1]):
            best = choice, total
    return best


def by_capacity(asked: Asked) -> tuple[tuple[int, ...], int] | None:
    """The same by dynamic programming: tables[i][room] is the best value of functions i and after within `room`."""
    functions, options = asked.value.shape
    shape = tuple(int(c) + 1 for c in asked.capacity)
    impossible = np.int64(-(1 << 60))
    tables = [np.zeros(shape, dtype=np.int64)]
    for i in reversed(range(functions)):
        table = np.full(shape, impossible)
        for k in range(options):
            w = asked.weight[i, k]
            if (w > asked.capacity).any():
                continue
            room = tuple(slice(int(each), None) for each in w)
            before = tables[0][tuple(slice(0, size - int(each)) for size, each in zip(shape, w, strict=True))]
            reached = np.where(before > impossible, before + asked.value[i, k], impossible)
            table[room] = np.maximum(table[room], reached)
        tables.insert(0, table)
    left = tuple(int(c) for c in asked.capacity)
    total = int(tables[0][left])
    if total == impossible:
        return None
    choice, k, after = [], 0, left
    for i in range(functions):
        for k in range(options):
            after = tuple(c - int(w) for c, w in zip(left, asked.weight[i, k], strict=True))
            possible = min(after) >= 0 and tables[i + 1][after] > impossible
            if possible and asked.value[i, k] + tables[i + 1][after] == tables[i][left]:
                break
        choice.append(k)
        left = after
    return tuple(choice), total


def random_problem(generator: np.random.Generator, most_functions: int, most_options: int) -> Asked:
    """Any size up to the given; small weights and capacities, so that `by_capacity` can answer.

    By turns: values with many ties (of up to 6 functions: beyond, proving the first of them takes long) or with few,
    negative ones too; weights that grow with the value, are all zero, or
    zero in some dimension; capacities from nothing to all that could be taken.
    """
    functions, options = int(generator.integers(1, most_functions + 1)), int(generator.integers(1, most_options + 1))
    greatest = int(generator.choice([0, 1, 3, 100, 1_000_000]))
    value = generator.integers(-greatest if generator.random() < 0.3 else 0, greatest + 1, (functions, options))
    heaviest = int(generator.choice([0, 1, 2, 4]))
    weight = generator.integers(0, heaviest + 1, (functions, options, 3))
    if generator.random() < 0.4:
        weight = np.minimum(weight, np.sort(weight.sum(2), axis=1)[:, :, None])
        value = np.sort(value, axis=1) + weight.sum(2)
    if functions > 6 and greatest < 1_000_000 and value.any():
        value = 1000 * value + generator.integers(0, 1000, value.shape)
    if generator.random() < 0.3:
        weight[:, :, int(generator.integers(3))] = 0
    if generator.random() < 0.3:
        value[:, -1], weight[:, -1] = 0, 0
    capacity = np.floor(generator.random(3) * generator.choice([0.3, 0.6, 1.1]) * weight.max((1, 2)).sum())
    return Asked(value.astype(np.int64), weight.astype(np.int64), np.minimum(capacity, 7).astype(np.int64))


def tight_problem(generator: np.random.Generator, most_functions: int, most_options: int) -> Asked:
    """Capacities just above what the lightest options take: often nothing fits, which no single option tells."""
    functions, options = int(generator.integers(3, most_functions + 1)), int(generator.integers(2, most_options + 1))
    weight = generator.integers(0, 4, (functions, options, 3))
    value = 50 * weight.sum(2) + generator.integers(0, 2, (functions, options))
    return Asked(value, weight, weight.min(1).sum(0) + generator.integers(0, 2 + functions, 3))


def scaled(asked: Asked, factors: NDArray[np.int64]) -> Asked:
    """The same problem with every dimension in smaller units, and a capacity that is no multiple of them."""
    return Asked(asked.value, asked.weight * factors, asked.capacity * factors + factors // 2)
