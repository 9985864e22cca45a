"""Errors are for misuse: they name the argument, what was expected and what came.

A slow solve, an infeasible SLO or missing data is a result, never an error (see `dilu_core.result`).
"""

from dilu_core.kernels.backend import BackendUnavailableError, DeviceMemoryError

__all__ = [
    "BackendUnavailableError",
    "DeviceMemoryError",
    "DiluError",
    "FileFormatError",
    "InvalidArgumentError",
    "StateError",
]


class DiluError(Exception):
    """Base of every error that this library raises on purpose."""


class InvalidArgumentError(DiluError, ValueError):
    """An argument broke its contract. `argument` is its name, with the index where one element is at fault."""

    def __init__(self, argument: str, message: str) -> None:
        super().__init__(argument, message)
        self.argument = argument
        self.message = message

    def __str__(self) -> str:
        return f"{self.argument} {self.message}"


class FileFormatError(DiluError, ValueError):
    """A file could not be understood. `path` and `line` (1-based, `None` if unknown) say where."""

    def __init__(self, path: str, message: str, line: int | None = None) -> None:
        super().__init__(path, message, line)
        self.path = path
        self.line = line
        self.message = message

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.message}"


class StateError(DiluError, RuntimeError):
    """An operation does not fit the present state (removing an unknown instance, applying a stale plan)."""
