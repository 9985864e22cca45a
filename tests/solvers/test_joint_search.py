"""The joint search against enumeration, dynamic programming, and properties that any optimum has."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.joint import JointProblem, JointSearchResult
from dilu_core.kernels.cpu import joint_search as kernel
from dilu_core.result import Limit, TerminationReason
from dilu_core.solvers.joint_search import search_joint, search_joint_many
from tests.joint_oracle import Asked, by_capacity, enumerated, random_problem, scaled, tight_problem


def _problem(asked: Asked) -> JointProblem:
    return JointProblem(asked.value, asked.weight, asked.capacity)


def _answer(result: JointSearchResult) -> tuple[tuple[int, ...], int] | None:
    if result.choice is None:
        assert result.termination.reason is TerminationReason.INFEASIBLE
        return None
    assert result.termination.reason is TerminationReason.OPTIMAL
    return tuple(result.choice.tolist()), result.value


@st.composite
def small_problems(draw: st.DrawFn) -> Asked:
    functions, options = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    values, weights = draw(st.sampled_from([1, 3, 1000])), draw(st.sampled_from([1, 3, 50]))
    size = functions * options
    value = draw(st.lists(st.integers(-values, values), min_size=size, max_size=size))
    weight = draw(st.lists(st.integers(0, weights), min_size=3 * size, max_size=3 * size))
    capacity = draw(st.lists(st.integers(0, weights * functions), min_size=3, max_size=3))
    return Asked(
        np.array(value).reshape(functions, options), np.array(weight).reshape(functions, options, 3), np.array(capacity)
    )


@given(small_problems())
def test_the_answer_of_enumeration(asked: Asked) -> None:
    """The greatest value, and of equal choices the first in lexicographic order."""
    assert _answer(search_joint(_problem(asked))) == enumerated(asked)


@given(small_problems())
def test_the_two_oracles_agree(asked: Asked) -> None:
    """Dynamic programming over capacities is enumeration."""
    assert by_capacity(asked) == enumerated(asked)


def test_thousands_of_problems_of_all_sizes() -> None:
    """n = 1..16 and K = 1..64, with ties, zero weights, no answer, and capacities that hold everything."""
    generator = np.random.default_rng(7)
    asked = [random_problem(generator, 16, 64) for _ in range(250)]
    asked += [random_problem(generator, 6, 8) for _ in range(2000)]
    asked += [tight_problem(generator, 8, 8) for _ in range(400)]
    expected = [by_capacity(each) for each in asked]
    assert 0.1 < np.mean([each is None for each in expected]) < 0.6
    given_units = [scaled(each, generator.integers(1, 5000, 3)) for each in asked]
    results = search_joint_many(map(_problem, given_units), node_limit=200_000)
    ended = [p for p, result in enumerate(results) if result.termination.limit is None]
    assert len(ended) > 0.99 * len(results)
    assert [_answer(results[p]) for p in ended] == [expected[p] for p in ended]


@given(small_problems(), st.integers(0, 2), st.integers(1, 50))
def test_more_capacity_is_never_worse(asked: Asked, dimension: int, more: int) -> None:
    """Whatever fitted still fits."""
    before = search_joint(_problem(asked))
    capacity = asked.capacity.copy()
    capacity[dimension] += more
    after = search_joint(JointProblem(asked.value, asked.weight, capacity))
    assert before.choice is None or (after.choice is not None and after.value >= before.value)


@given(small_problems(), st.randoms(use_true_random=False))
def test_the_order_of_functions_and_options_does_not_matter(asked: Asked, random: object) -> None:
    """A permuted problem has the same greatest value."""
    functions, options = asked.value.shape
    rows = random.sample(range(functions), functions)  # type: ignore[attr-defined]
    columns = random.sample(range(options), options)  # type: ignore[attr-defined]
    permuted = JointProblem(asked.value[rows][:, columns], asked.weight[rows][:, columns], asked.capacity)
    one, other = search_joint(_problem(asked)), search_joint(permuted)
    assert (one.value, one.termination) == (other.value, other.termination)


def test_known_answer() -> None:
    """Two functions, one GPU: the greedy choice of either leaves no room for the other."""
    value = [[100, 60], [100, 60]]
    weight = [[[800, 900, 10], [400, 600, 10]], [[700, 900, 10], [500, 700, 10]]]
    result = search_joint(JointProblem(value, weight, [1000, 1500, 100]))  # type: ignore[arg-type]
    assert result.choice is not None
    assert (result.choice.tolist(), result.value) == ([1, 1], 120)
    assert result.stats.backend == "cpu"
    assert result.stats.counts["nodes"] >= 0


def test_everything_equal_is_the_first_choice() -> None:
    """64 functions whose options are all alike: 64**64 best choices, and no search for the first."""
    alike = JointProblem(np.ones((64, 64)), np.ones((64, 64, 3)), [64, 64, 64])  # type: ignore[arg-type]
    result = search_joint(alike, node_limit=10_000)
    assert result.choice is not None
    assert not result.choice.any()
    assert result.termination.reason is TerminationReason.OPTIMAL


@pytest.mark.parametrize("value", [2**40, -(2**40)])
def test_the_greatest_numbers_do_not_overflow(value: int) -> None:
    """Sums on the scale of the prices stay within 63 bits at the bounds that a problem allows."""
    generator = np.random.default_rng(1)
    functions, capacity = 64, 2**20 - 2
    values = np.where(generator.random((functions, 3)) < 0.5, value, -value)
    weights = generator.choice([0, capacity // functions, capacity // 2], (functions, 3, 3))
    weights[:, 0] = 0
    result = search_joint(JointProblem(values, weights, np.full(3, capacity)), node_limit=20_000)
    assert result.choice is not None
    picked = np.arange(functions), result.choice
    assert int(values[picked].sum()) == result.value
    assert (weights[picked].sum(0) <= capacity).all()
    assert result.value >= values[:, 0].sum()


def _hard(functions: int = 14, options: int = 30) -> JointProblem:
    """Weights that follow the values closely, and half of the capacity that all would take: a long proof."""
    generator = np.random.default_rng(3)
    weight = generator.integers(100, 1000, (functions, options, 3))
    return JointProblem(
        weight.sum(2) + generator.integers(0, 30, (functions, options)),
        weight,
        weight.mean((1, 2)).sum() * np.array([0.9, 0.95, 1]) // 1,
    )


def test_a_limited_search_says_so() -> None:
    """FEASIBLE with what was found, within the nodes allowed; the choice fits and is worth what it says."""
    problem = _hard()
    result = search_joint(problem, node_limit=500)
    assert (result.termination.reason, result.termination.limit) == (TerminationReason.FEASIBLE, Limit.ITERATIONS)
    assert result.stats.counts["nodes"] == 500
    assert result.choice is not None
    picked = np.arange(problem.functions), result.choice
    assert int(problem.value[picked].sum()) == result.value
    assert (problem.weight[picked].sum(0) <= problem.capacity).all()
    more = search_joint(problem, node_limit=50_000)
    assert more.value >= result.value


@pytest.mark.parametrize("seed", range(4))
def test_where_everything_ties_and_little_fits_the_first_best_choice_is_soon_proven(seed: int) -> None:
    """Few values, scarce capacities: most of the 64 to the power of 14 choices are worth about the same."""
    generator = np.random.default_rng(seed)
    value, weight = generator.integers(0, 4, (14, 64)), generator.integers(1, 500, (14, 64, 3))
    lightest = weight.min(1).sum(0)
    capacity = lightest + (weight.mean(1).sum(0) - lightest) // 2
    result = search_joint(JointProblem(value, weight, capacity), node_limit=10_000_000)
    assert result.termination.reason is TerminationReason.OPTIMAL
    assert result.choice is not None
    taken = np.arange(14), result.choice
    assert (weight[taken].sum(0) <= capacity).all()
    assert result.value == value[taken].sum()
    earlier = [k for k in range(result.choice[-1]) if value[-1, k] >= value[-1, result.choice[-1]]]
    assert not any((weight[taken][:-1].sum(0) + weight[-1, k] <= capacity).all() for k in earlier)


def test_one_and_many_are_the_same_on_one_core_and_on_all() -> None:
    """Below and above the number of problems from which they are spread over cores."""
    generator = np.random.default_rng(5)
    problems = [_problem(random_problem(generator, 5, 9)) for _ in range(2 * kernel.PARALLEL_PROBLEMS)]
    many = search_joint_many(problems)
    for problem, result in zip(problems, many, strict=True):
        assert _answer(search_joint(problem)) == _answer(result)
    assert search_joint_many([]) == []


def test_misuse_is_refused_by_name() -> None:
    """Each error names the argument."""
    problem = JointProblem([[1]], [[[1, 1, 1]]], [1, 1, 1])  # type: ignore[arg-type]
    for call, message in (
        (lambda: search_joint(3), "problem is 3"),  # type: ignore[arg-type]
        (lambda: search_joint_many([problem, 3]), r"problems\[1\] is 3"),  # type: ignore[list-item]
        (lambda: search_joint(problem, node_limit=0), "node_limit is 0"),
        (lambda: search_joint(problem, node_limit=5, backend="cuda"), "node_limit is 5 with backend='cuda'"),
        (lambda: search_joint(problem, backend="gpu"), "^backend is 'gpu'; expected one of auto, cpu, cuda"),
        (lambda: search_joint(problem, node_limit=5, backend=np.array(["cpu", "cuda"])), "backend is array"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            call()


@settings(max_examples=20)
@given(small_problems())
def test_a_choice_is_read_only(asked: Asked) -> None:
    """Results are values, also after pickling."""
    result = search_joint(_problem(asked))
    for each in (result, pickle.loads(pickle.dumps(result))):
        assert each.choice is None or not each.choice.flags.writeable
