"""What-if scoring with top-k: every configuration of many instances against every GPU of a cluster, the 8 best kept."""

from __future__ import annotations

import numpy as np
from case import Case

from dilu_core.kernels.backend import RunRecord
from dilu_core.kernels.cpu import ranking
from dilu_core.kernels.cuda import what_if

_OPERATIONS = 13  # subtractions, products, sums and the rounding of one triple
_K = 8


def case(small: bool) -> Case:
    """20,000 instances of about two configurations, on 10,000 GPUs: 4e8 triples."""
    instances, gpus = (500, 1000) if small else (20_000, 10_000)
    held: dict[str, ranking.RankQuestion] = {}

    def prepare() -> None:
        held["question"] = what_if.example_question(instances, gpus, _K)

    def validate() -> str:
        question = held["question"]
        mine, theirs = what_if.rank_gpus(question)[0], ranking.rank_gpus(question)
        assert np.array_equal(mine.gpu, theirs.gpu), "rows differ"
        assert np.array_equal(mine.score, theirs.score), "scores differ"
        return f"{question.triples:,} triples: rows and scores of the {_K} best equal the CPU's bit for bit"

    def on_device() -> what_if.OnDevice:
        return what_if.on_device(held["question"])

    def cuda() -> RunRecord:
        return what_if.rank_gpus(held["question"])[1]

    def bytes_moved() -> float:
        question = held["question"]
        return float(sum(each.nbytes for each in question[:3]) + instances * _K * 12)

    def cpu() -> None:
        ranking.rank_gpus(held["question"])

    return Case(
        name="what_if",
        unit="triples",
        work=float(what_if.example_question(instances, 1, _K).demands.shape[0] * gpus),
        prepare=prepare,
        validate=validate,
        cuda=cuda,
        on_device=lambda: on_device().rank,
        cpu=cpu,
        cpu_threads=lambda: ranking.threads(held["question"]),
        operations=lambda: float(held["question"].triples * _OPERATIONS),
        bytes_moved=bytes_moved,
        operation="fp64",
    )
