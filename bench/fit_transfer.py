"""What a learnt prior saves: held-out error from few cells, with and without it.

    python bench/fit_transfer.py                     # the measured data (DILU_DATA or ../shared/data)
    python bench/fit_transfer.py mine.csv            # any tables in the canonical columns, each of one GPU type

First, one function left out: the prior is learnt from the others of the same table (the same GPU type), and the
function fitted from 3 to 8 of its cells with it and without. Then, one GPU type to another: functions that two tables
have in common, fitted on one and carried over by the peaks of both, beside the general prior and beside the shape of
the fit alone. Coverage is that of the 95 % bound."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from profile_tables import Tables, profile_tables, profiler_chosen, rest_of, space_filling, uniform

from dilu_core.gpu_scaling import transfer_prior
from dilu_core.latency_prior import LatencyPrior
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.prior_learning import learn_prior

SEEDS = 6
GPU_OF = {"dilu_a100": "A100-SXM4-40GB", "parvagpu_a100": "A100-SXM4-80GB", "igniter_v100": "V100-SXM2-16GB"}
SAME = {"bert_base": "bert"}  # one network under two names

Prior = LatencyPrior | RooflineModel | None
Choose = Callable[[ProfileSamples, int, np.random.Generator, LatencyPrior | None], NDArray[np.int64]]


def main() -> None:
    """Print both tables."""
    tables = profile_tables(sys.argv[1:])
    leave_one_out(tables)
    if not sys.argv[1:]:
        across_gpu_types(tables)


def leave_one_out(tables: Tables) -> None:
    """Errors with a prior from the other functions of the same table."""
    priors = {key: learnt(tables, key) for key in tables}
    known = [key for key in tables if priors[key] is not None]
    print(f"{len(known)} functions, {SEEDS} designs each: mean held-out error, under-predicted by 5 %, bound covers")
    designs: dict[str, Choose] = {
        "profiler": lambda table, count, rng, prior: profiler_chosen(table, count, rng, prior),
        "space-filling": lambda table, count, rng, prior: space_filling(table, count, rng),
    }
    for name, choose in designs.items():
        for count in (3, 4, 6, 8):
            for label, believed in (("general prior", None), ("learnt prior", priors)):
                figures = []
                for position, key in enumerate(tables):
                    if key in known:
                        prior = None if believed is None else believed[key]
                        figures.append(errors(tables[key], count, prior, choose, position))
                mean, under, covered = np.mean(figures, axis=0)
                sets = {
                    each: np.mean([f[0] for f, k in zip(figures, known, strict=True) if k[0] == each])
                    for each, _ in known
                }
                per_set = "  ".join(f"{each} {figure:.2%}" for each, figure in sets.items())
                print(
                    f"{name:14s} {count} cells  {label:14s} {mean:6.2%}  {under:6.1%}  {covered:6.1%}   {per_set}",
                    flush=True,
                )
    print()


def learnt(tables: Tables, left_out: tuple[str, str]) -> LatencyPrior | None:
    """The prior of the other functions of the table; `None` where there are fewer than two."""
    others = [table for key, table in tables.items() if key[0] == left_out[0] and key != left_out]
    return learn_prior(others) if len(others) >= 2 else None


def errors(
    table: ProfileSamples, count: int, prior: LatencyPrior | None, choose: Choose, position: int
) -> tuple[float, float, float]:
    """Mean absolute error, part under-predicted by 5 %, and coverage of the 95 % bound on the cells not seen."""
    found = []
    for seed in range(SEEDS):
        rows = choose(table, count, np.random.default_rng([position, seed]), prior)
        fit, rest = fit_latency(table.select(rows), prior=prior), rest_of(table, rows)
        error = fit.latency_ms(rest.batch, rest.sm_milli) / rest.latency_ms - 1.0
        covered = rest.latency_ms <= fit.upper_ms(rest.batch, rest.sm_milli)
        found.append((np.abs(error).mean(), (error < -0.05).mean(), covered.mean()))
    mean, under, coverage = np.mean(found, axis=0)
    return float(mean), float(under), float(coverage)


def across_gpu_types(tables: Tables) -> None:
    """Errors on one GPU type with what is known from another."""
    pairs = [
        (source, target)
        for source in tables
        for target in tables
        if source[0] != target[0] and SAME.get(source[1], source[1]) == SAME.get(target[1], target[1])
    ]
    print(f"{len(pairs)} pairs of tables with a function in common: mean held-out error on the second")
    for count in (1, 2, 3, 4, 6):
        figures: dict[str, list[float]] = {}
        for position, (source, target) in enumerate(pairs):
            fit = fit_latency(tables[source])
            priors: dict[str, Prior] = {
                "general prior": None,
                "its shape": fit.roofline,
                "scaled by peaks": transfer_prior(fit, GPU_OF[source[0]], GPU_OF[target[0]]),
            }
            for seed in range(SEEDS):
                choose = uniform if count == 1 else space_filling
                rows = choose(tables[target], count, np.random.default_rng([position, seed]))
                rest = rest_of(tables[target], rows)
                for name, prior in priors.items():
                    found = fit_latency(tables[target].select(rows), prior=prior)
                    error = found.latency_ms(rest.batch, rest.sm_milli) / rest.latency_ms - 1.0
                    figures.setdefault(name, []).append(float(np.abs(error).mean()))
        print(
            f"{count} cells   " + "   ".join(f"{name} {np.mean(each):7.2%}" for name, each in figures.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
