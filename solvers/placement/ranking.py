"""The best GPUs for many hypothetical instances at once: what `ClusterState.what_if(...).best(k)` says, in columns.

Instances of one GPU that prefer nothing are scored and ranked in one pass by a compiled kernel, on a GPU where there is
enough to do; the others (gangs, splits, affinities, partitioned GPUs, placing by fragmentation gradient) through
`what_if`, whose rules they need.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.cluster import Configuration, Instance
from dilu_core.errors import BackendUnavailableError
from dilu_core.kernels.backend import BACKENDS, RunRecord
from dilu_core.kernels.cpu.ledger import ACTIVE
from dilu_core.kernels.cpu.ranking import N_COLUMNS, OPENED, Ranked, RankQuestion
from dilu_core.kernels.cpu.ranking import rank_gpus as rank_on_cpu
from dilu_core.result import SolveStats
from dilu_core.solvers.backends import resolved, stats_of
from dilu_core.solvers.placement.choose import Chooser
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.what_if import Candidate, score_matrix

_CHUNK = 256  # instances whose every score is held at once
_CUDA_GREATEST_K = 32


@dataclass(frozen=True, eq=False)
class GpuRanking:
    """The best GPUs of n instances, best first; columns are (n, min(k, GPUs of the cluster)) and read-only.

    `gpu` numbers the cluster's GPUs in order, node after node; -1 where fewer of them have a place. `score` is that of
    `WhatIf.scores`, less is better, nan where `gpu` is -1.
    """

    gpu: NDArray[np.int64]
    score: NDArray[np.float64]
    stats: SolveStats
    _where: tuple[tuple[str, int], ...]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore after pickling, which forgets that the arrays are read-only."""
        check.restore(self, state)

    def candidates(self, instance: int) -> tuple[Candidate, ...]:
        """The GPUs of one instance by node and number, as `WhatIf.best` names them."""
        i = check.integer("instance", instance, at_least=0, at_most=self.gpu.shape[0] - 1)
        pairs = zip(self.gpu[i].tolist(), self.score[i].tolist(), strict=True)
        return tuple(Candidate(self._where[gpu][0], self._where[gpu][1], score) for gpu, score in pairs if gpu >= 0)


def rank_gpus(state: ClusterState, instances: Iterable[Instance], *, k: int = 1, backend: str = "auto") -> GpuRanking:
    """The `k` best GPUs for each of `instances`, each alone against the present state; nothing changes.

    Parameters
    ----------
    state
        A cluster as it stands.
    instances
        With their alternatives: a GPU's score is that of the configuration that would be taken there. Names may be
        taken, since nothing is placed.
    k
        How many GPUs are wanted of each, all of them where there are fewer; more than 32 run on the CPU.
    backend
        "auto", "cpu" or "cuda"; all give the same answers. Only instances of one GPU that is neither split nor
        partitioned, without preferences, run on a GPU.

    Raises
    ------
    InvalidArgumentError
        Naming the argument.
    BackendUnavailableError
        Where "cuda" cannot run.
    """
    if not isinstance(state, ClusterState):
        check.fail("state", f"is {state!r:.80}; expected a ClusterState.")
    asked = check.instances_of("instances", instances, Instance)
    wanted = check.integer("k", k, at_least=1)
    chooser = state._chooser
    gpus = chooser.bookings.held.size
    count = min(wanted, gpus)
    plain = [i for i, each in enumerate(asked) if _is_plain(each, chooser)]
    question = _question(chooser, [asked[i] for i in plain], count)
    named = check.choice("backend", backend, BACKENDS)
    if count > _CUDA_GREATEST_K and named == "auto":
        named = "cpu"
    ran_on = resolved(named, "what_if", float(question.triples))
    if ran_on == "cuda" and count > _CUDA_GREATEST_K:
        raise BackendUnavailableError(f"k is {wanted}; a GPU ranks at most {_CUDA_GREATEST_K}. Use backend='cpu'.")
    started = time.perf_counter()
    rows, scores = np.full((len(asked), count), -1, np.int64), np.full((len(asked), count), np.nan)
    ranked, record = _rank(question, ran_on)
    rows[plain] = ranked.gpu
    scores[plain] = np.where(ranked.gpu >= 0, ranked.score, np.nan)
    others = sorted(set(range(len(asked))) - set(plain))
    for at in range(0, len(others), _CHUNK):
        chunk = others[at : at + _CHUNK]
        matrix = score_matrix(chooser, tuple(asked[i] for i in chunk))
        best = np.argsort(matrix, axis=1, kind="stable")[:, :count]  # nan sorts last
        values = np.take_along_axis(matrix, best, axis=1)
        rows[chunk] = np.where(np.isnan(values), -1, best)
        scores[chunk] = values
    stats = stats_of(record, time.perf_counter() - started, {"triples": question.triples, "by_matrix": len(others)})
    where = tuple((node.name, gpu) for node in state.cluster.nodes for gpu in range(node.gpus))
    return GpuRanking(check.read_only(rows), check.read_only(scores), stats, where)


def _rank(question: RankQuestion, backend: str) -> tuple[Ranked, RunRecord]:
    if backend == "cpu":
        return rank_on_cpu(question), RunRecord()
    from dilu_core.kernels.cuda import what_if

    return what_if.rank_gpus(question)


def _is_plain(instance: Instance, chooser: Chooser) -> bool:
    """Whether the fit alone decides: one whole GPU, nothing liked or barred, and placing by best fit."""
    alone = instance.gpus == 1 and not instance.splittable and chooser.gradient is None
    return alone and not chooser.prepare(instance)


def _question(chooser: Chooser, instances: list[Instance], k: int) -> RankQuestion:
    """The ledger's columns and the demands of `instances`, as the kernel reads them."""
    b = chooser.bookings
    gpus = np.empty((N_COLUMNS, b.held.size))
    gpus[:3], gpus[3:6] = b.free.T, chooser.weight.T
    sizes = np.unique([kind.memory_mib for kind in b.cluster.gpu_types])
    rank = np.searchsorted(sizes, [kind.memory_mib for kind in b.cluster.gpu_types])
    empties = np.diff(b.node_start) - b.node_state[:, ACTIVE]
    opened = rank[b.node_type] + empties / 1024.0
    gpus[OPENED] = np.where(b.held > 0, -1.0, opened[b.node_of])
    demands, first = [], [0]
    for instance in instances:
        every: tuple[Instance | Configuration, ...] = (instance, *instance.alternatives)
        for number, each in enumerate(every):
            demands.append((each.request_milli, each.limit_milli, each.memory_mib, min(number, 1023)))
        first.append(len(demands))
    return RankQuestion(gpus, np.array(demands, np.float64).reshape(-1, 4), np.array(first, np.int64), k)
