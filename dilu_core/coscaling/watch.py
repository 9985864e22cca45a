"""What watching a function teaches: how good its data are, and what room its fleet has for its load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dilu_core import _checks as check
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.reading import Reading, burst_rps, pace, restored


class Watch(NamedTuple):
    """Sums over all observations of one function, of constant size.

    `judged` of the `observations` came on time with arrivals and both instance counts known; they speak for `seconds`.
    Over those: `requests` arrived, at most at `peak_rps`; `ready_s` and `planned_s` are instance-seconds, `burst_rps_s`
    the requests that all ready instances could have served while bursting; `short_at_request` and `short_at_burst`
    count the observations whose load exceeded the capacity at the request, and while bursting. `least_room_rps` is the
    smallest burst capacity less load (negative: short). `spare_s` sums spare share x seconds over `spare_known_s`.
    `clock_faults` counts clocks that stood still, went back or were not known, `late` the silences too long to judge.
    """

    time_s: float | None = None
    observations: int = 0
    judged: int = 0
    late: int = 0
    clock_faults: int = 0
    seconds: float = 0.0
    requests: float = 0.0
    peak_rps: float = 0.0
    ready_s: float = 0.0
    planned_s: float = 0.0
    burst_rps_s: float = 0.0
    short_at_request: int = 0
    short_at_burst: int = 0
    least_room_rps: float | None = None
    spare_s: float = 0.0
    spare_known_s: float = 0.0


class Headroom(NamedTuple):
    """Load against capacity in one observation; capacities are `None` without parameters or instance counts."""

    load_rps: float | None
    capacity_rps: float | None
    burst_capacity_rps: float | None
    spare_milli: float | None


def headroom(params: HorizontalParams | None, reading: Reading) -> Headroom:
    """What the ready instances carry at their request and while bursting, beside the load."""
    if params is None or reading.ready is None:
        return Headroom(reading.arrivals_rps, None, None, reading.spare_milli)
    at_request, at_burst = params.capacity_rps, burst_rps(params, reading.spare_milli)
    return Headroom(reading.arrivals_rps, reading.ready * at_request, reading.ready * at_burst, reading.spare_milli)


def watched(watch: Watch, params: HorizontalParams | None, reading: Reading) -> tuple[str, float | None, Watch]:
    """How the clock moved, the seconds that can be judged, and `watch` with one more observation."""
    clock, elapsed = pace(watch.time_s, reading.time_s, params)
    load, ready, planned = reading.arrivals_rps, reading.ready, reading.planned
    if elapsed is None or load is None or ready is None or planned is None:
        noted = watch._replace(
            time_s=watch.time_s if reading.time_s is None else reading.time_s,
            observations=watch.observations + 1,
            late=watch.late + (clock == "late"),
            clock_faults=watch.clock_faults + (clock in ("stood-still", "went-back", "unknown")),
        )
        return clock, None, noted
    room, spare = headroom(params, reading), reading.spare_milli
    carried, bursting = room.capacity_rps, room.burst_capacity_rps
    left = None if bursting is None else bursting - load
    least = watch.least_room_rps
    return (
        clock,
        elapsed,
        Watch(
            time_s=reading.time_s,
            observations=watch.observations + 1,
            judged=watch.judged + 1,
            late=watch.late,
            clock_faults=watch.clock_faults,
            seconds=watch.seconds + elapsed,
            requests=watch.requests + load * elapsed,
            peak_rps=max(watch.peak_rps, load),
            ready_s=watch.ready_s + ready * elapsed,
            planned_s=watch.planned_s + planned * elapsed,
            burst_rps_s=watch.burst_rps_s + (0.0 if bursting is None else bursting * elapsed),
            short_at_request=watch.short_at_request + (carried is not None and load > carried),
            short_at_burst=watch.short_at_burst + (left is not None and left < 0.0),
            least_room_rps=least if left is None else left if least is None else min(least, left),
            spare_s=watch.spare_s + (0.0 if spare is None else spare * elapsed),
            spare_known_s=watch.spare_known_s + (0.0 if spare is None else elapsed),
        ),
    )


def counted(unknown: Mapping[str, int], reading: Reading) -> Mapping[str, int]:
    """`unknown` (times not known, by field) with this observation counted."""
    if not reading.unknown:
        return unknown
    return {**unknown, **{name: unknown.get(name, 0) + 1 for name in reading.unknown}}


def watch_from(data: Any) -> Watch:
    """The `Watch` whose `_asdict` is `data`; `InvalidArgumentError` names what is wrong."""
    watch = restored("data.watch", Watch, data)
    if watch.judged > watch.observations:
        check.fail("data.watch.judged", f"is {watch.judged}; expected at most observations, {watch.observations}.")
    return watch
