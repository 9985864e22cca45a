"""Every CUDA kernel compiles for A100 and H100 without a driver, spills nothing, and keeps warps to hide latency."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from dilu_core.kernels.cuda import modules
from tests.kernels import ptxas

SOURCES = sorted(modules.FOLDER.glob("*.cu"))
LAUNCHERS = [
    path.stem
    for path in sorted(modules.FOLDER.glob("*.py"))
    if re.search(r"^def device_kernels\(", path.read_text(encoding="utf-8"), re.M)
]
LEAST_OCCUPANCY = 0.125
EXAMPLES = Path(__file__).resolve().parents[1] / "cuda_on_cpu" / "kernels" / "examples.cu"

SPILLING = """
extern "C" __global__ void __launch_bounds__(1024) spilling(const double* in, double* out) {
    double held[48];
#pragma unroll
    for (int i = 0; i < 48; i++) held[i] = in[i * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 48; i++) out[i * 1024 + threadIdx.x] = held[47 - i] + 1.0 / held[i];
}
"""


def _gate(found: list[ptxas.Resources], text: str) -> None:
    """Prints each kernel's resources and refuses spills and empty multiprocessors."""
    assert found, "no kernel was compiled"
    for each in found:
        threads = _threads(text, each.kernel)
        occupancy = each.occupancy(threads)
        print(
            f"{each.kernel[:60]} {each.architecture}: {each.registers} registers, {each.shared} B shared, "
            f"{each.stack} B stack, {each.spills} B spilled, occupancy {occupancy:.0%} in blocks of {threads}"
        )
        assert each.spills == 0, f"{each.kernel} spills {each.spills} bytes on {each.architecture}"
        assert occupancy >= LEAST_OCCUPANCY, f"{each.kernel} keeps {occupancy:.1%} of a multiprocessor's warps"


def _threads(text: str, kernel: str) -> int:
    """The block size a kernel declares by `__launch_bounds__`, or 128."""
    bound = re.search(rf"__launch_bounds__\s*\(\s*(\w+)[^;{{]*?\b{re.escape(kernel)}\s*\(", text)
    if bound is None:
        return 128
    named = re.search(rf"(?:#define\s+{bound[1]}\s+|\b{bound[1]}\s*=\s*)(\d+)", text)
    return int(named[1]) if named else int(bound[1])


@pytest.mark.parametrize("architecture", ptxas.ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_source_compiles_without_spills(source: Path, architecture: str) -> None:
    """NVRTC takes each `.cu` file with the library's own options."""
    _gate(ptxas.from_cuda(source, architecture, modules.OPTIONS), source.read_text(encoding="utf-8"))


@pytest.mark.parametrize("architecture", ptxas.ARCHITECTURES)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_numba_kernel_compiles_without_spills(launcher: str, architecture: str) -> None:
    """Each kernel that a launcher lists in `device_kernels()` compiles to machine code."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: its kernels cannot be compiled")
    kernels = importlib.import_module(f"dilu_core.kernels.cuda.{launcher}").device_kernels()
    for function, signature in kernels.values():
        _gate(ptxas.from_numba(function, signature, architecture), "")


def test_the_gate_sees_spills_and_occupancy(tmp_path: Path) -> None:
    """A kernel that holds 48 doubles in blocks of 1024 threads spills, and the gate says so."""
    source = tmp_path / "spilling.cu"
    source.write_text(SPILLING)
    (found,) = ptxas.from_cuda(source, "sm_90", modules.OPTIONS)
    assert found.spills > 0
    assert _threads(SPILLING, "spilling") == 1024
    with pytest.raises(AssertionError, match="spills"):
        _gate([found], SPILLING)


def test_examples_of_the_cpu_header_are_cuda() -> None:
    """What the header executes on the CPU is accepted by NVIDIA's compiler too."""
    assert {"block_sums", "tickets"} <= {each.kernel for each in ptxas.from_cuda(EXAMPLES, "sm_90", modules.OPTIONS)}


def test_occupancy_of_known_kernels() -> None:
    """32 registers fill the multiprocessor; 64 leave half; a third of its shared memory leaves two blocks."""
    full = ptxas.Resources("k", "sm_90", 32, 0, 0, 0)
    assert full.occupancy(256) == 1.0
    assert ptxas.Resources("k", "sm_90", 64, 0, 0, 0).occupancy(256) == 0.5
    assert ptxas.Resources("k", "sm_90", 32, 0, 0, 100 * 1024).occupancy(128) == 2 * 4 / 64


def test_a_source_that_is_no_cuda_is_refused_with_the_compilers_words(tmp_path: Path) -> None:
    """The gate's error holds NVRTC's message."""
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void wrong(int* out) { out[0] = undeclared; }')
    with pytest.raises(AssertionError, match="undeclared"):
        ptxas.from_cuda(source, "sm_80", ())
