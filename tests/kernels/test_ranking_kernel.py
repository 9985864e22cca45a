"""The ranking kernels: against a sort of every score, on either path, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.kernels.cpu.packing import STEPS
from dilu_core.kernels.cpu.ranking import Ranked, RankQuestion, rank_gpus, rank_parallel
from dilu_core.kernels.cuda.modules import source_path
from dilu_core.kernels.cuda.what_if import example_question
from tests.cuda_on_cpu.harness import SCHEDULES, build


def sorted_scores(question: RankQuestion) -> Ranked:
    """The definition, in numpy: every score, a stable sort, the first k."""
    gpus, k = question.gpus, question.k
    rows, scores = np.full((question.first.size - 1, k), -1), np.full((question.first.size - 1, k), np.inf)
    for i in range(rows.shape[0]):
        best = np.full(gpus.shape[1], np.inf)
        for request, limit, memory, number in question.demands[question.first[i] : question.first[i + 1]]:
            left = gpus[:3] - np.array([request, limit, memory])[:, None]
            rest = left[0] * gpus[3] + left[1] * gpus[4] + left[2] * gpus[5]
            active = 1024 * number + np.floor(rest * STEPS + 0.5) / STEPS
            score = np.where(gpus[6] >= 0, 1024 * (2048 + number) + gpus[6], active)
            best = np.minimum(best, np.where((left >= 0).all(axis=0), score, np.inf))
        order = np.argsort(best, kind="stable")[:k]
        found = best[order] < np.inf
        rows[i, : order.size][found] = order[found]
        scores[i, : order.size] = best[order]
    return Ranked(rows.astype(np.int32), scores)


questions = st.builds(
    lambda instances, gpus, k, seed: example_question(instances, gpus, k, seed=seed),
    st.integers(0, 12), st.integers(1, 600), st.integers(1, 32), st.integers(0, 10**6),
)  # fmt: skip


@settings(max_examples=40)
@given(questions)
def test_ranking_is_a_stable_sort(question: RankQuestion) -> None:
    """The k best by score, then row; equal scores, of which there are many, keep the order of rows."""
    expected, found = sorted_scores(question), rank_gpus(question)
    assert np.array_equal(found.gpu, expected.gpu)
    assert np.array_equal(found.score, expected.score)


@settings(max_examples=30)
@given(questions, st.sampled_from(SCHEDULES))
def test_cuda_executed_on_the_cpu_is_the_cpu_path(question: RankQuestion, schedule: int) -> None:
    """The same rows and the same bits, whatever the order of threads; also where warps have no instance."""
    instances = question.first.size - 1
    rows, scores = np.full((instances, question.k), -9, np.int32), np.empty((instances, question.k))
    build(source_path("what_if_scores"), "rank_gpus")(
        (instances // 8 + 1,), (256,),
        (question.gpus, question.demands, question.first, np.int32(question.gpus.shape[1]), np.int32(instances),
         np.int32(question.k), rows, scores),
        schedule=schedule,
    )  # fmt: skip
    expected = rank_gpus(question)
    assert np.array_equal(rows, expected.gpu)
    assert np.array_equal(scores, expected.score)


def test_threads_change_nothing() -> None:
    """The parallel walk over instances answers as the serial one."""
    question = example_question(50, 300, 5)
    again = Ranked(np.empty((50, 5), np.int32), np.empty((50, 5)))
    rank_parallel(*question[:3], *again)
    assert np.array_equal(again.gpu, rank_gpus(question).gpu)
    assert np.array_equal(again.score, rank_gpus(question).score)


@pytest.mark.needs_gpu
def test_on_a_gpu() -> None:
    """The device's rows and scores are the CPU's."""
    from dilu_core.kernels.cuda import what_if

    question = example_question(1000, 5000, 32)
    found, record = what_if.rank_gpus(question)
    expected = rank_gpus(question)
    assert np.array_equal(found.gpu, expected.gpu)
    assert np.array_equal(found.score, expected.score)
    assert record.backend == "cuda"
