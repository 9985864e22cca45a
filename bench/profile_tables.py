"""Profile tables for the quality commands, and the designs that pick which cells a fit may see.

The tables are those of the measured data (DILU_DATA or ../shared/data), or any CSV files in the canonical columns that
are named on the command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dilu_core.latency_prior import LatencyPrior
from dilu_core.profile_files import read_profiles
from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples
from dilu_core.sampling_design import first_cells
from dilu_core.solvers.configuration import without_repeats
from dilu_core.solvers.fitting import fit_latency

NOTE_OF = {"parvagpu": "n_proc=1"}
"""Tables that hold several experiments per cell, by the start of their name, and the plain one among them."""

Tables = dict[tuple[str, str], ProfileSamples]
Design = Callable[[ProfileSamples, int, np.random.Generator], NDArray[np.int64]]

_WITHIN_REACH = 0.8  # part of the cells that a profiler may choose from, so that its designs differ


def profile_folder() -> Path:
    """The folder of profile tables, from DILU_DATA or ../shared/data beside the checkout; exits where neither is."""
    candidates = [os.environ.get("DILU_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"]
    for candidate in candidates:
        if candidate and (Path(candidate) / "profiles").is_dir():
            return Path(candidate) / "profiles"
    sys.exit("no measured data: neither DILU_DATA nor ../shared/data beside the checkout has a folder `profiles`")


def profile_tables(paths: Sequence[str | Path] = ()) -> Tables:
    """Every function of every table, one row per cell, that has at least 3 batches, 4 shares and 16 cells.

    Keys are (name of the file, function). Batches that only repeat a smaller one are left out, as `plan` does.
    """
    tables = {}
    for path in [Path(each) for each in paths] or sorted(profile_folder().glob("*.csv")):
        note = next((note for start, note in NOTE_OF.items() if path.stem.startswith(start)), None)
        for function, samples in read_profiles(path, note=note).items():
            table = without_repeats(samples)[0].merged()
            if len(set(table.batch)) >= 3 and len(set(table.sm_milli)) >= 4 and len(table) >= 16:
                tables[path.stem, function] = table
    if not tables:
        sys.exit("no table has a function with at least 3 batches, 4 shares and 16 cells")
    return tables


def unit_square(samples: ProfileSamples) -> NDArray[np.float64]:
    """(n, 2) cells as points of the unit square, log scales."""
    points = np.log(np.stack([samples.batch, samples.sm_milli], axis=1))
    return np.asarray((points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-12))


def rest_of(table: ProfileSamples, rows: NDArray[np.int64]) -> ProfileSamples:
    """The cells of `table` that a design did not choose."""
    return table.select(np.setdiff1d(np.arange(len(table)), rows))


def profiler_chosen(
    table: ProfileSamples, count: int, rng: np.random.Generator, prior: LatencyPrior | None = None
) -> NDArray[np.int64]:
    """The rows that the library's own profiler measures: `first_cells`, then one after another `measure_next`.

    It may choose among a random 80 % of the table; where a cell is not in reach, the nearest or the next best stands
    in."""
    within = np.sort(rng.permutation(len(table))[: max(count + 4, int(_WITHIN_REACH * len(table)))])
    reach = table.select(within)
    grid = QuotaGrid(tuple(set(reach.batch.tolist())), tuple(set(reach.sm_milli.tolist())))
    at = {(int(b), int(s)): row for row, (b, s) in enumerate(zip(reach.batch, reach.sm_milli, strict=True))}
    logs = np.log(np.stack([reach.batch, reach.sm_milli], axis=1))
    span = np.ptp(logs, axis=0)
    rows: list[int] = []
    for cell in first_cells(grid, min(count, 4)):
        distance = (((logs - np.log(cell)) / span) ** 2).sum(axis=1)
        distance[rows] = np.inf
        rows.append(int(np.argmin(distance)))
    while len(rows) < count:
        fit = fit_latency(reach.select(rows), prior=prior)
        rows.append(next(at[cell] for cell in fit.measure_next(grid, count=len(grid)) if cell in at))
    return np.asarray(within[rows])


def space_filling(samples: ProfileSamples, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The corner cells, then the cells nearest to a Latin hypercube in log scales, the most spread out of 20."""
    points = unit_square(samples)
    along, across = points.sum(axis=1), points[:, 0] - points[:, 1]
    corners = [int(np.argmin(along)), int(np.argmax(along)), int(np.argmin(across)), int(np.argmax(across))]
    chosen = list(dict.fromkeys(corners))[:count]
    missing = count - len(chosen)
    best: tuple[float, list[int]] = (-1.0, [])
    for _ in range(20 if missing else 0):
        hypercube = np.stack([rng.permutation(missing) + rng.random(missing) for _ in range(2)], axis=1) / missing
        free = np.setdiff1d(np.arange(len(points)), chosen)
        picked = []
        for target in hypercube:
            nearest = int(free[np.argmin(((points[free] - target) ** 2).sum(axis=1))])
            picked.append(nearest)
            free = free[free != nearest]
        design = points[chosen + picked]
        gaps = ((design[:, None] - design[None]) ** 2).sum(axis=-1) + 9.0 * np.eye(len(design))
        if gaps.min() > best[0]:
            best = (float(gaps.min()), picked)
    return np.array(chosen + best[1])


def uniform(samples: ProfileSamples, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cells drawn without thought."""
    return rng.permutation(len(samples))[:count]


def one_batch(samples: ProfileSamples, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cells of a single batch size."""
    return rng.permutation(np.flatnonzero(samples.batch == rng.choice(samples.batch)))[:count]


def one_share(samples: ProfileSamples, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Cells of a single share."""
    return rng.permutation(np.flatnonzero(samples.sm_milli == rng.choice(samples.sm_milli)))[:count]
