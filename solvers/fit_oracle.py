"""The roofline fit by scipy.optimize.least_squares: slow, and independent of the kernel.

Tests and benchmarks compare `solvers.fitting` with it. It states the objective anew, in numpy, and shares with the
library the prior alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from dilu_core.calibration import CORNER, NOISE, NOISE_BELIEF
from dilu_core.latency_prior import GENERAL_PRIOR, Family, LatencyPrior, roofline_of
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import STARTS

Vector = NDArray[np.float64]


def fit_latency_by_scipy(
    samples: ProfileSamples,
    family: Family = "bandwidth",
    *,
    prior: LatencyPrior = GENERAL_PRIOR,
    starts: int = len(STARTS),
    reweighed: bool = True,
) -> tuple[RooflineModel, float]:
    """The model of least objective reached from the first `starts` starts, and the objective C.

    As the kernel does, and documents, the noise is then estimated and the prior weighed anew, unless not `reweighed`.
    Soft-L1 is written as residuals, rho = sign(r) c sqrt(2 (sqrt(1 + (r / c)^2) - 1)), so that plain least squares with
    its numeric Jacobian minimises C.
    """
    used, center, precision, root = _prior(samples, family, prior)
    best, cost = center, math.inf
    for start in STARTS[:starts]:
        found, value = _minimise(_residuals(samples, family, used, center, root), center + np.array(start)[used])
        if value < cost:
            best, cost = found, value
    if reweighed:
        ratio = _ratio(samples, family, used, best, precision)
        best, cost = _minimise(_residuals(samples, family, used, center, ratio * root), best)
    return roofline_of(_full(best, used), family), cost


def objective_by_numpy(
    samples: ProfileSamples,
    model: RooflineModel,
    family: Family,
    *,
    prior: LatencyPrior = GENERAL_PRIOR,
    weighed_at: RooflineModel | None = None,
) -> float:
    """The objective C of a model; with `weighed_at` the prior is weighed by the noise estimated at that model."""
    used, center, precision, root = _prior(samples, family, prior)
    ratio = 1.0
    if weighed_at is not None:
        ratio = _ratio(samples, family, used, np.log(np.array(weighed_at.parameters)[used]), precision)
    logs = np.log(np.array(model.parameters)[used])
    return 0.5 * float((_residuals(samples, family, used, center, ratio * root)(logs) ** 2).sum())


def _prior(samples: ProfileSamples, family: Family, prior: LatencyPrior) -> tuple[list[int], Vector, Vector, Vector]:
    """The parameters in use, their centre and precision, and a root R of it: R^T R = P."""
    used = [0, 1, 2, 3, 4, 5] if family == "bandwidth" else [0, 1, 2, 3, 5]
    precision = prior.precision(family)[np.ix_(used, used)]
    root = np.asarray(np.linalg.cholesky(precision).T, dtype=np.float64)
    return used, prior.center_for(family, samples)[used], precision, root


def _full(logs: Vector, used: list[int]) -> Vector:
    values = np.zeros(6)
    values[used] = logs
    return values


def _errors(samples: ProfileSamples, family: Family, used: list[int], logs: Vector) -> Vector:
    predicted = roofline_of(_full(logs, used), family).latency_ms(samples.batch, samples.sm_milli)
    return np.asarray(np.log(predicted / samples.latency_ms))


def _residuals(
    samples: ProfileSamples, family: Family, used: list[int], center: Vector, root: Vector
) -> Callable[[Vector], Vector]:
    def residuals(logs: Vector) -> Vector:
        error = _errors(samples, family, used, logs)
        bent = np.sign(error) * CORNER * np.sqrt(2.0 * (np.sqrt(1.0 + (error / CORNER) ** 2) - 1.0))
        return np.concatenate([bent / NOISE, root @ (logs - center)])

    return residuals


def _minimise(residuals: Callable[[Vector], Vector], start: Vector) -> tuple[Vector, float]:
    found = least_squares(residuals, start, method="lm", xtol=1e-10, ftol=1e-10)
    return np.asarray(found.x), float(found.cost)


def _ratio(samples: ProfileSamples, family: Family, used: list[int], logs: Vector, precision: Vector) -> float:
    """Estimated over assumed noise, within the kernel's bounds."""
    return min(max(_noise(samples, family, used, logs, precision) / NOISE, 0.1), 3.0)


def _noise(samples: ProfileSamples, family: Family, used: list[int], logs: Vector, precision: Vector) -> float:
    """The noise by the robust residuals, with NOISE_BELIEF samples' worth of trust in NOISE (the kernel's formula)."""
    error = _errors(samples, family, used, logs)
    bend = np.sqrt(1.0 + (error / CORNER) ** 2)
    gradient = roofline_of(_full(logs, used), family).log_gradient(samples.batch, samples.sm_milli)[:, used]
    curvature = (gradient / (NOISE**2 * bend[:, None])).T @ gradient + precision
    decided = len(used) - float(np.trace(np.linalg.solve(curvature, precision)))
    free = max(len(samples) - decided, 0.5)
    return math.sqrt((float((error**2 / bend).sum()) + NOISE_BELIEF * NOISE**2) / (free + NOISE_BELIEF))
