"""Fit an InterferenceModel to pairs measured beside each other, drawn towards what is known of pairs in general.

The strength of a pair is a sum of effects on a log scale,

    log c(A, B) = theta + a_A + b_B + e_AB,

how sensitive A is, how hard B presses, and what is particular to the two. Each effect is normal around zero with the
standard deviation of its kind, so that a pair measured once moves a little, one measured often speaks for itself, and
one never measured is told by its functions, or by pairs in general (a mixed-effects model with crossed effects). The
penalised least squares are over log slowdown,

    sum_i rho((log slowdown_i - log(1 + excess_i)) / noise) + sum_j (x_j - mean_j)^2 / sd_j^2,

with rho the soft-L1 loss, and the spread of every pair follows from the curvature at the minimum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.special import expit

from dilu_core import _checks as check
from dilu_core.interference import STRONGEST, InterferenceModel, gpu_use, stall
from dilu_core.interference_samples import InterferenceSamples
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import RooflineModel
from dilu_core.result import Limit, SolveStats, Termination, TerminationReason

_CORNER = 3.0  # residuals beyond so many standard deviations of the noise pull linearly
_MOST_ROUNDS = 200
_MOST_LOG_WEIGHT = 12.0
_IMPLAUSIBLE = 5.0  # median slowdown; two processes that merely take turns come to about 2


@dataclass(frozen=True)
class InterferencePrior:
    """What is believed before a pair is measured: means and standard deviations of the parameters, all of logs.

    `function_sd` and `pair_sd` are those of the effects a, b and e, `residual_sd` that of log excess within a pair, and
    `noise` the standard deviation of a measured log slowdown. The defaults are pooled over the published pairs (see
    `InterferenceModel.default`), where
    `python bench/interference.py` finds that pairs differ and functions do not
    (restricted maximum likelihood: 0.30 and 0.00); four functions are no proof of that, so they may differ a little.
    `residual_sd` lies between the robust and the plain estimate that it prints.
    """

    log_scale: float = -3.46
    log_scale_sd: float = 0.3
    log_stall_weight: float = 1.28
    log_stall_weight_sd: float = 0.5
    log_use_weight: float = 0.59
    log_use_weight_sd: float = 0.5
    function_sd: float = 0.1
    pair_sd: float = 0.3
    residual_sd: float = 0.25
    noise: float = 0.02

    def __post_init__(self) -> None:
        for name, most in (("log_scale", 20.0), ("log_stall_weight", 10.0), ("log_use_weight", 10.0)):
            object.__setattr__(self, name, check.finite(name, getattr(self, name), at_least=-20.0, at_most=most))
        for name in ("log_scale_sd", "log_stall_weight_sd", "log_use_weight_sd", "function_sd", "pair_sd", "noise"):
            object.__setattr__(self, name, check.finite(name, getattr(self, name), above=0.0, at_most=20.0))
        object.__setattr__(self, "residual_sd", check.finite("residual_sd", self.residual_sd, at_least=0.0, at_most=20))


@dataclass(frozen=True)
class InterferenceFit:
    """A fitted interference model and what stands behind it.

    `samples` has one row per measured latency (see `InterferenceSamples.directed`), `slowdown` what each shows, NaN
    where there is no stand-alone measurement of the same batch and share to divide by: such rows took no part.
    """

    model: InterferenceModel
    samples: InterferenceSamples
    slowdown: NDArray[np.float64] = field(compare=False)  # follows from the samples and their stand-alone fits
    residuals: NDArray[np.float64] = field(compare=False)
    termination: Termination
    stats: SolveStats = field(compare=False)

    @property
    def excluded(self) -> int:
        """Rows without a stand-alone measurement of their cell."""
        return int(np.isnan(self.slowdown).sum())

    def diagnostics(self) -> tuple[str, ...]:
        """Plain sentences on what is odd or missing in the samples."""
        found = []
        rows, used = len(self.samples), len(self.samples) - self.excluded
        if self.excluded:
            found.append(
                f"{self.excluded} of {rows} measurements have no stand-alone measurement of the same batch and share, "
                "and were left out."
            )
        if not used:
            found.append("No measurement is left: the model is the prior alone.")
        fast = int((self.slowdown < 0.97).sum())
        if fast:
            found.append(
                f"{fast} of {used} measurements are more than 3% faster beside a neighbour than alone; the stand-alone "
                "profile may be of another setting."
            )
        huge = self._implausible()
        if huge:
            found.append(
                f"The median slowdown of {', '.join(f'{name!r} is {value:.3g}' for name, value in huge.items())}, more "
                "than sharing a GPU explains; are these latencies and the stand-alone ones both in milliseconds?"
            )
        wild = int((np.abs(self.residuals) > 0.1).sum())
        if wild:
            found.append(f"{wild} of {used} slowdowns lie more than 10% off the fitted model.")
        return tuple(found)

    def _implausible(self) -> dict[str, float]:
        """Function name -> its median slowdown, where that is beyond belief."""
        names, used = np.array(self.samples.function, dtype=object), ~np.isnan(self.slowdown)
        medians = {
            name: float(np.median(self.slowdown[used & (names == name)]))
            for name in dict.fromkeys(names[used].tolist())
        }
        return {name: median for name, median in medians.items() if median > _IMPLAUSIBLE}


def fit_interference(
    samples: InterferenceSamples,
    solo_fits: Mapping[str, LatencyFit],
    *,
    prior: InterferencePrior | None = None,
) -> InterferenceFit:
    """The slowdown model of the functions in `samples`.

    Parameters
    ----------
    samples
        Pairs measured beside each other; both latencies of a row are used where it has both. May be empty.
    solo_fits
        Function name -> its stand-alone fit, for every function in `samples`. A slowdown is the pair's latency over
        the stand-alone measurement of the same batch and share among the fit's samples (their median). The prediction
        of the fit is never divided by: its error is no slowdown.
    prior
        `None`: `InterferencePrior()`.

    Raises `InvalidArgumentError`, naming the argument, for misuse. Samples from which nothing can be learnt give the
    prior; see `InterferenceFit.diagnostics`.
    """
    started = time.perf_counter()
    if not isinstance(samples, InterferenceSamples):
        check.fail("samples", f"is {samples!r:.80}; expected InterferenceSamples (see read_interference).")
    belief = InterferencePrior() if prior is None else prior
    if not isinstance(belief, InterferencePrior):
        check.fail("prior", f"is {prior!r:.80}; expected an InterferencePrior.")
    if not isinstance(solo_fits, Mapping):
        check.fail("solo_fits", f"is {solo_fits!r:.80}; expected a mapping from function name to LatencyFit.")
    rows = samples.directed()
    for name in dict.fromkeys(rows.function + rows.co_function):
        if not isinstance(solo_fits.get(name), LatencyFit):
            check.fail("solo_fits", f"has {solo_fits.get(name)!r:.80} for {name!r}; expected its LatencyFit.")

    slowdown = measured_slowdown(rows, solo_fits)
    used = np.flatnonzero(~np.isnan(slowdown))
    problem = _Problem(rows.select(used), slowdown[used], solo_fits, belief)
    found = least_squares(
        problem.residuals,
        np.minimum(problem.means, problem.most - 1e-3),
        bounds=(-np.inf, problem.most),
        jac=problem.jacobian,  # pyright: ignore[reportArgumentType]
        method="trf",
        x_scale=problem.sds,
        max_nfev=_MOST_ROUNDS,
    )
    residuals = np.full(len(rows), np.nan)
    residuals[used] = np.log(slowdown[used]) - problem.log_slowdown(found.x)
    for column in (slowdown, residuals):
        column.flags.writeable = False
    converged = found.status > 0
    termination = Termination(
        TerminationReason.CONVERGED if converged else TerminationReason.FEASIBLE,
        None if converged else Limit.ITERATIONS,
    )
    stats = SolveStats(time.perf_counter() - started, "cpu", {"evaluations": int(found.nfev), "rows": len(used)})
    return InterferenceFit(problem.model(found.x), rows, slowdown, residuals, termination, stats)


def measured_slowdown(rows: InterferenceSamples, solo_fits: Mapping[str, LatencyFit]) -> NDArray[np.float64]:
    """(n,) latency of each row over the median stand-alone measurement of its cell, NaN where there is none."""
    alone: dict[tuple[str, int, int], float] = {}
    for name in dict.fromkeys(rows.function):
        cells = solo_fits[name].samples.merged()
        table = zip(cells.batch.tolist(), cells.sm_milli.tolist(), cells.latency_ms.tolist(), strict=True)
        alone |= {(name, batch, share): latency for batch, share, latency in table}
    keys = zip(rows.function, rows.batch.tolist(), rows.sm_milli.tolist(), strict=True)
    with np.errstate(over="ignore"):
        ratio = rows.latency_ms / np.array([alone.get(key, np.nan) for key in keys], dtype=np.float64)
    span = np.finfo(np.float64)  # logs and medians of absurd ratios must stay finite
    return np.clip(ratio, span.tiny, span.max / 2)


class _Problem:
    """The penalised least squares over x = (theta, log k, log u, a (F,), b (F,), e (P,))."""

    def __init__(
        self,
        rows: InterferenceSamples,
        slowdown: NDArray[np.float64],
        fits: Mapping[str, LatencyFit],
        prior: InterferencePrior,
    ) -> None:
        self.prior = prior
        self.functions = tuple(dict.fromkeys(rows.function + rows.co_function))
        number = {name: i for i, name in enumerate(self.functions)}
        self.victim = np.array([number[name] for name in rows.function], dtype=np.int64)
        self.presser = np.array([number[name] for name in rows.co_function], dtype=np.int64)
        self.pairs = sorted(set(zip(self.victim.tolist(), self.presser.tolist(), strict=True)))
        place = {pair: i for i, pair in enumerate(self.pairs)}
        pair = [place[key] for key in zip(self.victim.tolist(), self.presser.tolist(), strict=True)]
        self.pair = np.array(pair, dtype=np.int64)
        self.target = np.log(slowdown)
        self.stall = _feature(stall, rows.function, rows.batch, rows.sm_milli, fits)
        self.use = _feature(gpu_use, rows.co_function, rows.co_batch, rows.co_sm_milli, fits)
        count, n_pairs = len(self.functions), len(self.pairs)
        self.means = np.zeros(3 + 2 * count + n_pairs)
        self.means[:3] = prior.log_scale, prior.log_stall_weight, prior.log_use_weight
        self.sds = np.concatenate(
            [
                [prior.log_scale_sd, prior.log_stall_weight_sd, prior.log_use_weight_sd],
                np.full(2 * count, prior.function_sd),
                np.full(n_pairs, prior.pair_sd),
            ]
        )
        self.most = np.full(len(self.means), np.inf)
        self.most[1:3] = _MOST_LOG_WEIGHT
        self.columns = np.stack(
            [3 + self.victim, 3 + count + self.presser, 3 + 2 * count + self.pair], axis=1
        )  # (n, 3): the effects of each row

    def log_excess(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """By logs, which never overflow: the two weights are bounded, and strengths enter linearly."""
        strength = x[0] + x[self.columns].sum(axis=1)
        return np.asarray(strength + np.log1p(np.exp(x[1]) * self.stall) + np.log1p(np.exp(x[2]) * self.use))

    def log_slowdown(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.logaddexp(0.0, self.log_excess(x))

    def residuals(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        misfit, _ = self._soft((self.target - self.log_slowdown(x)) / self.prior.noise)
        return np.concatenate([misfit, (x - self.means) / self.sds])

    def jacobian(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        _, slope = self._soft((self.target - self.log_slowdown(x)) / self.prior.noise)
        by_log_excess = -slope * expit(self.log_excess(x)) / self.prior.noise
        waits, presses = np.exp(x[1]) * self.stall, np.exp(x[2]) * self.use
        top = np.zeros((len(self.target), len(x)))
        top[:, 0] = by_log_excess
        top[:, 1] = by_log_excess * waits / (1.0 + waits)
        top[:, 2] = by_log_excess * presses / (1.0 + presses)
        for column in self.columns.T:
            top[np.arange(len(self.target)), column] = by_log_excess
        return np.concatenate([top, np.diag(1.0 / self.sds)])

    @staticmethod
    def _soft(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Signed root of the soft-L1 loss of z, and its derivative: only measurements are doubted, never the prior."""
        ratio = (z / _CORNER) ** 2
        bent = 2.0 * (np.sqrt(1.0 + ratio) - 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            shrink = np.where(ratio > 1e-12, np.sqrt(bent / ratio), 1.0)
        slope = 1.0 / (np.sqrt(1.0 + ratio) * shrink)
        return z * shrink, slope

    def model(self, x: NDArray[np.float64]) -> InterferenceModel:
        """The fitted model, with the strength and spread of every pair of known functions, and of any others."""
        count, prior = len(self.functions), self.prior
        jacobian = self.jacobian(x)
        covariance = np.linalg.inv(jacobian.T @ jacobian)
        known = {pair: i for i, pair in enumerate(self.pairs)}
        log_scale, spread = np.empty((2, count + 1, count + 1))
        for a in range(count + 1):
            for b in range(count + 1):
                weights = np.zeros(len(x))
                weights[0] = 1.0
                variance = prior.residual_sd**2
                for index, offset in ((a, 3), (b, 3 + count)):
                    if index < count:
                        weights[offset + index] = 1.0
                    else:
                        variance += prior.function_sd**2
                if (a, b) in known:
                    weights[3 + 2 * count + known[a, b]] = 1.0
                else:
                    variance += prior.pair_sd**2
                log_scale[a, b] = weights @ x
                spread[a, b] = np.sqrt(variance + weights @ covariance @ weights)
        return InterferenceModel(
            self.functions,
            tuple(map(tuple, np.clip(log_scale, -STRONGEST, STRONGEST).tolist())),
            tuple(map(tuple, np.minimum(spread, STRONGEST).tolist())),
            float(np.exp(x[1])),
            float(np.exp(x[2])),
        )


def _feature(
    of: Callable[[RooflineModel, ArrayLike, ArrayLike], NDArray[np.float64]],
    names: tuple[str, ...],
    batch: NDArray[np.int64],
    sm_milli: NDArray[np.int64],
    fits: Mapping[str, LatencyFit],
) -> NDArray[np.float64]:
    """`stall` or `gpu_use` of the function of each row at its batch and share."""
    values, of_row = np.empty(len(names)), np.array(names, dtype=object)
    for name in dict.fromkeys(names):
        rows = of_row == name
        values[rows] = of(fits[name].roofline, batch[rows], sm_milli[rows])
    return values
