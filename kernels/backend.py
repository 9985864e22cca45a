"""Choice of back end: "auto", "cpu" or "cuda", resolved once per public call and recorded in its stats."""

from __future__ import annotations

import os
from typing import Literal

Backend = Literal["auto", "cpu", "cuda"]

_CHOICES = ("auto", "cpu", "cuda")


class BackendUnavailableError(RuntimeError):
    """A back end was asked for by name and cannot run here; the message says what was found."""


def resolve_backend(backend: str) -> Literal["cpu"]:
    """The back end that will run. This version ships CPU kernels only, so the answer is `"cpu"` or an error.

    `"auto"` follows the environment variable DILU_BACKEND where it is set. Raises `ValueError` for an unknown name and
    `BackendUnavailableError` for `"cuda"`.
    """
    asked_by, asked = "backend", backend
    if backend == "auto" and os.environ.get("DILU_BACKEND"):
        asked_by, asked = "DILU_BACKEND", os.environ["DILU_BACKEND"]
    if asked not in _CHOICES:
        raise ValueError(f"{asked_by} is {asked!r}; expected one of {', '.join(_CHOICES)}.")
    if asked == "cuda":
        raise BackendUnavailableError(
            f"{asked_by} is 'cuda', but this version of dilu_core has CPU kernels only; use 'auto' or 'cpu'."
        )
    return "cpu"
