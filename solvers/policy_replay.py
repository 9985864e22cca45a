"""Replays of many parameter sets of the horizontal policy on many traces: `solvers.replay`, a thousand times as fast.

The policy's step is compiled into the replay (`kernels.policy_replay`), so only `CoScaler` can be replayed here; any
other policy, and the timeline of a single run, is the business of `replay`, which gives the same figures.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core._checks import LARGEST, fail, instances_of, read_only, restore
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.kernels import policy_columns as step
from dilu_core.kernels import policy_replay as kernel
from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu.policy_replay import replay_pairs
from dilu_core.result import SolveStats
from dilu_core.solvers.backends import resolved, stats_of
from dilu_core.solvers.replay_setup import (
    check_spares,
    clock,
    first_look_rps,
    given_count,
    rate_table,
    spare_steps,
)
from dilu_core.traces import ArrivalTrace

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CHUNK_STEPS = 2_000_000  # steps per task: some ten milliseconds, far more than it costs to hand over

_FIELDS = {
    "capacity_rps": step.CAPACITY_RPS,
    "request_milli": step.REQUEST_MILLI,
    "limit_milli": step.LIMIT_MILLI,
    "slo_ms": step.SLO_MS,
    "base_latency_ms": step.BASE_LATENCY_MS,
    "min_instances": step.MIN_INSTANCES,
    "max_instances": step.MAX_INSTANCES,
    "lean": step.LEAN,
    "spare_trust": step.SPARE_TRUST,
    "short_s": step.SHORT_S,
    "clear_s": step.CLEAR_S,
    "window_s": step.WINDOW_S,
    "scale_in_load": step.SCALE_IN_LOAD,
    "scale_in_cooldown_s": step.COOLDOWN_S,
    "lazy_samples": step.LAZY_SAMPLES,
    "lazy_out": step.LAZY_OUT,
    "lazy_in": step.LAZY_IN,
    "zero_delay_s": step.ZERO_DELAY_S,
    "stale_after_s": step.STALE_AFTER_S,
    "cold_start_s": step.COLD_STEPS,
    "max_step_out": step.MAX_STEP_OUT,
    "max_step_in": step.MAX_STEP_IN,
    "scale_out_cooldown_s": step.OUT_COOLDOWN_S,
    "from_zero_delay_s": step.FROM_ZERO_S,
    "least_confidence": step.LEAST_CONFIDENCE,
    "late_weight": step.LATE_WEIGHT,
    "bucket_s": step.BUCKET_S,
}


@dataclass(frozen=True, eq=False)
class ReplayFigures:
    """What every parameter set did with every trace: read-only columns `(traces, sets)`, as in `ReplayResult`.

    `gpu_seconds` is `reserved_gpu_seconds` plus `borrowed_gpu_seconds`; `violation_rate` is NaN without an SLO or
    without requests.
    """

    gpu_seconds: Floats
    reserved_gpu_seconds: Floats
    borrowed_gpu_seconds: Floats
    violation_rate: Floats
    cold_starts: Integers
    direction_flips: Integers
    stats: SolveStats

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore after pickling, which forgets that the columns are read-only."""
        restore(self, state)


def replay_many(
    traces: ArrivalTrace | Iterable[ArrivalTrace],
    params_list: HorizontalParams | Iterable[HorizontalParams],
    *,
    spare_milli: Sequence[float | ArrayLike | None] | None = None,
    rate_rps: Callable[[int], float] | ArrayLike | None = None,
    initial_instances: int | None = None,
    step_s: float = 0.1,
    control_s: float = 1.0,
    backend: str = "auto",
) -> ReplayFigures:
    """`replay(trace, CoScaler(params), params, ...)` for every trace and every parameter set.

    `spare_milli` gives, for each trace, what `replay` takes by that name; `rate_rps` holds for all sets, and as a table
    only for sets of one limit. The other arguments are those of `replay`. The figures are those of `replay` up to the
    rounding of sums. On the CPU the pairs are spread over the cores; on a GPU each is one thread, whose arithmetic may
    contract a product and a sum: what rounding decides, such as a request that waits exactly its SLO, may differ there.

    Raises `InvalidArgumentError` naming the argument; `BackendUnavailableError` for a back end that cannot run here.
    """
    started = time.perf_counter()
    every = instances_of("traces", [traces] if isinstance(traces, ArrivalTrace) else traces, ArrivalTrace)
    sets = [params_list] if isinstance(params_list, HorizontalParams) else params_list
    checked = instances_of("params_list", sets, HorizontalParams)
    problem = _problem(every, checked, spare_milli, rate_rps, initial_instances, step_s, control_s)
    steps = int(problem.first[-1]) * len(checked)
    ran_on = resolved(backend, "replays", steps)
    figures = np.empty((len(every) * len(checked), kernel.FIGURES))
    record = _run(ran_on, problem, figures)
    columns = figures.reshape(len(every), len(checked), kernel.FIGURES)
    reserved, borrowed = columns[:, :, kernel.GPU_S_RESERVED], columns[:, :, kernel.GPU_S_BORROWED]
    counts = {"replays": figures.shape[0], "steps": steps}
    return ReplayFigures(
        gpu_seconds=read_only(reserved + borrowed),
        reserved_gpu_seconds=read_only(reserved.copy()),
        borrowed_gpu_seconds=read_only(borrowed.copy()),
        violation_rate=read_only(_late_part(columns[:, :, kernel.LATE], problem)),
        cold_starts=read_only(columns[:, :, kernel.COLD_STARTS].astype(np.int64)),
        direction_flips=read_only(columns[:, :, kernel.FLIPS].astype(np.int64)),
        stats=stats_of(record, time.perf_counter() - started, counts),
    )


def parameter_rows(params_list: Sequence[HorizontalParams], step_s: float) -> Floats:
    """The parameter sets as rows `(sets, PARAMETERS)` of `kernels.policy_step`; what is not known is NaN."""
    rows = np.empty((len(params_list), step.PARAMETERS))
    values = np.array([_FIGURES_OF(params) for params in params_list], dtype=np.float64)  # None becomes NaN
    rows[:, list(_FIELDS.values())] = values.reshape(len(params_list), len(_FIELDS))
    rows[:, step.IS_LAZY] = [params.rule == "lazy" for params in params_list]
    rows[:, step.COLD_STEPS] = np.ceil(np.minimum(rows[:, step.COLD_STEPS] / step_s, LARGEST) - 1e-9)
    lags = np.array([params.lags for params in params_list], dtype=np.float64).reshape(len(params_list), 2)
    rows[:, step.FIRST_LAG], rows[:, step.LAST_LAG] = lags[:, 0], lags[:, 1]
    rows[:, step.KNOWN_PERIOD] = [params.period_s is not None for params in params_list]
    rows[:, step.FORECASTS] = [step.FORECASTS_BY_NAME[params.predict] for params in params_list]
    rows[rows[:, step.LATE_WEIGHT] > 0.0, step.FORECASTS] += step.HOLD
    rows[rows[:, step.IS_LAZY] > 0.0, step.FORECASTS] = 0.0
    step.derive(rows)
    return rows


_FIGURES_OF = attrgetter(*_FIELDS)


class ReplayProblem(NamedTuple):
    """The columns that the kernels take, in the order of `replay_pairs`."""

    params: Floats
    first: Integers
    first_period: Integers
    arrivals: Floats
    arrived: Floats
    told_rps: Floats
    spare_milli: Integers
    first_look_rps: Floats
    rates: Floats
    step_s: float
    per_control: int
    initial: int
    samples: int
    season: int
    launches: int


def _problem(
    traces: Sequence[ArrivalTrace],
    params_list: Sequence[HorizontalParams],
    spare_milli: Sequence[float | ArrayLike | None] | None,
    rate_rps: Callable[[int], float] | ArrayLike | None,
    initial_instances: int | None,
    step_s: float,
    control_s: float,
) -> ReplayProblem:
    if not traces or not params_list:
        fail("traces" if not traces else "params_list", "is empty; expected at least one.")
    clocks = [clock(trace, step_s, control_s) for trace in traces]
    step_s, per_control = clocks[0]
    columns = [trace.resampled(step_s).rates_rps * step_s for trace in traces]
    told = [np.add.reduceat(each, np.arange(0, each.size, per_control)) / control_s for each in columns]
    rows = parameter_rows(params_list, step_s)
    cold_steps, longest = float(rows[:, step.COLD_STEPS].max()), max(each.size for each in columns)
    return ReplayProblem(
        params=rows,
        first=np.cumsum([0, *(each.size for each in columns)]),
        first_period=np.cumsum([0, *(each.size for each in told)]),
        arrivals=np.concatenate(columns),
        arrived=np.concatenate([np.append(0.0, np.cumsum(each)) for each in columns]),
        told_rps=np.concatenate(told),
        spare_milli=_spare(spare_milli, traces, [each.size for each in columns], step_s),
        first_look_rps=np.array([first_look_rps(trace) for trace in traces]),
        rates=_rates(rate_rps, params_list),
        step_s=step_s,
        per_control=per_control,
        initial=-1 if initial_instances is None else given_count(initial_instances),
        samples=int(np.where(rows[:, step.IS_LAZY] > 0, rows[:, step.LAZY_SAMPLES], rows[:, step.SHORT_S]).max()),
        season=2 * step.LAGS if rows[:, step.FORECASTS].any() else 0,
        launches=math.ceil(min(cold_steps, longest) / per_control) + 2,
    )


def _spare(
    spare_milli: Sequence[float | ArrayLike | None] | None,
    traces: Sequence[ArrivalTrace],
    sizes: Sequence[int],
    step_s: float,
) -> Integers:
    """Whole milli-GPU per step of all traces; empty where nothing is said of any."""
    spares = check_spares(spare_milli, traces)
    if spares is None:
        return np.empty(0, dtype=np.int64)
    return np.concatenate(
        [
            spare_steps(f"spare_milli[{t}]", spare, trace, size, step_s)
            for t, (spare, trace, size) in enumerate(zip(spares, traces, sizes, strict=True))
        ]
    )


def _rates(rate_rps: Callable[[int], float] | ArrayLike | None, params_list: Sequence[HorizontalParams]) -> Floats:
    """The table that all sets share, up to the greatest limit; empty where rates are proportional to the share."""
    if rate_rps is None:
        return np.empty(0)
    widest = max(params_list, key=attrgetter("limit_milli"))
    if not callable(rate_rps) and any(params.limit_milli != widest.limit_milli for params in params_list):
        fail("rate_rps", "is a table, but the limits of params_list differ; give a function of the share.")
    return rate_table(rate_rps, widest)


def _run(ran_on: str, problem: ReplayProblem, figures: Floats) -> RunRecord:
    if ran_on == "cuda":
        from dilu_core.kernels.cuda.replays import replay_pairs_on_gpu

        return replay_pairs_on_gpu(*problem, figures)
    pairs = figures.shape[0]
    each = max(1, int(_CHUNK_STEPS * pairs / max(1, int(problem.first[-1]) * problem.params.shape[0])))
    starts = range(0, pairs, each)

    def run(start: int) -> None:
        replay_pairs(start, min(pairs, start + each), *problem, figures)

    if len(starts) == 1:
        run(0)
    else:
        with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1)) as threads:
            list(threads.map(run, starts))
    return RunRecord()


def _late_part(late: Floats, problem: ReplayProblem) -> Floats:
    """The part of requests above the SLO; NaN where there is no SLO or no request."""
    totals = np.add.reduceat(problem.arrivals, problem.first[:-1])[:, np.newaxis]
    part: Floats = np.full(late.shape, math.nan)
    known = (totals > 0.0) & ~np.isnan(problem.params[:, step.SLO_MS])
    np.divide(late, totals, out=part, where=known)
    return part
