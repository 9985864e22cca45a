"""Fit performance models to profile samples: latency over batch and share, training throughput, memory.

The model is the p-norm roofline (`dilu_core.performance.RooflineModel`), fitted on log latencies so that an error of
10 % weighs the same at 1 ms and at 1 s. One measurement that is far off hardly moves it (soft-L1), and where samples
are few a weak prior decides: about a factor e^2 on every time, so that three samples already overrule it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.calibration import CORNER, NOISE, NOISE_BELIEF
from dilu_core.kernels.cpu.roofline_fit import BANDWIDTH, PARAMETERS, fit_rooflines
from dilu_core.latency_fit import FAMILIES, LatencyFit, TrainingFit
from dilu_core.performance import RooflineModel
from dilu_core.result import Limit, SolveStats, Termination, TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.backends import resolved
from dilu_core.solvers.memory_fit import fit_memory

__all__ = ["fit_latency", "fit_latency_many", "fit_memory", "fit_training"]

PRIOR_CENTER = (-1.0, -4.5, -3.0, -3.0, -4.0, 1.1)
"""Prior mean of log(L, h, m, w, d, p), times as parts of the typical latency of the samples."""

PRIOR_SPREAD = (2.0, 2.0, 2.0, 2.0, 2.0, 0.5)
"""Prior standard deviations of the same."""

TYPICAL_BATCH = 32.0**0.5
"""The geometric mean of the batches 1..32 that the centre is meant for; other ranges are scaled to it."""

_PER_SAMPLE = (1, 3, 4)  # h, w, d are times per sample
_STARTS = ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (0.7, -1.5, -1.0, 1.0, 0.0, 0.0), (-1.5, 0.0, 1.5, 0.0, 0.0, 0.0))
_MAX_ITERATIONS = 100
_TOLERANCE = 1e-7  # of the objective, relative
_CHUNK = 64  # fits per task: some milliseconds of work, far more than it costs to hand over
_LEAST_PART = 1e-6  # a prior model's zero time stands for a millionth of the typical latency


def fit_latency(
    samples: ProfileSamples, *, family: str = "auto", prior: RooflineModel | None = None, prior_spread: float = 0.5
) -> LatencyFit:
    """The roofline that explains the samples best, with what they leave open.

    Parameters
    ----------
    samples
        At least one measurement; five or more over three batches and two shares pin the model down. Repeated and
        unsorted rows are fine, each row counts.
    family
        "compute" leaves out the bandwidth term, "bandwidth" fits it, "auto" fits it from 7 distinct cells over 3
        batches on.
    prior
        A model of something similar, such as the same function on another GPU. Its shape, rescaled to the samples,
        replaces the general prior.
    prior_spread
        Standard deviation of the log parameters around `prior`; without one it is not used.

    Raises
    ------
    InvalidArgumentError
        Naming `samples`, `family`, `prior` or `prior_spread`.
    """
    if not isinstance(samples, ProfileSamples):
        check.fail("samples", f"is {samples!r:.80}; expected ProfileSamples.")
    return fit_latency_many([samples], family=family, prior=prior, prior_spread=prior_spread)[0]


def fit_latency_many(
    samples_list: Iterable[ProfileSamples],
    *,
    family: str = "auto",
    prior: RooflineModel | None = None,
    prior_spread: float = 0.5,
    backend: str = "auto",
    executor: Executor | None = None,
) -> list[LatencyFit]:
    """`fit_latency` of every element, compiled and spread over the cores; the answers do not depend on the company.

    With `executor` (any `concurrent.futures.Executor`: a process pool, Dask's) chunks of the list run there, one core
    each; without, threads of this process share the work. Raises `InvalidArgumentError` as `fit_latency` does, and for
    an unknown `backend`; `BackendUnavailableError` for one that cannot run here.
    """
    ran_on = resolved(backend)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        check.fail("executor", f"is {executor!r:.80}; expected a concurrent.futures.Executor.")
    tasks = _tasks(check.instances_of("samples_list", samples_list, ProfileSamples), family, prior, prior_spread)
    chunks = [tasks[i : i + _CHUNK] for i in range(0, len(tasks), _CHUNK)]
    if executor is not None:
        futures = [executor.submit(_fit_chunk, chunk, ran_on) for chunk in chunks]
        return [fit for future in futures for fit in future.result()]
    if len(chunks) < 2:
        return _fit_chunk(tasks, ran_on) if tasks else []
    # Threads over a kernel that releases the interpreter lock, not a parallel kernel: these may be nested and forked at
    # will, while numba's own threads survive neither.
    with ThreadPoolExecutor(min(len(chunks), os.cpu_count() or 1)) as threads:
        return [fit for fits in threads.map(_fit_chunk, chunks, repeat(ran_on)) for fit in fits]


def fit_training(samples: ProfileSamples, *, batch: int | None = None, family: str = "auto") -> TrainingFit:
    """Training throughput over share, from measured step times, at one batch size.

    `samples.latency_ms` is the time of a step over `samples.batch` samples. `batch` is the size the job trains with;
    `None` takes the greatest measured. One measured batch is enough. Raises `InvalidArgumentError` naming `samples`,
    `batch` or `family`.
    """
    fit = fit_latency(samples, family=family)
    chosen = int(samples.batch.max()) if batch is None else check.integer("batch", batch, at_least=1)
    return TrainingFit(fit, chosen)


@dataclass(frozen=True)
class _Task:
    """One function to fit: its samples, whether the bandwidth term takes part, and its prior in absolute logs."""

    samples: ProfileSamples
    family: str
    center: NDArray[np.float64]
    spread: NDArray[np.float64]


def _tasks(
    samples_list: Sequence[ProfileSamples], family: str, prior: RooflineModel | None, prior_spread: float
) -> list[_Task]:
    check.choice("family", family, ("auto", *FAMILIES))
    if prior is not None and not isinstance(prior, RooflineModel):
        check.fail("prior", f"is {prior!r:.80}; expected a RooflineModel or None.")
    width = check.finite("prior_spread", prior_spread, at_least=1e-6, at_most=100.0)
    tasks = []
    for samples in samples_list:
        if prior is None:
            center, spread = _general_prior(samples), np.array(PRIOR_SPREAD)
        else:
            center, spread = _prior_around(prior, samples), np.full(PARAMETERS, width)
        tasks.append(_Task(samples, _family(family, samples), center, spread))
    return tasks


def _family(asked: str, samples: ProfileSamples) -> str:
    if asked != "auto":
        return asked
    batches, shares = samples.batch.tolist(), samples.sm_milli.tolist()
    enough = len(set(zip(batches, shares, strict=True))) > 6 and len(set(batches)) >= 3
    return "bandwidth" if enough else "compute"


def _general_prior(samples: ProfileSamples) -> NDArray[np.float64]:
    """The general prior at the scale of these samples: multiplying all latencies or all batches changes nothing."""
    center = np.array(PRIOR_CENTER)
    center[:-1] += np.log(samples.latency_ms).mean()
    center[list(_PER_SAMPLE)] -= np.log(samples.batch).mean() - math.log(TYPICAL_BATCH)
    return center


def _prior_around(model: RooflineModel, samples: ProfileSamples) -> NDArray[np.float64]:
    """The parameters of `model`, its times rescaled so that it meets the samples on average."""
    scale = float(np.log(samples.latency_ms / model.latency_ms(samples.batch, samples.sm_milli)).mean())
    times = np.array(model.parameters[:-1])
    times[list(_PER_SAMPLE)] *= np.exp(np.log(samples.batch).mean())
    times = np.maximum(times, _LEAST_PART * float(np.exp(np.log(samples.latency_ms).mean() - scale)))
    times[list(_PER_SAMPLE)] /= np.exp(np.log(samples.batch).mean())
    return np.append(np.log(times) + scale, math.log(model.sharpness))


def _fit_chunk(tasks: Sequence[_Task], backend: str) -> list[LatencyFit]:
    """Fit some functions on this core. A plain function of plain values, so that it can run in another process."""
    began = time.perf_counter()
    count = len(tasks)
    first = np.zeros(count + 1, dtype=np.int64)
    first[1:] = np.cumsum([len(task.samples) for task in tasks])
    logs, curvatures = np.empty((count, PARAMETERS)), np.empty((count, PARAMETERS, PARAMETERS))
    costs, iterations, converged = np.empty(count), np.empty(count, np.int64), np.empty(count, np.int64)
    fit_rooflines(
        np.concatenate([task.samples.batch for task in tasks]).astype(np.float64),
        np.concatenate([task.samples.sm_milli for task in tasks]) / 1000.0,
        np.log(np.concatenate([task.samples.latency_ms for task in tasks])),
        first,
        np.array([int(task.family == "bandwidth") for task in tasks]),
        np.array([task.center for task in tasks]),
        np.array([task.spread for task in tasks]),
        np.array(_STARTS),
        CORNER,
        NOISE,
        NOISE_BELIEF,
        _MAX_ITERATIONS,
        _TOLERANCE,
        logs,
        curvatures,
        costs,
        iterations,
        converged,
    )
    seconds = (time.perf_counter() - began) / count
    return [
        LatencyFit(
            model=_model(logs[i], task.family),
            samples=task.samples,
            family="bandwidth" if task.family == "bandwidth" else "compute",
            precision=tuple(map(tuple, curvatures[i].tolist())),
            termination=_termination(bool(converged[i])),
            stats=SolveStats(seconds, backend, {"iterations": int(iterations[i]), "starts": len(_STARTS)}),
        )
        for i, task in enumerate(tasks)
    ]


def _model(logs: NDArray[np.float64], family: str) -> RooflineModel:
    values = np.exp(logs).tolist()
    if family == "compute":
        values[BANDWIDTH] = 0.0
    return RooflineModel(*values)


def _termination(converged: bool) -> Termination:
    if converged:
        return Termination(TerminationReason.CONVERGED)
    detail = f"the best start still moved after {_MAX_ITERATIONS} iterations"
    return Termination(TerminationReason.FEASIBLE, Limit.ITERATIONS, detail)
