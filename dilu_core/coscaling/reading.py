"""What of an observation can be believed, and what a fleet of that size can carry: the ground of reports on stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar

from dilu_core import _checks as check
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, known_count, known_number, known_time

FIELDS = tuple(field.name for field in fields(Observation))
"""The names of what a host may report, in the order of `Observation`."""

LONGEST_PERIOD_S = 3600.0
"""A longer silence is late data whatever the parameters say: one observation cannot speak for more than an hour."""

_READERS: tuple[Callable[[Any], Any], ...] = tuple(
    {"time_s": known_time, "ready": known_count, "starting": known_count}.get(name, known_number) for name in FIELDS
)
_TIME, _ARRIVALS, _READY, _STARTING, _SPARE = (
    FIELDS.index(name) for name in ("time_s", "arrivals_rps", "ready", "starting", "spare_milli")
)

Counters = TypeVar("Counters", bound=tuple[Any, ...])


class Reading(NamedTuple):
    """The believable part of an observation; `None` is not known, and `unknown` holds the names of all such fields."""

    time_s: float | None
    arrivals_rps: float | None
    ready: int | None
    starting: int | None
    spare_milli: float | None
    unknown: tuple[str, ...]

    @property
    def planned(self) -> int | None:
        """Instances that serve or will."""
        return None if self.ready is None or self.starting is None else self.ready + self.starting


def read(observation: object) -> Reading:
    """What is believable of `observation`; nothing at all where it is none."""
    known = [reader(getattr(observation, name, None)) for name, reader in zip(FIELDS, _READERS, strict=True)]
    unknown = (
        () if None not in known else tuple(name for name, value in zip(FIELDS, known, strict=True) if value is None)
    )
    return Reading(known[_TIME], known[_ARRIVALS], known[_READY], known[_STARTING], known[_SPARE], unknown)


def pace(before_s: float | None, now_s: float | None, params: HorizontalParams | None) -> tuple[str, float | None]:
    """How the clock moved, and the seconds that the observation speaks for (`None`: none that can be judged).

    "first", "on-time", "late" (more than `stale_after_s` or an hour), "stood-still", "went-back" or "unknown".
    """
    if now_s is None:
        return "unknown", None
    if before_s is None:
        return "first", None
    elapsed = now_s - before_s
    if elapsed <= 0.0:
        return ("stood-still" if elapsed == 0.0 else "went-back"), None
    longest = LONGEST_PERIOD_S if params is None else min(params.stale_after_s, LONGEST_PERIOD_S)
    return ("late", None) if elapsed > longest else ("on-time", elapsed)


def burst_rps(params: HorizontalParams, spare_milli: float | None) -> float:
    """What one instance serves while it bursts: up to its limit, or to the spare share where that is known."""
    factor = params.burst
    if spare_milli is not None:
        factor = min(factor, 1.0 + spare_milli / params.request_milli)
    return params.capacity_rps * factor


def restored(argument: str, kind: type[Counters], data: object) -> Counters:
    """The counters of type `kind` (a NamedTuple of numbers, each with a default) that `_asdict` wrote.

    The default tells what a field holds: an int or a float of at least 0, or, for `None`, any float or `None`. A
    `direction` may be -1.
    """
    names, defaults = kind._fields, kind._field_defaults  # type: ignore[attr-defined]
    if not isinstance(data, dict) or data.keys() != set(names):
        check.fail(argument, f"is {check.shown(data)}; expected the keys {', '.join(names)}.")
    found: list[Any] = []
    for name in names:
        where, value, default = f"{argument}.{name}", data[name], defaults[name]
        if default is None:
            found.append(None if value is None else check.finite(where, value))
        elif isinstance(default, int):
            found.append(check.integer(where, value, at_least=-1 if name == "direction" else 0))
        else:
            found.append(check.finite(where, value, at_least=0.0))
    return kind(*found)
