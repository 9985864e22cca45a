"""What only a GPU can show of the base: real memory limits, and the example kernels as the CPU header executes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dilu_core.kernels.backend import CUDA_PATHS, DeviceMemoryError, resolve_backend
from dilu_core.kernels.cuda.chunks import CupyMemory, in_chunks
from dilu_core.kernels.cuda.device import require_device
from dilu_core.kernels.cuda.modules import OPTIONS
from tests.cuda_on_cpu.harness import build

pytestmark = pytest.mark.needs_gpu

EXAMPLES = Path(__file__).resolve().parents[2] / "cuda_on_cpu" / "kernels" / "examples.cu"
LIMIT_BYTES = 1 << 20


@pytest.fixture
def cupy() -> Any:
    """CuPy, where there is a GPU."""
    return pytest.importorskip("cupy")


@pytest.fixture
def small_pool(cupy: Any) -> Iterator[Any]:
    """CuPy, allowed to hold `LIMIT_BYTES` for the length of a test."""
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=LIMIT_BYTES)
    yield cupy
    pool.set_limit(size=0)


def test_the_device_is_described() -> None:
    """The probe's figures are those of a GPU that can run the kernels."""
    device = require_device()
    assert device.name
    assert device.compute_capability >= (7, 0)
    assert device.multiprocessors > 0
    assert device.memory_bytes > 1 << 30


def test_a_pool_that_is_too_small_is_answered_by_chunks(small_pool: Any) -> None:
    """Items that the device's free memory would hold, but its allocator refuses, are run in smaller chunks."""
    done: list[int] = []

    def run(start: int, stop: int) -> None:
        small_pool.zeros((stop - start) * 1024, small_pool.uint8)
        done.extend(range(start, stop))

    assert in_chunks(4096, 1024, run, memory=CupyMemory()) >= 4
    assert done == list(range(4096))


def test_an_item_that_is_too_large_is_an_error(small_pool: Any) -> None:
    """One item above what can be allocated is `DeviceMemoryError`."""
    with pytest.raises(DeviceMemoryError, match="one item of the work needs"):
        in_chunks(3, 4 * LIMIT_BYTES, lambda start, stop: small_pool.zeros(4 * LIMIT_BYTES, small_pool.uint8))


def test_the_examples_answer_as_on_the_cpu(cupy: Any) -> None:
    """Sums through shuffles, shared memory and a barrier, and every warp collective: the same on both."""
    module = cupy.RawModule(code=EXAMPLES.read_text(encoding="utf-8"), options=OPTIONS)
    values = np.random.default_rng(7).random(8 * 256)
    on_cpu, on_gpu = np.zeros(8), cupy.zeros(8)
    build(EXAMPLES, "block_sums")((8,), (256,), (values, on_cpu))
    module.get_function("block_sums")((8,), (256,), (cupy.asarray(values), on_gpu))
    assert on_gpu.get().tolist() == on_cpu.tolist()
    lanes = np.random.default_rng(8).permutation(100)[:32].astype(np.int32)
    rows, rows_gpu = np.zeros((19, 32), np.int32), cupy.zeros((19, 32), cupy.int32)
    build(EXAMPLES, "collectives")((1,), (32,), (lanes, rows))
    module.get_function("collectives")((1,), (32,), (cupy.asarray(lanes), rows_gpu))
    assert rows_gpu.get().tolist() == rows.tolist()


@pytest.mark.parametrize("kernel", sorted(CUDA_PATHS))
def test_every_kernel_passes_its_self_test(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name, each kernel of the table compiles here and agrees with the CPU."""
    monkeypatch.delenv("DILU_BACKEND", raising=False)
    assert resolve_backend("cuda", kernel) == "cuda"
