"""The scalar mathematics, written once.

Plain functions of numbers that import only `math`: Python calls them as they stand, the CPU kernels compile them, and
a CUDA kernel may compile the very same text (so none of them calls another). A `share` is a fraction of a GPU.
"""

from __future__ import annotations

import math


def roofline_ms(
    launch_ms: float,
    host_ms: float,
    fixed_ms: float,
    compute_ms: float,
    bandwidth_ms: float,
    sharpness: float,
    batch: float,
    share: float,
) -> float:
    """Latency of one batch by the p-norm roofline, in ms.

    t(b, s) = h b + [L^p + ((m + w b) / s)^p + (d b)^p]^(1/p)

    with launch floor L, serial host time h per sample, share-scaled fixed work m and compute w per sample (both on a
    whole GPU), share-independent bandwidth time d per sample and knee sharpness p. The terms are divided by the
    greatest before they are raised to p, so nothing overflows; any term may be zero.
    """
    scaled = (fixed_ms + compute_ms * batch) / share
    streamed = bandwidth_ms * batch
    top = max(launch_ms, scaled, streamed)
    host = host_ms * batch
    if top <= 0.0:
        return host
    total = (launch_ms / top) ** sharpness + (scaled / top) ** sharpness + (streamed / top) ** sharpness
    return float(host + top * total ** (1.0 / sharpness))


def roofline_least_share(
    launch_ms: float,
    host_ms: float,
    fixed_ms: float,
    compute_ms: float,
    bandwidth_ms: float,
    sharpness: float,
    batch: float,
    latency_ms: float,
) -> float:
    """The share at which `roofline_ms` equals `latency_ms`: the least that meets it. Infinite where none does.

    With R = latency - h b: s = (m + w b) / [R^p - L^p - (d b)^p]^(1/p), which may exceed 1, or be 0 without work.
    """
    rest = latency_ms - host_ms * batch
    streamed = bandwidth_ms * batch
    if rest <= 0.0 or launch_ms >= rest or streamed >= rest:
        return math.inf
    left = 1.0 - (launch_ms / rest) ** sharpness - (streamed / rest) ** sharpness
    if left <= 0.0:
        return math.inf
    return float((fixed_ms + compute_ms * batch) / (rest * left ** (1.0 / sharpness)))


def roofline_fit_terms(
    log_launch: float,
    log_host: float,
    log_fixed: float,
    log_compute: float,
    log_bandwidth: float,
    sharpness: float,
    log_batch: float,
    log_share: float,
) -> tuple[float, float, float, float, float, float, float]:
    """`roofline_log_gradient` from the logs of its arguments: the residual and the Jacobian of a fit.

    A sum of powers in logs is log-sum-exp, which needs a third fewer transcendental functions and underflows instead of
    overflowing. A time of zero is a log of, say, -1e9.
    """
    log_work = log_compute + log_batch
    apart = math.exp(-abs(log_work - log_fixed))
    greater = 1.0 / (1.0 + apart)
    of_fixed = greater if log_fixed >= log_work else apart * greater
    log_scaled = max(log_fixed, log_work) + math.log(1.0 + apart) - log_share
    log_streamed = log_bandwidth + log_batch
    top = max(log_launch, log_scaled, log_streamed)
    of_launch = math.exp(sharpness * (log_launch - top))
    of_scaled = math.exp(sharpness * (log_scaled - top))
    of_streamed = math.exp(sharpness * (log_streamed - top))
    total = of_launch + of_scaled + of_streamed
    log_norm = top + math.log(total) / sharpness
    log_serial = log_host + log_batch
    lesser = math.exp(-abs(log_serial - log_norm))
    greater_part = 1.0 / (1.0 + lesser)
    lesser_part = lesser * greater_part
    host = greater_part if log_serial >= log_norm else lesser_part
    share = (lesser_part if log_serial >= log_norm else greater_part) / total
    bend = (
        of_launch * (log_launch - log_norm)
        + of_scaled * (log_scaled - log_norm)
        + of_streamed * (log_streamed - log_norm)
    )
    scaled = share * of_scaled
    return (
        max(log_norm, log_serial) + math.log(1.0 + lesser),
        share * of_launch,
        host,
        scaled * of_fixed,
        scaled * (1.0 - of_fixed),
        share * of_streamed,
        share * bend,
    )


def roofline_log_gradient(
    launch_ms: float,
    host_ms: float,
    fixed_ms: float,
    compute_ms: float,
    bandwidth_ms: float,
    sharpness: float,
    batch: float,
    share: float,
) -> tuple[float, float, float, float, float, float, float]:
    """`log t` of `roofline_ms` and its derivatives by the logs of L, h, m, w, d and p, in that order.

    With o_k the part that term x_k has in the sum of p-th powers, N the norm and f = N / t: by log x_k it is f o_k
    (shared between m and w as they share m + w b), by log h it is h b / t, and by log p it is
    f sum_k o_k log(x_k / N). A term of zero has no part and no derivative. Needs t > 0.
    """
    work = fixed_ms + compute_ms * batch
    scaled = work / share
    streamed = bandwidth_ms * batch
    top = max(launch_ms, scaled, streamed)
    host = host_ms * batch
    if top <= 0.0:
        return math.log(host), 0.0, 1.0, 0.0, 0.0, 0.0, 0.0
    of_launch = (launch_ms / top) ** sharpness
    of_scaled = (scaled / top) ** sharpness
    of_streamed = (streamed / top) ** sharpness
    total = of_launch + of_scaled + of_streamed
    of_launch, of_scaled, of_streamed = of_launch / total, of_scaled / total, of_streamed / total
    norm = top * total ** (1.0 / sharpness)
    latency = host + norm
    part = norm / latency
    bend = 0.0
    if of_launch > 0.0:
        bend += of_launch * math.log(launch_ms / norm)
    if of_scaled > 0.0:
        bend += of_scaled * math.log(scaled / norm)
    if of_streamed > 0.0:
        bend += of_streamed * math.log(streamed / norm)
    of_fixed = fixed_ms / work if work > 0.0 else 0.0
    return (
        math.log(latency),
        part * of_launch,
        host / latency,
        part * of_scaled * of_fixed,
        part * of_scaled * (1.0 - of_fixed),
        part * of_streamed,
        part * bend,
    )


def error_spread(scatter: float, leverage: float, leverage_cap: float, floor: float) -> float:
    """Scale of the log prediction error: sqrt(scatter^2 min(leverage, cap) + floor^2).

    `leverage` says how far a point lies from what the samples pin down; the cap keeps a point that they do not pin
    down at all from exploding, and the floor is the misfit of the model form itself.
    """
    return math.sqrt(scatter * scatter * min(leverage, leverage_cap) + floor * floor)


def throughput_rps(batch: float, latency_ms: float) -> float:
    """Requests per second of an instance that runs batches back to back."""
    return 1000.0 * batch / latency_ms


def efficacy(batch: float, latency_ms: float, share_milli: float) -> float:
    """Throughput per whole GPU of requested share, in requests per second."""
    return 1e6 * batch / (latency_ms * share_milli)
