"""The CP-SAT model of placing some instances on some nodes: variables and rules, as `dilu_core.verification` has them.

    an instance whole on one GPU    one literal per (GPU, configuration, partition) it may take
    a gang                          one literal per (node, configuration); it takes as many slots of each size there
    a split instance                one literal per (node, configuration); parts of 1 MiB or more that sum to its memory

What cannot be better than something else is left out: configurations dominated by one of lower number, partitions that
contain another that would do. GPUs that are empty and run nothing now are alike within a node, and such nodes of one
shape are alike: they are used in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ortools.sat.python import cp_model

from dilu_core.cluster import Configuration, Instance
from dilu_core.mig import MOST_SLICES, MigGeometry, MigSlice
from dilu_core.solvers.placement.bookings import Booking, Bookings


@dataclass(frozen=True, slots=True)
class Way:
    """A slot that an instance may take whole: a row, the memory there, the configuration and, if any, the partition."""

    row: int
    memory_mib: int
    configuration: int
    mig: MigSlice | None = None


class Model:
    """Variables by instance name. Expressions are sums of literals; a missing key means that it cannot be."""

    def __init__(
        self, ledger: Bookings, nodes: Sequence[int], instances: Sequence[Instance], current: Mapping[str, Booking]
    ) -> None:
        self.ledger, self.instances, self.current = ledger, instances, current
        self.model = cp_model.CpModel()
        starts = ledger.node_start
        self.rows_of = {n: range(int(starts[n]), int(starts[n + 1])) for n in nodes}
        self.rows = [row for n in nodes for row in self.rows_of[n]]
        self.whole: dict[str, dict[Way, Any]] = {}
        self.gang: dict[str, dict[tuple[int, int], Any]] = {}  # name -> (node, configuration) -> literal
        self.split: dict[str, dict[tuple[int, int], Any]] = {}  # likewise
        self.part: dict[str, dict[tuple[int, int], Any]] = {}  # name -> (row, configuration) -> literal
        self.part_mib: dict[str, dict[tuple[int, int], Any]] = {}
        self.placed: dict[str, Any] = {}
        self.moved: dict[str, Any] = {}
        self.on_row: defaultdict[int, dict[str, Any]] = defaultdict(dict)  # row -> name -> 0/1 expression
        self.used = {row: self.model.new_bool_var("") for row in self.rows if ledger.held[row] == 0}
        self.node_used = {
            n: self.model.new_bool_var("") for n, rows in self.rows_of.items() if all(row in self.used for row in rows)
        }
        for instance in instances:
            self._add_instance(instance)
        self._link_used()
        self._add_gpu_capacities()
        self._add_partitions()
        self._add_host_capacities()
        self._forbid_meetings()
        self.alike_rows, self.alike_nodes = self._alike()
        self._break_symmetry()

    def _add_instance(self, instance: Instance) -> None:
        """The places it may take, of which it takes one."""
        model, name = self.model, instance.name
        barred = self.ledger.rows_refusing(instance)
        types = instance.gpu_types
        other = None if types is None else self.ledger.rows_of_other_types(types)
        allowed = {
            n: [row for row in rows if row not in barred and not (other is not None and other[row])]
            for n, rows in self.rows_of.items()
        }
        now = self.current.get(name)
        whole = self.whole[name] = {}
        gang = self.gang[name] = {}
        split = self.split[name] = {}
        part = self.part[name] = {}
        self.part_mib[name] = {}
        for c in useful_configurations(instance, None if now is None else now.configuration):
            configuration = instance.configurations[c]
            for n, rows in allowed.items():
                mig = self.ledger.cluster.nodes[n].gpu_type.mig
                if mig is not None:
                    if instance.gpus == 1:
                        self._add_partitioned(instance, c, rows, mig)
                    continue
                if instance.gpus > 1:
                    self._add_gang(instance, c, n, rows)
                    continue
                (mib,) = configuration.memory_per_gpu_mib(1)
                for row in rows:
                    if self._has_room(row, configuration.request_milli, configuration.limit_milli, mib):
                        whole[Way(row, mib, c)] = model.new_bool_var("")
                if instance.splittable:
                    self._add_split(instance, c, n, rows)
        by_row: defaultdict[int, list[Any]] = defaultdict(list)
        for way, literal in whole.items():
            by_row[way.row].append(literal)
        for (row, _), literal in part.items():
            by_row[row].append(literal)
        for row, literals in by_row.items():
            if instance.gpus > 1 and len(literals) > 1:
                model.add_at_most_one(literals)
            self.on_row[row][name] = sum(literals)
        self.placed[name] = sum(gang.values()) if instance.gpus > 1 else sum(whole.values()) + sum(split.values())
        model.add(self.placed[name] <= 1)
        if now is not None:
            self._add_move(instance, now)

    def _has_room(self, row: int, request: int, limit: int, mib: int) -> bool:
        free = self.ledger.free
        return bool(free[row, 0] >= request and free[row, 1] >= limit and free[row, 2] >= mib)

    def _add_partitioned(self, instance: Instance, c: int, rows: Sequence[int], geometry: MigGeometry) -> None:
        """The partitions of each row that suffice, are free, and contain no other that is as good."""
        configuration = instance.configurations[c]
        request, (mib,) = configuration.request_milli, configuration.memory_per_gpu_mib(1)
        now = self.current.get(instance.name)
        running = None if now is None or not now.mig or now.configuration != c else (now.gpus[0], now.mig[0])
        useful = useful_partitions(geometry, request, mib)
        for row in rows:
            taken = int(self.ledger.partitions.used[row])
            for each in all_partitions(geometry, request, mib):
                piece, mask, share = each
                fits = not mask & taken and self._has_room(row, request, min(configuration.limit_milli, share), mib)
                if fits and (each in useful or (row, piece) == running):
                    self.whole[instance.name][Way(row, mib, c, piece)] = self.model.new_bool_var("")

    def _add_gang(self, instance: Instance, c: int, n: int, rows: Sequence[int]) -> None:
        """All slots of configuration `c` on node `n`, or none."""
        configuration = instance.configurations[c]
        sizes = configuration.memory_per_gpu_mib(instance.gpus)
        ways = {
            mib: [
                Way(row, mib, c)
                for row in rows
                if self._has_room(row, configuration.request_milli, configuration.limit_milli, mib)
            ]
            for mib in set(sizes)
        }
        if any(len(each) < sizes.count(mib) for mib, each in ways.items()):
            return
        here = self.gang[instance.name][n, c] = self.model.new_bool_var("")
        for mib, each in sorted(ways.items()):
            slots = {way: self.model.new_bool_var("") for way in each}
            self.whole[instance.name].update(slots)
            self.model.add(sum(slots.values()) == sizes.count(mib) * here)

    def _add_split(self, instance: Instance, c: int, n: int, rows: Sequence[int]) -> None:
        """At least two parts of configuration `c` on node `n` that hold all its memory, or none."""
        model, name, free = self.model, instance.name, self.ledger.free
        configuration = instance.configurations[c]
        request, total = configuration.request_milli, configuration.memory_per_gpu_mib(1)[0]
        most = {row: min(int(free[row, 2]), total - 1) for row in rows if self._has_room(row, request, request, 1)}
        if len(most) < 2 or not 2 <= total <= sum(most.values()):
            return
        here = self.split[name][n, c] = model.new_bool_var("")
        for row, upper in most.items():
            literal = self.part[name][row, c] = model.new_bool_var("")
            mib = self.part_mib[name][row, c] = model.new_int_var(0, upper, "")
            model.add(mib >= literal)
            model.add(mib <= upper * literal)
            model.add_implication(literal, here)
        model.add(sum(self.part_mib[name][row, c] for row in most) == total * here)
        model.add(sum(self.part[name][row, c] for row in most) >= 2 * here)

    def _add_move(self, instance: Instance, now: Booking) -> None:
        """A running instance stays placed; it has moved unless it holds every slot it holds now."""
        model, name, c = self.model, instance.name, now.configuration
        model.add(self.placed[name] == 1)
        kept: list[Any] = []
        moved = self.moved[name] = model.new_bool_var("")
        for i, (row, mib) in enumerate(zip(now.gpus, now.memory_mib, strict=True)):
            if now.is_split:
                kept.append(self.part[name].get((row, c)))
                if kept[-1] is not None:
                    model.add(self.part_mib[name][row, c] == mib).only_enforce_if(~moved)
            else:
                kept.append(self.whole[name].get(Way(row, mib, c, now.mig[i] if now.mig else None)))
        for literal in kept:
            model.add(moved == 1) if literal is None else model.add_bool_or(moved, literal)

    def _link_used(self) -> None:
        """An empty GPU that takes an instance is used, and so is its node."""
        for row, used in self.used.items():
            for here in self.on_row[row].values():
                self.model.add(here <= used)
        for n, used in self.node_used.items():
            for row in self.rows_of[n]:
                self.model.add_implication(self.used[row], used)

    def _add_gpu_capacities(self) -> None:
        """Requests, limits and memory per row; an unused row holds nothing."""
        loads: defaultdict[int, tuple[list[Any], list[Any], list[Any]]] = defaultdict(lambda: ([], [], []))
        for instance in self.instances:
            for way, literal in self.whole[instance.name].items():
                configuration = instance.configurations[way.configuration]
                limit = configuration.limit_milli
                if way.mig is not None:
                    limit = min(limit, self.ledger.partitions.share_milli(way.row, way.mig))
                demand = (configuration.request_milli, limit, way.memory_mib)
                for terms, want in zip(loads[way.row], demand, strict=True):
                    terms.append(want * literal)
            for (row, c), literal in self.part[instance.name].items():
                request = instance.configurations[c].request_milli
                loads[row][0].append(request * literal)
                loads[row][1].append(request * literal)
                loads[row][2].append(self.part_mib[instance.name][row, c])
        for row, load in loads.items():
            for resource, terms in enumerate(load):
                self.model.add(sum(terms) <= int(self.ledger.free[row, resource]) * self.used.get(row, 1))

    def _add_partitions(self) -> None:
        """No slice of a partitioned GPU is in two partitions."""
        covering: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
        for ways in self.whole.values():
            for way, literal in ways.items():
                for piece in range(MOST_SLICES) if way.mig is not None else ():
                    if self.mask(way) >> piece & 1:
                        covering[way.row, piece].append(literal)
        for literals in covering.values():
            self.model.add_at_most_one(literals)

    def mask(self, way: Way) -> int:
        """The slices that a way takes, as bits."""
        geometry = self.ledger.cluster.nodes[int(self.ledger.node_of[way.row])].gpu_type.mig
        profile = None if way.mig is None or geometry is None else geometry.profile(way.mig.profile)
        return 0 if profile is None or way.mig is None else profile.mask(way.mig.start)

    def on_node(self, name: str, n: int) -> Any:
        """Whether the instance is on node `n`, as an expression."""
        together = [*self.gang[name].items(), *self.split[name].items()]
        whole = {} if self.gang[name] else self.whole[name]
        return sum(literal for (node, _), literal in together if node == n) + sum(
            literal for way, literal in whole.items() if way.row in self.rows_of[n]
        )

    def _add_host_capacities(self) -> None:
        """CPU and host memory per node that has limits."""
        demands = [(each.name, (each.cpu_milli, each.host_memory_mib)) for each in self.instances]
        for resource in range(2):
            takers = [(name, demand[resource]) for name, demand in demands if demand[resource]]
            for n in self.rows_of if takers else ():
                free = int(self.ledger.host_free[n, resource])
                if sum(demand for _, demand in takers) > free:
                    self.model.add(sum(demand * self.on_node(name, n) for name, demand in takers) <= free)

    def _forbid_meetings(self) -> None:
        """Anti-affinity among the instances themselves; against booked ones it is in the rows each may use."""
        members: defaultdict[str, list[Instance]] = defaultdict(list)
        for instance in self.instances:
            members[instance.function].append(instance)
        refusing: defaultdict[str, list[Instance]] = defaultdict(list)
        for instance in self.instances:
            for function in instance.anti_affinity:
                refusing[function].append(instance)
        for function, those in refusing.items():
            spread = {each.name for each in those if each.function == function}
            others = [each.name for each in members[function] if each.name not in spread]
            for row in self.rows:
                here = self.on_row[row]
                alone = [here[name] for name in spread if name in here]
                near = [here[name] for name in others if name in here]
                if len(alone) > 1:
                    self.model.add(sum(alone) <= 1)
                for instance in those if near or alone else ():
                    if instance.name not in here:
                        continue
                    refused = near if instance.name in spread else near + alone
                    if refused:
                        self.model.add(sum(refused) <= len(refused) * (1 - here[instance.name]))

    def way_within(self, name: str, way: Way) -> Way:
        """The offered way that takes no more than `way`, a partition that may have been left out."""
        if way in self.whole[name]:
            return way
        mask = self.mask(way)
        for other in self.whole[name]:
            alike = (other.row, other.memory_mib, other.configuration) == (way.row, way.memory_mib, way.configuration)
            if alike and not self.mask(other) & ~mask:
                return other
        return way

    def _alike(self) -> tuple[list[list[int]], list[list[int]]]:
        """Groups of empty rows within a node, and of empty nodes, that are interchangeable: nobody runs there now."""
        occupied = {row for booking in self.current.values() for row in booking.gpus}
        rows = [[row for row in each if row in self.used and row not in occupied] for each in self.rows_of.values()]
        nodes: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
        for (n, each), free in zip(self.rows_of.items(), rows, strict=True):
            if len(free) == len(each):
                kind = self.ledger.cluster.nodes[n].gpu_type.name
                nodes[kind, len(each), *self.ledger.host_free[n].tolist()].append(n)
        return [each for each in rows if len(each) > 1], [each for each in nodes.values() if len(each) > 1]

    def _break_symmetry(self) -> None:
        for group in self.alike_rows:
            for one, other in pairwise(group):
                self.model.add_implication(self.used[other], self.used[one])
        for group in self.alike_nodes:
            for a, b in pairwise(group):
                used = [sum(self.used[row] for row in self.rows_of[n]) for n in (a, b)]
                self.model.add(used[0] >= used[1])


Partition = tuple[MigSlice, int, int]
"""A partition, the slices it covers as bits, and its share."""


def all_partitions(geometry: MigGeometry, request_milli: int, memory_mib: int) -> list[Partition]:
    """The partitions that give this share and memory."""
    return [
        (MigSlice(profile.name, start), profile.mask(start), profile.share_milli)
        for profile in geometry.sufficient(request_milli, memory_mib)
        for start in profile.starts
    ]


def useful_partitions(geometry: MigGeometry, request_milli: int, memory_mib: int) -> list[Partition]:
    """Those that contain no other with no more share: a smaller one leaves more slices, and books no more limit."""
    found: list[Partition] = []
    for each in sorted(all_partitions(geometry, request_milli, memory_mib), key=lambda p: (p[1].bit_count(), p[2])):
        if not any(mask & ~each[1] == 0 and share <= each[2] for _, mask, share in found):
            found.append(each)
    return found


def useful_configurations(instance: Instance, running: int | None) -> list[int]:
    """Numbers of the configurations worth offering: the `running` one, and those no lower-numbered one dominates.

    Dominated means to want no less of anything. Where it may be split, the memory must be the same: more of it can lie
    in more parts.
    """

    def dominates(a: Configuration, b: Configuration) -> bool:
        one, other = (sorted(each.memory_per_gpu_mib(instance.gpus)) for each in (a, b))
        less = one == other if instance.splittable else all(x <= y for x, y in zip(one, other, strict=True))
        return less and a.request_milli <= b.request_milli and a.limit_milli <= b.limit_milli

    every = instance.configurations
    return [
        c for c, each in enumerate(every) if c == running or not any(dominates(every[low], each) for low in range(c))
    ]
