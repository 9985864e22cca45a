"""Kernels written in Python, compiled by numba-cuda once per process for signatures that are known beforehand."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dilu_core.kernels.backend import BackendUnavailableError

try:
    from numba import cuda
except ImportError as error:
    raise BackendUnavailableError(
        f"numba-cuda cannot be imported ({error}); pip install 'dilu_core[cuda13]'."
    ) from error


@dataclass(frozen=True)
class NumbaKernel:
    """A compiled kernel; `compile_s` seconds went into it."""

    dispatcher: Any
    compile_s: float

    def __call__(self, threads: int, block: int, arguments: Sequence[object]) -> None:
        """Launches at least `threads` threads in blocks of `block`, on the default stream, without waiting."""
        self.dispatcher[(threads + block - 1) // block, block](*arguments)


_kernels: dict[tuple[int, Callable[..., None]], NumbaKernel] = {}
_compiling = threading.Lock()


def numba_kernel(function: Callable[..., None], signature: str) -> NumbaKernel:
    """`function` compiled for the current device and `signature`, such as "void(float64[::1], int64)"."""
    key = (os.getpid(), function)
    with _compiling:
        if key not in _kernels:
            started = time.perf_counter()
            dispatcher = cuda.jit(signature)(function)
            _kernels[key] = NumbaKernel(dispatcher, time.perf_counter() - started)
        return _kernels[key]
