"""Coverage of the 95 % bound for functions whose measurements scatter, from few samples to many (needs no data).

    python bench/fit_noise.py

Random rooflines, measured with lognormal noise at random cells of a 6 x 10 grid, and a fresh noisy measurement of every
cell. Beside the coverage: what a bound that knew the true latency and the noise would cover, 95 %.
"""

from __future__ import annotations

import numpy as np

from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency

BATCHES, SHARES = 2 ** np.arange(6), np.arange(100, 1001, 100)
FUNCTIONS, COUNTS, NOISES = 150, (3, 8, 12, 30), (0.03, 0.1, 0.2)


def main() -> None:
    """Print one line per noise."""
    rng = np.random.default_rng(0)
    batch, share = (axis.ravel() for axis in np.meshgrid(BATCHES, SHARES, indexing="ij"))
    print(f"{FUNCTIONS} random rooflines; coverage of the 95 % bound from {', '.join(map(str, COUNTS))} samples")
    for noise in NOISES:
        covered = []
        for count in COUNTS:
            parts = []
            for _ in range(FUNCTIONS):
                logs = np.array([1.0, -2.5, -1.0, -1.0, -2.0, 1.1]) + rng.standard_normal(6) * [1, 1, 1, 1, 1, 0.4]
                mean = RooflineModel(*np.exp(logs).tolist()).latency_ms(batch, share)
                rows = rng.permutation(batch.size)[:count]
                seen = mean[rows] * np.exp(noise * rng.standard_normal(count))
                fit = fit_latency(ProfileSamples(batch[rows], share[rows], seen, failure_codes=()))
                fresh = mean * np.exp(noise * rng.standard_normal(mean.size))
                parts.append((fresh <= fit.upper_ms(batch, share)).mean())
            covered.append(float(np.mean(parts)))
        print(f"    noise {noise:4.0%}   " + "   ".join(f"{each:6.1%}" for each in covered), flush=True)


if __name__ == "__main__":
    main()
