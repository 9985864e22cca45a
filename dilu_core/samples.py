"""ProfileSamples: measured latencies of one function over batch size and SM share, as read-only columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.units import FULL_GPU_MILLI

_VERSION = 1
FAILURE_CODES: tuple[float, ...] = (0.0, -1.0, 9999.0)
"""Values that profilers write in place of a latency when a run failed."""


@dataclass(frozen=True, eq=False)
class ProfileSamples:
    """Measured batch latencies of one function.

    Parameters
    ----------
    batch
        `(n,)` samples per batch, integers of at least 1. Rows may come in any order and repeat.
    sm_milli
        `(n,)` share of the GPU's SMs in milli-GPU, integers 1..1000.
    latency_ms
        `(n,)` latency of one batch, finite and positive.
    memory_mib
        `(n,)` GPU memory in use, positive; NaN where a row has none. `None`: not measured.
    function, gpu_type
        What was measured, and on what. Any text, may be empty.
    dropped
        How many failed measurements were removed on the way here.
    failure_codes
        Latencies that stand for failed runs and are refused. Pass `()` where, say, 9999 ms is a true latency.

    Raises
    ------
    InvalidArgumentError
        Naming the column and row, for columns that are empty, of unequal length, or hold a value outside its range.
    """

    batch: NDArray[np.int64]
    sm_milli: NDArray[np.int64]
    latency_ms: NDArray[np.float64]
    memory_mib: NDArray[np.float64] | None = field(default=None, kw_only=True)
    function: str = field(default="", kw_only=True)
    gpu_type: str = field(default="", kw_only=True)
    dropped: int = field(default=0, kw_only=True)
    failure_codes: InitVar[Sequence[float]] = field(default=FAILURE_CODES, kw_only=True)

    if TYPE_CHECKING:  # the columns are stored as arrays, and made from anything array-like

        def __init__(
            self,
            batch: ArrayLike,
            sm_milli: ArrayLike,
            latency_ms: ArrayLike,
            *,
            memory_mib: ArrayLike | None = None,
            function: str = "",
            gpu_type: str = "",
            dropped: int = 0,
            failure_codes: Sequence[float] = FAILURE_CODES,
        ) -> None: ...

    def __post_init__(self, failure_codes: Sequence[float]) -> None:
        latency = check.float_column("latency_ms", self.latency_ms)
        if latency.size == 0:
            check.fail("latency_ms", "is empty; at least one measurement is needed.")
        _same_length("batch", self.batch, latency.size)
        _same_length("sm_milli", self.sm_milli, latency.size)
        failed = failed_latencies(latency, failure_codes)
        if failed.any():
            row = int(np.argmax(failed))
            check.fail(
                f"latency_ms[{row}]",
                f"is {float(latency[row])}; latencies must be positive"
                + (f" and {float(latency[row]):g} is a failure code" if latency[row] > 0 else "")
                + ". Drop failed measurements before fitting (see ProfileSamples.drop_failed).",
            )
        object.__setattr__(self, "batch", check.int_column("batch", self.batch, at_least=1))
        shares = check.int_column("sm_milli", self.sm_milli, at_least=1, at_most=FULL_GPU_MILLI)
        object.__setattr__(self, "sm_milli", shares)
        object.__setattr__(self, "latency_ms", latency)
        if self.memory_mib is not None:
            object.__setattr__(self, "memory_mib", _memory_column(self.memory_mib, latency.size))
        check.text("function", self.function, empty=True)
        check.text("gpu_type", self.gpu_type, empty=True)
        object.__setattr__(self, "dropped", check.integer("dropped", self.dropped, at_least=0))

    @classmethod
    def drop_failed(
        cls,
        batch: ArrayLike,
        sm_milli: ArrayLike,
        latency_ms: ArrayLike,
        *,
        failed: Sequence[float] = FAILURE_CODES,
        memory_mib: ArrayLike | None = None,
        function: str = "",
        gpu_type: str = "",
    ) -> ProfileSamples:
        """The samples without failed measurements: NaN, infinite, zero, negative, or one of the codes in `failed`.

        The number removed stands in `.dropped`. Raises `InvalidArgumentError` naming `latency_ms` if none is left.
        """
        latency = check.float_column("latency_ms", latency_ms)
        keep = ~failed_latencies(latency, failed)
        columns: dict[str, Any] = {"batch": batch, "sm_milli": sm_milli}
        if memory_mib is not None:
            columns["memory_mib"] = memory_mib
        for name, values in columns.items():
            _same_length(name, values, latency.size)
            columns[name] = np.asarray(values)[keep]
        if latency.size and not keep.any():
            of = f" of function {function!r}" if function else ""
            check.fail("latency_ms", f"holds only failed measurements{of} ({latency.size} of {latency.size} rows).")
        return cls(
            latency_ms=latency[keep],
            function=function,
            gpu_type=gpu_type,
            dropped=int(latency.size - keep.sum()),
            failure_codes=failed,
            **columns,
        )

    def merged(self) -> ProfileSamples:
        """One row per distinct (batch, share) cell, ascending: median latency, greatest memory."""
        groups = self.rows_by_cell()
        first = np.array([rows[0] for rows in groups])
        memory = None
        if self.memory_mib is not None:
            memory = np.array([np.fmax.reduce(self.memory_mib[rows]) for rows in groups])
        return ProfileSamples(
            self.batch[first],
            self.sm_milli[first],
            np.array([np.median(self.latency_ms[rows]) for rows in groups]),
            memory_mib=memory,
            function=self.function,
            gpu_type=self.gpu_type,
            dropped=self.dropped,
            failure_codes=(),
        )

    def cells(self) -> NDArray[np.int64]:
        """The distinct measured (batch, sm_milli) pairs, ascending, as `(n_cells, 2)`."""
        first = [rows[0] for rows in self.rows_by_cell()]
        return np.stack([self.batch[first], self.sm_milli[first]], axis=1)

    def rows_by_cell(self) -> list[NDArray[np.intp]]:
        """The rows of each distinct (batch, share) cell, cells ascending."""
        order = np.lexsort((self.sm_milli, self.batch))
        changes = (np.diff(self.batch[order]) != 0) | (np.diff(self.sm_milli[order]) != 0)
        return np.split(order, np.flatnonzero(changes) + 1)

    def select(self, rows: Sequence[int] | NDArray[np.integer] | NDArray[np.bool_]) -> ProfileSamples:
        """The rows picked by indices or a mask, in that order.

        Raises `InvalidArgumentError` for a mask of another length, an index out of range, or if no row is picked.
        """
        try:
            rows = np.arange(len(self))[np.asarray(rows, dtype=None if np.size(rows) else np.int64)]
        except IndexError as error:
            check.fail("rows", f"do not pick from {len(self)} rows: {error}.")
        return ProfileSamples(
            self.batch[rows],
            self.sm_milli[rows],
            self.latency_ms[rows],
            memory_mib=None if self.memory_mib is None else self.memory_mib[rows],
            function=self.function,
            gpu_type=self.gpu_type,
            dropped=self.dropped,
            failure_codes=(),
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back; unmeasured memory is null."""
        memory = None
        if self.memory_mib is not None:
            memory = [None if np.isnan(value) else float(value) for value in self.memory_mib]
        return {
            "version": _VERSION,
            "function": self.function,
            "gpu_type": self.gpu_type,
            "batch": self.batch.tolist(),
            "sm_milli": self.sm_milli.tolist(),
            "latency_ms": self.latency_ms.tolist(),
            "memory_mib": memory,
            "dropped": self.dropped,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProfileSamples:
        """The samples `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = {**check.document("samples", data, version=_VERSION), "failure_codes": ()}
        required = ("batch", "sm_milli", "latency_ms")
        optional = ("memory_mib", "function", "gpu_type", "dropped", "failure_codes")
        return check.build("samples", document, cls, required=required, optional=optional)

    def __len__(self) -> int:
        return int(self.latency_ms.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProfileSamples):
            return NotImplemented
        return (
            (self.function, self.gpu_type, self.dropped) == (other.function, other.gpu_type, other.dropped)
            and np.array_equal(self.batch, other.batch)
            and np.array_equal(self.sm_milli, other.sm_milli)
            and np.array_equal(self.latency_ms, other.latency_ms)
            and (self.memory_mib is None) == (other.memory_mib is None)
            and (
                self.memory_mib is None
                or other.memory_mib is None
                or np.array_equal(self.memory_mib, other.memory_mib, equal_nan=True)
            )
        )

    def __hash__(self) -> int:
        return hash((self.function, self.gpu_type, self.latency_ms.tobytes()))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore after pickling, which forgets that the columns are read-only."""
        check.restore(self, state)


def failed_latencies(latency_ms: NDArray[np.float64], codes: Sequence[float] = FAILURE_CODES) -> NDArray[np.bool_]:
    """Which latencies are no latencies: NaN, infinite, not positive, or one of the failure codes."""
    return ~(np.isfinite(latency_ms) & (latency_ms > 0)) | np.isin(latency_ms, np.asarray(codes, dtype=np.float64))


def _same_length(argument: str, values: object, length: int) -> None:
    found = np.size(np.asarray(values, dtype=object))
    if found != length:
        check.fail(argument, f"has {found} rows, latency_ms has {length}; columns must be equally long.")


def _memory_column(values: object, length: int) -> NDArray[np.float64]:
    _same_length("memory_mib", values, length)
    memory = check.float_column("memory_mib", values)
    bad = ~np.isnan(memory) & ~(np.isfinite(memory) & (memory > 0))
    if bad.any():
        row = int(np.argmax(bad))
        check.fail(
            f"memory_mib[{row}]", f"is {float(memory[row])}; expected a positive number, or NaN if not measured."
        )
    return memory
