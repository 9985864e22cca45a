"""The k best GPUs for each of many instances, scored and ranked in one pass: no matrix of scores is written.

For instances of one GPU that is neither split nor partitioned, with nothing they like or must avoid, scores are those
of `kernels.cpu.what_if`, bit for bit. Over the configurations (request r, limit l, memory m) of an instance that fit,
a GPU's score is the least of, in steps of `packing.STEPS`,

    1024 number + priced rest           on an active GPU
    1024 (2048 + number) + opened       on an empty one; `opened` is its rank among the GPUs to open

GPUs rank by (score, row). The columns are float64, which hold shares and MiB exactly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from dilu_core.kernels.cpu.compiled import compiled, compiled_parallel, inlined
from dilu_core.kernels.cpu.packing import STEPS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REQUEST, LIMIT, MEMORY, REQUEST_PRICE, LIMIT_PRICE, MEMORY_PRICE, OPENED = 0, 1, 2, 3, 4, 5, 6
"""Rows of `gpus`: what is free, the price of a unit left over, and the rank to open it (-1: it is active)."""

N_COLUMNS = 7
_TILE = 512  # GPUs scored at once: their columns stay in the first cache

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
        return int(self.demands.shape[0] * self.gpus.shape[1])


class Ranked(NamedTuple):
    """(n, k): rows of the best GPUs, best first, -1 where there are no more; their scores, infinite there."""

    gpu: NDArray[np.int32]
    score: Floats

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """The fields, as arrays of any kind."""
        return (self.gpu, self.score)


@inlined
def score_of(
    request_left: float, limit_left: float, memory_left: float, request_price: float, limit_price: float,
    memory_price: float, opened: float, number: float,
) -> float:  # fmt: skip
    """The score of one triple from what it would leave; infinite where that is below zero."""
    rest = request_left * request_price + limit_left * limit_price + memory_left * memory_price
    on_active = (1024.0 * number * STEPS + np.floor(rest * STEPS + 0.5)) / STEPS
    on_empty = (1024.0 * (2048.0 + number) * STEPS + opened * STEPS) / STEPS
    score = on_empty if opened >= 0.0 else on_active
    return score if min(min(request_left, limit_left), memory_left) >= 0.0 else np.inf


@compiled
def score_tile(gpus: Floats, start: int, stop: int, demand: Floats, scores: Floats) -> None:
    """Lower `scores` (of the GPUs from `start` on) to those of one configuration; a loop without branches."""
    request, limit, memory, number = demand[0], demand[1], demand[2], demand[3]
    free_request, free_limit, free_memory = gpus[REQUEST, start:stop], gpus[LIMIT, start:stop], gpus[MEMORY, start:stop]
    request_price, limit_price = gpus[REQUEST_PRICE, start:stop], gpus[LIMIT_PRICE, start:stop]
    memory_price, opened = gpus[MEMORY_PRICE, start:stop], gpus[OPENED, start:stop]
    for t in range(free_request.shape[0]):
        score = score_of(
            free_request[t] - request, free_limit[t] - limit, free_memory[t] - memory, request_price[t],
            limit_price[t], memory_price[t], opened[t], number,
        )  # fmt: skip
        scores[t] = min(scores[t], score)


@compiled
def rank_one(gpus: Floats, demands: Floats, rows: NDArray[np.int32], scores: Floats) -> None:
    """Fill the sorted lists of one instance: a GPU that beats the last is moved up to its place, after its equals."""
    rows[:] = -1
    scores[:] = np.inf
    last, tile = rows.shape[0] - 1, np.empty(_TILE)
    for start in range(0, gpus.shape[1], _TILE):
        stop = min(start + _TILE, gpus.shape[1])
        tile[:] = np.inf
        for d in range(demands.shape[0]):
            score_tile(gpus, start, stop, demands[d], tile)
        for t in range(stop - start):
            if tile[t] < scores[last]:
                place = last
                while place > 0 and scores[place - 1] > tile[t]:
                    scores[place], rows[place] = scores[place - 1], rows[place - 1]
                    place -= 1
                scores[place], rows[place] = tile[t], start + t


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


def threads(question: RankQuestion) -> int:
    """How many threads `rank_gpus` takes for it."""
    return int(numba.get_num_threads()) if question.triples >= PARALLEL_FROM else 1


def rank_gpus(question: RankQuestion) -> Ranked:
    """The best GPUs of every instance, on one core or, where that pays, on all."""
    shape = (question.first.size - 1, question.k)
    ranked = Ranked(np.empty(shape, np.int32), np.empty(shape))
    run = rank_parallel if threads(question) > 1 else rank_serial
    run(question.gpus, question.demands, question.first, *ranked)
    return ranked
