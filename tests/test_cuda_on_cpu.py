"""The header that executes CUDA C++ on a CPU: right kernels give their answer, wrong ones are found out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cuda_on_cpu.harness import SCHEDULES, CudaOnCpuError, build

EXAMPLES = Path(__file__).resolve().parent / "cuda_on_cpu" / "kernels" / "examples.cu"

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


@settings(max_examples=20)
@given(blocks=st.integers(1, 5), warps=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
def test_a_right_kernel_answers_alike_under_every_schedule(blocks: int, warps: int, seed: int) -> None:
    """Shuffles, shared memory and a barrier: block sums equal numpy's, to the bit, whatever runs first."""
    values = np.random.default_rng(seed).integers(0, 1000, blocks * warps * 32).astype(float)
    kernel = build(EXAMPLES, "block_sums")
    for schedule in SCHEDULES:
        sums = np.full(blocks, np.nan)
        kernel((blocks,), (32 * warps,), (values, sums), schedule=schedule, seed=seed)
        assert sums.tolist() == values.reshape(blocks, -1).sum(axis=1).tolist()


def test_a_missing_barrier_shows_under_some_schedule() -> None:
    """Without its __syncthreads the sum is right by luck in one order and wrong in another."""
    values, right = np.ones(256), []
    for schedule in SCHEDULES:
        sums = np.zeros(1)
        build(EXAMPLES, "block_sums_without_barrier")((1,), (256,), (values, sums), schedule=schedule)
        right.append(bool(sums[0] == 256))
    assert any(right)
    assert not all(right)


@every_schedule
@pytest.mark.parametrize(
    ("entry", "threads", "message"),
    [
        ("barrier_for_some", 64, "24 of 64 threads exited without reaching the barrier on line"),
        ("barriers_of_two_branches", 64, "wait at different barriers"),
        ("divergent_shuffle", 32, "divergent warp collective"),
        ("shuffle_of_half_a_warp", 32, "never reach it|which has exited"),
        ("shuffle_of_half_a_warp", 16, "which the block does not have"),
        ("shuffle_from_outside", 32, "shuffles from inactive lane 20"),
        ("not_in_its_mask", 32, "mask 0000ffff does not name it"),
        ("too_much_shared", 32, "writes past the 16 bytes of dynamic shared memory"),
        ("traps", 32, "traps"),
    ],
)
def test_wrong_kernels_are_found_out(entry: str, threads: int, message: str, schedule: int) -> None:
    """Each way to go wrong is an error that says where, never a hang or a number."""
    kernel = build(EXAMPLES, entry)
    arguments = [np.zeros(64, np.int32), np.int32(40)][: len(kernel.parameters)]
    with pytest.raises(CudaOnCpuError, match=message):
        kernel((1,), (threads,), arguments, schedule=schedule, shared_bytes=16)


@pytest.mark.parametrize("index", [-1, 8])
def test_a_write_beside_an_array_is_found_out(index: int) -> None:
    """One element before or after the array is a guard, not somebody's memory."""
    with pytest.raises(CudaOnCpuError, match="argument 0 is written outside its 32 bytes"):
        build(EXAMPLES, "writes_outside")((1,), (1,), (np.zeros(8, np.int32), np.int32(index)))


def test_shared_memory_is_not_zero_by_luck() -> None:
    """A shared variable that nobody set holds poison, in every block."""
    out = np.zeros(32, np.int32)
    build(EXAMPLES, "uninitialised_shared")((2,), (32,), (out,))
    assert (out.view(np.uint32) == 0xCBCBCBCB).all()


@every_schedule
def test_dynamic_shared_memory_serves_each_block(schedule: int) -> None:
    """`extern __shared__` is the launch's own memory."""
    data = np.arange(128, dtype=np.int32)
    build(EXAMPLES, "reversed")((2,), (64,), (data,), shared_bytes=256, schedule=schedule)
    assert data.tolist() == [*range(63, -1, -1), *range(127, 63, -1)]


@every_schedule
def test_atomics_and_locks(schedule: int) -> None:
    """Every thread draws its own ticket, and a spinning lock protects a plain counter."""
    counter, lock, plain = np.zeros(1, np.uint32), np.zeros(1, np.int32), np.zeros(1, np.int32)
    ticket = np.zeros(192, np.uint32)
    build(EXAMPLES, "tickets")((3,), (64,), (counter, lock, plain, ticket), schedule=schedule)
    assert (counter[0], lock[0], plain[0]) == (192, 0, 192)
    assert sorted(ticket.tolist()) == list(range(192))


@every_schedule
def test_warp_collectives_follow_their_definitions(schedule: int) -> None:
    """Each collective against its definition in the CUDA C++ Programming Guide, written out in numpy."""
    x = np.random.default_rng(5).permutation(100)[:32].astype(np.int32)
    lane = np.arange(32)
    out = np.zeros((19, 32), np.int32)
    build(EXAMPLES, "collectives")((1,), (32,), (x, out), schedule=schedule)
    same = [sum(1 << k for k in range(32) if x[k] % 4 == x[i] % 4) for i in range(32)]
    odd = int(sum(1 << int(k) for k in lane[x % 2 == 1]))
    bits = [f"{int(v):032b}" for v in x]
    expected = [
        x[np.full(32, 5)],
        x[lane // 8 * 8 + 1],
        x[np.where(lane < 3, lane, lane - 3)],
        x[np.where(lane % 8 < 3, lane, lane - 3)],
        x[np.where(lane + 2 > 31, lane, lane + 2)],
        x[np.where(lane % 4 + 2 > 3, lane, lane + 2)],
        x[lane ^ 9],
        x[np.where((lane ^ 9) // 8 > lane // 8, lane, lane ^ 9)],
        np.full(32, odd),
        np.ones(32),
        np.ones(32),
        same,
        np.full(32, x.sum()),
        np.full(32, x.min()),
        np.full(32, x.max()),
        np.full(32, np.bitwise_xor.reduce(x)),
        x[lane ^ 1],
        np.full(32, (x % 2 == 1).sum()),
        [b.count("1") + 100 * (len(b) - b.rfind("1") if "1" in b else 0) + 10000 * (b + "1").index("1") for b in bits],
    ]
    for row, (got, wanted) in enumerate(zip(out, expected, strict=True)):
        assert got.astype(np.uint32).tolist() == np.asarray(wanted).astype(np.int64).astype(np.uint32).tolist(), row


def test_arguments_are_checked_as_no_gpu_would() -> None:
    """A wrong dtype, a Python number, a missing or a strided argument is an error that names the argument."""
    kernel = build(EXAMPLES, "writes_outside")
    assert kernel.parameters == ("*i4", "i4")
    with pytest.raises(TypeError, match="argument 0 is float64; its parameter is i4"):
        kernel((1,), (1,), (np.zeros(8), np.int32(0)))
    with pytest.raises(TypeError, match="argument 1 is int; expected a generic of i4"):
        kernel((1,), (1,), (np.zeros(8, np.int32), 0))
    with pytest.raises(TypeError, match="takes 2 arguments; 1 came"):
        kernel((1,), (1,), (np.zeros(8, np.int32),))
    with pytest.raises(TypeError, match="argument 0 is not contiguous"):
        kernel((1,), (1,), (np.zeros(8, np.int32)[::2], np.int32(0)))


def test_templates_are_built_by_instance() -> None:
    """A template kernel is named with its arguments; a name that is none is the compiler's error."""
    values, out = np.arange(-2, 3, dtype=np.float32), np.zeros(5, np.float32)
    build(EXAMPLES, "scaled<3>")((1,), (5,), (values, out))
    assert out.tolist() == [0, 0, 0, 3, 6]
    with pytest.raises(CudaOnCpuError, match="does not compile"):
        build(EXAMPLES, "no_such_kernel")


def test_launches_that_no_gpu_takes_are_refused() -> None:
    """More than 1024 threads in a block is an error."""
    with pytest.raises(CudaOnCpuError, match="2048 threads"):
        build(EXAMPLES, "traps")((1,), (2048,), ())
