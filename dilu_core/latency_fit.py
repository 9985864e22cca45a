"""LatencyFit: a latency model fitted to samples, with a calibrated bound on what it may get wrong. TrainingFit
likewise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.calibration import (
    CORNER,
    LEVERAGE_CAP,
    NOISE,
    NOISE_BELIEF,
    SPREAD_FLOOR,
    Calibration,
    shipped_calibration,
)
from dilu_core.fit_diagnostics import describe, outlying_rows
from dilu_core.latency_prior import FAMILIES, Family, positive_definite
from dilu_core.latency_residual import SharedDeviation, SmoothDeviation, corrected_surface, smooth_deviation
from dilu_core.latency_surface import MonotoneSurface
from dilu_core.performance import RooflineModel
from dilu_core.quota import QuotaGrid
from dilu_core.result import SolveStats, Termination, TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.sampling_design import farthest_cells
from dilu_core.training_model import TrainingModel
from dilu_core.upper_bound import UpperBound, reasons_for_width

__all__ = ["FAMILIES", "Family", "LatencyFit", "TrainingFit"]

_VERSION = 2
_GREATEST_MAD = 0.5  # beyond a factor of 1.6 either way there is no noise to estimate, only a model that is wrong
_NORMAL_MAD = 1.4826  # standard deviation of a normal variable over its median absolute deviation


@dataclass(frozen=True)
class LatencyFit:
    """A fitted latency model and how far to trust it.

    Parameters
    ----------
    roofline
        The fitted p-norm roofline.
    samples
        What it was fitted to.
    family
        "compute" or "bandwidth": whether the term of share-independent time per sample took part.
    precision
        (6, 6) curvature of the fit's objective at `roofline`, over log(L, h, m, w, d, p): the inverse covariance of the
        log parameters. Symmetric and positive definite.
    deviation
        What functions of this GPU type deviate from a roofline in common, where a learnt prior knew of it.
    with_residual
        Whether what the roofline leaves over may correct the model where it is no noise (`latency_residual`).
    calibration
        What `upper_ms` rests on; `None`: the one in the package.
    termination, stats
        How the fit ended and what it cost.
    """

    roofline: RooflineModel
    samples: ProfileSamples
    family: Family
    precision: tuple[tuple[float, ...], ...]
    deviation: SharedDeviation | None = None
    with_residual: bool = True
    calibration: Calibration | None = None
    termination: Termination = field(default=Termination(TerminationReason.CONVERGED))
    stats: SolveStats = field(default=SolveStats(0.0), compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.roofline, RooflineModel):
            check.fail("roofline", f"is {self.roofline!r}; expected a RooflineModel.")
        if not isinstance(self.samples, ProfileSamples):
            check.fail("samples", f"is {self.samples!r}; expected ProfileSamples.")
        check.choice("family", self.family, FAMILIES)
        matrix = positive_definite("precision", self.precision)
        object.__setattr__(self, "precision", tuple(tuple(row) for row in matrix.tolist()))
        if self.deviation is not None and not isinstance(self.deviation, SharedDeviation):
            check.fail("deviation", f"is {self.deviation!r:.80}; expected a SharedDeviation or None.")
        object.__setattr__(self, "with_residual", check.flag("with_residual", self.with_residual))
        if self.calibration is not None and not isinstance(self.calibration, Calibration):
            check.fail("calibration", f"is {self.calibration!r:.80}; expected a Calibration or None.")

    @cached_property
    def model(self) -> RooflineModel | MonotoneSurface:
        """The mean prediction: `fit.model.latency_ms(batch, sm_milli)`.

        The roofline itself, or where deviations from it earn their place a `MonotoneSurface` that has them.
        """
        deviations = tuple(each for each in (self.deviation, self.residual) if each is not None)
        if not deviations:
            return self.roofline
        return corrected_surface(self.roofline, self.samples.batch, self.samples.sm_milli, deviations)

    @cached_property
    def residual(self) -> SmoothDeviation | None:
        """The smooth deviation that this function's own samples speak for, `None` where they speak for noise."""
        if not self.with_residual:
            return None
        inliers = np.setdiff1d(np.arange(len(self.samples)), self.outliers)
        kept = self.samples.select(inliers)
        return smooth_deviation(kept.batch, kept.sm_milli, self.residuals[inliers])

    def latency_ms(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Mean latency of a batch in ms, as `model.latency_ms`; the arguments broadcast."""
        return self.model.latency_ms(batch, sm_milli)

    def upper_ms(self, batch: ArrayLike, sm_milli: ArrayLike, quantile: float = 0.95) -> NDArray[np.float64]:
        """The latency that a measurement stays below with probability `quantile`; the arguments broadcast.

        upper = t exp(k spread), with the mean prediction t, the `spread` of the point, and k from split-conformal
        calibration over profile tables (`dilu_core.calibration`). The coverage holds on average over functions like
        those of the tables; a single function may lie above or below it throughout. Rises with `quantile` and is never
        below the mean from 0.5 on. Raises `InvalidArgumentError` naming `quantile` outside (0, 1).
        """
        level = self.error_quantile(quantile)
        return np.asarray(self.model.latency_ms(batch, sm_milli) * np.exp(level * self.spread(batch, sm_milli)))

    def explain_upper(self, batch: int, sm_milli: int, quantile: float = 0.95) -> UpperBound:
        """`upper_ms` of one cell, with plain sentences on why it lies as far above the mean as it does."""
        cell = check.integer("batch", batch, at_least=1), check.share_milli("sm_milli", sm_milli)
        mean, upper = float(self.latency_ms(*cell)), float(self.upper_ms(*cell, quantile))
        reasons = reasons_for_width(self.samples, float(self.leverage(*cell)), self.scatter, *cell)
        return UpperBound(*cell, float(quantile), mean, upper, reasons)

    def error_quantile(self, quantile: float) -> float:
        """k of `upper_ms`: the calibrated quantile of log error over `spread`."""
        return (self.calibration or shipped_calibration()).level(quantile)

    def spread(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """sqrt(sigma^2 min(v, cap) + max(floor, sigma)^2): the scale of the log error at a point, by its leverage v."""
        leverage = np.minimum(self.leverage(batch, sm_milli), LEVERAGE_CAP)
        return np.asarray(np.sqrt(self.scatter**2 * leverage + self.floor**2))

    @property
    def floor(self) -> float:
        """What remains of `spread` where the samples leave nothing open: the misfit of the form, or the noise of a
        measurement where that is more."""
        return max(SPREAD_FLOOR, self.scatter)

    def leverage(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """v = J C J^T / noise^2 >= 0, the variance of log t that the samples leave, in units of one sample's noise.

        J is the gradient of log t by the log parameters and C their covariance. About 1 beside a lone sample, below 1
        amid many, large where nothing was measured nearby.
        """
        gradient = self.roofline.log_gradient(batch, sm_milli)
        variance = np.einsum("...i,ij,...j->...", gradient, self.covariance, gradient)
        return np.asarray(np.maximum(variance, 0.0) / NOISE**2)

    @cached_property
    def covariance(self) -> NDArray[np.float64]:
        """(6, 6) covariance of log(L, h, m, w, d, p), read-only."""
        inverse = np.linalg.inv(np.array(self.precision))
        return check.read_only((inverse + inverse.T) / 2)

    @cached_property
    def residuals(self) -> NDArray[np.float64]:
        """(n,) log(measured / predicted) at the samples before the samples' own residual corrects it, read-only."""
        predicted = np.log(self.roofline.latency_ms(self.samples.batch, self.samples.sm_milli))
        if self.deviation is not None:
            predicted = predicted + self.deviation.at(self.samples.batch, self.samples.sm_milli)
        return check.read_only(np.log(self.samples.latency_ms) - predicted)

    @cached_property
    def scatter(self) -> float:
        """sigma, the residual standard deviation, robust, and drawn towards NOISE when samples are few.

        The greater of what the loss of the fit makes of the residuals, which is little where they are large, and of
        their median absolute deviation.
        """
        count = len(self.samples)
        weighted = self.residuals**2 / np.sqrt(1.0 + (self.residuals / CORNER) ** 2)
        used = float(self.leverage(self.samples.batch, self.samples.sm_milli).sum())
        free = max(count - used, 0.5)
        typical = min(_NORMAL_MAD * float(np.median(np.abs(self.residuals))), _GREATEST_MAD)
        squares = max(float(weighted.sum()), count * typical**2)
        return math.sqrt((squares + NOISE_BELIEF * NOISE**2) / (free + NOISE_BELIEF))

    @cached_property
    def n_cells(self) -> int:
        """Distinct (batch, share) cells measured."""
        return len(self.samples.cells())

    @cached_property
    def outliers(self) -> tuple[int, ...]:
        """Rows of `samples` that lie far off the fitted surface."""
        return outlying_rows(self.residuals)

    def diagnostics(self) -> tuple[str, ...]:
        """Plain sentences on what is odd in the samples, or not pinned down by them, and what to measure next."""
        wanted = () if self.identified else self.measure_next(count=3)
        return describe(self.samples, self.roofline, self.residuals, measure_next=wanted)

    def measure_next(self, grid: QuotaGrid | None = None, *, count: int = 1) -> tuple[tuple[int, int], ...]:
        """The cells (batch, sm_milli) of `grid` that would tell most about the surface, the best first.

        One after the other, the cell whose latency is least certain given the samples and the cells before it (greedy
        D-optimal design; Fedorov, "Theory of Optimal Experiments", 1972). `None`: the powers of two up to the greatest
        measured batch, and tenths of a GPU. Fewer than `count` where the grid runs out of cells not yet measured.
        """
        if grid is None:
            grid = QuotaGrid.regular(max(int(self.samples.batch.max()), 4), 100)
        elif not isinstance(grid, QuotaGrid):
            check.fail("grid", f"is {grid!r:.80}; expected a QuotaGrid or None.")
        wanted = check.integer("count", count, at_least=0)
        return farthest_cells(self.roofline, self.covariance, self.scatter, self.samples, grid, wanted)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore after pickling, which forgets that the arrays are read-only."""
        check.restore(self, state)

    def with_calibration(self, calibration: Calibration | None) -> LatencyFit:
        """The same fit, its bound resting on another calibration (see `calibrate`)."""
        return replace(self, calibration=calibration)

    @property
    def identified(self) -> bool:
        """Whether the samples can pin the model down: at least 3 batches, 2 shares and 5 cells."""
        samples = self.samples
        return len(set(samples.batch)) >= 3 and len(set(samples.sm_milli)) >= 2 and self.n_cells >= 5

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back (all but the timing)."""
        return {
            "version": _VERSION,
            "roofline": self.roofline.to_dict(),
            "samples": self.samples.to_dict(),
            "family": self.family,
            "precision": [list(row) for row in self.precision],
            "deviation": None if self.deviation is None else self.deviation.to_dict(),
            "with_residual": self.with_residual,
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "termination": self.termination.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyFit:
        """The fit `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("latency_fit", data, version=_VERSION)
        deviation = check.item("latency_fit", document, "deviation")
        calibration = check.item("latency_fit", document, "calibration")
        fields = {
            **document,
            "roofline": RooflineModel.from_dict(check.item("latency_fit", document, "roofline")),
            "samples": ProfileSamples.from_dict(check.item("latency_fit", document, "samples")),
            "deviation": None if deviation is None else SharedDeviation.from_dict("latency_fit.deviation", deviation),
            "calibration": None if calibration is None else Calibration.from_dict(calibration),
            "termination": Termination.from_dict(
                check.item("latency_fit", document, "termination"), argument="latency_fit.termination"
            ),
        }
        required = ("roofline", "samples", "family", "precision", "deviation", "with_residual", "calibration")
        return check.build("latency_fit", fields, cls, required=(*required, "termination"))


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
        return describe(self.step.samples, self.step.roofline, self.step.residuals, fixed_batch=measured)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": 1, "batch": self.batch, "step": self.step.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingFit:
        """The fit `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("training_fit", data, version=1)
        step = LatencyFit.from_dict(check.item("training_fit", document, "step"))
        return check.build("training_fit", {**document, "step": step}, cls, required=("step", "batch"))
