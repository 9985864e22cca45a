"""A placement as columns, one row per GPU of the cluster: what is free there, and on the hosts.

Rows go node after node in the cluster's order. The rules of booking are those of `dilu_core.verification`: a split
instance books its request as its limit, a partition cuts the limit to its share, CPU and host memory are booked once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dilu_core.gpu_bookings import gpu_bookings
from dilu_core.placement import Placement, PlacementProblem

UNLIMITED = 2**60
"""Stands for the CPU or memory of a host without a limit."""


@dataclass(frozen=True)
class GpuColumns:
    """All GPUs of a cluster under a placement; arrays are read-only.

    node_start  (n_nodes + 1,) first row of each node, and one past the last
    capacity    (n_gpus, 3)    caps on request and limit [milli], memory [MiB]
    free        (n_gpus, 3)    what of it is not booked
    held        (n_gpus,)      instances on the GPU
    host_free   (n_nodes, 2)   CPU [milli] and memory [MiB] left on the host, `UNLIMITED` where it has no limit
    slices      (n_gpus,)      memory slices taken on a partitioned GPU, as bits
    """

    node_start: NDArray[np.int64]
    capacity: NDArray[np.int64]
    free: NDArray[np.int64]
    held: NDArray[np.int64]
    host_free: NDArray[np.int64]
    slices: NDArray[np.int64]


def gpu_columns(problem: PlacementProblem, placement: Placement) -> GpuColumns:
    """The columns of a valid `placement`."""
    nodes = problem.cluster.nodes
    sizes = [node.gpus for node in nodes]
    number = {node.name: i for i, node in enumerate(nodes)}
    node_start = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
    capacity = np.empty((int(node_start[-1]), 3), np.int64)
    capacity[:, 0] = problem.oversubscription.request_milli
    capacity[:, 1] = problem.oversubscription.limit_milli
    capacity[:, 2] = np.repeat(np.array([node.gpu_type.memory_mib for node in nodes], np.int64), sizes)
    free, held = capacity.copy(), np.zeros(capacity.shape[0], np.int64)
    slices = np.zeros(capacity.shape[0], np.int64)
    for gpu in gpu_bookings(problem, placement):
        row = int(node_start[number[gpu.node]]) + gpu.gpu
        free[row] -= (gpu.request_milli, gpu.limit_milli, gpu.booked_mib)
        held[row] = len(gpu.bookings)
        geometry = nodes[number[gpu.node]].gpu_type.mig
        for each in gpu.bookings:
            profile = geometry.profile(each.mig.profile) if geometry and each.mig else None
            if profile is not None and each.mig is not None:
                slices[row] |= profile.mask(each.mig.start)
    host_free = np.array(
        [[UNLIMITED if each is None else each for each in (node.cpu_milli, node.memory_mib)] for node in nodes],
        np.int64,
    ).reshape(-1, 2)
    for instance in problem.instances:
        if instance.name in placement and (instance.cpu_milli or instance.host_memory_mib):
            node = number[placement[instance.name][0].node]
            host_free[node] -= (instance.cpu_milli, instance.host_memory_mib)
    columns = GpuColumns(node_start, capacity, free, held, host_free, slices)
    for column in vars(columns).values():
        column.flags.writeable = False
    return columns
