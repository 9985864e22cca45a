"""The launcher of the joint search, over a pretended CuPy whose kernels run on the CPU header."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dilu_core.kernels.cpu import joint_search as cpu
from dilu_core.kernels.cuda import joint
from dilu_core.kernels.cuda.modules import source_path
from tests.cuda_on_cpu.harness import build


class Array(np.ndarray):
    """An array that pretends to be on a device."""

    def get(self) -> np.ndarray:
        return np.array(self)

    def set(self, column: np.ndarray) -> None:
        assert (column.shape, column.dtype, column.flags.c_contiguous) == (self.shape, self.dtype, True)
        self[...] = column


class Kernel:
    """A kernel of the header, with the attribute of a CuPy kernel that the launcher sets."""

    preferred_shared_memory_carveout = -1

    def __init__(self, name: str) -> None:
        self.run = build(source_path("joint"), name)

    def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int = 0) -> None:
        self.run(grid, block, arguments, shared_bytes=shared_mem, schedule=2)


def _in_chunks_of_seven(count: int, bytes_each: int, run: Any) -> int:
    starts = range(0, count, 7)
    for start in starts:
        run(start, min(count, start + 7))
    return len(starts)


@pytest.fixture(autouse=True)
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = {"MaxSharedMemoryPerMultiprocessor": 65536, "MultiProcessorCount": 2}
    cupy, cupyx = ModuleType("cupy"), ModuleType("cupyx")
    cupy.empty = lambda shape, dtype: np.full(shape, 77, dtype).view(Array)  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(Device=lambda: SimpleNamespace(attributes=attributes))  # type: ignore[attr-defined]
    cupyx.empty_pinned = np.empty  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx", cupyx)
    monkeypatch.setattr(joint, "module", lambda _: SimpleNamespace(function=Kernel, compile_s=0.5))
    monkeypatch.setattr(joint, "in_chunks", _in_chunks_of_seven)
    monkeypatch.setattr(joint, "require_device", lambda: SimpleNamespace(name="pretended"))
    monkeypatch.setattr(joint, "LEAST_ITEMS", 64)


def test_chunks_and_what_is_left_to_the_cpu() -> None:
    """Problems of many sizes in chunks, with some too large for a block, get the answers of the CPU."""
    generator = np.random.default_rng(4)
    functions, options = generator.integers(1, 9, 20), generator.integers(1, 40, 20)
    functions[3], options[11] = 17, 65
    total = int((functions * options).sum())
    value, weight = generator.integers(0, 50_000, total), generator.integers(0, 100, (total, 3))
    capacity = generator.integers(20, 60, (20, 3)) * functions[:, None]
    choice, values, nodes, record = joint.search_many(functions, options, value, weight, capacity)
    expected_choice, expected_values, _ = cpu.search_many(functions, options, value, weight, capacity)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(choice, expected_choice)
    assert (nodes >= 0).all()
    assert (record.backend, record.device, record.chunks, record.compile_s) == ("cuda", "pretended", 3, 0.5)


def test_the_self_test_passes() -> None:
    """What runs before a GPU is first used."""
    joint._agrees_with_the_cpu()
