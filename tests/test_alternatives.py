"""Alternative configurations are points of the Pareto front that serve as much and need less of something."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from dilu_core.alternatives import alternative_configurations
from dilu_core.errors import InvalidArgumentError
from dilu_core.instances import Configuration
from dilu_core.performance import MemoryModel
from dilu_core.quota import QuotaConfig, QuotaSearchResult
from dilu_core.result import SolveStats, Termination, TerminationReason

MEMORY = MemoryModel(1000.0, 100.0)


def config(batch: int, request: int, limit: int, rps: float) -> QuotaConfig:
    """A configuration with this throughput."""
    return QuotaConfig(batch, request, limit, 1000 * batch / rps, rps, 1000 * rps / request)


def found(*pareto: QuotaConfig, best: QuotaConfig | None) -> QuotaSearchResult:
    """A search's result with this front."""
    return QuotaSearchResult(best, pareto, 1, 0, Termination(TerminationReason.OPTIMAL), SolveStats(0.0))


BEST = config(16, 200, 400, 100.0)
FRONT = (
    config(8, 100, 200, 60.0),
    BEST,
    config(4, 300, 500, 110.0),
    config(4, 400, 500, 120.0),
    config(2, 500, 600, 125.0),
)


def test_alternatives_trade_request_for_memory() -> None:
    """Smaller batches at greater requests save memory; what saves nothing, or serves less, is no alternative."""
    assert alternative_configurations(found(*FRONT, best=BEST), MEMORY) == (
        Configuration(300, 500, 1400),
        Configuration(500, 600, 1200),
    )


def test_they_are_bounded_and_may_be_none() -> None:
    """`most` cuts the list; without a best there is nothing to be alternative to."""
    assert len(alternative_configurations(found(*FRONT, best=BEST), MEMORY, most=1)) == 1
    assert alternative_configurations(found(*FRONT, best=BEST), MEMORY, most=0) == ()
    assert alternative_configurations(found(best=None), MEMORY) == ()


def test_another_configuration_may_be_the_own_one() -> None:
    """Against a configuration of less throughput, the best becomes an alternative only where it saves something."""
    own = FRONT[0]
    listed = alternative_configurations(found(*FRONT, best=BEST), MEMORY, chosen=own)
    assert all(a.request_milli <= b.request_milli for a, b in pairwise(listed))
    assert Configuration(200, 400, 2600) not in listed


@pytest.mark.parametrize(
    ("arguments", "options", "argument"),
    [
        ((None, MEMORY), {}, "found"),
        ((found(best=None), 4096), {}, "memory"),
        ((found(best=None), MEMORY), {"chosen": 3}, "chosen"),
        ((found(best=None), MEMORY), {"most": -1}, "most"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple[Any, ...], options: dict[str, Any], argument: str) -> None:
    """A bad argument is refused by name."""
    with pytest.raises(InvalidArgumentError) as caught:
        alternative_configurations(*arguments, **options)
    assert caught.value.argument == argument
