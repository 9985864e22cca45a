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
_UNSTEADY = 1.3  # greatest over least repeat of a cell from which its measurements contradict each other
_MISFIT = 0.10  # a typical log residual from which the surface does not describe the samples
_FAR = 0.15  # log residual from which a sample may be an outlier
_PLATEAU_MILLI = 500  # a plateau is worth a word if at least half a GPU buys nothing


def outlying_rows(residuals: NDArray[np.float64]) -> tuple[int, ...]:
    """Rows whose log residual exceeds both 15 % and five robust standard deviations (median absolute deviation)."""
    typical = 1.4826 * float(np.median(np.abs(residuals)))
    return tuple(int(row) for row in np.flatnonzero(np.abs(residuals) > max(_FAR, 5.0 * typical)))


def describe(
    samples: ProfileSamples,
    model: RooflineModel,
    residuals: NDArray[np.float64],
    *,
    measure_next: tuple[tuple[int, int], ...] = (),
    fixed_batch: bool = False,
) -> tuple[str, ...]:
    """The sentences that apply to these samples and the model fitted to them, which leaves the log `residuals` (n,).

    `measure_next` are the cells that would tell most, named where the samples are too few. With `fixed_batch` the model
    is used at one measured batch only, and few batches are no fault.
    """
    merged = samples.merged()
    found = [
        _too_few(merged, fixed_batch, measure_next),
        _dropped(samples),
        _outliers(samples, residuals),
        *_repeated(merged),
        _unsteady(samples),
        _rising_with_share(merged),
        _falling_with_batch(merged),
        _misfit(residuals),
        _plateau(merged, model),
        _rounded(samples),
    ]
    return tuple(sentence for sentence in found if sentence)


def _too_few(merged: ProfileSamples, fixed_batch: bool, measure_next: tuple[tuple[int, int], ...]) -> str:
    batches, shares = len(set(merged.batch)), len(set(merged.sm_milli))
    sentence = ""
    if batches < 3 and not fixed_batch:
        sentence = (
            f"Only {batches} batch size{'s' * (batches > 1)} measured: how latency grows with the batch is not "
            "identified and rests on the prior; measure at least 3."
        )
    elif shares < 2:
        sentence = "Only one share measured: how latency falls with the share rests on the prior; measure at least 2."
    elif len(merged) < 5 and not fixed_batch:
        sentence = (
            f"Only {len(merged)} distinct cells measured: the model has 5 parameters or more and rests on its prior."
        )
    if sentence and measure_next:
        cells = ", ".join(f"batch {batch} at share {share}" for batch, share in measure_next)
        sentence += f" Most would be learnt from {cells}."
    return sentence


def _dropped(samples: ProfileSamples) -> str:
    if not samples.dropped:
        return ""
    return f"{samples.dropped} failed measurement{'s' * (samples.dropped > 1)} dropped before fitting."


def _outliers(samples: ProfileSamples, residuals: NDArray[np.float64]) -> str:
    outliers = outlying_rows(residuals)
    if not outliers:
        return ""
    row = max(outliers, key=lambda i: abs(float(residuals[i])))
    error = np.expm1(residuals[row])
    return (
        f"{len(outliers)} of {len(samples)} measurements lie far off the fitted surface; the farthest is "
        f"latency_ms[{row}] (batch {samples.batch[row]}, share {samples.sm_milli[row]}), {error:+.0%}. Measure again."
    )


def repeated_batches(samples: ProfileSamples) -> dict[int, int]:
    """Batches whose latencies repeat those of a smaller one, with that one.

    Latency that grew with the batch and then stands still: more work does not do that, a broken script does. In a
    roofline log t is convex in log b, so growth does not stop once it has set in.
    """
    merged = samples.merged()
    by_batch = {
        int(batch): dict(zip(merged.sm_milli[rows].tolist(), np.log(merged.latency_ms[rows]).tolist(), strict=True))
        for batch in np.unique(merged.batch)
        for rows in [merged.batch == batch]
    }
    found = {}
    batches = sorted(by_batch)
    for before, first, second in zip(batches, batches[1:], batches[2:], strict=False):
        grew, stood = _growth(by_batch[before], by_batch[first]), _growth(by_batch[first], by_batch[second])
        if len(grew) < 2 or len(stood) < 2 or second < 1.5 * first:
            continue
        if np.median(grew) > 2 * _SAME and abs(np.median(stood)) < _SAME / 2 and np.abs(stood).max() < _SAME:
            found[second] = first
    return found


def _repeated(merged: ProfileSamples) -> list[str]:
    return [
        f"Batch {second} repeats the latencies of batch {first}, though latency grew up to there: the profiler "
        f"may have run out of inputs. Drop the rows of batch {second} if so."
        for second, first in repeated_batches(merged).items()
    ]


def _growth(smaller: dict[int, float], greater: dict[int, float]) -> NDArray[np.float64]:
    """Log ratio of the latencies at each share that both batches have, given log latency by share."""
    return np.array([greater[share] - smaller[share] for share in smaller.keys() & greater.keys()])


def _unsteady(samples: ProfileSamples) -> str:
    repeats = [rows for rows in samples.rows_by_cell() if len(rows) > 1]
    spans = [float(samples.latency_ms[rows].max() / samples.latency_ms[rows].min()) for rows in repeats]
    if not spans or max(spans) < _UNSTEADY:
        return ""
    row = repeats[int(np.argmax(spans))][0]
    return (
        f"Repeated measurements of one cell differ by up to a factor of {max(spans):.3g} (batch {samples.batch[row]}, "
        f"share {samples.sm_milli[row]}): something else ran on the GPU, or runs were cold."
    )


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


def _falling_with_batch(merged: ProfileSamples) -> str:
    falls, pairs, greatest = 0, 0, 0.0
    for share in np.unique(merged.sm_milli):
        growth = np.diff(np.log(merged.latency_ms[merged.sm_milli == share]))  # `merged` is sorted by batch
        pairs += growth.size
        falls += int((growth < np.log1p(-_RISE)).sum())
        greatest = max(greatest, float(-growth.min(initial=0.0)))
    if not falls:
        return ""
    return (
        f"Latency falls by more than {_RISE:.0%} with a greater batch in {falls} of {pairs} neighbouring pairs, by up "
        f"to {-np.expm1(-greatest):.0%}; the model cannot follow that, and treats it as noise."
    )


def _misfit(residuals: NDArray[np.float64]) -> str:
    typical = float(np.median(np.abs(residuals)))
    if typical < _MISFIT:
        return ""
    return (
        f"Half of the measurements lie more than {np.expm1(typical):.0%} off the fitted surface: they are very noisy, "
        "or latency does not behave here as the model supposes (rising in the batch, at most in proportion, and "
        "falling in the share)."
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
