"""An exact CP-SAT model of placement on a few nodes: small problems whole, large ones one neighbourhood at a time.

Given a ledger from which the instances in question are crossed out, choose slots on the given nodes that are best by,
in this order: instances placed, GPUs used, instances moved from where they run, parts of split instances, affinities
met. Every rule of `dilu_core.verification` is a constraint. One worker, a fixed seed and a limit in deterministic time
make the answer independent of the machine's load.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from dilu_core.cluster import Instance
from dilu_core.solvers.placement.bookings import Booking, Bookings


@dataclass(frozen=True)
class Assignment:
    """Bookings found for the instances that could be placed, and whether they are proven best."""

    bookings: dict[str, Booking]
    is_optimal: bool


def assign(
    ledger: Bookings,
    nodes: Sequence[int],
    instances: Sequence[Instance],
    *,
    hint: Mapping[str, Booking],
    current: Mapping[str, Booking],
    most_moves: int | None = None,
    deterministic_s: float = 1.0,
    time_limit_s: float = 10.0,
    seed: int = 0,
) -> Assignment | None:
    """The best placement of `instances` on `nodes` of `ledger`, or `None` where none was found within the limits.

    `hint` is a known placement to start from. Instances in `current` run there now: they stay placed, and at most
    `most_moves` of them move.
    """
    model = _Model(ledger, nodes, instances, current)
    model.forbid_meetings()
    model.set_objective(most_moves)
    model.add_hint(hint)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % 2**31
    solver.parameters.max_deterministic_time = deterministic_s
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(model.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    return Assignment(model.read(solver), status == cp_model.OPTIMAL)


class _Model:
    """Variables by instance name and row: `whole` (all of its memory there) and, for a split, `part` and `part_mib`."""

    def __init__(
        self, ledger: Bookings, nodes: Sequence[int], instances: Sequence[Instance], current: Mapping[str, Booking]
    ) -> None:
        self.ledger, self.instances, self.current = ledger, instances, current
        self.model = cp_model.CpModel()
        starts = ledger.node_start
        self.rows_of = {n: range(int(starts[n]), int(starts[n + 1])) for n in nodes}
        self.rows = [row for n in nodes for row in self.rows_of[n]]
        self.whole: dict[str, dict[tuple[int, int], Any]] = {}  # name -> (row, memory) -> literal
        self.part: dict[str, dict[int, Any]] = {}
        self.part_mib: dict[str, dict[int, Any]] = {}
        self.on_node: dict[str, dict[int, Any]] = {}
        self.placed: dict[str, Any] = {}
        self.moved: dict[str, Any] = {}
        self.on_row: defaultdict[int, dict[str, Any]] = defaultdict(dict)  # row -> name -> literal or sum of literals
        self.used = {row: self.model.new_bool_var("") for row in self.rows if ledger.held[row] == 0}
        for instance in instances:
            self._add_instance(instance)
        self._add_capacities()

    def _add_instance(self, instance: Instance) -> None:
        """One node, the right number of rows on it, and the memory each takes."""
        model, name = self.model, instance.name
        allowed = [row for row in self.rows if self._allows(instance, row)]
        free = self.ledger.free
        sizes = sorted(set(instance.memory_per_gpu_mib))
        whole = {
            (row, mib): model.new_bool_var("")
            for row in allowed
            for mib in sizes
            if free[row, 1] >= instance.limit_milli and free[row, 2] >= mib
        }
        part: dict[int, Any] = {}
        if instance.splittable and sizes[0] > 1:
            part = {row: model.new_bool_var("") for row in allowed if free[row, 2] > 0}
        mib = {r: model.new_int_var(0, min(int(free[r, 2]), sizes[0] - 1), "") for r in part}
        self.whole[name], self.part[name], self.part_mib[name] = whole, part, mib
        for row, literal in part.items():
            model.add(mib[row] >= literal)
            model.add(mib[row] <= min(int(free[row, 2]), sizes[0] - 1) * literal)
        self.placed[name] = model.new_bool_var("")
        nodes = {}
        for node, rows in self.rows_of.items():
            here = nodes[node] = model.new_bool_var("")
            by_size = {size: [whole[row, size] for row in rows if (row, size) in whole] for size in sizes}
            split_here = model.new_bool_var("") if any(row in part for row in rows) else 0
            for size, literals in by_size.items():
                model.add(sum(literals) == instance.memory_per_gpu_mib.count(size) * (here - split_here))
            if not isinstance(split_here, int):
                parts = [row for row in rows if row in part]
                model.add(sum(mib[row] for row in parts) == sizes[0] * split_here)
                model.add(sum(part[row] for row in parts) >= 2 * split_here)
                for row in parts:
                    model.add_implication(part[row], split_here)
                model.add_implication(split_here, here)
            for row in rows:
                slots = [whole[row, size] for size in sizes if (row, size) in whole]
                slots += [part[row]] if row in part else []
                if slots:
                    model.add_at_most_one(slots)
                    self.on_row[row][name] = sum(slots) if len(slots) > 1 else slots[0]
                for literal in slots if row in self.used else ():
                    model.add_implication(literal, self.used[row])
        self.on_node[name] = nodes
        model.add(sum(nodes.values()) == self.placed[name])
        if name in self.current:
            self._add_move(instance, self.current[name])

    def _allows(self, instance: Instance, row: int) -> bool:
        types = instance.gpu_types
        return bool(
            self.ledger.free[row, 0] >= instance.request_milli
            and self.ledger.free[row, 1] >= instance.request_milli
            and row not in self.ledger.rows_refusing(instance)
            and not (types is not None and self.ledger.rows_of_other_types(types)[row])
        )

    def _add_move(self, instance: Instance, current: Booking) -> None:
        """A running instance stays placed; it has moved unless it holds every slot it holds now."""
        model, name = self.model, instance.name
        moved = self.moved[name] = model.new_bool_var("")
        model.add(self.placed[name] == 1)
        for row, mib in zip(current.gpus, current.memory_mib, strict=True):
            if current.is_split:
                kept = self.part[name].get(row)
                if kept is not None:
                    model.add(self.part_mib[name][row] == mib).only_enforce_if(~moved)
            else:
                kept = self.whole[name].get((row, mib))
            model.add(moved == 1) if kept is None else model.add_bool_or(moved, kept)

    def _add_capacities(self) -> None:
        """Requests, limits and memory per row; an unused row holds nothing."""
        by_name = {instance.name: instance for instance in self.instances}
        for row in self.rows:
            terms: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
            for name in self.on_row[row]:
                instance = by_name[name]
                for mib in set(instance.memory_per_gpu_mib):
                    literal = self.whole[name].get((row, mib))
                    if literal is not None:
                        terms[0].append(instance.request_milli * literal)
                        terms[1].append(instance.limit_milli * literal)
                        terms[2].append(mib * literal)
                if row in self.part[name]:
                    terms[0].append(instance.request_milli * self.part[name][row])
                    terms[1].append(instance.request_milli * self.part[name][row])
                    terms[2].append(self.part_mib[name][row])
            for resource, term in enumerate(terms):
                if term:
                    self.model.add(sum(term) <= int(self.ledger.free[row, resource]) * self.used.get(row, 1))

    def forbid_meetings(self) -> None:
        """Anti-affinity among the instances themselves; against booked ones it is in the rows each may use."""
        members: defaultdict[str, list[Instance]] = defaultdict(list)
        for instance in self.instances:
            members[instance.function].append(instance)
        for instance in self.instances:
            for refused in instance.anti_affinity:
                others = [other.name for other in members.get(refused, ()) if other.name != instance.name]
                for row in self.rows:
                    here = self.on_row[row]
                    if instance.name not in here:
                        continue
                    there = [here[name] for name in others if name in here]
                    if there:
                        self.model.add(sum(there) <= len(there) * (1 - here[instance.name]))

    def set_objective(self, most_moves: int | None) -> None:
        """Weigh the aims so that the least gain in one outweighs all that those after it can lose."""
        met = [self._affinity(instance) for instance in self.instances if instance.affinity]
        parts = [literal for literals in self.part.values() for literal in literals.values()]
        moves = list(self.moved.values())
        if most_moves is not None and moves:
            self.model.add(sum(moves) <= most_moves)
        cost: Any = -sum(met)
        weight = len(met) + 1
        for terms in (parts, moves, list(self.used.values())):
            cost += weight * sum(terms)
            weight *= len(terms) + 1
        self.model.minimize(cost - weight * sum(self.placed.values()))

    def _affinity(self, instance: Instance) -> Any:
        """Whether `instance` shares a GPU with one of the functions it would rather sit beside."""
        friends = [
            other.name
            for other in self.instances
            if other.function in instance.affinity and other.name != instance.name
        ]
        booked = {row for function in instance.affinity for row in self.ledger.function_on.get(function, ())}
        beside = []
        for row in self.rows:
            here = self.on_row[row]
            near = [here[name] for name in friends if name in here]
            if instance.name in here and (near or row in booked):
                both = self.model.new_bool_var("")
                self.model.add(both <= here[instance.name])
                if row not in booked:
                    self.model.add(both <= sum(near))
                beside.append(both)
        met = self.model.new_bool_var("")
        self.model.add(met <= sum(beside))
        return met

    def add_hint(self, hint: Mapping[str, Booking]) -> None:
        """Tell the solver a placement to start from."""
        model = self.model
        hinted_rows: set[int] = set()
        for instance in self.instances:
            name = instance.name
            booking = hint.get(name)
            slots = dict(zip(booking.gpus, booking.memory_mib, strict=True)) if booking else {}
            split = booking is not None and booking.is_split
            hinted_rows.update(slots)
            model.add_hint(self.placed[name], booking is not None)
            for (row, mib), literal in self.whole[name].items():
                model.add_hint(literal, not split and slots.get(row) == mib)
            for row, literal in self.part[name].items():
                model.add_hint(literal, split and row in slots)
                model.add_hint(self.part_mib[name][row], slots.get(row, 0) if split else 0)
            for node, literal in self.on_node[name].items():
                model.add_hint(literal, any(row in self.rows_of[node] for row in slots))
            if name in self.moved:
                now = self.current[name]
                same = slots == dict(zip(now.gpus, now.memory_mib, strict=True))
                model.add_hint(self.moved[name], not same)
        for row, literal in self.used.items():
            model.add_hint(literal, row in hinted_rows)

    def read(self, solver: cp_model.CpSolver) -> dict[str, Booking]:
        """The bookings of the solution."""
        found = {}
        for instance in self.instances:
            name = instance.name
            slots = [at for at, literal in self.whole[name].items() if solver.boolean_value(literal)]
            slots += [
                (row, solver.value(self.part_mib[name][row]))
                for row, literal in self.part[name].items()
                if solver.boolean_value(literal)
            ]
            if slots:
                found[name] = Booking(instance, tuple(row for row, _ in slots), tuple(mib for _, mib in slots))
        return found
