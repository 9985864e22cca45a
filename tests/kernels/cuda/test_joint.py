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
from tests.joint_oracle import Asked, by_capacity, random_problem, scaled, tight_problem


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


def executed(
    columns: JointColumns,
    *,
    schedule: int,
    threads: int = cuda.THREADS,
    budget: int = 20,
    items: int = 1 << 14,
    step_limit: int = 1 << 20,
    seed: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Choices, values and the problems that were left, from the kernels executed on the CPU."""
    problems = len(columns.functions)
    buffers = cuda.Buffers(int(columns.functions.max()), problems, np.empty, items=items)
    inputs = [columns.functions, columns.options, columns.starts, columns.gains, columns.loads, columns.capacities]
    how = {"schedule": schedule, "shared_bytes": buffers.shared_bytes, "seed": seed}
    build(source_path("joint"), "joint_prepare")((problems,), (threads,), buffers.to_prepare(inputs), **how)
    search = build(source_path("joint"), "joint_round")
    for number in range(cuda.ROUNDS):
        search((3,), (32,), buffers.of_round(number, budget, step_limit), **how)
    best, choices, _, stopped = cuda.answers(buffers.incumbents)
    choice, values = cuda.unpacked(columns, best, choices)
    return choice, values, stopped


def answers_of(
    batch: Batch, choice: NDArray[np.int64], values: NDArray[np.int64]
) -> list[tuple[tuple[int, ...], int] | None]:
    ends = np.cumsum(batch.functions)
    parts = [tuple(choice[end - n : end].tolist()) for n, end in zip(batch.functions, ends, strict=True)]
    return [None if part[0] < 0 else (part, int(value)) for part, value in zip(parts, values, strict=True)]


def mixed_problems(seed: int) -> list[Asked]:
    """n = 1..16, K = 1..64; weights and capacities small enough for dynamic programming."""
    generator = np.random.default_rng(seed)
    return (
        [random_problem(generator, 16, 64) for _ in range(30)]
        + [random_problem(generator, 6, 12) for _ in range(300)]
        + [tight_problem(generator, 8, 8) for _ in range(100)]
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_kernel_gives_the_answer_of_dynamic_programming(schedule: int) -> None:
    """The very choice, whatever order threads run in; few problems take more nodes than the test allows."""
    asked = mixed_problems(schedule)
    expected = [by_capacity(each) for each in asked]
    batch = Batch.of(asked)
    choice, values, stopped = executed(joint_columns(*batch), schedule=schedule, step_limit=300, seed=schedule)
    assert stopped.mean() < 0.05
    answers = answers_of(batch, choice, values)
    assert [answers[p] for p in np.flatnonzero(stopped == 0)] == [expected[p] for p in np.flatnonzero(stopped == 0)]


@pytest.mark.parametrize(
    ("threads", "budget", "items"),
    [(32, 1, 1 << 14), (64, 30, 1 << 14), (256, 1 << 20, 1 << 14), (128, 5, 40), (128, 5, 1)],
)
def test_however_the_work_is_shared_the_answer_is_the_same(threads: int, budget: int, items: int) -> None:
    """Any number of warps prepares; open nodes are given away at once, never, or as far as a short queue takes them."""
    generator = np.random.default_rng(threads)
    weight = generator.integers(1, 400, (4, 7, 20, 3))
    value = (np.sqrt(weight.sum(3)) * 1000 * generator.uniform(0.9, 1.1, (4, 7, 20))).astype(np.int64)
    batch = Batch.of([Asked(v, w, np.array([1000, 1100, 1200])) for v, w in zip(value, weight, strict=True)])
    choice, values, stopped = executed(
        joint_columns(*batch), schedule=2, threads=threads, budget=budget, items=items, seed=threads
    )
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
    _, values, stopped = executed(joint_columns(*Batch.of([hard, easy])), schedule=0, step_limit=20)
    assert stopped.tolist() == [1, 0]
    assert values[1] == 3


def test_wide_gains_are_marked() -> None:
    """Problems whose gains do not fit 32 bits are not the kernel's."""
    asked = [
        Asked(np.array([[0, spread]]), np.zeros((1, 2, 3), dtype=np.int64), np.ones(3, dtype=np.int64))
        for spread in (5, 1 << 31)
    ]
    assert joint_columns(*Batch.of(asked)).narrow.tolist() == [True, False]


@pytest.mark.needs_gpu
def test_a_gpu_gives_the_answers_of_the_cpu() -> None:
    """Bit for bit, of problems that the kernel takes and of those it leaves to the CPU."""
    generator = np.random.default_rng(11)
    asked = [scaled(each, generator.integers(1, 5000, 3)) for seed in range(5) for each in mixed_problems(seed)]
    for functions, options in ((3, 80), (17, 8), (16, 64)) * 20:
        weight = generator.integers(1, 90, (functions, options, 3))
        asked.append(
            Asked(
                1000 * weight.sum(2) + generator.integers(0, 1000, (functions, options)),
                weight,
                np.full(3, 70 * functions),
            )
        )
    limit = 300_000
    quick = cpu.search_many(*Batch.of(asked), node_limit=limit)[2] <= limit
    batch = Batch.of([each for each, ends in zip(asked, quick, strict=True) if ends])
    assert len(batch.functions) > 1600
    choice, values, _, record = cuda.search_many(*batch)
    assert (record.backend, record.chunks) == ("cuda", 1)
    expected_choice, expected_values, _ = cpu.search_many(*batch)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(choice, expected_choice)
