"""What-if scoring on a GPU: launches `what_if_scores.cu`, in chunks of instances where memory is short."""

from __future__ import annotations

from typing import Any

import numpy as np

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu.ranking import N_COLUMNS, OPENED, Ranked, RankQuestion
from dilu_core.kernels.cpu.ranking import rank_gpus as ranked_on_cpu
from dilu_core.kernels.cuda.chunks import in_chunks
from dilu_core.kernels.cuda.device import require_device
from dilu_core.kernels.cuda.modules import Module, module
from dilu_core.kernels.cuda.selftest import self_test

GREATEST_K = 32
"""One entry of the list per lane of a warp."""

WARPS = 8


class OnDevice:
    """A question copied to the GPU with room for its answer; `rank()` only launches."""

    def __init__(self, question: RankQuestion, compiled: Module) -> None:
        import cupy

        self.question, self.kernel = question, compiled.function("rank_gpus")
        self.arrays = [cupy.asarray(np.ascontiguousarray(each)) for each in question[:3]]
        shape = (question.first.size - 1, question.k)
        self.rows, self.scores = cupy.empty(shape, np.int32), cupy.empty(shape)

    def rank(self) -> None:
        """Fill `rows` and `scores`."""
        instances, k = self.rows.shape
        sizes: tuple[Any, ...] = (np.int32(self.question.gpus.shape[1]), np.int32(instances), np.int32(k))
        blocks = -(-instances // WARPS)
        self.kernel((blocks,), (WARPS * 32,), (*self.arrays, *sizes, self.rows, self.scores))

    def fetch(self) -> Ranked:
        """What `rank` found."""
        return Ranked(self.rows.get(), self.scores.get())


def on_device(question: RankQuestion) -> OnDevice:
    """`question` on the GPU, its kernel compiled. Raises `BackendUnavailableError` where there is none."""
    return OnDevice(question, module("what_if_scores"))


def rank_gpus(question: RankQuestion) -> tuple[Ranked, RunRecord]:
    """`kernels.cpu.ranking.rank_gpus` on the GPU, for at most `GREATEST_K` GPUs each.

    Raises `BackendUnavailableError` where there is none.
    """
    compiled = module("what_if_scores")
    instances = question.first.size - 1
    ranked = Ranked(np.empty((instances, question.k), np.int32), np.empty((instances, question.k)))

    def run(start: int, stop: int) -> None:
        low, high = question.first[start], question.first[stop]
        part = question._replace(demands=question.demands[low:high], first=question.first[start : stop + 1] - low)
        device = OnDevice(part, compiled)
        device.rank()
        for whole, found in zip(ranked.columns, device.fetch().columns, strict=True):
            whole[start:stop] = found

    each = 12 * question.k + 8 + 32 * -(-question.demands.shape[0] // max(1, instances))
    chunks = in_chunks(instances, each, run) if instances else 0
    return ranked, RunRecord("cuda", require_device().name, chunks, compiled.compile_s)


def example_question(instances: int, gpus: int, k: int, *, configurations: int = 3, seed: int = 0) -> RankQuestion:
    """Random demands over a half-full cluster of GPUs of 80 GiB, shares in steps of 50 so that scores tie."""
    rng = np.random.default_rng(seed)
    columns = np.empty((N_COLUMNS, gpus))
    active = rng.random(gpus) < 0.8
    columns[0] = np.where(active, 50 * rng.integers(0, 20, gpus), 1000)
    columns[1] = np.where(active, 50 * rng.integers(0, 30, gpus), 1500)
    columns[2] = np.where(active, 1024 * rng.integers(0, 80, gpus), 80 * 1024)
    columns[3:6] = np.array([0.5 / 1000, 0.3 / 1500, 0.2 / (80 * 1024)])[:, None]
    columns[OPENED] = np.where(active, -1.0, np.arange(gpus) // 8 % 8 / 1024.0)
    counts = rng.integers(1, configurations + 1, instances)
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    request = 50 * rng.integers(1, 13, first[-1])
    number = np.arange(first[-1]) - np.repeat(first[:-1], counts)
    memory = 1024 * rng.integers(1, 40, first[-1])
    return RankQuestion(columns, np.stack([request, 2 * request, memory, number], 1).astype(np.float64), first, k)


@self_test("what_if")
def _agrees_with_the_cpu() -> None:
    question = example_question(20, 700, 7)
    mine, theirs = rank_gpus(question)[0], ranked_on_cpu(question)
    for name, ours, reference in zip(mine._fields, mine.columns, theirs.columns, strict=True):
        if not np.array_equal(ours, reference):
            raise AssertionError(f"{name} differs at {np.argwhere(ours != reference)[:3].tolist()}")
