"""Policy replays, one thread per (parameter set, trace): 100,000 replays of an hour in steps of one second."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from case import Case

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu.policy_replay import replay_pairs
from dilu_core.kernels.policy_replay import COLD_STARTS, FIGURES, sample_problem

SECONDS, TRACES, THREADS = 3600, 4, os.cpu_count() or 1

OPERATIONS_PER_STEP = 170
"""Of one step and one decision, counted in the source: some 110 additions, multiplications and comparisons, and eight
divisions of about eight operations each."""


def case(small: bool) -> Case:
    """25,000 parameter sets (small: 250) of both rules on four hours of noisy load."""
    replays = _Replays(250 if small else 25_000)
    return Case(
        name="replays",
        unit="steps",
        work=float(replays.sets * TRACES * SECONDS),
        prepare=replays.prepare,
        validate=replays.validate,
        cuda=replays.cuda,
        on_device=replays.on_device,
        cpu=replays.cpu,
        cpu_threads=lambda: THREADS,
        operations=replays.operations,
        bytes_moved=replays.bytes_moved,
        operation="fp64",
    )


class _Replays:
    """The problem, and what both sides found."""

    def __init__(self, sets: int) -> None:
        self.sets = sets
        self.problem: Any = ()
        self.here, self.there = (np.empty((sets * TRACES, FIGURES)) for _ in range(2))

    def prepare(self) -> None:
        """Four different hours."""
        self.problem = sample_problem(self.sets, (SECONDS,) * TRACES)

    def validate(self) -> str:
        """All figures of all pairs, to 1e-9; what hangs on the last bit may differ in one of a thousand."""
        self.cpu()
        self.cuda()
        alike = np.isclose(self.there, self.here, rtol=1e-9, atol=1e-9).all(axis=1)
        assert alike.mean() > 0.999, f"only {alike.mean():.3%} of the replays agree"
        starts = float(self.here[:, COLD_STARTS].mean())
        return f"{alike.mean():.4%} of {alike.size:,} replays agree to 1e-9 ({starts:.1f} cold starts each)"

    def cuda(self) -> RunRecord:
        """Host to host."""
        from dilu_core.kernels.cuda.replays import replay_pairs_on_gpu

        return replay_pairs_on_gpu(*self.problem, self.there)

    def on_device(self) -> Any:
        """The launch alone, on arrays that are there already."""
        from dilu_core.kernels.cuda.replays import on_device

        return on_device(*self.problem, self.there)

    def cpu(self) -> None:
        """The same, a thread per core."""
        on_cpu: Any = replay_pairs
        edges = np.linspace(0, self.here.shape[0], 4 * THREADS + 1).astype(int).tolist()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda a, b: on_cpu(a, b, *self.problem, self.here), edges[:-1], edges[1:]))

    def operations(self) -> float:
        """One decision per step."""
        return float(self.here.shape[0] * SECONDS * OPERATIONS_PER_STEP)

    def bytes_moved(self) -> float:
        """Sets and traces read once, figures written once: the scratch of a pair stays in the caches."""
        return float(sum(np.asarray(each).nbytes for each in (*self.problem, self.here)))
