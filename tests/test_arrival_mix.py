"""Task mixes: counted, learnt with forgetting, cut to the common shapes, written and read."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.arrival_mix import TaskMix, TaskShape, task_shape
from dilu_core.errors import InvalidArgumentError
from dilu_core.instances import Instance
from dilu_core.mix_estimator import MixEstimator


def _instance(request: int, **more: Any) -> Instance:
    return Instance(f"i{request}", "inference", request, min(1000, 2 * request), 1024, **more)


def test_equal_shapes_are_counted_together_and_the_commonest_stands_first() -> None:
    """Three of one shape and one of another weigh 3/4 and 1/4, whatever their names and order."""
    one, other = _instance(300, cpu_milli=4000, host_memory_mib=8192), _instance(100)
    mix = TaskMix.of([other, one, one, one])
    assert mix.shapes.tolist() == [[300, 600, 1024, 1, 4000, 8192], [100, 200, 1024, 1, 0, 0]]
    assert mix.weight.tolist() == [0.75, 0.25]
    assert mix == TaskMix.of([one, one, other, one])
    assert hash(mix) == hash(TaskMix.of([one, one, other, one]))
    assert not mix.shapes.flags.writeable


def test_gangs_and_splits_have_shapes() -> None:
    """A gang counts with its greatest memory; what must be split counts as the fewest equal parts, without burst."""
    gang = Instance("g", "training", 500, 700, (100, 300), gpus=2)
    assert task_shape(gang) == TaskShape(500, 700, 300, 2, 0, 0)
    split = Instance("s", "llm-inference", 200, 400, 100, splittable=True)
    assert task_shape(split) == task_shape(split, largest_gpu_mib=100) == TaskShape(200, 400, 100, 1, 0, 0)
    assert task_shape(split, largest_gpu_mib=40) == TaskShape(200, 200, 34, 3, 0, 0)


@given(st.dictionaries(st.integers(1, 500), st.integers(1, 50), max_size=12), st.floats(0.05, 1.0), st.integers(1, 12))
def test_common_shapes_are_the_fewest_that_cover(counts: dict[int, int], coverage: float, most: int) -> None:
    """The heaviest shapes are kept until they cover the part asked for or `most` are there; one fewer would not do."""
    mix = TaskMix.of([_instance(request) for request, count in counts.items() for _ in range(count)])
    kept = mix.common(most=most, coverage=coverage)
    total = sum(counts.values())
    falling = sorted(counts.values(), reverse=True)
    assert len(kept) == min([most, len(counts), *(
        n for n in range(1, len(falling) + 1) if sum(falling[:n]) >= coverage * total - 1e-9 * total
    )])  # fmt: skip
    assert kept.shapes.tolist() == mix.shapes.tolist()[: len(kept)]
    if len(kept):
        assert kept.weight.sum() == pytest.approx(1.0)
        assert kept.weight[0] / kept.weight[-1] == pytest.approx(falling[0] / falling[len(kept) - 1])


@given(st.lists(st.integers(1, 9), max_size=30))
def test_a_mix_survives_json(requests: list[int]) -> None:
    """Reading what was written gives the same bits, an empty mix too."""
    mix = TaskMix.of([_instance(request) for request in requests])
    assert TaskMix.from_dict(json.loads(json.dumps(mix.to_dict()))) == mix


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("request_milli", [1001], r"request_milli\[0\]"),
        ("limit_milli", [50], r"limit_milli\[0\] is 50, below request_milli 100"),
        ("gpus", [-1], r"gpus\[0\]"),
        ("weight", [0.0], r"weight\[0\]"),
        ("weight", [float("nan")], r"weight\[0\]"),
        ("cpu_milli", [1, 2], "cpu_milli has 2 numbers for 1 weights"),
    ],
)
def test_wrong_columns_are_named(column: str, value: Any, message: str) -> None:
    """A mix says which column is wrong."""
    right: dict[str, Any] = {
        "request_milli": [100], "limit_milli": [200], "memory_mib": [1], "gpus": [1], "cpu_milli": [0],
        "host_memory_mib": [0], "weight": [1.0],
    }  # fmt: skip
    assert len(TaskMix(**right)) == 1
    with pytest.raises(InvalidArgumentError, match=message):
        TaskMix(**right | {column: value})


def test_huge_weights_do_not_overflow() -> None:
    """Weights whose sum is beyond floating point are still weighed."""
    column = np.array([1, 1])
    mix = TaskMix(column, column, column, column, column, column, np.array([1.5e308, 1.5e308]))
    assert mix.weight.tolist() == [0.5, 0.5]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=60), st.floats(0.5, 50.0))
def test_forgetting_by_arrivals_is_the_weighted_count(requests: list[int], half_life: float) -> None:
    """The learnt weight of a shape is its count, each arrival halved for every half-life of arrivals since."""
    estimator = MixEstimator(half_life_arrivals=half_life)
    expected: Counter[int] = Counter()
    for back, request in enumerate(reversed(requests)):
        expected[request] += 0.5 ** (back / half_life)  # type: ignore[assignment]
    for request in requests:
        estimator.observe(_instance(request))
    mix = estimator.mix(most=100, coverage=1.0)
    found = dict(zip(mix.request_milli.tolist(), mix.weight.tolist(), strict=True))
    total = sum(expected.values())
    assert found == pytest.approx({request: weight / total for request, weight in expected.items()})


def test_forgetting_by_time_halves_by_the_clock() -> None:
    """After one half-life a new arrival weighs as much as two old ones; years later the old ones are gone."""
    estimator = MixEstimator(half_life_s=60.0)
    for _ in range(2):
        estimator.observe(_instance(100), time_s=1000.0)
    estimator.observe(_instance(200), time_s=1060.0)
    assert estimator.mix(coverage=1.0).weight.tolist() == pytest.approx([0.5, 0.5])
    estimator.observe(_instance(200), time_s=0.0)  # a clock that went back counts as the latest time
    assert estimator.mix(coverage=1.0).weight.tolist() == pytest.approx([2 / 3, 1 / 3])
    estimator.observe(_instance(300), time_s=1e12)
    assert estimator.mix(coverage=1.0).request_milli.tolist() == [300]


def test_a_long_run_neither_overflows_nor_grows() -> None:
    """Weights stay finite over many half-lives, and the shapes remembered stay within the bound."""
    estimator = MixEstimator(half_life_arrivals=3.0, most_shapes=8)
    for i in range(5000):
        estimator.observe(_instance(1 + i % 499))
        assert len(estimator.to_dict()["shapes"]) <= 8
    assert estimator.arrivals == 5000
    mix = estimator.mix(most=3, coverage=1.0)
    assert mix.request_milli.tolist() == [1 + i % 499 for i in (4999, 4998, 4997)]


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1e6)), max_size=40), st.integers(0, 40), st.booleans())
def test_a_restored_estimator_goes_on_bit_for_bit(arrivals: list[tuple[int, float]], cut: int, timed: bool) -> None:
    """Writing and reading in the middle changes nothing that follows."""
    unbroken = MixEstimator(half_life_s=500.0, most_shapes=6) if timed else MixEstimator(most_shapes=6)
    resumed = MixEstimator.from_dict(unbroken.to_dict())
    for i, (request, time_s) in enumerate(arrivals):
        if i == cut:
            resumed = MixEstimator.from_dict(json.loads(json.dumps(resumed.to_dict())))
        for each in (unbroken, resumed):
            each.observe(_instance(request), time_s=time_s if timed else None)
    assert resumed.to_dict() == unbroken.to_dict()
    assert resumed.mix() == unbroken.mix()


def test_bad_arguments_of_the_estimator_are_named() -> None:
    """Two half-lives, none above 0, no time where one is needed, and states that nobody wrote."""
    with pytest.raises(InvalidArgumentError, match="half_life_s is given beside"):
        MixEstimator(half_life_s=1.0, half_life_arrivals=1.0)
    with pytest.raises(InvalidArgumentError, match="half_life_arrivals"):
        MixEstimator(half_life_arrivals=0.0)
    with pytest.raises(InvalidArgumentError, match="time_s is None"):
        MixEstimator(half_life_s=1.0).observe(_instance(1))
    state = MixEstimator().to_dict()
    with pytest.raises(InvalidArgumentError, match=r"estimator.shapes\[0\]"):
        MixEstimator.from_dict(state | {"shapes": [[1, 2]]})
    with pytest.raises(InvalidArgumentError, match=r"estimator.shapes\[0\].weight"):
        MixEstimator.from_dict(state | {"shapes": [[1, 2, 3, 4, 5, 6, -1.0]]})
    with pytest.raises(InvalidArgumentError, match=r"estimator\.next_weight"):
        MixEstimator.from_dict(state | {"next_weight": 0.0})
