"""What a trial search expects of cells it has not measured: a fitted roofline plus a smooth residual.

log t(b, s) is Gaussian around the fit, with variance

    J C J^T  (parameters the samples leave open)  +  residual process  +  what is smooth at no scale.

The residual process is a Gaussian process on the residuals of the fit with a squared exponential kernel over log batch
and log share: where a measured cell lies off the roofline, its neighbours are expected to. Its constants are round, and
meant for tables whose neighbouring batches double and whose shares step by a tenth of a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.latency_fit import LatencyFit
from dilu_core.samples import ProfileSamples

MISFIT = 0.06
"""Standard deviation of the smooth part of log t that the roofline does not follow."""

ROUGHNESS = 0.02
"""Standard deviation of the part that no neighbour tells of."""

BATCH_SCALE, SHARE_SCALE = 1.2, 0.6
"""How far residuals reach, in natural logs: a factor of 3.3 in batch, 1.8 in share."""

Column = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Mean and covariance of log latency at any cells, given a fit (and its samples) and the noise of a measurement."""

    fit: LatencyFit
    noise: float = 0.0

    def at(self, batch: Column, sm_milli: Column) -> tuple[Column, Column]:
        """(n,) mean of log t in log ms, and its standard deviation."""
        mean, weights, across = self._conditioned(batch, sm_milli)
        gradient = self.fit.roofline.log_gradient(batch, sm_milli)
        variance = np.einsum("ij,jk,ik->i", gradient, self.fit.covariance, gradient)
        variance += np.maximum(MISFIT**2 - (across * weights).sum(axis=0), 0.0) + ROUGHNESS**2
        return mean, np.sqrt(variance)

    def draws(self, batch: Column, sm_milli: Column, count: int, seed: int) -> NDArray[np.float64]:
        """(count, n) joint draws of log t."""
        mean, weights, across = self._conditioned(batch, sm_milli)
        gradient = self.fit.roofline.log_gradient(batch, sm_milli)
        covariance = gradient @ self.fit.covariance @ gradient.T
        covariance += _kernel(batch, sm_milli, batch, sm_milli) - across.T @ weights + ROUGHNESS**2 * np.eye(len(mean))
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = np.random.default_rng(seed).standard_normal((count, len(mean)))
        return np.asarray(mean + normal @ root.T)

    def _conditioned(self, batch: Column, sm_milli: Column) -> tuple[Column, Column, Column]:
        """Mean of log t, the weights of the residuals (m, n), and the kernel between samples and cells (m, n)."""
        samples = self.fit.samples
        seen = _columns(samples)
        among = _kernel(*seen, *seen) + (ROUGHNESS**2 + self.noise**2) * np.eye(len(samples))
        across = _kernel(*seen, batch, sm_milli)
        weights: Column = np.asarray(np.linalg.solve(among, across), dtype=np.float64)
        residuals = np.log(samples.latency_ms / self.fit.model.latency_ms(*seen))
        mean = np.log(self.fit.model.latency_ms(batch, sm_milli)) + weights.T @ residuals
        return np.asarray(mean, dtype=np.float64), weights, across


def _columns(samples: ProfileSamples) -> tuple[Column, Column]:
    return samples.batch.astype(np.float64), samples.sm_milli.astype(np.float64)


def _kernel(batch: Column, sm_milli: Column, other_batch: Column, other_milli: Column) -> NDArray[np.float64]:
    along = np.log(batch[:, None] / other_batch[None, :]) / BATCH_SCALE
    across = np.log(sm_milli[:, None] / other_milli[None, :]) / SHARE_SCALE
    return np.asarray(MISFIT**2 * np.exp(-0.5 * (along**2 + across**2)))
