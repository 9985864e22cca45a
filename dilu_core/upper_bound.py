"""UpperBound: one bound on a latency, and why it lies as far above the mean as it does."""

from __future__ import annotations

from dataclasses import dataclass

from dilu_core.calibration import LEVERAGE_CAP, NOISE
from dilu_core.samples import ProfileSamples

_WIDE = 1.0  # leverage from which the samples leave a point less certain than a measurement of it would
_NOISY = 1.5  # scatter over assumed noise from which the samples themselves are the reason


@dataclass(frozen=True)
class UpperBound:
    """`upper_ms` of a cell at `quantile` beside the mean prediction `latency_ms`, with plain sentences in `reasons`."""

    batch: int
    sm_milli: int
    quantile: float
    latency_ms: float
    upper_ms: float
    reasons: tuple[str, ...]

    @property
    def margin(self) -> float:
        """How far the bound lies above the mean, as a part of the mean."""
        return self.upper_ms / self.latency_ms - 1.0


def reasons_for_width(
    samples: ProfileSamples, leverage: float, scatter: float, batch: int, sm_milli: int
) -> tuple[str, ...]:
    """Why the bound at (batch, sm_milli) is wider than that of a point amid many samples; empty where it is not."""
    found = []
    if leverage >= _WIDE:
        if leverage >= LEVERAGE_CAP:
            found.append("The samples say next to nothing of this cell; measure it, or one near it.")
        else:
            found.append(
                f"The samples leave this cell {leverage**0.5:.1f} times as uncertain as one measurement would."
            )
        found += [
            _beyond("batch", batch, int(samples.batch.min()), int(samples.batch.max())),
            _beyond("share", sm_milli, int(samples.sm_milli.min()), int(samples.sm_milli.max())),
        ]
        batches, shares = len(set(samples.batch.tolist())), len(set(samples.sm_milli.tolist()))
        if batches < 3:
            found.append(
                f"Only {batches} batch size{'s' * (batches > 1)} measured: growth with the batch rests on belief."
            )
        if shares < 2:
            found.append("Only one share measured: what more share saves rests on belief.")
    if scatter >= _NOISY * NOISE:
        found.append(f"The samples scatter by {scatter:.0%} around the fitted surface.")
    return tuple(reason for reason in found if reason)


def _beyond(name: str, value: int, least: int, greatest: int) -> str:
    if least <= value <= greatest:
        return ""
    return f"The {name} {value} lies beyond the measured ones, {least}..{greatest}."
