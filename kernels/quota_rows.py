"""The columns of a quota sweep, as both back ends take and give them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class SweepRows(NamedTuple):
    """R rows (a function on a GPU type), each searched at Q quantiles and N budgets over one grid.

    `models` (R, 6) as (L, h, m, w, d, p); `covariances` (R, 21) of their logs in units of the noise variance, packed by
    `packed`, or (R, 0) where the mean decides; `errors` (R, 3) as (scatter, leverage cap, floor); `levels` (R, Q), k
    of the bound t exp(k sigma); `budgets` (R, N) in ms; ascending `batches` (B,), `shares` (S,) and `limits` (L,), the
    last two in milli-GPU, all float64; `saturation`, the part of a whole GPU's throughput at which a limit is enough.
    """

    models: Floats
    covariances: Floats
    errors: Floats
    levels: Floats
    budgets: Floats
    batches: Floats
    shares: Floats
    limits: Floats
    saturation: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """(R, Q, N)."""
        return self.models.shape[0], self.levels.shape[1], self.budgets.shape[1]

    @property
    def searches(self) -> int:
        """R Q N."""
        rows, quantiles, budgets = self.shape
        return rows * quantiles * budgets

    @property
    def points(self) -> int:
        """Configurations that the sweep decides on: searches x batches x shares x limits."""
        return self.searches * self.batches.size * self.shares.size * self.limits.size

    def select(self, rows: slice | NDArray[np.int64]) -> SweepRows:
        """The same grid for some of the rows."""
        return self._replace(
            models=self.models[rows],
            covariances=self.covariances[rows],
            errors=self.errors[rows],
            levels=self.levels[rows],
            budgets=self.budgets[rows],
        )


class SweepCells(NamedTuple):
    """The best cells: `chosen` (R, Q, N, 3) int32, indices of batch, share and limit, or -1 (for the limit: none
    saturates); `predicted` (R, Q, N, 2), latency and deciding bound in ms, nan where nothing is feasible; `evaluated`
    (R,), how often the roofline or its inverse was evaluated.
    """

    chosen: NDArray[np.int32]
    predicted: Floats
    evaluated: NDArray[np.int64]

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """The fields, as arrays of any kind."""
        return (self.chosen, self.predicted, self.evaluated)


class SweepFronts(NamedTuple):
    """The Pareto fronts: `batch` (R, Q, N, S) int16, the index of the batch at each share or -1; `latency` there in ms;
    `saturating` (R, B) int16, the index of the limit at which each batch saturates or -1; `evaluated` (R,).
    """

    batch: NDArray[np.int16]
    latency: Floats
    saturating: NDArray[np.int16]
    evaluated: NDArray[np.int64]

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """The fields, as arrays of any kind."""
        return (self.batch, self.latency, self.saturating, self.evaluated)


def packed(covariances: Floats) -> Floats:
    """(R, 21) of symmetric (R, 6, 6): the lower triangle by rows, what is off the diagonal doubled."""
    rows, columns = np.tril_indices(6)
    return np.ascontiguousarray(covariances[..., rows, columns] * np.where(rows == columns, 1.0, 2.0))
