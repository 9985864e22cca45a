"""calibrate: turn held-out measurements into the quantiles behind `LatencyFit.upper_ms`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.calibration import QUANTILES, Calibration, increasing_probabilities
from dilu_core.latency_fit import LatencyFit
from dilu_core.samples import ProfileSamples


def calibrate(
    fits: Iterable[LatencyFit],
    held_out: Iterable[ProfileSamples],
    *,
    groups: Sequence[Hashable] | None = None,
    quantiles: Sequence[float] = QUANTILES,
    provenance: str = "",
) -> Calibration:
    """The calibration by measurements that the fits have not seen, for `fit.with_calibration` or `fit_latency`.

    Parameters
    ----------
    fits
        Fits from some samples of each function.
    held_out
        As many: other measurements of the same function.
    groups
        Which fits are of one function; each function weighs the same, whatever its number of fits and measurements.
        `None`: every fit is a function of its own.
    quantiles
        Where to tabulate, ascending within (0, 1).
    provenance
        Kept with the result.

    The quantile of n scores is the ceil((n + 1) q)-th smallest, in its weighted form. For one more score exchangeable
    with these the bound holds with probability q or more, as long as there are enough scores for q; where there are
    not, the greatest score stands. Scores of one function are alike, so a function that is not among these is covered a
    little less: by up to 7 points where ten functions of scores that do not differ within a function are all there is,
    by 1 or 2 where as much of the variance lies within functions as between them. (Vovk et al. 2005; Tibshirani et al.,
    NeurIPS 2019, for weights; Dunn, Wasserman and Ramdas, arXiv 1809.07441, where this is CDF pooling over groups.)

    Raises
    ------
    InvalidArgumentError
        Naming the argument: nothing given, sequences of different lengths, a group that is not hashable, quantiles that
        are none.
    """
    every = check.instances_of("fits", fits, LatencyFit)
    others = check.instances_of("held_out", held_out, ProfileSamples)
    if not every:
        check.fail("fits", "is empty; expected at least one fit.")
    if len(others) != len(every):
        check.fail("held_out", f"has {len(others)} entries for {len(every)} fits; expected one per fit.")
    of = check.instances_of("groups", range(len(every)) if groups is None else groups, object)
    for i, group in enumerate(of):
        try:
            hash(group)
        except TypeError:
            check.fail(f"groups[{i}]", f"is {group!r:.80}; expected something hashable, such as a name.")
    if len(of) != len(every):
        check.fail("groups", f"has {len(of)} entries for {len(every)} fits; expected one per fit.")
    wanted = increasing_probabilities("quantiles", quantiles)
    by_group: dict[object, list[NDArray[np.float64]]] = {}
    for group, fit, samples in zip(of, every, others, strict=True):
        by_group.setdefault(group, []).append(normalised_errors(fit, samples))
    scores = [np.concatenate(parts) for parts in by_group.values()]
    levels = weighted_quantiles(scores, wanted)
    count = sum(part.size for part in scores)
    return Calibration(wanted, tuple(levels.tolist()), len(scores), count, provenance)


def normalised_errors(fit: LatencyFit, samples: ProfileSamples) -> NDArray[np.float64]:
    """(n,) log(measured / predicted) over the spread that the fit states."""
    error = np.log(samples.latency_ms) - np.log(fit.latency_ms(samples.batch, samples.sm_milli))
    return np.asarray(error / fit.spread(samples.batch, samples.sm_milli))


def weighted_quantiles(scores: Sequence[NDArray[np.float64]], quantiles: Sequence[float]) -> NDArray[np.float64]:
    """Conformal quantiles of the scores of several functions, each function weighing the same."""
    wanted = np.array(quantiles, dtype=np.float64)
    values = np.concatenate(scores)
    weights = np.concatenate([np.full(part.size, 1.0 / (part.size * len(scores))) for part in scores])
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) * values.size / (values.size + 1.0)  # one more score, of unknown value
    return np.asarray(values[order][np.minimum(np.searchsorted(reached, wanted - 1e-12), values.size - 1)])
