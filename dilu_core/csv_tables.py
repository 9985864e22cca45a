"""Tables of measurements on disk: CSV with named columns, read row by row, every fault with its path and line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from dilu_core import _checks as check
from dilu_core.errors import FileFormatError
from dilu_core.units import FULL_GPU_MILLI


def table_rows(
    where: str, required: Sequence[str], known: Sequence[str], *, also_named: dict[str, str] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, column name -> stripped text) for every row of the CSV file `where`.

    The header must name every column of `required`, and none of `known` twice; other columns come along unread. A
    column may stand under another name, which `also_named` maps to the one asked for. Blank lines and lines that start
    with `#` are skipped. UTF-8, with or without a byte order mark. Raises `FileFormatError` with path and line.
    """
    try:
        text = Path(where).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(where, f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if "\0" in text:
        raise FileFormatError(where, "is not a text file (it holds NUL bytes)")
    reader = csv.reader(_uncommented(text.split("\n")), strict=True)
    header: list[str] | None = None
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = _header(where, fields, reader.line_num, required, known, also_named or {})
            elif len(fields) != len(header):
                bad(where, reader.line_num, f"{len(fields)} fields under a header of {len(header)}")
            else:
                yield reader.line_num, dict(zip(header, map(str.strip, fields), strict=True))
    except csv.Error as error:
        raise FileFormatError(where, f"is not well-formed CSV: {error}", reader.line_num) from error
    if header is None:
        raise FileFormatError(where, f"is empty; expected a header with {', '.join(required)}")


def _uncommented(lines: Iterable[str]) -> Iterator[str]:
    """Comment lines become blank ones, so that line numbers stay true."""
    return ("" if line.lstrip().startswith("#") else line for line in lines)


def _header(
    where: str, fields: list[str], line: int, required: Sequence[str], known: Sequence[str], also_named: dict[str, str]
) -> list[str]:
    header = [also_named.get(field.strip(), field.strip()) for field in fields]
    missing = [name for name in required if name not in header]
    if missing:
        bad(where, line, f"no column {', '.join(missing)} in the header; found {', '.join(map(str.strip, fields))}")
    for name in known:
        if header.count(name) > 1:
            bad(where, line, f"column {name} stands twice in the header")
    return header


def number(where: str, line: int, name: str, text: str) -> float:
    """The number in `text`; NaN for an empty field."""
    if not text:
        return math.nan
    try:
        return float(text)
    except ValueError:
        bad(where, line, f"{name} is {text!r}; expected a number")


def whole_number(where: str, line: int, name: str, text: str) -> int:
    """The whole number of at least 1 in `text`."""
    return _whole(where, line, name, text, check.LARGEST, "of at least 1")


def share_milli(where: str, line: int, name: str, text: str) -> int:
    """The share in milli-GPU in `text`."""
    return _whole(where, line, name, text, FULL_GPU_MILLI, f"between 1 and {FULL_GPU_MILLI} (milli-GPU)")


def _whole(where: str, line: int, name: str, text: str, greatest: int, span: str) -> int:
    value = number(where, line, name, text)
    if not value.is_integer() or not 1 <= value <= greatest:
        bad(where, line, f"{name} is {text!r}; expected a whole number {span}")
    return int(value)


def bad(where: str, line: int, message: str) -> NoReturn:
    """Raise the error that names path and line."""
    raise FileFormatError(where, message, line)
