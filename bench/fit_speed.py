"""Ten thousand fits: the compiled batch beside a loop over scipy.optimize.least_squares, same objective and starts.

    python bench/fit_speed.py                # 10,000 functions; scipy is timed on 200 of them, as it takes minutes

Synthetic samples: 12 cells each of random rooflines with 3 % noise. Both sides go down from the same three starts, then
estimate the noise and weigh the prior anew (see `solvers.fit_oracle`). Rates are per second, over the fastest and the
median of the rounds; agreement is of objectives, predictions and log parameters where the samples decide them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
from bench_fit import synthetic_samples

from dilu_core.calibration import NOISE
from dilu_core.latency_fit import LatencyFit
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fit_oracle import fit_latency_by_scipy, objective_by_numpy
from dilu_core.solvers.fitting import fit_latency_many

COUNT, BY_SCIPY, ROUNDS = 10_000, 200, 5
DECIDED = 0.1  # a log parameter whose standard deviation the samples bring below this is compared


def main() -> None:
    """Print rates, their ratio and how far the two agree."""
    samples = synthetic_samples(COUNT)
    fit_latency_many(samples[:200])
    print(f"{COUNT:,} functions of 12 samples, {os.cpu_count()} cores")
    ours = rounds(lambda: fit_latency_many(samples, family="bandwidth"), COUNT, ROUNDS)
    scipy_samples = samples[:BY_SCIPY]
    one = rounds(lambda: [fit_latency_by_scipy(each, starts=1, reweighed=False) for each in scipy_samples], BY_SCIPY, 3)
    three = rounds(lambda: [fit_latency_by_scipy(each) for each in scipy_samples], BY_SCIPY, 3)
    both = rounds(lambda: fit_latency_many(samples), COUNT, ROUNDS)
    show("fit_latency_many, one family", ours, ours)
    show("fit_latency_many, family by evidence (two fits)", both, ours)
    show("scipy loop, same starts", three, ours)
    show("scipy loop, one start, noise not estimated", one, ours)
    agreement(scipy_samples)


def rounds(run: Callable[[], object], count: int, times: int) -> list[float]:
    """Functions per second of every round."""
    rates = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        rates.append(count / (time.perf_counter() - started))
    return rates


def show(name: str, rates: list[float], ours: list[float]) -> None:
    """One line: rate and how many times faster ours is."""
    best, median = max(rates), float(np.median(rates))
    ratio = f"ours is {max(ours) / best:6.1f}x (best) / {float(np.median(ours)) / median:6.1f}x (median)"
    print(f"    {name:48s} {best:9,.1f} fits/s best {median:9,.1f} median   {ratio}")


def agreement(samples: list[ProfileSamples]) -> None:
    """How far our optimum and scipy's lie apart."""
    fits = fit_latency_many(samples, family="bandwidth", residual=False)
    objectives, predictions, parameters = [], [], []
    for fit in fits:
        model, value = fit_latency_by_scipy(fit.samples)
        first, _ = fit_latency_by_scipy(fit.samples, reweighed=False)
        mine = objective_by_numpy(fit.samples, fit.roofline, fit.family, weighed_at=first)
        objectives.append((mine - value) / value)
        cells = fit.samples.batch, fit.samples.sm_milli
        predictions.append(np.abs(np.log(fit.roofline.latency_ms(*cells) / model.latency_ms(*cells))).max())
        apart = np.abs(np.log(np.array(fit.roofline.parameters) / np.array(model.parameters)))
        parameters.extend(apart[decided(fit)])
    worse, better = np.mean(np.array(objectives) > 1e-6), np.mean(np.array(objectives) < -1e-6)
    print(f"    objective, relative to scipy's: {np.min(objectives):+.1e} .. {np.max(objectives):+.1e}")
    print(f"    within 1e-6 of it {1.0 - worse - better:.1%}, better by more {better:.1%}, worse by more {worse:.1%}")
    for name, apart in (
        ("predictions at the samples", predictions),
        ("log parameters that samples decide", parameters),
    ):
        print(
            f"    {name}: {len(apart)}, median difference {np.median(apart):.1e}, 99th percentile "
            f"{np.quantile(apart, 0.99):.1e}, greatest {np.max(apart):.1e}"
        )


def decided(fit: LatencyFit) -> np.ndarray:
    """Which parameters the samples pin down."""
    return np.asarray(np.sqrt(np.diag(fit.covariance)) * fit.scatter / NOISE < DECIDED)


if __name__ == "__main__":
    main()
