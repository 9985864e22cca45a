"""The quota sweep over tables: latency and bounds of every cell are given, nothing is known of their shape.

Every cell is looked at. Answers are those of `kernels.cpu.quota_sweep` and `kernels.cpu.quota_front`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.cpu.quota_sweep import BATCH, LATENCY, LIMIT, SHARE, TIE, UPPER

Floats = NDArray[np.float64]


@compiled
def saturating_limits(at_limits: Floats, whole: Floats, saturation: float, saturating: NDArray[np.int16]) -> None:
    """Of each batch the first limit whose latency, `at_limits` (B, L), is within `whole` (B,) / saturation, or -1."""
    for i in range(whole.shape[0]):
        saturating[i] = -1
        enough = whole[i] / saturation * (1.0 + TIE)
        for k in range(at_limits.shape[1]):
            if at_limits[i, k] <= enough:
                saturating[i] = k
                break


@compiled
def best_of_table(
    latency: Floats, uppers: Floats, budgets: Floats, batches: Floats, shares: Floats, saturating: NDArray[np.int16],
    chosen: NDArray[np.int32], predicted: Floats,
) -> None:  # fmt: skip
    """The best cell at each quantile and budget, from `latency` (B, S) and `uppers` (Q, B, S)."""
    for q in range(uppers.shape[0]):
        for n in range(budgets.shape[0]):
            chosen[q, n, :] = -1
            predicted[q, n, :] = np.nan
            best = 0.0
            for i in range(batches.shape[0]):
                for j in range(shares.shape[0]):
                    if uppers[q, i, j] <= budgets[n]:
                        best = max(best, 1e6 * batches[i] / (latency[i, j] * shares[j]))
            if best == 0.0:
                continue
            for j in range(shares.shape[0]):
                for i in range(batches.shape[0]):
                    gain = 1e6 * batches[i] / (latency[i, j] * shares[j])
                    if chosen[q, n, BATCH] < 0 and uppers[q, i, j] <= budgets[n] and gain >= best * (1.0 - TIE):
                        chosen[q, n, BATCH], chosen[q, n, SHARE], chosen[q, n, LIMIT] = i, j, saturating[i]
                        predicted[q, n, LATENCY], predicted[q, n, UPPER] = latency[i, j], uppers[q, i, j]


@compiled
def fronts_of_table(
    latency: Floats, uppers: Floats, budgets: Floats, batches: Floats, fronts: NDArray[np.int16], latencies: Floats
) -> None:
    """The front at each quantile and budget: batch index or -1 at every share, and its latency."""
    for q in range(uppers.shape[0]):
        for n in range(budgets.shape[0]):
            top = 0.0
            for j in range(latency.shape[1]):
                fronts[q, n, j] = -1
                latencies[q, n, j] = np.nan
                most = 0.0
                for i in range(batches.shape[0]):
                    if uppers[q, i, j] <= budgets[n]:
                        most = max(most, 1000.0 * batches[i] / latency[i, j])
                if most <= top * (1.0 + TIE):
                    continue
                for i in range(batches.shape[0]):
                    throughput = 1000.0 * batches[i] / latency[i, j]
                    if (
                        uppers[q, i, j] <= budgets[n]
                        and throughput >= most * (1.0 - TIE)
                        and throughput > top * (1.0 + TIE)
                    ):
                        fronts[q, n, j] = i
                        latencies[q, n, j] = latency[i, j]
                        top = throughput
                        break
