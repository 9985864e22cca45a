"""What a robust maximum a-posteriori fit of the p-norm roofline minimises, and one damped step towards it.

A function has samples (b_i, s_i, y_i = log t_i) and the parameters q = log(L, h, m, w, d, p). Minimised is

    C(q) = sum_i c^2 (sqrt(1 + (r_i / c)^2) - 1) / noise^2 + 1/2 (q - center)^T P (q - center),

r_i = log t(b_i, s_i; q) - y_i, soft-L1 with corner c, and P the precision of the prior, which may be singular: what it
leaves open the samples decide. The noise is then estimated from the residuals and the prior weighed anew: what precise
samples say must not be bent towards it. A step solves (H + lambda diag H) x = -g with the iteratively reweighted
Gauss-Newton matrix H = sum_i v_i J_i J_i^T + P, v_i = 1 / (noise^2 sqrt(1 + (r_i / c)^2)).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels import formulas
from dilu_core.kernels.cpu.compiled import compiled, inlined

PARAMETERS = 6
BANDWIDTH = 4  # index of log d, the one parameter a function may do without
ABSENT = -1e9  # log of a time that takes no part

fit_terms = inlined(formulas.roofline_fit_terms)


@compiled
def objective(
    log_batch: NDArray[np.float64],
    log_share: NDArray[np.float64],
    log_latency: NDArray[np.float64],
    with_bandwidth: bool,
    corner: float,
    noise: float,
    center: NDArray[np.float64],
    precision: NDArray[np.float64],
    trust: float,
    newton: bool,
    logs: NDArray[np.float64],
    gradient: NDArray[np.float64],
    curvature: NDArray[np.float64],
    slope: NDArray[np.float64],
) -> float:
    """C(q) at `logs` under the prior `trust * precision`; fills `gradient` (6,) and the lower triangle of `curvature`.

    `curvature` (6, 6) is H; with `newton`, sample i weighs 1 / (noise^2 (1 + (r_i / c)^2)^(3/2)) in it, the second
    derivative of the loss, which makes for better steps. `slope` (6,) is scratch.
    """
    bandwidth = logs[BANDWIDTH] if with_bandwidth else ABSENT
    sharpness = math.exp(logs[5])
    for k in range(PARAMETERS):
        gradient[k] = 0.0
        for j in range(k + 1):
            curvature[k, j] = 0.0
    cost = 0.0
    per_corner, per_noise = 1.0 / corner, 1.0 / (noise * noise)
    for i in range(log_batch.shape[0]):
        log_t, slope[0], slope[1], slope[2], slope[3], slope[4], slope[5] = fit_terms(
            logs[0], logs[1], logs[2], logs[3], bandwidth, sharpness, log_batch[i], log_share[i]
        )
        residual = log_t - log_latency[i]
        square = (residual * per_corner) ** 2
        bend = math.sqrt(1.0 + square)
        cost += square / (1.0 + bend)
        weight = per_noise / bend
        second = weight / (bend * bend) if newton else weight
        for k in range(PARAMETERS):
            gradient[k] += weight * residual * slope[k]
            for j in range(k + 1):
                curvature[k, j] += second * (slope[k] * slope[j])
    cost *= corner * corner * per_noise
    for k in range(PARAMETERS):
        if k == BANDWIDTH and not with_bandwidth:
            gradient[k] = 0.0
            curvature[k, k] = 1.0
            continue
        pull = 0.0
        for j in range(PARAMETERS):
            believed = precision[k, j] * trust
            pull += believed * (logs[j] - center[j])
            if j <= k:
                curvature[k, j] += believed
        cost += 0.5 * pull * (logs[k] - center[k])
        gradient[k] += pull
    return cost


@compiled
def damped_step(
    curvature: NDArray[np.float64],
    gradient: NDArray[np.float64],
    damping: float,
    factor: NDArray[np.float64],
    step: NDArray[np.float64],
) -> bool:
    """Solve (H + damping diag H) step = -gradient by Cholesky; False if the matrix is not positive definite."""
    for i in range(PARAMETERS):
        for j in range(i + 1):
            value = curvature[i, j]
            if i == j:
                value *= 1.0 + damping
            for k in range(j):
                value -= factor[i, k] * factor[j, k]
            if i == j:
                if not value > 0.0:
                    return False
                factor[i, i] = math.sqrt(value)
            else:
                factor[i, j] = value / factor[j, j]
    for i in range(PARAMETERS):
        value = -gradient[i]
        for k in range(i):
            value -= factor[i, k] * step[k]
        step[i] = value / factor[i, i]
    for i in range(PARAMETERS - 1, -1, -1):
        value = step[i]
        for k in range(i + 1, PARAMETERS):
            value -= factor[k, i] * step[k]
        step[i] = value / factor[i, i]
    return True
