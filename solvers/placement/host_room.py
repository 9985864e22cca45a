"""Where something that uses no GPU takes CPU and host memory: on the node whose GPUs lose least by it."""

from __future__ import annotations

import numpy as np

from dilu_core.solvers.placement.bookings import Bookings
from dilu_core.solvers.placement.choice import Rule
from dilu_core.solvers.placement.choose import Chooser
from dilu_core.solvers.placement.reasons import why_no_host_ever

_WORDS = {"host-cpu": "host CPU", "host-memory": "host memory"}


def choose_host(b: Bookings, cpu_milli: int, memory_mib: int, node: int | None, chooser: Chooser) -> int | None:
    """The node to take this much from: `node` if given and it has it, else the best by gradient or least free GPUs.

    Least free share of GPUs means that the fewest instances could still come and miss the CPU. Ties: least CPU left,
    then the first node.
    """
    roomy = (b.host_free[:, 0] >= cpu_milli) & (b.host_free[:, 1] >= memory_mib)
    if node is not None:
        return node if roomy[node] else None
    if not roomy.any():
        return None
    if chooser.gradient is not None:
        return chooser.gradient.node_for_host(chooser, cpu_milli, memory_mib)
    share = np.add.reduceat(b.free[:, 0], b.node_start[:-1])
    candidates = np.flatnonzero(roomy)
    order = np.lexsort([candidates, b.host_free[candidates, 0], share[candidates]])
    return int(candidates[order[0]])


def why_no_host(b: Bookings, cpu_milli: int, memory_mib: int, node: int | None) -> tuple[str, Rule, dict[str, int]]:
    """Why there is no place: the words, the code, and by resource the number of GPUs on nodes that lack it."""
    never = why_no_host_ever(b.cluster, cpu_milli, memory_mib)
    if never is not None:
        return f"it needs {never}" if b.cluster.nodes else never, Rule.NEVER, {}
    lacks = {"host-cpu": b.host_free[:, 0] < cpu_milli, "host-memory": b.host_free[:, 1] < memory_mib}
    sizes = np.diff(b.node_start)
    if node is not None:
        short = [what for what, mask in lacks.items() if mask[node]]
        gpus = int(sizes[node])
        return (
            f"node {b.cluster.nodes[node].name!r} lacks {' and '.join(_WORDS[what] for what in short)}",
            Rule.NOT_NOW,
            dict.fromkeys(short, gpus),
        )
    words = ", ".join(f"{_WORDS[what]} on {int(mask.sum())} nodes" for what, mask in lacks.items())
    blocked = {what: int(sizes[mask].sum()) for what, mask in lacks.items() if mask.any()}
    return f"no node has both; in its way: {words}", Rule.NOT_NOW, blocked
