"""CUDA C++ sources of this folder, compiled once per process and device through CuPy's NVRTC."""

from __future__ import annotations

import os
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dilu_core.kernels.backend import BackendUnavailableError
from dilu_core.kernels.cuda.device import require_device

FOLDER = Path(__file__).resolve().parent

OPTIONS = ("--std=c++17", "-lineinfo", "--fmad=false", f"-I{FOLDER}")
"""No fused multiply-add: a kernel rounds as its CPU path does, so that both choose the same answer.

CuPy adds `-ftz=true`: single-precision numbers below 1e-38 are 0 on the GPU only. What must agree to the bit is an
integer or a double.
"""


@dataclass(frozen=True)
class Module:
    """A loaded source: `compile_s` seconds went into compiling it (near 0 where CuPy had it in its cache on disk)."""

    source: str
    compile_s: float
    raw: Any

    def function(self, name: str) -> Any:
        """The kernel `name` (declared `extern "C"`): called as `function(grid, block, arguments, shared_mem=bytes)`."""
        return self.raw.get_function(name)


_modules: dict[tuple[int, int, str], Module] = {}
_compiling = threading.Lock()


def source_path(source: str) -> Path:
    """The file of the source with the stem `source`."""
    return FOLDER / f"{source}.cu"


def module(source: str) -> Module:
    """The module compiled from `source`, the stem of a `.cu` file in this folder, for the current device.

    Raises `BackendUnavailableError` where there is no device, or with the compiler's log where it refuses the source.
    """
    require_device()
    import cupy

    key = (os.getpid(), int(cupy.cuda.runtime.getDevice()), source)
    with _compiling:
        if key not in _modules:
            _modules[key] = _compiled(cupy, source)
        return _modules[key]


def _compiled(cupy: Any, source: str) -> Module:
    started = time.perf_counter()
    text = source_path(source).read_text(encoding="utf-8")
    raw = cupy.RawModule(code=text, options=(*OPTIONS, f"-DDILU_HEADERS={_headers_checksum()}"))
    try:
        raw.compile()
    except cupy.cuda.compiler.CompileException as error:
        raise BackendUnavailableError(f"{source}.cu does not compile here: {error}") from error
    return Module(source, time.perf_counter() - started, raw)


def _headers_checksum() -> int:
    """A number that changes with any header beside the sources: CuPy's cache on disk knows the source's text only."""
    checksum = 0
    for header in sorted(FOLDER.glob("*.cuh")):
        checksum = zlib.crc32(header.read_bytes(), checksum)
    return checksum
