"""Registers, spills and shared memory of CUDA kernels, compiled by NVIDIA's own assembler without a driver.

CUDA C++ goes through NVRTC, the PTX of a numba-cuda kernel through nvJitLink: both hold ptxas, and print what it says.
The libraries are those of the pip packages `nvidia-cuda-nvrtc` and `nvidia-nvjitlink`, or a CUDA toolkit's.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

ARCHITECTURES = ("sm_80", "sm_90")

_SHARED_KIB = {"sm_80": 164, "sm_90": 228}
"""Shared memory of a multiprocessor. CUDA C++ Programming Guide, technical specifications per compute capability."""
_WARPS, _REGISTERS, _REGISTER_UNIT, _RESERVED_BYTES = 64, 65536, 256, 1024

_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<architecture>\w+)'(?P<rest>.*?)(?=Compiling|\Z)", re.S
)
_PTX_INPUT = 2


@dataclass(frozen=True)
class Resources:
    """What one kernel takes: `registers` per thread; `stack`, `spills` (stores and loads), `shared`: bytes."""

    kernel: str
    architecture: str
    registers: int
    stack: int
    spills: int
    shared: int

    def occupancy(self, threads: int) -> float:
        """Share of a multiprocessor's 64 warps that blocks of `threads` keep resident (no dynamic shared memory)."""
        warps = -(-threads // 32)
        per_warp = -(-32 * self.registers // _REGISTER_UNIT) * _REGISTER_UNIT
        by_shared = _SHARED_KIB[self.architecture] * 1024 // (self.shared + _RESERVED_BYTES)
        blocks = min(_WARPS // warps, _REGISTERS // per_warp // warps, by_shared, 32)
        return blocks * warps / _WARPS


def from_cuda(source: Path, architecture: str, options: tuple[str, ...]) -> list[Resources]:
    """The resources of every kernel of a `.cu` file; `AssertionError` with the compiler's log where it refuses."""
    nvrtc = _library("nvrtc", "nvidia-cuda-nvrtc", before="nvrtc-builtins")
    program = ctypes.c_void_p()
    text = source.read_text(encoding="utf-8").encode()
    _succeed(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None))
    flags = [each.encode() for each in (f"--gpu-architecture={architecture}", "--ptxas-options=-v", *options)]
    status = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
    log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0, f"{source.name} does not compile for {architecture}:\n{log}"
    return _parsed(log)


def from_numba(function: Callable[..., None], signature: str, architecture: str) -> list[Resources]:
    """The resources of a numba-cuda kernel, given as the plain Python function and its signature."""
    linker = _library("nvJitLink", "nvidia-nvjitlink")
    ptx = _ptx(function, signature)
    handle = ctypes.c_void_p()
    flags = [f"-arch={architecture}".encode(), b"-verbose", b"-Xptxas=-v"]
    text = ptx.encode() + b"\0"
    _succeed(linker.nvJitLinkCreate(ctypes.byref(handle), len(flags), (ctypes.c_char_p * len(flags))(*flags)))
    _succeed(linker.nvJitLinkAddData(handle, _PTX_INPUT, text, ctypes.c_size_t(len(text)), b"kernel.ptx"))
    status = linker.nvJitLinkComplete(handle)
    log = _text(linker.nvJitLinkGetInfoLogSize, linker.nvJitLinkGetInfoLog, handle)
    error = _text(linker.nvJitLinkGetErrorLogSize, linker.nvJitLinkGetErrorLog, handle)
    linker.nvJitLinkDestroy(ctypes.byref(handle))
    assert status == 0, f"{function.__name__} does not assemble for {architecture}:\n{error}"
    return _parsed(log)


@functools.cache
def _ptx(function: Callable[..., None], signature: str) -> str:
    """PTX for the oldest of the architectures, which the assembler takes for all: numba needs many seconds for it."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: its kernels cannot be compiled")
    from numba.core import config
    from numba.core.sigutils import normalize_signature
    from numba.cuda.compiler import compile as compiled_for

    if getattr(config, "DISABLE_JIT", 0):
        pytest.skip("NUMBA_DISABLE_JIT is set: nothing is compiled")
    types, _ = normalize_signature(signature)
    capability = (int(ARCHITECTURES[0][3:]) // 10, int(ARCHITECTURES[0][3:]) % 10)
    # functions that the kernel calls are compiled for "the current device", which a machine without a driver lacks
    with mock.patch("numba.cuda.dispatcher.get_current_device") as current:
        current.return_value.compute_capability = capability
        ptx, _ = compiled_for(function, types, cc=capability, device=False, output="ptx", abi="numba", fastmath=False)
    return str(ptx)


def _parsed(log: str) -> list[Resources]:
    found = []
    for match in _KERNEL.finditer(log):
        rest = match["rest"]
        spilled = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", rest)
        used = re.search(r"Used (\d+) registers", rest)
        assert spilled is not None, f"no line of spills in:\n{rest}"
        assert used is not None, f"no line of registers in:\n{rest}"
        shared = re.search(r"(\d+) bytes smem", rest)
        stack, stores, loads = map(int, spilled.groups())
        found.append(
            Resources(
                match["name"],
                match["architecture"],
                int(used[1]),
                stack,
                stores + loads,
                int(shared[1]) if shared else 0,
            )
        )
    return found


def _text(size_of: Any, read: Any, handle: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    _succeed(size_of(handle, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value + 1)
    _succeed(read(handle, buffer))
    return buffer.value.decode()


def _succeed(status: int) -> None:
    assert status == 0, f"the compiler's library answers {status}"


@functools.cache
def _library(name: str, package: str, before: str = "") -> ctypes.CDLL:
    """The shared library of a pip package, or the system's; `before` is one it expects to be loaded.

    Skips the test where there is neither.
    """
    try:
        if before:
            _loaded(before, package)
        return _loaded(name, package)
    except OSError as error:
        pytest.skip(f"no CUDA compiler: pip install {package} ({error})")


def _loaded(name: str, package: str) -> ctypes.CDLL:
    return ctypes.CDLL(_in_package(f"lib{name}.so", package) or f"lib{name}.so")


def _in_package(library: str, package: str) -> str:
    """The path of a library that a pip package installed, or ""."""
    try:
        files = metadata.files(package) or ()
    except metadata.PackageNotFoundError:
        return ""
    paths = (str(file.locate()) for file in files if file.name.startswith(library) and ".alt." not in file.name)
    return next(paths, "")
