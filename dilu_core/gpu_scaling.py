"""Carry what is known of a function from one GPU type to another, by their data sheets, with the doubt that deserves.

Each time of the roofline follows one resource:

    compute per sample w       peak compute
    bandwidth per sample d     memory bandwidth
    fixed work m               the geometric mean of both: weights are read, and kernels run that nothing fills
    launch floor L             half the host, which stays; half a kernel's critical path, by the speed of one SM
    host per sample h          the host, which stays

Functions reach different parts of the peaks on different GPUs, so every parameter keeps a spread of its own, and the
function as a whole one more; a few samples on the target settle both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.latency_fit import LatencyFit
from dilu_core.latency_prior import BANDWIDTH, GENERAL_PRIOR, TIMES, FamilyPrior, LatencyPrior, prior_around

_VERSION = 1
_SPREADS = np.array([1.0, 1.5, 1.5, 0.5, 1.0, 0.5])  # of log(L, h, m, w, d, p), beyond what the fit leaves open
_SPREAD_AS_A_WHOLE = 0.5  # software, clocks and power limits: a factor of 1.6
_GREATEST_SPREAD = 100.0


@dataclass(frozen=True)
class GpuPeaks:
    """What the data sheet of a GPU type promises.

    Parameters
    ----------
    name
        Any text.
    tflops
        Peak dense matrix throughput in 16 bit floating point, in 1e12 operations per second.
    bandwidth_gb_s
        Peak memory bandwidth in 1e9 bytes per second.
    sms
        Streaming multiprocessors.

    Raises `InvalidArgumentError` naming what is not positive.
    """

    name: str
    tflops: float
    bandwidth_gb_s: float
    sms: int

    def __post_init__(self) -> None:
        check.text("name", self.name)
        object.__setattr__(self, "tflops", check.finite("tflops", self.tflops, above=0))
        object.__setattr__(self, "bandwidth_gb_s", check.finite("bandwidth_gb_s", self.bandwidth_gb_s, above=0))
        object.__setattr__(self, "sms", check.integer("sms", self.sms, at_least=1))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GpuPeaks:
        """The peaks `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("gpu_peaks", data, version=_VERSION)
        return check.build("gpu_peaks", document, cls, required=("name", "tflops", "bandwidth_gb_s", "sms"))


GPU_PEAKS: Mapping[str, GpuPeaks] = {
    peaks.name: peaks
    for peaks in (
        GpuPeaks("T4", 65.0, 320.0, 40),
        GpuPeaks("V100-SXM2-16GB", 125.0, 900.0, 80),
        GpuPeaks("V100-SXM2-32GB", 125.0, 900.0, 80),
        GpuPeaks("A10", 125.0, 600.0, 72),
        GpuPeaks("A100-SXM4-40GB", 312.0, 1555.0, 108),
        GpuPeaks("A100-SXM4-80GB", 312.0, 2039.0, 108),
        GpuPeaks("L4", 121.0, 300.0, 58),
        GpuPeaks("L40S", 362.0, 864.0, 142),
        GpuPeaks("H100-SXM5-80GB", 989.0, 3350.0, 132),
        GpuPeaks("H200-SXM-141GB", 989.0, 4800.0, 132),
    )
}
"""Peaks by name, from NVIDIA's data sheets and architecture white papers (dense, without sparsity)."""


@dataclass(frozen=True)
class GpuScale:
    """How the times of a roofline change from the GPU type it was measured on to another, for `sweep_quota`.

    Parameters
    ----------
    name
        Of the other GPU type. Any text.
    launch, host, fixed, compute, bandwidth
        What each time of the roofline is multiplied by; 1 on the same type.
    scale_spread
        Standard deviation of the log of a function's speed as a whole on the other type, on top of what the module says
        of each parameter; `None`: the factors are taken as exact, so that the bound widens by nothing.

    Raises `InvalidArgumentError` naming what is not positive.
    """

    name: str
    launch: float = 1.0
    host: float = 1.0
    fixed: float = 1.0
    compute: float = 1.0
    bandwidth: float = 1.0
    scale_spread: float | None = None

    def __post_init__(self) -> None:
        check.text("name", self.name)
        for each in ("launch", "host", "fixed", "compute", "bandwidth"):
            object.__setattr__(self, each, check.finite(each, getattr(self, each), above=0))
        if self.scale_spread is not None:
            spread = check.finite("scale_spread", self.scale_spread, above=0, at_most=_GREATEST_SPREAD)
            object.__setattr__(self, "scale_spread", spread)

    @property
    def factors(self) -> NDArray[np.float64]:
        """(6,) factors of (L, h, m, w, d, p); the sharpness p stays."""
        return np.array([self.launch, self.host, self.fixed, self.compute, self.bandwidth, 1.0])

    @property
    def left_open(self) -> NDArray[np.float64]:
        """(6, 6) covariance that the scaling adds to the log parameters."""
        return np.zeros((6, 6)) if self.scale_spread is None else _left_open(self.scale_spread)


def gpu_scale(
    source: GpuPeaks | str, target: GpuPeaks | str, *, scale_spread: float | None = _SPREAD_AS_A_WHOLE
) -> GpuScale:
    """The scaling from `source` to `target` by their peaks, as the module states; its doubt as in `transfer_prior`."""
    old, new = _peaks("source", source), _peaks("target", target)
    launch, host, fixed, compute, bandwidth = np.exp(_log_factors(old, new)[:5]).tolist()
    return GpuScale(new.name, launch, host, fixed, compute, bandwidth, scale_spread)


def transfer_prior(
    fit: LatencyFit, source: GpuPeaks | str, target: GpuPeaks | str, *, scale_spread: float = _SPREAD_AS_A_WHOLE
) -> LatencyPrior:
    """What a fit on the GPU type `source` says of the same function on `target`, for `fit_latency(..., prior=...)`.

    Parameters
    ----------
    fit
        The function, measured on `source`.
    source, target
        Peaks, or a name in `GPU_PEAKS`.
    scale_spread
        Standard deviation of the log of the function's speed as a whole on the target.

    The centre scales as the module states; the covariance is that of the fit, plus what the scaling leaves open. Where
    the fit did without a bandwidth term, the general prior speaks for it. Raises `InvalidArgumentError` naming the
    argument.
    """
    if not isinstance(fit, LatencyFit):
        check.fail("fit", f"is {fit!r:.80}; expected a LatencyFit.")
    old, new = _peaks("source", source), _peaks("target", target)
    whole = check.finite("scale_spread", scale_spread, above=0, at_most=_GREATEST_SPREAD)
    shift = _log_factors(old, new)
    around = prior_around(fit.roofline, 1.0).family(fit.family)
    own = streaming = FamilyPrior(around.center + shift, fit.covariance + _left_open(whole))
    if fit.family == "compute":  # says nothing of the bandwidth term, which is not to say that there is none
        general = GENERAL_PRIOR.family("bandwidth").covariance
        center, spread = own.center.copy(), own.covariance.copy()
        center[BANDWIDTH] = GENERAL_PRIOR.center_for("bandwidth", fit.samples)[BANDWIDTH] + shift[BANDWIDTH]
        spread[BANDWIDTH, BANDWIDTH] += general[BANDWIDTH, BANDWIDTH]
        streaming = FamilyPrior(center, spread)
    return LatencyPrior(
        own,
        streaming,
        scale_known=True,
        functions=1,
        gpu_type=new.name,
        provenance=f"{fit.samples.function or 'a function'} on {old.name}, scaled to {new.name} by peaks",
    )


def _log_factors(old: GpuPeaks, new: GpuPeaks) -> NDArray[np.float64]:
    """(6,) what the logs of (L, h, m, w, d, p) gain from one GPU type to the other."""
    compute = math.log(old.tflops) - math.log(new.tflops)
    bandwidth = math.log(old.bandwidth_gb_s) - math.log(new.bandwidth_gb_s)
    one_sm = compute - (math.log(old.sms) - math.log(new.sms))
    return np.array([0.5 * one_sm, 0.0, 0.5 * (compute + bandwidth), compute, bandwidth, 0.0])


def _left_open(whole: float) -> NDArray[np.float64]:
    """(6, 6) covariance of the log parameters that peaks leave open, the function's speed as a whole by `whole`."""
    return np.asarray(np.diag(_SPREADS**2) + whole**2 * np.outer(TIMES, TIMES))


def _peaks(argument: str, value: object) -> GpuPeaks:
    if isinstance(value, GpuPeaks):
        return value
    if not isinstance(value, str) or value not in GPU_PEAKS:
        check.fail(argument, f"is {value!r:.80}; expected GpuPeaks or one of {', '.join(GPU_PEAKS)}.")
    return GPU_PEAKS[value]
