"""What a run-time policy is: an observation and a state in, a decision with its reason and a new state out.

Policies are pure: no clock, no I/O, no randomness. They never raise on odd data; what cannot be true (a negative rate,
NaN, a clock that runs backwards) counts as "not known", and what is not known moves nothing.

What `CoScaler` answers to no data, late data and odd clocks, and what it remembers of them. Each line is held by
tests/coscaling/test_missing_data.py; `dilu_core.testing.PolicyConformance` asks the same of any policy, as far as it
shows from outside. A gap without arrivals counts neither as load nor as idleness.

| what came                        | answer                    | memory                                    |
|----------------------------------|---------------------------|-------------------------------------------|
| the first observation            | decides on it             | as if it spoke for one second             |
| `time_s` not known               | no change, "clock"        | untouched                                 |
| the clock stands still           | no change, "clock"        | untouched                                 |
| the clock went back              | no change, "clock"        | clock set, queue forgotten, the rest kept |
| late, by at most `stale_after_s` | decides on it             | its mean rate holds for the whole gap     |
| late by more, or a jump ahead    | no change, "learning"     | all forgotten but the clock               |
| `arrivals_rps` not known         | no change, "no-data"      | clock set, queue forgotten, the rest kept |
| `ready` or `starting` not known  | no change, "no-data"      | arrivals remembered, queue forgotten      |
| `in_flight` not known            | decides by arrivals alone | queue forgotten                           |
| `spare_milli` not known          | trusts `lean`             | smoothed spare share forgotten            |
| `latency_p95_ms` not known       | it bars no scale-in       | untouched                                 |

Where several lines apply, the clock speaks before the arrivals, and those before the instance counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from dilu_core._checks import fail, shown

_BEYOND_COUNTING = 2**31
"""More instances than this is a broken sensor, not a fleet."""

_BEYOND_MEASURE = 1e12
"""No rate, queue, share or latency in our units comes near this; a counter that wrapped around does."""

_NO_NUMBERS = (bool, str, bytes, bytearray, memoryview)
"""Python turns these into numbers; a sensor that reports them did not mean one."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One function since its last observation. `None` means "not known" - never zero - for every field.

    `time_s`: the host's clock now. `arrivals_rps`: mean arrival rate. `ready`, `starting`: instances that serve, and
    that were launched and do not serve yet. `in_flight`: requests in the system now, waiting or served.
    `spare_milli`: mean share an instance could have borrowed beyond its request. `latency_p95_ms`: of the requests
    answered. Nothing is checked here: a sensor may report anything, and policies must live with it.
    """

    time_s: float | None
    arrivals_rps: float | None
    ready: int | None
    starting: int | None
    in_flight: float | None = None
    spare_milli: float | None = None
    latency_p95_ms: float | None = None


class ScalingReason(StrEnum):
    """Why a decision is what it is."""

    STEADY = "steady"
    """The instances fit the load."""
    LOAD = "load"
    """Scale-out: arrivals need more instances."""
    BACKLOG = "backlog"
    """Scale-out: requests wait, and the present instances would not catch up in time."""
    PREDICTED = "predicted"
    """Scale-out: a forecast expects a load that needs more instances by the time they can serve."""
    FROM_ZERO = "from-zero"
    """Scale-out: something arrived and no instance exists."""
    SPARE_CAPACITY = "spare-capacity"
    """Scale-in: the remaining instances carry the recent peak."""
    TO_ZERO = "to-zero"
    """Scale-in: nothing has arrived for long enough to give up the last instance."""
    BELOW_MINIMUM = "below-minimum"
    """Fewer instances exist than the least allowed."""
    ABOVE_MAXIMUM = "above-maximum"
    """More instances exist than the most allowed."""
    HOLDING = "holding"
    """No scale-in yet: the recent peak, a cool-down, a start in progress or the latency speaks against it."""
    LEARNING = "learning"
    """No action: the first observation, or the first after a long silence, only sets the clock."""
    NO_DATA = "no-data"
    """No action: something that is needed is not known or cannot be true."""
    CLOCK = "clock"
    """No action: the clock stood still, ran backwards or is not known."""
    OBSERVE_ONLY = "observe-only"
    """No action: the stage only watches."""
    SHADOWED = "shadowed"
    """No action: the stage computes decisions without carrying them out."""
    POLICY_FAILED = "policy-failed"
    """No action: the wrapped policy raised or gave no valid decision."""
    FALLBACK = "fallback"
    """The wrapped policy keeps failing; this is what the fallback policy says, scale-in left out."""


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """What to do now.

    `instances`: how many should exist, starting ones included; `None`: not known, leave them as they are.
    `change`: launch that many (> 0), remove that many (< 0), or nothing (0); the host need look at nothing else.
    `reason` is a code, `detail` a sentence for people, `clipped_by` the name of the bound that kept the policy from
    going further (`"min_instances"`, `"max_instances"`, `"max_step_out"`, `"max_step_in"`; of wrappers also `"budget"`,
    `"fallback"` and `"recovery"`), `audit` a plain record where a wrapper leaves one, and `inputs` the observation that
    was decided on (two decisions that say the same are equal whatever they were made from).
    """

    instances: int | None
    change: int
    reason: ScalingReason
    detail: str = ""
    clipped_by: str | None = None
    audit: Mapping[str, object] | None = None
    inputs: Observation | None = field(default=None, compare=False)


State = TypeVar("State")


class Policy(Protocol[State]):
    """A horizontal policy. `State` is a value that never changes in place, JSON-able through its `to_dict`."""

    def initial_state(self) -> State:
        """The state before the first observation."""
        ...

    def decide(self, state: State, observation: Observation, /) -> tuple[ScalingDecision, State]:
        """The decision for `observation`, and the state to pass next time. Never raises on odd data."""
        ...


def expect(argument: str, value: object, kind: type) -> None:
    """Refuse what the host's own code mixed up: a value that is not of `kind` is no odd data, but misuse."""
    if not isinstance(value, kind):
        hint = f" Restore it with {kind.__name__}.from_dict." if hasattr(kind, "from_dict") else ""
        fail(argument, f"is {shown(value, 80)}; expected a value of type {kind.__name__}.{hint}")


def expect_policy(argument: str, value: Any) -> None:
    """Refuse what is no horizontal policy, the class of one included."""
    made = not isinstance(value, type)
    if not made or not all(callable(getattr(value, name, None)) for name in ("initial_state", "decide")):
        hint = "" if made else " It is a class: make one of its objects."
        wanted = "expected an object with initial_state() and decide(state, observation)."
        fail(argument, f"is {shown(value, 80)}; {wanted}{hint}")


def fault_of(answer: object, observation: object) -> str | None:
    """What is wrong with a policy's `answer` about `observation`, or `None` where a host can act on it.

    Where the instances are known, the target, if any, must be their sum with the change.
    """
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], ScalingDecision):
        return f"answered {shown(answer, 80)}; expected (ScalingDecision, state)"
    change, instances = answer[0].change, answer[0].instances
    if type(change) is not int or abs(change) >= _BEYOND_COUNTING:
        return f"answered a change of {shown(change, 80)}; expected an int, in absolute value below {_BEYOND_COUNTING}"
    if instances is not None and (type(instances) is not int or not 0 <= instances < _BEYOND_COUNTING):
        return f"answered {shown(instances, 80)} instances; expected an int of at least 0, or None"
    for name, said in (("reason", answer[0].reason), ("detail", answer[0].detail)):
        if not isinstance(said, str):
            return f"answered {shown(said, 80)} as its {name}; expected a text"
    planned = planned_in(observation)
    if planned is not None and instances not in (None, planned + change):
        return f"answered {instances} instances and a change of {change}, with {planned} planned: not the sum"
    return None


def planned_in(observation: object) -> int | None:
    """The instances that serve or will, or `None` where one of the two counts is not known."""
    ready = known_count(getattr(observation, "ready", None))
    starting = known_count(getattr(observation, "starting", None))
    return None if ready is None or starting is None else ready + starting


def known_number(value: Any) -> float | None:
    """`value` as a float between 0 and 10^12, or `None` where a sensor could not have meant it."""
    number = known_time(value)
    return number if number is not None and 0.0 <= number < _BEYOND_MEASURE else None


def known_count(value: Any) -> int | None:
    """`value` as a whole number of instances >= 0, or `None` where a sensor could not have meant it."""
    number = known_time(value)
    if number is None or not 0.0 <= number < _BEYOND_COUNTING or not number.is_integer():
        return None
    return int(number)


def known_time(value: Any) -> float | None:
    """`value` as a finite number of any sign, or `None`."""
    if value is None or isinstance(value, _NO_NUMBERS):
        return None
    try:
        if getattr(getattr(value, "dtype", None), "kind", "f") not in "iuf":
            return None  # numpy's booleans and complex numbers turn into floats as well
        number = float(value)
    except Exception:  # an object of the host's own may fail in any way; it told us nothing
        return None
    return number if math.isfinite(number) else None
