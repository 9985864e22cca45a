"""What the measured table says: how well the roofline follows it, and where it breaks the roofline's laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dilu_core import ProfileSamples

_TOLERANCE = 0.02  # a rise of less is noise


@dataclass(frozen=True)
class Laws:
    """Neighbouring cells that break monotonicity by more than 2 %, of how many, and by how much at most."""

    share_breaks: int
    share_pairs: int
    batch_breaks: int
    batch_pairs: int
    worst: float


def laws(samples: ProfileSamples) -> Laws:
    """Latency must not rise with the share nor fall with the batch."""
    merged = samples.merged()
    rises: dict[str, list[float]] = {"share": [], "batch": []}
    for kind, fixed, along, sign in (
        ("share", merged.batch, merged.sm_milli, 1.0),
        ("batch", merged.sm_milli, merged.batch, -1.0),
    ):
        for value in np.unique(fixed):
            rows = np.flatnonzero(fixed == value)
            ordered = merged.latency_ms[rows[np.argsort(along[rows])]]
            rises[kind] += (sign * np.diff(np.log(ordered))).tolist()
    broken = {kind: [rise for rise in found if rise > np.log1p(_TOLERANCE)] for kind, found in rises.items()}
    worst = max([*broken["share"], *broken["batch"], 0.0])
    counts = (len(broken["share"]), len(rises["share"]), len(broken["batch"]), len(rises["batch"]))
    return Laws(*counts, float(np.expm1(worst)))


def summary_lines(path: Path) -> list[str]:
    """One line for each function of the table: cells, mean absolute error of its fit in sample and held out, laws.

    Held out: fitted to 12 cells spread over the table, judged on the others (not where fewer than 16 were measured).
    """
    from dilu_core import fit_latency, read_profiles

    lines = ["function             cells  roofline  corrected  held-out  share breaks  batch breaks  worst"]
    for name, samples in read_profiles(path).items():
        held = "-"
        try:
            fit = fit_latency(samples)
            truth = samples.latency_ms
            plain = np.abs(fit.roofline.latency_ms(samples.batch, samples.sm_milli) / truth - 1).mean()
            corrected = np.abs(fit.model.latency_ms(samples.batch, samples.sm_milli) / truth - 1).mean()
            if len(samples) >= 16:
                held = f"{_held_out(samples):.1%}"
            errors = f"{plain:8.1%}  {corrected:9.1%}"
        except Exception as error:
            errors = f"no fit: {type(error).__name__}: {error}"
        found = laws(samples)
        lines.append(
            f"{name:<20} {len(samples):5d}  {errors}  {held:>8}  {found.share_breaks:5d} of {found.share_pairs:3d}"
            f"  {found.batch_breaks:5d} of {found.batch_pairs:3d}  {found.worst:5.1%}"
        )
    return lines


def _held_out(samples: ProfileSamples) -> float:
    from dilu_core import fit_latency

    chosen = spread_rows(samples, 12)
    others = np.setdiff1d(np.arange(len(samples)), chosen)
    fit = fit_latency(samples.select(chosen))
    predicted = fit.model.latency_ms(samples.batch[others], samples.sm_milli[others])
    return float(np.abs(predicted / samples.latency_ms[others] - 1).mean())


def spread_rows(samples: ProfileSamples, count: int) -> Sequence[int]:
    """Rows far from each other in log batch and log share, the first the smallest batch on the smallest share."""
    points = np.log(np.stack([samples.batch, samples.sm_milli], axis=1).astype(float))
    points /= np.maximum(np.ptp(points, axis=0), 1e-9)
    chosen = [int(np.argmin(points.sum(axis=1)))]
    while len(chosen) < count:
        distance = np.linalg.norm(points[:, None] - points[None, chosen], axis=2).min(axis=1)
        chosen.append(int(np.argmax(distance)))
    return chosen
