"""The exact joint search on a GPU (joint.cu): arrays in, arrays out, the same answers as `kernels.cpu.joint_search`.

Problems too large for a block, or whose search reaches the step limit, are solved on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu import joint_search as cpu
from dilu_core.kernels.cpu.joint_columns import JointColumns, joint_columns
from dilu_core.kernels.cuda.chunks import in_chunks
from dilu_core.kernels.cuda.device import require_device
from dilu_core.kernels.cuda.modules import module
from dilu_core.kernels.cuda.selftest import self_test

MOST_FUNCTIONS, MOST_OPTIONS = 16, 64
"""What a block holds in shared memory; larger problems run on the CPU."""

BYTES_PER_PLACE = 17
"""Shared memory per option place: packed weight, gain, loss, number."""

THREADS = 128
STEP_LIMIT = 1 << 21
"""Nodes a warp expands before its problem goes to the CPU: about a second, so that none holds the GPU for long."""


def search_many(
    functions: NDArray[np.int64],
    options: NDArray[np.int64],
    value: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: NDArray[np.int64],
    *,
    step_limit: int = STEP_LIMIT,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], RunRecord]:
    """`kernels.cpu.joint_search.search_many` on the GPU: choices, values, nodes expanded, and what it ran on.

    Nodes are counted as the kernel expands them, so they differ from the CPU's and from run to run.
    """
    import cupyx

    columns = joint_columns(functions, options, value, weight, capacity, empty=cupyx.empty_pinned)
    on_device = columns.narrow & (functions <= MOST_FUNCTIONS) & (options <= MOST_OPTIONS)
    fits = np.flatnonzero(on_device)
    best = np.full(functions.shape[0], -1, dtype=np.int32)
    choices = np.full((functions.shape[0], MOST_FUNCTIONS), -1, dtype=np.int8)
    steps, stopped = np.zeros(functions.shape[0], dtype=np.uint32), ~on_device
    compiled = module("joint")

    def run(start: int, stop: int) -> None:
        chosen = fits[start:stop]
        arguments, answers = device_arguments(columns, chosen, step_limit)
        launch(kernel(), columns, chosen, arguments)
        best[chosen], choices[chosen], steps[chosen] = (answers[i].get() for i in range(3))
        stopped[chosen] = answers[3].get()

    bytes_each = int(12 * (functions * options).max(initial=1)) + 64
    chunks = in_chunks(len(fits), bytes_each, run) if len(fits) else 0
    choice, values = unpacked(columns, best, choices)
    nodes = steps.astype(np.int64)
    _finish_on_cpu(np.flatnonzero(stopped), functions, options, value, weight, capacity, choice, values, nodes)
    return choice, values, nodes, RunRecord("cuda", require_device().name, chunks, compiled.compile_s)


def device_arguments(columns: JointColumns, chosen: NDArray[np.int64], step_limit: int) -> tuple[list[Any], list[Any]]:
    """The arguments of the kernel for the problems `chosen` (ascending), on the device, and the answers among them."""
    import cupy

    sizes = columns.functions.astype(np.int64) * columns.options
    low = int(columns.starts[chosen[0]])
    high = int(columns.starts[chosen[-1]] + sizes[chosen[-1]])
    answers = [
        cupy.empty(len(chosen), dtype=np.int32),
        cupy.empty((len(chosen), MOST_FUNCTIONS), dtype=np.int8),
        cupy.empty(len(chosen), dtype=np.uint32),
        cupy.empty(len(chosen), dtype=np.uint8),
    ]
    inputs = [columns.functions[chosen], columns.options[chosen], columns.starts[chosen] - low]
    inputs += [columns.gains[low:high], columns.loads[low:high], columns.capacities[chosen]]
    return [*map(cupy.asarray, inputs), np.uint32(step_limit), *answers], answers


def kernel() -> Callable[..., None]:
    """The compiled kernel."""
    function: Callable[..., None] = module("joint").function("joint_search")
    return function


def launch(kernel: Callable[..., None], columns: JointColumns, chosen: NDArray[np.int64], arguments: list[Any]) -> None:
    """One block per problem."""
    shared = BYTES_PER_PLACE * MOST_OPTIONS * int(columns.functions[chosen].max())
    kernel((len(chosen),), (THREADS,), tuple(arguments), shared_mem=shared)


def unpacked(
    columns: JointColumns, best: NDArray[np.int32], choices: NDArray[np.int8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choices in one column and values, as `kernels.cpu.joint_search.search_many` returns them."""
    taken = np.arange(MOST_FUNCTIONS) < columns.functions[:, None]
    if (columns.functions > MOST_FUNCTIONS).any():
        choice = np.full(int(columns.functions.sum()), -1, dtype=np.int64)
        ends = np.cumsum(columns.functions)
        for p in np.flatnonzero(columns.functions <= MOST_FUNCTIONS).tolist():
            choice[ends[p] - columns.functions[p] : ends[p]] = choices[p, : columns.functions[p]]
    else:
        choice = choices[taken].astype(np.int64)
    return choice, np.where(best >= 0, columns.base + best, 0)


def _finish_on_cpu(
    left: NDArray[np.int64],
    functions: NDArray[np.int64],
    options: NDArray[np.int64],
    value: NDArray[np.int64],
    weight: NDArray[np.int64],
    capacity: NDArray[np.int64],
    choice: NDArray[np.int64],
    values: NDArray[np.int64],
    nodes: NDArray[np.int64],
) -> None:
    """Solve the problems `left` (ascending) on the CPU, in place."""
    if not len(left):
        return
    rows = _places(functions * options, left)
    places = _places(functions, left)
    choice[places], values[left], nodes[left] = cpu.search_many(
        functions[left], options[left], value[rows], weight[rows], capacity[left]
    )


def _places(sizes: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the items of the `chosen` parts lie in a column of parts of these sizes."""
    return np.flatnonzero(np.repeat(np.isin(np.arange(len(sizes)), chosen), sizes))


@self_test("joint")
def _agrees_with_the_cpu() -> None:
    """Forty random problems of all sizes, with ties and without an answer, on both."""
    generator = np.random.default_rng(0)
    functions, options = generator.integers(1, 9, 40), generator.integers(1, MOST_OPTIONS + 1, 40)
    total = int((functions * options).sum())
    value, weight = generator.integers(0, 50, total), generator.integers(0, 100, (total, 3))
    capacity = generator.integers(0, 60, (40, 3)) * functions[:, None]
    choice, values, _, _ = search_many(functions, options, value, weight, capacity)
    expected_choice, expected_values, _ = cpu.search_many(functions, options, value, weight, capacity)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(choice, expected_choice)
