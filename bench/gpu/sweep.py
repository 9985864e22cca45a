"""The fused quota sweep: 1e9 points, evaluate, prune and arg-max over functions, batches, shares, limits and budgets.

A point is one configuration (batch, share, limit) of one search; points decided by pruning count, as `pruned` says.
"""

from __future__ import annotations

import numpy as np
from case import Case

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu import quota_sweep as on_cpu
from dilu_core.kernels.cpu.quota_front import sweep_fronts as fronts_on_cpu
from dilu_core.kernels.cuda import sweep
from dilu_core.kernels.quota_rows import SweepCells, SweepFronts, SweepRows

_EXP, _LOG = 36, 33  # additions, multiplications and divisions of kernels/cuda/elementary.cuh
_PREPARE = 3 * _LOG + _EXP + 8  # of a batch
_INVERSE = 2 * _LOG + 2 * _EXP + 10
_CELL = 2 * _EXP + _LOG + 12  # latency and efficacy
_BOUND = 5 * _EXP + 2 * _LOG + 90


def case(small: bool) -> Case:
    """31,250 searches (3,125 functions at 10 budgets, 95 % bound) of 32 batches x 100 shares x 10 limits."""
    functions = 100 if small else 3125
    held: dict[str, SweepRows] = {}
    evaluated: list[int] = []

    def prepare() -> None:
        held["rows"] = sweep.example_rows(functions, budgets=10)

    def validate() -> str:
        rows = held["rows"]
        mine, theirs = sweep.sweep_quotas(rows)[0], on_cpu.sweep_quotas(rows)
        _assert_same(mine, theirs)
        evaluated[:] = [int(mine.evaluated.sum())]
        few = rows.select(slice(0, 100))
        _assert_same(sweep.sweep_fronts(few)[0], fronts_on_cpu(few))
        feasible = float((theirs.chosen[..., 0] >= 0).mean())
        return f"{rows.searches} searches ({feasible:.1%} feasible) and the fronts of 1000 equal the CPU's bit for bit"

    def cuda() -> RunRecord:
        return sweep.sweep_quotas(held["rows"])[1]

    def on_device() -> sweep.OnDevice:
        device = sweep.on_device(held["rows"])
        device.make_room_for_cells()
        return device

    def operations() -> float:
        rows = held["rows"]
        batches = rows.searches * rows.batches.size
        cells = (evaluated[0] if evaluated else 2 * batches) - batches
        return float(batches * (_PREPARE + _INVERSE) + cells * (_CELL + _BOUND))

    def bytes_moved() -> float:
        rows = held["rows"]
        return float(sum(column.nbytes for column in rows[:-1]) + rows.searches * (8 + 4 + 16))

    def pruned() -> float | None:
        return 1.0 - evaluated[0] / held["rows"].points if evaluated else None

    return Case(
        name="sweep",
        unit="points",
        work=functions * 10 * 32 * 100 * 10,
        prepare=prepare,
        validate=validate,
        cuda=cuda,
        on_device=lambda: on_device().best,
        cpu=lambda: void(on_cpu.sweep_quotas(held["rows"])),
        cpu_threads=lambda: on_cpu.threads(held["rows"]),
        operations=operations,
        bytes_moved=bytes_moved,
        operation="fp64",
        pruned=pruned,
    )


def void(_: object) -> None:
    """Forget a result."""


def _assert_same(mine: SweepCells | SweepFronts, theirs: SweepCells | SweepFronts) -> None:
    for name, ours, reference in zip(mine._fields, mine.columns, theirs.columns, strict=True):
        if name != "evaluated":
            assert np.array_equal(ours, reference, equal_nan=ours.dtype.kind == "f"), f"{name} differs"
