"""The ways this library compiles a function, typed so that checkers still see the function itself.

Functions stay plain Python under NUMBA_DISABLE_JIT=1, which is how coverage and debuggers look inside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core.options import DefaultOptions

F = TypeVar("F", bound=Callable[..., object])

# Said either way, because callees that do not say inherit it from their callers. An option that numba does not promise:
# where it is gone, references are counted.
_COUNTED: dict[str, Any] = {"_nrt": True} if hasattr(DefaultOptions, "_nrt") else {}
_UNCOUNTED: dict[str, Any] = dict.fromkeys(_COUNTED, False)


def compiled(function: F) -> F:
    """`function` compiled for one core, cached on disk, releasing the interpreter lock while it runs."""
    return cast(F, numba.njit(cache=True, nogil=True, **_COUNTED)(function))


def compiled_in_place(function: F) -> F:
    """`function` as by `compiled`, without counting references to arrays: for one that is called often.

    numba counts them by atomic increments wherever an array changes hands: a third of the time of a replay. It can do
    without where nothing is allocated or returned but numbers: in a function that works in place, on arrays of its
    caller. One that allocates (also by assigning an array to a slice) does not compile. It must call nothing that
    returns an array either: that one would never be freed.
    """
    return cast(F, numba.njit(cache=True, nogil=True, **_UNCOUNTED)(function))


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
