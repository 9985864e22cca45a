"""Random joint problems answered three ways: CUDA kernels executed on the CPU, the CPU search, dynamic programming.

python bench/joint_agreement.py [PROBLEMS [FIRST_SEED]]     # default 3000 0

Of 43, three have up to 16 functions of up to 64 options, ten barely room for the lightest of each of up to 8, the
others up to 6 of up to 12; among them infeasible ones, ties, zero weights and capacities met exactly
(`tests/joint_oracle.py`, which shares nothing with the searches). The kernels run under three thread schedules in turn.
Choices must be equal one by one; a problem on which the kernel gives up at its step limit is counted, not compared, as
the library leaves it to the CPU. Exit status 1 on any difference.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from dilu_core.kernels.cpu import joint_search as cpu
from dilu_core.kernels.cpu.joint_columns import joint_columns
from tests.cuda_on_cpu.harness import SCHEDULES
from tests.joint_oracle import by_capacity
from tests.kernels.cuda.test_joint import Batch, answers_of, executed, mixed_problems


def main() -> int:
    """Print counts every few hundred problems, and at the end."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    compared = different = left = infeasible = 0
    started = time.perf_counter()
    while compared < wanted:
        asked = mixed_problems(seed)
        expected = [by_capacity(each) for each in asked]
        batch = Batch.of(asked)
        on_cpu = answers_of(batch, *cpu.search_many(*batch)[:2])
        schedule = SCHEDULES[seed % len(SCHEDULES)]
        choice, values, stopped = executed(joint_columns(*batch), schedule=schedule, step_limit=300, seed=seed + 1)
        by_kernel = answers_of(batch, choice, values)
        done = np.flatnonzero(stopped == 0).tolist()
        different += sum(a != b for a, b in zip(on_cpu, expected, strict=True))
        different += sum(by_kernel[p] != expected[p] for p in done)
        infeasible += sum(expected[p] is None for p in done)
        compared, left, seed = compared + len(done), left + len(asked) - len(done), seed + 1
        seconds = time.perf_counter() - started
        counts = f"{compared:7} compared, {different} different, {infeasible} infeasible"
        print(f"{counts}, {left} left to the CPU, {seconds:.0f} s", flush=True)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
