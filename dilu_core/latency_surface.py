"""MonotoneSurface: latency as a table that keeps the laws of a roofline, for what no formula follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.performance import operating_points
from dilu_core.units import FULL_GPU_MILLI

_VERSION = 1
_SLACK = 1e-9  # in logs: rounding breaks no law


@dataclass(frozen=True, eq=False)
class MonotoneSurface:
    """Latency by bilinear interpolation of log latency over log batch and log share.

    Latency rises in the batch and falls in the share, with d log t / d log b and -d log t / d log s in [0, 1], as in a
    `RooflineModel`. Beyond the table the laws alone speak: twice the batch or half the share takes twice as long, a
    smaller batch or a greater share is no faster than the edge.

    Parameters
    ----------
    batch
        `(n_batches,)` knots, positive and ascending; they need not be whole.
    sm_milli
        `(n_shares,)` knots, ascending within (0, 1000].
    latency_ms_at_knots
        `(n_batches, n_shares)` latencies that obey the laws; `enclosing` makes them obey.

    Raises
    ------
    InvalidArgumentError
        Naming the argument: a wrong shape, knots that do not ascend, latencies that are not positive or break a law.
    """

    batch: NDArray[np.float64]
    sm_milli: NDArray[np.float64]
    latency_ms_at_knots: NDArray[np.float64]

    if TYPE_CHECKING:  # the columns are stored as arrays, and made from anything array-like

        def __init__(self, batch: ArrayLike, sm_milli: ArrayLike, latency_ms_at_knots: ArrayLike) -> None: ...

    def __post_init__(self) -> None:
        batch, share, table = _positive_table(
            "latency_ms_at_knots", self.batch, self.sm_milli, self.latency_ms_at_knots
        )
        logs = np.log(table)
        by_batch = np.diff(logs, axis=0)
        by_share = -np.diff(logs, axis=1)
        if (by_batch < -_SLACK).any() or (by_batch > np.diff(np.log(batch))[:, None] + _SLACK).any():
            check.fail("latency_ms_at_knots", "falls with the batch, or grows faster than it.")
        if (by_share < -_SLACK).any() or (by_share > np.diff(np.log(share)) + _SLACK).any():
            check.fail("latency_ms_at_knots", "rises with the share, or falls faster than it grows.")
        object.__setattr__(self, "batch", batch)
        object.__setattr__(self, "sm_milli", share)
        object.__setattr__(self, "latency_ms_at_knots", table)

    @classmethod
    def enclosing(cls, batch: ArrayLike, sm_milli: ArrayLike, latency_ms: ArrayLike) -> MonotoneSurface:
        """The surface of any positive table `(n_batches, n_shares)`: its upper monotone envelope, growth capped.

        First every knot is lifted to the greatest latency at a smaller batch and a greater share, so that nothing is
        promised that the table contradicts; then growth beyond proportion is cut down. A table that obeys the laws is
        left as it is. Raises `InvalidArgumentError` naming the argument: no knots, a wrong shape, a latency that is not
        positive.
        """
        batches, milli, table = _positive_table("latency_ms", batch, sm_milli, latency_ms)
        knots, shares, logs = np.log(batches), np.log(milli), np.log(table)
        logs = np.maximum.accumulate(logs, axis=0)
        logs = np.maximum.accumulate(logs[:, ::-1], axis=1)[:, ::-1]
        logs = np.minimum.accumulate(logs - knots[:, None], axis=0) + knots[:, None]
        logs = np.minimum.accumulate((logs + shares)[:, ::-1], axis=1)[:, ::-1] - shares
        return cls(batches, milli, np.exp(logs))

    @cached_property
    def _logs(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        return np.log(self.batch), np.log(self.sm_milli), np.log(self.latency_ms_at_knots)

    def latency_ms(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Mean latency of a batch in ms; the arguments broadcast.

        Raises `InvalidArgumentError` for a batch that is not positive or a share outside (0, 1000].
        """
        samples, share = operating_points(batch, sm_milli)
        by_batch, by_share, table = self._logs
        x, y = np.log(samples), np.log(share * FULL_GPU_MILLI)
        beyond = np.maximum(x - by_batch[-1], 0.0) + np.maximum(by_share[0] - y, 0.0)
        return np.asarray(np.exp(bilinear(by_batch, by_share, table, x, y) + beyond))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MonotoneSurface):
            return NotImplemented
        return all(
            np.array_equal(mine, theirs)
            for mine, theirs in (
                (self.batch, other.batch),
                (self.sm_milli, other.sm_milli),
                (self.latency_ms_at_knots, other.latency_ms_at_knots),
            )
        )

    def __hash__(self) -> int:
        return hash(self.latency_ms_at_knots.tobytes())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore after pickling, which forgets that the arrays are read-only."""
        check.restore(self, state)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "version": _VERSION,
            "form": "monotone-surface",
            "batch": self.batch.tolist(),
            "sm_milli": self.sm_milli.tolist(),
            "latency_ms_at_knots": self.latency_ms_at_knots.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MonotoneSurface:
        """The surface `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("model", data, version=_VERSION)
        check.choice("model.form", check.item("model", document, "form"), ("monotone-surface",))
        return check.build("model", document, cls, required=("batch", "sm_milli", "latency_ms_at_knots"))


def _positive_table(
    name: str, batch: object, sm_milli: object, latency_ms: object
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The checked knots and the table over them, which errors call `name`."""
    batches, shares = check.knots("batch", batch), check.knots("sm_milli", sm_milli)
    if shares[-1] > FULL_GPU_MILLI:
        check.fail("sm_milli", f"ends at {shares[-1]:g}; expected shares of at most {FULL_GPU_MILLI}.")
    table = check.float_table(name, latency_ms, (batches.size, shares.size))
    if not (np.isfinite(table) & (table > 0)).all():
        check.fail(name, "holds a latency that is not positive and finite.")
    return batches, shares, table


def bilinear(
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    table: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> NDArray[np.float64]:
    """`table` (n_rows, n_columns) over ascending knots, at points (x, y) of one shape: the edge beyond the knots."""
    row, along = _cell(rows, x)
    column, across = _cell(columns, y)
    next_row, next_column = np.minimum(row + 1, rows.size - 1), np.minimum(column + 1, columns.size - 1)
    lower = (1.0 - across) * table[row, column] + across * table[row, next_column]
    upper = (1.0 - across) * table[next_row, column] + across * table[next_row, next_column]
    return np.asarray((1.0 - along) * lower + along * upper)


def _cell(knots: NDArray[np.float64], at: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Index of the knot at or below each point, and how far it lies towards the next, 0..1."""
    if knots.size == 1:
        return np.zeros(at.shape, dtype=np.intp), np.zeros(at.shape)
    row = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, knots.size - 2)
    width = knots[row + 1] - knots[row]
    return row, np.clip((at - knots[row]) / width, 0.0, 1.0)
