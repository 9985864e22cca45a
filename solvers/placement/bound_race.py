"""Column generation beside the search: a thread that raises the bound, and in the end prices every instance.

The prices are those of the pattern program's dual. As sizes for local search they make all patterns of a best packing
equally full, so a search that fills GPUs by price finds its way to within a few GPUs of the bound. To keep answers
repeatable the search takes prices only from a program that has converged, at a point that no clock decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Instance
from dilu_core.placement import PlacementProblem
from dilu_core.solvers.placement.bounds import Bound
from dilu_core.solvers.placement.column_generation import ColumnBound, column_bound
from dilu_core.solvers.placement.diving import dive

Floats = NDArray[np.float64]


class BoundRace:
    """Runs `column_bound` for the instances of a problem until `deadline` or the end of the `with` block."""

    def __init__(
        self,
        problem: PlacementProblem,
        wanted: Sequence[Instance],
        *,
        known: Bound,
        deadline: float,
    ) -> None:
        self._problem, self._wanted = problem, wanted
        self._best, self._deadline = known, deadline
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._future: Future[ColumnBound] | None = None

    def __enter__(self) -> BoundRace:
        self._future = self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True)

    def _run(self) -> ColumnBound:
        return column_bound(
            self._problem.cluster,
            self._problem.oversubscription,
            self._wanted,
            deadline=self._deadline,
            stop=self._stop.is_set,
            report=self._better,
        )

    def _better(self, value: int) -> None:
        if value > self._best.value:
            self._best = Bound(value, "column generation")

    @property
    def best(self) -> Bound:
        """The best bound so far."""
        if self._future is not None and self._future.done() and self._future.exception() is None:
            found = self._future.result()
            if found.value > self._best.value:
                self._best = Bound(found.value, found.proof)
        return self._best

    @property
    def is_over(self) -> bool:
        """Whether the bound is as good as it will get."""
        return self._future is not None and self._future.done()

    @property
    def has_converged(self) -> bool:
        """Whether it got there by itself, not by a clock."""
        return self._future is not None and self._future.done() and self._future.result().converged

    def packing(self, deadline: float) -> list[list[int]] | None:
        """The optimum of the converged program rounded to whole GPUs: for each, the numbers of the instances on it.

        To be asked for once, after `prices`. `None` where the program has not converged, or time was short.
        """
        if self._future is None or not self.has_converged:
            return None
        found = dive(self._future.result(), deadline=deadline)
        return found if time.perf_counter() < deadline else None

    def prices(self) -> Floats | None:
        """(n_wanted,) the price of each instance; `None` where the program has not converged."""
        if self._future is None or not self.has_converged:
            return None
        price = np.zeros(len(self._wanted))
        for generation, members in self._future.result().generations:
            types = generation.types
            of_type = generation.master.item_price
            np.add.at(price, np.asarray(members, np.int64)[types.owner], of_type[types.type_of])
        return price
