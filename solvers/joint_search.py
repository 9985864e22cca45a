"""The exact joint search: one configuration for each function on a GPU, greatest total value within its capacities."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.joint import JointProblem, JointSearchResult
from dilu_core.kernels.backend import BACKENDS, RunRecord
from dilu_core.kernels.cpu import joint_search as cpu
from dilu_core.result import Limit, Termination, TerminationReason
from dilu_core.solvers.backends import resolved, stats_of

_OPTIMAL = Termination(TerminationReason.OPTIMAL, None, "every other choice is bounded below the best one.")
_INFEASIBLE = Termination(
    TerminationReason.INFEASIBLE, None, "no choice of one configuration per function fits the capacities."
)


def search_joint(problem: JointProblem, *, node_limit: int | None = None, backend: str = "auto") -> JointSearchResult:
    """The best choice of one configuration per function: exact, by branch and bound with a Lagrangian bound.

    Parameters
    ----------
    problem
        A `JointProblem`, such as `JointProblem.on_gpu(...)` builds.
    node_limit
        Partial choices to look at, at most; `None`: as many as the proof takes. For dozens of functions with scarce
        capacities that can be very many. A limited search runs on the CPU.
    backend
        "auto", "cpu" or "cuda".

    Returns
    -------
    JointSearchResult
        `OPTIMAL`, or `INFEASIBLE` with `choice=None`; under a `node_limit` also `FEASIBLE` or `NO_SOLUTION_FOUND`.

    Raises
    ------
    InvalidArgumentError
        Naming the argument.
    """
    if not isinstance(problem, JointProblem):
        check.fail("problem", f"is {problem!r:.80}; expected a JointProblem.")
    return _search((problem,), node_limit, backend)[0]


def search_joint_many(
    problems: Iterable[JointProblem], *, node_limit: int | None = None, backend: str = "auto"
) -> list[JointSearchResult]:
    """`search_joint` for every problem, spread over the cores or over a GPU; sizes may differ.

    `node_limit` holds for each. All results share the wall time in `.stats`.
    """
    return _search(check.instances_of("problems", problems, JointProblem), node_limit, backend)


def _search(problems: Sequence[JointProblem], node_limit: int | None, backend: str) -> list[JointSearchResult]:
    started = time.perf_counter()
    named = check.choice("backend", backend, BACKENDS)
    limit = cpu.UNLIMITED if node_limit is None else check.integer("node_limit", node_limit, at_least=1)
    functions = np.array([problem.functions for problem in problems], dtype=np.int64)
    options = np.array([problem.options for problem in problems], dtype=np.int64)
    if node_limit is None:
        ran_on = resolved(named, "joint", float((functions * options).sum()))
    elif named == "cuda":
        check.fail("node_limit", f"is {node_limit} with backend='cuda'; a limited search runs on the CPU.")
    else:
        ran_on = resolved(named)
    if not problems:
        return []
    value = np.concatenate([problem.value.ravel() for problem in problems])
    weight = np.concatenate([problem.weight.reshape(-1, 3) for problem in problems])
    capacity = np.stack([problem.capacity for problem in problems])
    if ran_on == "cuda":
        from dilu_core.kernels.cuda import joint as cuda

        choice, best, nodes, record = cuda.search_many(functions, options, value, weight, capacity)
    else:
        choice, best, nodes = cpu.search_many(functions, options, value, weight, capacity, node_limit=limit)
        record = RunRecord()
    seconds = time.perf_counter() - started
    choice.flags.writeable = False
    ends = np.cumsum(functions)
    answers = zip(ends.tolist(), functions.tolist(), best.tolist(), nodes.tolist(), strict=True)
    return [
        _result(choice[end - n : end], total, visited, limit, record, seconds) for end, n, total, visited in answers
    ]


def _result(
    choice: NDArray[np.int64], total: int, nodes: int, limit: int, record: RunRecord, seconds: float
) -> JointSearchResult:
    known = bool(choice[0] >= 0)
    stats = stats_of(record, seconds, {"nodes": min(nodes, limit)})
    if nodes > limit:
        reason = TerminationReason.FEASIBLE if known else TerminationReason.NO_SOLUTION_FOUND
        termination = Termination(reason, Limit.ITERATIONS, f"stopped at node_limit = {limit}.")
    else:
        termination = _OPTIMAL if known else _INFEASIBLE
    return JointSearchResult(choice if known else None, total if known else 0, termination, stats)
