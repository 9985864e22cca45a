"""What a ledger has written down about one instance: where it sits and what it takes there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dilu_core.cluster import Instance
from dilu_core.mig import MigSlice
from dilu_core.solvers.placement.unchecked import unchecked


@dataclass(frozen=True, slots=True)
class Booking:
    """An instance, the rows of its GPUs, the memory it takes on each, its configuration and, if any, its partition."""

    instance: Instance
    gpus: tuple[int, ...]
    memory_mib: tuple[int, ...]
    configuration: int = 0
    mig: tuple[MigSlice, ...] = ()

    @property
    def is_split(self) -> bool:
        """Whether its memory is divided over several GPUs."""
        return self.instance.gpus == 1 and len(self.gpus) > 1

    @property
    def is_training_gang(self) -> bool:
        """Whether several workers train on it in step, so that the slowest slows down all."""
        return self.instance.gpus > 1 and self.instance.kind == "training"

    @property
    def request_milli(self) -> int:
        """What it books as request on each of its GPUs."""
        if self.configuration == 0:
            return self.instance.request_milli
        return self.instance.configurations[self.configuration].request_milli

    @property
    def limit_milli(self) -> int:
        """What it books as limit on each of its GPUs, partitions aside; a split instance does not burst."""
        if self.is_split:
            return self.request_milli
        if self.configuration == 0:
            return self.instance.limit_milli
        return self.instance.configurations[self.configuration].limit_milli

    @property
    def quota_milli(self) -> tuple[int, int]:
        """`request_milli` and `limit_milli`."""
        instance = self.instance
        if self.configuration:
            return self.request_milli, self.limit_milli
        request = instance.request_milli
        return request, instance.limit_milli if len(self.gpus) == instance.gpus else request

    @property
    def fields(self) -> tuple[Instance, tuple[int, ...], tuple[int, ...], int, tuple[MigSlice, ...]]:
        """What `Bookings.book` takes to write it down again."""
        return self.instance, self.gpus, self.memory_mib, self.configuration, self.mig


class HostBooking(NamedTuple):
    """CPU and host memory reserved on a node by what uses no GPU."""

    name: str
    node: int
    cpu_milli: int
    memory_mib: int


booked = unchecked(Booking)
"""A `Booking` of all its fields."""
