"""The quota sweep of models that are no plain rooflines: each is tabulated once, every scenario reads its table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.calibration import LEVERAGE_CAP, NOISE
from dilu_core.gpu_scaling import GpuScale
from dilu_core.kernels.cpu.quota_tables import best_of_table, fronts_of_table, saturating_limits
from dilu_core.kernels.quota_rows import SweepCells, SweepFronts
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import LatencyModel, RooflineModel
from dilu_core.solvers.quota_answers import checked_prediction
from dilu_core.solvers.sweep_question import SweepQuestion
from dilu_core.units import FULL_GPU_MILLI

Floats = NDArray[np.float64]


class _Table(NamedTuple):
    """Latency and bounds of one model on one GPU type: (B, S), (Q, B, S), and the saturating limits (B,)."""

    latency: Floats
    uppers: Floats
    saturating: NDArray[np.int16]


def sweep_cells(question: SweepQuestion, functions: list[int]) -> SweepCells:
    """The best cells of some functions, rows as `SweepQuestion.rows` orders them."""
    rows, quantiles, budgets = len(functions) * len(question.gpus), len(question.quantiles), question.slo_ms.shape[1]
    chosen = np.empty((rows, quantiles, budgets, 3), np.int32)
    predicted = np.empty((rows, quantiles, budgets, 2))
    batches, shares = np.array(question.grid.batches, np.float64), np.array(question.grid.sm_milli, np.float64)
    for row, (function, table) in enumerate(_tables(question, functions)):
        best_of_table(
            table.latency, table.uppers, question.budgets_ms[function], batches, shares, table.saturating, chosen[row],
            predicted[row],
        )  # fmt: skip
    return SweepCells(chosen, predicted, np.full(rows, len(question.grid), np.int64))


def sweep_fronts(question: SweepQuestion, functions: list[int]) -> SweepFronts:
    """The fronts of some functions."""
    rows, quantiles, budgets = len(functions) * len(question.gpus), len(question.quantiles), question.slo_ms.shape[1]
    shape = (rows, quantiles, budgets, len(question.grid.sm_milli))
    batches = np.array(question.grid.batches, np.float64)
    fronts = SweepFronts(
        np.empty(shape, np.int16),
        np.empty(shape),
        np.empty((rows, batches.size), np.int16),
        np.full(rows, len(question.grid), np.int64),
    )
    for row, (function, table) in enumerate(_tables(question, functions)):
        fronts.saturating[row] = table.saturating
        fronts_of_table(
            table.latency, table.uppers, question.budgets_ms[function], batches, fronts.batch[row], fronts.latency[row]
        )
    return fronts


def _tables(question: SweepQuestion, functions: list[int]) -> list[tuple[int, _Table]]:
    return [(f, _tabulated(question, question.models[f], gpu)) for f in functions for gpu in question.gpus]


def _tabulated(question: SweepQuestion, model: LatencyModel, gpu: GpuScale) -> _Table:
    batches, shares = np.array(question.grid.batches)[:, None], np.array(question.grid.sm_milli)
    latency = _latency(model, gpu, batches, shares)
    uppers = np.stack([_upper(model, gpu, batches, shares, quantile, latency) for quantile in question.quantiles])
    saturating = np.empty(len(batches), np.int16)
    at_limits = _latency(model, gpu, batches, np.array(question.limits))
    whole = _latency(model, gpu, batches, np.array([FULL_GPU_MILLI]))[:, 0]
    saturating_limits(at_limits, whole, question.rule.throughput_fraction, saturating)
    return _Table(latency, uppers, saturating)


def _latency(model: LatencyModel, gpu: GpuScale, batches: NDArray[np.int64], shares: NDArray[np.int64]) -> Floats:
    """(B, S) mean latency; on another GPU type a fit keeps its deviation from the roofline, which is what scales."""
    latency = checked_prediction("latency_ms", model.latency_ms(batches, shares), (len(batches), len(shares)))
    if (gpu.factors == 1.0).all():
        return np.ascontiguousarray(latency)
    if not isinstance(model, LatencyFit):
        check.fail(
            "gpus", f"holds {gpu.name!r}, but a {type(model).__name__} has no roofline that could be scaled to it."
        )
    return np.ascontiguousarray(
        latency * (_scaled(model, gpu).latency_ms(batches, shares) / model.roofline.latency_ms(batches, shares))
    )


def _upper(
    model: LatencyModel,
    gpu: GpuScale,
    batches: NDArray[np.int64],
    shares: NDArray[np.int64],
    quantile: float | None,
    latency: Floats,
) -> Floats:
    if quantile is None:
        return latency
    if not isinstance(model, LatencyFit):
        bound = model.upper_ms(batches, shares, quantile)  # type: ignore[attr-defined]
        return checked_prediction("upper_ms", bound, latency.shape)
    gradient = _scaled(model, gpu).log_gradient(batches, shares)
    covariance = (model.covariance + gpu.left_open) / NOISE**2
    leverage = np.clip(np.einsum("...i,ij,...j->...", gradient, covariance, gradient), 0.0, LEVERAGE_CAP)
    spread = np.sqrt(model.scatter**2 * leverage + model.floor**2)
    return np.asarray(latency * np.exp(model.error_quantile(quantile) * spread))


def _scaled(fit: LatencyFit, gpu: GpuScale) -> RooflineModel:
    return RooflineModel(*(np.array(fit.roofline.parameters) * gpu.factors).tolist())
