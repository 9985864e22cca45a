"""Cost of a shared placement beside whole GPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cost import CostReport
from dilu_core.errors import InvalidArgumentError


def test_known_answer() -> None:
    """Five GPUs in place of eight at 2 an hour save 6 an hour, three eighths."""
    cost = CostReport(5, 8, 2.0)
    assert (cost.per_hour, cost.whole_gpu_per_hour, cost.saving_per_hour) == (10.0, 16.0, 6.0)
    assert cost.saving_fraction == pytest.approx(3 / 8)


def test_nothing_costs_nothing() -> None:
    """An empty plan saves nothing and divides by nothing."""
    assert CostReport(0, 0, 2.0).saving_fraction == 0.0


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1e6))
def test_parts_add_up(used: int, whole: int, price: float) -> None:
    """What is paid and what is saved make up the whole-GPU cost."""
    cost = CostReport(used, whole, price)
    assert cost.per_hour + cost.saving_per_hour == pytest.approx(cost.whole_gpu_per_hour, abs=1e-3)


@pytest.mark.parametrize(
    ("argument", "values"),
    [("gpus_used", (-1, 1, 1.0)), ("whole_gpu_gpus", (1, 2.5, 1.0)), ("price_per_gpu_hour", (1, 1, float("nan")))],
)
def test_bad_arguments_are_named(argument: str, values: tuple[float, float, float]) -> None:
    """Counts are whole and prices finite, or the error names which is not."""
    with pytest.raises(InvalidArgumentError, match=argument):
        CostReport(*values)  # type: ignore[arg-type]
