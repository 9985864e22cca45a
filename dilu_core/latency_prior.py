"""LatencyPrior: what is believed of a function's latency surface before it is measured.

A roofline has the parameters q = log(L, h, m, w, d, p). The prior is a Gaussian over q, one for each family of the
model, and what the functions it was learnt from have in common beyond the roofline (`SharedDeviation`). How fast a
function is as a whole is usually not known beforehand, nor, for the general prior, what counts as one sample of a
batch: such a scale is taken from the samples, and believed in only loosely."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.latency_residual import SharedDeviation
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.units import FULL_GPU_MILLI

Family = Literal["compute", "bandwidth"]
FAMILIES: tuple[Family, ...] = ("compute", "bandwidth")
"""The roofline without ("compute") and with ("bandwidth") the share-independent time per sample."""

PARAMETERS = 6
BANDWIDTH = 4  # index of log d, which the compute family does without
TIMES = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])  # all times: the direction of the unit of time
PER_SAMPLE = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])  # times per sample: the direction of the unit of batch

_VERSION = 1
_TYPICAL_BATCH = 32.0**0.5  # the geometric mean of the batches 1..32
_SCALE_SPREAD = 5.0  # in logs: a factor of 150, next to nothing
_LEAST_LOGS = np.array([-700.0] * 5 + [-5.0])  # of times, and of a sharpness below which latency leaves all floats
_GREATEST_LOGS = np.array([700.0] * 5 + [20.0])
_LEAST_VARIANCE, _GREATEST_VARIANCE = 1e-13, 1e13  # in any direction: beyond, no covariance is inverted to any use

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FamilyPrior:
    """Gaussian prior of q for one family: `center (6,)`, `covariance (6, 6)`, and the deviation known beforehand."""

    center: NDArray[np.float64]
    covariance: Matrix
    deviation: SharedDeviation | None = None

    def __post_init__(self) -> None:
        center = check.float_column("center", self.center)
        if center.size != PARAMETERS or not ((center >= _LEAST_LOGS) & (center <= _GREATEST_LOGS)).all():
            check.fail("center", f"is {self.center!r:.80}; expected {PARAMETERS} logs of times in ms and a sharpness.")
        covariance = positive_definite("covariance", self.covariance)
        least, *_, greatest = np.linalg.eigvalsh(covariance)
        if least < _LEAST_VARIANCE or greatest > _GREATEST_VARIANCE:
            span = f"{_LEAST_VARIANCE:g} to {_GREATEST_VARIANCE:g}"
            check.fail("covariance", f"has variances from {least:g} to {greatest:g}; expected them within {span}.")
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "covariance", covariance)
        if self.deviation is not None and not isinstance(self.deviation, SharedDeviation):
            check.fail("deviation", f"is {self.deviation!r:.80}; expected a SharedDeviation or None.")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore after pickling, which forgets that the arrays are read-only."""
        check.restore(self, state)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "center": self.center.tolist(),
            "covariance": self.covariance.tolist(),
            "deviation": None if self.deviation is None else self.deviation.to_dict(),
        }

    @classmethod
    def from_dict(cls, argument: str, data: Mapping[str, Any]) -> FamilyPrior:
        """The prior `to_dict` wrote; `InvalidArgumentError` names what of `argument` is missing or wrong."""
        if not isinstance(data, Mapping):
            check.fail(argument, f"is {data!r:.80}; expected a mapping.")
        deviation = check.item(argument, data, "deviation")
        if deviation is not None:
            deviation = SharedDeviation.from_dict(f"{argument}.deviation", deviation)
        return check.build(
            argument, {**data, "deviation": deviation}, cls, required=("center", "covariance", "deviation")
        )


@dataclass(frozen=True, eq=False)
class LatencyPrior:
    """A prior for each family of the model.

    Parameters
    ----------
    compute, bandwidth
        The Gaussians of the two families.
    scale_known
        Whether `center` holds absolute times: the prior of one function on another GPU. Otherwise the centre is moved
        until it meets the samples on average, and their common factor is free.
    batch_known
        Whether the prior's batches count what the samples' batches count. Otherwise they are put on the same footing.
    functions
        How many functions it was learnt from.
    gpu_type, provenance
        Where it holds, and where it comes from. Any text.
    """

    compute: FamilyPrior
    bandwidth: FamilyPrior
    scale_known: bool = False
    batch_known: bool = True
    functions: int = 0
    gpu_type: str = ""
    provenance: str = field(default="")

    def __post_init__(self) -> None:
        for name in FAMILIES:
            if not isinstance(getattr(self, name), FamilyPrior):
                check.fail(name, f"is {getattr(self, name)!r:.80}; expected a FamilyPrior.")
        object.__setattr__(self, "scale_known", check.flag("scale_known", self.scale_known))
        object.__setattr__(self, "batch_known", check.flag("batch_known", self.batch_known))
        object.__setattr__(self, "functions", check.integer("functions", self.functions, at_least=0))
        check.text("gpu_type", self.gpu_type, empty=True)
        check.text("provenance", self.provenance, empty=True)

    def family(self, name: Family) -> FamilyPrior:
        """The prior of one family; `InvalidArgumentError` naming `family` for any other name."""
        check.choice("family", name, FAMILIES)
        return self.bandwidth if name == "bandwidth" else self.compute

    def center_for(self, name: Family, samples: ProfileSamples) -> NDArray[np.float64]:
        """(6,) the centre in the units of these samples."""
        own = self.family(name)
        center = own.center.copy()
        if not self.batch_known:
            center -= PER_SAMPLE * (float(np.log(samples.batch).mean()) - math.log(_TYPICAL_BATCH))
        if not self.scale_known:
            predicted = _log_latency(center, name, np.log(samples.batch), np.log(samples.sm_milli / FULL_GPU_MILLI))
            center += TIMES * float(np.mean(np.log(samples.latency_ms) - predicted))
        return center

    def precision(self, name: Family) -> Matrix:
        """(6, 6) inverse covariance; the compute family has zeros for the bandwidth that it does without."""
        covariance = self.family(name).covariance
        if not self.scale_known:
            covariance = covariance + _SCALE_SPREAD**2 * np.outer(TIMES, TIMES)
        inverse = np.zeros((PARAMETERS, PARAMETERS))
        used = np.array([k for k in range(PARAMETERS) if name == "bandwidth" or k != BANDWIDTH])
        inverse[np.ix_(used, used)] = np.linalg.inv(covariance[np.ix_(used, used)])
        return (inverse + inverse.T) / 2.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LatencyPrior) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.functions, self.gpu_type, self.compute.center.tobytes()))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "version": _VERSION,
            "compute": self.compute.to_dict(),
            "bandwidth": self.bandwidth.to_dict(),
            "scale_known": self.scale_known,
            "batch_known": self.batch_known,
            "functions": self.functions,
            "gpu_type": self.gpu_type,
            "provenance": self.provenance,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyPrior:
        """The prior `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("latency_prior", data, version=_VERSION)
        fields = dict(document)
        for name in FAMILIES:
            own = check.item("latency_prior", document, name)
            fields[name] = FamilyPrior.from_dict(f"latency_prior.{name}", own)
        optional = ("scale_known", "batch_known", "functions", "gpu_type", "provenance")
        return check.build("latency_prior", fields, cls, required=FAMILIES, optional=optional)


def _log_latency(
    logs: NDArray[np.float64], family: Family, log_batch: NDArray[np.float64], log_share: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log latency in ms of the roofline with these log parameters, without the checks of a model."""
    launch, host, fixed, compute, bandwidth, sharpness = logs
    power = np.exp(sharpness)
    norm = np.logaddexp(power * launch, power * (np.logaddexp(fixed, compute + log_batch) - log_share))
    if family == "bandwidth":
        norm = np.logaddexp(norm, power * (bandwidth + log_batch))
    return np.asarray(np.logaddexp(norm / power, host + log_batch))


def roofline_of(logs: NDArray[np.float64], family: Family) -> RooflineModel:
    """The model with parameters exp(logs), without bandwidth in the compute family."""
    values = np.exp(logs).tolist()
    if family == "compute":
        values[BANDWIDTH] = 0.0
    return RooflineModel(*values)


def prior_around(model: RooflineModel, spread: float) -> LatencyPrior:
    """A prior of the shape of `model` alone, each log parameter within about `spread`; the speed as a whole is free."""
    times = np.array(model.parameters[:-1])
    typical = float(np.exp(np.log(model.latency_ms(_TYPICAL_BATCH, 400)).mean()))
    least = 1e-6 * typical  # a time of zero stands for a millionth of the typical latency
    times = np.maximum(times, least * np.where(PER_SAMPLE[:-1] > 0, 1.0 / _TYPICAL_BATCH, 1.0))
    center = np.append(np.log(times), math.log(model.sharpness))
    own = FamilyPrior(np.clip(center, _LEAST_LOGS, _GREATEST_LOGS), spread**2 * np.eye(PARAMETERS))
    return LatencyPrior(own, own, provenance="the shape of one model")


def positive_definite(argument: str, value: object) -> Matrix:
    """`value` as a read-only symmetric positive definite matrix of the size of q."""
    matrix = check.float_table(argument, value, (PARAMETERS, PARAMETERS))
    if not np.isfinite(matrix).all():
        check.fail(argument, "holds a number that is not finite.")
    if np.abs(matrix - matrix.T).max() > 1e-6 * np.abs(matrix).max():
        check.fail(argument, "is not symmetric.")
    matrix = check.read_only(0.5 * matrix + 0.5 * matrix.T)  # symmetric to the last bit
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        check.fail(argument, "is not positive definite.")
    return matrix


_GENERAL = FamilyPrior(np.array([-1.0, -4.5, -3.0, -3.0, -4.0, 1.1]), np.diag([4.0, 4.0, 4.0, 4.0, 4.0, 0.25]))

GENERAL_PRIOR = LatencyPrior(
    _GENERAL,
    _GENERAL,
    batch_known=False,
    provenance="weakly informative: about a factor e^2 on every time, so that three samples already overrule it",
)
"""The prior of a function of which nothing is known."""
