"""What a search for a placement is asked for: the problem, when it is enough, and when it is over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from dilu_core._checks import LARGEST
from dilu_core.cluster import Instance
from dilu_core.placement import PlacementProblem
from dilu_core.solvers.placement.bounds import Bound
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.value import Value

Report = Callable[[int, int], None]
"""Told the GPUs of the incumbent and the bound."""


@dataclass(frozen=True)
class Task:
    """What an attempt needs to know. `seconds` count from when it starts; all `wanted` fit the cluster one by one."""

    problem: PlacementProblem
    wanted: tuple[Instance, ...]
    bound: Bound
    gap: float
    max_migrations: int | None
    seconds: float
    seed: int
    objective: Objective = field(default_factory=Objective)

    def key(self, found: Value) -> tuple[int, ...]:
        """What placements are compared by."""
        return self.objective.key(found)

    def fewest(self, bound: int) -> int:
        """GPUs on which a placement of everything is good enough, by a bound."""
        return math.floor(min(bound * (1 + self.gap) + 1e-9, LARGEST))

    def enough(self, found: Value, bound: int) -> bool:
        """Whether the GPUs used are as few as asked for, everything being placed."""
        return self.objective.gpus_first and found.unplaced == 0 and found.gpus <= self.fewest(bound)
