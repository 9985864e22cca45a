"""One problem against the CPU before a CUDA kernel is first used: a device that answers otherwise is not used.

The module `dilu_core.kernels.cuda.<kernel>` registers its test with `@self_test("<kernel>")`:

    @self_test("joint")
    def _agrees_with_the_cpu() -> None:
        ...                       # run one small problem on both; raise AssertionError with what differs
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable

from dilu_core.kernels.backend import BackendUnavailableError
from dilu_core.kernels.cuda.device import require_device

Test = Callable[[], None]

_tests: dict[str, Test] = {}
_failures: dict[tuple[int, str], str] = {}
_testing = threading.RLock()


def self_test(kernel: str) -> Callable[[Test], Test]:
    """Registers a function that runs `kernel` on the GPU and raises where its answer is not the CPU's."""

    def register(test: Test) -> Test:
        _tests[kernel] = test
        return test

    return register


def ensure_tested(kernel: str) -> None:
    """Runs the self-test of `kernel` unless this process has; the outcome is remembered.

    Raises `BackendUnavailableError` where there is no device (with what was found), or the test failed (with how).
    """
    require_device()
    key = (os.getpid(), kernel)
    with _testing:
        if key not in _failures:
            _failures[key] = _failure(kernel)
        failure = _failures[key]
    if failure:
        raise BackendUnavailableError(f"the self-test of the CUDA kernel {kernel!r} failed on this device: {failure}")


def _failure(kernel: str) -> str:
    """How the self-test of `kernel` fails, or ""; any exception on the way is a failure of the device."""
    try:
        importlib.import_module(f"dilu_core.kernels.cuda.{kernel}")
        _tests[kernel]()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
