"""How much free request a mix of instances is expected not to be able to use, GPU by GPU.

Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX
ATC 2023. For a node n and a shape m of the mix,

    F_n(m) = all free request of the node         where m cannot run on it: its host lacks CPU or memory, fewer than
                                                  its `gpus` GPUs have room for m, or it wants no GPU at all
             free request on GPUs without room    elsewhere
    F_n    = sum of weight_m F_n(m) over the mix

A GPU has room for m where request, limit and memory all fit; on a partitioned GPU (MIG), where besides some partition
that suffices is still free, and then only for shapes of one GPU. What is lost falls on the GPU where it is free, so
that GPUs add up to nodes and nodes to the cluster. `dilu_core.kernels.cpu.fragmentation` computes F_n of one node for
placers; this is the same on all GPUs at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.arrival_mix import TaskMix, TaskShape
from dilu_core.cluster import Cluster
from dilu_core.gpu_columns import GpuColumns
from dilu_core.mig import MigGeometry


def expected_unusable(cluster: Cluster, columns: GpuColumns, mix: TaskMix) -> NDArray[np.float64]:
    """Free request [milli] of each GPU, `(n_gpus,)`, that is expected to be of no use.

    The work grows with the GPUs times the shapes of the mix.
    """
    free, starts = columns.free, columns.node_start[:-1]
    unusable = np.zeros(free.shape[0])
    if not starts.size:
        return unusable
    node_of = np.repeat(np.arange(starts.size), np.diff(columns.node_start))
    partitioned = [
        (geometry, np.flatnonzero(np.isin(node_of, [i for i, n in enumerate(cluster.nodes) if n.gpu_type == kind])))
        for kind in cluster.gpu_types
        if (geometry := kind.mig) is not None
    ]
    share = free[:, 0].astype(np.float64)
    for row, weight in zip(mix.shapes.tolist(), mix.weight.tolist(), strict=True):
        shape = TaskShape(*row)
        room = (free >= row[:3]).all(axis=1)
        for geometry, gpus in partitioned:
            room[gpus] = _room_on_partitions(geometry, columns, gpus, shape)
        runs = np.add.reduceat(room, starts, dtype=np.int64) >= max(1, shape.gpus)
        runs &= (columns.host_free >= row[4:]).all(axis=1) & (shape.gpus > 0)
        unusable += weight * np.where(room & runs[node_of], 0.0, share)
    return unusable


def _room_on_partitions(
    geometry: MigGeometry, columns: GpuColumns, gpus: NDArray[np.int64], shape: TaskShape
) -> NDArray[np.bool_]:
    """Which of these GPUs could still form a partition for an instance of this shape."""
    found = np.zeros(gpus.size, np.bool_)
    if shape.gpus != 1:
        return found
    free, taken = columns.free[gpus], columns.slices[gpus]
    for profile in geometry.sufficient(shape.request_milli, shape.memory_mib):
        fits = free >= (shape.request_milli, min(shape.limit_milli, profile.share_milli), shape.memory_mib)
        starts = np.array([profile.mask(start) for start in profile.starts], np.int64)
        found |= fits.all(axis=1) & ((taken[:, None] & starts) == 0).any(axis=1)
    return found
