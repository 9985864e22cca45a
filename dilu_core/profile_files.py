"""Profile tables on disk: CSV with one measurement a row, read into ProfileSamples per function."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dilu_core import _checks as check
from dilu_core.csv_tables import bad, number, share_milli, table_rows, whole_number
from dilu_core.errors import FileFormatError
from dilu_core.samples import ProfileSamples, failed_latencies

_REQUIRED = ("function", "batch", "sm_milli", "latency_ms")
_OPTIONAL = ("memory_mib", "note", "gpu_type")


@dataclass(frozen=True)
class _Row:
    line: int
    function: str
    batch: int
    sm_milli: int
    latency_ms: float
    memory_mib: float
    note: str
    gpu_type: str


def read_profiles(
    path: str | os.PathLike[str],
    *,
    note: str | None = None,
    gpu_type: str | None = None,
    failed: Literal["drop", "error"] = "drop",
) -> dict[str, ProfileSamples]:
    """Samples of every function in a CSV table, in order of first appearance.

    The header names the columns `function, batch, sm_milli, latency_ms` and optionally `memory_mib`, `note` and
    `gpu_type`, in any order; other columns are ignored, as are blank lines and lines that start with `#`. UTF-8, with
    or without a byte order mark.

    Parameters
    ----------
    note
        Keep only the rows with exactly this note (`"n_proc=1"`; `""` for rows without one). `None` keeps all, but a
        (function, batch, share) cell whose rows carry different notes was measured under different conditions, and
        mixing these is an error.
    gpu_type
        Keep only the rows of this GPU type. `None` keeps all; a function measured on several types is an error.
    failed
        What to do with failed measurements (latency empty, NaN, zero, negative or 9999): `"drop"` them, with the
        count in `.dropped` of each function's samples, or refuse the file with `"error"`.

    Raises
    ------
    FileFormatError
        With path and line: no header, a missing column, a value that is no number or out of range, mixed notes or GPU
        types, a function whose every row failed, a selection that leaves nothing.
    OSError
        If the file cannot be opened.
    """
    check.choice("failed", failed, ("drop", "error"))
    where = os.fspath(path)
    rows = [row for row in _rows(where) if note is None or row.note == note]
    rows = [row for row in rows if gpu_type is None or row.gpu_type == gpu_type]
    if not rows:
        chosen = [f"{name}={value!r}" for name, value in (("note", note), ("gpu_type", gpu_type)) if value is not None]
        raise FileFormatError(
            where, f"no measurement with {' and '.join(chosen)}" if chosen else "no measurement in it"
        )
    by_function: dict[str, list[_Row]] = {}
    for row in rows:
        by_function.setdefault(row.function, []).append(row)
    return {function: _samples(where, function, own, failed) for function, own in by_function.items()}


def _samples(where: str, function: str, rows: list[_Row], failed: str) -> ProfileSamples:
    _refuse_mixtures(where, function, rows)
    latency = np.array([row.latency_ms for row in rows])
    lost = failed_latencies(latency)
    if lost.any() and failed == "error":
        row = rows[int(np.argmax(lost))]
        raise FileFormatError(where, f"failed measurement of {function!r}: latency_ms is {row.latency_ms:g}", row.line)
    if lost.all():
        raise FileFormatError(where, f"every measurement of function {function!r} failed", rows[0].line)
    memory = np.array([row.memory_mib for row in rows])
    return ProfileSamples.drop_failed(
        np.array([row.batch for row in rows]),
        np.array([row.sm_milli for row in rows]),
        latency,
        memory_mib=None if np.isnan(memory).all() else memory,
        function=function,
        gpu_type=rows[0].gpu_type,
    )


def _refuse_mixtures(where: str, function: str, rows: list[_Row]) -> None:
    """Rows of one cell under different notes, or of one function on different GPUs, are different experiments."""
    note_of: dict[tuple[int, int], str] = {}
    for row in rows:
        first = note_of.setdefault((row.batch, row.sm_milli), row.note)
        if row.note != first:
            raise FileFormatError(
                where,
                f"{function!r} at batch {row.batch}, share {row.sm_milli} has rows noted {first!r} and {row.note!r}; "
                "choose one with note=...",
                row.line,
            )
        if row.gpu_type != rows[0].gpu_type:
            raise FileFormatError(
                where,
                f"{function!r} is measured on {rows[0].gpu_type!r} and {row.gpu_type!r}; choose one with gpu_type=...",
                row.line,
            )


def _rows(where: str) -> Iterator[_Row]:
    return (_row(where, line, fields) for line, fields in table_rows(where, _REQUIRED, _REQUIRED + _OPTIONAL))


def _row(where: str, line: int, fields: dict[str, str]) -> _Row:
    if not fields["function"]:
        bad(where, line, "function is empty")
    latency_ms = number(where, line, "latency_ms", fields["latency_ms"])
    memory = number(where, line, "memory_mib", fields.get("memory_mib", ""))
    if failed_latencies(np.array([latency_ms]))[0]:
        memory = math.nan  # a run that failed, perhaps for lack of memory, says nothing of it
    if not math.isnan(memory) and not (math.isfinite(memory) and memory > 0):
        bad(where, line, f"memory_mib is {fields['memory_mib']!r}; expected a positive number or nothing")
    return _Row(
        line=line,
        function=fields["function"],
        batch=whole_number(where, line, "batch", fields["batch"]),
        sm_milli=share_milli(where, line, "sm_milli", fields["sm_milli"]),
        latency_ms=latency_ms,
        memory_mib=memory,
        note=fields.get("note", ""),
        gpu_type=fields.get("gpu_type", ""),
    )
