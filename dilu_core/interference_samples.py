"""InterferenceSamples: latencies of functions measured beside each other on one GPU, and how they are read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.csv_tables import bad, number, share_milli, table_rows, whole_number
from dilu_core.errors import FileFormatError
from dilu_core.samples import failed_latencies
from dilu_core.units import FULL_GPU_MILLI, demand_milli

_VERSION = 1
_NAMES = ("function", "co_function")
_COUNTS = ("batch", "sm_milli", "co_batch", "co_sm_milli")
_COLUMNS = ("function", "batch", "sm_milli", "co_function", "co_batch", "co_sm_milli", "latency_ms", "co_latency_ms")


@dataclass(frozen=True, eq=False)
class InterferenceSamples:
    """Batch latencies of one function while another, the neighbour, runs on the same GPU without a pause.

    Parameters
    ----------
    function, co_function
        `(n,)` names of the function and of its neighbour.
    batch, co_batch
        `(n,)` samples per batch, integers of at least 1.
    sm_milli, co_sm_milli
        `(n,)` share that each may use, milli-GPU, integers 1..1000.
    latency_ms
        `(n,)` latency of one batch of `function`, positive.
    co_latency_ms
        `(n,)` latency of the neighbour's batch; NaN where a row has none. `None`: not measured.
    gpu_type
        What it was measured on. May be empty.
    dropped
        How many failed measurements were removed on the way here.

    May be empty: no pair was measured. Raises `InvalidArgumentError` naming the column and row, for columns of unequal
    length or a value outside its range.
    """

    function: tuple[str, ...]
    batch: NDArray[np.int64]
    sm_milli: NDArray[np.int64]
    co_function: tuple[str, ...]
    co_batch: NDArray[np.int64]
    co_sm_milli: NDArray[np.int64]
    latency_ms: NDArray[np.float64]
    co_latency_ms: NDArray[np.float64] | None = None
    gpu_type: str = field(default="", kw_only=True)
    dropped: int = field(default=0, kw_only=True)

    if TYPE_CHECKING:  # the columns are stored as arrays, and made from anything array-like

        def __init__(
            self,
            function: Sequence[str],
            batch: ArrayLike,
            sm_milli: ArrayLike,
            co_function: Sequence[str],
            co_batch: ArrayLike,
            co_sm_milli: ArrayLike,
            latency_ms: ArrayLike,
            co_latency_ms: ArrayLike | None = None,
            *,
            gpu_type: str = "",
            dropped: int = 0,
        ) -> None: ...

    def __post_init__(self) -> None:
        put = object.__setattr__
        latency = _positive("latency_ms", self.latency_ms, missing=False)
        put(self, "latency_ms", latency)
        for name in _NAMES:
            put(self, name, _name_column(name, getattr(self, name)))
        for name in _COUNTS:
            most = FULL_GPU_MILLI if name.endswith("sm_milli") else None
            put(self, name, check.int_column(name, getattr(self, name), at_least=1, at_most=most))
        if self.co_latency_ms is not None:
            put(self, "co_latency_ms", _positive("co_latency_ms", self.co_latency_ms, missing=True))
        for name in _COLUMNS:
            column = getattr(self, name)
            if column is not None and len(column) != latency.size:
                check.fail(name, f"has {len(column)} rows, latency_ms has {latency.size}; expected equally many.")
        check.text("gpu_type", self.gpu_type, empty=True)
        put(self, "dropped", check.integer("dropped", self.dropped, at_least=0))

    def directed(self) -> InterferenceSamples:
        """Every measurement as a row of its own: each neighbour's latency becomes a row with the two changed over."""
        if self.co_latency_ms is None:
            return self
        rows = np.flatnonzero(~np.isnan(self.co_latency_ms))
        return InterferenceSamples(
            self.function + tuple(self.co_function[row] for row in rows),
            np.concatenate([self.batch, self.co_batch[rows]]),
            np.concatenate([self.sm_milli, self.co_sm_milli[rows]]),
            self.co_function + tuple(self.function[row] for row in rows),
            np.concatenate([self.co_batch, self.batch[rows]]),
            np.concatenate([self.co_sm_milli, self.sm_milli[rows]]),
            np.concatenate([self.latency_ms, self.co_latency_ms[rows]]),
            gpu_type=self.gpu_type,
            dropped=self.dropped,
        )

    def select(self, rows: Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]) -> InterferenceSamples:
        """The rows picked by indices or a mask, in that order. Raises `InvalidArgumentError` if they do not fit."""
        try:
            picked = np.arange(len(self))[np.asarray(rows, dtype=None if np.size(rows) else np.int64)]
        except IndexError as error:
            check.fail("rows", f"do not pick from {len(self)} rows: {error}.")
        columns = {name: getattr(self, name)[picked] for name in (*_COUNTS, "latency_ms")}
        columns |= {name: tuple(getattr(self, name)[row] for row in picked) for name in _NAMES}
        beside = None if self.co_latency_ms is None else self.co_latency_ms[picked]
        return InterferenceSamples(**columns, co_latency_ms=beside, gpu_type=self.gpu_type, dropped=self.dropped)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back; an unmeasured latency is null."""
        beside = None
        if self.co_latency_ms is not None:
            beside = [None if math.isnan(value) else value for value in self.co_latency_ms.tolist()]
        return {
            "version": _VERSION,
            **{name: list(getattr(self, name)) for name in _NAMES},
            **{name: getattr(self, name).tolist() for name in (*_COUNTS, "latency_ms")},
            "co_latency_ms": beside,
            "gpu_type": self.gpu_type,
            "dropped": self.dropped,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> InterferenceSamples:
        """The samples `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("interference_samples", data, version=_VERSION)
        optional = ("co_latency_ms", "gpu_type", "dropped")
        return check.build("interference_samples", document, cls, required=_COLUMNS[:-1], optional=optional)

    def __len__(self) -> int:
        return int(self.latency_ms.size)

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, InterferenceSamples) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.function, self.co_function, self.latency_ms.tobytes()))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore after pickling, which forgets that the columns are read-only."""
        check.restore(self, state)


_REQUIRED = ("function", "batch", "co_function", "co_batch", "latency_ms")
_KNOWN = (*_COLUMNS, "sm_share", "co_sm_share", "gpu_type")
_ALSO_NAMED = {"model": "function", "co_model": "co_function", "gpu": "gpu_type"}


def read_interference(path: str | os.PathLike[str], *, gpu_type: str | None = None) -> InterferenceSamples:
    """Pairs measured beside each other, from a CSV table with one pair a row.

    The header names the columns `function, batch, sm_milli, co_function, co_batch, co_sm_milli, latency_ms` and
    optionally `co_latency_ms` and `gpu_type`, in any order; other columns are ignored, as are blank lines and lines
    that start with `#`. Published tables are read as they are: `model`, `co_model` and `gpu` stand for `function`,
    `co_function` and `gpu_type`, and a share may be a fraction of a GPU, `sm_share` and `co_sm_share`, which is rounded
    up to the next milli-GPU once float noise is off.

    A row whose latency failed (empty, NaN, not positive or 9999) is dropped and counted in `.dropped`: perhaps nothing
    ran there, and then the neighbour's latency is no measurement beside it either. `gpu_type` keeps only the rows of
    that GPU type; `None` keeps all, and several types in one table are an error.

    Raises `FileFormatError` with path and line: no header, a missing column, a value that is no number or out of range,
    several GPU types, a table without a measurement. `OSError` if the file cannot be opened.
    """
    where = os.fspath(path)
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    found_type: str | None = None
    dropped = read = 0
    for line, fields in table_rows(where, _REQUIRED, _KNOWN, also_named=_ALSO_NAMED):
        row = _row(where, line, fields)
        measured_on = fields.get("gpu_type", "")
        if gpu_type is not None and measured_on != gpu_type:
            continue
        if found_type is not None and measured_on != found_type:
            bad(where, line, f"measured on {measured_on!r}, rows above on {found_type!r}; choose one with gpu_type=...")
        found_type = measured_on
        read += 1
        if failed_latencies(np.array([row["latency_ms"]]))[0]:
            dropped += 1
            continue
        if failed_latencies(np.array([row["co_latency_ms"]]))[0]:
            row["co_latency_ms"] = math.nan
        for name in _COLUMNS:
            columns[name].append(row[name])
    if read == dropped:
        chosen = "" if gpu_type is None else f" with gpu_type={gpu_type!r}"
        failures = f" ({dropped} failed)" if dropped else ""
        raise FileFormatError(where, f"no measurement{chosen or ' in it'}{failures}")
    if np.isnan(columns["co_latency_ms"]).all():
        columns["co_latency_ms"] = None  # type: ignore[assignment]
    return InterferenceSamples(**columns, gpu_type=found_type or "", dropped=dropped)


def _row(where: str, line: int, fields: dict[str, str]) -> dict[str, Any]:
    for name in _NAMES:
        if not fields[name]:
            bad(where, line, f"{name} is empty")
    return {
        **{name: fields[name] for name in _NAMES},
        **{name: whole_number(where, line, name, fields[name]) for name in ("batch", "co_batch")},
        **{f"{side}sm_milli": _share(where, line, side, fields) for side in ("", "co_")},
        **{name: number(where, line, name, fields.get(name, "")) for name in ("latency_ms", "co_latency_ms")},
    }


def _share(where: str, line: int, side: str, fields: dict[str, str]) -> int:
    milli, fraction = f"{side}sm_milli", f"{side}sm_share"
    if (milli in fields) == (fraction in fields):
        bad(where, line, f"expected one of the columns {milli} and {fraction} in the header; found {', '.join(fields)}")
    if milli in fields:
        return share_milli(where, line, milli, fields[milli])
    share = number(where, line, fraction, fields[fraction])
    rounded = demand_milli(share) if 0 < share <= 2 else 0
    if not 1 <= rounded <= FULL_GPU_MILLI:
        bad(where, line, f"{fraction} is {fields[fraction]!r}; expected a fraction of a GPU above 0 and at most 1")
    return rounded


def _name_column(argument: str, values: object) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
        check.fail(argument, f"is {values!r:.80}; expected a sequence of names.")
    return tuple(check.text(f"{argument}[{i}]", str(v) if isinstance(v, np.str_) else v) for i, v in enumerate(values))


def _positive(argument: str, values: object, *, missing: bool) -> NDArray[np.float64]:
    column = check.float_column(argument, values)
    wrong = ~(np.isfinite(column) & (column > 0)) & ~(np.isnan(column) & missing)
    if wrong.any():
        row = int(np.argmax(wrong))
        check.fail(f"{argument}[{row}]", f"is {float(column[row])}; latencies must be positive.")
    return column
