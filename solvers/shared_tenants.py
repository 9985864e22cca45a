"""A function among others on shared GPUs: its parameters, load, policy, and how fast it is at every share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core._checks import choice, fail, flag, float_column, integer, share_milli, text
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Policy
from dilu_core.performance import LatencyModel
from dilu_core.solvers.replay_results import Clock
from dilu_core.solvers.replay_setup import check_function, clock, rate_table
from dilu_core.traces import ArrivalTrace
from dilu_core.units import FULL_GPU_MILLI

Floats = NDArray[np.float64]

KINDS = ("inference", "training")
"""Kinds of tenants."""


@dataclass(frozen=True, eq=False)
class ReplayTenant:
    """One function of a shared replay.

    An inference tenant has a `trace` of arrivals and a horizontal `policy`, and starts with `instances` ready ones (by
    default as many as its first seconds need). A training tenant has neither: its `instances` workers (one by default)
    run throughout, best effort, and with `gang` advance together at the pace of the slowest.

    `params` gives the shares, the SLO and the cold start. `rate_rps` is what one instance serves per second (training:
    the samples of one worker) by share: a function of milli-GPU or a table `(limit_milli + 1,)` from share 0; the
    default is proportional to the share. `execution_ms`, of the same forms, is how long a batch takes; the default is
    the base latency of `params`. `batch_tables` gives both from a fitted model.
    """

    name: str
    params: HorizontalParams
    trace: ArrivalTrace | None = None
    policy: Policy[Any] | None = None
    _: KW_ONLY
    kind: str = "inference"
    rate_rps: Callable[[int], float] | ArrayLike | None = None
    execution_ms: Callable[[int], float] | ArrayLike | None = None
    instances: int | None = None
    gang: bool = False
    rates: Floats = field(init=False, repr=False)
    """What one instance serves at every share from 0 to 1000, `(1001,)`."""
    executions: Floats = field(init=False, repr=False)
    """How long a batch takes at every share from 0 to 1000, in ms `(1001,)`; at share 0 as at share 1."""

    def __post_init__(self) -> None:
        text("name", self.name)
        choice("kind", self.kind, KINDS)
        if self.trains:
            if self.trace is not None or self.policy is not None:
                fail("trace", "and policy must be None for training, whose workers run throughout.")
            if not isinstance(self.params, HorizontalParams):
                fail("params", f"is {self.params!r:.80}; expected HorizontalParams.")
        else:
            check_function(self.trace, self.policy, self.params)
        if self.instances is not None:
            object.__setattr__(self, "instances", integer("instances", self.instances, at_least=int(self.trains)))
        if flag("gang", self.gang) and not self.trains:
            fail("gang", "is for the workers of training; an inference instance on several GPUs is not replayed here.")
        object.__setattr__(self, "rates", _widened(rate_table(self.rate_rps, self.params)))
        object.__setattr__(self, "executions", _widened(_execution_table(self.execution_ms, self.params)))

    @property
    def trains(self) -> bool:
        """Whether it is a training tenant."""
        return self.kind == "training"


def batch_tables(model: LatencyModel, batch: int, limit_milli: int) -> tuple[Floats, Floats]:
    """`rate_rps` and `execution_ms` of a tenant that runs batches of `batch`, from a fitted latency `model`.

    Two tables `(limit_milli + 1,)` by share: batch / latency (0 at share 0), and the latency in ms.
    """
    batch, limit = integer("batch", batch, at_least=1), share_milli("limit_milli", limit_milli)
    if not isinstance(model, LatencyModel):
        fail("model", f"is {model!r:.80}; expected something with latency_ms(batch, sm_milli), such as a LatencyFit.")
    execution_ms = np.asarray(model.latency_ms(batch, np.arange(1, limit + 1)), dtype=np.float64)
    rates = np.maximum.accumulate(1000.0 * batch / execution_ms)  # a model may dip by a rounding
    return np.concatenate(([0.0], rates)), np.concatenate((execution_ms[:1], execution_ms))


def _execution_table(execution_ms: Callable[[int], float] | ArrayLike | None, params: HorizontalParams) -> Floats:
    shares = params.limit_milli + 1
    if execution_ms is None:
        return np.full(shares, params.base_latency_ms or 0.0)
    if callable(execution_ms):
        execution_ms = [execution_ms(max(share, 1)) for share in range(shares)]
    table = float_column("execution_ms", execution_ms).copy()
    if table.size != shares:
        fail("execution_ms", f"has {table.size} entries; expected {shares}, for every share from 0 to limit_milli.")
    table[0] = table[1]
    if not np.isfinite(table).all() or (table < 0.0).any():
        fail("execution_ms", "must be finite and at least 0 at every share from 1 to limit_milli.")
    return table


def _widened(table: Floats) -> Floats:
    """`table` up to a whole GPU; beyond the limit nothing changes."""
    return np.concatenate((table, np.full(FULL_GPU_MILLI + 1 - table.size, table[-1])))


def loads_of(tenants: tuple[ReplayTenant, ...], step_s: float, control_s: float) -> tuple[Clock, Floats, int]:
    """The clock, the requests of every tenant per step `(tenants, steps)`, and the steps in a control period."""
    traced = [(f"tenants[{i}].trace", each.trace) for i, each in enumerate(tenants) if each.trace is not None]
    if not traced:
        fail("tenants", "has no inference tenant, so that nothing says how long to replay. Add one, if with no load.")
    duration_s = traced[0][1].duration_s
    for name, trace in traced:
        if abs(trace.duration_s - duration_s) > 1e-9 * duration_s:
            fail(name, f"covers {trace.duration_s:g} s and {traced[0][0]} {duration_s:g} s. Slice them alike.")
    step_s, per_control = clock(traced[0][1], step_s, control_s, tables=len(tenants))
    loads = [None if each.trace is None else each.trace.resampled(step_s).rates_rps * step_s for each in tenants]
    steps = max(each.size for each in loads if each is not None)
    arrivals = np.zeros((len(tenants), steps))
    for row, load in zip(arrivals, loads, strict=True):
        if load is not None:
            row[: load.size] = load
    return Clock(step_s, steps, np.arange(0, steps, per_control)), arrivals, per_control
