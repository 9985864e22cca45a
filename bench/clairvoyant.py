"""A scaler that knows the load before it comes: what reacting, however well, can hardly undercut."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason
from dilu_core.traces import ArrivalTrace

COLD_START_S = 10.0
_SMOOTHED_S = 3  # bursts shorter than that are left to the queue


@dataclass(frozen=True)
class NoMemory:
    """It needs none: it knows the future."""


class Clairvoyant:
    """Just the instances that the greatest load of the next cold start needs, at `lean` times their capacity.

    Loads are 3 s means. `lean` above 1 counts on share borrowed beyond the request. Instances go as soon as they are
    not needed until a new one could be there. For traces in periods of 1 s.
    """

    def __init__(self, params: HorizontalParams, *, trace: ArrivalTrace, lean: float) -> None:
        ahead = math.ceil(COLD_START_S) + 1
        smoothed = np.convolve(trace.rates_rps, np.full(_SMOOTHED_S, 1.0 / _SMOOTHED_S), "same")
        coming = np.concatenate((smoothed, np.full(ahead, smoothed[-1])))
        greatest = np.lib.stride_tricks.sliding_window_view(coming, ahead + 1).max(axis=1)
        needed = np.ceil(greatest / (params.capacity_rps * lean) - 1e-9).astype(int)
        self._needed = np.clip(needed, params.min_instances, params.max_instances)

    def initial_state(self) -> NoMemory:
        return NoMemory()

    def decide(self, state: NoMemory, seen: Observation) -> tuple[ScalingDecision, NoMemory]:
        second = min(int(seen.time_s or 0.0), self._needed.size - 1)
        wanted = int(self._needed[second])
        return ScalingDecision(wanted, wanted - (seen.ready or 0) - (seen.starting or 0), ScalingReason.LOAD), state
