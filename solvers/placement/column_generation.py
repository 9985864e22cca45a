"""Column generation: the linear program over all patterns of items that one GPU can hold, and the bound it proves.

    minimise    sum of GPUs over patterns                                        dual price
    subject to  whole items of type t in patterns + t that are split >= count_t      v_t
                parts in patterns >= least parts of those that are split             p_s
                memory that patterns leave for parts >= memory of those split        mu
                patterns on GPUs of a type <= GPUs of that type                     (only where there are several types)

(Gilmore and Gomory, 10.1287/opre.9.6.849.) The program holds few of the patterns: pricing finds those that improve it,
and proves by the way a bound at any prices (see `pattern_prices`). Two things make it converge in a dozen rounds:

    exchange    an item may take the place of one that dominates it and may do no more (such as be split). These
                columns change no optimum, as patterns stay patterns; they keep prices monotone (Valerio de Carvalho,
                "Using extra dual cuts to accelerate column generation", INFORMS J. Computing 2005,
                10.1287/ijoc.1030.0060).
    smoothing   patterns are priced half way between the prices of the program and the best known
                (Pessoa et al., 10.1287/ijoc.2017.0784).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from ortools.linear_solver import pywraplp  # type: ignore[import-untyped]

from dilu_core.cluster import Cluster, Instance, Oversubscription
from dilu_core.kernels.cpu.dominance import nearest_dominated
from dilu_core.kernels.cpu.first_fit import first_fit
from dilu_core.solvers.placement.item_types import ItemTypes, components, item_types
from dilu_core.solvers.placement.pattern_prices import NODES, UNIT, Patterns, certify, rounded

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Stop = Callable[[], bool]

_SMOOTHING = 0.5
_COLUMNS_PER_ROUND = 600
_EXCHANGES = 6  # per type: more make the program larger and no faster
_STARTERS = 4_000  # items of the packing that gives the first columns
_TOLERANCE = 1e-7
_NODES_PER_S = 20_000_000  # of pricing, at the least: it stops within about the time that is left
_FIRST_NODES = 6_000_000  # of pricing in a round; more only once they find nothing
_LONGEST_S = 1e6  # a solver's clock counts milliseconds in an integer
_GLOP = "use_preprocessing: false use_dual_simplex: false"  # so that each solve goes on from the last basis


@dataclass(frozen=True)
class Column:
    """A pattern: rows of item types that sit on one GPU of type `kind` together, and memory left there for parts."""

    kind: int
    items: tuple[int, ...]
    memory: int = 0


class MasterProgram:
    """The linear program over the columns so far, solved again from the last basis as columns come in.

    `solve` sets the optimum: `objective`; `item_price` (n_types,), `memory_price` of the memory of the largest GPU and
    `gpu_price` (n_kinds,) of a GPU beyond the one that it costs; `values` (n_columns,) GPUs that hold each column;
    `exchanged` (n_exchanges,) items that take the place of one that dominates them, for each pair of `exchanges`.
    """

    def __init__(self, types: ItemTypes) -> None:
        self.types = types
        self.columns: list[Column] = []
        self._known: set[Column] = set()
        self._solver = pywraplp.Solver.CreateSolver("GLOP")
        self._solver.SetSolverSpecificParametersAsString(_GLOP)
        self._cost = self._solver.Objective()
        self._cost.SetMinimization()
        infinity = self._solver.infinity()
        n_parts = len(types.demand) - types.n_whole
        self._rows = [self._solver.Constraint(float(n), infinity) for n in [*types.count.tolist(), *[0] * n_parts]]
        self._memory = self._solver.Constraint(0.0, infinity)
        self._memory_unit = float(types.capacity[:, 2].max())
        scarce = types.gpus.size > 1
        self._gpus = [self._solver.Constraint(-infinity, float(n)) for n in types.gpus.tolist()] if scarce else []
        self._variables: list[pywraplp.Variable] = []
        self._split = [
            self._variable(
                0.0,
                [
                    (self._rows[t], 1.0),
                    (self._rows[types.part[t]], -float(types.least_parts[t])),
                    (self._memory, -float(types.demand[t, 2]) / self._memory_unit),
                ],
            )
            for t in np.flatnonzero(types.part >= 0).tolist()
        ]
        self.exchanges = _exchanges(types)
        self._exchanged = [
            self._variable(0.0, [(self._rows[small], 1.0), (self._rows[large], -1.0)])
            for small, large in self.exchanges
        ]
        for kind in range(types.gpus.size):
            for t in types.fits(kind).tolist():
                self.add(Column(kind, (t,), int(types.capacity[kind, 2]) if t >= types.n_whole else 0))
        self.objective = math.inf
        self.item_price, self.memory_price, self.gpu_price = np.zeros(len(types.demand)), 0.0, np.zeros(types.gpus.size)
        self.values, self.exchanged = np.zeros(0), np.zeros(0)

    def _variable(self, cost: float, entries: list[tuple[pywraplp.Constraint, float]]) -> pywraplp.Variable:
        variable = self._solver.NumVar(0.0, self._solver.infinity(), "")
        self._cost.SetCoefficient(variable, cost)
        for row, coefficient in entries:
            row.SetCoefficient(variable, coefficient)
        return variable

    def add(self, column: Column) -> bool:
        """Take a column in, unless it is there."""
        if column in self._known:
            return False
        self._known.add(column)
        self.columns.append(column)
        entries = [(self._rows[t], float(column.items.count(t))) for t in set(column.items)]
        if column.memory:
            entries.append((self._memory, column.memory / self._memory_unit))
        if self._gpus:
            entries.append((self._gpus[column.kind], 1.0))
        self._variables.append(self._variable(1.0, entries))
        return True

    def solve(self, seconds: float) -> bool:
        """Whether the program was solved in that time; then prices and values are those of its optimum."""
        self._solver.SetTimeLimit(max(1, int(min(seconds, _LONGEST_S) * 1000)))
        if self._solver.Solve() != pywraplp.Solver.OPTIMAL:
            return False
        self.objective = self._cost.Value()
        self.item_price = np.maximum(np.array([row.dual_value() for row in self._rows]), 0.0)
        self.memory_price = max(0.0, self._memory.dual_value())
        self.gpu_price = np.array([max(0.0, -row.dual_value()) for row in self._gpus] or [0.0])
        self.values = np.array([variable.solution_value() for variable in self._variables])
        self.exchanged = np.array([variable.solution_value() for variable in self._exchanged])
        return True

    def demand(self, count: Sequence[int]) -> None:
        """Ask for other numbers of whole items."""
        for row, wanted in zip(self._rows, count, strict=False):
            row.SetLb(float(wanted))

    def keep_whole(self) -> None:
        """Allow no splits from now on."""
        for variable in self._split:
            variable.SetUb(0.0)


@dataclass(frozen=True)
class ColumnBound:
    """No placement of the instances uses fewer than `value` GPUs, by `proof`.

    `lp_value` is the optimum of the program over the columns found: no bound of this kind is greater, nor any packing
    by these columns smaller. `converged` says that no more can be proven in this way. `counts` holds the rounds, the
    columns and the item types. `generations` are the programs of instances that share GPU types, each with the indices
    of its instances; `columns` lists the patterns in use.
    """

    value: int
    proof: str
    lp_value: float
    converged: bool
    counts: Mapping[str, int]
    generations: tuple[tuple[ColumnGeneration, tuple[int, ...]], ...]

    @property
    def columns(self) -> tuple[UsedColumn, ...]:
        """The patterns of positive value in the program, the most used first."""
        found = [used for generation, _ in self.generations for used in generation.used()]
        return tuple(sorted(found, key=lambda used: -used.value))


@dataclass(frozen=True)
class UsedColumn:
    """A pattern in use: (request, limit, memory) of each item on one GPU of a type, and on how many such GPUs.

    A part of a split instance has its request as limit, and memory 0.
    """

    gpu_type: str
    items: tuple[tuple[int, int, int], ...]
    value: float


def column_bound(
    cluster: Cluster,
    caps: Oversubscription,
    instances: Sequence[Instance],
    *,
    patterns: Iterable[Sequence[int]] = (),
    target: int | None = None,
    deadline: float,
    stop: Stop | None = None,
    report: Callable[[int], None] | None = None,
) -> ColumnBound:
    """The best bound that column generation proves before `deadline` (of `time.perf_counter`).

    Each of the instances must fit the cluster when alone. `patterns` are instances, by index, that sit on one GPU
    together in some known placement: good ones save work. The work ends early as soon as the bound is `target`, or
    `stop()` is true, which is asked between rounds. `report` is told each better bound.
    """
    parts = [(kinds, members, item_types(cluster, caps, kinds, [instances[i] for i in members]))
             for kinds, members in components(cluster, instances)]  # fmt: skip
    generations = [ColumnGeneration(types) for _, _, types in parts]
    where = {i: (k, local) for k, (_, members, _) in enumerate(parts) for local, i in enumerate(members)}
    for pattern in patterns:
        homes = {where[i][0] for i in pattern}
        if len(homes) == 1:
            generations[homes.pop()].add_pattern([where[i][1] for i in pattern])
    for generation in generations:
        others = sum(each.value for each in generations if each is not generation)
        generation.run(
            deadline,
            target=None if target is None else target - others,
            stop=stop,
            report=None if report is None else _plus(report, others),
        )
    value = sum(each.value for each in generations)
    proof = (
        "column generation" if len(generations) == 1 else f"column generation on {len(generations)} sets of GPU types"
    )
    return ColumnBound(
        value,
        proof,
        sum(each.master.objective for each in generations),
        all(each.converged for each in generations),
        {
            "rounds": sum(each.rounds for each in generations),
            "columns": sum(len(each.master.columns) for each in generations),
            "item_types": sum(each.types.n_whole for each in generations),
        },
        tuple((generation, tuple(members)) for generation, (_, members, _) in zip(generations, parts, strict=True)),
    )


def _plus(report: Callable[[int], None], others: int) -> Callable[[int], None]:
    return lambda bound: report(bound + others)


class ColumnGeneration:
    """Column generation for instances that run on linked GPU types; `run` may be called again to go on."""

    def __init__(self, types: ItemTypes) -> None:
        self.types = types
        self.master = MasterProgram(types)
        self.bound = Fraction(0)
        self.rounds = 0
        self.converged = False
        self._nodes = self._effort = _FIRST_NODES
        self._centre: tuple[Floats, float] | None = None
        self._type_of_instance: dict[int, int] | None = None
        for column in _starters(types):
            self.master.add(column)

    def run(
        self, deadline: float, *, target: int | None = None, stop: Stop | None = None,
        report: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        """Generate columns until no more can be proven, the bound is `target`, the deadline, or `stop()`."""
        told = self.value
        while not self.converged and (target is None or self.value < target):
            left = deadline - time.perf_counter()
            if left <= 0 or (stop is not None and stop()) or not self.master.solve(left):
                return
            self._nodes = int(min(self._effort, _NODES_PER_S * max(0.02, deadline - time.perf_counter())))
            self._round()
            if report is not None and self.value > told:
                told = self.value
                report(told)

    def add_pattern(self, instances: Sequence[int]) -> None:
        """Take in a pattern known from a placement; where not all fit whole, those that may split are parts."""
        types = self.types
        if self._type_of_instance is None:
            self._type_of_instance = dict(zip(types.owner.tolist()[::-1], types.type_of.tolist()[::-1], strict=True))
        whole = [self._type_of_instance[i] for i in instances]
        for items in (whole, [int(types.part[t]) if types.part[t] >= 0 else t for t in whole]):
            demand = types.demand[items].sum(axis=0)
            for kind, capacity in enumerate(types.capacity):
                if (demand <= capacity).all() and types.allowed[types.group[items], kind].all():
                    left = int(capacity[2] - demand[2]) if max(items) >= types.n_whole else 0
                    self.master.add(Column(kind, tuple(sorted(items)), left))

    def used(self) -> list[UsedColumn]:
        """The patterns of positive value in the program when it was last solved."""
        if not math.isfinite(self.master.objective):
            return []
        demand = (self.types.demand * self.types.unit).tolist()
        values = self.master.values
        return [
            UsedColumn(
                self.types.gpu_types[self.master.columns[c].kind].name,
                tuple((demand[t][0], demand[t][1], demand[t][2]) for t in self.master.columns[c].items),
                float(values[c]),
            )
            for c in np.flatnonzero(values > 1e-6).tolist()
        ]

    @property
    def value(self) -> int:
        """The bound, rounded up to whole GPUs."""
        return math.ceil(self.bound)

    def _round(self) -> None:
        """Price once at smoothed prices, and at those of the program where that finds nothing."""
        self.rounds += 1
        item, memory = self.master.item_price, self.master.memory_price
        added = 0
        if self._centre is not None:
            centre, centre_memory = self._centre
            smooth = _SMOOTHING * centre + (1 - _SMOOTHING) * item
            added = self._price(smooth, _SMOOTHING * centre_memory + (1 - _SMOOTHING) * memory)
        if not added:
            added = self._price(item, memory)
        if not added and self._effort < NODES:
            self._effort *= 4  # the search was cut short, or this proves that there is no such pattern
            return
        self.converged = not added or self.value >= math.ceil(self.master.objective - 1e-6)

    def _price(self, at: Floats, memory_at: float) -> int:
        """Add the patterns best at some prices that improve the program at its own; returns how many."""
        found = certify(self.types, rounded(self.types, at, memory_at), self._thresholds(), self._nodes)
        if found.bound > self.bound:
            self.bound = found.bound
            scale = UNIT / found.gpu_price
            self._centre = (at * scale, memory_at * scale)
        return self._take(found.patterns)

    def improve(self, remaining: Ints) -> int:
        """Add columns that improve the program for the items that remain, made of these alone; returns how many."""
        item = self.master.item_price.copy()
        item[: remaining.size][remaining == 0] = 0.0
        item[remaining.size :] = 0.0
        found = certify(self.types, rounded(self.types, item, 0.0), self._thresholds(), self._nodes)
        return self._take(found.patterns)

    def _thresholds(self) -> tuple[int, ...]:
        """What a pattern must be worth on each type of GPU to improve the program."""
        return tuple(int((1 + each) * UNIT) for each in self.master.gpu_price.tolist())

    def _take(self, patterns: tuple[Patterns, ...]) -> int:
        """Add the patterns that improve the program most at its prices; returns how many."""
        master, better = self.master, []
        price = np.append(master.item_price, 0.0)
        unit = master.memory_price / float(self.types.capacity[:, 2].max())
        for each in patterns:
            worth = price[each.items].sum(axis=1) + each.memory * unit - 1 - master.gpu_price[each.kind]
            better += [(w, each, i) for i, w in enumerate(worth.tolist()) if w > _TOLERANCE]
        better.sort(key=lambda entry: -entry[0])
        return sum(master.add(_column(each, i)) for _, each, i in better[:_COLUMNS_PER_ROUND])


def _column(patterns: Patterns, i: int) -> Column:
    items = patterns.items[i]
    return Column(patterns.kind, tuple(sorted(items[items >= 0].tolist())), int(patterns.memory[i]))


def _exchanges(types: ItemTypes) -> list[tuple[int, int]]:
    """(dominated, dominating) pairs of whole types, and of types of parts."""
    n = types.n_whole
    whole = nearest_dominated(types.demand[:n], types.group[:n], types.freer, _EXCHANGES)
    parts = nearest_dominated(types.demand[n:], types.group[n:], types.freer, _EXCHANGES) + n
    return [*map(tuple, whole.tolist()), *map(tuple, parts.tolist())]


def _starters(types: ItemTypes) -> list[Column]:
    """Patterns of first-fit decreasing packings of (a sample of) the items, one packing for each GPU type."""
    found = []
    share = max(1.0, float(types.count.sum()) / _STARTERS)
    for kind, capacity in enumerate(types.capacity):
        rows = types.fits(kind)
        rows = rows[rows < types.n_whole]
        size = (types.demand[rows] / np.maximum(capacity, 1)).max(axis=1)
        rows = rows[np.argsort(-size, kind="stable")]
        order = np.repeat(rows, np.ceil(types.count[rows] / share).astype(np.int64))
        where, bins = first_fit(types.demand, order, capacity)
        held: list[list[int]] = [[] for _ in range(bins)]
        for t, b in zip(order.tolist(), where.tolist(), strict=True):
            held[b].append(t)
        found += [Column(kind, tuple(sorted(each))) for each in held]
    return found
