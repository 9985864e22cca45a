"""Calibrate `LatencyFit.upper_ms`: print the constants of `dilu_core/calibration.py` and the coverage they reach.

    python bench/fit_calibration.py

Every table is fitted from n of its cells under several designs, and each held-out cell scored by its log error over the
spread that the fit states. The quantiles pool all tables, designs and n; coverage is printed for the shipped constants
and with each table left out of its own calibration. Needs the measured data (DILU_DATA or ../shared/data).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from profile_tables import one_batch, one_share, profile_tables, space_filling, uniform

from dilu_core.calibration import LEVERAGE_CAP, SPREAD_FLOOR, error_quantile
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency_many

CELLS = (1, 2, 3, 4, 6, 8, 12, 20)
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
DESIGNS = (space_filling, uniform, one_batch, one_share)
SEEDS = 6

Design = Callable[[ProfileSamples, int, np.random.Generator], NDArray[np.int64]]

# Per table, the spread and the log error of its held-out cells.
Scores = dict[tuple[str, str], NDArray[np.float64]]


def main() -> None:
    """Print the constants, then coverage and margin by number of cells and design."""
    rows = {(n, design.__name__): held_out(n, design) for n in CELLS for design in DESIGNS}
    pooled = merge(rows.values())
    levels = np.round([pooled_quantile(pooled, q) for q in QUANTILES], 2)
    print(f"_QUANTILES = {QUANTILES}\n_LEVELS = {tuple(levels.tolist())}\n")
    left_out = {
        (key, q): pooled_quantile({other: scores for other, scores in pooled.items() if other != key}, q)
        for key in pooled
        for q in (0.9, 0.95)
    }
    print("mean coverage over tables: shipped constants / table left out     mean margin at 0.95   tables below 0.85")
    for (n, name), scores in rows.items():
        figures = []
        for q in (0.9, 0.95):
            shipped = mean_coverage(scores, {key: error_quantile(q) for key in scores})
            figures.append(f"{q:.2f}: {shipped:.3f} / {mean_coverage(scores, {k: left_out[k, q] for k in scores}):.3f}")
        level = error_quantile(0.95)
        poor = sum(coverage(part, level) < 0.85 for part in scores.values())
        margin = np.mean([np.expm1(level * spread).mean() for spread, _ in scores.values()])
        print(f"{n:3d} cells {name:14s} {'   '.join(figures)}   +{margin:.1%}   {poor} of {len(scores)}")


def held_out(count: int, design: Design) -> Scores:
    """(2, m) spread and log error of every held-out cell, per table."""
    tables = profile_tables()
    keys, chosen, seen = [], [], []
    for position, (key, table) in enumerate(tables.items()):
        for seed in range(SEEDS):
            rows = design(table, count, np.random.default_rng([position, seed, count]))
            keys.append(key)
            seen.append(rows)
            chosen.append(table.select(rows))
    found = defaultdict(list)
    for key, rows, fit in zip(keys, seen, fit_latency_many(chosen), strict=True):
        test = tables[key].select(np.setdiff1d(np.arange(len(tables[key])), rows))
        error = np.log(test.latency_ms / fit.latency_ms(test.batch, test.sm_milli))
        leverage = np.minimum(fit.leverage(test.batch, test.sm_milli), LEVERAGE_CAP)
        found[key].append(np.stack([np.sqrt(fit.scatter**2 * leverage + SPREAD_FLOOR**2), error]))
    return {key: np.concatenate(parts, axis=1) for key, parts in found.items()}


def merge(rows: Iterable[Scores]) -> Scores:
    """The scores of several designs together, per table."""
    rows = list(rows)
    return {key: np.concatenate([scores[key] for scores in rows], axis=1) for key in rows[0]}


def pooled_quantile(scores: Scores, quantile: float) -> float:
    """Quantile of error over spread, each table weighing the same."""
    normalised = [error / spread for spread, error in scores.values()]
    weights = np.concatenate([np.full(len(part), 1.0 / len(part)) for part in normalised])
    values = np.concatenate(normalised)
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(len(order) - 1, int(np.searchsorted(reached, quantile)))])


def coverage(part: NDArray[np.float64], level: float) -> float:
    """Share of held-out cells at or below their bound."""
    spread, error = part
    return float((error <= level * spread).mean())


def mean_coverage(scores: Scores, levels: dict[tuple[str, str], float]) -> float:
    """Coverage, each table weighing the same."""
    return float(np.mean([coverage(part, levels[key]) for key, part in scores.items()]))


if __name__ == "__main__":
    main()
