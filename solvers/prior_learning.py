"""Learn a prior from functions measured on one GPU type: what their surfaces have in common, and how they differ.

A two-level model. Each function i has roofline parameters q_i ~ Normal(mu, Sigma) up to its own speed as a whole, and
log latency deviates from its roofline by a part that all functions on this GPU type share (a memory partition that does
not follow its SMs, say) and a part of its own. Every function is fitted alone under the general prior, its speed taken
out, and

    mu    = (sum_i q_i + k0 mu0) / (n + k0)
    Sigma = (sum_i [(q_i - mu)(q_i - mu)^T + C_i] + n0 Sigma0) / (n + n0)

with the uncertainty C_i of each fit, and mu0, Sigma0 of the general prior, in the functions' unit of batch, standing
for k0 and n0 further functions, so that two functions do not settle what the third is like. (Gelman et al., "Bayesian
Data Analysis", 3rd edition, section 5; the empirical version of it.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.latency_fit import LatencyFit
from dilu_core.latency_prior import GENERAL_PRIOR, PARAMETERS, TIMES, Family, FamilyPrior, LatencyPrior, roofline_of
from dilu_core.latency_residual import BATCH_LENGTH, SharedDeviation, covariance
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency_many

_MEAN_BELIEF = 1.0  # k0, functions' worth of belief in the general prior's mean
_SPREAD_BELIEF = 3.0  # n0, and in its spread
_SHARED, _OWN, _NOISE = 0.04, 0.06, 0.03  # standard deviations of the deviation in common, of each function's, of noise
_SHARE_LENGTH = 0.3  # of the deviation in common, in log share: hardware changes from one partition to the next
_LARGEST = 0.15  # log residual beyond which a sample is no evidence of a deviation
_FEWEST_FUNCTIONS = 3  # in common means common to at least this many
_MOST_KNOTS = 24  # along either axis


def learn_prior(functions: Iterable[ProfileSamples | LatencyFit]) -> LatencyPrior:
    """The prior that these functions speak for, to fit others on the same GPU type from fewer samples.

    Parameters
    ----------
    functions
        Samples, or fits, of at least two different functions, all measured on one GPU type and with batches that count
        the same thing. The better they are measured, the tighter the prior.

    Returns
    -------
    LatencyPrior
        For `fit_latency(..., prior=...)`: a Gaussian over the parameters of either family and, from three functions on,
        their deviation in common.

    Raises
    ------
    InvalidArgumentError
        Naming `functions`: fewer than two, something else than samples, or more than one GPU type.
    """
    given = check.instances_of("functions", functions, object)
    samples = [each.samples if isinstance(each, LatencyFit) else each for each in given]
    tables = check.instances_of("functions", samples, ProfileSamples)
    if len(tables) < 2:
        check.fail("functions", f"holds {len(tables)}; expected at least two to learn what they have in common.")
    gpu_types = {table.gpu_type for table in tables}
    if len(gpu_types) > 1:
        check.fail("functions", f"were measured on {', '.join(sorted(map(repr, gpu_types)))}; expected one GPU type.")
    names = ", ".join(table.function or "unnamed" for table in tables[:20])
    return LatencyPrior(
        compute=_family_prior(tables, "compute"),
        bandwidth=_family_prior(tables, "bandwidth"),
        functions=len(tables),
        gpu_type=gpu_types.pop(),
        provenance=f"learnt from {len(tables)} functions: {names}{', ...' if len(tables) > 20 else ''}",
    )


def _family_prior(tables: Sequence[ProfileSamples], family: Family) -> FamilyPrior:
    fits = fit_latency_many(tables, family=family, residual=False)
    batch, share = _reference_points(tables)
    believed = np.mean([GENERAL_PRIOR.center_for(family, table) for table in tables], axis=0)  # in their unit of batch
    believed -= TIMES * np.log(roofline_of(believed, family).latency_ms(batch, share)).mean()
    shapes, uncertain = [], []
    for fit in fits:
        gradient = fit.roofline.log_gradient(batch, share).mean(axis=0)
        without_speed = np.eye(PARAMETERS) - np.outer(TIMES, gradient)
        with np.errstate(divide="ignore"):
            logs = np.log(fit.roofline.parameters)
        shape = logs - TIMES * np.log(fit.roofline.latency_ms(batch, share)).mean()
        shapes.append(np.where(np.isfinite(shape), shape, believed))
        uncertain.append(without_speed @ fit.covariance @ without_speed.T)
    found, count = np.array(shapes), len(fits)
    center = (found.sum(axis=0) + _MEAN_BELIEF * believed) / (count + _MEAN_BELIEF)
    apart = found - center
    scatter = np.einsum("ni,nj->ij", apart, apart) + np.sum(uncertain, axis=0)
    spread = (scatter + _SPREAD_BELIEF * GENERAL_PRIOR.family(family).covariance) / (count + _SPREAD_BELIEF)
    return FamilyPrior(center, spread, _deviation_in_common(fits))


def _reference_points(tables: Sequence[ProfileSamples]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the speed of a function is taken: a grid over the log ranges of what was measured."""
    batches = np.concatenate([table.batch for table in tables])
    shares = np.concatenate([table.sm_milli for table in tables])
    batch = np.geomspace(batches.min(), batches.max(), 6)
    share = np.geomspace(shares.min(), shares.max(), 5)
    return batch.repeat(share.size), np.tile(share, batch.size)


def _deviation_in_common(fits: Sequence[LatencyFit]) -> SharedDeviation | None:
    """The mean residual over functions as a Gaussian process, apart from what each function deviates on its own.

    A residual is the deviation in common, the function's own smooth one and noise. The means over the k_c functions
    that measured a cell c have the covariance shared^2 K + own^2 K N_cc' / (k_c k_c') + noise^2 I / k_c, with the
    number N_cc' of functions that measured both cells: functions on grids apart do not pass for many.
    """
    batches = _thinned({int(batch) for fit in fits for batch in fit.samples.batch})
    shares = _thinned({int(share) for fit in fits for share in fit.samples.sm_milli})
    if len(fits) < _FEWEST_FUNCTIONS or len(batches) < 2 or len(shares) < 2:
        return None
    residuals = np.stack([_at_knots(fit, batches, shares) for fit in fits])
    seen = ~np.isnan(residuals).all(axis=0)
    residuals = residuals[:, seen]
    measured = (~np.isnan(residuals)).astype(np.float64)
    together = measured.T @ measured
    count = np.diag(together)
    means = np.nansum(residuals, axis=0) / count
    knots = np.log([(batch, share) for batch in batches for share in shares]) / (BATCH_LENGTH, _SHARE_LENGTH)
    alike = covariance(knots, knots[seen])
    among = alike[seen] * (_SHARED**2 + _OWN**2 * together / np.outer(count, count)) + np.diag(_NOISE**2 / count)
    log_factor = _SHARED**2 * alike @ np.linalg.solve(among, means)
    return SharedDeviation(
        np.array(batches, dtype=np.float64),
        np.array(shares, dtype=np.float64),
        log_factor.reshape(len(batches), len(shares)),
    )


def _at_knots(fit: LatencyFit, batches: Sequence[int], shares: Sequence[int]) -> NDArray[np.float64]:
    """(n_batches * n_shares,) mean residual of the function's cells nearest to each knot in logs; NaN without any."""
    log_batches, log_shares = np.log(batches), np.log(shares)
    total, count = np.zeros((len(batches), len(shares))), np.zeros((len(batches), len(shares)))
    for rows in fit.samples.rows_by_cell():
        batch, share = fit.samples.batch[rows[0]], fit.samples.sm_milli[rows[0]]
        knot = np.abs(log_batches - np.log(batch)).argmin(), np.abs(log_shares - np.log(share)).argmin()
        total[knot] += np.clip(np.median(fit.residuals[rows]), -_LARGEST, _LARGEST)
        count[knot] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).ravel()


def _thinned(values: set[int]) -> list[int]:
    """The values, or where there are too many of them those nearest to an even spacing in logs."""
    every = np.array(sorted(values))
    if every.size <= _MOST_KNOTS:
        return [int(value) for value in every]
    wanted = np.linspace(np.log(every[0]), np.log(every[-1]), _MOST_KNOTS)
    return sorted({int(every[np.argmin(np.abs(np.log(every) - place))]) for place in wanted})
