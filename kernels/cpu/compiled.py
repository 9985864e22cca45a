"""The two ways this library compiles a function, typed so that checkers still see the function itself.

Functions stay plain Python under NUMBA_DISABLE_JIT=1, which is how coverage and debuggers look inside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` compiled for one core, cached on disk, releasing the interpreter lock while it runs."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def compiled_parallel(function: F) -> F:
    """`function` compiled with `numba.prange` loops spread over all cores, cached on disk."""
    return cast(F, numba.njit(cache=True, nogil=True, parallel=True)(function))


def inlined(function: F) -> F:
    """A scalar formula compiled so that it dissolves into its caller (and, on a GPU, into the kernel)."""
    return cast(F, numba.njit(inline="always")(function))


def compiled_ieee(function: F) -> F:
    """`function` as by `compiled`, but dividing as IEEE 754 does: no branch for zero, so that loops are vectorised."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def compiled_ieee_parallel(function: F) -> F:
    """`function` as by `compiled_parallel`, but dividing as IEEE 754 does."""
    return cast(F, numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")(function))
