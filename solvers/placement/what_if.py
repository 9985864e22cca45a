"""What-if: the decision for each of many hypothetical instances, and the score of every GPU for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from dilu_core import _checks as check
from dilu_core.cluster import Instance
from dilu_core.errors import StateError
from dilu_core.kernels.cpu.fgd_placing import score_gradient
from dilu_core.kernels.cpu.ledger import CHANGES
from dilu_core.kernels.cpu.what_if import score_gpus
from dilu_core.solvers.placement.choice import demands_of
from dilu_core.solvers.placement.choose import Chooser
from dilu_core.solvers.placement.decisions import PlacementDecision

Floats = NDArray[np.float64]

_CHUNK = 256  # instances scored at once, which bounds the scratch memory


class Candidate(NamedTuple):
    """A GPU an instance could take, and its score; less is better."""

    node: str
    gpu: int
    score: float


class WhatIf(Sequence[PlacementDecision]):
    """The decisions, in the order asked, each against the state as it was then."""

    def __init__(
        self, chooser: Chooser, instances: tuple[Instance, ...], decisions: tuple[PlacementDecision, ...]
    ) -> None:
        self._chooser = chooser
        self._instances = instances
        self._decisions = decisions
        self._changes = self._count_changes()
        self._scores: Floats | None = None

    @overload
    def __getitem__(self, index: int) -> PlacementDecision: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[PlacementDecision, ...]: ...

    def __getitem__(self, index: int | slice) -> PlacementDecision | tuple[PlacementDecision, ...]:
        return self._decisions[index]

    def __len__(self) -> int:
        return len(self._decisions)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, WhatIf):
            return self._decisions == other._decisions
        return self._decisions == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._decisions)

    def __repr__(self) -> str:
        return f"WhatIf({list(self._decisions)!r})"

    @property
    def scores(self) -> Floats:
        """(n_instances, n_gpus) float64, GPUs in the cluster's order; less is better, nan where there is no place.

        For an instance on one GPU the least score, the first among equals, is where `place` would put it. For a gang or
        a split it is the score of the GPU's own part, on nodes with room for all; where a gang's parts differ, of the
        greatest that the GPU has room for. Placing by best fit: an active GPU
        comes before a split, that before an empty GPU; then lower configurations, then what the instance likes to be
        beside, then the priced rest. By fragmentation gradient: the growth of the node's unusable share in steps of
        40 milli, after what it likes; a gang's GPUs carry their node's.
        Raises `StateError` where the state has changed since and the scores were not asked for before.
        """
        if self._scores is None:
            if self._count_changes() != self._changes:
                raise StateError("the state has changed since what_if was asked; ask again for scores.")
            self._scores = score_matrix(self._chooser, self._instances)
            self._scores.flags.writeable = False
        return self._scores

    def best(self, k: int) -> tuple[tuple[Candidate, ...], ...]:
        """Per instance its `k` best GPUs, best first, fewer where fewer have a place for it (or a part of it)."""
        count = check.integer("k", k, at_least=1)
        b = self._chooser.bookings
        found = []
        for row in self.scores:
            order = np.argsort(row, kind="stable")[:count]  # nan sorts last
            nodes = b.node_of[order].tolist()
            found.append(
                tuple(
                    Candidate(b.cluster.nodes[node].name, gpu - int(b.node_start[node]), float(row[gpu]))
                    for gpu, node in zip(order.tolist(), nodes, strict=True)
                    if not np.isnan(row[gpu])
                )
            )
        return tuple(found)

    def _count_changes(self) -> int:
        return int(self._chooser.bookings.node_state[:, CHANGES].sum())


def score_matrix(chooser: Chooser, instances: tuple[Instance, ...]) -> Floats:
    b = chooser.bookings
    scores = np.full((len(instances), b.held.size), np.nan)
    sizes = np.unique([kind.memory_mib for kind in b.cluster.gpu_types])
    rank = np.searchsorted(sizes, [kind.memory_mib for kind in b.cluster.gpu_types]).astype(np.int64)
    parts = b.partitions
    for first in range(0, len(instances), _CHUNK):
        chunk = instances[first : first + _CHUNK]
        preference = np.zeros((len(chunk), b.held.size), np.int8)
        penalty = np.zeros((len(chunk), b.held.size))
        for i, instance in enumerate(chunk):
            if chooser.prepare(instance):
                preference[i], penalty[i] = chooser.preference, chooser.penalty
        demands, first_demand, part_mib = _demands(chunk)
        score_gpus(
            b.free, chooser.weight, b.held, b.node_start, b.node_state, b.node_type, rank, parts.used,
            parts.profile_start, parts.profiles, preference, penalty, demands, first_demand, part_mib,
            scores[first : first + _CHUNK],
        )  # fmt: skip
    if chooser.gradient is not None:
        _score_by_gradient(chooser, instances, scores)
    return scores


def _demands(instances: tuple[Instance, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """As the kernel reads them: a row per instance and configuration, the first row of each instance, and what each row
    takes on its GPUs [MiB]."""
    rows: list[tuple[int, ...]] = []
    parts: list[int] = []
    starts = [0]
    for i, instance in enumerate(instances):
        for number, each in enumerate(demands_of(instance)):
            listed = each.memory_mib
            memory = [listed] * instance.gpus if isinstance(listed, int) else sorted(listed, reverse=True)
            splits = instance.splittable and memory[0] > 1
            rows.append((each.request_milli, each.limit_milli, memory[0], instance.gpus, splits, i, number, len(parts)))
            parts += memory
        starts.append(len(rows))
    return np.array(rows, np.int64).reshape(-1, 8), np.array(starts, np.int64), np.array(parts, np.int64)


def _score_by_gradient(chooser: Chooser, instances: tuple[Instance, ...], scores: Floats) -> None:
    """Replace the scores of whole GPUs by growth of fragmentation, for each instance that finds a place so.

    The others keep those of best fit, by which they would be placed.
    """
    gradient, b = chooser.gradient, chooser.bookings
    assert gradient is not None
    for i, instance in enumerate(instances):
        if instance.gpus > chooser.largest_node:
            continue
        special = chooser.prepare(instance, by_row_only=True)
        barred = b.nodes_barred(instance.gpu_types, partitioned=False)
        for each in demands_of(instance):
            row = np.full(b.held.size, np.nan)
            demand = gradient.demand_of(instance, each, chooser)
            score_gradient(
                b.free, b.node_start, b.host_free, barred, chooser.preference, chooser.penalty, special,
                gradient.mix.shapes, gradient.mix.weight, demand, chooser.gang_memory_column, row,
            )  # fmt: skip
            if not np.isnan(row).all():
                scores[i] = row
                break
