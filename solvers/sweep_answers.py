"""What a quota sweep found, as columns over functions and scenarios."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.kernels.cpu.quota_sweep import BATCH, LATENCY, LIMIT, SHARE, UPPER
from dilu_core.kernels.quota_rows import SweepCells, SweepFronts
from dilu_core.quota import QuotaConfig
from dilu_core.result import SolveStats, Termination
from dilu_core.solvers.sweep_question import Scenario, SweepQuestion
from dilu_core.units import demands_units

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class QuotaFronts(NamedTuple):
    """Pareto fronts as columns, one row per configuration, by function, then scenario, then request.

    `function` and `scenario` are positions in the sweep; loads do not change a front, so it stands under the first
    scenario of its load axis. The front holds the feasible configurations of greater throughput than any with the same
    or a smaller request, as `QuotaSearchResult.pareto`.
    """

    function: Ints
    scenario: Ints
    batch: Ints
    request_milli: Ints
    limit_milli: Ints
    latency_ms: Floats
    throughput_rps: Floats
    efficacy: Floats


@dataclass(frozen=True, eq=False)
class QuotaSweep:
    """The best configuration of F functions in each of S scenarios; all columns are (F, S) and read-only.

    Where nothing is feasible, `batch`, `request_milli`, `limit_milli`, `throughput_rps` and `efficacy` are 0,
    `latency_ms` and `upper_ms` nan, `instances` and `share_milli` -1. `upper_ms` is nan too where the mean decides.
    `instances` is the number needed for the load at full throughput (0 for none), `share_milli` what they request
    together; both are `None` for a sweep without loads.

    `slo_ms` and `load_rps` tell what was asked of each function. `evaluated` counts evaluations of models, `points`
    the configurations (batch, share, limit) that were decided on by them.
    """

    scenarios: tuple[Scenario, ...]
    slo_ms: Floats
    load_rps: Floats | None
    batch: Ints
    request_milli: Ints
    limit_milli: Ints
    latency_ms: Floats
    upper_ms: Floats
    throughput_rps: Floats
    efficacy: Floats
    instances: Ints | None
    share_milli: Ints | None
    evaluated: int
    points: int
    termination: Termination
    stats: SolveStats
    _fronts: Callable[[tuple[int, ...]], QuotaFronts] = field(repr=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore after pickling, which forgets that the arrays are read-only."""
        check.restore(self, state)

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """(F, S) whether any configuration meets the SLO."""
        return np.asarray(self.batch > 0)

    @property
    def total_share_milli(self) -> Ints:
        """(S,) the share that all feasible functions request together for their loads."""
        if self.share_milli is None:
            check.fail("load_rps", "was not given to the sweep; shares for a load need one.")
        return np.asarray(np.maximum(self.share_milli, 0).sum(axis=0))

    def config(self, function: int, scenario: int) -> QuotaConfig | None:
        """One answer as a value; `None` where nothing is feasible."""
        functions, scenarios = self.batch.shape
        f = check.integer("function", function, at_least=0, at_most=functions - 1)
        s = check.integer("scenario", scenario, at_least=0, at_most=scenarios - 1)
        if self.batch[f, s] == 0:
            return None
        upper = None if self.scenarios[s].quantile is None else float(self.upper_ms[f, s])
        return QuotaConfig(
            int(self.batch[f, s]),
            int(self.request_milli[f, s]),
            int(self.limit_milli[f, s]),
            float(self.latency_ms[f, s]),
            float(self.throughput_rps[f, s]),
            float(self.efficacy[f, s]),
            upper,
        )

    def fronts(self, functions: Iterable[int] | None = None) -> QuotaFronts:
        """The Pareto fronts of some functions (`None`: all), computed now."""
        count = self.batch.shape[0]
        wanted = range(count) if functions is None else check.listed("functions", functions, "positions of functions")
        each = (check.integer(f"functions[{i}]", f, at_least=0, at_most=count - 1) for i, f in enumerate(wanted))
        return self._fronts(tuple(each))


def sweep_of(
    question: SweepQuestion,
    cells: SweepCells,
    termination: Termination,
    stats: SolveStats,
    fronts: Callable[[tuple[int, ...]], QuotaFronts],
) -> QuotaSweep:
    """The columns of the cells that a sweep chose; `cells` has F G rows."""
    functions, loads = len(question.models), max(1, question.load_rps.shape[1])
    per_gpu = len(question.gpus), len(question.quantiles), question.slo_ms.shape[1]
    chosen = cells.chosen.reshape(functions, -1, 3)
    predicted = cells.predicted.reshape(functions, -1, 2)
    found = chosen[..., BATCH] >= 0
    batch = np.where(found, np.array(question.grid.batches, np.int64)[chosen[..., BATCH]], 0)
    request = np.where(found, np.array(question.grid.sm_milli, np.int64)[chosen[..., SHARE]], 0)
    limit = np.where(found, question.limit_milli(request, chosen[..., LIMIT]), 0)
    latency, upper = predicted[..., LATENCY], predicted[..., UPPER].copy()
    of_quantile = np.broadcast_to(np.arange(per_gpu[1])[None, :, None], per_gpu).ravel()
    upper[:, np.array([each is None for each in question.quantiles])[of_quantile]] = np.nan
    throughput = np.where(found, 1000.0 * batch / latency, 0.0)
    efficacy = np.where(found, 1e6 * batch / (latency * np.maximum(request, 1)), 0.0)
    slo = np.broadcast_to(question.slo_ms[:, None, None, :], (functions, *per_gpu)).reshape(functions, -1)

    def per_load(column: NDArray[Any]) -> NDArray[Any]:
        return check.read_only(np.repeat(column, loads, axis=1))

    served, requested = per_load(throughput), per_load(request)
    load = instances = share = None
    if question.load_rps.shape[1]:
        searches = chosen.shape[1]
        load = check.read_only(np.tile(question.load_rps, (1, searches)))
        instances, share = map(check.read_only, _for_load(load, served, requested))
    points = functions * chosen.shape[1] * len(question.grid) * len(question.limits)
    return QuotaSweep(
        scenarios=question.scenarios,
        slo_ms=per_load(slo),
        load_rps=load,
        batch=per_load(batch),
        request_milli=requested,
        limit_milli=per_load(limit),
        latency_ms=per_load(latency),
        upper_ms=per_load(upper),
        throughput_rps=served,
        efficacy=per_load(efficacy),
        instances=instances,
        share_milli=share,
        evaluated=int(cells.evaluated.sum()),
        points=points,
        termination=termination,
        stats=stats,
        _fronts=fronts,
    )


def _for_load(load: Floats, served: Floats, requested: Ints) -> tuple[Ints, Ints]:
    """Instances that serve each load and what they request together, (F, S); -1 where one serves nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.where(served > 0, load / served, 0.0)
    most = min(check.LARGEST, 2**62 // len(load))  # sums over the functions stay within int64, too
    over = np.ceil(needed) * requested > most
    if over.any():
        f, s = (int(i) for i in np.argwhere(over)[0])
        check.fail(
            "load_rps",
            f"asks function {f} for {load[f, s]:g} requests/s: instances of {served[f, s]:g} requests/s and "
            f"{requested[f, s]} milli-GPU that request more than {most} milli-GPU together.",
        )
    instances = np.where(served > 0, demands_units(needed), -1)
    return instances, np.where(instances >= 0, instances * requested, -1)


def fronts_of(question: SweepQuestion, functions: tuple[int, ...], found: SweepFronts) -> QuotaFronts:
    """The rows of dense fronts; `found` has G rows for each of `functions`."""
    gpus, loads = len(question.gpus), max(1, question.load_rps.shape[1])
    searches = found.batch.shape[1] * found.batch.shape[2]  # of a row
    row, q, n, j = np.nonzero(found.batch >= 0)
    index = found.batch[row, q, n, j]
    batch = np.array(question.grid.batches, np.int64)[index]
    request = np.array(question.grid.sm_milli, np.int64)[j]
    latency = found.latency[row, q, n, j]
    return QuotaFronts(
        np.array(functions, np.int64)[row // gpus],
        ((row % gpus) * searches + q * found.batch.shape[2] + n) * loads,
        batch,
        request,
        question.limit_milli(request, found.saturating[row, index].astype(np.int32)),
        latency,
        1000.0 * batch / latency,
        1e6 * batch / (latency * request),
    )
