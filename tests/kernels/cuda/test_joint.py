"""The joint search's CUDA kernel: executed on the CPU under three schedules, and on a GPU where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from dilu_core.kernels.cpu import joint_search as cpu
from dilu_core.kernels.cpu.joint_columns import JointColumns, joint_columns
from dilu_core.kernels.cuda import joint as cuda
from dilu_core.kernels.cuda.modules import source_path
from tests.cuda_on_cpu.harness import SCHEDULES, build
from tests.joint_oracle import Asked, by_capacity, random_problem, scaled


@dataclass(frozen=True)
class Batch:
    """Problems in flat columns, as the kernels take them."""

    functions: NDArray[np.int64]
    options: NDArray[np.int64]
    value: NDArray[np.int64]
    weight: NDArray[np.int64]
    capacity: NDArray[np.int64]

    @classmethod
    def of(cls, asked: list[Asked]) -> Batch:
        return cls(
            np.array([len(each.value) for each in asked]),
            np.array([each.value.shape[1] for each in asked]),
            np.concatenate([each.value.ravel() for each in asked]),
            np.concatenate([each.weight.reshape(-1, 3) for each in asked]),
            np.stack([each.capacity for each in asked]),
        )

    def __iter__(self):  # type: ignore[no-untyped-def]
        yield from (self.functions, self.options, self.value, self.weight, self.capacity)


def _executed(
    columns: JointColumns, *, schedule: int, threads: int = cuda.THREADS, step_limit: int = 1 << 20, seed: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Choices, values and the problems that were left, from the kernel executed on the CPU."""
    problems = len(columns.functions)
    best, choices = np.empty(problems, np.int32), np.empty((problems, cuda.MOST_FUNCTIONS), np.int8)
    steps, stopped = np.empty(problems, np.uint32), np.empty(problems, np.uint8)
    inputs = columns.functions, columns.options, columns.starts, columns.gains, columns.loads, columns.capacities
    build(source_path("joint"), "joint_search")(
        (problems,),
        (threads,),
        (*inputs, np.uint32(step_limit), best, choices, steps, stopped),
        schedule=schedule,
        shared_bytes=cuda.BYTES_PER_PLACE * cuda.MOST_OPTIONS * int(columns.functions.max()),
        seed=seed,
    )
    choice, values = cuda.unpacked(columns, best, choices)
    return choice, values, stopped


def _answers(batch: Batch, choice: NDArray[np.int64], values: NDArray[np.int64]) -> list[tuple[tuple[int, ...], int] | None]:
    ends = np.cumsum(batch.functions)
    parts = [tuple(choice[end - n : end].tolist()) for n, end in zip(batch.functions, ends, strict=True)]
    return [None if part[0] < 0 else (part, int(value)) for part, value in zip(parts, values, strict=True)]


def _problems(seed: int) -> list[Asked]:
    """n = 1..16, K = 1..64, in various units."""
    generator = np.random.default_rng(seed)
    asked = [random_problem(generator, 16, 64) for _ in range(20)] + [random_problem(generator, 5, 12) for _ in range(180)]
    return [scaled(each, generator.integers(1, 5000, 3)) for each in asked]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_kernel_gives_the_answer_of_dynamic_programming_and_of_the_cpu(schedule: int) -> None:
    """The same choice, bit for bit, whatever order threads run in."""
    generator = np.random.default_rng(schedule)
    asked = [random_problem(generator, 16, 64) for _ in range(20)] + [random_problem(generator, 5, 12) for _ in range(180)]
    expected = [by_capacity(each) for each in asked]
    batch = Batch.of([scaled(each, generator.integers(1, 5000, 3)) for each in asked])
    choice, values, stopped = _executed(joint_columns(*batch), schedule=schedule)
    answers = _answers(batch, choice, values)
    assert stopped.mean() < 0.1
    left = np.flatnonzero(stopped)
    assert [a for p, a in enumerate(answers) if p not in left] == [a for p, a in enumerate(expected) if p not in left]
    assert _answers(batch, *cpu.search_many(*batch)[:2]) == expected


@pytest.mark.parametrize("threads", [32, 64, 256])
def test_any_number_of_warps_gives_the_same_answer(threads: int) -> None:
    """Warps share the tree; how many there are changes only who finds the answer."""
    generator = np.random.default_rng(threads)
    weight = generator.integers(1, 400, (12, 6, 20, 3))
    value = (np.sqrt(weight.sum(3)) * 1000 * generator.uniform(0.9, 1.1, (12, 6, 20))).astype(np.int64)
    batch = Batch.of([Asked(v, w, np.array([1000, 1100, 1200])) for v, w in zip(value, weight, strict=True)])
    choice, values, stopped = _executed(joint_columns(*batch), schedule=2, threads=threads, seed=threads)
    expected_choice, expected_values, _ = cpu.search_many(*batch)
    assert not stopped.any()
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(choice, expected_choice)


def test_a_step_limit_leaves_the_problem_to_the_cpu() -> None:
    """What cannot be proven within the limit is marked, and the rest is answered."""
    generator = np.random.default_rng(2)
    weight = generator.integers(100, 1000, (1, 10, 30, 3))
    hard = Asked(weight[0].sum(2) + generator.integers(0, 30, (10, 30)), weight[0], np.array([3600, 3700, 4000]))
    easy = Asked(np.array([[3, 1]]), np.ones((1, 2, 3), dtype=np.int64), np.array([1, 1, 1]))
    _, values, stopped = _executed(joint_columns(*Batch.of([hard, easy])), schedule=0, step_limit=20)
    assert stopped.tolist() == [1, 0]
    assert values[1] == 3


def test_wide_gains_are_marked() -> None:
    """Problems whose gains do not fit 32 bits are not the kernel's."""
    asked = [Asked(np.array([[0, spread]]), np.zeros((1, 2, 3), dtype=np.int64), np.ones(3, dtype=np.int64)) for spread in (5, 1 << 31)]
    assert joint_columns(*Batch.of(asked)).narrow.tolist() == [True, False]


@pytest.mark.needs_gpu
def test_a_gpu_gives_the_answers_of_the_cpu() -> None:
    """Bit for bit, of problems that the kernel takes and of those it leaves to the CPU."""
    generator = np.random.default_rng(11)
    asked = [each for seed in range(20) for each in _problems(seed)]
    weight = generator.integers(1, 90, (40, 20, 80, 3))
    asked += [Asked(w[:n, :k].sum(2), w[:n, :k], np.array([300, 300, 300])) for w, n, k in zip(weight, [3, 17] * 20, [80, 8] * 20, strict=True)]
    batch = Batch.of(asked)
    choice, values, _, record = cuda.search_many(*batch)
    assert (record.backend, record.chunks) == ("cuda", 1)
    expected_choice, expected_values, _ = cpu.search_many(*batch)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(choice, expected_choice)
