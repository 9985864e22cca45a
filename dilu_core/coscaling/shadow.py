"""The fleet a shadowed policy would have by now, and what that fleet would have cost and risked.

A policy that is only asked never sees its own decisions carried out. Fed with the real instance counts it would propose
the same scale-in again and again, and a rule that moves one instance at a time would never get anywhere. So its
decisions are carried out on a fleet that exists on paper: it starts as the real one, launches serve after the cold
start, and instances that start are removed before those that serve. The policy sees the counts of that fleet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dilu_core import _checks as check
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.reading import Reading, burst_rps, restored

_STARTS = 16  # launches within this part of a cold start count as one, which keeps the state small


class ShadowFleet(NamedTuple):
    """Instances on paper: how many serve, and (time they will, how many) of those that start, oldest first."""

    ready: int
    starts: tuple[tuple[float, int], ...] = ()

    @property
    def starting(self) -> int:
        """Instances launched that do not serve yet."""
        return sum(count for _, count in self.starts)

    @property
    def planned(self) -> int:
        """Instances that serve or will."""
        return self.ready + self.starting

    def advanced(self, before_s: float | None, now_s: float) -> ShadowFleet:
        """The fleet at `now_s`; a clock that went back takes the starts along."""
        starts = self.starts
        if before_s is not None and now_s < before_s:
            starts = tuple((at + (now_s - before_s), count) for at, count in starts)
        served = sum(count for at, count in starts if at <= now_s)
        return ShadowFleet(self.ready + served, tuple(each for each in starts if each[0] > now_s))

    def changed(self, change: int, now_s: float, cold_start_s: float) -> ShadowFleet:
        """The fleet after a decision at `now_s`."""
        if change > 0 and cold_start_s == 0.0:
            return self._replace(ready=self.ready + change)
        if change > 0:
            at, starts = now_s + cold_start_s, self.starts
            if starts and at - starts[-1][0] < cold_start_s / _STARTS:
                last_at, count = starts[-1]
                return self._replace(starts=(*starts[:-1], (last_at, count + change)))
            return self._replace(starts=(*starts, (at, change)))
        left, kept = -change, list(self.starts)
        while left and kept:
            at, count = kept.pop()
            gone = min(left, count)
            left -= gone
            if count > gone:
                kept.append((at, count - gone))
        return ShadowFleet(max(0, self.ready - left), tuple(kept))


class ShadowCounts(NamedTuple):
    """What the fleet on paper did beside the real one, over the `judged` observations and their `seconds`.

    `planned_s` are instance-seconds reserved. An observation is short at its request (while bursting) if its load
    exceeded what the ready instances carry so; `late_requests` arrived beyond the burst capacity, out of `requests`.
    `launches`, `removals` (instances) and `turns` (of direction) are the policy's. `actual_...` is the real fleet.
    """

    judged: int = 0
    seconds: float = 0.0
    requests: float = 0.0
    planned_s: float = 0.0
    actual_planned_s: float = 0.0
    short_at_request: int = 0
    short_at_burst: int = 0
    actual_short_at_request: int = 0
    actual_short_at_burst: int = 0
    late_requests: float = 0.0
    actual_late_requests: float = 0.0
    launches: int = 0
    removals: int = 0
    turns: int = 0
    direction: int = 0

    def judge(
        self, params: HorizontalParams | None, reading: Reading, elapsed_s: float | None, fleet: ShadowFleet
    ) -> ShadowCounts:
        """These counts with `elapsed_s` more seconds; unchanged where nothing can be judged (`None`)."""
        load, ready, planned = reading.arrivals_rps, reading.ready, reading.planned
        if elapsed_s is None or load is None or ready is None or planned is None:
            return self
        counts = self._replace(
            judged=self.judged + 1,
            seconds=self.seconds + elapsed_s,
            requests=self.requests + load * elapsed_s,
            planned_s=self.planned_s + fleet.planned * elapsed_s,
            actual_planned_s=self.actual_planned_s + planned * elapsed_s,
        )
        if params is None:
            return counts
        at_request, at_burst = params.capacity_rps, burst_rps(params, reading.spare_milli)
        return counts._replace(
            short_at_request=self.short_at_request + (load > fleet.ready * at_request),
            short_at_burst=self.short_at_burst + (load > fleet.ready * at_burst),
            actual_short_at_request=self.actual_short_at_request + (load > ready * at_request),
            actual_short_at_burst=self.actual_short_at_burst + (load > ready * at_burst),
            late_requests=self.late_requests + max(0.0, load - fleet.ready * at_burst) * elapsed_s,
            actual_late_requests=self.actual_late_requests + max(0.0, load - ready * at_burst) * elapsed_s,
        )

    def acted(self, change: int) -> ShadowCounts:
        """These counts with one more decision."""
        if change == 0:
            return self
        sign = 1 if change > 0 else -1
        return self._replace(
            launches=self.launches + max(0, change),
            removals=self.removals + max(0, -change),
            turns=self.turns + (sign == -self.direction),
            direction=sign,
        )


def fleet_to_dict(fleet: ShadowFleet | None) -> dict[str, object] | None:
    """A JSON-able value of the fleet."""
    return None if fleet is None else {"ready": fleet.ready, "starts": [list(each) for each in fleet.starts]}


def fleet_from(data: Any) -> ShadowFleet | None:
    """The fleet that `fleet_to_dict` wrote; `InvalidArgumentError` names what is wrong."""
    if data is None:
        return None
    if not isinstance(data, dict) or data.keys() != {"ready", "starts"} or not isinstance(data["starts"], list | tuple):
        check.fail("data.fleet", f"is {check.shown(data)}; expected ready and a list of starts, or None.")
    starts = []
    for i, start in enumerate(data["starts"]):
        where = f"data.fleet.starts[{i}]"
        if not isinstance(start, list | tuple) or len(start) != 2:
            check.fail(where, f"is {check.shown(start, 80)}; expected [time_s, count].")
        starts.append((check.finite(where, start[0]), check.integer(where, start[1], at_least=1)))
    return ShadowFleet(check.integer("data.fleet.ready", data["ready"], at_least=0), tuple(starts))


def counts_from(data: Any) -> ShadowCounts:
    """The counts whose `_asdict` is `data`."""
    return restored("data.shadow", ShadowCounts, data)
