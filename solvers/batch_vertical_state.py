"""What the vertical policy remembers of many GPUs: columns that survive a JSON round trip unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dilu_core._checks import LARGEST, document, fail, finite, int_column, item, restore
from dilu_core.units import FULL_GPU_MILLI

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_VERSION = 1


def _none() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class BatchVerticalState:
    """The memory of many GPUs: as `VerticalState`, in read-only columns.

    `ids`, `gpu` and `baselines_ms` (n,; NaN: none known) are by instance, `cap_milli`, `period` and `owed_milli`
    (gpus,) by GPU.
    """

    ids: Ints = field(default_factory=_none)
    gpu: Ints = field(default_factory=_none)
    baselines_ms: Floats = field(default_factory=lambda: np.zeros(0))
    cap_milli: Floats = field(default_factory=lambda: np.zeros(0))
    period: Ints = field(default_factory=_none)
    owed_milli: Ints = field(default_factory=_none)

    def __post_init__(self) -> None:
        for column in vars(self).values():
            column.setflags(write=False)

    def __setstate__(self, state: dict[str, object]) -> None:
        restore(self, state)

    def baselines_of(self, ids: Ints, gpu: Ints) -> Floats:
        """(n,) the baselines of these instances, to write on; NaN for one that is new, on this GPU or altogether."""
        if ids is not self.ids and not np.array_equal(ids, self.ids):
            found = np.full(ids.size, np.nan)
            if self.ids.size:
                order = np.argsort(self.ids)
                at = order[np.minimum(np.searchsorted(self.ids, ids, sorter=order), self.ids.size - 1)]
                same = (self.ids[at] == ids) & (self.gpu[at] == gpu)
                found[same] = self.baselines_ms[at[same]]
            return found
        return self.baselines_ms.copy() if gpu is self.gpu else np.where(self.gpu == gpu, self.baselines_ms, np.nan)

    def of_gpus(self, gpus: int) -> tuple[Floats, Ints, Ints]:
        """Cap, period and debt of at least `gpus` GPUs, to write on; those not seen before start afresh."""
        more = gpus - self.cap_milli.size
        if more <= 0:
            return self.cap_milli.copy(), self.period.copy(), self.owed_milli.copy()
        cap = np.concatenate([self.cap_milli, np.full(more, float(FULL_GPU_MILLI))])
        zeros = np.zeros(more, np.int64)
        return cap, np.concatenate([self.period, zeros]), np.concatenate([self.owed_milli, zeros])

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value (a baseline not known is `None`); `from_dict` gives the state back, bit for bit."""
        columns: dict[str, object] = {name: column.tolist() for name, column in vars(self).items()}
        columns["baselines_ms"] = [None if np.isnan(cycle) else cycle for cycle in self.baselines_ms.tolist()]
        return {"version": _VERSION, **columns}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> BatchVerticalState:
        """The state that `to_dict` wrote. Raises `InvalidArgumentError` for anything else."""
        found = document("data", data, version=_VERSION)
        columns = {
            name: int_column(f"data['{name}']", item("data", found, name), at_least=least)
            for name, least in (("ids", -LARGEST), ("gpu", 0), ("period", 0), ("owed_milli", 0))
        }
        floats = {}
        for name, above in (("baselines_ms", 0.0), ("cap_milli", -1.0)):
            values = item("data", found, name)
            if not isinstance(values, list | tuple):
                fail(f"data['{name}']", f"is {values!r:.80}; expected a list.")
            floats[name] = np.array(
                [
                    np.nan if value is None and above == 0.0 else finite(f"data['{name}'][{i}]", value, above=above)
                    for i, value in enumerate(values)
                ],
                np.float64,
            )
        state = cls(
            columns["ids"],
            columns["gpu"],
            floats["baselines_ms"],
            floats["cap_milli"],
            columns["period"],
            columns["owed_milli"],
        )
        rows, gpus = state.ids.size, state.cap_milli.size
        for name, size in (("gpu", rows), ("baselines_ms", rows), ("period", gpus), ("owed_milli", gpus)):
            if getattr(state, name).size != size:
                fail(f"data['{name}']", f"has {getattr(state, name).size} elements; expected {size}.")
        if np.unique(state.ids).size < rows:
            fail("data['ids']", "are not distinct; expected each instance once.")
        if (state.cap_milli > FULL_GPU_MILLI).any() or (state.cap_milli < 0.0).any():
            fail("data['cap_milli']", f"has elements outside 0..{FULL_GPU_MILLI}.")
        return state
