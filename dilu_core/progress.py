"""The course of a long solve: incumbent, bound and gap over time, recorded from its progress callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

from dilu_core import _checks as check

_VERSION = 1


class ProgressEvent(NamedTuple):
    """What was known `elapsed_s` after the start: the best objective found and the proven bound, `None` before any."""

    elapsed_s: float
    incumbent: float | None
    bound: float | None

    @property
    def gap(self) -> float | None:
        """(incumbent - bound) / bound; `None` where one of them is missing or the bound is 0 below the incumbent."""
        if self.incumbent is None or self.bound is None:
            return None
        if self.incumbent <= self.bound:
            return 0.0
        return (self.incumbent - self.bound) / self.bound if self.bound > 0 else None


@dataclass
class ProgressLog:
    """Records what a solver reports: pass it as `progress=`, to be called with (incumbent, bound, seconds).

    Only changes are recorded, and the latest time. With `write` (such as `print`) a line goes out at every change, but
    at most one every `interval_s` seconds of the solver's clock.
    """

    write: Callable[[str], object] | None = None
    _: KW_ONLY
    interval_s: float = 1.0
    events: list[ProgressEvent] = field(default_factory=list)
    _written_s: float | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.write is not None and not callable(self.write):
            check.fail("write", f"is {self.write!r:.80}; expected a callable that takes a line, or None.")
        self.interval_s = check.finite("interval_s", self.interval_s, at_least=0.0)

    def __call__(self, incumbent: float | None, bound: float | None, seconds: float) -> None:
        """Take in one report."""
        numbers = [
            None if value is None else check.finite(name, value)
            for name, value in (("incumbent", incumbent), ("bound", bound))
        ]
        event = ProgressEvent(check.finite("seconds", seconds, at_least=0.0), *numbers)
        changed = not self.events or self.events[-1][1:] != event[1:]
        # of equal reports in a row the first and the last are kept: curves then reach to the end
        if not changed and len(self.events) > 1 and self.events[-2][1:] == event[1:]:
            self.events[-1] = event
        else:
            self.events.append(event)
        due = self._written_s is None or event.elapsed_s - self._written_s >= self.interval_s
        if changed and due and self.write is not None:
            self._written_s = event.elapsed_s
            self.write(status_line(event))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value of the events; `from_dict` reads it back."""
        return {"version": _VERSION, "interval_s": self.interval_s, "events": [list(each) for each in self.events]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProgressLog:
        """The log `to_dict` wrote, without its `write`; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("progress", data, version=_VERSION)
        found = check.build("progress", document, cls, required=("interval_s",))
        found.events.extend(progress_events("progress.events", check.item("progress", document, "events")))
        return found


def status_line(event: ProgressEvent) -> str:
    """One line: seconds, incumbent, bound and gap."""
    incumbent, bound = ("none" if each is None else f"{each:g}" for each in event[1:])
    gap = "" if event.gap is None else f", gap {event.gap:.2%}"
    return f"{event.elapsed_s:7.1f} s  incumbent {incumbent}, bound {bound}{gap}"


def progress_events(argument: str, value: object) -> tuple[ProgressEvent, ...]:
    """`value` as events: a log, or any sequence of (elapsed_s, incumbent, bound) in order of time."""
    if isinstance(value, ProgressLog):
        return tuple(value.events)
    found: list[ProgressEvent] = []
    for i, row in enumerate(check.instances_of(argument, value, object)):
        where = f"{argument}[{i}]"
        if not isinstance(row, list | tuple) or len(row) != 3:
            check.fail(where, f"is {row!r:.120}; expected (elapsed_s, incumbent, bound).")
        incumbent, bound = (None if each is None else check.finite(where, each) for each in row[1:])
        found.append(ProgressEvent(check.finite(where, row[0], at_least=0.0), incumbent, bound))
        if i and found[-2].elapsed_s > found[-1].elapsed_s:
            check.fail(where, f"is {row!r:.120}, before the event that stands ahead of it; expected order of time.")
    return tuple(found)
