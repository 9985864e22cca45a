"""Replays of many parameter sets on many traces on the CPU: the walk over the pairs, on one core per call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled
from dilu_core.kernels.policy_columns import FORECAST, MOST_PEAKS, STATE
from dilu_core.kernels.policy_replay import Memory, replay_one

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@compiled
def replay_pairs(
    first_pair: int,
    stop_pair: int,
    params: Floats,
    first: Integers,
    first_period: Integers,
    arrivals: Floats,
    arrived: Floats,
    told_rps: Floats,
    spare_milli: Integers,
    first_look_rps: Floats,
    rates: Floats,
    step_s: float,
    per_control: int,
    initial: int,
    samples: int,
    season: int,
    launches: int,
    figures: Floats,
) -> None:
    """Fill rows `first_pair` to `stop_pair` of `figures` (T P, FIGURES): pair t P + p is trace t under set p.

    `params` (P, PARAMETERS); of T traces one after the other, trace t has the steps `first[t]:first[t + 1]` of
    `arrivals` and `spare_milli` (all steps, or empty), as many entries and one more of `arrived`, and the periods
    `first_period[t]:first_period[t + 1]` of `told_rps`. The rest is as in `replay_one`; `samples`, `season`
    and `launches` are the room that the policy's samples and forecasts and the launches under way need at most.
    """
    memory = Memory(
        np.empty(STATE),
        np.empty(samples),
        np.empty(MOST_PEAKS),
        np.empty(FORECAST),
        np.empty(season),
        np.empty(launches, np.int64),
        np.empty(launches, np.int64),
    )
    sets = params.shape[0]
    for pair in range(first_pair, stop_pair):
        t = pair // sets
        low, high = first[t], first[t + 1]
        replay_one(
            params[pair - t * sets],
            arrivals[low:high],
            arrived[low + t : high + t + 1],
            told_rps[first_period[t] : first_period[t + 1]],
            spare_milli[low:high],
            float(first_look_rps[t]),
            rates,
            step_s,
            per_control,
            initial,
            memory,
            figures[pair],
        )
