"""TrainingModel: training throughput over share, by the latency of a step at one batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.latency_surface import MonotoneSurface
from dilu_core.performance import RooflineModel

_VERSION = 1


@dataclass(frozen=True)
class TrainingModel:
    """Training throughput over share at a fixed `batch` (samples of one step), by the latency of a step."""

    step: RooflineModel | MonotoneSurface
    batch: int

    def __post_init__(self) -> None:
        if not isinstance(self.step, RooflineModel | MonotoneSurface):
            check.fail("step", f"is {self.step!r}; expected a RooflineModel or a MonotoneSurface.")
        object.__setattr__(self, "batch", check.integer("batch", self.batch, at_least=1))

    def step_ms(self, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Mean time of one step in ms, shape of the input."""
        return self.step.latency_ms(self.batch, sm_milli)

    def throughput_sps(self, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Samples trained per second, shape of the input; never falls with more share."""
        return np.asarray(1000.0 * self.batch / self.step_ms(sm_milli))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": _VERSION, "batch": self.batch, "step": self.step.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingModel:
        """The model `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("training_model", data, version=_VERSION)
        stored = check.item("training_model", document, "step")
        form = stored.get("form") if isinstance(stored, Mapping) else None
        kind = MonotoneSurface if form == "monotone-surface" else RooflineModel
        step = kind.from_dict(stored)
        return check.build("training_model", {**document, "step": step}, cls, required=("step", "batch"))
