"""Joint problems: what they refuse, how they are built from quota searches."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest

from dilu_core.cluster import GpuType, Oversubscription
from dilu_core.errors import InvalidArgumentError
from dilu_core.joint import LARGEST_CAPACITY, LARGEST_VALUE, MOST_FUNCTIONS, JointProblem
from dilu_core.kernels.cpu import joint_packing, joint_prepare
from dilu_core.performance import MemoryModel
from dilu_core.quota import QuotaConfig, QuotaSearchResult
from dilu_core.result import SolveStats, Termination, TerminationReason

GOOD: dict[str, Any] = {"value": [[1, 2]], "weight": [[[1, 1, 1], [2, 2, 2]]], "capacity": [5, 5, 5]}


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("value", [1, 2], r"value has shape \(2,\); expected \(n, K\)"),
        ("value", np.zeros((2, 0)), r"value has shape \(2, 0\)"),
        ("value", np.zeros((65, 1)), r"value has shape \(65, 1\); expected \(n, K\), n of 1..64"),
        ("value", [[1.5, 2]], r"value\[0, 0\] is 1.5; expected an integer"),
        ("value", [[1, float("nan")]], r"value\[0, 1\] is nan"),
        ("value", [[1, 2**41]], r"value\[0, 1\] is 2199023255552"),
        ("value", [["a", "b"]], "value is .* expected an array of integers"),
        ("value", [[1], [2, 3]], "value is ragged"),
        ("value", [[True, False]], "value is .* expected an array of integers"),
        ("weight", [[[1, 1], [2, 2]]], r"weight has shape \(1, 2, 2\); expected \(1, 2, 3\)"),
        ("weight", [[[1, 1, 1], [2, -2, 2]]], r"weight\[0, 1, 1\] is -2"),
        ("capacity", [1, 2], r"capacity has shape \(2,\); expected \(3,\)"),
        ("capacity", [1, 2, 2**20], r"capacity\[2\] is 1048576; expected an integer between 0 and 1048574"),
    ],
)
def test_what_is_no_problem_is_refused_by_name(argument: str, value: object, message: str) -> None:
    """The error names the argument and the first element at fault."""
    with pytest.raises(InvalidArgumentError, match=message):
        JointProblem(**{**GOOD, argument: value})


def test_columns_are_read_only_copies_also_after_pickling() -> None:
    """Nobody can change a problem behind its back."""
    value = np.array([[1, 2]])
    problem = JointProblem(value, GOOD["weight"], GOOD["capacity"])
    value[0, 0] = 7
    for each in (problem, pickle.loads(pickle.dumps(problem))):
        assert each.value[0, 0] == 1
        assert (each.functions, each.options) == (1, 2)
        with pytest.raises(ValueError, match="read-only"):
            each.weight[0, 0, 0] = 3


def test_half_precision_is_read_without_a_warning() -> None:
    """Integral halves pass, others are named, and bounds that no half reaches overflow nowhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        halves: Any = np.array([[1, 60000]], np.float16)
        problem = JointProblem(halves, GOOD["weight"], GOOD["capacity"])
        assert problem.value.tolist() == [[1, 60000]]
        for value in (0.5, np.inf):
            halves[0, 1] = value
            with pytest.raises(InvalidArgumentError, match=r"value\[0, 1\] is"):
                JointProblem(halves, GOOD["weight"], GOOD["capacity"])


def test_values_and_kernels_agree_on_the_bounds() -> None:
    """What the value accepts, the kernels can hold."""
    assert LARGEST_CAPACITY == joint_packing.LARGEST_CAPACITY
    assert (MOST_FUNCTIONS, LARGEST_VALUE) == (joint_prepare.MOST_FUNCTIONS, joint_prepare.LARGEST_VALUE)


def _search(*configs: QuotaConfig) -> QuotaSearchResult:
    return QuotaSearchResult(None, configs, 0, 0, Termination(TerminationReason.OPTIMAL), SolveStats(0.0))


ONE = _search(QuotaConfig(1, 200, 400, 10.0, 100.0, 500.0), QuotaConfig(4, 500, 900, 20.0, 200.0, 400.0))
OTHER = _search(QuotaConfig(2, 300, 600, 10.0, 200.0, 666.7))


def test_a_problem_from_quota_searches() -> None:
    """Values are thousandths of a request per second, weights what is booked; what is filled up cannot be chosen."""
    gpu, memories = GpuType("a", 8000), (MemoryModel(1000, 100), MemoryModel(500))
    problem = JointProblem.on_gpu([ONE, OTHER], memories, gpu, importance=[1.0, 0.5])
    assert problem.capacity.tolist() == [1000, 1500, 8000]
    assert problem.value.tolist() == [[100_000, 200_000], [100_000, 0]]
    assert problem.weight[0].tolist() == [[200, 400, 1100], [500, 900, 1400]]
    assert problem.weight[1, 0].tolist() == [300, 600, 500]
    assert (problem.weight[1, 1] > problem.capacity).all()
    less = JointProblem.on_gpu([ONE], memories[:1], gpu, oversubscription=Oversubscription(800, 900))
    assert less.capacity.tolist() == [800, 900, 8000]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"searches": []}, "searches is empty"),
        ({"searches": [_search()]}, r"searches\[0\] has an empty Pareto front"),
        ({"memories": []}, "memories has 0 entries for 1 searches"),
        ({"memories": [100]}, r"memories\[0\] is 100; expected a MemoryModel"),
        ({"gpu": "a100"}, "gpu is 'a100'"),
        ({"importance": [1.0, 2.0]}, "importance has 2 entries for 1 searches"),
        ({"importance": [-1.0]}, r"importance\[0\] is -1.0"),
        ({"oversubscription": 3}, "oversubscription is 3"),
    ],
)
def test_bad_ingredients_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    """So are those of a problem built from quota searches."""
    good = {"searches": [ONE], "memories": [MemoryModel(1000)], "gpu": GpuType("a", 8000)}
    with pytest.raises(InvalidArgumentError, match=message):
        JointProblem.on_gpu(**{**good, **changes})
