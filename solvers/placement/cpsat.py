"""The best placement of some instances on a few nodes, exactly: small problems whole, large ones part by part.

Given a ledger from which the instances in question are crossed out, CP-SAT chooses slots on the given nodes that leave
the fewest instances out and then cost least by the caller's `Objective`. Every rule of `dilu_core.verification` is a
constraint (`dilu_core.solvers.placement.cpsat_model`). One worker, a fixed seed and a limit in deterministic time make
the answer independent of the machine's load.

A lexicographic objective is one weighted sum, in which the least gain in a term outweighs all that those after it can
lose, as long as the weights stay small; otherwise it is solved term by term.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from dilu_core.cluster import Instance
from dilu_core.solvers.placement.bookings import Booking, Bookings
from dilu_core.solvers.placement.cpsat_model import Model, Way
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.value import is_moved

_GREATEST_SUM = 2**45
"""Weighted sums up to here are exact in CP-SAT and in the floats it prunes with."""


@dataclass(frozen=True)
class Assignment:
    """Bookings found for the instances that could be placed, and whether they are proven best."""

    bookings: dict[str, Booking]
    is_optimal: bool


@dataclass(frozen=True)
class _Term:
    """Something to minimise, and the most it can be."""

    cost: Any
    most: int


def assign(
    ledger: Bookings,
    nodes: Sequence[int],
    instances: Sequence[Instance],
    *,
    hint: Mapping[str, Booking],
    current: Mapping[str, Booking],
    objective: Objective | None = None,
    most_moves: int | None = None,
    deterministic_s: float = 1.0,
    time_limit_s: float = 10.0,
    seed: int = 0,
) -> Assignment | None:
    """The best placement of `instances` on `nodes` of `ledger`, or `None` where none was found within the limits.

    `hint` is a known placement to start from. Instances in `current` run there now: they stay placed, and at most
    `most_moves` of them move. Booked instances count in no term but `gpus` and `nodes`, where the GPUs they hold are
    in use anyway.
    """
    model = Model(ledger, nodes, instances, current)
    if most_moves is not None and model.moved:
        model.model.add(sum(model.moved.values()) <= most_moves)
    _add_hint(model, hint)
    deadline = time.perf_counter() + time_limit_s
    found: dict[str, Booking] | None = None
    for cost in _stages(model, Objective() if objective is None else objective):
        model.model.minimize(cost)
        solver = _solver(deterministic_s, max(0.0, deadline - time.perf_counter()), seed)
        status = solver.solve(model.model)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None if found is None else Assignment(found, False)
        found = _read(model, solver)
        if status != cp_model.OPTIMAL:
            return Assignment(found, False)
        model.model.add(cost == round(solver.objective_value))
        deterministic_s = max(deterministic_s - solver.response_proto.deterministic_time, 0.1 * deterministic_s)
        _hint_solution(model, solver)
    return Assignment(found or {}, True)


def _solver(deterministic_s: float, seconds: float, seed: int) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % 2**31
    solver.parameters.max_deterministic_time = deterministic_s
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.catch_sigint_signal = False
    return solver


def _stages(model: Model, objective: Objective) -> list[Any]:
    """Sums to minimise one after the other: instances left out, then the objective's terms, weighted together."""
    terms = _terms(model, objective)
    unplaced = _Term(len(model.instances) - sum(model.placed.values()), len(model.instances))
    if objective.weights is None:
        order = [unplaced, *(terms[name] for name in objective.order)]
    else:
        weighted = [(weight, terms[name]) for name, weight in objective.weights.items() if weight]
        order = [unplaced, _Term(sum(w * t.cost for w, t in weighted), sum(w * t.most for w, t in weighted))]
    order = [term for term in order if term.most]
    stages: list[Any] = []
    while order:
        cost, most = order[0].cost, order[0].most
        count = 1
        while count < len(order) and (most + 1) * (order[count].most + 1) <= _GREATEST_SUM:
            scale = order[count].most + 1
            cost, most = scale * cost + order[count].cost, scale * most + order[count].most
            count += 1
        stages.append(cost)
        order = order[count:]
    return stages


def _terms(model: Model, objective: Objective) -> dict[str, _Term]:
    """What each term of the objective is in the model's variables; only of those that count."""
    splits = [literal for each in model.split.values() for literal in each.values()]
    parts = [literal for each in model.part.values() for literal in each.values()]
    found = {
        "gpus": _Term(sum(model.used.values()), len(model.used)),
        "nodes": _Term(sum(model.node_used.values()), len(model.node_used)),
        "moves": _Term(sum(model.moved.values()), len(model.moved)),
        "splits": _Term(sum(splits), sum(1 for each in model.split.values() if each)),
        "split_parts": _Term(sum(parts), len(parts)),
        "configurations": _configurations(model),
    }
    if "affinities" in objective.terms:
        lonely = [_is_lonely(model, instance) for instance in model.instances if instance.affinity]
        found["affinities"] = _Term(sum(lonely), len(lonely))
    return found


def _configurations(model: Model) -> _Term:
    """The sum of the numbers of the configurations chosen."""
    chosen = []
    for instance in model.instances:
        if instance.gpus > 1:
            chosen += [c * literal for (_, c), literal in model.gang[instance.name].items() if c]
        else:
            chosen += [way.configuration * lit for way, lit in model.whole[instance.name].items() if way.configuration]
            chosen += [c * literal for (_, c), literal in model.split[instance.name].items() if c]
    return _Term(sum(chosen), sum(len(instance.alternatives) for instance in model.instances))


def _is_lonely(model: Model, instance: Instance) -> Any:
    """Whether `instance` shares no GPU with any of the functions it would rather sit beside."""
    name, ledger = instance.name, model.ledger
    friends = [other.name for other in model.instances if other.function in instance.affinity and other.name != name]
    booked = {row for function in instance.affinity for row in ledger.function_on.get(function, ())}
    beside = []
    for row in model.rows:
        here = model.on_row[row]
        near = [here[friend] for friend in friends if friend in here]
        if name in here and row in booked:
            beside.append(here[name])
        elif name in here and near:
            both = model.model.new_bool_var("")
            model.model.add(both <= here[name])
            model.model.add(both <= sum(near))
            beside.append(both)
    lonely = model.model.new_bool_var("")
    model.model.add(lonely + sum(beside) >= 1)
    return lonely


def _add_hint(model: Model, hint: Mapping[str, Booking]) -> None:
    """Tell the solver a placement to start from, with GPUs and nodes that are alike swapped into the order of use."""
    add = model.model.add_hint
    swap = _in_order_of_use(model, hint)
    used: set[int] = set()
    for name, whole in model.whole.items():
        booking = hint.get(name)
        slots: dict[int, tuple[int, int]] = {}
        taken: set[Way] = set()
        if booking is not None:
            c = booking.configuration
            slots = {swap.get(r, r): (c, mib) for r, mib in zip(booking.gpus, booking.memory_mib, strict=True)}
            if not booking.is_split:
                taken = {Way(row, mib, c) for row, (_, mib) in slots.items()}
                if booking.mig:
                    taken = {model.way_within(name, Way(next(iter(slots)), booking.memory_mib[0], c, booking.mig[0]))}
            used.update(slots)
        split = booking is not None and booking.is_split
        for way, literal in whole.items():
            add(literal, way in taken)
        for (row, c), literal in model.part[name].items():
            here = split and slots.get(row, (-1, 0))[0] == c
            add(literal, here)
            add(model.part_mib[name][row, c], slots[row][1] if here else 0)
        for literals, wanted in ((model.gang[name], True), (model.split[name], split)):
            for (n, c), literal in literals.items():
                add(literal, wanted and any(row in model.rows_of[n] and slots[row][0] == c for row in slots))
        if name in model.moved:
            add(model.moved[name], booking is None or is_moved(booking, model.current[name]))
    for row, literal in model.used.items():
        add(literal, row in used)
    for n, literal in model.node_used.items():
        add(literal, any(row in used for row in model.rows_of[n]))


def _in_order_of_use(model: Model, hint: Mapping[str, Booking]) -> dict[int, int]:
    """For rows that are alike, where to hint what is on them, so that those in use come first."""
    used = {row for booking in hint.values() for row in booking.gpus}
    swap: dict[int, int] = {}
    for group in model.alike_rows:
        swap.update(zip(sorted(group, key=lambda row: row not in used), group, strict=True))
    for nodes in model.alike_nodes:
        ranked = sorted(nodes, key=lambda n: -sum(row in used for row in model.rows_of[n]))
        to = dict(zip(ranked, nodes, strict=True))
        for n in nodes:
            for row in model.rows_of[n]:
                within = swap.get(row, row) - model.rows_of[n].start
                swap[row] = model.rows_of[to[n]].start + within
    return swap


def _hint_solution(model: Model, solver: cp_model.CpSolver) -> None:
    """Start the next stage from the solution of this one."""
    model.model.clear_hints()  # type: ignore[no-untyped-call]
    for i in range(len(model.model.proto.variables)):
        variable = model.model.get_int_var_from_proto_index(i)
        model.model.add_hint(variable, solver.value(variable))


def _read(model: Model, solver: cp_model.CpSolver) -> dict[str, Booking]:
    """The bookings of the solution."""
    found = {}
    for instance in model.instances:
        name = instance.name
        ways = [way for way, literal in model.whole[name].items() if solver.boolean_value(literal)]
        parts = [
            Way(row, solver.value(model.part_mib[name][row, c]), c)
            for (row, c), literal in model.part[name].items()
            if solver.boolean_value(literal)
        ]
        slots = ways + parts
        if slots:
            rows, memory = tuple(way.row for way in slots), tuple(way.memory_mib for way in slots)
            mig = tuple(way.mig for way in slots if way.mig is not None)
            found[name] = Booking(instance, rows, memory, slots[0].configuration, mig)
    return found
