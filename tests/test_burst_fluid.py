"""The evaluator of correlated spreading in bench/: by hand, and within its bounds on any placement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.correlation import LoadCorrelation
from dilu_core.instances import Instance
from dilu_core.slots import Slot
from tests.bench_modules import bench_module


@pytest.fixture(scope="module")
def fluid() -> Any:
    """The module in bench/, which is no package."""
    return bench_module("burst_fluid")


def test_neighbours_that_burst_together_lose_what_those_that_take_turns_get(fluid: Any) -> None:
    """Two of 500 milli that want 800: in step the GPU is full and both lose all burst, in turn each finds 450 spare."""
    f, g = (Instance(name, "inference", 500, 800, 1, function=name) for name in "fg")
    slot = {"f": (Slot("n", 0, 1),), "g": (Slot("n", 0, 1),)}
    instances = {"f": f, "g": g}
    in_step = fluid.burst_service(instances, slot, {"f": np.array([2.0, 0.1]), "g": np.array([2.0, 0.1])})
    assert (in_step.wanted, in_step.served, in_step.lost) == (600, 0, 1)
    in_turn = fluid.burst_service(instances, slot, {"f": np.array([2.0, 0.1]), "g": np.array([0.1, 2.0])})
    assert (in_turn.wanted, in_turn.served, in_turn.lost) == (600, 600, 0)
    apart = fluid.burst_service(
        instances, slot | {"g": (Slot("n", 1, 1),)}, {"f": np.array([2.0]), "g": np.array([2.0])}
    )
    assert apart.lost == 0


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 2), st.floats(0, 3)), max_size=6))
def test_service_is_within_its_bounds(fluid: Any, rows: list[tuple[int, int, float]]) -> None:
    """Served is between 0 and wanted, and a GPU of its own for each serves all of it."""
    instances = {
        f"i{k}": Instance(f"i{k}", "inference", request, 2 * request, 1, function=f"i{k}")
        for k, (request, _, _) in enumerate(rows)
    }
    loads = {f"i{k}": np.array([load]) for k, (_, _, load) in enumerate(rows)}
    shared = fluid.burst_service(instances, {f"i{k}": (Slot("n", g, 1),) for k, (_, g, _) in enumerate(rows)}, loads)
    alone = fluid.burst_service(instances, {f"i{k}": (Slot("n", k, 1),) for k in range(len(rows))}, loads)
    assert 0 <= shared.served <= shared.wanted == pytest.approx(alone.wanted)
    assert alone.served == pytest.approx(alone.wanted)


def test_generated_loads_have_the_phases_asked_for(fluid: Any) -> None:
    """Functions of one phase score high, those half a day apart below 0."""
    loads = fluid.daily_loads({"a": 0.0, "b": 0.0, "c": 0.5}, days=3, period_s=600.0, peak=2.0, seed=1)
    found = LoadCorrelation.of(loads)
    assert found.score("a", "b") > 0.7
    assert found.score("a", "c") < -0.3
