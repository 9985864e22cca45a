"""The instances of a cluster replay: where they sit, since when, which wait for a place, and which go first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count

from dilu_core.cluster import Cluster, Instance
from dilu_core.correlation import LoadCorrelation
from dilu_core.quota import QuotaConfig
from dilu_core.slots import Placement, Slot
from dilu_core.solvers.cluster_quotas import Menu
from dilu_core.solvers.cluster_systems import ClusterSystem
from dilu_core.solvers.cluster_waiting import WaitingLine
from dilu_core.solvers.cluster_workload import ClusterFunction
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.choose import Chooser
from dilu_core.solvers.placement.spreading import Spreading


@dataclass(frozen=True, slots=True)
class Member:
    """One placed instance: number of its function and configuration, its booking, and the step it serves from.

    `request_milli` and `limit_milli` are what it books on each of its GPUs.
    """

    function: int
    configuration: int
    booking: Booking
    ready_at: int
    request_milli: int
    limit_milli: int


class Fleet:
    """Instances of `functions` on a cluster, under one system. Numbers of functions are positions.

    `members` are in order of launch. `version` grows with every change; `launched`, `refused` count by function the
    instances placed and the attempts that found no place. Of a configuration no more are planned than the requests that
    the empty cluster could hold, but one at least: whoever asks for more is refused, and nothing waits for it. The
    copies in `moving` book their shares and are no members yet; `moves` counts those that have taken over.
    """

    def __init__(
        self, cluster: Cluster, functions: tuple[ClusterFunction, ...], menus: list[Menu], system: ClusterSystem
    ) -> None:
        self.functions = functions
        self.menus = menus
        self.system = system
        self.bookings = Bookings(cluster, system.oversubscription)
        self.members: dict[str, Member] = {}
        self.waiting = WaitingLine()
        self.moving: dict[str, Member] = {}  # by the name of the instance that moves, its copy on the target
        self.moves = 0
        self.planned = [[0] * len(menu) for menu in menus]  # placed or waiting, by configuration
        self.launched = [0] * len(functions)
        self.refused = [0] * len(functions)
        self.version = 0
        self._of: list[dict[str, Member]] = [{} for _ in functions]
        self._number = count()
        self._chooser = Chooser(self.bookings, weights=system.weights)

    def keep_apart(self, correlation: LoadCorrelation) -> None:
        """From now on, avoid GPUs that hold functions whose load rises with an instance's."""
        self._chooser = Chooser(self.bookings, weights=self.system.weights, spreading=Spreading(correlation))

    def of(self, function: int) -> dict[str, Member]:
        """The placed instances of a function, in order of launch."""
        return self._of[function]

    def launch(self, function: int, configuration: int, ready_at: int, count: int = 1) -> int:
        """Place so many instances more and return how many found room; the others are refused, and wait."""
        placed, planned = 0, self.planned[function]
        while placed < count and self._place(function, configuration, ready_at):
            placed += 1
        planned[configuration] += placed
        refused = count - placed
        if refused:
            self.refused[function] += refused
            waits = min(refused, max(0, self._most(function, configuration) - planned[configuration]))
            planned[configuration] += waits
            self.waiting.join((function, configuration), waits)
        return placed

    def retry(self, step: int, cold_steps: list[int]) -> None:
        """Try to place what waits, oldest first; one refusal stands for all instances like it."""
        for function, _ in self.waiting.admit(lambda wanted: self._place(*wanted, step + cold_steps[wanted[0]])):
            self.refused[function] += 1

    def give_up(self, function: int, configuration: int, number: int, step: int) -> None:
        """Remove so many instances: those that wait first, then the youngest that start, then by the system's rule."""
        self.planned[function][configuration] -= number
        for _ in range(number - self.waiting.leave((function, configuration), number)):
            self._remove(self._least_useful(function, configuration, step))

    def dissolve(self, function: int) -> None:
        """The function leaves with all that it has."""
        for name in list(self._of[function]):
            self._remove(name)
        self.waiting.forget(function)
        self.planned[function] = [0] * len(self.menus[function])

    def start_move(self, name: str, target: Iterable[Slot], ready_at: int) -> bool:
        """Book a copy of the member `name` on `target`, which takes over at `ready_at`; `False` if it has no room."""
        member = self.members[name]
        copy = replace(member.booking.instance, name=self._name(member.function))
        booking = self.bookings.booking(copy, target)
        if not self.bookings.fits(booking):
            return False
        self.bookings.book(*booking.fields)
        self.moving[name] = self._member(member.function, member.configuration, booking, ready_at)
        return True

    def finish_moves(self, step: int) -> None:
        """Copies that are ready take over."""
        for name, copy in list(self.moving.items()):
            if copy.ready_at <= step:
                del self.moving[name]
                self._remove(name)
                self._add(copy)
                self.moves += 1

    def placement(self) -> Placement:
        """Where every instance and every copy sits now."""
        return self.bookings.placement()

    def instances(self) -> tuple[Instance, ...]:
        """Those of `placement` as they were asked for."""
        return tuple(each.instance for each in self.bookings.by_name.values())

    def _place(self, function: int, configuration: int, ready_at: int) -> bool:
        found = self._chooser.place(self._instance(function, self.menus[function][configuration]))
        if found is None:
            return False
        self._add(self._member(function, configuration, found[1], ready_at))
        self.launched[function] += 1
        return True

    def _member(self, function: int, configuration: int, booking: Booking, ready_at: int) -> Member:
        return Member(function, configuration, booking, ready_at, booking.request_milli, booking.limit_milli)

    def _add(self, member: Member) -> None:
        name = member.booking.instance.name
        self.members[name] = self._of[member.function][name] = member
        self.version += 1

    def _most(self, function: int, configuration: int) -> int:
        """More than this the empty cluster cannot hold: its requests alone would exceed the GPUs."""
        requests = self.bookings.capacity[:, 0] // self.menus[function][configuration].request_milli
        return max(1, int(requests.sum()) // self.functions[function].gpus)

    def _instance(self, function: int, config: QuotaConfig) -> Instance:
        asked = self.functions[function]
        return Instance(
            self._name(function),
            asked.kind,
            config.request_milli,
            config.limit_milli,
            asked.memory_mib,
            gpus=asked.gpus,
            splittable=asked.splittable,
            function=asked.name if self.system.beside_gangs else "",
        )

    def _name(self, function: int) -> str:
        return f"{self.functions[function].name}#{next(self._number)}"

    def _least_useful(self, function: int, configuration: int, step: int) -> str:
        """The youngest that starts; else, by the system's rule, the youngest, or the one whose GPUs hold least else."""
        mine = [name for name, each in self._of[function].items() if each.configuration == configuration]
        if self.system.removal == "newest" or self.members[mine[-1]].ready_at > step:
            return mine[-1]
        free, capacity = self.bookings.free, self.bookings.capacity

        def others(name: str) -> int:
            member = self.members[name]
            return sum(int(capacity[row, 0] - free[row, 0]) - member.request_milli for row in member.booking.gpus)

        return min(reversed(mine), key=others)

    def _remove(self, name: str) -> None:
        member = self.members.pop(name)
        del self._of[member.function][name]
        self.bookings.cancel(name)
        copy = self.moving.pop(name, None)
        if copy is not None:
            self.bookings.cancel(copy.booking.instance.name)
        self.version += 1
