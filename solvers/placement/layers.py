"""CP-SAT over moves in layers: which instances move where and when, so that every step between has room.

Time is divided into `layers`. Within one layer every mover keeps its place or takes another, and holds both while the
layer lasts, so the moves of a layer can be carried out in any order. The next layer begins with the room they left: a
chain of n moves, each into the room of the one before, takes n layers, and a cycle takes one more through a spare
place. Newcomers are placed after the last layer.

    minimise    gpu_price * GPUs in use at the end + sum of move prices + way prices - sum of newcomers' worths

Columns are whole bookings (`dilu_core.solvers.placement.ways`), so gangs, splits, partitions and configurations need no
rules of their own. Deterministic for one worker and a limit in deterministic time.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ortools.sat.python import cp_model

from dilu_core.solvers.placement.bookings import Booking, Bookings


@dataclass
class Mover:
    """A booked instance and the places it could take; prices are integers, in the unit of the objective."""

    held: Booking
    ways: list[Booking]
    price: int = 1
    way_price: list[int] = field(default_factory=list)


@dataclass
class Newcomer:
    """An instance without a place, the places it could take after the moves, and what letting it in is worth."""

    ways: list[Booking]
    worth: int


@dataclass(frozen=True)
class Layout:
    """What was found: the bookings each layer changes, those of newcomers, and whether it is proven best."""

    layers: list[list[Booking]]
    newcomers: list[Booking]
    is_optimal: bool


def solve_layers(
    ledger: Bookings,
    movers: Sequence[Mover],
    newcomers: Sequence[Newcomer],
    *,
    layers: int,
    most_moves: int,
    gpu_price: int,
    deterministic_s: float,
    time_limit_s: float,
    seed: int = 0,
) -> Layout | None:
    """The cheapest plan, or `None` where none was found within the limits; `ledger` is read, not changed."""
    started = time.perf_counter()
    model = _Model(ledger, movers, newcomers, layers)
    model.add_capacities()
    model.set_objective(most_moves, gpu_price)
    left = time_limit_s - (time.perf_counter() - started)
    if left <= 0:
        return None
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % 2**31
    solver.parameters.max_deterministic_time = deterministic_s
    solver.parameters.max_time_in_seconds = left
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(model.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return Layout(*model.read(solver), status == cp_model.OPTIMAL)


class _Model:
    """`at[i][t][w]`: mover i is on its way w after layer t (w = 0: where it is held); `comes[j][w]`: newcomer j."""

    def __init__(self, ledger: Bookings, movers: Sequence[Mover], newcomers: Sequence[Newcomer], layers: int) -> None:
        self.ledger, self.movers, self.newcomers, self.layers = ledger, movers, newcomers, layers
        model = self.model = cp_model.CpModel()
        self.ways = [[mover.held, *mover.ways] for mover in movers]
        self.at: list[list[list[Any]]] = []
        self.leaves: list[Any] = []
        for ways in self.ways:
            first: list[Any] = [1] + [0] * (len(ways) - 1)
            at: list[list[Any]] = [first]
            for t in range(1, layers + 1):
                now = [model.new_bool_var("") for _ in ways]
                model.add_exactly_one(now)
                if t == 1:
                    model.add_hint(now[0], 1)
                at.append(now)
            self.at.append(at)
        self.comes = [[model.new_bool_var("") for _ in each.ways] for each in newcomers]
        for literals in self.comes:
            if literals:
                model.add_at_most_one(literals)

    def add_capacities(self) -> None:
        """Room on every GPU, host and partition: in every layer for both places of a mover, and at the end."""
        for t in range(1, self.layers + 1):
            self._limit([self._during(i, t) for i in range(len(self.movers))])
        if self.newcomers:
            last = [list(zip(ways, at[-1], strict=True)) for ways, at in zip(self.ways, self.at, strict=True)]
            coming = [
                list(zip(each.ways, literals, strict=True))
                for each, literals in zip(self.newcomers, self.comes, strict=True)
            ]
            self._limit(last + coming)

    def _during(self, i: int, t: int) -> list[tuple[Booking, Any]]:
        """(way, whether mover i holds it at some time in layer t)."""
        held = []
        before, after = self.at[i][t - 1], self.at[i][t]
        for way, old, new in zip(self.ways[i], before, after, strict=True):
            if isinstance(old, int):
                held.append((way, 1 if old else new))
                continue
            either = self.model.new_bool_var("")
            self.model.add_implication(old, either)
            self.model.add_implication(new, either)
            held.append((way, either))
        return held

    def _limit(self, groups: list[list[tuple[Booking, Any]]]) -> None:
        """No GPU, host or partition holds more than it has; each group is one instance and what it may hold at once."""
        model, ledger = self.model, self.ledger
        amounts: defaultdict[tuple[str, int], list[tuple[int, Any]]] = defaultdict(list)
        slices: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
        on_row: defaultdict[int, list[tuple[Booking, Any]]] = defaultdict(list)
        own: defaultdict[tuple[str, int], int] = defaultdict(int)  # what movers hold now, to be given back
        for g, group in enumerate(groups):
            on_gpu: defaultdict[int, list[tuple[tuple[int, int, int], Any]]] = defaultdict(list)
            for w, (way, literal) in enumerate(group):
                for row, demand in demands(ledger, way):
                    if g < len(self.movers) and w == 0:
                        for k in range(3):
                            own["rlm"[k], row] += demand[k]
                    if way.mig:  # another partition of the same GPU is held beside this one
                        for k in range(3):
                            amounts["rlm"[k], row].append((demand[k], literal))
                    else:
                        on_gpu[row].append((demand, literal))
                    on_row[row].append((way, literal))
                instance, node = way.instance, int(ledger.node_of[way.gpus[0]])
                for key, amount in (("c", instance.cpu_milli), ("h", instance.host_memory_mib)):
                    if amount:
                        amounts[key, node].append((amount, literal))
                        own[key, node] += amount if g < len(self.movers) and w == 0 else 0
                for part in way.mig:
                    geometry = ledger.cluster.gpu_types[int(ledger.node_type[node])].mig
                    assert geometry is not None
                    profile = next(p for p in geometry.profiles if p.name == part.profile)
                    for bit in range(part.start, part.start + profile.slices):
                        slices[way.gpus[0], bit].append(literal)
            for row, ways in on_gpu.items():
                for k, terms in enumerate(self._greatest(ways)):
                    amounts["rlm"[k], row] += terms
        for (resource, place), terms in amounts.items():
            free = ledger.host_free[place] if resource in "ch" else ledger.free[place]
            room = int(free["rlm".find(resource) if resource in "rlm" else "ch".find(resource)])
            room += own[resource, place]
            if sum(amount for amount, _ in terms) > room:
                model.add(sum(amount * literal for amount, literal in terms) <= room)
        for literals in slices.values():
            if len(literals) > 1:
                model.add(sum(literals) <= 1)
        for here in on_row.values():
            here = _at_odds(here)
            for a, (one, one_held) in enumerate(here):
                for other, other_held in here[:a]:
                    if one.instance.name != other.instance.name and refuse(one, other):
                        model.add(one_held + other_held <= 1)

    def _greatest(self, ways: list[tuple[tuple[int, int, int], Any]]) -> list[list[tuple[int, Any]]]:
        """Terms whose sum is the greatest demand among the ways held, of each resource: each term is a rise."""
        held: dict[tuple[int, ...], Any] = {}  # by the ways meant, whether one of them is
        terms = []
        for k in range(3):
            levels = sorted({demand[k] for demand, _ in ways})
            rises = []
            for below, level in zip([0, *levels], levels, strict=False):
                chosen = tuple(w for w, (demand, _) in enumerate(ways) if demand[k] >= level)
                if chosen not in held:
                    held[chosen] = self._any([ways[w][1] for w in chosen])
                rises.append((level - below, held[chosen]))
            terms.append(rises)
        return terms

    def _any(self, literals: list[Any]) -> Any:
        """A literal that is true where one of these is."""
        if len(literals) == 1:
            return literals[0]
        if any(isinstance(literal, int) and literal == 1 for literal in literals):
            return 1
        either = self.model.new_bool_var("")
        for literal in literals:
            if not isinstance(literal, int):
                self.model.add_implication(literal, either)
        return either

    def set_objective(self, most_moves: int, gpu_price: int) -> None:
        """Prices, and the budget of moves."""
        model, moved, cost = self.model, list[Any](), list[Any]()
        for i, mover in enumerate(self.movers):
            for t in range(1, self.layers + 1):
                changes = model.new_bool_var("")
                for before, after in zip(self.at[i][t - 1], self.at[i][t], strict=True):
                    if isinstance(before, int) and before == 0:
                        model.add_implication(after, changes)
                    elif not isinstance(before, int):
                        model.add(changes >= after - before)
                moved.append(changes)
                cost.append(mover.price * changes)
            cost += [price * at for price, at in zip(mover.way_price, self.at[i][-1][1:], strict=False) if price]
        if moved:
            model.add(sum(moved) <= most_moves)
        for newcomer, literals in zip(self.newcomers, self.comes, strict=True):
            cost += [(way.configuration - newcomer.worth) * at for way, at in zip(newcomer.ways, literals, strict=True)]
        if gpu_price:
            cost += [gpu_price * used for used in self._used()]
        model.minimize(sum(cost))

    def _used(self) -> list[Any]:
        """A literal for each GPU that only movers and newcomers hold, true where it holds one at the end."""
        stays: defaultdict[int, list[Any]] = defaultdict(list)
        mine: defaultdict[int, int] = defaultdict(int)
        for ways, at in zip(self.ways, self.at, strict=True):
            for row in ways[0].gpus:
                mine[row] += 1
            for way, literal in zip(ways, at[-1], strict=True):
                for row in way.gpus:
                    stays[row].append(literal)
        for newcomer, literals in zip(self.newcomers, self.comes, strict=True):
            for way, literal in zip(newcomer.ways, literals, strict=True):
                for row in way.gpus:
                    stays[row].append(literal)
        found = []
        for row, literals in stays.items():
            if int(self.ledger.held[row]) > mine[row]:
                continue  # something that stays keeps it in use
            used = self.model.new_bool_var("")
            for literal in literals:
                self.model.add_implication(literal, used)
            found.append(used)
        return found

    def read(self, solver: cp_model.CpSolver) -> tuple[list[list[Booking]], list[Booking]]:
        """What each layer changes, and where newcomers go."""
        layers = []
        for t in range(1, self.layers + 1):
            changed = []
            for i, ways in enumerate(self.ways):
                now = next(w for w, literal in enumerate(self.at[i][t]) if solver.boolean_value(literal))
                before = next(
                    w
                    for w, literal in enumerate(self.at[i][t - 1])
                    if (literal if isinstance(literal, int) else solver.boolean_value(literal))
                )
                if now != before:
                    changed.append(ways[now])
            layers.append(changed)
        coming = [
            way
            for newcomer, literals in zip(self.newcomers, self.comes, strict=True)
            for way, literal in zip(newcomer.ways, literals, strict=True)
            if solver.boolean_value(literal)
        ]
        return layers, coming


def _at_odds(here: list[tuple[Booking, Any]]) -> list[tuple[Booking, Any]]:
    """Those that refuse somebody here, or whom somebody refuses."""
    refused = {function for way, _ in here for function in way.instance.anti_affinity}
    there = {way.instance.function for way, _ in here}
    return [
        (way, held)
        for way, held in here
        if way.instance.function in refused or not there.isdisjoint(way.instance.anti_affinity)
    ]


def demands(ledger: Bookings, booking: Booking) -> list[tuple[int, tuple[int, int, int]]]:
    """(row, (request, limit, memory)) for every GPU of a booking."""
    limit = booking.limit_milli
    if booking.mig:
        limit = min(limit, ledger.partitions.share_milli(booking.gpus[0], booking.mig[0]))
    return [
        (row, (booking.request_milli, limit, memory))
        for row, memory in zip(booking.gpus, booking.memory_mib, strict=True)
    ]


def refuse(one: Booking, other: Booking) -> bool:
    """Whether anti-affinity, by either side's word, keeps the two off one GPU."""
    a, b = one.instance, other.instance
    return b.function in a.anti_affinity or (bool(a.function) and a.function in b.anti_affinity)
