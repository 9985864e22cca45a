"""What a strategy answers: the next cell, or why it is done; and how a published rule becomes a strategy."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from dilu_core.result import Termination
from dilu_core.solvers.trials.evidence import Evidence

Walk = Generator[int, bool, Termination]
"""A rule that yields the cell it wants to know, is sent whether that cell meets the budget, and ends with a verdict."""


@dataclass(frozen=True)
class Proposal:
    """The next `cell` to measure; or, where it is `None`, the `termination` to stop with.

    Both are `None` where only the outcome of outstanding trials can say more.
    """

    cell: int | None = None
    termination: Termination | None = None


def follow(walk: Walk, evidence: Evidence, outstanding: frozenset[int]) -> Proposal:
    """Replay the walk over what is known, as far as it goes. Cells that may not be asked for count as misses."""
    meets, measured = evidence.meets, evidence.measured
    try:
        cell = next(walk)
        while measured[cell] or not evidence.open[cell]:
            cell = walk.send(bool(meets[cell]))
    except StopIteration as stop:
        return Proposal(termination=stop.value)
    return Proposal() if cell in outstanding else Proposal(cell)
