"""The mix of task shapes, learnt online from what arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dilu_core import _checks as check
from dilu_core.arrival_mix import MOST_OF_SHAPE, TaskMix, TaskShape, task_shape
from dilu_core.instances import Instance

_VERSION = 1
_RESCALE = 2.0**64  # the weight of an arrival grows instead of all others shrinking; now and then all are divided by it
_KEPT = 0.75  # of the shapes, once there are too many
_LEAST = 1e-200  # a weight below which a shape is forgotten


class MixEstimator:
    """Learns a `TaskMix` from arrivals, the recent ones counting more.

    An arrival loses half its weight within `half_life_arrivals` later arrivals, or, if `half_life_s` is given instead,
    within so many seconds; then every arrival needs its time. At most `most_shapes` shapes are remembered: beyond that
    the lightest quarter is dropped (equal ones by shape), so that memory is bounded and an arrival costs O(log n) on
    average. The state is a JSON-able value: a restored estimator goes on bit for bit.
    """

    def __init__(
        self,
        *,
        half_life_arrivals: float | None = None,
        half_life_s: float | None = None,
        most_shapes: int = 512,
        largest_gpu_mib: int | None = None,
    ) -> None:
        if half_life_arrivals is not None and half_life_s is not None:
            check.fail("half_life_s", "is given beside half_life_arrivals; give one of the two.")
        if half_life_arrivals is not None:
            check.finite("half_life_arrivals", half_life_arrivals, above=0.0)
        if half_life_s is not None:
            check.finite("half_life_s", half_life_s, above=0.0)
        if half_life_arrivals is None and half_life_s is None:
            half_life_arrivals = 1000.0
        if largest_gpu_mib is not None:
            largest_gpu_mib = check.integer("largest_gpu_mib", largest_gpu_mib, at_least=1)
        self.half_life_arrivals = half_life_arrivals
        self.half_life_s = half_life_s
        self.most_shapes = check.integer("most_shapes", most_shapes, at_least=4)
        self.largest_gpu_mib = largest_gpu_mib
        self.arrivals = 0
        self._time_s: float | None = None
        self._next = 1.0  # the weight that the next arrival gets
        self._weight: dict[TaskShape, float] = {}

    def observe(self, instance: Instance, *, time_s: float | None = None) -> None:
        """Count one arrival. A time before the latest one counts as the latest."""
        shape = task_shape(instance, largest_gpu_mib=self.largest_gpu_mib)
        if self.half_life_s is None:
            assert self.half_life_arrivals is not None
            halvings = 1.0 / self.half_life_arrivals if self.arrivals else 0.0
        else:
            if time_s is None:
                check.fail("time_s", "is None; an estimator with half_life_s needs the time of every arrival.")
            now = check.finite("time_s", time_s)
            last = now if self._time_s is None else self._time_s
            halvings = max(0.0, now - last) / self.half_life_s
            self._time_s = max(now, last)
        self.arrivals += 1
        self._age(halvings)
        self._weight[shape] = self._weight.get(shape, 0.0) + self._next
        if len(self._weight) > self.most_shapes:
            self._forget(int(self.most_shapes * _KEPT))

    def _age(self, halvings: float) -> None:
        """Let what was seen lose weight: a new arrival weighs more, and before numbers overflow all are divided."""
        if halvings < 64.0:
            self._next *= 2.0**halvings
            if self._next < _RESCALE:
                return
            divisor = self._next
        else:
            divisor = self._next * 2.0 ** min(halvings, 900.0)
        self._next = 1.0
        lighter = {shape: weight / divisor for shape, weight in self._weight.items()}
        self._weight = {shape: weight for shape, weight in lighter.items() if weight > _LEAST}

    def _forget(self, kept: int) -> None:
        ranked = sorted(self._weight.items(), key=lambda each: (-each[1], each[0]))
        self._weight = dict(ranked[:kept])

    def mix(self, *, most: int = 60, coverage: float = 0.95) -> TaskMix:
        """The fewest shapes, heaviest first, that make up `coverage` of what is remembered, but at most `most`."""
        return TaskMix.from_weights(self._weight).common(most=most, coverage=coverage)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "version": _VERSION,
            "half_life_arrivals": self.half_life_arrivals,
            "half_life_s": self.half_life_s,
            "most_shapes": self.most_shapes,
            "largest_gpu_mib": self.largest_gpu_mib,
            "arrivals": self.arrivals,
            "time_s": self._time_s,
            "next_weight": self._next,
            "shapes": [[*shape, weight] for shape, weight in self._weight.items()],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MixEstimator:
        """The estimator `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("estimator", data, version=_VERSION)
        settings = ("half_life_arrivals", "half_life_s", "most_shapes", "largest_gpu_mib")
        found = check.build("estimator", document, cls, required=settings)
        found.arrivals = check.integer("estimator.arrivals", check.item("estimator", document, "arrivals"), at_least=0)
        time_s = check.item("estimator", document, "time_s")
        found._time_s = None if time_s is None else check.finite("estimator.time_s", time_s)
        following = check.item("estimator", document, "next_weight")
        found._next = check.finite("estimator.next_weight", following, at_least=1.0, at_most=_RESCALE)
        rows = check.item("estimator", document, "shapes")
        if not isinstance(rows, list | tuple):
            check.fail("estimator.shapes", f"is {rows!r:.120}; expected a list.")
        for i, row in enumerate(rows):
            where = f"estimator.shapes[{i}]"
            if not isinstance(row, list | tuple) or len(row) != len(MOST_OF_SHAPE) + 1:
                check.fail(where, f"is {row!r:.120}; expected the six numbers of a shape and its weight.")
            shape = TaskShape(
                *(
                    check.integer(f"{where}.{name}", value, at_least=0, at_most=most)
                    for (name, most), value in zip(MOST_OF_SHAPE.items(), row[:-1], strict=True)
                )
            )
            found._weight[shape] = check.finite(f"{where}.weight", row[-1], above=0.0)
        return found
