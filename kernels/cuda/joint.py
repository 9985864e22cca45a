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
"""Of a block that prepares one problem. A block that searches is one warp."""

TREE_BYTES, INCUMBENT_BYTES, ITEM_BYTES = 408, 84, 40
"""Sizes of the structures of joint_warp.cuh."""

ROUNDS = 6
"""Rounds of search: each spreads what is open over the whole GPU; the last gives nothing away."""

BUDGET = 256
"""Nodes that a warp expands before it gives open ones away: tens of microseconds."""

ITEMS_PER_PROBLEM, LEAST_ITEMS = 128, 1 << 16
"""Room of the queue between two rounds. A warp that finds it full goes on alone."""

STEP_LIMIT = 1 << 22
"""Nodes of a problem before it goes to the CPU, so that none holds the GPU for long."""


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
        work = DeviceWork(columns, chosen, step_limit)
        work.launch()
        best[chosen], choices[chosen], steps[chosen], stopped[chosen] = answers(work.incumbents.get())

    most = int(np.minimum(functions, MOST_FUNCTIONS).max(initial=1))
    bytes_each = most * MOST_OPTIONS * (12 + BYTES_PER_PLACE) + 2 * ITEMS_PER_PROBLEM * ITEM_BYTES + 1024
    chunks = in_chunks(len(fits), bytes_each, run) if len(fits) else 0
    choice, values = unpacked(columns, best, choices)
    nodes = steps.astype(np.int64)
    _finish_on_cpu(np.flatnonzero(stopped), functions, options, value, weight, capacity, choice, values, nodes)
    return choice, values, nodes, RunRecord("cuda", require_device().name, chunks, compiled.compile_s)


class DeviceWork:
    """The problems `chosen` (ascending) on the device, ready to be searched any number of times."""

    def __init__(self, columns: JointColumns, chosen: NDArray[np.int64], step_limit: int) -> None:
        import cupy

        sizes = columns.functions.astype(np.int64) * columns.options
        low = int(columns.starts[chosen[0]])
        high = int(columns.starts[chosen[-1]] + sizes[chosen[-1]])
        inputs: list[NDArray[Any]] = [
            columns.functions[chosen],
            columns.options[chosen],
            columns.starts[chosen] - low,
        ]
        inputs += [columns.gains[low:high], columns.loads[low:high], columns.capacities[chosen]]
        self._buffers = Buffers(int(columns.functions[chosen].max()), len(chosen), cupy.empty)
        self._inputs = [cupy.empty(each.shape, each.dtype) for each in inputs]
        for column, each in zip(self._inputs, inputs, strict=True):
            column.set(each)
        self._step_limit = step_limit
        compiled = module("joint")
        self._prepare, self._round = compiled.function("joint_prepare"), compiled.function("joint_round")
        self._round.preferred_shared_memory_carveout = 100
        device = cupy.cuda.Device()
        per_processor = device.attributes["MaxSharedMemoryPerMultiprocessor"] // (self._buffers.shared_bytes + 2048)
        self._blocks = device.attributes["MultiProcessorCount"] * max(1, min(32, per_processor))

    @property
    def incumbents(self) -> Any:
        """The answers, on the device: see `answers`."""
        return self._buffers.incumbents

    def launch(self) -> None:
        """Prepare and search all problems: kernels in one stream, without a copy or a wait between them."""
        buffers = self._buffers
        shared = buffers.shared_bytes
        self._prepare((buffers.problems,), (THREADS,), buffers.to_prepare(self._inputs), shared_mem=shared)
        for number in range(ROUNDS):
            arguments = buffers.of_round(number, BUDGET, self._step_limit)
            self._round((self._blocks,), (32,), arguments, shared_mem=shared)


class Buffers:
    """What the kernels share, allocated by `empty(shape, dtype)`, and their arguments in order."""

    def __init__(self, functions: int, problems: int, empty: Callable[..., Any], *, items: int | None = None) -> None:
        self.problems = problems
        self.shared_bytes = BYTES_PER_PLACE * MOST_OPTIONS * functions
        self._capacity = max(problems, LEAST_ITEMS, ITEMS_PER_PROBLEM * problems) if items is None else items
        self._words = self.shared_bytes // 8
        self._trees = empty((problems, TREE_BYTES), np.uint8)
        self._rows = empty(problems * self._words, np.uint64)
        self.incumbents = empty((problems, INCUMBENT_BYTES // 4), np.int32)
        self._queues = [empty((max(problems, self._capacity), ITEM_BYTES), np.uint8) for _ in range(2)]
        self._counts = [empty(ROUNDS + 1, np.uint32) for _ in range(2)]

    def to_prepare(self, inputs: list[Any]) -> tuple[Any, ...]:
        """Arguments of `joint_prepare`; `inputs` are the columns of the problems."""
        prepared = self._trees, self._rows, np.int32(self._words), self.incumbents, self._queues[0], *self._counts
        return *inputs, *prepared, np.int32(ROUNDS + 1)

    def of_round(self, number: int, budget: int, step_limit: int) -> tuple[Any, ...]:
        """Arguments of `joint_round`."""
        tables = self._trees, self._rows, np.int32(self._words), self.incumbents
        here, following = self._queues[number % 2], self._queues[(number + 1) % 2]
        room = np.uint32(self.problems if number == 0 else self._capacity)
        room_after = np.uint32(self._capacity if number + 1 < ROUNDS else 0)
        limits = np.int32(number), np.uint32(budget), np.uint32(step_limit)
        return *tables, here, room, following, room_after, *self._counts, *limits


def answers(
    incumbents: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.uint32], NDArray[np.bool_]]:
    """Gains (-1: none), choices (problems, MOST_FUNCTIONS), nodes, and which problems are left to the CPU."""
    steps = incumbents[:, 3].astype(np.uint32)
    return incumbents[:, 0], incumbents[:, 5:].astype(np.int8), steps, incumbents[:, 2] != 0


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
