"""What tends to arrive: the mix of task shapes that fragmentation is measured against.

A shape is what an instance asks for: request, limit and memory on each GPU, the number of GPUs, and CPU and memory of
its host. Instances of one shape are interchangeable to the measure of Weng et al., "Beware of Fragmentation: Scheduling
GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX ATC 2023, which weighs each by how often it comes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.instances import MOST_CPU_MILLI, MOST_GPUS_PER_NODE, MOST_MEMORY_MIB, Instance
from dilu_core.units import FULL_GPU_MILLI

_VERSION = 1

MOST_OF_SHAPE = {
    "request_milli": FULL_GPU_MILLI, "limit_milli": FULL_GPU_MILLI, "memory_mib": MOST_MEMORY_MIB,
    "gpus": MOST_GPUS_PER_NODE, "cpu_milli": MOST_CPU_MILLI, "host_memory_mib": MOST_MEMORY_MIB,
}  # fmt: skip
"""The columns of `TaskMix.shapes` and the greatest number each may hold."""


class TaskShape(NamedTuple):
    """One kind of demand, in the order of a row of `TaskMix.shapes`; `memory_mib` is on each GPU."""

    request_milli: int
    limit_milli: int
    memory_mib: int
    gpus: int
    cpu_milli: int
    host_memory_mib: int


def task_shape(instance: Instance, *, largest_gpu_mib: int | None = None) -> TaskShape:
    """What `instance` asks for in its own configuration.

    A gang with different memory on its GPUs counts with the greatest on each. An instance that may be split counts in
    one piece, or, where that is more than `largest_gpu_mib`, as the fewest equal parts that such GPUs hold, each with
    the request as its limit. Alternatives, GPU types and affinities are left aside.
    """
    if not isinstance(instance, Instance):
        check.fail("instance", f"is {instance!r:.120}; expected an Instance.")
    host = (instance.cpu_milli, instance.host_memory_mib)
    memory = max(instance.memory_per_gpu_mib)
    if instance.splittable and largest_gpu_mib is not None and memory > largest_gpu_mib:
        parts = min(math.ceil(memory / largest_gpu_mib), MOST_GPUS_PER_NODE)
        request = instance.request_milli
        return TaskShape(request, request, math.ceil(memory / parts), parts, *host)
    return TaskShape(instance.request_milli, instance.limit_milli, memory, instance.gpus, *host)


@dataclass(frozen=True, eq=False)
class TaskMix:
    """Task shapes and how much of the arrivals each makes up, as read-only columns `(n_shapes,)`.

    `weight` is divided by its sum, so that it adds up to 1. `gpus` of 0 is a task without a GPU, which can use none of
    a GPU's share. A mix without shapes is legal: nothing is expected, so nothing is unusable.
    Raises `InvalidArgumentError` for columns of different lengths, numbers out of bounds, a limit below its request, or
    weights that are not positive.
    """

    request_milli: NDArray[np.int64]
    limit_milli: NDArray[np.int64]
    memory_mib: NDArray[np.int64]
    gpus: NDArray[np.int64]
    cpu_milli: NDArray[np.int64]
    host_memory_mib: NDArray[np.int64]
    weight: NDArray[np.float64]

    if TYPE_CHECKING:  # columns are stored as arrays, and made from anything array-like

        def __init__(
            self,
            request_milli: ArrayLike,
            limit_milli: ArrayLike,
            memory_mib: ArrayLike,
            gpus: ArrayLike,
            cpu_milli: ArrayLike,
            host_memory_mib: ArrayLike,
            weight: ArrayLike,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name, most in MOST_OF_SHAPE.items():
            object.__setattr__(self, name, check.int_column(name, getattr(self, name), at_least=0, at_most=most))
        weight = check.float_column("weight", self.weight)
        for name in MOST_OF_SHAPE:
            if getattr(self, name).size != weight.size:
                check.fail(name, f"has {getattr(self, name).size} numbers for {weight.size} weights.")
        bad = ~((weight > 0.0) & (weight < math.inf))
        if bad.any():
            i = int(np.argmax(bad))
            check.fail(f"weight[{i}]", f"is {weight[i]}; expected a finite number above 0.")
        below = self.limit_milli < self.request_milli
        if below.any():
            i = int(np.argmax(below))
            check.fail(f"limit_milli[{i}]", f"is {self.limit_milli[i]}, below request_milli {self.request_milli[i]}.")
        with np.errstate(over="ignore"):
            total = float(weight.sum()) if weight.size else 1.0
        # what adds up to 1 already is left alone, so that reading a written mix gives the same bits
        if abs(total - 1.0) > 1e-9:
            scale = float(weight.max())  # first: the sum of huge weights may overflow
            weight = weight / scale
            weight = weight / weight.sum()
        object.__setattr__(self, "weight", check.read_only(weight))

    @classmethod
    def of(cls, instances: Iterable[Instance], *, largest_gpu_mib: int | None = None) -> TaskMix:
        """The mix of these instances, equal shapes counted together, the commonest first.

        For `largest_gpu_mib` see `task_shape`.
        """
        if largest_gpu_mib is not None:
            check.integer("largest_gpu_mib", largest_gpu_mib, at_least=1)
        listed = check.instances_of("instances", instances, Instance)
        counts = Counter(task_shape(each, largest_gpu_mib=largest_gpu_mib) for each in listed)
        return cls.from_weights({shape: float(count) for shape, count in counts.items()})

    @classmethod
    def from_weights(cls, weights: Mapping[TaskShape, float]) -> TaskMix:
        """The mix with these weights (any positive numbers), the heaviest first and equal ones by shape."""
        ranked = sorted(weights.items(), key=lambda each: (-each[1], each[0]))
        shapes = np.array([shape for shape, _ in ranked], np.int64).reshape(-1, len(MOST_OF_SHAPE))
        return cls._of_shapes(shapes, np.array([weight for _, weight in ranked], np.float64))

    @cached_property
    def shapes(self) -> NDArray[np.int64]:
        """The columns but the weight, side by side: `(n_shapes, 6)`, read-only, as kernels take them."""
        return check.read_only(np.stack([getattr(self, name) for name in MOST_OF_SHAPE], axis=1))

    def __len__(self) -> int:
        return int(self.weight.size)

    def common(self, *, most: int | None = None, coverage: float = 1.0) -> TaskMix:
        """The fewest shapes, heaviest first, that make up `coverage` of this mix, but at most `most`; weighed anew."""
        count = len(self) if most is None else min(len(self), check.integer("most", most, at_least=1))
        coverage = check.finite("coverage", coverage, above=0.0, at_most=1.0)
        order = np.lexsort((*self.shapes.T[::-1], -self.weight))
        reached = np.cumsum(self.weight[order])
        if coverage < 1.0:
            count = min(count, int(np.searchsorted(reached, coverage - 1e-12)) + 1)
        kept = order[:count]
        return self._of_shapes(self.shapes[kept], self.weight[kept])

    @classmethod
    def _of_shapes(cls, shapes: NDArray[np.int64], weight: NDArray[np.float64]) -> TaskMix:
        request, limit, memory, gpus, cpu, host_memory = shapes.T
        return cls(request, limit, memory, gpus, cpu, host_memory, weight)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": _VERSION} | {each.name: getattr(self, each.name).tolist() for each in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskMix:
        """The mix `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("mix", data, version=_VERSION)
        return check.build("mix", document, cls, required=[each.name for each in fields(cls)])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TaskMix):
            return NotImplemented
        return np.array_equal(self.shapes, other.shapes) and np.array_equal(self.weight, other.weight)

    def __hash__(self) -> int:
        return hash((self.shapes.tobytes(), self.weight.tobytes()))

    def __repr__(self) -> str:
        return f"TaskMix({len(self)} shapes)"
