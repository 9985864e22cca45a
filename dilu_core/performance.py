"""Performance models: latency over batch and share (roofline), memory over batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.units import FULL_GPU_MILLI, demand_units

_VERSION = 1


@runtime_checkable
class LatencyModel(Protocol):
    """Anything that predicts the mean latency of a batch."""

    def latency_ms(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Latency in ms; `batch` and `sm_milli` broadcast, and the answer has their common shape."""
        ...


@dataclass(frozen=True)
class RooflineModel:
    """The p-norm roofline: a batch takes as long as its slowest resource, with a soft knee between them.

    t(b, s) = h b + [L^p + ((m + w b) / s)^p + (d b)^p]^(1/p),   s = sm_milli / 1000

    Parameters
    ----------
    launch_ms
        L, the launch floor: what a batch costs however small it is.
    host_ms
        h, serial host time per sample.
    fixed_ms, compute_ms
        m and w, work per batch and per sample that scales with the share, in ms of a whole GPU.
    bandwidth_ms
        d, time per sample that no share shortens (memory bandwidth). Zero leaves the term out.
    sharpness
        p > 0, how sharp the knee between the regimes is.

    Latency rises in the batch and falls in the share, with d log t / d log b and -d log t / d log s in [0, 1]: twice
    the batch never takes more than twice as long, and twice the share never saves more than half.

    Raises `InvalidArgumentError` for a negative or infinite parameter, or if all times are zero.
    """

    launch_ms: float
    host_ms: float
    fixed_ms: float
    compute_ms: float
    bandwidth_ms: float = 0.0
    sharpness: float = 3.0

    def __post_init__(self) -> None:
        times = ("launch_ms", "host_ms", "fixed_ms", "compute_ms", "bandwidth_ms")
        for name in times:
            object.__setattr__(self, name, check.finite(name, getattr(self, name), at_least=0))
        object.__setattr__(self, "sharpness", check.finite("sharpness", self.sharpness, above=0))
        if not any(getattr(self, name) > 0 for name in times):
            check.fail("launch_ms", "is zero and so is every other time; a model needs at least one positive.")

    @property
    def parameters(self) -> tuple[float, float, float, float, float, float]:
        """(L, h, m, w, d, p), the order of `kernels.formulas`."""
        return (
            self.launch_ms,
            self.host_ms,
            self.fixed_ms,
            self.compute_ms,
            self.bandwidth_ms,
            self.sharpness,
        )

    def latency_ms(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Mean latency of a batch in ms; the arguments broadcast.

        The array twin of `formulas.roofline_ms`. Raises `InvalidArgumentError` for a batch that is not positive or a
        share outside (0, 1000].
        """
        samples, share = operating_points(batch, sm_milli)
        launch, host, fixed, compute, bandwidth, sharpness = self.parameters
        scaled = (fixed + compute * samples) / share
        streamed = bandwidth * samples
        top = np.maximum(np.maximum(launch, scaled), streamed)
        top = np.where(top > 0, top, 1.0)
        total = (launch / top) ** sharpness + (scaled / top) ** sharpness + (streamed / top) ** sharpness
        return np.asarray(host * samples + top * total ** (1.0 / sharpness))

    def log_gradient(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Derivatives of log latency by the logs of (L, h, m, w, d, p): the shape of the inputs, then 6.

        The array twin of `formulas.roofline_log_gradient`.
        """
        samples, share = operating_points(batch, sm_milli)
        launch, host, fixed, compute, bandwidth, sharpness = self.parameters
        work = fixed + compute * samples
        terms = np.stack(np.broadcast_arrays(launch, work / share, bandwidth * samples))
        top = terms.max(axis=0)
        top = np.where(top > 0, top, 1.0)
        powers = (terms / top) ** sharpness
        total = powers.sum(axis=0)
        norm = top * total ** (1.0 / sharpness)
        parts = powers / np.where(total > 0, total, 1.0)
        of_norm = norm / (norm + host * samples)
        of_fixed = fixed / np.where(work > 0, work, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            bend = np.where(parts > 0, parts * np.log(terms / norm), 0.0).sum(axis=0)
        columns = (
            of_norm * parts[0],
            1.0 - of_norm,
            of_norm * parts[1] * of_fixed,
            of_norm * parts[1] * (1.0 - of_fixed),
            of_norm * parts[2],
            of_norm * bend,
        )
        return np.stack(np.broadcast_arrays(*columns), axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": _VERSION, "form": "roofline", **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RooflineModel:
        """The model `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("model", data, version=_VERSION)
        check.choice("model.form", check.item("model", document, "form"), ("roofline",))
        required = ("launch_ms", "host_ms", "fixed_ms", "compute_ms", "bandwidth_ms", "sharpness")
        return check.build("model", document, cls, required=required)


@dataclass(frozen=True)
class MemoryModel:
    """GPU memory of one instance, affine in the batch: base_mib + per_sample_mib * b, rounded up to whole MiB."""

    base_mib: float
    per_sample_mib: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_mib", check.finite("base_mib", self.base_mib, at_least=0))
        slope = check.finite("per_sample_mib", self.per_sample_mib, at_least=0)
        object.__setattr__(self, "per_sample_mib", slope)

    def memory_mib(self, batch: int) -> int:
        """Memory in MiB at this batch, rounded up; at least 1."""
        samples = check.integer("batch", batch, at_least=1)
        wanted = self.base_mib + self.per_sample_mib * samples
        if wanted > check.LARGEST:
            check.fail("batch", f"is {samples}, at which the model asks for {wanted:g} MiB; that is no GPU's memory.")
        return max(1, demand_units(wanted))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MemoryModel:
        """The model `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("memory_model", data, version=_VERSION)
        return check.build("memory_model", document, cls, required=("base_mib", "per_sample_mib"))


def operating_points(batch: ArrayLike, sm_milli: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`batch` and the share as a fraction of a GPU, broadcast against each other, or an error naming the argument."""
    try:
        samples = np.asarray(batch, dtype=np.float64)
        shares = np.asarray(sm_milli, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        check.fail("batch", "or sm_milli is not numeric; expected numbers or arrays of numbers.")
    if not np.all((samples > 0) & np.isfinite(samples)):
        check.fail("batch", "holds a value that is not positive and finite.")
    if not np.all((shares > 0) & (shares <= FULL_GPU_MILLI)):
        check.fail("sm_milli", f"holds a value outside (0, {FULL_GPU_MILLI}] milli-GPU.")
    try:
        samples, shares = np.broadcast_arrays(samples, shares / FULL_GPU_MILLI)
    except ValueError:
        check.fail("sm_milli", f"has shape {shares.shape}, which does not broadcast against batch {samples.shape}.")
    return samples, shares
