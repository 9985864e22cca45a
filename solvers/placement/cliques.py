"""Cliques: items no two of which can share a GPU, so that there are at least as many GPUs as items in any clique."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Instance, Oversubscription

Ints = NDArray[np.int64]

_CAUSES = ("memory", "SM request", "SM limit", "gang", "anti-affinity")  # why two items cannot share a GPU


def cliques(
    caps: Oversubscription, memory: int, instances: Sequence[Instance], request: Ints, limit: Ints, mib: Ints
) -> Iterator[tuple[str, int]]:
    """Sizes of cliques grown greedily from the largest items by each measure; any clique is a bound.

    A clique is named after what keeps each two of its members apart, which need not be the measure it was grown by.
    `memory` is that of the largest GPU; the demands (n_items,) are of the items, instance by instance.
    """
    owner = np.repeat(np.arange(len(instances)), [instance.gpus for instance in instances])
    number = {name: i for i, name in enumerate(sorted({each.function for each in instances}))}
    function = np.array([number[each.function] for each in instances], np.int64)[owner]
    refuses = np.zeros((len(instances), len(number)), np.bool_)
    for i, each in enumerate(instances):
        refuses[i, [number[name] for name in each.anti_affinity if name in number]] = True
    repels = refuses.any()
    shares = [mib / memory, request / caps.request_milli, limit / caps.limit_milli]
    refusals = refuses.sum(axis=1)[owner] + 0.5 * refuses.sum(axis=0)[function]
    nobody = np.zeros(request.size, np.bool_)
    for size in (*shares, np.maximum.reduce(shares), refusals):
        members = np.empty(0, np.int64)
        causes = list(_CAUSES)
        for i in np.argsort(-size, kind="stable").tolist():
            apart = np.array(
                [
                    mib[members] + mib[i] > memory,
                    request[members] + request[i] > caps.request_milli,
                    limit[members] + limit[i] > caps.limit_milli,
                    owner[members] == owner[i],
                    refuses[owner[i], function[members]] | refuses[owner[members], function[i]]
                    if repels
                    else nobody[: members.size],
                ]
            )
            if apart.any(axis=0).all():
                members = np.append(members, i)
                causes = [cause for cause, each in zip(_CAUSES, apart, strict=True) if cause in causes and each.all()]
        yield f"{causes[0]} clique" if causes else "clique of instances that cannot share a GPU", members.size
