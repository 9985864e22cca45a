"""What a quota sweep asks: functions by GPU types, quantiles, SLOs and loads, as columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.calibration import LEVERAGE_CAP, NOISE, SPREAD_FLOOR
from dilu_core.gpu_scaling import GpuScale
from dilu_core.kernels.quota_rows import SweepRows, packed
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import LatencyModel, RooflineModel
from dilu_core.quota import LimitRule, QuotaGrid
from dilu_core.solvers.quota_answers import BUDGET_TOLERANCE

Floats = NDArray[np.float64]


class Scenario(NamedTuple):
    """One column of a sweep: GPU type, quantile, and which SLO and load of each function."""

    gpu: str
    quantile: float | None
    slo: int
    load: int


@dataclass(frozen=True)
class SweepQuestion:
    """F functions, each asked on G GPU types at Q quantiles, N SLOs `slo_ms` (F, N) and M loads `load_rps` (F, M).

    Without loads `load_rps` is (F, 0), and a scenario's load is 0.
    """

    models: tuple[LatencyModel, ...]
    gpus: tuple[GpuScale, ...]
    quantiles: tuple[float | None, ...]
    slo_ms: Floats
    load_rps: Floats
    grid: QuotaGrid
    exec_fraction: float
    rule: LimitRule
    limits_milli: tuple[int, ...] | None

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """By GPU type, then quantile, then SLO, then load."""
        names = [gpu.name for gpu in self.gpus]
        slos, loads = range(self.slo_ms.shape[1]), range(max(1, self.load_rps.shape[1]))
        return tuple(Scenario(*each) for each in product(names, self.quantiles, slos, loads))

    @property
    def limits(self) -> tuple[int, ...]:
        """The shares at which saturation is looked for."""
        return self.grid.sm_milli if self.limits_milli is None else self.limits_milli

    @property
    def budgets_ms(self) -> Floats:
        """(F, N) what a bound may reach, float noise forgiven."""
        return self.exec_fraction * self.slo_ms * (1.0 + BUDGET_TOLERANCE)

    def rows(self, functions: Sequence[int]) -> SweepRows:
        """The rows of some functions that are rooflines, G for each, in the order given."""
        count, gpus = len(functions), len(self.gpus)
        parameters, errors = np.empty((count, 6)), np.empty((count, 3))
        covariances, levels = np.zeros((count, 6, 6)), np.zeros((count, len(self.quantiles)))
        bounded = any(quantile is not None for quantile in self.quantiles)
        for row, function in enumerate(functions):
            model = self.models[function]
            if isinstance(model, LatencyFit):
                parameters[row] = model.roofline.parameters
                errors[row] = model.scatter, LEVERAGE_CAP, model.floor
                if bounded:
                    covariances[row] = model.covariance
                    levels[row] = [0.0 if each is None else model.error_quantile(each) for each in self.quantiles]
            else:
                assert isinstance(model, RooflineModel)
                parameters[row], errors[row] = model.parameters, (0.0, LEVERAGE_CAP, SPREAD_FLOOR)
        factors = np.stack([gpu.factors for gpu in self.gpus])
        doubt = np.stack([gpu.left_open for gpu in self.gpus])
        rows = count * gpus
        in_noise = (covariances[:, None] + doubt) / NOISE**2
        return SweepRows(
            (parameters[:, None] * factors).reshape(rows, 6),
            packed(in_noise.reshape(rows, 6, 6)) if bounded else np.empty((rows, 0)),
            np.repeat(errors, gpus, axis=0),
            np.repeat(levels, gpus, axis=0),
            np.repeat(self.budgets_ms[list(functions)], gpus, axis=0),
            np.array(self.grid.batches, np.float64),
            np.array(self.grid.sm_milli, np.float64),
            np.array(self.limits, np.float64),
            self.rule.throughput_fraction,
        )

    def limit_milli(self, request_milli: NDArray[np.int64], limit: NDArray[np.int32]) -> NDArray[np.int64]:
        """`LimitRule.limit_milli` of every request, `limit` being the index at which it saturates or -1.

        Where limits were given, the greatest of them that the rule allows.
        """
        limits = np.array(self.limits, np.int64)
        allowed = np.where(limit >= 0, limits[limit], 1000)
        if self.rule.request_factor is not None:
            allowed = np.minimum(allowed, self.rule.request_factor * request_milli).astype(np.int64)
        if self.limits_milli is not None:
            below = np.searchsorted(limits, allowed, side="right") - 1
            allowed = np.where(below >= 0, limits[below], 0)
        return np.maximum(allowed, request_milli)


def is_roofline(model: LatencyModel) -> bool:
    """Whether the predictions are those of a roofline and nothing but."""
    return isinstance(model.model if isinstance(model, LatencyFit) else model, RooflineModel)


def swept_quantiles(value: Any) -> tuple[float | None, ...]:
    """One quantile or several, `None` for the mean."""
    found: tuple[Any, ...] = (value,)
    if isinstance(value, Iterable) and not isinstance(value, str):
        found = check.listed("quantiles", value, "probabilities, each a number or None")
    if not found:
        check.fail("quantiles", "is empty; expected at least one probability, or None for the mean.")
    for i, each in enumerate(found):
        if each is not None and not 0.0 < check.finite(f"quantiles[{i}]", each) < 1.0:
            check.fail(f"quantiles[{i}]", f"is {each!r}; expected a probability strictly between 0 and 1, or None.")
    return tuple(None if each is None else float(each) for each in found)


def swept_gpus(value: object) -> tuple[GpuScale, ...]:
    """GPU types of distinct names; `None`: the one that each function was measured on."""
    if value is None:
        return (GpuScale("as measured"),)
    found = check.instances_of("gpus", value, GpuScale)
    if not found:
        check.fail("gpus", "is empty; expected at least one GpuScale, or None for the GPU type measured on.")
    check.distinct("gpus", [gpu.name for gpu in found])
    return found


def swept_limits(value: object) -> tuple[int, ...] | None:
    """The limits to choose from, ascending and distinct; `None`: no list."""
    if value is None:
        return None
    offered = check.listed("limits_milli", value, "shares in milli-GPU")
    found = {check.share_milli(f"limits_milli[{i}]", each) for i, each in enumerate(offered)}
    if not found:
        check.fail("limits_milli", "is empty; expected at least one share in milli-GPU, or None.")
    return tuple(sorted(found))


def per_function(argument: str, value: ArrayLike, functions: int, *, zero: bool, at_most: float = math.inf) -> Floats:
    """`value` as (F, n): a number, a column for all functions, or a row per function; finite, at most `at_most`."""
    table = check.float_array(argument, value, "number, column or table")
    if table.ndim < 2:
        table = np.broadcast_to(table.reshape(1, -1), (functions, table.size))
    if table.ndim != 2 or table.shape[0] != functions or table.shape[1] == 0:
        check.fail(
            argument, f"has shape {np.shape(value)} for {functions} functions; expected (n,) or ({functions}, n)."
        )
    sound = np.isfinite(table) & (table <= at_most) & ((table >= 0) if zero else (table > 0))
    if not sound.all():
        place = tuple(np.argwhere(~sound)[0].tolist())
        wanted = "of at least 0" if zero else "above 0"
        most = "" if at_most == math.inf else f" and at most {at_most:g}"
        check.fail(argument, f"holds {table[place].item()!r} at {place}; expected finite numbers {wanted}{most}.")
    return np.ascontiguousarray(table)
