"""Runs the numba-cuda kernels in numba-cuda's simulator and compares them with the CPU kernels.

A program of its own: the simulator must be chosen, and compilation turned off, before numba is imported. Prints what
agreed; fails by an exception.
"""

from __future__ import annotations

import os

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
os.environ["NUMBA_DISABLE_JIT"] = "1"

import numpy as np
from numba import cuda

from dilu_core.kernels.cpu.policy_replay import replay_pairs
from dilu_core.kernels.cpu.roofline_fit import empty_results, fit_rooflines
from dilu_core.kernels.cuda import fits, replays
from dilu_core.kernels.policy_replay import FIGURES, sample_problem
from dilu_core.kernels.policy_step import MOST_PEAKS


def simulated_fits(count: int) -> None:
    """Every function's thread fits what the CPU kernel fits, to the last bit: the same Python runs."""
    arguments = fits.sample_problem(count, 5)
    here, there = empty_results(count), empty_results(count)
    fit_rooflines(*arguments, *here)
    blocks = (count + fits.BLOCK - 1) // fits.BLOCK + 1  # a block too many: its threads must keep still
    cuda.jit(fits.fit_kernel)[blocks, fits.BLOCK](*arguments, *there)
    for name, mine, theirs in zip(here._fields, here, there, strict=True):
        np.testing.assert_array_equal(theirs, mine, err_msg=name)
    print(f"fits: {count} functions agree")


def simulated_replays(sets: int) -> None:
    """Every pair's thread, from the third on, replays what the CPU kernel replays, to the last bit."""
    problem = sample_problem(sets, (40, 25))
    columns, (step_s, per_control, initial, samples, launches) = problem[:9], problem[9:]
    pairs, skipped = 2 * sets, 2
    here, there = np.empty((pairs, FIGURES)), np.full((pairs - skipped, FIGURES), np.nan)
    replay_pairs(0, pairs, *problem, here)
    rooms = [np.empty((room, pairs - skipped)) for room in (samples, MOST_PEAKS)]
    rooms += [np.empty((launches, pairs - skipped), np.int64) for _ in range(2)]
    cuda.jit(replays.replay_kernel)[1, pairs](skipped, *columns, step_s, per_control, initial, *rooms, there)
    np.testing.assert_array_equal(there, here[skipped:])
    print(f"replays: {pairs - skipped} pairs agree")


if __name__ == "__main__":
    simulated_fits(2)
    simulated_replays(8)
