"""The joint choice of configurations for functions that share one GPU: the problem and its answer.

One configuration for each of n functions, greatest total value, with the sums of requests, limits and memory within
what the GPU offers: the multiple-choice knapsack problem in three dimensions. `solvers.joint_search` solves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.cluster import GpuType, Oversubscription
from dilu_core.performance import MemoryModel
from dilu_core.quota import QuotaSearchResult
from dilu_core.result import SolveStats, Termination

MOST_FUNCTIONS = 64
"""Functions on one GPU."""

LARGEST_VALUE = 2**40
"""Magnitude of a value; sums of values and prices stay exact in 64 bits."""

LARGEST_CAPACITY = 2**20 - 2
"""Greatest capacity of a dimension: three pack into 64 bits. Memory in MiB goes up to one TiB."""

_VALUE_SCALE = 1000
_DIMENSIONS = 3


@dataclass(frozen=True, eq=False)
class JointProblem:
    """One of K configurations for each of n functions on one GPU.

    `value` (n, K) is what a configuration is worth, of magnitude up to 2**40; `weight` (n, K, 3) what it takes of
    request, limit and memory, not negative; `capacity` (3,) what there is, up to 1,048,574 each (milli-GPU, MiB).
    All are integers, kept as read-only int64. 1 <= n <= 64.

    A configuration that takes more than a capacity is never chosen: functions with fewer configurations are filled up
    to K that way. "Not placed here" is a configuration of weight 0.

    Raises `InvalidArgumentError` naming the argument and the first element at fault.
    """

    value: NDArray[np.int64]
    weight: NDArray[np.int64]
    capacity: NDArray[np.int64]

    def __post_init__(self) -> None:
        value = _integers("value", self.value, "(n, K)", -LARGEST_VALUE, LARGEST_VALUE)
        if value.ndim != 2 or value.shape[1] == 0 or not 1 <= value.shape[0] <= MOST_FUNCTIONS:
            check.fail(
                "value", f"has shape {value.shape}; expected (n, K), n of 1..{MOST_FUNCTIONS} and K of at least 1."
            )
        weight = _integers("weight", self.weight, "(n, K, 3)", 0, check.LARGEST)
        if weight.shape != (*value.shape, _DIMENSIONS):
            check.fail(
                "weight",
                f"has shape {weight.shape}; expected {(*value.shape, _DIMENSIONS)}, as value is {value.shape}.",
            )
        capacity = _integers("capacity", self.capacity, "(3,)", 0, LARGEST_CAPACITY)
        if capacity.shape != (_DIMENSIONS,):
            check.fail("capacity", f"has shape {capacity.shape}; expected (3,): request, limit and memory.")
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "capacity", capacity)

    def __setstate__(self, state: dict[str, Any]) -> None:
        check.restore(self, state)

    @property
    def functions(self) -> int:
        """n."""
        return int(self.value.shape[0])

    @property
    def options(self) -> int:
        """K."""
        return int(self.value.shape[1])

    @classmethod
    def on_gpu(
        cls,
        searches: Sequence[QuotaSearchResult],
        memories: Sequence[MemoryModel],
        gpu: GpuType,
        *,
        importance: Sequence[float] | None = None,
        oversubscription: Oversubscription | None = None,
    ) -> JointProblem:
        """Which configuration of its Pareto front should each function take on a GPU they share?

        Option k of function i is `searches[i].pareto[k]`, at the memory that `memories[i]` predicts for its batch. Its
        value is its throughput in thousandths of a request per second, times `importance[i]` (1 for all), rounded down.
        Capacities are those of `oversubscription` (by default 1000 and 1500 milli-GPU) and the memory of `gpu`.

        Raises `InvalidArgumentError`, too, for a function with an empty front: it has no configuration to choose.
        """
        found = check.instances_of("searches", searches, QuotaSearchResult)
        models = check.instances_of("memories", memories, MemoryModel)
        if not found:
            check.fail("searches", "is empty; expected the quota search of each function on the GPU.")
        if len(models) != len(found):
            check.fail("memories", f"has {len(models)} entries for {len(found)} searches; expected one each.")
        if not isinstance(gpu, GpuType):
            check.fail("gpu", f"is {gpu!r:.80}; expected a GpuType.")
        caps = Oversubscription() if oversubscription is None else oversubscription
        if not isinstance(caps, Oversubscription):
            check.fail("oversubscription", f"is {oversubscription!r:.80}; expected an Oversubscription.")
        factors = np.ones(len(found)) if importance is None else check.float_column("importance", importance)
        if len(factors) != len(found):
            check.fail("importance", f"has {len(factors)} entries for {len(found)} searches; expected one each.")
        for i, factor in enumerate(factors.tolist()):
            check.finite(f"importance[{i}]", factor, at_least=0)
            if not found[i].pareto:
                check.fail(
                    f"searches[{i}]", "has an empty Pareto front; leave the function out, or search with pareto=True."
                )

        capacity = np.array([caps.request_milli, caps.limit_milli, gpu.memory_mib])
        options = max(len(search.pareto) for search in found)
        value = np.zeros((len(found), options))
        weight = np.empty((len(found), options, _DIMENSIONS), dtype=np.int64)
        weight[:] = capacity + 1
        for i, (search, model) in enumerate(zip(found, models, strict=True)):
            for k, config in enumerate(search.pareto):
                value[i, k] = np.floor(_VALUE_SCALE * config.throughput_rps * factors[i])
                weight[i, k] = config.request_milli, config.limit_milli, model.memory_mib(config.batch)
        return cls(value, weight, capacity)  # type: ignore[arg-type]  # whole floats are integers


@dataclass(frozen=True, eq=False)
class JointSearchResult:
    """The best joint choice.

    `choice` (n,) numbers the configuration of each function, `value` is their total. Of several choices with the
    greatest value it is the first in lexicographic order, function 0 first, on every back end. Where the search was cut
    short (`termination.limit`) they are the best found. `None` and 0 where nothing is known to fit.
    """

    choice: NDArray[np.int64] | None
    value: int
    termination: Termination
    stats: SolveStats

    def __setstate__(self, state: dict[str, Any]) -> None:
        check.restore(self, state)


def _integers(argument: str, values: ArrayLike, shape: str, at_least: int, at_most: int) -> NDArray[np.int64]:
    """`values` as a read-only int64 array within bounds; the message names the first element at fault."""
    try:
        raw = np.asarray(values)
    except ValueError:
        check.fail(argument, f"is ragged; expected an array of integers {shape}.")
    if np.ma.is_masked(values) or raw.dtype.kind not in "iuf":
        check.fail(argument, f"is {values!r:.120}; expected an array of integers {shape}.")
    if raw.dtype == np.float16:
        raw = raw.astype(np.float64)  # the bounds are beyond what half precision holds
    bad = (raw < at_least) | (raw > at_most)
    if raw.dtype.kind == "f":
        bad |= ~np.isfinite(raw) | (raw != np.floor(raw))
    if bad.any():
        position = tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape))
        place = f"{argument}[{', '.join(map(str, position))}]" if position else argument
        check.fail(place, f"is {raw[position].item()!r}; expected an integer between {at_least} and {at_most}.")
    array = np.array(raw, dtype=np.int64, order="C")
    array.flags.writeable = False
    return array
