"""One robust maximum a-posteriori fit of the p-norm roofline by Levenberg-Marquardt, from start to polished minimum.

What is minimised stands in `kernels.roofline_objective`. Nothing here allocates: the CPU kernel
(`kernels.cpu.roofline_fit`) hands in arrays, the CUDA kernel (`kernels.cuda.fits`) the local arrays of one thread, and
both compile the same text.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.roofline_objective import ABSENT, BANDWIDTH, PARAMETERS, damped_step, fit_terms, objective

_STEP_CAP = 2.0  # in logs: no parameter moves by more than a factor e^2 a step
_REFUSALS = 12  # damping increases in a row before the point counts as a minimum
_ROUGH = 1e-4  # tolerance at which the starts are compared; the best is then finished

LEAST_RATIO, GREATEST_RATIO = 0.1, 3.0
"""Bounds of estimated over assumed noise: no profile is better than half a per cent."""


class Workspace(NamedTuple):
    """Scratch of one descent: vectors (6,) and a matrix (6, 6) of which the lower triangle counts; of any content."""

    gradient: NDArray[np.float64]
    tried_gradient: NDArray[np.float64]
    logs: NDArray[np.float64]
    tried: NDArray[np.float64]
    step: NDArray[np.float64]
    slope: NDArray[np.float64]
    tried_curvature: NDArray[np.float64]


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
    trust: float,
    max_iterations: int,
    tolerance: float,
    curvature: NDArray[np.float64],
    work: Workspace,
) -> tuple[float, int, bool]:
    """Descend from `work.logs`, in place, under the prior `trust * precision`; returns (C, iterations, converged).

    `curvature` (6, 6) is scratch as well. Converged is where the step would gain less than `tolerance` of C, by the
    quadratic model of it, or none does gain.
    """
    logs, gradient = work.logs, work.gradient
    tried, tried_gradient, tried_curvature = work.tried, work.tried_gradient, work.tried_curvature
    cost = objective(
        log_batch,
        log_share,
        log_latency,
        with_bandwidth,
        corner,
        noise,
        center,
        precision,
        trust,
        True,
        logs,
        gradient,
        curvature,
        work.slope,
    )
    damping = 1e-2
    for iteration in range(1, max_iterations + 1):
        gain, expected, tried_cost = -1.0, 0.0, cost
        for _ in range(_REFUSALS):
            # the factor may stand where the next curvature will: it has served once the step is known
            if damped_step(curvature, gradient, damping, tried_curvature, work.step):
                expected = 0.0
                for k in range(PARAMETERS):
                    expected -= 0.5 * gradient[k] * work.step[k]
                    tried[k] = logs[k] + max(-_STEP_CAP, min(_STEP_CAP, work.step[k]))
                tried_cost = objective(
                    log_batch,
                    log_share,
                    log_latency,
                    with_bandwidth,
                    corner,
                    noise,
                    center,
                    precision,
                    trust,
                    True,
                    tried,
                    tried_gradient,
                    tried_curvature,
                    work.slope,
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
                curvature[k, j] = tried_curvature[k, j]
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
    work: Workspace,
) -> float:
    """Noise by the robust residuals at a minimum, with `belief` samples' worth of trust in `noise`.

    sigma^2 = (sum_i r_i^2 / sqrt(1 + (r_i / c)^2) + belief noise^2) / (n - n_used + belief), n_used the trace of the
    data's part in H^-1 H: the parameters that the samples, not the prior, decided. `curvature` is H.
    """
    bandwidth = logs[BANDWIDTH] if with_bandwidth else ABSENT
    sharpness = math.exp(logs[5])
    total = 0.0
    for i in range(log_batch.shape[0]):
        log_t = fit_terms(logs[0], logs[1], logs[2], logs[3], bandwidth, sharpness, log_batch[i], log_share[i])[0]
        residual = log_t - log_latency[i]
        total += residual * residual / math.sqrt(1.0 + (residual / corner) ** 2)
    unit, column = work.gradient, work.step
    for k in range(PARAMETERS):
        unit[k] = 0.0
    used = 0.0
    for k in range(PARAMETERS):
        if k == BANDWIDTH and not with_bandwidth:
            continue
        unit[k] = -1.0
        damped_step(curvature, unit, 0.0, work.tried_curvature, column)
        unit[k] = 0.0
        used += 1.0
        for j in range(PARAMETERS):
            used -= column[j] * precision[j, k]
    free = max(log_batch.shape[0] - used, 0.5)
    return math.sqrt((total + belief * noise * noise) / (free + belief))


@compiled
def fit_roofline(
    log_batch: NDArray[np.float64],
    log_share: NDArray[np.float64],
    log_latency: NDArray[np.float64],
    with_bandwidth: bool,
    center: NDArray[np.float64],
    precision: NDArray[np.float64],
    starts: NDArray[np.float64],
    corner: float,
    noise: float,
    belief: float,
    max_iterations: int,
    tolerance: float,
    best: NDArray[np.float64],
    curvature: NDArray[np.float64],
    work: Workspace,
) -> tuple[float, float, int, bool]:
    """Fit one function with samples (n,); returns (C, estimated noise, iterations in all, converged).

    `starts` (S, 6) are offsets from the centre to start from. The start of least C, each gone down roughly, is
    finished, and polished with the prior precision times (estimated noise / noise)^2. Fills `best` (6,) and `curvature`
    (6, 6), symmetric and in units of `noise`.
    """
    least, estimate, trust, iterations, settled = math.inf, noise, 1.0, 0, False
    rough = starts.shape[0]
    for stage in range(rough + 2):
        for k in range(PARAMETERS):
            offset = starts[stage, k] if stage < rough and (with_bandwidth or k != BANDWIDTH) else 0.0
            work.logs[k] = center[k] + offset if stage < rough else best[k]
        if stage == rough + 1:
            estimate = estimated_noise(
                log_batch,
                log_share,
                log_latency,
                with_bandwidth,
                corner,
                noise,
                precision,
                belief,
                best,
                curvature,
                work,
            )
            ratio = min(max(estimate / noise, LEAST_RATIO), GREATEST_RATIO)
            trust = ratio * ratio
        cost, steps, settled = minimise(
            log_batch,
            log_share,
            log_latency,
            with_bandwidth,
            corner,
            noise,
            center,
            precision,
            trust,
            max_iterations,
            _ROUGH if stage < rough else tolerance,
            curvature,
            work,
        )
        iterations += steps
        if stage >= rough or cost < least:
            least = cost
            for k in range(PARAMETERS):
                best[k] = work.logs[k]
        if stage >= rough:
            objective(
                log_batch,
                log_share,
                log_latency,
                with_bandwidth,
                corner,
                noise,
                center,
                precision,
                trust,
                False,
                best,
                work.gradient,
                curvature,
                work.slope,
            )
    for i in range(PARAMETERS):
        for j in range(i):
            curvature[j, i] = curvature[i, j]
    return least, estimate, iterations, settled
