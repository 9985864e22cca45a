"""Kernels written in Python, compiled by numba-cuda once per process for signatures that are known beforehand."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from dilu_core.kernels.backend import BackendUnavailableError

try:
    from numba import cuda as _cuda
except ImportError as error:
    raise BackendUnavailableError(
        f"numba-cuda cannot be imported ({error}); pip install 'dilu_core[cuda13]'."
    ) from error


cuda: Any = _cuda
"""`numba.cuda`, whose names type checkers do not know."""

_kernels: dict[tuple[int, Callable[..., None]], Any] = {}
_compiling = threading.Lock()


def numba_kernel(function: Callable[..., None], signature: str) -> tuple[Any, float]:
    """`function` compiled for `signature` ("void(float64[::1], int64)") and this device, and the seconds that took.

    0 where this process had compiled it before.
    """
    key = (os.getpid(), function)
    started = time.perf_counter()
    with _compiling:
        if key in _kernels:
            return _kernels[key], 0.0
        _kernels[key] = cuda.jit(signature)(function)
    return _kernels[key], time.perf_counter() - started


def launch(kernel: Any, threads: int, block: int, arguments: Sequence[object]) -> None:
    """Starts at least `threads` threads of `kernel` in blocks of `block`, on the default stream, without waiting."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grid size")  # a small problem leaves the GPU idle; the caller knows
        kernel[(threads + block - 1) // block, block](*arguments)
