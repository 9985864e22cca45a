"""Held-out error of latency fits over profile tables, beside other published forms.

    python bench/fit_accuracy.py                     # the measured data (DILU_DATA or ../shared/data)
    python bench/fit_accuracy.py mine.csv other.csv  # any tables in the canonical columns

Every table is fitted from 8 and from 12 of its cells and asked for the others. The cells are those that the library's
profiler chooses (`first_cells`, `LatencyFit.measure_next`), and for comparison a space-filling design. Beside ours,
fitted to the same cells by scipy: Amdahl's law over a linear batch, iGniter's formula (Xu et al., TPDS 2022), a
quadratic in log batch and log share, and our roofline alone, minimised by scipy.optimize.least_squares."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from profile_tables import profile_tables, profiler_chosen, rest_of, space_filling
from scipy.optimize import least_squares

from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fit_oracle import fit_latency_by_scipy
from dilu_core.solvers.fitting import fit_latency

COUNTS = (8, 12)
SEEDS = 6
UNDER = 0.05  # an under-prediction beyond this may cost an SLO

Column = NDArray[np.float64]
Predict = Callable[[Column, Column], Column]
Curve = Callable[[Column, Column, Column], Column]


def main() -> None:
    """Print one line of figures per form, design and number of cells, then the mean errors per table."""
    tables = profile_tables(sys.argv[1:])
    print(f"{len(tables)} functions, {SEEDS} designs each; errors on held-out cells, mean over functions")
    for design in (profiler_chosen, space_filling):
        for count in COUNTS:
            per_table: dict[str, list[float]] = {}
            designs = {
                key: [design(table, count, np.random.default_rng([position, seed])) for seed in range(SEEDS)]
                for position, (key, table) in enumerate(tables.items())
            }
            for name, fit in FORMS.items():
                errors, started = [], time.perf_counter()
                for key, table in tables.items():
                    mine = []
                    for rows in designs[key]:
                        test = rest_of(table, rows)
                        predicted = fit(table.select(rows))(test.batch.astype(float), test.sm_milli / 1000.0)
                        mine.append(predicted / test.latency_ms - 1.0)
                    errors.append(np.concatenate(mine))
                    per_table.setdefault(f"{key[0]} {key[1]}", []).append(float(np.abs(errors[-1]).mean()))
                seconds = (time.perf_counter() - started) / (len(tables) * SEEDS)
                median, mean = (np.mean([of(np.abs(e)) for e in errors]) for of in (np.median, np.mean))
                tail = np.mean([np.quantile(np.abs(e), 0.95) for e in errors])
                under = np.mean([(e < -UNDER).mean() for e in errors])
                print(
                    f"{count:3d} cells {design.__name__:15s} {name:30s} mean {mean:6.2%}  median {median:6.2%}  p95"
                    f" {tail:6.2%}  under by 5 % {under:5.1%}  {1e3 * seconds:.1f} ms a fit, prediction included"
                )
            if count == COUNTS[0]:
                print("\n    mean error per function: " + ", ".join(FORMS))
                for table_name, figures in per_table.items():
                    print(f"    {table_name:28s}" + "".join(f"{figure:9.1%}" for figure in figures))
            print()


def ours(samples: ProfileSamples) -> Predict:
    """Ours."""
    fit = fit_latency(samples)
    return lambda batch, share: fit.latency_ms(batch, 1000.0 * share)


def roofline(samples: ProfileSamples) -> Predict:
    """Ours without the residual."""
    fit = fit_latency(samples, residual=False)
    return lambda batch, share: fit.latency_ms(batch, 1000.0 * share)


def roofline_by_scipy(samples: ProfileSamples) -> Predict:
    """Our objective by scipy, with the bandwidth term."""
    model, _ = fit_latency_by_scipy(samples)
    return lambda batch, share: model.latency_ms(batch, 1000.0 * share)


def amdahl(samples: ProfileSamples) -> Predict:
    """t = (a + b n) (f + (1 - f) / s): a serial part f that no share shortens, over a linear batch."""

    def curve(q: Column, batch: Column, share: Column) -> Column:
        serial = 1.0 / (1.0 + np.exp(-q[2]))
        return np.asarray((np.exp(q[0]) + np.exp(q[1]) * batch) * (serial + (1.0 - serial) / share))

    return positive_curve(samples, curve, np.array([-1.0, -3.0, 0.0]))


def igniter(samples: ProfileSamples) -> Predict:
    """t = (k1 n^2 + k2 n + k3) / (s + k4) + k5, the active-time formula of iGniter with its constant overhead."""

    def curve(q: Column, batch: Column, share: Column) -> Column:
        k1, k2, k3, k4, k5 = np.exp(q)
        return np.asarray((k1 * batch**2 + k2 * batch + k3) / (share + k4) + k5)

    return positive_curve(samples, curve, np.array([-9.0, -3.0, -2.0, -3.0, -2.0]))


def positive_curve(samples: ProfileSamples, curve: Curve, start: Column) -> Predict:
    """Least squares on log latency, soft-L1 as ours, from the typical latency of the samples."""
    batch, share, typical = samples.batch.astype(float), samples.sm_milli / 1000.0, np.log(samples.latency_ms).mean()
    measured = np.log(samples.latency_ms) - typical
    found = least_squares(
        lambda q: np.log(np.maximum(curve(q, batch, share), 1e-12)) - measured,
        start,
        loss="soft_l1",
        f_scale=0.05,
        bounds=(-15.0, 8.0),
    )
    return lambda b, s: np.asarray(curve(found.x, b, s) * np.exp(typical))


def log_quadratic(samples: ProfileSamples) -> Predict:
    """log t as a quadratic in log batch and log share, by ridge regression."""

    def features(batch: Column, share: Column) -> Column:
        x, y = np.log(batch), np.log(share)
        return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)

    a, b = features(samples.batch.astype(float), samples.sm_milli / 1000.0), np.log(samples.latency_ms)
    weights = np.linalg.solve(a.T @ a + 1e-3 * np.eye(6), a.T @ b)
    return lambda batch, share: np.asarray(np.exp(features(batch, share) @ weights))


FORMS: dict[str, Callable[[ProfileSamples], Predict]] = {
    "ours": ours,
    "ours, roofline alone": roofline,
    "roofline by scipy": roofline_by_scipy,
    "iGniter": igniter,
    "Amdahl": amdahl,
    "log-quadratic": log_quadratic,
}


if __name__ == "__main__":
    main()
