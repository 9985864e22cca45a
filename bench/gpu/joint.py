"""The joint search: 4,096 problems of 10 functions with 64 configurations each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from case import Case
from numpy.typing import NDArray

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu import joint_search as cpu
from dilu_core.kernels.cpu.joint_columns import joint_columns
from dilu_core.kernels.cuda import joint as cuda

FUNCTIONS, OPTIONS = 10, 64
CAPACITY = np.array([1000, 1500, 40_000])


def tables(generator: np.random.Generator, functions: int, options: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Value (n, K) and weight (n, K, 3) of one problem: value grows with the root of the request, and with the burst.

    The last configuration of each function is "not placed here": nothing taken, nothing gained.
    """
    request = generator.integers(20, 600, (functions, options))
    limit = np.minimum(request * (1 + generator.random((functions, options))), 1000).astype(np.int64)
    memory = generator.integers(1000, 15_000, (functions, 1)) + generator.integers(0, 4000, (functions, options))
    speed = generator.uniform(0.8, 1.2, (functions, 1)) * generator.uniform(0.8, 1.2, (functions, options))
    value = (1000 * np.sqrt(request / 10) * speed + 200 * np.sqrt((limit - request) / 10 + 1)).astype(np.int64)
    weight = np.stack([request, limit, memory], axis=2)
    value[:, -1], weight[:, -1] = 0, 0
    return value, weight


def batch(problems: int, functions: int = FUNCTIONS, options: int = OPTIONS) -> tuple[NDArray[np.int64], ...]:
    """Problems in the flat columns that both searches take: functions, options, value, weight, capacity."""
    generator = np.random.default_rng(1)
    made = [tables(generator, functions, options) for _ in range(problems)]
    value = np.concatenate([each[0].ravel() for each in made])
    weight = np.concatenate([each[1].reshape(-1, 3) for each in made])
    size = np.full(problems, functions), np.full(problems, options)
    return (*size, value, weight, np.tile(CAPACITY, (problems, 1)))


def case(small: bool) -> Case:
    """The case of the frame (see `case.Case`)."""
    problems = 64 if small else 4096
    state: dict[str, Any] = {}

    def prepare() -> None:
        state["batch"] = batch(problems)

    def validate() -> str:
        choice, values, steps, _ = cuda.search_many(*state["batch"])
        expected_choice, expected_values, nodes = cpu.search_many(*state["batch"])
        np.testing.assert_array_equal(values, expected_values)
        np.testing.assert_array_equal(choice, expected_choice)
        state["steps"], state["nodes"] = int(steps.sum()), int(nodes.sum())
        per_problem = (
            f"nodes per problem: GPU mean {steps.mean():.0f}, most {steps.max()}; CPU {nodes.mean():.0f}, {nodes.max()}"
        )
        return f"{problems} choices and values are the CPU's, bit for bit; {per_problem}"

    def run_cuda() -> RunRecord:
        return cuda.search_many(*state["batch"])[3]

    def on_device() -> Callable[[], None]:
        columns, chosen = joint_columns(*state["batch"]), np.arange(problems)
        return cuda.DeviceWork(columns, chosen, cuda.STEP_LIMIT).launch

    def run_cpu() -> None:
        cpu.search_many(*state["batch"])

    def pruned() -> float | None:
        leaves = problems * float(OPTIONS) ** FUNCTIONS
        return 1.0 - state["steps"] * OPTIONS / leaves if "steps" in state else None

    return Case(
        name="joint",
        unit="problems",
        work=problems,
        prepare=prepare,
        validate=validate,
        cuda=run_cuda,
        on_device=on_device,
        cpu=run_cpu,
        cpu_threads=numba.get_num_threads,
        # A node tests two options per lane: about 12 integer operations each, and as many for the warp's bookkeeping.
        operations=lambda: 64.0 * 24.0 * state["steps"],
        bytes_moved=lambda: problems * (FUNCTIONS * OPTIONS * 12.0 + 48.0),
        operation="int32",
        pruned=pruned,
    )
