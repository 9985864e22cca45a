"""What a roofline leaves over, where it is no noise: a smooth deviation of log latency over log batch and log share.

Real surfaces deviate from any formula in the same direction over neighbouring cells: a cache that no longer holds, a
kernel chosen anew from some batch on, partitions whose memory does not follow their SMs. After the roofline is fitted,
its log residuals r are explained as a Gaussian process of squared exponential covariance with AMPLITUDE times the
standard deviation of the noise, or as noise alone. The weight of the process is its posterior probability, with ODDS
for it beforehand and both scales integrated out at their best:

    w = 1 / (1 + N / (ODDS G)),   log N = -n/2 log r^T r,   log G = -n/2 log r^T A^-1 r - 1/2 log |A|,
    A = AMPLITUDE^2 K + I,

so the deviation earns its place by the data. White residuals of twenty samples or more mostly leave the roofline as it
is; those of fewer cannot be told from a smooth deviation, and bend it a little. (Rasmussen and Williams,
"Gaussian Processes for Machine Learning", MIT Press 2006, chapters 2 and 5.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.latency_surface import MonotoneSurface, bilinear
from dilu_core.performance import RooflineModel, operating_points
from dilu_core.units import FULL_GPU_MILLI

AMPLITUDE = 2.0
"""Standard deviation of the smooth deviation, in units of the noise's."""

BATCH_LENGTH, SHARE_LENGTH = 0.7, 1.0
"""Correlation lengths in log batch and log share: a factor of 2 and of 2.7."""

ODDS = 3.0
"""Belief in a smooth deviation before the data."""

FEWEST_CELLS = 7
"""Below this many distinct cells the roofline's own parameters take up all that residuals could say."""

_LEAST_DEVIATION = 0.005  # residuals of half a per cent are not worth a table
_LEAST_WEIGHT = 0.1  # a deviation less probable than this is not worth a table
_LARGEST = 0.3  # log residual up to which a sample shapes the deviation; beyond, it is an outlier
_STEPS = 4  # knots per octave: interpolating a roofline between them is right to about 0.1 p per cent
_OCTAVES_DOWN, _OCTAVES_UP = 3, 3  # how far the table reaches beyond the measured batches at least
_MOST_SAMPLES = 600  # the process costs their number cubed
_MOST_KNOTS = 32  # more distinct batches or shares than this are not each a knot: tables stay small
_SAME_KNOT = 1e-3  # knots this close in logs are one
_LEAST_SHARE = 10.0  # milli-GPU; the table reaches down to here, or to half the least measured share

Column = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SharedDeviation:
    """Log deviation from the roofline that the functions of one GPU type have in common: `(n_batches, n_shares)`.

    Bilinear over log batch and log share between its knots, constant beyond them.
    """

    batch: Column
    sm_milli: Column
    log_factor: Column

    if TYPE_CHECKING:  # the columns are stored as arrays, and made from anything array-like

        def __init__(self, batch: ArrayLike, sm_milli: ArrayLike, log_factor: ArrayLike) -> None: ...

    def __post_init__(self) -> None:
        for name in ("batch", "sm_milli"):
            object.__setattr__(self, name, check.knots(name, getattr(self, name)))
        table = check.float_table("log_factor", self.log_factor, (self.batch.size, self.sm_milli.size))
        if not np.isfinite(table).all():
            check.fail("log_factor", "holds a factor that is not finite.")
        object.__setattr__(self, "log_factor", table)

    def at(self, batch: ArrayLike, sm_milli: ArrayLike) -> Column:
        """Log factor on latency; the arguments broadcast."""
        samples, share = operating_points(batch, sm_milli)
        x, y = np.log(samples), np.log(share * FULL_GPU_MILLI)
        return bilinear(np.log(self.batch), np.log(self.sm_milli), self.log_factor, x, y)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SharedDeviation) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.batch.tobytes(), self.sm_milli.tobytes()))  # no log factors: 0.0 equals -0.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore after pickling, which forgets that the arrays are read-only."""
        check.restore(self, state)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "batch": self.batch.tolist(),
            "sm_milli": self.sm_milli.tolist(),
            "log_factor": self.log_factor.tolist(),
        }

    @classmethod
    def from_dict(cls, argument: str, data: Mapping[str, Any]) -> SharedDeviation:
        """The deviation `to_dict` wrote; `InvalidArgumentError` names what of `argument` is missing or wrong."""
        if not isinstance(data, Mapping):
            check.fail(argument, f"is {data!r:.80}; expected a mapping.")
        return check.build(argument, data, cls, required=("batch", "sm_milli", "log_factor"))


@dataclass(frozen=True, eq=False)
class SmoothDeviation:
    """A smooth log deviation through the residuals of some samples, times the probability that there is one."""

    points: Column
    coefficients: Column
    weight: float

    def at(self, batch: ArrayLike, sm_milli: ArrayLike) -> Column:
        """Log factor on latency; the arguments broadcast."""
        samples, share = operating_points(batch, sm_milli)
        where = scaled_points(samples, share)
        return np.asarray(covariance(where.reshape(-1, 2), self.points) @ self.coefficients).reshape(samples.shape)


def smooth_deviation(batch: ArrayLike, sm_milli: ArrayLike, residuals: Column) -> SmoothDeviation | None:
    """The deviation that log residuals `(n,)` at these samples speak for, or `None` where they speak for noise."""
    samples, share = operating_points(batch, sm_milli)
    kept = np.abs(residuals) <= _LARGEST
    if kept.sum() > _MOST_SAMPLES:  # every k-th of them in the order of the cells says as much
        order = np.lexsort((share, samples))
        order = order[kept[order]]
        kept[:] = False
        kept[order[:: -(-order.size // _MOST_SAMPLES)]] = True
    left = residuals[kept]
    cells, owner = np.unique(np.stack([samples[kept], share[kept]], axis=1), axis=0, return_inverse=True)
    owner = owner.ravel()
    noise_only = float(left @ left)
    if len(cells) < FEWEST_CELLS or noise_only <= _LEAST_DEVIATION**2 * left.size:
        return None
    # Repeats of a cell enter by their mean m of k, of variance 1/k, and their scatter around it: with D the diagonal of
    # the k, r^T A^-1 r = within + m^T B^-1 m and |A| = |B| |D|, B = AMPLITUDE^2 K + D^-1 over cells.
    repeats = np.bincount(owner)
    means = np.bincount(owner, left) / repeats
    within = float(((left - means[owner]) ** 2).sum())
    points = scaled_points(cells[:, 0], cells[:, 1])
    factor = np.linalg.cholesky(AMPLITUDE**2 * covariance(points, points) + np.diag(1.0 / repeats))
    half = np.linalg.solve(factor, means)
    log_volume = float(2.0 * np.log(np.diag(factor)).sum() + np.log(repeats).sum())
    explained = within + float(half @ half)
    gain = 0.5 * (left.size * math.log(noise_only / explained) - log_volume) + math.log(ODDS)
    weight = 1.0 / (1.0 + math.exp(min(-gain, 700.0)))
    if weight < _LEAST_WEIGHT:
        return None
    coefficients = weight * AMPLITUDE**2 * np.linalg.solve(factor.T, half)
    return SmoothDeviation(check.read_only(points), check.read_only(coefficients), weight)


def corrected_surface(
    roofline: RooflineModel,
    batch: ArrayLike,
    sm_milli: ArrayLike,
    deviations: tuple[SharedDeviation | SmoothDeviation, ...],
) -> MonotoneSurface:
    """The roofline times its deviations, made to obey the laws of a latency surface.

    `batch` and `sm_milli` are what was measured. The table reaches three octaves beyond the batches either way, or down
    to batch 1, and over all shares from half the least; what is measured, and where a deviation bends, are knots of it.
    """
    measured, shared = np.asarray(batch, dtype=np.float64), np.asarray(sm_milli, dtype=np.float64)
    down = max(math.ceil(math.log2(measured.min())), _OCTAVES_DOWN)
    octaves = math.log2(measured.max() / measured.min()) + down + _OCTAVES_UP
    start = math.log2(measured.min()) - down
    batches = 2.0 ** (start + np.arange(math.ceil(octaves * _STEPS) + 1) / _STEPS)
    steps = math.ceil(_STEPS * math.log2(FULL_GPU_MILLI / min(_LEAST_SHARE, shared.min() / 2.0)))
    shares = FULL_GPU_MILLI * 2.0 ** (-np.arange(steps, -1, -1) / _STEPS)
    bends = [each for each in deviations if isinstance(each, SharedDeviation)]
    batches = _with_knots(batches, np.unique(measured), *(each.batch for each in bends))
    shares = _with_knots(shares, np.unique(shared), *(each.sm_milli for each in bends))
    latency = np.log(roofline.latency_ms(batches[:, None], shares))
    for deviation in deviations:
        latency = latency + deviation.at(batches[:, None], shares)
    return MonotoneSurface.enclosing(batches, shares, np.exp(latency))


def _with_knots(regular: Column, *others: Column) -> Column:
    """The regular knots and those of the others that lie within their range, none twice."""
    every = np.unique(np.concatenate([regular, *(other for other in others if other.size <= _MOST_KNOTS)]))
    every = every[(every >= regular[0]) & (every <= regular[-1])]
    apart = np.diff(np.log(every), prepend=-np.inf) > _SAME_KNOT
    return np.asarray(every[apart])


def scaled_points(batch: Column, share: Column) -> Column:
    """(..., 2) log batch and log share in correlation lengths."""
    return np.stack([np.log(batch) / BATCH_LENGTH, np.log(share) / SHARE_LENGTH], axis=-1)


def covariance(left: Column, right: Column) -> Column:
    """(n, m) squared exponential covariance of unit variance between scaled points."""
    apart = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2.0 * left @ right.T
    return np.asarray(np.exp(-0.5 * np.maximum(apart, 0.0)))
