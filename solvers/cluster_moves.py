"""Moves in a cluster replay: now and then a few running instances go elsewhere, so that GPUs fall empty.

A move is made before it is broken. The copy books its share and takes the cold start while the original serves, and
only then the original goes, so that a move costs its share twice for that time. Training stays where it is.
"""

from __future__ import annotations

import math
from collections import deque

from dilu_core.result import Limit
from dilu_core.solvers.cluster_clock import Clock
from dilu_core.solvers.cluster_fleet import Fleet
from dilu_core.solvers.cluster_systems import Replan
from dilu_core.solvers.placement.migration_plan import Move
from dilu_core.solvers.placement.move_cost import MoveCost
from dilu_core.solvers.placement.replan import plan_drain, start_draft


class Mover:
    """Plans moves of `fleet` as `replan` says, and carries them out in the order of the plan."""

    def __init__(self, fleet: Fleet, replan: Replan, clock: Clock, cold_steps: list[int]) -> None:
        self.fleet, self.replan = fleet, replan
        self._every = max(1, round(replan.every_s / clock.control_s))
        self._cold_steps = cold_steps
        serving = [each.cold_start_s for each in fleet.functions if not each.is_training]
        self._cost = MoveCost(cold_start_s=max(serving, default=0.0))
        self._planned: deque[Move] = deque()

    def act(self, period: int, step: int) -> None:
        """Finish the moves whose copy is ready, and start those that have room; from time to time make a new plan."""
        fleet = self.fleet
        fleet.finish_moves(step)
        if period and period % self._every == 0:
            self._planned = deque(self._plan(step))
        while self._planned:
            name = self._planned[0].name
            if name in fleet.members:
                ready_at = step + self._cold_steps[fleet.members[name].function]
                if not fleet.start_move(name, self._planned[0].target, ready_at):
                    break  # until a move under way has made room
            self._planned.popleft()

    def _plan(self, step: int) -> tuple[Move, ...]:
        fleet = self.fleet
        free = {
            name
            for name, each in fleet.members.items()
            if each.ready_at <= step and name not in fleet.moving and not fleet.functions[each.function].is_training
        }
        if not free:
            return ()
        draft = start_draft(
            fleet.bookings,
            max_migrations=self.replan.most_moves,
            cost=self._cost,
            horizon_s=self.replan.horizon_s,
            exempt=lambda instance: instance.name not in free,
        )
        # the search has limits of its own, and a clock would make the replay depend on the machine
        plan = plan_drain(fleet.bookings, draft, time_limit_s=math.inf)
        if plan.termination.limit is Limit.INTERRUPTED:
            raise KeyboardInterrupt
        return plan.moves
