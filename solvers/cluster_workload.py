"""What a cluster replay is about: functions that arrive, serve their load or train, and leave."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.instances import INSTANCE_KINDS, MOST_GPUS_PER_NODE, InstanceKind, mib
from dilu_core.performance import LatencyModel
from dilu_core.quota import QuotaConfig, QuotaGrid
from dilu_core.traces import ArrivalTrace
from dilu_core.units import FULL_GPU_MILLI

EXEC_FRACTION = 0.5
"""The part of the SLO that a batch may execute; the rest is for waiting."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClusterFunction:
    """One function of the workload.

    Arguments:
        name: distinct within a workload.
        kind: `"inference"`, `"llm-inference"` or `"training"`.
        model: latency of a batch (training: of a step of one worker) over batch and share. It is the truth of the
            replay and known to the systems, so that none is better informed than another.
        grid: batches and shares that a quota may be chosen from. Training has to give one, of the batch of its steps.
        memory_mib: of one instance, or of each GPU of a training gang.
        slo_ms: latency objective of a request (not for training).
        trace: its arrivals, from `arrives_s` on (not for training); none once it is over.
        arrives_s, leaves_s: when it is deployed and taken away; `None` for staying to the end.
        gpus: GPUs of a training gang, all on one node.
        splittable: its memory may be divided over GPUs of one node (not for training).
        cold_start_s: seconds from launch to ready.
    Raises `InvalidArgumentError` naming the first argument that breaks these rules.
    """

    name: str
    kind: InstanceKind
    model: LatencyModel
    memory_mib: int
    grid: QuotaGrid = field(default_factory=lambda: QuotaGrid.regular(32, 50))
    slo_ms: float | None = None
    trace: ArrivalTrace | None = None
    arrives_s: float = 0.0
    leaves_s: float | None = None
    gpus: int = 1
    splittable: bool = False
    cold_start_s: float = 10.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        check.text("name", self.name)
        check.choice("kind", self.kind, INSTANCE_KINDS)
        if not isinstance(self.model, LatencyModel):
            check.fail("model", f"is {self.model!r:.80}; expected an object with latency_ms(batch, sm_milli).")
        if not isinstance(self.grid, QuotaGrid):
            check.fail("grid", f"is {self.grid!r:.80}; expected a QuotaGrid.")
        put(self, "memory_mib", mib("memory_mib", self.memory_mib))
        put(self, "arrives_s", check.finite("arrives_s", self.arrives_s, at_least=0.0))
        if self.leaves_s is not None:
            put(self, "leaves_s", check.finite("leaves_s", self.leaves_s, above=self.arrives_s))
        put(self, "gpus", check.integer("gpus", self.gpus, at_least=1, at_most=MOST_GPUS_PER_NODE))
        check.flag("splittable", self.splittable)
        put(self, "cold_start_s", check.finite("cold_start_s", self.cold_start_s, at_least=0.0))
        if self.is_training:
            self._check_training()
        else:
            self._check_serving()

    @property
    def is_training(self) -> bool:
        return self.kind == "training"

    @property
    def budget_ms(self) -> float:
        """What a batch may execute; infinite for training."""
        return np.inf if self.slo_ms is None else EXEC_FRACTION * self.slo_ms

    @property
    def full_rate(self) -> float:
        """Samples per second of one training worker on a whole GPU; for inference, requests at the largest batch."""
        batch = self.grid.batches[-1]
        return 1000.0 * batch / float(self.model.latency_ms(batch, FULL_GPU_MILLI))

    def configuration(self, batch: int, request_milli: int, limit_milli: int) -> QuotaConfig:
        """The quota configuration with what the model predicts for it."""
        latency_ms = float(self.model.latency_ms(batch, request_milli))
        rps = 1000.0 * batch / latency_ms
        return QuotaConfig(batch, request_milli, limit_milli, latency_ms, rps, rps * FULL_GPU_MILLI / request_milli)

    def tables(self, batch: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What one instance serves per second, and the time of a batch in ms, at shares 0 to 1000: `(1001,)` each."""
        execution = np.empty(FULL_GPU_MILLI + 1)
        execution[1:] = self.model.latency_ms(batch, np.arange(1, FULL_GPU_MILLI + 1))
        execution[0] = execution[1]
        rates = np.zeros(FULL_GPU_MILLI + 1)
        rates[1:] = np.maximum.accumulate(1000.0 * batch / execution[1:])
        return rates, execution

    def _check_training(self) -> None:
        if len(self.grid.batches) != 1:
            check.fail("grid", f"has {len(self.grid.batches)} batches; training has one, that of its steps.")
        if self.slo_ms is not None or self.trace is not None:
            given = "slo_ms" if self.slo_ms is not None else "trace"
            check.fail(given, f"is given for the training function {self.name!r}; only inference has one.")
        if self.splittable:
            check.fail("splittable", f"is set for the training function {self.name!r}; a gang uses `gpus` instead.")

    def _check_serving(self) -> None:
        if self.slo_ms is None:
            check.fail("slo_ms", f"of the {self.kind} function {self.name!r} is missing; expected milliseconds.")
        object.__setattr__(self, "slo_ms", check.finite("slo_ms", self.slo_ms, above=0.0))
        if not isinstance(self.trace, ArrivalTrace):
            check.fail("trace", f"is {self.trace!r:.80}; expected the ArrivalTrace of the function {self.name!r}.")
        if self.gpus != 1:
            check.fail(
                "gpus", f"is {self.gpus} for the {self.kind} function {self.name!r}; only training takes a gang."
            )
