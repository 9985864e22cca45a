"""Shares and memory as integers: milli-GPU and MiB, rounded in one place.

Demands round up and capacities round down, so that rounding never promises what is not there. A tolerance absorbs
binary noise first: 0.59 * 1000 is 590.0000000000001 in floating point and must stay 590.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FULL_GPU_MILLI = 1000
"""One whole GPU in milli-GPU."""

_NOISE = 1e-9  # relative; far above float noise, far below what any measured quantity resolves


def _settle(value: float) -> float:
    nearest = round(value)
    return float(nearest) if abs(value - nearest) <= _NOISE * max(1.0, abs(value)) else value


def demand_units(value: float) -> int:
    """`value` as the integer demand that covers it (ceiling, after float noise is removed)."""
    return math.ceil(_settle(value))


def demands_units(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """`demand_units` of every element; each must be finite and below 2^53."""
    nearest = np.rint(values)
    settled = np.abs(values - nearest) <= _NOISE * np.maximum(1.0, np.abs(values))
    return np.where(settled, nearest, np.ceil(values)).astype(np.int64)


def capacity_units(value: float) -> int:
    """`value` as the integer capacity it surely offers (floor, after float noise is removed)."""
    return math.floor(_settle(value))


def demand_milli(fraction: float) -> int:
    """A demanded share, given as a fraction of a GPU, in milli-GPU: `demand_milli(0.59) == 590`."""
    return demand_units(fraction * FULL_GPU_MILLI)


def capacity_milli(fraction: float) -> int:
    """An offered share, given as a fraction of a GPU, in milli-GPU, rounded down."""
    return capacity_units(fraction * FULL_GPU_MILLI)


def demand_mib_from_gib(gib: float) -> int:
    """Demanded memory in GiB as MiB, rounded up."""
    return demand_units(gib * 1024)
