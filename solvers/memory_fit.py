"""Fit GPU memory over batch: the least affine bound that no measurement exceeds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.performance import MemoryModel
from dilu_core.samples import ProfileSamples


def fit_memory(samples: ProfileSamples) -> MemoryModel:
    """The affine function a + c b >= every measured memory, a, c >= 0, that is least on average over the samples.

    Out-of-memory kills are one-sided, so this is a bound and no regression: minimise a + c mean(b) subject to
    a + c b_i >= memory_i. The optimum of this linear programme touches the upper hull of the measurements at mean(b),
    or lies on a bound of a or c; the few candidates are compared. Rows without memory (NaN) are left out.

    Raises `InvalidArgumentError` naming `samples` if it is no ProfileSamples, `memory_mib` if nothing was measured.
    """
    if not isinstance(samples, ProfileSamples):
        check.fail("samples", f"is {samples!r:.80}; expected ProfileSamples.")
    if samples.memory_mib is None or bool(np.isnan(samples.memory_mib).all()):
        check.fail("memory_mib", "was not measured in these samples; give the column, or state the memory yourself.")
    measured = ~np.isnan(samples.memory_mib)
    batch, memory = samples.batch[measured].astype(np.float64), samples.memory_mib[measured]
    candidates = [(float(memory.max()), 0.0), (0.0, float((memory / batch).max()))]
    hull = _upper_hull(batch, memory)
    for (left, low), (right, high) in pairwise(hull):
        slope = (high - low) / (right - left)
        candidates.append((low - slope * left, slope))
    feasible = [(base, slope) for base, slope in candidates if base >= 0 and slope >= 0]
    base, slope = min(feasible, key=lambda line: line[0] + line[1] * float(batch.mean()))
    # Rounding in the slope may leave a touched point a hair above the line.
    base += max(0.0, float((memory - (base + slope * batch)).max()))
    return MemoryModel(base, slope)


def _upper_hull(batch: NDArray[np.float64], memory: NDArray[np.float64]) -> list[tuple[float, float]]:
    """The corners of the upper convex hull, by ascending batch (Andrew's monotone chain)."""
    tallest: dict[float, float] = {}
    for b, m in zip(batch.tolist(), memory.tolist(), strict=True):
        tallest[b] = max(m, tallest.get(b, m))
    hull: list[tuple[float, float]] = []
    for point in sorted(tallest.items()):
        while len(hull) >= 2 and _turns_left(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the segment from a to c."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) >= 0
