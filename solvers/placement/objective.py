"""What a placement is to be best at: the terms of its cost, compared in order or added up with weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dilu_core import _checks as check
from dilu_core.solvers.placement.value import TERMS, Value

DEFAULT_ORDER = ("gpus", "moves", "split_parts", "configurations", "affinities")

_HEAVIEST = 1_000_000


@dataclass(frozen=True)
class Objective:
    """The cost that `place` minimises, among placements that leave the fewest instances out.

    Terms: `"gpus"` and `"nodes"` that hold an instance, `"moves"` of running instances, `"splits"` (split instances),
    `"split_parts"` (their parts), `"configurations"` (sum of the numbers of those chosen, 0 being an instance's own),
    `"affinities"` (instances with affinities none of which is met).

    Arguments:
        order: terms in order of importance: an earlier one outweighs all later ones. Terms left out do not count.
        weights: instead, a non-negative integer per term; the weighted sum is minimised. Terms left out weigh nothing.
    """

    order: tuple[str, ...] = DEFAULT_ORDER
    weights: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        order = check.names("order", self.order)
        for i, term in enumerate(order):
            check.choice(f"order[{i}]", term, TERMS)
        check.distinct("order", order)
        object.__setattr__(self, "order", order)
        if self.weights is None:
            return
        if not isinstance(self.weights, Mapping):
            check.fail("weights", f"is {self.weights!r:.120}; expected a mapping of terms to integers, or None.")
        weights = {
            check.choice("weights", term, TERMS): check.integer(
                f"weights[{term!r}]", weight, at_least=0, at_most=_HEAVIEST
            )
            for term, weight in self.weights.items()
        }
        if not any(weights.values()):
            check.fail("weights", "gives no term a weight above 0, so any placement would do.")
        object.__setattr__(self, "weights", MappingProxyType(weights))

    def key(self, value: Value) -> tuple[int, ...]:
        """What to compare placements by: instances left out first, then the cost; less is better."""
        if self.weights is None:
            return (value.unplaced, *(getattr(value, term) for term in self.order))
        return (value.unplaced, sum(weight * getattr(value, term) for term, weight in self.weights.items()))

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms that count."""
        return self.order if self.weights is None else tuple(term for term, weight in self.weights.items() if weight)

    @property
    def gpus_first(self) -> bool:
        """Whether one GPU fewer outweighs all else, so that a bound on GPUs says how far from the best one may be."""
        return self.terms == ("gpus",) if self.weights is not None else self.order[:1] == ("gpus",)

    def __reduce__(self) -> tuple[type[Objective], tuple[tuple[str, ...], dict[str, int] | None]]:
        return Objective, (self.order, None if self.weights is None else dict(self.weights))
