"""The quota search by its definitions, cell by cell in plain Python: slow, and independent of the fast search.

It shares nothing with `solvers.quota_search` but the model it asks. Tests compare the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dilu_core.performance import LatencyModel


@dataclass(frozen=True)
class OracleAnswer:
    """Best cell and Pareto front as (batch, request_milli, limit_milli); `best` is `None` if nothing is feasible."""

    best: tuple[int, int, int] | None
    pareto: tuple[tuple[int, int, int], ...]


def exhaustive_quota(
    fit: LatencyModel,
    batches: Iterable[int],
    shares: Iterable[int],
    budget_ms: float,
    *,
    quantile: float | None = None,
    saturation: float = 0.98,
    request_factor: float | None = 2.0,
    blocked: Iterable[tuple[int, int]] = (),
) -> OracleAnswer:
    """Look at every (batch, share): feasible if its bound (its mean without `quantile`) is within `budget_ms`.

    Ties are 1e-9, relative: of equal efficacies the least share wins, then the smaller batch; at one share, of equal
    throughputs the smaller batch.
    """
    batches, shares, never = sorted(batches), sorted(shares), set(blocked)
    mean = {(b, s): float(fit.latency_ms(b, s)) for b in batches for s in (*shares, 1000)}
    feasible = []
    for batch in batches:
        for share in shares:
            bound = mean[batch, share]
            if quantile is not None:
                bound = float(fit.upper_ms(batch, share, quantile))  # type: ignore[attr-defined]
            if bound <= budget_ms * (1 + 1e-9) and (batch, share) not in never:
                feasible.append((batch, share))

    def throughput(cell: tuple[int, int]) -> float:
        return cell[0] / mean[cell]

    def efficacy(cell: tuple[int, int]) -> float:
        return throughput(cell) / cell[1]

    def with_limit(cell: tuple[int, int]) -> tuple[int, int, int]:
        batch, request = cell
        full = throughput((batch, 1000))
        reached = [s for s in shares if throughput((batch, s)) >= saturation * full * (1 - 1e-9)]
        limit = min(reached, default=1000)
        if request_factor is not None:
            limit = min(limit, int(request_factor * request))
        return batch, request, max(limit, request)

    if not feasible:
        return OracleAnswer(None, ())
    greatest = max(map(efficacy, feasible))
    tied = [cell for cell in feasible if efficacy(cell) >= greatest * (1 - 1e-9)]
    best = min(tied, key=lambda cell: (cell[1], cell[0]))

    front: list[tuple[int, int]] = []
    for share in shares:
        top = throughput(front[-1]) if front else 0.0
        gains = [cell for cell in feasible if cell[1] == share and throughput(cell) > top * (1 + 1e-9)]
        if gains:
            most = max(map(throughput, gains))
            front.append(min(cell for cell in gains if throughput(cell) >= most * (1 - 1e-9)))
    return OracleAnswer(with_limit(best), tuple(with_limit(cell) for cell in front))
