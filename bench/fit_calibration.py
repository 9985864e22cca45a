"""Calibrate `LatencyFit.upper_ms`: the table in the package, and the coverage that it reaches.

    python bench/fit_calibration.py                  # the measured data (DILU_DATA or ../shared/data)
    python bench/fit_calibration.py --write          # and replace dilu_core/calibration.json
    python bench/fit_calibration.py mine.csv         # coverage of the shipped calibration on other tables

Every table is fitted from n of its cells under several designs, and each held-out cell scored by its log error over the
spread that the fit states. The quantiles pool all tables, designs and n. Coverage is printed for the shipped constants,
and for a calibration that has not seen the data set (the file) that is judged.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from profile_tables import Design, Tables, one_batch, one_share, profile_tables, profiler_chosen, rest_of, space_filling
from profile_tables import uniform as at_random

from dilu_core.calibration import Calibration, shipped_calibration
from dilu_core.latency_fit import LatencyFit
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.calibrating import calibrate, normalised_errors
from dilu_core.solvers.fitting import fit_latency_many

CELLS = (1, 2, 3, 4, 6, 8, 12, 20)
DESIGNS: tuple[Design, ...] = (profiler_chosen, space_filling, at_random, one_batch, one_share)
SEEDS = 6
TARGET = 0.95
POOR = 0.85  # a function covered less often than this is poorly served
PROVENANCE = (
    "bench/fit_calibration.py over the published tables dilu_a100 (sigserverless/Dilu 1134655), igniter_v100 "
    "(icloud-ecnu/igniter b1ff2ab) and parvagpu_a100 (MunQ-Lee/ParvaGPU_SC24 5f3de1e, n_proc=1): each function fitted "
    f"from {', '.join(map(str, CELLS))} of its cells, chosen by the profiler, space-filling, at random, in one batch "
    "only and at one share only, and scored on the others"
)


@dataclass(frozen=True)
class Case:
    """One fit, and the cells of its table that it has not seen."""

    key: tuple[str, str]
    cells: int
    design: str
    fit: LatencyFit
    rest: ProfileSamples


def main() -> None:
    """Print the calibration and what it covers; with --write, keep it."""
    paths = [each for each in sys.argv[1:] if each != "--write"]
    tables = profile_tables(paths)
    cases = [case for design in DESIGNS for count in CELLS for case in cases_of(tables, count, design)]
    if not paths:
        found = calibration(cases)
        print(f"{found.functions} functions, {found.scores:,} held-out cells")
        print(f"quantiles {found.quantiles}\nlevels    {tuple(round(level, 3) for level in found.levels)}\n")
        if "--write" in sys.argv:
            path = Path(__file__).resolve().parents[1] / "dilu_core" / "calibration.json"
            path.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
            shipped_calibration.cache_clear()
    sets = sorted({name for name, _ in tables}) if not paths else []
    apart = {name: calibration(case for case in cases if case.key[0] != name) for name in sets} if len(sets) > 1 else {}
    report(cases, apart)


def cases_of(tables: Tables, count: int, design: Design) -> list[Case]:
    """Every table fitted from `count` cells, SEEDS times."""
    keys, rows = [], []
    for position, (key, table) in enumerate(tables.items()):
        for seed in range(SEEDS):
            keys.append(key)
            rows.append(design(table, count, np.random.default_rng([position, seed, count])))
    fits = fit_latency_many([tables[key].select(chosen) for key, chosen in zip(keys, rows, strict=True)])
    return [
        Case(key, count, design.__name__, fit, rest_of(tables[key], chosen))
        for key, chosen, fit in zip(keys, rows, fits, strict=True)
    ]


def calibration(cases: Iterable[Case]) -> Calibration:
    """The calibration by these cases, each function weighing the same."""
    every = list(cases)
    return calibrate(
        [case.fit for case in every],
        [case.rest for case in every],
        groups=[case.key for case in every],
        provenance=PROVENANCE,
    )


def report(cases: list[Case], apart: dict[str, Calibration]) -> None:
    """Coverage and mean margin of the 95 % bound, by design and number of cells, each function weighing the same."""
    level = shipped_calibration().level(TARGET)
    print(
        f"coverage of the {TARGET:.0%} bound, shipped calibration and with the judged data set left out, mean margin,"
    )
    print(f"functions covered below {POOR:.0%}; and per data set, left out: coverage, margin")
    for design in dict.fromkeys(case.design for case in cases):
        for count in CELLS:
            chosen = [case for case in cases if (case.design, case.cells) == (design, count)]
            shipped = per_function(chosen, {case.key[0]: level for case in chosen})
            line = f"{design:15s} {count:3d} cells   {_mean(shipped, 0):6.1%}"
            poor = sum(covered < POOR for covered, _ in shipped.values())
            if apart:
                left_out = per_function(chosen, {name: each.level(TARGET) for name, each in apart.items()})
                line += f"  left out {_mean(left_out, 0):6.1%}  margin {_mean(left_out, 1):6.1%}  {poor:2d} poor  "
                for name in apart:
                    own = {key: figures for key, figures in left_out.items() if key[0] == name}
                    line += f"  {name} {_mean(own, 0):6.1%} {_mean(own, 1):6.1%}"
            else:
                line += f"  margin {_mean(shipped, 1):6.1%}  {poor:2d} poor"
            print(line, flush=True)


def per_function(cases: list[Case], levels: dict[str, float]) -> dict[tuple[str, str], tuple[float, float]]:
    """(coverage, mean margin) of every function."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for case in cases:
        level = levels[case.key[0]]
        spread = case.fit.spread(case.rest.batch, case.rest.sm_milli)
        covered = float((normalised_errors(case.fit, case.rest) <= level).mean())
        found.setdefault(case.key, []).append((covered, float(np.expm1(level * spread).mean())))
    return {
        key: (float(np.mean([c for c, _ in own])), float(np.mean([m for _, m in own]))) for key, own in found.items()
    }


def _mean(figures: dict[tuple[str, str], tuple[float, float]], which: int) -> float:
    return float(np.mean([each[which] for each in figures.values()]))


if __name__ == "__main__":
    main()
