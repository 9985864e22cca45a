"""Trial searches on measured profile tables: how many cells they measure, and what the answer is worth.

    python bench/trial_search.py [--quick]

Every function of every table is searched under 12 budgets, 1.2 to 8 times its least latency, so that each is feasible.
Cells that a table lacks are blocked for ours, and misses for the others. Beside the guided search: the hybrid growth
search (HGSS) as published and with its faults mended, bisection of the share per batch, Optuna's TPE (where optuna is
installed) and random cells, both stopped after as many distinct cells as are named. Then the guided search on
generated tables (random rooflines with wiggles), with measurement noise, and with four trials at a time.

A trial is a distinct cell; measurements count repeats. Regret is the efficacy lost against the table's best cell within
the budget, by the table's own latency; a miss is an answer whose table latency exceeds the budget, and has no regret;
no answer at all is a regret of 100 %. Needs the measured data (DILU_DATA or ../shared/data).
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from profile_tables import profile_tables

from dilu_core.performance import RooflineModel
from dilu_core.quota import QuotaGrid
from dilu_core.result import TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.trials.search import TrialSearch

FACTORS = np.geomspace(1.2, 8.0, 12)
NOISE = 0.03
CAPS = (10, 20)  # distinct cells for TPE and random, which do not stop by themselves

Cell = tuple[int, int]
Tables = dict[tuple[str, str], ProfileSamples]


@dataclass
class Bench:
    """One table under one budget: what is asked of it is counted."""

    truth: dict[Cell, float]
    budget: float
    rng: np.random.Generator
    noise: float = 0.0
    order: list[Cell] = field(default_factory=list)
    measured: dict[Cell, float] = field(default_factory=dict)
    rounds: int = 0

    @property
    def batches(self) -> list[int]:
        return sorted({batch for batch, _ in self.truth})

    @property
    def shares(self) -> list[int]:
        return sorted({share for _, share in self.truth})

    def measure(self, cell: Cell) -> float:
        """The latency in ms, infinite where the table has none."""
        if cell not in self.truth:
            return math.inf
        self.order.append(cell)
        self.measured[cell] = self.truth[cell] * math.exp(self.noise * self.rng.standard_normal())
        return self.measured[cell]

    def meets(self, cell: Cell) -> bool:
        return (self.measured[cell] if cell in self.measured else self.measure(cell)) <= self.budget

    def best_measured(self) -> Cell | None:
        within = [cell for cell, latency in self.measured.items() if latency <= self.budget]
        return max(within, key=lambda cell: efficacy(cell, self.measured[cell]), default=None)


Answer = tuple[Cell | None, str]
Search = Callable[[Bench], Answer]


def efficacy(cell: Cell, latency: float) -> float:
    return 1e6 * cell[0] / (latency * cell[1])


@dataclass(frozen=True)
class Row:
    table: tuple[str, str]
    cells: int
    measurements: int
    rounds: int
    regret: float
    missed: bool
    certified: bool


def main(arguments: list[str]) -> None:
    """Print every comparison."""
    quick = "--quick" in arguments
    tables = profile_tables()
    seeds = 1 if quick else 5
    print(
        f"{len(tables)} functions, {len(FACTORS)} budgets each, from {FACTORS[0]} to {FACTORS[-1]} x the least latency"
    )
    print("\nmeasured tables, without noise")
    show("guided (ours)", rows := run(tables, guided), per_set=True)
    worst = sorted(rows, key=lambda row: -row.regret)[:3]
    print("    greatest regrets: " + ", ".join(f"{row.table[1]} {row.regret:.1%}" for row in worst))
    show("guided, tolerance 0.003", run(tables, lambda b: guided(b, tolerance=0.003)))
    show("guided, tolerance 0.03", run(tables, lambda b: guided(b, tolerance=0.03)))
    show("guided, 4 at a time", run(tables, lambda b: guided(b, parallel=4)))
    show("HGSS as published", run(tables, published_growth))
    show("HGSS mended (ours)", run(tables, lambda b: guided(b, strategy="hybrid-growth")))
    show("bisection per batch", run(tables, bisection_per_batch))
    for cap in CAPS:
        show(f"random, {cap} cells", run(tables, lambda b, n=cap: random_cells(b, n), seeds=seeds))
    if importlib.util.find_spec("optuna") is None:
        print("    Optuna TPE: skipped, optuna is not installed")
    else:
        for cap in CAPS:
            show(f"Optuna TPE, {cap} cells", run(tables, lambda b, n=cap: tpe(b, n)))
    print(f"\nmeasured tables, {NOISE:.0%} lognormal noise on every measurement, {seeds} seeds")
    show("guided (ours)", run(tables, guided, noise=NOISE, seeds=seeds), per_set=True)
    show("guided, guard 0", run(tables, lambda b: guided(b, guard=0.0), noise=NOISE, seeds=seeds))
    show("HGSS as published", run(tables, published_growth, noise=NOISE, seeds=seeds))
    show("HGSS mended (ours)", run(tables, lambda b: guided(b, strategy="hybrid-growth"), noise=NOISE, seeds=seeds))
    show("bisection per batch", run(tables, bisection_per_batch, noise=NOISE, seeds=seeds))
    generated = generated_tables(20 if quick else 60)
    print(f"\n{len(generated)} generated tables: random rooflines, each cell off by 2.5 % or so")
    show("guided (ours)", run(generated, guided), per_set=True)
    show("guided, with the noise", run(generated, guided, noise=NOISE))
    show("HGSS mended (ours)", run(generated, lambda b: guided(b, strategy="hybrid-growth")))
    show("bisection per batch", run(generated, bisection_per_batch))


def run(tables: Tables, search: Search, *, noise: float = 0.0, seeds: int = 1) -> list[Row]:
    rows = []
    for position, (key, table) in enumerate(tables.items()):
        columns = (table.batch.tolist(), table.sm_milli.tolist(), table.latency_ms.tolist())
        truth = {(batch, share): latency for batch, share, latency in zip(*columns, strict=True)}
        for step, factor in enumerate(FACTORS):
            budget = min(truth.values()) * float(factor)
            best = max(efficacy(cell, latency) for cell, latency in truth.items() if latency <= budget)
            for seed in range(seeds):
                bench = Bench(truth, budget, np.random.default_rng([position, step, seed]), noise)
                answer, reason = search(bench)
                missed = answer is not None and truth[answer] > budget * (1 + 1e-9)
                regret = 1.0 if answer is None else 0.0 if missed else 1.0 - efficacy(answer, truth[answer]) / best
                certified = reason == TerminationReason.OPTIMAL
                rows.append(Row(key, len(set(bench.order)), len(bench.order), bench.rounds, regret, missed, certified))
    return rows


def show(name: str, rows: list[Row], *, per_set: bool = False) -> None:
    kept = [row.regret for row in rows if not row.missed]
    rounds = np.mean([row.rounds for row in rows])
    clean = np.mean(np.array(kept) < 1e-9)
    print(
        f"    {name:28s} trials {np.mean([row.cells for row in rows]):5.2f} (p90 "
        f"{np.quantile([row.cells for row in rows], 0.9):2.0f})   measurements "
        f"{np.mean([row.measurements for row in rows]):5.2f}   regret {np.mean(kept):6.2%} (worst {max(kept):4.0%}, "
        f"none {clean:4.0%})   missed {np.mean([row.missed for row in rows]):5.2%}   certified "
        f"{np.mean([row.certified for row in rows]):4.0%}" + (f"   rounds {rounds:.2f}" if rounds else "")
    )
    for kind in sorted({row.table[0] for row in rows}) if per_set else ():
        show(f"  {kind}", [row for row in rows if row.table[0] == kind])


def guided(bench: Bench, *, parallel: int = 1, **settings: object) -> Answer:
    """Ours, of any strategy."""
    grid = QuotaGrid(tuple(bench.batches), tuple(bench.shares))
    lacking = [(b, s) for b in grid.batches for s in grid.sm_milli if (b, s) not in bench.truth]
    search = TrialSearch(grid, slo_ms=2.0 * bench.budget, blocked=lacking, **settings)  # type: ignore[arg-type]
    while trials := search.ask(parallel):
        bench.rounds += parallel > 1
        for trial in trials:
            search.tell(trial, bench.measure((trial.batch, trial.sm_milli)))
    best = search.best
    return (None if best is None else (best.batch, best.request_milli)), search.termination.reason


def published_growth(bench: Bench) -> Answer:
    """HGSS by the published rule: the last accepted point, and an absolute tolerance of 0.2 on batch per second per
    per cent of share. Where the published code would loop for ever it is stopped here, without an answer."""
    shares, batch, step = bench.shares, bench.batches[0], 0
    while not bench.meets((batch, shares[step])):
        step += 1
        if step == len(shares):
            return None, ""
    accepted = (batch, shares[step])

    def worth(cell: Cell) -> float:
        return efficacy(cell, bench.measured[cell]) / 100.0

    while True:
        batch *= 2
        cell = (batch, shares[step])
        if cell not in bench.truth and batch not in bench.batches:
            return accepted, ""
        if not bench.meets(cell):
            step += 1
            if step == len(shares):
                return accepted, ""
            cell = (batch, shares[step])
            if not bench.meets(cell):
                return accepted, ""
        if worth(cell) < worth(accepted) - 0.2:
            return accepted, ""
        accepted = cell


def bisection_per_batch(bench: Bench) -> Answer:
    """The least share that meets the budget, by bisection, for every batch; the best cell measured."""
    for batch in bench.batches:
        shares = [share for share in bench.shares if (batch, share) in bench.truth]
        low, high = 0, len(shares) - 1
        if not bench.meets((batch, shares[high])):
            continue
        while low < high:
            middle = (low + high) // 2
            if bench.meets((batch, shares[middle])):
                high = middle
            else:
                low = middle + 1
    return bench.best_measured(), ""


def random_cells(bench: Bench, count: int) -> Answer:
    """The best of so many cells drawn without thought."""
    cells = list(bench.truth)
    for i in bench.rng.permutation(len(cells))[:count]:
        bench.measure(cells[int(i)])
    return bench.best_measured(), ""


def tpe(bench: Bench, count: int) -> Answer:
    """Optuna's tree-structured Parzen estimator over the two grid positions; a miss scores by how far it misses."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=int(bench.rng.integers(2**31)), n_startup_trials=5)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    batches, shares = bench.batches, bench.shares

    def objective(trial: optuna.Trial) -> float:
        batch = batches[trial.suggest_int("batch", 0, len(batches) - 1)]
        cell = (batch, shares[trial.suggest_int("share", 0, len(shares) - 1)])
        if cell not in bench.measured and bench.measure(cell) == math.inf:
            return -20.0
        latency = bench.measured[cell]
        gain = math.log(efficacy(cell, latency))
        return gain if latency <= bench.budget else gain - 10.0 - 3.0 * math.log(latency / bench.budget)

    for _ in range(3 * count):  # it repeats itself; repeats are answered from memory, and are free
        study.optimize(objective, n_trials=1)
        if len(bench.measured) >= count:
            break
    return bench.best_measured(), ""


def generated_tables(count: int) -> Tables:
    """Random rooflines on three grids, each cell off by a wiggle of 2.5 % that stays; seeds fixed."""
    grids: Iterable[tuple[str, list[int], list[int]]] = [
        ("generated 6x10", [1, 2, 4, 8, 16, 32], list(range(100, 1001, 100))),
        ("generated 7x20", [1, 2, 4, 8, 16, 32, 64], list(range(50, 1001, 50))),
        ("generated 8x5", [1, 2, 4, 8, 16, 32, 64, 128], [143, 286, 429, 571, 1000]),
    ]
    tables: Tables = {}
    rng = np.random.default_rng(11)
    for i in range(count):
        name, batches, shares = list(grids)[i % 3]
        logs = np.array([1.0, -2.5, -1.0, -1.0, -2.0, 1.1]) + rng.standard_normal(6) * [1, 1, 1, 1, 1, 0.4]
        batch, share = (axis.ravel() for axis in np.meshgrid(batches, shares, indexing="ij"))
        wiggle = np.exp(0.025 * rng.standard_normal(batch.size))
        latency = RooflineModel(*np.exp(logs).tolist()).latency_ms(batch, share) * wiggle
        tables[name, str(i)] = ProfileSamples(batch, share, latency, failure_codes=())
    return tables


if __name__ == "__main__":
    main(sys.argv[1:])
