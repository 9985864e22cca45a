"""What moving a running instance costs, in GPU-seconds, so that it can be held against the GPUs a plan frees.

While a move is under way the instance holds its share twice. It lasts as long as its memory takes to copy and the new
copy takes to start:

    seconds = memory_mib / bandwidth_mib_s + cold_start_s
    cost    = seconds * request_milli / 1000 * gpus     GPU-seconds
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dilu_core import _checks as check
from dilu_core.cluster import INSTANCE_KINDS, Instance
from dilu_core.solvers.placement.bookings import Booking


@dataclass(frozen=True)
class MoveCost:
    """The cost of moves: copying at `bandwidth_mib_s`, and the seconds a cold start takes.

    `cold_start_s` is one number for all, or one per kind (a kind left out starts at once). `of_function` overrides it
    for single functions. The default is free moves, which a plan then makes as few as it can.
    Raises `InvalidArgumentError` for a bandwidth that is not positive, seconds below 0, or a kind that is none.
    """

    bandwidth_mib_s: float = float("inf")
    cold_start_s: float | Mapping[str, float] = 0.0
    of_function: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.bandwidth_mib_s != float("inf"):
            bandwidth = check.finite("bandwidth_mib_s", self.bandwidth_mib_s, above=0.0)
            object.__setattr__(self, "bandwidth_mib_s", bandwidth)
        by_kind: dict[str, float] = {}
        if isinstance(self.cold_start_s, Mapping):
            for kind, seconds in self.cold_start_s.items():
                name = check.choice("cold_start_s", kind, INSTANCE_KINDS)
                by_kind[name] = check.finite(f"cold_start_s[{name!r}]", seconds, at_least=0.0)
        else:
            seconds = check.finite("cold_start_s", self.cold_start_s, at_least=0.0)
            by_kind = dict.fromkeys(INSTANCE_KINDS, seconds)
        if not isinstance(self.of_function, Mapping):
            check.fail("of_function", f"is {self.of_function!r:.120}; expected a mapping of functions to seconds.")
        by_function = {
            check.text("of_function", name): check.finite(f"of_function[{name!r}]", seconds, at_least=0.0)
            for name, seconds in self.of_function.items()
        }
        object.__setattr__(self, "cold_start_s", MappingProxyType(by_kind))
        object.__setattr__(self, "of_function", MappingProxyType(by_function))

    def seconds(self, instance: Instance, memory_mib: int | None = None) -> float:
        """How long a move of `instance` takes while it holds `memory_mib` (`None`: as in its own configuration)."""
        assert isinstance(self.cold_start_s, Mapping)
        start = self.of_function.get(instance.function, self.cold_start_s.get(instance.kind, 0.0))
        copied = instance.total_memory_mib if memory_mib is None else memory_mib
        return copied / self.bandwidth_mib_s + start

    def gpu_seconds(self, booking: Booking) -> float:
        """What a move of an instance that is booked like this costs, in the configuration that it runs in."""
        return (
            self.seconds(booking.instance, sum(booking.memory_mib)) * booking.request_milli / 1000 * len(booking.gpus)
        )

    def __reduce__(self) -> tuple[type[MoveCost], tuple[float, dict[str, float], dict[str, float]]]:
        assert isinstance(self.cold_start_s, Mapping)
        return MoveCost, (self.bandwidth_mib_s, dict(self.cold_start_s), dict(self.of_function))
