"""The replay of one arrival trace under one parameter set of the horizontal policy, allocating nothing.

What `solvers.replay` does for any policy, with the policy's step compiled in and the figures gathered on the way: the
queue is that of `kernels.cpu.replay`, and a request's lateness is found as the served count passes it, by the very
expressions of `solvers.replay_measures`. One text for the CPU kernel and a GPU thread.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled_in_place, inlined
from dilu_core.kernels.policy_columns import (
    BASE_LATENCY_MS,
    CAPACITY_RPS,
    COLD_STEPS,
    FORECASTS,
    FROM_ZERO_S,
    HOLD,
    IS_LAZY,
    LAGS,
    LATE_WEIGHT,
    LEAN,
    LEAST_CONFIDENCE,
    LIMIT_MILLI,
    MAX_INSTANCES,
    MAX_STEP_OUT,
    MIN_INSTANCES,
    PARAMETERS,
    REQUEST_MILLI,
    SLO_MS,
    WINDOW_S,
    derive,
    forget,
    forget_forecast,
)
from dilu_core.kernels.policy_step import policy_step

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

GPU_S_RESERVED, GPU_S_BORROWED, LATE, COLD_STARTS, FLIPS, FIGURES = range(6)
"""Columns of the figures: GPU-seconds, requests above the SLO, instances launched, changes of direction."""

_ROUNDING = 1e-9  # as in `solvers.replay`: a latency of exactly the SLO meets it
_BEYOND_MEASURE = 1e12  # as in `dilu_core.coscaling.policy`


class Memory(NamedTuple):
    """Scratch of one replay: the policy's memory, and launches under way as a ring of steps of readiness and counts."""

    state: Floats
    samples: Floats
    peaks: Floats
    forecast: Floats
    season: Floats
    ready_at: Integers
    launched: Integers


@inlined
def _rate_at(share: int, slope: float, rates: Floats) -> float:
    """What one instance serves at `share` milli-GPU: by the table, or in proportion where that is empty."""
    return rates[share] if rates.shape[0] > 0 else share * slope


@inlined
def _share_for(wanted_rps: float, most: int, slope: float, rates: Floats) -> float:
    """The least share that serves `wanted_rps` > 0, at most `most` milli-GPU, between whole shares linearly."""
    if wanted_rps > _rate_at(most, slope, rates):
        return float(most)
    low, high = 0, most
    if rates.shape[0] == 0:  # a guess that rounding may put one off
        low = min(max(int(wanted_rps / slope) - 1, 0), most - 1)
        high = min(low + 3, most)
    while high - low > 1:
        middle = (low + high) // 2
        if _rate_at(middle, slope, rates) < wanted_rps:
            low = middle
        else:
            high = middle
    below = _rate_at(low, slope, rates)
    return low + (wanted_rps - below) / (_rate_at(high, slope, rates) - below)


@inlined
def _known(value: float) -> float:
    """`value`, or NaN where the policy would not believe it."""
    return value if 0.0 <= value < _BEYOND_MEASURE else math.nan


@compiled_in_place
def replay_one(
    params: Floats,
    arrivals: Floats,
    arrived: Floats,
    told_rps: Floats,
    spare_milli: Integers,
    first_look_rps: float,
    rates: Floats,
    step_s: float,
    per_control: int,
    initial: int,
    memory: Memory,
    figures: Floats,
) -> None:
    """Fill `figures` (FIGURES,) for a trace of n steps under the policy parameters `params` (a row of `policy_step`).

    `arrivals` (n,) requests per step and `arrived` (n + 1,) their running sum from 0; `told_rps` (periods,) mean rates
    of the control periods, each `per_control` steps; `spare_milli` (n,) what neighbours leave, empty: plenty; `rates`
    (limit + 1,) what an instance serves by share, empty: in proportion. The replay starts with `initial` instances, or
    where that is -1 with as many as `first_look_rps` needs.
    """
    request, limit = int(params[REQUEST_MILLI]), int(params[LIMIT_MILLI])
    slope, cold_steps = params[CAPACITY_RPS] / params[REQUEST_MILLI], int(params[COLD_STEPS])
    base_s = 0.0 if math.isnan(params[BASE_LATENCY_MS]) else params[BASE_LATENCY_MS] / 1000.0
    latest_ms = params[SLO_MS] * (1.0 + _ROUNDING)
    state, samples, peaks, forecast, season, ready_at, launched = memory
    ready, starting, room = initial, 0, ready_at.shape[0]
    if initial < 0:
        needed = math.ceil(min(first_look_rps / params[CAPACITY_RPS] - 1e-9, params[MAX_INSTANCES]))
        ready = int(min(max(float(needed), params[MIN_INSTANCES]), params[MAX_INSTANCES]))
    oldest, pending, last_change, flips, cold_starts, instance_steps = 0, 0, 0, 0, 0, 0
    steps, backlog, borrowed, late = arrivals.shape[0], 0.0, 0.0, 0.0
    left_before, left, asked, in_period, period, shares, most = 0.0, 0.0, 0, 0, 0, 0, limit
    forget(state)
    forget_forecast(forecast)
    for step in range(steps):
        while pending > 0 and ready_at[oldest] <= step:
            ready += launched[oldest]
            starting -= launched[oldest]
            oldest = oldest + 1 if oldest + 1 < room else 0
            pending -= 1
        if in_period == per_control:
            served_rps = min(told_rps[period], _rate_at(most, slope, rates) * ready)
            _, change, _, _ = policy_step(
                params,
                state,
                samples,
                peaks,
                forecast,
                season,
                step * step_s,
                _known(told_rps[period]),
                float(ready),
                float(starting),
                _known(backlog + served_rps * base_s),
                _known(shares / per_control - request),
                math.nan,
            )
            period, in_period, shares = period + 1, 0, 0
            if change * last_change < 0:
                flips += 1
            if change != 0:
                last_change = change
            if change > 0:
                cold_starts += change
                if cold_steps == 0:
                    ready += change
                else:
                    starting += change
                    at = oldest + pending
                    at = at - room if at >= room else at
                    ready_at[at], launched[at] = step + cold_steps, change
                    pending += 1
            while change < 0 and pending > 0:
                at = oldest + pending - 1
                at = at - room if at >= room else at
                given_up = min(-change, launched[at])
                launched[at] -= given_up
                starting -= given_up
                change += given_up
                if launched[at] == 0:
                    pending -= 1
            ready += min(change, 0)
        in_period += 1
        instance_steps += ready + starting
        if spare_milli.shape[0] > 0:
            most = request + min(spare_milli[step], limit - request)
        shares += most

        backlog += arrivals[step]
        if ready > 0 and backlog > 0.0:
            each_rps, fastest_rps = backlog / (ready * step_s), _rate_at(most, slope, rates)
            if each_rps > _rate_at(request, slope, rates):
                borrowed += max(_share_for(each_rps, most, slope, rates) - request, 0.0) * ready
            backlog = 0.0 if each_rps <= fastest_rps else backlog - fastest_rps * ready * step_s

        left_before, left = left, max(left, arrived[step + 1] - backlog)
        while asked < steps:  # requests, by the middle one of each step, that leave within this step
            number = 0.5 * (arrived[asked] + arrived[asked + 1])
            if number > left:
                break
            if arrivals[asked] > 0.0:
                leaves_s = (step + (number - left_before) / max(left - left_before, 1e-300)) * step_s
                wait_s = max(leaves_s - (asked + 0.5) * step_s, 0.0)
                if (wait_s + base_s) * 1000.0 > latest_ms:
                    late += arrivals[asked]
            asked += 1
    last_rps = (left - left_before) / step_s
    for step in range(asked, steps):  # those still waiting at the end, if the last step's service went on
        number = 0.5 * (arrived[step] + arrived[step + 1])
        wait_s = math.inf
        if last_rps > 0.0:
            wait_s = max(steps * step_s + (number - left) / last_rps - (step + 0.5) * step_s, 0.0)
        if (wait_s + base_s) * 1000.0 > latest_ms:
            late += arrivals[step]
    figures[GPU_S_RESERVED] = instance_steps * step_s * request / 1000.0
    figures[GPU_S_BORROWED] = borrowed * step_s / 1000.0
    figures[LATE] = late
    figures[COLD_STARTS] = cold_starts
    figures[FLIPS] = flips


def sample_problem(sets: int, seconds: tuple[int, ...], *, seed: int = 0) -> Any:
    """The arguments of `replay_pairs` but for the pairs and the figures: noisy loads in steps of 1 s, both rules.

    No figure of it is round, so that nothing hangs on the last bit: what a self-test needs.
    """
    random = np.random.default_rng(seed)
    traces = [40.0 * random.uniform(0.5, 1.5, each) + 30.0 * np.sin(np.arange(each) / 29.0) ** 2 for each in seconds]
    params = np.empty((sets, PARAMETERS))
    params[:, MAX_STEP_OUT : FROM_ZERO_S + 1] = (math.nan, math.nan, 0.0, 0.0)
    params[:, FORECASTS] = np.arange(sets) % 4  # all combinations
    params[:, LEAST_CONFIDENCE : LATE_WEIGHT + 1] = (0.6, 5.0, 3.0, 40.0, 0.0, 0.0)
    params[:, LATE_WEIGHT] = np.arange(sets) % 3 * 1.7
    params[params[:, LATE_WEIGHT] > 0.0, FORECASTS] += HOLD
    params[:, CAPACITY_RPS : COLD_STEPS + 1] = (
        *(9.7, 300.0, 600.0, 803.0, 101.0, 1.0, 40.0),  # the function and its bounds
        *(0.0, 1.2, 0.5, 2.0, 9.3, 60.0, 0.8, 7.0),  # the rule "co-scaling"
        *(40.0, 20.0, 30.0, 300.0, 600.0, 10.0),  # the rule "lazy", and the delays
    )
    params[:, IS_LAZY] = np.arange(sets) % 4 == 0
    params[:, LEAN] = np.linspace(1.0, 1.6, sets)
    params[:, WINDOW_S] = 20.0 + 7.0 * (np.arange(sets) % 9)
    derive(params)
    ends = np.cumsum([0, *seconds])
    return (
        params,
        ends,
        ends,
        np.concatenate(traces),
        np.concatenate([np.append(0.0, np.cumsum(each)) for each in traces]),
        np.concatenate(traces),
        random.integers(0, 400, int(ends[-1])),
        np.array([each[:10].mean() for each in traces]),
        np.empty(0),
        1.0,
        1,
        -1,
        40,
        2 * LAGS,
        12,
    )
