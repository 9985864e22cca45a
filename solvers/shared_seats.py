"""Who sits on which GPU while functions that share a fixed number of GPUs scale out and in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core._checks import fail, int_column
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.kernels.cpu.shared_gpus import SharedInstances
from dilu_core.solvers.replay_setup import cold_steps, initial_count
from dilu_core.solvers.shared_tenants import ReplayTenant
from dilu_core.units import FULL_GPU_MILLI


class _Seat(NamedTuple):
    """One instance: its GPU, and the step from which it serves."""

    gpu: int
    ready_at: int


class Crew:
    """The instances of one function, in the order of their launch; `gpus` are those it may use."""

    def __init__(self, params: HorizontalParams, gpus: Sequence[int], cold_steps: int, tier: int, gang: bool) -> None:
        self.params = params
        self.gpus = gpus
        self.cold_steps = cold_steps
        self.tier = tier
        self.gang = gang
        self.seats: list[_Seat] = []
        self.launched = self.flips = self.refused = 0
        self._last_change = 0

    def ready(self, step: int) -> int:
        """How many serve at `step`: those launched first."""
        count = len(self.seats)
        while count and self.seats[count - 1].ready_at > step:
            count -= 1
        return count


class Seating:
    """The booked requests of every GPU, and the crews on them.

    A launched instance takes, of the GPUs that its function may use and whose requests stay within the GPU, the one
    with the fewest instances of that function; of those the one with the least booked, then the first. Where none has
    room the launch is refused, as a cluster does that is full. The youngest instance goes first.
    """

    def __init__(self, crews: Sequence[Crew], gpus: int) -> None:
        self.crews = crews
        self._booked = [0] * gpus
        self._own = [[0] * gpus for _ in crews]
        self._columns: SharedInstances | None = None
        self._columns_until = 0.0

    def seat(self, function: int, count: int, ready_at: int) -> int:
        """Seat up to `count` instances that serve from step `ready_at`; return how many found room."""
        crew, own = self.crews[function], self._own[function]
        request = crew.params.request_milli
        for seated in range(count):
            room = [gpu for gpu in crew.gpus if self._booked[gpu] + request <= FULL_GPU_MILLI]
            if not room:
                return seated
            gpu = min(room, key=lambda each: (own[each], self._booked[each], each))
            self._booked[gpu] += request
            own[gpu] += 1
            crew.seats.append(_Seat(gpu, ready_at))
            self._columns = None
        return count

    def change(self, function: int, by: int, step: int) -> None:
        """Launch `by` instances at `step`, or give up -`by`, the youngest first: so starting ones go before ready ones.

        What is counted as a turn of direction is the wish, whether or not there was room.
        """
        crew, own = self.crews[function], self._own[function]
        by = max(by, -len(crew.seats))
        crew.flips += by * crew._last_change < 0
        crew._last_change = by or crew._last_change
        if by > 0:
            seated = self.seat(function, by, step + crew.cold_steps)
            crew.launched += seated
            crew.refused += by - seated
        for _ in range(-by):
            gpu = crew.seats.pop().gpu
            self._booked[gpu] -= crew.params.request_milli
            own[gpu] -= 1
            self._columns = None

    def next_start(self, step: int) -> float:
        """The first step after `step` at which an instance that starts now is ready; infinite if none starts."""
        return min(
            (seat.ready_at for crew in self.crews for seat in crew.seats[crew.ready(step) :]), default=float("inf")
        )

    def columns(self, step: int) -> tuple[SharedInstances, float]:
        """The instances as the engine takes them, and the step at which that changes by itself."""
        if self._columns is None or step >= self._columns_until:
            self._columns, self._columns_until = self._written(step), self.next_start(step)
        return self._columns, self._columns_until

    def _written(self, step: int) -> SharedInstances:
        rows: list[tuple[int, ...]] = []
        for function, crew in enumerate(self.crews):
            gang = len(rows) if crew.gang else -1
            request, limit = crew.params.request_milli, crew.params.limit_milli
            rows += [
                (function, seat.gpu, request, limit, crew.tier, gang, int(seat.ready_at <= step)) for seat in crew.seats
            ]
        table: NDArray[np.int64] = np.array(rows, dtype=np.int64).reshape(len(rows), len(SharedInstances._fields))
        return SharedInstances(*(np.ascontiguousarray(column) for column in table.T))


def seated_tenants(
    tenants: tuple[ReplayTenant, ...], gpus: int, seating: Mapping[str, Sequence[int]] | None, step_s: float
) -> Seating:
    """Everyone's instances at the start, training first."""
    if seating is not None and not isinstance(seating, Mapping):
        fail("seating", f"is {seating!r:.80}; expected a mapping from tenants' names to GPUs, or None.")
    allowed = dict(seating or {})
    crews = []
    for tenant in tenants:
        own = allowed.pop(tenant.name, range(gpus))
        steps = cold_steps(tenant.params, step_s)
        crews.append(Crew(tenant.params, _usable(tenant.name, own, gpus), steps, int(tenant.trains), tenant.gang))
    if allowed:
        fail("seating", f"names {next(iter(allowed))!r:.80}, which is no tenant.")
    seats = Seating(crews, gpus)
    for function in sorted(range(len(tenants)), key=lambda each: not tenants[each].trains):
        tenant = tenants[function]
        if tenant.trace is None:
            wanted = 1 if tenant.instances is None else tenant.instances
        else:
            wanted = initial_count(tenant.instances, tenant.trace, tenant.params)
        seated = seats.seat(function, wanted, 0)
        if seated < wanted:
            fail("gpus", f"is {gpus}; only {seated} of the first {wanted} instances of {tenant.name!r} find room.")
    return seats


def _usable(tenant: str, own: object, gpus: int) -> list[int]:
    """The GPUs that a tenant may use, ascending."""
    try:
        listed = list(own)  # type: ignore[call-overload]
    except TypeError:
        fail(f"seating[{tenant!r}]", f"is {own!r:.80}; expected the numbers of the GPUs that it may use.")
    if not listed:
        fail(f"seating[{tenant!r}]", "is empty; expected at least one GPU. Leave it out to allow all.")
    return sorted(set(int_column(f"seating[{tenant!r}]", listed, at_least=0, at_most=gpus - 1).tolist()))
