"""Robust maximum a-posteriori fits of the roofline, one thread per function: 100,000 functions of 12 samples each."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from case import Case

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu.roofline_fit import empty_results, fit_rooflines
from dilu_core.kernels.roofline_objective import BANDWIDTH, PARAMETERS

SAMPLES, THREADS = 12, os.cpu_count() or 1
STARTS = np.array([[0.0] * 6, [0.7, -1.5, -1.0, 1.0, 0.0, 0.0], [0.0, -1.5, 0.0, 0.0, 2.0, 0.0]])
"""Those of `solvers.fitting`."""

OPERATIONS_PER_SAMPLE = 330
"""Of one evaluation of the objective: five exponentials, four logarithms and two square roots of some 20 double
precision operations each, six gradient and 21 curvature sums of three each, and some 30 in between."""
OPERATIONS_PER_STEP = 260
"""Of one damped step: the Cholesky factor of a 6 by 6 matrix and two triangular solves, a division as 8 operations."""


def case(small: bool) -> Case:
    """100,000 random functions under the general prior's shape, or 2,000."""
    fits = _Fits(2_000 if small else 100_000)
    return Case(
        name="fits",
        unit="fits",
        work=float(fits.count),
        prepare=fits.prepare,
        validate=fits.validate,
        cuda=fits.cuda,
        on_device=fits.on_device,
        cpu=fits.cpu,
        cpu_threads=lambda: THREADS,
        operations=fits.operations,
        bytes_moved=fits.bytes_moved,
        operation="fp64",
    )


class _Fits:
    """The problems, and what both sides found."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.arguments: Any = ()
        self.here, self.there = empty_results(count), empty_results(count)

    def prepare(self) -> None:
        """Rooflines drawn around the prior, measured with 3 % noise at 12 cells each."""
        random = np.random.default_rng(0)
        center = np.array([-0.5, -3.5, -1.0, -2.0, -2.5, 1.0])
        drawn = center + random.normal(0.0, [0.8, 0.8, 1.0, 1.0, 1.0, 0.3], (self.count, PARAMETERS))
        launch, host, fixed, compute, band, sharp = (column[:, np.newaxis] for column in np.exp(drawn).T)
        batch = random.choice([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], (self.count, SAMPLES))
        share = random.integers(1, 11, (self.count, SAMPLES)) / 10.0
        norm = launch**sharp + ((fixed + compute * batch) / share) ** sharp + (band * batch) ** sharp
        logs = np.log(host * batch + norm ** (1.0 / sharp)) + 0.03 * random.standard_normal(batch.shape)
        family = random.integers(0, 2, self.count)
        precisions = np.tile(np.diag(1.0 / np.array([1.5, 1.5, 1.5, 1.5, 1.5, 0.5]) ** 2), (self.count, 1, 1))
        precisions[family == 0, BANDWIDTH, BANDWIDTH] = 0.0
        samples = (np.log(batch).ravel(), np.log(share).ravel(), logs.ravel(), np.arange(self.count + 1) * SAMPLES)
        priors = (family, np.tile(center, (self.count, 1)), precisions, STARTS)
        self.arguments = (*samples, *priors, 0.05, 0.05, 10.0, 200, 1e-10)

    def validate(self) -> str:
        """Objectives agree where both sides end in the same basin, which rounding may decide otherwise."""
        self.cpu()
        self.cuda()
        apart = np.abs(self.there.costs - self.here.costs) / np.maximum(self.here.costs, 1.0)
        alike = float(np.mean(apart < 1e-6))
        logs = np.abs(self.there.logs - self.here.logs)[apart < 1e-6]
        assert alike > 0.995, f"only {alike:.2%} of the objectives agree to 1e-6; the worst is {apart.max():.1e} apart"
        steps = int(self.there.iterations.sum()) / int(self.here.iterations.sum())
        return (
            f"{alike:.3%} of {self.count:,} objectives agree to 1e-6 (worst {apart.max():.1e}); log parameters apart "
            f"by {np.quantile(logs, 0.99):.1e} at the 99th percentile; {steps:.4f} of the CPU's iterations"
        )

    def cuda(self) -> RunRecord:
        """Host to host."""
        from dilu_core.kernels.cuda.fits import fit_rooflines_on_gpu

        return fit_rooflines_on_gpu(*self.arguments, *self.there)

    def on_device(self) -> Any:
        """The launch alone, on arrays that are there already."""
        from dilu_core.kernels.cuda.fits import on_device

        return on_device(*self.arguments, *self.there)

    def cpu(self) -> None:
        """The same, a thread per core."""
        edges = np.linspace(0, self.count, 4 * THREADS + 1).astype(int).tolist()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(self._part, edges[:-1], edges[1:]))

    def _part(self, start: int, stop: int) -> None:
        log_batch, log_share, log_latency, first, family, centers, precisions, *shared = self.arguments
        results: Any = self.here
        rows = slice(first[start], first[stop])
        fit_rooflines(
            log_batch[rows],
            log_share[rows],
            log_latency[rows],
            first[start : stop + 1] - first[start],
            family[start:stop],
            centers[start:stop],
            precisions[start:stop],
            *shared,
            *(column[start:stop] for column in results),
        )

    def operations(self) -> float:
        """Of the iterations that were made, one evaluation and one step each: refused steps are not counted."""
        return float(self.here.iterations.sum()) * (SAMPLES * OPERATIONS_PER_SAMPLE + OPERATIONS_PER_STEP)

    def bytes_moved(self) -> float:
        """Every input read and every output written once."""
        return float(sum(np.asarray(each).nbytes for each in (*self.arguments, *self.here)))
