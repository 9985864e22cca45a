"""Which cells to measure, most telling first, and how long each may take."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_SPENT_TIMING = 0.6  # of a cell's wall time; the rest is capture, warm-up and freeing memory
_LEAST_CELL_S, _GREATEST_CELL_S = 0.1, 0.6


@dataclass(frozen=True, order=True)
class Cell:
    """One operating point: a function at a batch size on a number of SMs."""

    function: str
    batch: int
    sms: int


def share_milli(sms: int, device_sms: int) -> int:
    """The share of `sms` of `device_sms` SMs in milli-GPU, rounded to the nearest; at least 1."""
    return max(1, (2000 * sms + device_sms) // (2 * device_sms))


def levels(count: int) -> list[int]:
    """For `count` ascending values, how soon each is needed: 0 for ends and middle, then the middles between, ..."""
    found = [-1] * count
    for index in {0, (count - 1) // 2, count - 1} if count else ():
        found[index] = 0
    level = 0
    while -1 in found:
        level += 1
        known = [index for index, at in enumerate(found) if at != -1]
        for low, high in pairwise(known):
            if high - low > 1:
                found[(low + high) // 2] = level
    return found


def ordered_cells(batches: Mapping[str, Sequence[int]], sms: Sequence[int], done: Collection[Cell] = ()) -> list[Cell]:
    """All cells of `batches` x `sms` but those `done`: a coarse cross over every function first, then ever finer.

    Within one refinement, cells of one function and batch stand together, so that its inputs are made once.
    """
    shares = dict(zip(sorted(sms), levels(len(sms)), strict=True))
    ranked = []
    for place, (function, sizes) in enumerate(batches.items()):
        for batch, by_batch in zip(sorted(sizes), levels(len(sizes)), strict=True):
            for count, by_share in shares.items():
                ranked.append((max(by_batch, by_share), place, batch, -count, Cell(function, batch, count)))
    return [cell for *_, cell in sorted(ranked) if cell not in done]


def quick_cells(batches: Mapping[str, Sequence[int]], sms: Sequence[int]) -> list[Cell]:
    """Two cells of every function, for a smoke test: its smallest batch on all SMs, a middle one on about a third."""
    ordered = sorted(sms)
    third = min(ordered, key=lambda count: abs(count - ordered[-1] / 3))
    found = []
    for function, sizes in batches.items():
        small, middle = min(sizes), sorted(sizes)[len(sizes) // 2]
        found += [Cell(function, small, ordered[-1]), Cell(function, middle, third)]
    return found


def timing_s(left_s: float, cells_left: int) -> float:
    """Seconds of repeated runs the next cell may take, so that all `cells_left` fit into `left_s`."""
    return min(_GREATEST_CELL_S, max(_LEAST_CELL_S, _SPENT_TIMING * left_s / max(cells_left, 1)))
