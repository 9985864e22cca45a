"""Runs the numba-cuda kernels in numba-cuda's simulator and compares them with the CPU kernels.

A program of its own: the simulator must be chosen, and compilation turned off, before numba is imported. The launchers
run whole, with numpy in the place of CuPy and room for a few items at a time. Prints what agreed.
"""

# ruff: noqa: E402 - the simulator is chosen first

from __future__ import annotations

import os
import sys
import types
from typing import Any, cast

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
os.environ["NUMBA_DISABLE_JIT"] = "1"

import numpy as np


class OnDevice(np.ndarray):
    """An array that says it is CuPy's."""

    def get(self) -> np.ndarray:
        """The host's copy."""
        return np.array(self)


cupy: Any = types.ModuleType("cupy")
cupy.asarray = lambda array: np.array(array).view(OnDevice)
cupy.empty = lambda shape, dtype=np.float64: np.empty(shape, dtype).view(OnDevice)
sys.modules["cupy"] = cupy

from dilu_core.kernels.cpu.policy_replay import replay_pairs
from dilu_core.kernels.cpu.roofline_fit import empty_results, fit_rooflines
from dilu_core.kernels.cuda import chunks, fits, replays
from dilu_core.kernels.cuda.device import Device
from dilu_core.kernels.policy_replay import FIGURES, sample_problem


class SmallMemory:
    """A device with `free` bytes."""

    free = 0
    out_of_memory = MemoryError

    def free_bytes(self) -> int:
        """All of them."""
        return self.free

    def release(self) -> None:
        """Nothing is held."""


chunks.CupyMemory = SmallMemory  # type: ignore[misc,assignment]
fits.require_device = replays.require_device = lambda: Device("simulator", (9, 0), 1, 0, "", "", "")


def simulated_fits(count: int) -> None:
    """Every function's thread fits what the CPU kernel fits, to the last bit: the same Python runs."""
    arguments, on_cpu = fits.sample_problem(count, 4), cast(Any, fit_rooflines)
    here, there = empty_results(count), empty_results(count)
    on_cpu(*arguments, *here)
    SmallMemory.free = 2100  # of which two functions with four samples take 0.8
    record = fits.fit_rooflines_on_gpu(*arguments, *there)
    for name, mine, theirs in zip(here._fields, here, there, strict=True):
        np.testing.assert_array_equal(theirs, mine, err_msg=name)
    print(f"fits: {count} functions agree in {record.chunks} chunks on {record.device}")


def simulated_replays(sets: int) -> None:
    """Every pair's thread replays what the CPU kernel replays, to the last bit."""
    problem, on_cpu = sample_problem(sets, (40, 25)), cast(Any, replay_pairs)
    here, there = np.empty((2 * sets, FIGURES)), np.empty((2 * sets, FIGURES))
    on_cpu(0, 2 * sets, *problem, here)
    SmallMemory.free = 21_600  # of which six pairs take 0.8
    record = replays.replay_pairs_on_gpu(*problem, there)
    np.testing.assert_array_equal(there, here)
    replays.on_device(*problem, there)()
    print(f"replays: {2 * sets} pairs agree in {record.chunks} chunks on {record.device}")


if __name__ == "__main__":
    simulated_fits(3)
    simulated_replays(8)
