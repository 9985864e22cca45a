"""The quota sweep on a GPU: launches `quota_sweep.cu`, in chunks of rows where memory is short.

Answers equal those of `kernels.cpu.quota_sweep` and `kernels.cpu.quota_front` index for index and bit for bit: both
sides do the same IEEE 754 operations in the same order (`kernels.cpu.elementary`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dilu_core.kernels.backend import BackendUnavailableError, RunRecord
from dilu_core.kernels.cpu.quota_front import sweep_fronts as fronts_on_cpu
from dilu_core.kernels.cpu.quota_sweep import logs_of_shares
from dilu_core.kernels.cpu.quota_sweep import sweep_quotas as cells_on_cpu
from dilu_core.kernels.cuda.chunks import in_chunks
from dilu_core.kernels.cuda.device import require_device
from dilu_core.kernels.cuda.modules import Module, module
from dilu_core.kernels.cuda.selftest import self_test
from dilu_core.kernels.quota_rows import SweepCells, SweepFronts, SweepRows

_WARP = 32
_SHARED_BYTES = 48 * 1024
_BYTES_BEST, _BYTES_FRONT = 12, 24  # shared memory per warp and batch


def warps_per_block(bytes_each: int, n_batches: int) -> int:
    """4 warps, or as many as have room for their batches in shared memory; none is an error."""
    warps = min(4, _SHARED_BYTES // (bytes_each * n_batches))
    if warps == 0:
        raise BackendUnavailableError(
            f"a grid of {n_batches} batches does not fit a GPU's shared memory "
            f"(at most {_SHARED_BYTES // bytes_each}); use backend='cpu' or fewer batches."
        )
    return warps


class OnDevice:
    """Rows copied to the GPU with room for their answers; `best()` and `fronts()` only launch."""

    def __init__(self, rows: SweepRows, compiled: Module) -> None:
        import cupy

        self.rows, self.compiled = rows, compiled
        self.columns = [cupy.asarray(np.ascontiguousarray(column)) for column in rows[:-1]]
        self.log_shares = cupy.asarray(logs_of_shares(rows.shares))
        self.log_limits = cupy.asarray(logs_of_shares(rows.limits))
        self.evaluated = cupy.zeros(rows.models.shape[0], np.uint64)
        _, quantiles, budgets = rows.shape
        self.sizes = np.int32(quantiles), np.int32(budgets)
        self.with_bound = np.int32(rows.covariances.shape[1] > 0)
        self.span = np.int64(0), np.int64(rows.searches)
        self.zeros, self.empty = cupy.zeros, cupy.empty

    def make_room_for_cells(self) -> None:
        """Allocate what `best` fills."""
        count = self.rows.searches
        self.cells, self.limit = self.empty((count, 2), np.int32), self.empty(count, np.int32)
        self.predicted = self.empty((count, 2))

    def best(self) -> None:
        """Fill `cells`, `limit` and `predicted`; add to `evaluated`."""
        models, covariances, errors, levels, budgets, batches, shares, limits = self.columns
        n_batches, count = batches.size, self.rows.searches
        question = (models, covariances, errors, levels, budgets, batches)
        warps = warps_per_block(_BYTES_BEST, n_batches)
        self._launch(
            "sweep_best", -(-count // warps), warps * _WARP, warps * n_batches * _BYTES_BEST,
            *question, shares, self.log_shares, self.with_bound, *self.sizes, np.int32(n_batches),
            np.int32(shares.size), *self.span, self.cells, self.evaluated,
        )  # fmt: skip
        blocks = -(-count // 128)
        self._launch(
            "sweep_limit", blocks, 128, 0, models, batches, limits, self.log_limits, np.float64(self.rows.saturation),
            *self.sizes, np.int32(limits.size), *self.span, self.cells, self.limit,
        )  # fmt: skip
        self._launch(
            "sweep_predict", blocks, 128, 0, *question, self.log_shares, self.with_bound, *self.sizes, *self.span,
            self.cells, self.predicted,
        )  # fmt: skip

    def fetch_cells(self) -> SweepCells:
        """What `best` found."""
        chosen = np.empty((*self.rows.shape, 3), np.int32)
        chosen[..., :2] = self.cells.get().reshape(*self.rows.shape, 2)
        chosen[..., 2] = self.limit.get().reshape(self.rows.shape)
        predicted = self.predicted.get().reshape(*self.rows.shape, 2)
        return SweepCells(chosen, predicted, self.evaluated.get().astype(np.int64))

    def make_room_for_fronts(self) -> None:
        """Allocate what `fronts` fills."""
        shape = (self.rows.searches, self.rows.shares.size)
        self.front, self.front_ms = self.empty(shape, np.int16), self.empty(shape)
        self.saturating = self.empty((self.rows.models.shape[0], self.rows.batches.size), np.int16)

    def fronts(self) -> None:
        """Fill `front`, `front_ms` and `saturating`; add to `evaluated`."""
        models, covariances, errors, levels, budgets, batches, shares, limits = self.columns
        n_batches, count = batches.size, self.rows.searches
        warps = warps_per_block(_BYTES_FRONT, n_batches)
        self._launch(
            "sweep_fronts", -(-count // warps), warps * _WARP, warps * n_batches * _BYTES_FRONT,
            models, covariances, errors, levels, budgets, batches, shares, self.log_shares, self.with_bound,
            *self.sizes, np.int32(n_batches), np.int32(shares.size), *self.span, self.front, self.front_ms,
            self.evaluated,
        )  # fmt: skip
        self._launch(
            "sweep_saturation", -(-self.saturating.size // 128), 128, 0, models, batches, limits, self.log_limits,
            np.float64(self.rows.saturation), np.int32(n_batches), np.int32(limits.size),
            np.int64(self.saturating.size), self.saturating,
        )  # fmt: skip

    def fetch_fronts(self) -> SweepFronts:
        """What `fronts` found."""
        shape = (*self.rows.shape, self.rows.shares.size)
        return SweepFronts(
            self.front.get().reshape(shape),
            self.front_ms.get().reshape(shape),
            self.saturating.get(),
            self.evaluated.get().astype(np.int64),
        )

    def _launch(self, name: str, blocks: int, threads: int, shared: int, *arguments: Any) -> None:
        self.compiled.function(name)((blocks,), (threads,), arguments, shared_mem=shared)


def on_device(rows: SweepRows) -> OnDevice:
    """`rows` on the GPU, its kernels compiled. Raises `BackendUnavailableError` where there is none."""
    return OnDevice(rows, module("quota_sweep"))


def sweep_quotas(rows: SweepRows) -> tuple[SweepCells, RunRecord]:
    """`kernels.cpu.quota_sweep.sweep_quotas` on the GPU. Raises `BackendUnavailableError` where there is none."""
    compiled = module("quota_sweep")
    cells = SweepCells(
        np.empty((*rows.shape, 3), np.int32), np.empty((*rows.shape, 2)), np.empty(rows.models.shape[0], np.int64)
    )

    def run(start: int, stop: int) -> None:
        device = OnDevice(rows.select(slice(start, stop)), compiled)
        device.make_room_for_cells()
        device.best()
        for whole, part in zip(cells.columns, device.fetch_cells().columns, strict=True):
            whole[start:stop] = part

    chunks = in_chunks(rows.models.shape[0], _bytes_of_row(rows, 28), run) if rows.searches else 0
    return cells, RunRecord("cuda", require_device().name, chunks, compiled.compile_s)


def sweep_fronts(rows: SweepRows) -> tuple[SweepFronts, RunRecord]:
    """`kernels.cpu.quota_front.sweep_fronts` on the GPU. Raises `BackendUnavailableError` where there is none."""
    compiled = module("quota_sweep")
    count, shape = rows.models.shape[0], (*rows.shape, rows.shares.size)
    fronts = SweepFronts(
        np.empty(shape, np.int16),
        np.empty(shape),
        np.empty((count, rows.batches.size), np.int16),
        np.empty(count, np.int64),
    )

    def run(start: int, stop: int) -> None:
        device = OnDevice(rows.select(slice(start, stop)), compiled)
        device.make_room_for_fronts()
        device.fronts()
        for whole, part in zip(fronts.columns, device.fetch_fronts().columns, strict=True):
            whole[start:stop] = part

    chunks = in_chunks(count, _bytes_of_row(rows, 10 * rows.shares.size), run) if rows.searches else 0
    return fronts, RunRecord("cuda", require_device().name, chunks, compiled.compile_s)


def _bytes_of_row(rows: SweepRows, bytes_each: int) -> int:
    """Device memory of one row whose every search takes `bytes_each`."""
    _, quantiles, budgets = rows.shape
    return 8 * (6 + 21 + 3 + quantiles + budgets + 1) + 2 * rows.batches.size + quantiles * budgets * bytes_each


@self_test("sweep")
def _agrees_with_the_cpu() -> None:
    rows = example_rows(24)
    for mine, theirs in ((sweep_quotas(rows)[0], cells_on_cpu(rows)), (sweep_fronts(rows)[0], fronts_on_cpu(rows))):
        for name, ours, reference in zip(mine._fields, mine.columns, theirs.columns, strict=True):
            if name != "evaluated" and not np.array_equal(ours, reference, equal_nan=ours.dtype.kind == "f"):
                raise AssertionError(f"{name} differs at {np.argwhere(ours != reference)[:3].tolist()}")


def example_rows(count: int, budgets: int = 3, *, with_bound: bool = True, seed: int = 0) -> SweepRows:
    """Random functions of a few milliseconds on the grid of 32 batches, 100 shares and 10 limits."""
    from dilu_core.kernels.quota_rows import packed

    rng = np.random.default_rng(seed)
    centre, spread = np.array([1.0, -2.5, -1.0, -1.0, -2.0, 1.1]), np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.4])
    root = 0.3 * rng.standard_normal((count, 6, 6))
    scatter = rng.uniform(0.02, 0.1, count)
    return SweepRows(
        np.exp(centre + spread * rng.standard_normal((count, 6))),
        packed(root @ root.transpose(0, 2, 1)) if with_bound else np.empty((count, 0)),
        np.stack([scatter, np.full(count, 64.0), np.maximum(scatter, 0.05)], axis=1),
        np.full((count, 1), 1.6),
        np.sort(rng.uniform(5.0, 100.0, (count, budgets)), axis=1),
        np.arange(1.0, 33.0),
        np.arange(10.0, 1001.0, 10.0),
        np.arange(100.0, 1001.0, 100.0),
        0.98,
    )
