"""What a cluster replay tells: figures of the whole run and of each function, and the cluster over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.instances import InstanceKind
from dilu_core.result import SolveStats, Termination
from dilu_core.solvers.replay_measures import latencies_s

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ROUNDING = 1e-9  # relative; a latency of exactly the SLO meets it


@dataclass(frozen=True, eq=False)
class ClusterTimeline:
    """One row per control period, as read-only columns `(periods,)`.

    `time_s`: its start. `gpus`: GPUs that hold an instance. Of their capacity, `request_free` and `memory_free` are the
    parts that are not booked, `request_unneeded` the part that no instance needs and `idle` the part of the time nobody
    ran (see `ClusterReplayResult`). `instances` placed, `waiting` for a place. `arrivals` of requests in the period and
    how many of those are `late`.
    """

    time_s: Floats
    gpus: Integers
    request_free: Floats
    request_unneeded: Floats
    memory_free: Floats
    idle: Floats
    instances: Integers
    waiting: Integers
    arrivals: Floats
    late: Floats


@dataclass(frozen=True)
class FunctionOutcome:
    """What became of one function.

    `requests` arrived and `late` of them missed the SLO or were never answered. `trained_s` is what its training came
    to, in seconds of a whole GPU (a worker at the rate of a whole GPU for a second is one), `asked_s` what it would be
    on whole GPUs from arrival to departure. `cold_starts` counts instances launched after it was deployed, `refused`
    attempts that found no place. `configured` says whether the system found a quota for it at all.
    """

    name: str
    kind: InstanceKind
    requests: float
    late: float
    trained_s: float
    asked_s: float
    cold_starts: int
    refused: int
    configured: bool

    @property
    def violation_rate(self) -> float:
        """The late part of its requests; NaN without requests."""
        return self.late / self.requests if self.requests > 0.0 else math.nan


@dataclass(frozen=True, eq=False)
class ClusterReplayResult:
    """What a system did with a workload on a cluster.

    `gpu_seconds` counts GPUs that hold an instance, `gpus_peak` the most at a time. Over that GPU time,

        request_free      part of the SM share that no request books (the published fragmentation)
        request_unneeded  part beyond what the instances need: their requests, at most that of the most efficient
                          configuration. What a static quota or a whole GPU books beyond that counts as wasted here
        memory_free       part of the memory that no instance books
        idle              part of the SM time that nobody ran

    each 0 where no GPU was used. `borrowed_gpu_seconds` is what instances ran beyond their requests, `waiting_s` sums
    the seconds that instances waited for a place. `moves` counts running instances that went elsewhere.
    """

    system: str
    duration_s: float
    gpu_seconds: float
    gpus_peak: int
    request_free: float
    request_unneeded: float
    memory_free: float
    idle: float
    borrowed_gpu_seconds: float
    waiting_s: float
    moves: int
    functions: tuple[FunctionOutcome, ...]
    timeline: ClusterTimeline
    termination: Termination
    stats: SolveStats

    @property
    def gpus_mean(self) -> float:
        """GPUs in use on the mean."""
        return self.gpu_seconds / self.duration_s

    @property
    def requests(self) -> float:
        """Requests that arrived."""
        return math.fsum(each.requests for each in self.functions)

    @property
    def violation_rate(self) -> float:
        """The late part of all requests; NaN without requests."""
        return math.fsum(each.late for each in self.functions) / self.requests if self.requests > 0.0 else math.nan

    @property
    def mean_violation_rate(self) -> float:
        """The mean over functions that had requests, each counting alike; NaN without any."""
        rates = [each.violation_rate for each in self.functions if each.requests > 0.0]
        return math.fsum(rates) / len(rates) if rates else math.nan

    @property
    def goodput_per_gpu_hour(self) -> float:
        """Requests answered within their SLO per hour of a GPU in use."""
        good = self.requests - math.fsum(each.late for each in self.functions)
        return good / (self.gpu_seconds / 3600.0) if self.gpu_seconds > 0.0 else 0.0

    @property
    def training_per_gpu(self) -> float:
        """Training done, in seconds of a whole GPU, per second of a GPU in use (whatever else it ran)."""
        done = math.fsum(each.trained_s for each in self.functions)
        return done / self.gpu_seconds if self.gpu_seconds > 0.0 else 0.0

    @property
    def training_speed(self) -> float:
        """Training done over what whole GPUs would have done from arrival to departure; NaN without training."""
        asked = math.fsum(each.asked_s for each in self.functions)
        return math.fsum(each.trained_s for each in self.functions) / asked if asked > 0.0 else math.nan

    @property
    def cold_starts(self) -> int:
        """Instances launched after their function was deployed."""
        return sum(each.cold_starts for each in self.functions)

    @property
    def unconfigured(self) -> tuple[str, ...]:
        """Functions for which the system found no quota."""
        return tuple(each.name for each in self.functions if not each.configured)


def late_requests(
    arrivals: Floats, served: Floats, execution_ms: Floats, step_s: float, slo_ms: float, *, cut_off: bool
) -> Floats:
    """Requests of each step `(steps,)` that miss the SLO: first in, first out, wait plus execution when it leaves.

    What still waits at the end is taken to be served at the rate of the last step, or never where that is 0 or, with
    `cut_off`, because the function has left.
    """
    if not arrivals.size:
        return np.zeros(0)
    came, gone = np.cumsum(arrivals), float(served.sum())
    latency_s = latencies_s(arrivals, np.maximum(came - np.cumsum(served), 0.0), execution_ms / 1000.0, step_s)
    if cut_off:
        latency_s[came - 0.5 * arrivals > gone * (1.0 + _ROUNDING)] = np.inf
    return np.where(1000.0 * latency_s > slo_ms * (1.0 + _ROUNDING), arrivals, 0.0)
