"""The vertical policy of thousands of GPUs in one compiled call: columns of instances in, shares in milli-GPU out.

Grants are those of `coscaling.vertical.VerticalScaler`, GPU by GPU and to the unit; that is the reference to read. The
state goes by the ids of instances, so that they may come, go and change places among the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core._checks import LARGEST, fail, float_column, int_column, integer, read_only, restore
from dilu_core.coscaling.gpu import KINDS, MOST_WEIGHT
from dilu_core.coscaling.grants import VerticalMode
from dilu_core.coscaling.policy import expect
from dilu_core.coscaling.vertical_params import VerticalParams
from dilu_core.kernels.cpu import vertical as kernel
from dilu_core.kernels.cpu.sharing import INDEX_BITS
from dilu_core.kernels.cpu.vertical import vertical_period
from dilu_core.solvers.batch_vertical_state import BatchVerticalState
from dilu_core.units import FULL_GPU_MILLI

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MODES = (VerticalMode.EMERGENCY, VerticalMode.CONTENTION, VerticalMode.RECOVERY)
"""What the numbers in `BatchGrants.mode` stand for."""

_MOST_GPUS = 10**6


class SharedGpus:
    """Who shares which GPU: the columns of n instances, checked and sorted once, for as long as nobody comes or goes.

    Parameters
    ----------
    gpu
        (n,) the GPU of each instance, from 0.
    kind
        (n,) of names in `KINDS`, or of their positions.
    request_milli, limit_milli
        (n,) shares, as in `GpuInstance`.
    weight, solo_cycle_ms
        (n,) as in `GpuInstance`; `None`: the request, and not known (as is NaN among the cycles).
    ids
        (n,) distinct integers by which the state remembers instances from one set of columns to the next; `None`: the
        rows, and then a row that changes hands inherits a baseline.
    gpus
        How many there are; `None`: as many as `gpu` mentions.

    At most 2^20 instances and 10^6 GPUs. Raises `InvalidArgumentError` naming the argument and the element.
    """

    def __init__(
        self,
        gpu: ArrayLike,
        kind: ArrayLike | Iterable[str],
        request_milli: ArrayLike,
        limit_milli: ArrayLike,
        *,
        weight: ArrayLike | None = None,
        solo_cycle_ms: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        gpus: int | None = None,
    ) -> None:
        self.gpu = int_column("gpu", gpu, at_least=0, at_most=_MOST_GPUS - 1)
        n = self.gpu.size
        if n > 1 << INDEX_BITS:
            fail("gpu", f"has {n} elements; expected at most {1 << INDEX_BITS} instances.")
        reached = int(self.gpu.max()) + 1 if n else 0
        self.gpus = reached if gpus is None else integer("gpus", gpus, at_least=reached, at_most=_MOST_GPUS)
        self.kind = _kinds(kind, n)
        self.request_milli = _column("request_milli", request_milli, n, 1, FULL_GPU_MILLI)
        self.limit_milli = _column("limit_milli", limit_milli, n, 1, FULL_GPU_MILLI)
        below = self.limit_milli < self.request_milli
        if below.any():
            i = int(np.argmax(below))
            fail(
                f"limit_milli[{i}]",
                f"is {self.limit_milli[i]}; expected at least request_milli[{i}], {self.request_milli[i]}.",
            )
        self.weight = self.request_milli if weight is None else _column("weight", weight, n, 1, MOST_WEIGHT)
        self.ids = read_only(np.arange(n)) if ids is None else _column("ids", ids, n, -LARGEST, LARGEST)
        if np.unique(self.ids).size < n:
            fail("ids", "are not distinct; expected each instance once.")
        solo = _readings("solo_cycle_ms", solo_cycle_ms, n)
        if (solo <= 0.0).any():
            i = int(np.argmax(solo <= 0.0))
            fail(f"solo_cycle_ms[{i}]", f"is {solo[i]}; expected a cycle above 0, or NaN.")
        self.solo_cycle_ms = read_only(np.where(np.isnan(solo), np.inf, solo))
        self.order = read_only(np.argsort(self.gpu, kind="stable"))
        self.starts = read_only(np.searchsorted(self.gpu[self.order], np.arange(self.gpus + 1)))

    def __len__(self) -> int:
        return self.gpu.size


@dataclass(frozen=True)
class BatchGrants:
    """The grants of one period: columns (n,) by instance and (gpus,) by GPU, read-only.

    `milli` are the shares, `headroom` what an SLO instance could have borrowed beyond its request (0 for best effort),
    `mode` positions in `MODES`, `best_effort_cap_milli`, `inflation` (NaN: not known), `oversold` and `relieved` as in
    `Grants`.
    """

    milli: Ints
    headroom: Ints
    mode: Ints
    best_effort_cap_milli: Ints
    inflation: Floats
    oversold: Flags
    relieved: Flags

    def __setstate__(self, state: dict[str, object]) -> None:
        restore(self, state)


class BatchVerticalScaler:
    """`VerticalScaler` on columns: pure and deterministic."""

    def __init__(self, params: VerticalParams | None = None) -> None:
        if params is not None and not isinstance(params, VerticalParams):
            fail("params", f"is {params!r:.80}; expected VerticalParams.")
        self.params = params or VerticalParams()
        self._row = np.zeros(kernel.PARAMETERS)
        for position, name in enumerate(_NAMES):
            self._row[position] = getattr(self.params, name)

    def __repr__(self) -> str:
        return f"BatchVerticalScaler({self.params!r})"

    def initial_state(self) -> BatchVerticalState:
        """No GPU seen yet."""
        return BatchVerticalState()

    def decide(
        self,
        state: BatchVerticalState,
        shared: SharedGpus,
        demand_milli: ArrayLike | None = None,
        cycle_ms: ArrayLike | None = None,
    ) -> tuple[BatchGrants, BatchVerticalState]:
        """The grants for this period and the state to pass with the next one.

        `demand_milli` and `cycle_ms` (n,) are the measurements of `GpuInstance`, in the rows of `shared`; NaN, and what
        no sensor can have meant, is "not known", as is `None` for all. GPUs that `state` knows and `shared` does not
        reach are decided as empty ones. Raises `InvalidArgumentError` for columns that are not of n numbers, and for a
        `state` or `shared` of another type.
        """
        expect("state", state, BatchVerticalState)
        expect("shared", shared, SharedGpus)
        n = len(shared)
        demand, cycle = _readings("demand_milli", demand_milli, n), _readings("cycle_ms", cycle_ms, n)
        cap, period, owed = state.of_gpus(shared.gpus)
        gpus, baselines, starts = cap.size, state.baselines_of(shared.ids, shared.gpu), shared.starts
        if gpus > shared.gpus:
            starts = read_only(np.pad(starts, (0, gpus - shared.gpus), mode="edge"))
        grants = BatchGrants(
            milli=np.empty(n, np.int64),
            headroom=np.empty(n, np.int64),
            mode=np.empty(gpus, np.int64),
            best_effort_cap_milli=np.empty(gpus, np.int64),
            inflation=np.empty(gpus),
            oversold=np.empty(gpus, np.bool_),
            relieved=np.empty(gpus, np.bool_),
        )
        vertical_period(
            self._row,
            starts,
            shared.order,
            shared.kind,
            shared.request_milli,
            shared.limit_milli,
            shared.weight,
            shared.solo_cycle_ms,
            demand,
            cycle,
            baselines,
            cap,
            period,
            owed,
            grants.milli,
            grants.headroom,
            grants.mode,
            grants.best_effort_cap_milli,
            grants.inflation,
            grants.oversold,
            grants.relieved,
        )
        for column in vars(grants).values():
            column.setflags(write=False)
        return grants, BatchVerticalState(shared.ids, shared.gpu, baselines, cap, period, owed)


def spare_by_function(periods: Sequence[BatchGrants], function_of: ArrayLike) -> Floats:
    """(functions,) `Observation.spare_milli` of every function, from the grants of, say, one second of periods.

    `function_of` (n,) is the function of each row, from 0, or -1 for rows that none should hear of (best effort); the
    rows must have stood for the same instances in all periods. The mean of `BatchGrants.headroom` over periods and
    instances; NaN for a function without rows or where `periods` is empty, which means "not known".
    """
    for i, grants in enumerate(periods):
        if not isinstance(grants, BatchGrants):
            fail(f"periods[{i}]", f"is {grants!r:.80}; expected BatchGrants.")
    function = int_column("function_of", function_of, at_least=-1, at_most=LARGEST)
    if any(grants.headroom.size != function.size for grants in periods):
        fail("function_of", f"has {function.size} elements; expected one for each row of `periods`.")
    listed = function >= 0
    counts = np.bincount(function[listed])
    if not periods:
        return np.full(counts.size, np.nan)
    mean = np.mean([grants.headroom for grants in periods], axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(function[listed], mean[listed]) / counts)


def _kinds(kind: ArrayLike | Iterable[str], n: int) -> Ints:
    names = np.asarray(kind if isinstance(kind, np.ndarray | str) or not isinstance(kind, Iterable) else list(kind))
    if names.dtype.kind != "U":
        return _column("kind", names, n, 0, len(KINDS) - 1)
    positions = np.full(names.shape, -1)
    for position, name in enumerate(KINDS):
        positions[names == name] = position
    if (positions < 0).any():
        i = int(np.argmax(positions < 0))
        fail(f"kind[{i}]", f"is {str(names.flat[i])!r}; expected one of {', '.join(KINDS)}.")
    return _column("kind", positions, n, 0, len(KINDS) - 1)


def _column(argument: str, values: ArrayLike, n: int, at_least: int, at_most: int) -> Ints:
    column = int_column(argument, values, at_least=at_least, at_most=at_most)
    if column.size != n:
        fail(argument, f"has {column.size} elements; expected {n}, one for each in `gpu`.")
    return column


def _readings(argument: str, values: ArrayLike | None, n: int) -> Floats:
    """`values` as n floats of any worth, read-only and contiguous: what the kernel is compiled for, and no other."""
    if values is None:
        column = np.full(n, np.nan)
    elif type(values) is np.ndarray and values.dtype == np.float64 and values.ndim == 1:
        column = np.ascontiguousarray(values).view()
    else:
        column = float_column(argument, values)
    if column.size != n:
        fail(argument, f"has {column.size} elements; expected {n}, one for each instance.")
    column.setflags(write=False)
    return column


_NAMES = (
    "emergency_ratio", "llm_emergency_ratio", "recovery_ratio", "greatest_cut", "recovery_every", "recovery_growth",
    "baseline_fall", "baseline_rise", "starvation_share", "most_owed_milli",
)  # fmt: skip
