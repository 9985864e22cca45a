"""What is odd in a set of samples, or not pinned down by it, in plain sentences for the person who measured it.

Real profile tables are not clean: latency rises with more share, a script runs out of inputs and repeats a batch, a
timer rounds to whole milliseconds. A fit survives these, but its user should hear of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples

_RISE = 0.10  # a latency that grows by more than this with more share, or falls so with a greater batch, is odd
_SAME = 0.05  # latencies this close count as equal
_FAR = 0.15  # log residual from which a sample may be an outlier
_PLATEAU_MILLI = 500  # a plateau is worth a word if at least half a GPU buys nothing


def outlying_rows(residuals: NDArray[np.float64]) -> tuple[int, ...]:
    """Rows whose log residual exceeds both 15 % and five robust standard deviations (median absolute deviation)."""
    typical = 1.4826 * float(np.median(np.abs(residuals)))
    return tuple(int(row) for row in np.flatnonzero(np.abs(residuals) > max(_FAR, 5.0 * typical)))


def describe(samples: ProfileSamples, model: RooflineModel, outliers: tuple[int, ...]) -> tuple[str, ...]:
    """The sentences that apply to these samples and the model fitted to them."""
    merged = samples.merged()
    found = [
        _too_few(merged),
        _dropped(samples),
        _outliers(samples, model, outliers),
        *_repeated_batches(merged),
        _rising_with_share(merged),
        _plateau(merged, model),
        _rounded(samples),
    ]
    return tuple(sentence for sentence in found if sentence)


def _too_few(merged: ProfileSamples) -> str:
    batches, shares = len(set(merged.batch)), len(set(merged.sm_milli))
    if batches < 3:
        return (
            f"Only {batches} batch size{'s' * (batches > 1)} measured: how latency grows with the batch is not "
            "identified and rests on the prior; measure at least 3."
        )
    if shares < 2:
        return "Only one share measured: how latency falls with the share rests on the prior; measure at least 2."
    if len(merged) < 5:
        return f"Only {len(merged)} distinct cells measured: the model has 5 parameters or more and rests on its prior."
    return ""


def _dropped(samples: ProfileSamples) -> str:
    if not samples.dropped:
        return ""
    return f"{samples.dropped} failed measurement{'s' * (samples.dropped > 1)} dropped before fitting."


def _outliers(samples: ProfileSamples, model: RooflineModel, outliers: tuple[int, ...]) -> str:
    if not outliers:
        return ""
    row = max(outliers, key=lambda i: abs(_log_error(samples, model, i)))
    error = np.expm1(_log_error(samples, model, row))
    return (
        f"{len(outliers)} of {len(samples)} measurements lie far off the fitted surface; the farthest is "
        f"latency_ms[{row}] (batch {samples.batch[row]}, share {samples.sm_milli[row]}), {error:+.0%}. Measure again."
    )


def _log_error(samples: ProfileSamples, model: RooflineModel, row: int) -> float:
    predicted = model.latency_ms(samples.batch[row], samples.sm_milli[row])
    return float(np.log(samples.latency_ms[row] / predicted))


def _repeated_batches(merged: ProfileSamples) -> list[str]:
    """Latency that grew with the batch and then stands still: no queueing of work does that, a broken script does.

    In a roofline log t is convex in log b, so growth never stops once it has set in.
    """
    by_batch = {
        int(b): dict(zip(merged.sm_milli[rows].tolist(), merged.latency_ms[rows].tolist(), strict=True))
        for b in np.unique(merged.batch)
        for rows in [merged.batch == b]
    }
    batches = sorted(by_batch)
    found = []
    for before, first, second in zip(batches, batches[1:], batches[2:], strict=False):
        grew = _median_growth(by_batch[before], by_batch[first]) / np.log(first / before)
        common = by_batch[first].keys() & by_batch[second].keys()
        stood = _median_growth(by_batch[first], by_batch[second])
        if len(common) >= 2 and second >= 1.5 * first and grew > 0.4 and abs(stood) < _SAME:
            found.append(
                f"Batch {second} repeats the latencies of batch {first}, though latency grew up to there: the profiler "
                f"may have run out of inputs. Drop the rows of batch {second} if so."
            )
    return found


def _median_growth(smaller: dict[int, float], greater: dict[int, float]) -> float:
    """Median log ratio of the latencies at the shares both batches have; 0 if they have none."""
    common = sorted(smaller.keys() & greater.keys())
    return float(np.median([np.log(greater[share] / smaller[share]) for share in common])) if common else 0.0


def _rising_with_share(merged: ProfileSamples) -> str:
    """`merged` is sorted by batch, then share, so neighbours in share are neighbouring rows."""
    same_batch = np.diff(merged.batch) == 0
    growth = np.diff(np.log(merged.latency_ms))[same_batch]
    rises = growth[growth > np.log1p(_RISE)]
    if not rises.size:
        return ""
    return (
        f"Latency rises by more than {_RISE:.0%} with more share in {rises.size} of {growth.size} neighbouring pairs, "
        f"by up to {np.expm1(rises.max()):.0%}; the model cannot follow that, and treats it as noise."
    )


def _plateau(merged: ProfileSamples, model: RooflineModel) -> str:
    batch, shares = int(merged.batch.max()), np.unique(merged.sm_milli)
    latency = model.latency_ms(batch, shares)
    flat = shares[latency <= (1.0 + _SAME) * latency[-1]]
    if shares[-1] - flat[0] < _PLATEAU_MILLI:
        return ""
    return (
        f"Latency hardly falls above share {flat[0]} even at batch {batch}: the function is bound by the host or by "
        "launches there, and more share buys nothing."
    )


def _rounded(samples: ProfileSamples) -> str:
    whole = bool(np.all(samples.latency_ms == np.rint(samples.latency_ms)))
    if len(samples) < 4 or not whole or samples.latency_ms.min() >= 20:
        return ""
    return (
        f"All latencies are whole milliseconds, and the least is {samples.latency_ms.min():g} ms: rounding alone makes "
        f"an error of up to {0.5 / samples.latency_ms.min():.0%}."
    )
