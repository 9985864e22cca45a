"""The launchers of the sweep and of the ranking, over a pretended CuPy whose kernels run on the CPU header."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dilu_core.kernels.cpu import quota_front, quota_sweep, ranking
from dilu_core.kernels.cuda import sweep, what_if
from dilu_core.kernels.cuda.modules import source_path
from tests.cuda_on_cpu.harness import build


class Array(np.ndarray):
    """An array that pretends to be on a device."""

    def get(self) -> np.ndarray:
        return np.array(self)


class Module:
    """A compiled source whose kernels are the header's."""

    compile_s = 0.5

    def __init__(self, source: str) -> None:
        self.source = source

    def function(self, name: str) -> Callable[..., None]:
        kernel = build(source_path(self.source), name)

        def launch(grid: Any, block: Any, arguments: Any, shared_mem: int = 0) -> None:
            kernel(grid, block, arguments, shared_bytes=shared_mem, schedule=2)

        return launch


def in_chunks_of_seven(count: int, bytes_each: int, run: Callable[[int, int], None]) -> int:
    assert bytes_each > 0
    starts = range(0, count, 7)
    for start in starts:
        run(start, min(count, start + 7))
    return len(starts)


@pytest.fixture(autouse=True)
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = ModuleType("cupy")
    cupy.asarray = lambda column: np.array(column).view(Array)  # type: ignore[attr-defined]
    cupy.zeros = lambda shape, dtype=float: np.zeros(shape, dtype).view(Array)  # type: ignore[attr-defined]
    cupy.empty = lambda shape, dtype=float: np.full(shape, -7, dtype).view(Array)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for launcher in (sweep, what_if):
        monkeypatch.setattr(launcher, "module", Module)
        monkeypatch.setattr(launcher, "in_chunks", in_chunks_of_seven)
        monkeypatch.setattr(launcher, "require_device", lambda: SimpleNamespace(name="pretended"))


@pytest.mark.parametrize("with_bound", [False, True])
def test_sweeps_in_chunks(with_bound: bool) -> None:
    """Cells and fronts of 16 rows in three chunks are the CPU's; the record says what ran."""
    rows = sweep.example_rows(16, with_bound=with_bound)
    cells, record = sweep.sweep_quotas(rows)
    expected = quota_sweep.sweep_quotas(rows)
    assert np.array_equal(cells.chosen, expected.chosen)
    assert np.array_equal(cells.predicted, expected.predicted, equal_nan=True)
    assert (cells.evaluated > 0).all()
    assert (record.backend, record.device, record.chunks, record.compile_s) == ("cuda", "pretended", 3, 0.5)
    few = rows.select(slice(0, 8))
    fronts, _ = sweep.sweep_fronts(few)
    expected_fronts = quota_front.sweep_fronts(few)
    assert np.array_equal(fronts.batch, expected_fronts.batch)
    assert np.array_equal(fronts.latency, expected_fronts.latency, equal_nan=True)
    assert np.array_equal(fronts.saturating, expected_fronts.saturating)
    assert sweep.sweep_quotas(rows.select(slice(0, 0)))[1].chunks == 0


def test_ranks_in_chunks() -> None:
    """Rows and scores of 20 instances in three chunks are the CPU's; none asked is no launch."""
    question = what_if.example_question(20, 300, 5)
    ranked, record = what_if.rank_gpus(question)
    expected = ranking.rank_gpus(question)
    assert np.array_equal(ranked.gpu, expected.gpu)
    assert np.array_equal(ranked.score, expected.score)
    assert record.chunks == 3
    assert what_if.rank_gpus(what_if.example_question(0, 5, 1))[1].chunks == 0


def test_self_tests_pass_and_see_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-tests agree; they name what differs where an answer is off."""
    sweep._agrees_with_the_cpu()
    what_if._agrees_with_the_cpu()
    monkeypatch.setattr(sweep, "cells_on_cpu", lambda rows: quota_sweep.sweep_quotas(rows._replace(saturation=0.5)))
    with pytest.raises(AssertionError, match="chosen differs"):
        sweep._agrees_with_the_cpu()
    monkeypatch.setattr(what_if, "ranked_on_cpu", _ranked_off_by_one)
    with pytest.raises(AssertionError, match="gpu differs"):
        what_if._agrees_with_the_cpu()


def _ranked_off_by_one(question: ranking.RankQuestion) -> ranking.Ranked:
    ranked = ranking.rank_gpus(question)
    return ranked._replace(gpu=ranked.gpu + 1)
