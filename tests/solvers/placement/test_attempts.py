"""Attempts on an executor: one time limit for all of them, whatever its workers do."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from dilu_core.cluster import Cluster, GpuType, Instance
from dilu_core.errors import InvalidArgumentError
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.result import Limit
from dilu_core.solvers.placement import attempt as attempts
from dilu_core.solvers.placement.attempt import ATTEMPTS, Outcome, attempt
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.place import place
from dilu_core.solvers.placement.task import Task

LIMIT_S = 0.2
NEVER_ENOUGH = Objective(weights={"gpus": 1, "nodes": 1})  # which no bound ends
PROBLEM = PlacementProblem(
    Cluster.homogeneous(30, 4, GpuType("A", 40960)),
    tuple(Instance(f"i{k}", "inference", 230 + 83 * k % 271, 600, 9000 + 7 * k * k % 9000) for k in range(60)),
)


class InTurn(Executor):
    """Runs each task within `submit`, as one worker would that is done before anybody looks."""

    def submit(self, fn: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*arguments, **named))
        return future


def test_attempts_in_turn_share_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first attempt takes all of the time, nothing is left to those after it, and the outcome says so."""
    given: list[float] = []

    def spending(task: Task, *rest: Any) -> Outcome:
        given.append(task.seconds)
        time.sleep(task.seconds)
        return attempt(Task(**{**vars(task), "seconds": 0.0}), *rest)

    monkeypatch.setattr(attempts, "attempt", spending)
    result = place(PROBLEM, objective=NEVER_ENOUGH, time_limit_s=LIMIT_S, executor=InTurn())
    assert len(given) == ATTEMPTS
    assert sum(given) <= LIMIT_S + 0.01  # the steps of a wall clock may be coarse
    assert result.termination.limit is Limit.TIME
    assert verify_placement(PROBLEM, result.placement, require_all=True) == ()


def test_busy_workers_are_not_waited_for() -> None:
    """Where no worker is free within the limit, the first construction is made here."""
    done = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(done.wait)
        try:
            result = place(PROBLEM, objective=NEVER_ENOUGH, time_limit_s=0.05, executor=executor)
        finally:
            done.set()
    assert result.placement == place(PROBLEM, objective=NEVER_ENOUGH, time_limit_s=0).placement
    assert result.termination.limit is Limit.TIME


def test_an_executor_that_takes_no_work_is_refused_by_name() -> None:
    """One that is shut down, and an object without `submit`, are errors that name the argument."""
    closed = ThreadPoolExecutor(1)
    closed.shutdown()
    others: tuple[Any, ...] = (closed, type("Maps", (), {"map": map})())
    for executor in others:
        with pytest.raises(InvalidArgumentError) as caught:
            place(PROBLEM, executor=executor)
        assert caught.value.argument == "executor"
