"""The back end of one public call: resolved once, at the door, and recorded in its stats."""

from __future__ import annotations

from collections.abc import Mapping

from dilu_core import _checks as check
from dilu_core.kernels.backend import BACKENDS, RunRecord, resolve_backend
from dilu_core.result import SolveStats


def resolved(backend: str, kernel: str = "", work: float = 0.0) -> str:
    """The back end that will run for the argument `backend`; `kernel` and `work` as in `resolve_backend`.

    Raises `InvalidArgumentError` for an unknown name and `BackendUnavailableError` for one that cannot run here.
    """
    named = check.choice("backend", backend, BACKENDS)
    try:
        return resolve_backend(named, kernel, work)
    except ValueError as error:  # about DILU_BACKEND
        check.fail("backend", f"is {named!r}, and {error}")


def stats_of(record: RunRecord, seconds: float, counts: Mapping[str, int]) -> SolveStats:
    """The stats of a solve whose kernel left `record`."""
    return SolveStats(seconds, record.backend, counts, record.device, record.chunks, record.compile_s)
