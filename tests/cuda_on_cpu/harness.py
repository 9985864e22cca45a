"""Builds a CUDA C++ kernel for the CPU (see cuda_on_cpu.h) and calls it with numpy arrays, as CuPy would on a GPU.

    kernel = build(source_path("joint"), "search")
    kernel((blocks,), (threads,), (values, np.int32(n), out), schedule=2)

Arrays that the kernel may write are written in place. Argument types are checked against the kernel's parameters, which
a GPU would not do; each array stands between guards, so that a write just outside is reported.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
SCHEDULES = (0, 1, 2)
"""In order, in reverse, random."""

_FLAGS = ("-std=gnu++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE")
_KERNEL = re.compile(
    r"__global__\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)"
)
_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+(?:(?:__align__|alignas)\s*\(\s*\d+\s*\)\s*)?([\w:\s]+?)\s+(\w+)\s*\[\s*\]\s*;"
)
_GUARD = 64
_GUARD_BYTE = 0xA5


class CudaOnCpuError(AssertionError):
    """The kernel did what it must not: a missed barrier, a divergent shuffle, a write outside its arrays."""


@dataclass(frozen=True)
class CpuKernel:
    """A kernel built for the CPU: call it with a grid, a block and the arguments of its parameters, in order."""

    name: str
    parameters: tuple[str, ...]
    _library: Any
    _index: int

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        schedule: int = 0,
        shared_bytes: int = 0,
        seed: int = 1,
    ) -> None:
        """Runs every block. Raises `TypeError` for arguments of other types, `CudaOnCpuError` for what went wrong."""
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments; {len(args)} came.")
        guarded = [_guarded(self.name, i, *each) for i, each in enumerate(zip(self.parameters, args, strict=True))]
        pointers = (ctypes.c_void_p * len(args))(*(each.address for each in guarded))
        sizes = [(ctypes.c_uint * 3)(*(*shape, 1, 1)[:3]) for shape in (grid, block)]
        message = ctypes.create_string_buffer(512)
        ok = self._library.cuda_on_cpu_run(
            self._index, *sizes, shared_bytes, schedule, ctypes.c_uint64(seed), pointers, message
        )
        for each in guarded:
            each.give_back(self.name)
        if not ok:
            raise CudaOnCpuError(f"{self.name}: {message.value.decode()}")


class _Argument:
    """The memory of one argument: a scalar's bytes, or an array's between two guards and a pointer to it."""

    def __init__(self, index: int, value: Any, pointer: str) -> None:
        self.index, self.value, self.pointer = index, value, pointer
        data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        self.memory = np.full(data.size + 2 * _GUARD, _GUARD_BYTE, np.uint8)
        self.memory[_GUARD : _GUARD + data.size] = data
        self.start = ctypes.c_void_p(self.memory.ctypes.data + _GUARD)
        self.address = ctypes.addressof(self.start) if pointer else self.start.value

    def give_back(self, kernel: str) -> None:
        """Copies what the kernel wrote into the caller's array; a written guard is an error."""
        if not self.pointer:
            return
        data = self.memory[_GUARD:-_GUARD]
        if np.any(self.memory[:_GUARD] != _GUARD_BYTE) or np.any(self.memory[-_GUARD:] != _GUARD_BYTE):
            raise CudaOnCpuError(f"{kernel}: argument {self.index} is written outside its {data.size} bytes")
        if self.pointer == "*":
            self.value[...] = data.view(self.value.dtype).reshape(self.value.shape)


def _guarded(kernel: str, index: int, parameter: str, value: Any) -> _Argument:
    pointer = parameter[0] if parameter[0] in "*&" else ""
    kind = parameter.removeprefix(pointer)
    expected = np.ndarray if pointer else np.generic
    if not isinstance(value, expected):
        raise TypeError(
            f"{kernel}: argument {index} is {type(value).__name__}; expected a {expected.__name__} of {kind}."
        )
    if pointer and not value.flags.c_contiguous:
        raise TypeError(f"{kernel}: argument {index} is not contiguous.")
    if f"{value.dtype.kind}{value.dtype.itemsize}" != kind and kind[0] != "V":
        raise TypeError(f"{kernel}: argument {index} is {value.dtype}; its parameter is {kind}.")
    return _Argument(index, value, pointer)


def build(source: Path, entry: str) -> CpuKernel:
    """The kernel `entry` of a `.cu` file: its name, or an instance of a template such as `"search<4>"`.

    Skips the test where there is no C++ compiler. A library is compiled once per content and kept in the temporary
    folder. Raises `CudaOnCpuError` with the compiler's messages.
    """
    text = source.read_text(encoding="utf-8")
    entries = _KERNEL.findall(
        re.sub(r"template\s*<[^>]*>\s*(extern[^_]*)?__global__[^(]*(\([^)]*\)\s*void[^(]*)?", "", text)
    )
    if entry not in entries:
        entries = [entry]
    library = _library(source, text, tuple(entries))
    index = entries.index(entry)
    library.cuda_on_cpu_signature.restype = ctypes.c_char_p
    parameters = library.cuda_on_cpu_signature(index).decode().split(";")[:-1]
    return CpuKernel(entry, tuple(parameters), library, index)


@functools.cache
def _compiler() -> str:
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "g++", "c++"))), None)
    if found is None:
        pytest.skip("no C++ compiler (g++): CUDA kernels cannot be executed on the CPU")
    return found


@functools.cache
def _library(source: Path, text: str, entries: tuple[str, ...]) -> ctypes.CDLL:
    program = _program(source, text, entries)
    headers = [*sorted(HERE.glob("*.h")), *sorted(source.parent.glob("*.cuh"))]
    parts = [program, _compiler(), *_FLAGS, *(header.read_text(encoding="utf-8") for header in headers)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"dilu-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / f"{source.stem}-{digest}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / built.name
            command = [_compiler(), *_FLAGS, "-w", "-x", "c++", f"-I{HERE}", f"-I{source.parent}", "-", "-o", str(made)]
            done = subprocess.run(command, input=program, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise CudaOnCpuError(f"{source.name} does not compile for the CPU:\n{done.stderr[:4000]}")
            made.replace(built)
    return ctypes.CDLL(str(built))


def _program(source: Path, text: str, entries: tuple[str, ...]) -> str:
    """The source behind the header, dynamic shared memory taken from the header's, and a door for `ctypes`."""
    body = _DYNAMIC.sub(r"\1* const \2 = reinterpret_cast<\1*>(::cuda_on_cpu::dynamic_shared());", text)
    runs = "\n".join(
        f"        case {i}: body = [](void** values) {{ cuda_on_cpu::call({name}, values); }}; break;"
        for i, name in enumerate(entries)
    )
    signatures = "\n".join(
        f"        case {i}: cuda_on_cpu::signature({name}, out); break;" for i, name in enumerate(entries)
    )
    return f"""#include "cuda_on_cpu.h"
#line 1 "{source.name}"
{body}
#line 1 "door"
extern "C" int cuda_on_cpu_run(int kernel, unsigned* grid, unsigned* block, unsigned shared_bytes, int schedule,
                               uint64_t seed, void** values, char* message) {{
    void (*body)(void**) = nullptr;
    switch (kernel) {{
{runs}
    }}
    bool ok = cuda_on_cpu::launch(dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), shared_bytes,
                                  schedule, seed, body, values);
    if (!ok) strcpy(message, cuda_on_cpu::failure);
    return ok;
}}
extern "C" const char* cuda_on_cpu_signature(int kernel) {{
    static char out[2048];
    switch (kernel) {{
{signatures}
    }}
    return out;
}}
"""
