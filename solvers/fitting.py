"""Fit performance models to profile samples: latency over batch and share, training throughput, memory.

The model is the p-norm roofline (`dilu_core.performance.RooflineModel`), fitted on log latencies so that an error of
10 % weighs the same at 1 ms and at 1 s. One measurement that is far off hardly moves it (soft-L1), and where samples
are few the prior decides. Whether the bandwidth term takes part is decided by the evidence of the two families, and a
smooth deviation from the roofline corrects it where it earns its place (`dilu_core.latency_residual`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.calibration import CORNER, NOISE, NOISE_BELIEF, Calibration
from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu.roofline_fit import FitResults, empty_results, fit_rooflines
from dilu_core.kernels.roofline_descent import GREATEST_RATIO, LEAST_RATIO
from dilu_core.latency_fit import LatencyFit, TrainingFit
from dilu_core.latency_prior import (
    BANDWIDTH,
    FAMILIES,
    GENERAL_PRIOR,
    PARAMETERS,
    Family,
    LatencyPrior,
    prior_around,
    roofline_of,
)
from dilu_core.latency_residual import SharedDeviation
from dilu_core.performance import RooflineModel
from dilu_core.result import Limit, Termination, TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.backends import resolved, stats_of
from dilu_core.solvers.memory_fit import fit_memory

__all__ = ["fit_latency", "fit_latency_many", "fit_memory", "fit_training"]

STARTS = ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (0.7, -1.5, -1.0, 1.0, 0.0, 0.0), (0.0, -1.5, 0.0, 0.0, 2.0, 0.0))
"""Offsets of log(L, h, m, w, d, p) from the prior's centre to start from: there, compute-bound, bandwidth-bound."""

_MAX_ITERATIONS = 200
_TOLERANCE = 1e-10  # of the objective, relative
_CHUNK = 64  # functions per task: some milliseconds of work, far more than it costs to hand over


def fit_latency(
    samples: ProfileSamples,
    *,
    family: str = "auto",
    prior: LatencyPrior | RooflineModel | None = None,
    prior_spread: float = 0.5,
    residual: bool = True,
    calibration: Calibration | None = None,
) -> LatencyFit:
    """The latency surface that explains the samples best, with what they leave open.

    Parameters
    ----------
    samples
        At least one measurement; five or more over three batches and two shares pin the model down. Repeated and
        unsorted rows are fine, each row counts.
    family
        "compute" leaves out the bandwidth term, "bandwidth" fits it. "auto" takes the more probable of the two given
        the samples, from 7 distinct cells over 3 batches on; with fewer, "compute".
    prior
        What is believed beforehand: a `LatencyPrior` learnt from other functions (`learn_prior`) or carried over from
        another GPU type (`transfer_prior`), or a model of something similar, whose shape alone is taken. `None`: the
        general one, which knows nothing of the function.
    prior_spread
        Standard deviation of the log parameters around a model given as `prior`; otherwise it is not used.
    residual
        Whether the model may deviate from the roofline where the samples speak for it, from 7 distinct cells on.
    calibration
        What the upper bound rests on (`calibrate`); `None`: the calibration in the package.

    Raises
    ------
    InvalidArgumentError
        Naming the argument.
    """
    if not isinstance(samples, ProfileSamples):
        check.fail("samples", f"is {samples!r:.80}; expected ProfileSamples.")
    return fit_latency_many(
        [samples], family=family, prior=prior, prior_spread=prior_spread, residual=residual, calibration=calibration
    )[0]


def fit_latency_many(
    samples_list: Iterable[ProfileSamples],
    *,
    family: str = "auto",
    prior: LatencyPrior | RooflineModel | None = None,
    prior_spread: float = 0.5,
    residual: bool = True,
    calibration: Calibration | None = None,
    backend: str = "auto",
    executor: Executor | None = None,
) -> list[LatencyFit]:
    """`fit_latency` of every element, compiled and spread over the cores; the answers do not depend on the company.

    With `executor` (any `concurrent.futures.Executor`: a process pool, Dask's) chunks of the list run there, one core
    each; without, threads of this process share the work. On a GPU the list is one piece of work, with no use for
    `executor`, and parameters differ from the CPU's by what rounding decides. Raises `InvalidArgumentError` as
    `fit_latency` does, and for an unknown `backend`; `BackendUnavailableError` for one that cannot run here.
    """
    every = check.instances_of("samples_list", samples_list, ProfileSamples)
    ran_on = resolved(backend, "fits", sum(len(samples) for samples in every))
    if executor is not None and not callable(getattr(executor, "submit", None)):
        check.fail("executor", f"is {executor!r:.80}; expected a concurrent.futures.Executor.")
    chosen = check.choice("family", family, ("auto", *FAMILIES))
    believed = _prior(prior, prior_spread)
    options = _Options(chosen, believed, check.flag("residual", residual), calibration, ran_on)
    if calibration is not None and not isinstance(calibration, Calibration):
        check.fail("calibration", f"is {calibration!r:.80}; expected a Calibration or None.")
    chunks = [every[i : i + _CHUNK] for i in range(0, len(every), _CHUNK)]
    if ran_on == "cuda" and every:
        return _fit_chunk(every, options)
    if executor is not None:
        futures = [executor.submit(_fit_chunk, chunk, options) for chunk in chunks]
        return [fit for future in futures for fit in future.result()]
    if len(chunks) < 2:
        return _fit_chunk(every, options) if every else []
    # Threads over a kernel that releases the interpreter lock, not a parallel kernel: these may be nested and forked at
    # will, while numba's own threads survive neither.
    with ThreadPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as threads:
        return [fit for fits in threads.map(_fit_chunk, chunks, repeat(options)) for fit in fits]


def fit_training(
    samples: ProfileSamples,
    *,
    batch: int | None = None,
    family: str = "auto",
    prior: LatencyPrior | RooflineModel | None = None,
) -> TrainingFit:
    """Training throughput over share, from measured step times, at one batch size.

    `samples.latency_ms` is the time of a step over `samples.batch` samples. `batch` is the size the job trains with;
    `None` takes the greatest measured. One measured batch is enough. Raises `InvalidArgumentError` naming `samples`,
    `batch`, `family` or `prior`.
    """
    fit = fit_latency(samples, family=family, prior=prior)
    chosen = int(samples.batch.max()) if batch is None else check.integer("batch", batch, at_least=1)
    return TrainingFit(fit, chosen)


@dataclass(frozen=True)
class _Options:
    """What all functions of one call have in common."""

    family: str
    prior: LatencyPrior
    residual: bool
    calibration: Calibration | None
    backend: str


@dataclass(frozen=True)
class _Task:
    """One fit: some samples under one family, with the prior in their units."""

    samples: ProfileSamples
    family: Family
    deviation: SharedDeviation | None
    center: NDArray[np.float64]
    precision: NDArray[np.float64]


def _prior(prior: object, spread: float) -> LatencyPrior:
    width = check.finite("prior_spread", spread, at_least=1e-6, at_most=100.0)
    if prior is None:
        return GENERAL_PRIOR
    if isinstance(prior, RooflineModel):
        return prior_around(prior, width)
    if not isinstance(prior, LatencyPrior):
        check.fail("prior", f"is {prior!r:.80}; expected a LatencyPrior, a RooflineModel or None.")
    return prior


def _families(asked: str, samples: ProfileSamples) -> tuple[Family, ...]:
    """The families to try."""
    if asked != "auto":
        return ("bandwidth",) if asked == "bandwidth" else ("compute",)
    batches = samples.batch.tolist()
    cells = set(zip(batches, samples.sm_milli.tolist(), strict=True))
    return FAMILIES if len(cells) > 6 and len(set(batches)) >= 3 else ("compute",)


def _fit_chunk(samples_list: Sequence[ProfileSamples], options: _Options) -> list[LatencyFit]:
    """Fit some functions on this core. A plain function of plain values, so that it can run in another process."""
    began = time.perf_counter()
    precisions = {family: options.prior.precision(family) for family in FAMILIES}
    tasks, owners = [], []
    for position, samples in enumerate(samples_list):
        for family in _families(options.family, samples):
            deviation = options.prior.family(family).deviation
            center = options.prior.center_for(family, samples)
            tasks.append(_Task(samples, family, deviation, center, precisions[family]))
            owners.append(position)
    found, record = _minimise(tasks, options.backend)
    best: dict[int, int] = {}
    evidence = _evidence(tasks, found, options.prior)
    for index, owner in enumerate(owners):
        if owner not in best or evidence[index] > evidence[best[owner]]:
            best[owner] = index
    seconds = (time.perf_counter() - began) / len(samples_list)
    return [
        LatencyFit(
            roofline=roofline_of(found.logs[i], tasks[i].family),
            samples=tasks[i].samples,
            family=tasks[i].family,
            precision=tuple(map(tuple, found.curvatures[i].tolist())),
            deviation=tasks[i].deviation,
            with_residual=options.residual,
            calibration=options.calibration,
            termination=_termination(bool(found.converged[i])),
            stats=stats_of(record, seconds, {"iterations": int(found.iterations[i]), "starts": len(STARTS)}),
        )
        for i in best.values()
    ]


def _minimise(tasks: Sequence[_Task], backend: str) -> tuple[FitResults, RunRecord]:
    """What the kernel found, one row per task, and what it ran on."""
    first = np.zeros(len(tasks) + 1, dtype=np.int64)
    first[1:] = np.cumsum([len(task.samples) for task in tasks])
    found = empty_results(len(tasks))
    arguments: Any = (
        np.log(np.concatenate([task.samples.batch for task in tasks])),
        np.log(np.concatenate([task.samples.sm_milli for task in tasks]) / 1000.0),
        np.concatenate([_log_latency(task) for task in tasks]),
        first,
        np.array([int(task.family == "bandwidth") for task in tasks]),
        np.array([task.center for task in tasks]),
        np.array([task.precision for task in tasks]),
        np.array(STARTS),
        CORNER,
        NOISE,
        NOISE_BELIEF,
        _MAX_ITERATIONS,
        _TOLERANCE,
        *found,
    )
    if backend == "cuda":
        from dilu_core.kernels.cuda.fits import fit_rooflines_on_gpu

        return found, fit_rooflines_on_gpu(*arguments)
    fit_rooflines(*arguments)
    return found, RunRecord()


def _log_latency(task: _Task) -> NDArray[np.float64]:
    """Log latency less what is known to deviate from the roofline."""
    logs = np.log(task.samples.latency_ms)
    if task.deviation is None:
        return logs
    return np.asarray(logs - task.deviation.at(task.samples.batch, task.samples.sm_milli))


def _evidence(tasks: Sequence[_Task], found: FitResults, prior: LatencyPrior) -> NDArray[np.float64]:
    """Laplace's approximation of the log probability of the samples under each task's family, up to a constant.

    log e = -C / rho^2 - n log rho + 1/2 log |P| - 1/2 log |H / rho^2|, with the objective C and the curvature H at the
    minimum, both in units of NOISE, the noise rho NOISE that the kernel estimated and weighed the prior by, and the
    prior's precision P (MacKay, Neural Computation 4, 1992). A parameter that the samples do not need costs what it
    leaves unsaid.
    """
    used = {family: [k for k in range(PARAMETERS) if family == "bandwidth" or k != BANDWIDTH] for family in FAMILIES}
    spread = {
        family: np.linalg.slogdet(prior.precision(family)[np.ix_(used[family], used[family])])[1] for family in FAMILIES
    }
    volumes = np.linalg.slogdet(found.curvatures)[1]  # a bandwidth that takes no part has curvature 1
    ratio = np.clip(found.noises / NOISE, LEAST_RATIO, GREATEST_RATIO)
    counts = np.array([len(task.samples) for task in tasks])
    sizes = np.array([len(used[task.family]) for task in tasks])
    spreads = np.array([spread[task.family] for task in tasks])
    return np.asarray((sizes - counts) * np.log(ratio) + 0.5 * (spreads - volumes) - found.costs / ratio**2)


def _termination(converged: bool) -> Termination:
    if converged:
        return Termination(TerminationReason.CONVERGED)
    detail = f"the best start still moved after {_MAX_ITERATIONS} iterations"
    return Termination(TerminationReason.FEASIBLE, Limit.ITERATIONS, detail)
