"""The back end of one public call: resolved once, at the door, and recorded in its stats."""

from __future__ import annotations

from dilu_core import _checks as check
from dilu_core.kernels.backend import resolve_backend


def resolved(backend: str) -> str:
    """The back end that will run for the argument `backend`.

    Raises `InvalidArgumentError` for an unknown name and `BackendUnavailableError` for one that cannot run here.
    """
    named = check.text("backend", backend)
    try:
        return resolve_backend(named)
    except ValueError as error:
        check.fail("backend", f"cannot be resolved: {error}")
