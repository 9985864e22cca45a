"""A fluid first-in-first-out queue before identical instances that may burst: the inner loop of `solvers.replay`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_in_place


@compiled_in_place
def share_for_rate(rate_rps: NDArray[np.float64], wanted_rps: float, most_milli: int) -> float:
    """The least share at which an instance serves `wanted_rps`, at most `most_milli`, between table points linearly.

    `rate_rps[s]` is what an instance serves at share s milli-GPU: shape `(shares + 1,)`, non-decreasing, 0 at 0.
    """
    if wanted_rps <= 0.0:
        return 0.0
    if wanted_rps > rate_rps[most_milli]:
        return float(most_milli)
    low, high = 0, most_milli  # rate_rps[low] < wanted_rps <= rate_rps[high]
    while high - low > 1:
        middle = (low + high) // 2
        if rate_rps[middle] < wanted_rps:
            low = middle
        else:
            high = middle
    return float(low + (wanted_rps - rate_rps[low]) / (rate_rps[high] - rate_rps[low]))


@compiled_in_place
def least_share(table: NDArray[np.float64], wanted_rps: float, most: int, near: int) -> float:
    """As `share_for_rate`, searched from `near` outwards: shares change little between steps."""
    if wanted_rps <= 0.0:
        return 0.0
    if wanted_rps > table[most]:
        return float(most)
    low, high, stride = 0, most, 1  # table[low] < wanted_rps <= table[high]
    if 0 < near < most:
        if table[near] < wanted_rps:
            low = near
            while low + stride < most and table[low + stride] < wanted_rps:
                low += stride
                stride *= 2
            high = min(low + stride, most)
        else:
            high = near
            while high - stride > 0 and table[high - stride] >= wanted_rps:
                high -= stride
                stride *= 2
            low = max(high - stride, 0)
    while high - low > 1:
        middle = (low + high) // 2
        if table[middle] < wanted_rps:
            low = middle
        else:
            high = middle
    return float(low + (wanted_rps - table[low]) / (table[high] - table[low]))


@compiled_in_place
def between(table: NDArray[np.float64], function: int, share: float) -> float:
    """`table[function]` at a share that need not be whole, linearly between whole ones."""
    low = int(share)
    part = share - low
    if part <= 0.0:
        return float(table[function, low])
    return float(table[function, low] + part * (table[function, low + 1] - table[function, low]))


@compiled_in_place
def advance_queue(
    arrivals: NDArray[np.float64],
    most_milli: NDArray[np.int64],
    rate_rps: NDArray[np.float64],
    step_s: float,
    ready: int,
    first: int,
    stop: int,
    backlog: float,
    backlog_after: NDArray[np.float64],
    used_milli: NDArray[np.float64],
) -> float:
    """Run steps `first` to `stop` with `ready` instances from `backlog` waiting requests; return what waits then.

    Per step of `step_s` seconds, `arrivals` `(steps,)` counts requests and `most_milli` `(steps,)` caps the share of
    each instance. Written per step: `backlog_after`, the requests that wait at its end, and `used_milli`, the share
    that each instance used. Requests that arrive within a step may be served within it.
    """
    for i in range(first, stop):
        backlog += arrivals[i]
        used_milli[i] = 0.0
        if ready > 0 and backlog > 0.0:
            most = most_milli[i]
            each_rps = backlog / (ready * step_s)
            used_milli[i] = share_for_rate(rate_rps, each_rps, most)
            backlog = 0.0 if each_rps <= rate_rps[most] else float(backlog - rate_rps[most] * ready * step_s)
        backlog_after[i] = backlog
    return backlog
