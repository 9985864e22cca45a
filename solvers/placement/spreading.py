"""Keeping functions apart whose load rises together: a penalty on GPUs by who is there.

An instance of a function f pays `weight` times the sum of the positive scores of f with the functions that have an
instance on the GPU (`dilu_core.correlation`), against a priced rest of at most 1. It chooses among GPUs that are open
to the instance anyway, and never opens another for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Instance
from dilu_core.correlation import LoadCorrelation
from dilu_core.kernels.cpu.ledger import penalise
from dilu_core.solvers.placement.bookings import Bookings

Floats = NDArray[np.float64]

WEIGHT = 0.3
"""What a neighbour whose load rises exactly with an instance's costs."""


class Spreading:
    """The penalties that a correlation of loads makes."""

    def __init__(self, correlation: LoadCorrelation, weight: float = WEIGHT) -> None:
        self.correlation = correlation
        self.weight = weight
        self._row = {function: i for i, function in enumerate(correlation.functions)}
        self._cost = weight * np.maximum(correlation.matrix, 0.0)
        self._by_number: dict[str, Floats] = {}
        self._version = -1

    def penalise(self, instance: Instance, bookings: Bookings, penalty: Floats) -> None:
        """Write the penalty of every GPU for `instance` into `penalty`."""
        if instance.function not in self._row:
            penalty.fill(0.0)
            return
        penalise(penalty, bookings.functions.has, self._costs(instance.function, bookings))

    def _costs(self, function: str, bookings: Bookings) -> Floats:
        """(64 n_words,) what each function on the cluster costs `function`, by its number there."""
        functions = bookings.functions
        if self._version != functions.version:
            self._by_number.clear()
            self._version = functions.version
        found = self._by_number.get(function)
        if found is None:
            found = self._by_number[function] = np.zeros(64 * functions.has.shape[1])
            row = self._cost[self._row[function]]
            for other, number in functions.number.items():
                if other in self._row:
                    found[number] = row[self._row[other]]
        return found
