"""Measured profile tables for the quality commands, and the designs that pick which cells a fit may see."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dilu_core.profile_files import read_profiles
from dilu_core.samples import ProfileSamples

NOTE_OF = {"parvagpu": "n_proc=1"}
"""Tables that hold several experiments per cell, by the start of their name, and the plain one among them."""


def profile_folder() -> Path:
    """The folder of profile tables, from DILU_DATA or ../shared/data beside the checkout; exits where neither is."""
    candidates = [os.environ.get("DILU_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"]
    for candidate in candidates:
        if candidate and (Path(candidate) / "profiles").is_dir():
            return Path(candidate) / "profiles"
    sys.exit("no measured data: neither DILU_DATA nor ../shared/data beside the checkout has a folder `profiles`")


def profile_tables() -> dict[tuple[str, str], ProfileSamples]:
    """Every function of every table, one row per cell, that has at least 3 batches, 4 shares and 16 cells.

    The rows of dilu_a100 llama2 from batch 32 on repeat batch 16 (see the warnings of its fit) and are left out.
    """
    tables = {}
    for path in sorted(profile_folder().glob("*.csv")):
        note = next((note for start, note in NOTE_OF.items() if path.stem.startswith(start)), None)
        for function, samples in read_profiles(path, note=note).items():
            table = samples.merged()
            if (path.stem, function) == ("dilu_a100", "llama2"):
                table = table.select(table.batch < 32)
            if len(set(table.batch)) >= 3 and len(set(table.sm_milli)) >= 4 and len(table) >= 16:
                tables[path.stem, function] = table
    return tables


def unit_square(samples: ProfileSamples) -> NDArray[np.float64]:
    """(n, 2) cells as points of the unit square, log scales."""
    points = np.log(np.stack([samples.batch, samples.sm_milli], axis=1))
    return np.asarray((points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-12))


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
