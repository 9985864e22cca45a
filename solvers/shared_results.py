"""What a replay of shared GPUs reports: per inference tenant, per training tenant, and per GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.result import SolveStats, Termination
from dilu_core.solvers.replay_results import ReplayResult

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainingReplay:
    """What sharing did to a training tenant.

    `throughput_rps` is the mean rate of samples over all its workers, `alone_rps` what the same workers on the same
    GPUs reach without neighbours, `loss` the part of that which is missing (NaN where it is 0). `rates_rps` is the
    throughput of every control period `(periods,)`; the GPU-seconds are as in `ReplayResult`.
    """

    samples: float
    throughput_rps: float
    alone_rps: float
    loss: float
    gpu_seconds: float
    reserved_gpu_seconds: float
    borrowed_gpu_seconds: float
    rates_rps: Floats


@dataclass(frozen=True, eq=False)
class SharedReplayResult:
    """What the policies did with their traces on the shared GPUs.

    `functions` holds the `ReplayResult` of every inference tenant by name, `training` the `TrainingReplay` of every
    training tenant, `refused` the launches of each tenant for which no GPU had room. Per control period, starting at
    `time_s` `(periods,)`: `gpu_used_milli` `(periods, gpus)`, the mean share in use on each GPU, and `gpu_booked_milli`
    of the same shape, the requests booked on it.
    """

    functions: Mapping[str, ReplayResult]
    training: Mapping[str, TrainingReplay]
    refused: Mapping[str, int]
    time_s: Floats
    gpu_used_milli: Floats
    gpu_booked_milli: Integers
    termination: Termination
    stats: SolveStats

    @property
    def gpu_seconds(self) -> float:
        """Of all tenants together."""
        inference = sum(each.gpu_seconds for each in self.functions.values())
        return inference + sum(each.gpu_seconds for each in self.training.values())
