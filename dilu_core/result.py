"""How every solver reports: why it stopped, what limit stopped it, and what the work cost.

The reason says what is known about the answer, the limit (if any) what cut the search short; the two are separate, as
in OR-Tools MathOpt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dilu_core import _checks as check


class TerminationReason(StrEnum):
    """What is known about the answer."""

    OPTIMAL = "optimal"
    """The answer is proven best (for placements: the bound equals the GPUs used)."""
    FEASIBLE = "feasible"
    """A valid answer, not proven best."""
    CONVERGED = "converged"
    """An iterative fit met its tolerance."""
    INFEASIBLE = "infeasible"
    """Proven: nothing satisfies the constraints."""
    NO_SOLUTION_FOUND = "no-solution-found"
    """Nothing found before a limit; nothing proven either."""


class Limit(StrEnum):
    """What cut the search short."""

    TIME = "time"
    ITERATIONS = "iterations"
    TRIALS = "trials"
    GAP = "gap"
    MIGRATIONS = "migrations"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Termination:
    """`reason`, the `limit` that stopped the work (`None`: it ran to its end) and a plain sentence of `detail`."""

    reason: TerminationReason
    limit: Limit | None = None
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        limit = None if self.limit is None else self.limit.value
        return {"reason": self.reason.value, "limit": limit, "detail": self.detail}

    @classmethod
    def from_dict(cls, data: object, *, argument: str = "termination") -> Termination:
        """The termination `to_dict` wrote; `InvalidArgumentError` names what of `argument` is missing or wrong."""
        if not isinstance(data, Mapping):
            check.fail(argument, f"is {data!r:.120}; expected a mapping.")
        reason = check.choice(f"{argument}.reason", check.item(argument, data, "reason"), tuple(TerminationReason))
        limit = check.item(argument, data, "limit")
        if limit is not None:
            limit = Limit(check.choice(f"{argument}.limit", limit, tuple(Limit)))
        detail = check.text(f"{argument}.detail", data.get("detail", ""), empty=True)
        return cls(TerminationReason(reason), limit, detail)


@dataclass(frozen=True)
class SolveStats:
    """`seconds` of wall time, the `backend` that ran, and named `counts` of work (evaluations, columns, moves...).

    On a GPU also the name of the `device`, the `chunks` that the work was cut into to fit its memory, and the
    `compile_s` seconds that went into compiling the kernel (part of `seconds`; 0 where it was compiled before).
    """

    seconds: float
    backend: str = "cpu"
    counts: Mapping[str, int] = field(default_factory=dict)
    device: str = ""
    chunks: int = 1
    compile_s: float = 0.0
