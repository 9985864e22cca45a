"""Robust maximum a-posteriori fits of the p-norm roofline by Levenberg-Marquardt, many functions in one call.

Each function has samples (b_i, s_i, y_i = log t_i) and the parameters q = log(L, h, m, w, d, p). Minimised is

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

_ABSENT = -1e9  # log of a time that takes no part
_STEP_CAP = 2.0  # in logs: no parameter moves by more than a factor e^2 a step
_REFUSALS = 12  # damping increases in a row before the point counts as a minimum
_ROUGH = 1e-4  # tolerance at which the starts are compared; the best is then finished

LEAST_RATIO, GREATEST_RATIO = 0.1, 3.0
"""Bounds of estimated over assumed noise: no profile is better than half a per cent."""

_fit_terms = inlined(formulas.roofline_fit_terms)


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
    logs: NDArray[np.float64],
    gradient: NDArray[np.float64],
    curvature: NDArray[np.float64],
    newton: NDArray[np.float64],
) -> float:
    """C(q) at `logs`; fills `gradient` (6,) and the lower triangles of `curvature` and `newton` (6, 6).

    `curvature` is H; `newton` weighs sample i by 1 / (noise^2 (1 + (r_i / c)^2)^(3/2)), the second derivative of the
    loss, which makes for better steps.
    """
    bandwidth = logs[BANDWIDTH] if with_bandwidth else _ABSENT
    sharpness = math.exp(logs[5])
    slope = np.empty(PARAMETERS)
    gradient[:] = 0.0
    curvature[:] = 0.0
    newton[:] = 0.0
    cost = 0.0
    per_corner, per_noise = 1.0 / corner, 1.0 / (noise * noise)
    for i in range(log_batch.shape[0]):
        log_t, slope[0], slope[1], slope[2], slope[3], slope[4], slope[5] = _fit_terms(
            logs[0], logs[1], logs[2], logs[3], bandwidth, sharpness, log_batch[i], log_share[i]
        )
        residual = log_t - log_latency[i]
        square = (residual * per_corner) ** 2
        bend = math.sqrt(1.0 + square)
        cost += square / (1.0 + bend)
        weight = per_noise / bend
        second = weight / (bend * bend)
        for k in range(PARAMETERS):
            gradient[k] += weight * residual * slope[k]
            for j in range(k + 1):
                product = slope[k] * slope[j]
                curvature[k, j] += weight * product
                newton[k, j] += second * product
    cost *= corner * corner * per_noise
    for k in range(PARAMETERS):
        if k == BANDWIDTH and not with_bandwidth:
            gradient[k] = 0.0
            curvature[k, k] = 1.0
            newton[k, k] = 1.0
            continue
        pull = 0.0
        for j in range(PARAMETERS):
            pull += precision[k, j] * (logs[j] - center[j])
            if j <= k:
                curvature[k, j] += precision[k, j]
                newton[k, j] += precision[k, j]
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


@compiled
def minimise(
    log_batch: NDArray[np.float64],
    log_share: NDArray[np.float64],
    log_latency: NDArray[np.float64],
    with_bandwidth: bool,
    corner: float,
    noise: float,
    center: NDArray[np.float64],
    precision: NDArray[np.float64],
    max_iterations: int,
    tolerance: float,
    logs: NDArray[np.float64],
    curvature: NDArray[np.float64],
) -> tuple[float, int, bool]:
    """Descend from `logs`, in place; returns (C, iterations, converged) and leaves H at the end in `curvature`.

    Converged is where the step would gain less than `tolerance` of C, by the quadratic model of it, or none does gain.
    """
    gradient, tried_gradient = np.empty(PARAMETERS), np.empty(PARAMETERS)
    newton, tried_newton = np.empty((PARAMETERS, PARAMETERS)), np.empty((PARAMETERS, PARAMETERS))
    tried_curvature, factor = np.empty((PARAMETERS, PARAMETERS)), np.zeros((PARAMETERS, PARAMETERS))
    tried, step = np.empty(PARAMETERS), np.empty(PARAMETERS)
    cost = objective(
        log_batch,
        log_share,
        log_latency,
        with_bandwidth,
        corner,
        noise,
        center,
        precision,
        logs,
        gradient,
        curvature,
        newton,
    )
    damping = 1e-2
    for iteration in range(1, max_iterations + 1):
        gain, expected, tried_cost = -1.0, 0.0, cost
        for _ in range(_REFUSALS):
            if damped_step(newton, gradient, damping, factor, step):
                expected = 0.0
                for k in range(PARAMETERS):
                    expected -= 0.5 * gradient[k] * step[k]
                    tried[k] = logs[k] + max(-_STEP_CAP, min(_STEP_CAP, step[k]))
                tried_cost = objective(
                    log_batch,
                    log_share,
                    log_latency,
                    with_bandwidth,
                    corner,
                    noise,
                    center,
                    precision,
                    tried,
                    tried_gradient,
                    tried_curvature,
                    tried_newton,
                )
                if tried_cost < cost:
                    gain = cost - tried_cost
                    break
                if expected <= tolerance * (cost + 1e-12):
                    return cost, iteration, True
            damping = min(5.0 * damping, 1e12)
        if gain < 0.0:
            return cost, iteration, True
        cost = tried_cost
        for k in range(PARAMETERS):
            logs[k], gradient[k] = tried[k], tried_gradient[k]
            for j in range(k + 1):
                curvature[k, j], newton[k, j] = tried_curvature[k, j], tried_newton[k, j]
        if gain >= 0.5 * expected:
            damping = max(0.1 * damping, 1e-9)
        elif gain < 0.1 * expected:
            damping = min(2.0 * damping, 1e12)
        if gain <= tolerance * (cost + 1e-12) and damping <= 1.0:
            return cost, iteration, True
    return cost, max_iterations, False


@compiled
def estimated_noise(
    log_batch: NDArray[np.float64],
    log_share: NDArray[np.float64],
    log_latency: NDArray[np.float64],
    with_bandwidth: bool,
    corner: float,
    noise: float,
    precision: NDArray[np.float64],
    belief: float,
    logs: NDArray[np.float64],
    curvature: NDArray[np.float64],
) -> float:
    """Noise by the robust residuals at a minimum, with `belief` samples' worth of trust in `noise`.

    sigma^2 = (sum_i r_i^2 / sqrt(1 + (r_i / c)^2) + belief noise^2) / (n - n_used + belief), n_used the trace of the
    data's part in H^-1 H: the parameters that the samples, not the prior, decided.
    """
    bandwidth = logs[BANDWIDTH] if with_bandwidth else _ABSENT
    sharpness = math.exp(logs[5])
    total = 0.0
    for i in range(log_batch.shape[0]):
        log_t = _fit_terms(logs[0], logs[1], logs[2], logs[3], bandwidth, sharpness, log_batch[i], log_share[i])[0]
        residual = log_t - log_latency[i]
        total += residual * residual / math.sqrt(1.0 + (residual / corner) ** 2)
    factor, column, unit = np.zeros((PARAMETERS, PARAMETERS)), np.empty(PARAMETERS), np.zeros(PARAMETERS)
    used = 0.0
    for k in range(PARAMETERS):
        if k == BANDWIDTH and not with_bandwidth:
            continue
        unit[k] = -1.0
        damped_step(curvature, unit, 0.0, factor, column)
        unit[k] = 0.0
        used += 1.0
        for j in range(PARAMETERS):
            used -= column[j] * precision[j, k]
    free = max(log_batch.shape[0] - used, 0.5)
    return math.sqrt((total + belief * noise * noise) / (free + belief))


@compiled
def fit_rooflines(
    log_batch: NDArray[np.float64],
    log_share: NDArray[np.float64],
    log_latency: NDArray[np.float64],
    first: NDArray[np.int64],
    with_bandwidth: NDArray[np.int64],
    centers: NDArray[np.float64],
    precisions: NDArray[np.float64],
    starts: NDArray[np.float64],
    corner: float,
    noise: float,
    belief: float,
    max_iterations: int,
    tolerance: float,
    logs: NDArray[np.float64],
    curvatures: NDArray[np.float64],
    costs: NDArray[np.float64],
    noises: NDArray[np.float64],
    iterations: NDArray[np.int64],
    converged: NDArray[np.int64],
) -> None:
    """Fit F functions; the samples of function f are rows `first[f]:first[f + 1]`.

    `centers` (F, 6) and `precisions` (F, 6, 6) are the priors of the log parameters, with zero rows and columns for the
    bandwidth where a function does without; `starts` (S, 6) are offsets from the centre to start from. The start of
    least C, each gone down roughly, is finished, and polished with the prior precision times (estimated noise /
    noise)^2. Fills `logs` (F, 6), `curvatures` (F, 6, 6) in units of `noise`, symmetric, `costs`, the estimated
    `noises`, `iterations` in all and `converged` (F,)."""
    trial, weighed = np.empty(PARAMETERS), np.empty((PARAMETERS, PARAMETERS))
    curvature = np.empty((PARAMETERS, PARAMETERS))
    for f in range(costs.shape[0]):
        low, high = first[f], first[f + 1]
        batches, shares, latencies = log_batch[low:high], log_share[low:high], log_latency[low:high]
        streams = with_bandwidth[f] != 0
        center, precision, best = centers[f], precisions[f], logs[f]
        costs[f] = np.inf
        iterations[f] = 0
        for start in range(starts.shape[0]):
            for k in range(PARAMETERS):
                trial[k] = center[k] + starts[start, k]
            if not streams:
                trial[BANDWIDTH] = center[BANDWIDTH]
            cost, steps, _ = minimise(
                batches,
                shares,
                latencies,
                streams,
                corner,
                noise,
                center,
                precision,
                max_iterations,
                _ROUGH,
                trial,
                curvature,
            )
            iterations[f] += steps
            if cost < costs[f]:
                costs[f] = cost
                best[:] = trial
        ratio = 1.0
        for polish in range(2):
            if polish:
                noises[f] = estimated_noise(
                    batches, shares, latencies, streams, corner, noise, precision, belief, best, curvature
                )
                ratio = min(max(noises[f] / noise, LEAST_RATIO), GREATEST_RATIO)
            weighed[:] = precision * (ratio * ratio)
            costs[f], steps, settled = minimise(
                batches,
                shares,
                latencies,
                streams,
                corner,
                noise,
                center,
                weighed,
                max_iterations,
                tolerance,
                best,
                curvature,
            )
            iterations[f] += steps
            converged[f] = 1 if settled else 0
        for i in range(PARAMETERS):
            for j in range(i + 1):
                curvatures[f, i, j] = curvature[i, j]
                curvatures[f, j, i] = curvature[i, j]
