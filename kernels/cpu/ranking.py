"""The k best GPUs for each of many instances, scored and ranked in one pass: no matrix of scores is written.

For instances of one GPU that is neither split nor partitioned, with nothing they like or must avoid, scores are those
of `kernels.cpu.what_if`, bit for bit. Over the configurations (request r, limit l, memory m) of an instance that fit,
a GPU's score is the least of, in steps of `packing.STEPS`,

    1024 number + priced rest           on an active GPU
    1024 (2048 + number) + opened       on an empty one; `opened` is its rank among the GPUs to open

GPUs rank by (score, row). The columns are float64, which hold shares and MiB exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, compiled_parallel
from dilu_core.kernels.cpu.packing import STEPS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REQUEST, LIMIT, MEMORY, REQUEST_PRICE, LIMIT_PRICE, MEMORY_PRICE, OPENED = 0, 1, 2, 3, 4, 5, 6
"""Rows of `gpus`: what is free, the price of a unit left over, and the rank to open it (-1: it is active)."""

N_COLUMNS = 7
PARALLEL_FROM = 1_000_000
"""Triples from which threads repay their start."""


class RankQuestion(NamedTuple):
    """`gpus` (7, G) float64 as above; `demands` (D, 4) float64, rows (request, limit, memory, number), those of
    instance i being `first[i]:first[i + 1]`; `k`, how many GPUs are wanted of each."""

    gpus: Floats
    demands: Floats
    first: Ints
    k: int

    @property
    def triples(self) -> int:
        """Configurations x GPUs."""
        return self.demands.shape[0] * self.gpus.shape[1]


class Ranked(NamedTuple):
    """(n, k): rows of the best GPUs, best first, -1 where there are no more; their scores, infinite there."""

    gpu: NDArray[np.int32]
    score: Floats


@compiled
def score_on(gpus: Floats, g: int, request: float, limit: float, memory: float, number: float) -> float:
    """The score of one triple; infinite where the configuration does not fit."""
    request_left, limit_left = gpus[REQUEST, g] - request, gpus[LIMIT, g] - limit
    memory_left = gpus[MEMORY, g] - memory
    if min(min(request_left, limit_left), memory_left) < 0.0:
        return np.inf
    opened = gpus[OPENED, g]
    if opened >= 0.0:
        return (1024.0 * (2048.0 + number) * STEPS + opened * STEPS) / STEPS
    rest = request_left * gpus[REQUEST_PRICE, g] + limit_left * gpus[LIMIT_PRICE, g] + memory_left * gpus[MEMORY_PRICE, g]
    return (1024.0 * number * STEPS + np.floor(rest * STEPS + 0.5)) / STEPS


@compiled
def rank_one(gpus: Floats, demands: Floats, rows: NDArray[np.int32], scores: Floats) -> None:
    """Fill the sorted lists of one instance: a GPU that beats the last is moved up to its place, after its equals."""
    rows[:] = -1
    scores[:] = np.inf
    last = rows.shape[0] - 1
    for g in range(gpus.shape[1]):
        score = np.inf
        for d in range(demands.shape[0]):
            score = min(score, score_on(gpus, g, demands[d, 0], demands[d, 1], demands[d, 2], demands[d, 3]))
        if score < scores[last]:
            place = last
            while place > 0 and scores[place - 1] > score:
                scores[place], rows[place] = scores[place - 1], rows[place - 1]
                place -= 1
            scores[place], rows[place] = score, g


@compiled
def rank_serial(gpus: Floats, demands: Floats, first: Ints, rows: NDArray[np.int32], scores: Floats) -> None:
    """`rank_gpus` on one core."""
    for i in range(rows.shape[0]):
        rank_one(gpus, demands[first[i] : first[i + 1]], rows[i], scores[i])


@compiled_parallel
def rank_parallel(gpus: Floats, demands: Floats, first: Ints, rows: NDArray[np.int32], scores: Floats) -> None:
    """`rank_gpus` over all cores."""
    for i in numba.prange(rows.shape[0]):
        rank_one(gpus, demands[first[i] : first[i + 1]], rows[i], scores[i])


def rank_gpus(question: RankQuestion) -> Ranked:
    """The best GPUs of every instance, on one core or, where that pays, on all."""
    shape = (question.first.size - 1, question.k)
    ranked = Ranked(np.empty(shape, np.int32), np.empty(shape))
    run = rank_parallel if question.triples >= PARALLEL_FROM else rank_serial
    run(question.gpus, question.demands, question.first, *ranked)
    return ranked
