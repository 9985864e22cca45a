"""The roofline fit by scipy.optimize.least_squares: slow, and independent of the kernel but for the prior.

Tests and benchmarks compare `solvers.fitting` with it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from dilu_core.calibration import CORNER, NOISE
from dilu_core.latency_fit import Family
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import PRIOR_CENTER, PRIOR_SPREAD, TYPICAL_BATCH


def fit_latency_by_scipy(samples: ProfileSamples, family: Family = "bandwidth") -> tuple[RooflineModel, float]:
    """The model of least cost reached from the prior's centre, and its cost C as `kernels.cpu.roofline_fit` states it.

    Soft-L1 is written as residuals, rho = sign(r) c sqrt(2 (sqrt(1 + (r / c)^2) - 1)), so that plain least squares with
    its numeric Jacobian minimises C.
    """
    scale = float(np.exp(np.log(samples.latency_ms).mean()))
    typical = float(np.exp(np.log(samples.batch).mean())) / TYPICAL_BATCH
    free = np.array([0, 1, 2, 3, 4, 5] if family == "bandwidth" else [0, 1, 2, 3, 5])
    center, spread = np.array(PRIOR_CENTER)[free], np.array(PRIOR_SPREAD)[free]

    def model(logs: NDArray[np.float64]) -> RooflineModel:
        values = np.zeros(6)
        values[free] = np.exp(logs)
        launch, host, fixed, compute, bandwidth, sharpness = values.tolist()
        return RooflineModel(
            scale * launch,
            scale * host / typical,
            scale * fixed,
            scale * compute / typical,
            scale * bandwidth / typical,
            sharpness,
        )

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        error = np.log(model(logs).latency_ms(samples.batch, samples.sm_milli) / samples.latency_ms)
        bent = np.sign(error) * CORNER * np.sqrt(2.0 * (np.sqrt(1.0 + (error / CORNER) ** 2) - 1.0))
        return np.concatenate([bent / NOISE, (logs - center) / spread])

    found = least_squares(residuals, center, method="lm", xtol=1e-10, ftol=1e-10)
    return model(found.x), float(found.cost)
