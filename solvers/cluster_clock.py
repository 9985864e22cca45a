"""The time of a cluster replay: steps, control periods, and when functions are there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dilu_core import _checks as check
from dilu_core.solvers.cluster_workload import ClusterFunction

_MOST_CELLS = 200_000_000  # functions times steps


@dataclass(frozen=True)
class Clock:
    """`steps` of `step_s` seconds, `per_control` of them in a control period; the last period may be shorter."""

    step_s: float
    control_s: float
    steps: int
    per_control: int

    @classmethod
    def of(
        cls, functions: tuple[ClusterFunction, ...], duration_s: float | None, step_s: float, control_s: float
    ) -> Clock:
        """The checked clock; without a duration, until all has left and all traces are over."""
        length_s = _length_s(functions) if duration_s is None else check.finite("duration_s", duration_s, above=0.0)
        step_s = check.finite("step_s", step_s, above=0.0)
        control_s = check.finite("control_s", control_s, above=0.0)
        if length_s / step_s * max(1, len(functions)) > _MOST_CELLS:
            check.fail("step_s", f"is {step_s}; {len(functions)} functions over {length_s:g} s make too many steps.")
        per_control = round(min(control_s / step_s, float(_MOST_CELLS)))
        if per_control < 1 or abs(per_control * step_s - control_s) > 1e-9 * control_s:
            check.fail("control_s", f"is {control_s}; expected a whole number of steps of step_s, {step_s}.")
        return cls(step_s, control_s, max(1, math.ceil(length_s / step_s - 1e-9)), per_control)

    @property
    def periods(self) -> int:
        """Control periods."""
        return -(-self.steps // self.per_control)

    def period_at(self, seconds: float) -> int:
        """The first control period that begins at or after this time; `periods` where none does."""
        return math.ceil(min(seconds / self.control_s, self.periods) - 1e-9)

    def steps_in(self, seconds: float) -> int:
        """Steps that cover this time."""
        return math.ceil(min(seconds / self.step_s, 2.0**40) - 1e-9)

    def span(self, first_period: int, stop_period: int) -> slice:
        """The steps of these control periods."""
        first, stop = (min(self.steps, each * self.per_control) for each in (first_period, stop_period))
        return slice(first, max(first, stop))


@dataclass(frozen=True)
class Stay:
    """The control periods in which a function is there: from `first` to before `stop`."""

    first: int
    stop: int

    @classmethod
    def of(cls, function: ClusterFunction, clock: Clock) -> Stay:
        """From its arrival to its departure, or to the end."""
        leaves = clock.periods if function.leaves_s is None else clock.period_at(function.leaves_s)
        return cls(clock.period_at(function.arrives_s), leaves)


def _length_s(functions: tuple[ClusterFunction, ...]) -> float:
    ends = []
    for each in functions:
        if each.leaves_s is not None:
            ends.append(each.leaves_s)
        elif each.trace is not None:
            ends.append(each.arrives_s + each.trace.duration_s)
    if not ends:
        check.fail("duration_s", "is None, but nothing in the workload ends; say how long to replay.")
    return max(ends)
