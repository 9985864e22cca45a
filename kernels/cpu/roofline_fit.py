"""Robust maximum a-posteriori fits of the p-norm roofline by Levenberg-Marquardt, many functions in one call.

Each function has samples (b_i, s_i, y_i = log t_i) and the parameters q = log(L, h, m, w, d, p). Minimised is

    C(q) = sum_i c^2 (sqrt(1 + (r_i / c)^2) - 1) / noise^2 + 1/2 sum_k ((q_k - center_k) / spread_k)^2,

r_i = log t(b_i, s_i; q) - y_i, soft-L1 with corner c. The noise is then estimated from the residuals and the prior
weighed anew: what precise samples say must not be bent towards it. A step solves (H + lambda diag H) x = -g with the
iteratively reweighted Gauss-Newton matrix H = sum_i v_i J_i J_i^T + diag(1 / spread^2),
v_i = 1 / (noise^2 sqrt(1 + (r_i / c)^2)).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels import formulas
from dilu_core.kernels.cpu.compiled import compiled

PARAMETERS = 6
BANDWIDTH = 4  # index of log d, the one parameter a function may do without

_STEP_CAP = 2.0  # in logs: no parameter moves by more than a factor e^2 a step
_REFUSALS = 12  # damping increases in a row before the point counts as a minimum

_LEAST_RATIO, _GREATEST_RATIO = 0.1, 3.0  # estimated over assumed noise: no profile is better than half a per cent

_roofline_ms = compiled(formulas.roofline_ms)
_log_gradient = compiled(formulas.roofline_log_gradient)


@compiled
def objective(
    batch: NDArray[np.float64],
    share: NDArray[np.float64],
    log_latency: NDArray[np.float64],
    with_bandwidth: bool,
    corner: float,
    noise: float,
    center: NDArray[np.float64],
    spread: NDArray[np.float64],
    logs: NDArray[np.float64],
    gradient: NDArray[np.float64],
    curvature: NDArray[np.float64],
) -> float:
    """C(q) at `logs`; fills `gradient` (6,) and the lower triangle of `curvature` (6, 6) with those of C."""
    launch, host, fixed, compute = math.exp(logs[0]), math.exp(logs[1]), math.exp(logs[2]), math.exp(logs[3])
    bandwidth = math.exp(logs[BANDWIDTH]) if with_bandwidth else 0.0
    sharpness = math.exp(logs[5])
    slope = np.empty(PARAMETERS)
    gradient[:] = 0.0
    curvature[:] = 0.0
    cost = 0.0
    for i in range(batch.shape[0]):
        log_t, slope[0], slope[1], slope[2], slope[3], slope[4], slope[5] = _log_gradient(
            launch, host, fixed, compute, bandwidth, sharpness, batch[i], share[i]
        )
        residual = log_t - log_latency[i]
        bend = math.sqrt(1.0 + (residual / corner) ** 2)
        cost += corner * corner * (bend - 1.0) / (noise * noise)
        weight = 1.0 / (noise * noise * bend)
        for k in range(PARAMETERS):
            gradient[k] += weight * slope[k] * residual
            for j in range(k + 1):
                curvature[k, j] += weight * slope[k] * slope[j]
    for k in range(PARAMETERS):
        if k == BANDWIDTH and not with_bandwidth:
            gradient[k] = 0.0
            curvature[k, k] = 1.0
            continue
        pull = (logs[k] - center[k]) / spread[k]
        cost += 0.5 * pull * pull
        gradient[k] += pull / spread[k]
        curvature[k, k] += 1.0 / (spread[k] * spread[k])
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
    batch: NDArray[np.float64],
    share: NDArray[np.float64],
    log_latency: NDArray[np.float64],
    with_bandwidth: bool,
    corner: float,
    noise: float,
    center: NDArray[np.float64],
    spread: NDArray[np.float64],
    max_iterations: int,
    tolerance: float,
    logs: NDArray[np.float64],
    curvature: NDArray[np.float64],
) -> tuple[float, int, bool]:
    """Descend from `logs`, in place; returns (C, iterations, converged) and leaves H at the minimum in `curvature`."""
    gradient, tried_gradient = np.empty(PARAMETERS), np.empty(PARAMETERS)
    tried_curvature, factor = np.empty((PARAMETERS, PARAMETERS)), np.zeros((PARAMETERS, PARAMETERS))
    tried, step = np.empty(PARAMETERS), np.empty(PARAMETERS)
    cost = objective(
        batch, share, log_latency, with_bandwidth, corner, noise, center, spread, logs, gradient, curvature
    )
    damping = 1e-2
    for iteration in range(1, max_iterations + 1):
        gain, tried_cost = -1.0, cost
        for _ in range(_REFUSALS):
            if damped_step(curvature, gradient, damping, factor, step):
                for k in range(PARAMETERS):
                    tried[k] = logs[k] + max(-_STEP_CAP, min(_STEP_CAP, step[k]))
                tried_cost = objective(
                    batch,
                    share,
                    log_latency,
                    with_bandwidth,
                    corner,
                    noise,
                    center,
                    spread,
                    tried,
                    tried_gradient,
                    tried_curvature,
                )
                if tried_cost < cost:
                    gain = cost - tried_cost
                    break
            damping = min(5.0 * damping, 1e12)
        if gain < 0.0:
            return cost, iteration, True
        cost = tried_cost
        logs[:] = tried
        gradient[:] = tried_gradient
        curvature[:] = tried_curvature
        damping = max(0.2 * damping, 1e-9)
        if gain <= tolerance * (cost + 1e-12):
            return cost, iteration, True
    return cost, max_iterations, False


@compiled
def estimated_noise(
    batch: NDArray[np.float64],
    share: NDArray[np.float64],
    log_latency: NDArray[np.float64],
    with_bandwidth: bool,
    corner: float,
    noise: float,
    spread: NDArray[np.float64],
    belief: float,
    logs: NDArray[np.float64],
    curvature: NDArray[np.float64],
) -> float:
    """Noise by the robust residuals at a minimum, with `belief` samples' worth of trust in `noise`.

    sigma^2 = (sum_i r_i^2 / sqrt(1 + (r_i / c)^2) + belief noise^2) / (n - n_used + belief), n_used the trace of the
    data's part in H^-1 H: the parameters that the samples, not the prior, decided.
    """
    launch, host, fixed, compute = math.exp(logs[0]), math.exp(logs[1]), math.exp(logs[2]), math.exp(logs[3])
    bandwidth = math.exp(logs[BANDWIDTH]) if with_bandwidth else 0.0
    sharpness = math.exp(logs[5])
    total = 0.0
    for i in range(batch.shape[0]):
        latency = _roofline_ms(launch, host, fixed, compute, bandwidth, sharpness, batch[i], share[i])
        residual = math.log(latency) - log_latency[i]
        total += residual * residual / math.sqrt(1.0 + (residual / corner) ** 2)
    factor, column, unit = np.zeros((PARAMETERS, PARAMETERS)), np.empty(PARAMETERS), np.zeros(PARAMETERS)
    used = 0.0
    for k in range(PARAMETERS):
        if k == BANDWIDTH and not with_bandwidth:
            continue
        unit[k] = -1.0
        damped_step(curvature, unit, 0.0, factor, column)
        unit[k] = 0.0
        used += 1.0 - column[k] / (spread[k] * spread[k])
    free = max(batch.shape[0] - used, 0.5)
    return math.sqrt((total + belief * noise * noise) / (free + belief))


@compiled
def fit_rooflines(
    batch: NDArray[np.float64],
    share: NDArray[np.float64],
    log_latency: NDArray[np.float64],
    first: NDArray[np.int64],
    with_bandwidth: NDArray[np.int64],
    centers: NDArray[np.float64],
    spreads: NDArray[np.float64],
    starts: NDArray[np.float64],
    corner: float,
    noise: float,
    belief: float,
    max_iterations: int,
    tolerance: float,
    logs: NDArray[np.float64],
    curvatures: NDArray[np.float64],
    costs: NDArray[np.float64],
    iterations: NDArray[np.int64],
    converged: NDArray[np.int64],
) -> None:
    """Fit F functions; the samples of function f are rows `first[f]:first[f + 1]`.

    `centers` and `spreads` (F, 6) are the priors of the log parameters, `starts` (S, 6) offsets from the centre to
    start from; the least C wins, and is polished with the prior spreads times noise / estimated noise. Fills `logs`
    (F, 6), `curvatures` (F, 6, 6) in units of `noise`, symmetric, `costs`, `iterations` in all and `converged` (F,).
    """
    trial, widened = np.empty(PARAMETERS), np.empty(PARAMETERS)
    curvature, best_curvature = np.empty((PARAMETERS, PARAMETERS)), np.empty((PARAMETERS, PARAMETERS))
    for f in range(costs.shape[0]):
        low, high = first[f], first[f + 1]
        costs[f] = np.inf
        iterations[f] = 0
        for start in range(starts.shape[0]):
            for k in range(PARAMETERS):
                trial[k] = centers[f, k] + starts[start, k]
            if with_bandwidth[f] == 0:
                trial[BANDWIDTH] = centers[f, BANDWIDTH]
            cost, steps, settled = minimise(
                batch[low:high],
                share[low:high],
                log_latency[low:high],
                with_bandwidth[f] != 0,
                corner,
                noise,
                centers[f],
                spreads[f],
                max_iterations,
                tolerance,
                trial,
                curvature,
            )
            iterations[f] += steps
            if cost < costs[f]:
                costs[f] = cost
                converged[f] = 1 if settled else 0
                logs[f] = trial
                best_curvature[:] = curvature
        found = estimated_noise(
            batch[low:high],
            share[low:high],
            log_latency[low:high],
            with_bandwidth[f] != 0,
            corner,
            noise,
            spreads[f],
            belief,
            logs[f],
            best_curvature,
        )
        ratio = min(max(found / noise, _LEAST_RATIO), _GREATEST_RATIO)
        for k in range(PARAMETERS):
            widened[k] = spreads[f, k] / ratio
        costs[f], steps, settled = minimise(
            batch[low:high],
            share[low:high],
            log_latency[low:high],
            with_bandwidth[f] != 0,
            corner,
            noise,
            centers[f],
            widened,
            max_iterations,
            tolerance,
            logs[f],
            best_curvature,
        )
        iterations[f] += steps
        converged[f] = 1 if settled else 0
        for i in range(PARAMETERS):
            for j in range(i + 1):
                curvatures[f, i, j] = best_curvature[i, j]
                curvatures[f, j, i] = best_curvature[i, j]
