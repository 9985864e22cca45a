"""LatencyFit: a roofline fitted to samples, with a calibrated bound on what it may get wrong. TrainingFit likewise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.calibration import CORNER, LEVERAGE_CAP, NOISE, NOISE_BELIEF, SPREAD_FLOOR, error_quantile
from dilu_core.fit_diagnostics import describe, outlying_rows
from dilu_core.performance import RooflineModel, TrainingModel
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.samples import ProfileSamples

Family = Literal["compute", "bandwidth"]
FAMILIES: tuple[Family, ...] = ("compute", "bandwidth")
"""The roofline without ("compute") and with ("bandwidth") the share-independent time per sample."""

_VERSION = 1
_PARAMETERS = 6


@dataclass(frozen=True)
class LatencyFit:
    """A fitted latency model and how far to trust it.

    Parameters
    ----------
    model
        The mean prediction: `fit.model.latency_ms(batch, sm_milli)`.
    samples
        What it was fitted to.
    family
        "compute" or "bandwidth": whether the term of share-independent time per sample took part.
    precision
        (6, 6) curvature of the fit's objective at `model`, over log(L, h, m, w, d, p): the inverse covariance of the
        log parameters. Symmetric and positive definite.
    termination, stats
        How the fit ended and what it cost.
    """

    model: RooflineModel
    samples: ProfileSamples
    family: Family
    precision: tuple[tuple[float, ...], ...]
    termination: Termination = field(default=Termination(TerminationReason.CONVERGED))
    stats: SolveStats = field(default=SolveStats(0.0), compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, RooflineModel):
            check.fail("model", f"is {self.model!r}; expected a RooflineModel.")
        if not isinstance(self.samples, ProfileSamples):
            check.fail("samples", f"is {self.samples!r}; expected ProfileSamples.")
        check.choice("family", self.family, FAMILIES)
        object.__setattr__(self, "precision", _positive_definite("precision", self.precision))

    def latency_ms(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Mean latency of a batch in ms, as `model.latency_ms`; the arguments broadcast."""
        return self.model.latency_ms(batch, sm_milli)

    def upper_ms(self, batch: ArrayLike, sm_milli: ArrayLike, quantile: float = 0.95) -> NDArray[np.float64]:
        """The latency that a measurement stays below with probability `quantile`; the arguments broadcast.

        upper = t exp(k sqrt(sigma^2 min(v, cap) + floor^2)), with the mean prediction t, the leverage v of the point
        (`leverage`), the residual scatter sigma (`scatter`), and k from split-conformal calibration over published
        profile tables (`dilu_core.calibration`). The coverage holds on average over functions like those of the
        tables; a single function may lie above or below it throughout. Rises with `quantile` and is never below the
        mean from 0.5 on. Raises `InvalidArgumentError` naming `quantile` outside (0, 1).
        """
        level = error_quantile(quantile)
        spread = np.sqrt(self.scatter**2 * np.minimum(self.leverage(batch, sm_milli), LEVERAGE_CAP) + SPREAD_FLOOR**2)
        return np.asarray(self.model.latency_ms(batch, sm_milli) * np.exp(level * spread))

    def leverage(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """v = J C J^T / noise^2 >= 0, the variance of log t that the samples leave, in units of one sample's noise.

        J is the gradient of log t by the log parameters and C their covariance. About 1 beside a lone sample, below 1
        amid many, large where nothing was measured nearby.
        """
        gradient = self.model.log_gradient(batch, sm_milli)
        variance = np.einsum("...i,ij,...j->...", gradient, self.covariance, gradient)
        return np.asarray(np.maximum(variance, 0.0) / NOISE**2)

    @cached_property
    def covariance(self) -> NDArray[np.float64]:
        """(6, 6) covariance of log(L, h, m, w, d, p), read-only."""
        inverse = np.linalg.inv(np.array(self.precision))
        return check.read_only((inverse + inverse.T) / 2)

    @cached_property
    def residuals(self) -> NDArray[np.float64]:
        """(n,) log(measured / predicted) at the samples, read-only."""
        predicted = self.model.latency_ms(self.samples.batch, self.samples.sm_milli)
        return check.read_only(np.log(self.samples.latency_ms / predicted))

    @cached_property
    def scatter(self) -> float:
        """sigma, the residual standard deviation, robust, and drawn towards NOISE when samples are few."""
        weighted = self.residuals**2 / np.sqrt(1.0 + (self.residuals / CORNER) ** 2)
        used = float(self.leverage(self.samples.batch, self.samples.sm_milli).sum())
        free = max(len(self.samples) - used, 0.5)
        return math.sqrt((float(weighted.sum()) + NOISE_BELIEF * NOISE**2) / (free + NOISE_BELIEF))

    @cached_property
    def n_cells(self) -> int:
        """Distinct (batch, share) cells measured."""
        return len(self.samples.cells())

    @cached_property
    def outliers(self) -> tuple[int, ...]:
        """Rows of `samples` that lie far off the fitted surface."""
        return outlying_rows(self.residuals)

    def diagnostics(self) -> tuple[str, ...]:
        """Plain sentences on what is odd in the samples, or not pinned down by them."""
        return describe(self.samples, self.model, self.outliers)

    @property
    def identified(self) -> bool:
        """Whether the samples can pin the model down: at least 3 batches, 2 shares and 5 cells."""
        samples = self.samples
        return len(set(samples.batch)) >= 3 and len(set(samples.sm_milli)) >= 2 and self.n_cells >= 5

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back (all but the timing)."""
        return {
            "version": _VERSION,
            "model": self.model.to_dict(),
            "samples": self.samples.to_dict(),
            "family": self.family,
            "precision": [list(row) for row in self.precision],
            "termination": self.termination.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyFit:
        """The fit `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("latency_fit", data, version=_VERSION)
        fields = {
            **document,
            "model": RooflineModel.from_dict(check.item("latency_fit", document, "model")),
            "samples": ProfileSamples.from_dict(check.item("latency_fit", document, "samples")),
            "termination": Termination.from_dict(
                check.item("latency_fit", document, "termination"), argument="latency_fit.termination"
            ),
        }
        required = ("model", "samples", "family", "precision", "termination")
        return check.build("latency_fit", fields, cls, required=required)


@dataclass(frozen=True)
class TrainingFit:
    """A fitted training function: the latency fit of its steps, and the `batch` it trains at."""

    step: LatencyFit
    batch: int

    def __post_init__(self) -> None:
        if not isinstance(self.step, LatencyFit):
            check.fail("step", f"is {self.step!r}; expected a LatencyFit.")
        object.__setattr__(self, "batch", check.integer("batch", self.batch, at_least=1))

    @property
    def model(self) -> TrainingModel:
        """Throughput over share."""
        return TrainingModel(self.step.model, self.batch)

    def diagnostics(self) -> tuple[str, ...]:
        """What is odd in the samples; that they hold few batches is no fault if this one is among them."""
        measured = bool((self.step.samples.batch == self.batch).any())
        return describe(self.step.samples, self.step.model, self.step.outliers, fixed_batch=measured)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": _VERSION, "batch": self.batch, "step": self.step.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingFit:
        """The fit `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("training_fit", data, version=_VERSION)
        step = LatencyFit.from_dict(check.item("training_fit", document, "step"))
        return check.build("training_fit", {**document, "step": step}, cls, required=("step", "batch"))


def _positive_definite(argument: str, value: object) -> tuple[tuple[float, ...], ...]:
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        check.fail(argument, f"is {value!r:.120}; expected a {_PARAMETERS} by {_PARAMETERS} matrix.")
    if matrix.shape != (_PARAMETERS, _PARAMETERS) or not np.isfinite(matrix).all():
        check.fail(argument, f"has shape {matrix.shape} or is not finite; expected ({_PARAMETERS}, {_PARAMETERS}).")
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        check.fail(argument, "is not positive definite; expected the curvature of a fit at its minimum.")
    return tuple(tuple(row) for row in matrix.tolist())
