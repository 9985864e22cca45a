"""The partitions taken on partitioned (MIG) GPUs: a bit per slice and GPU, and the geometries as tables for kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster
from dilu_core.mig import MigProfile, MigSlice

Ints = NDArray[np.int64]


class Partitions:
    """Which slices are taken; the tables are described in `kernels.cpu.slicing`."""

    def __init__(self, cluster: Cluster, node_type: Ints, node_of: Ints) -> None:
        self.used = np.zeros(node_of.size, np.int64)
        self._type_of = node_type[node_of] if node_of.size else node_of
        self._profiles: list[dict[str, MigProfile]] = []
        self.names: list[str] = []
        starts, rows = [0], []
        for kind in cluster.gpu_types:
            of_kind = sorted(
                kind.mig.profiles if kind.mig else (), key=lambda p: (p.slices, p.share_milli, p.memory_mib, p.name)
            )
            self._profiles.append({profile.name: profile for profile in of_kind})
            self.names += [profile.name for profile in of_kind]
            for p in of_kind:
                legal = sum(1 << start for start in p.starts)
                rows.append((p.share_milli, p.memory_mib, p.slices, legal, kind.mig.slices if kind.mig else 0))
            starts.append(len(rows))
        self.profile_start = np.array(starts, np.int64)
        self.profiles = np.array(rows, np.int64).reshape(-1, 5)
        self.any_there = bool(rows)

    def is_partitioned(self, row: int) -> bool:
        """Whether the GPU of this row is partitioned."""
        return bool(self._profiles[self._type_of[row]])

    def share_milli(self, row: int, taken: MigSlice) -> int:
        """The share that a partition gives."""
        return int(self._profiles[self._type_of[row]][taken.profile].share_milli)

    def has_room(self, row: int, wanted: MigSlice, request_milli: int, memory_mib: int) -> bool:
        """Whether the GPU offers this partition, it gives that share and memory, and its slices are free."""
        profile = self._profiles[self._type_of[row]].get(wanted.profile)
        return (
            profile is not None
            and wanted.start in profile.starts
            and profile.share_milli >= request_milli
            and profile.memory_mib >= memory_mib
            and not int(self.used[row]) & profile.mask(wanted.start)
        )

    def flip(self, row: int, taken: MigSlice) -> None:
        """Take the slices of a free partition, or free those of a taken one."""
        self.used[row] ^= self._profiles[self._type_of[row]][taken.profile].mask(taken.start)

    def copy(self) -> Partitions:
        """One of its own with the same slices taken."""
        other = object.__new__(Partitions)
        other.__dict__.update(self.__dict__)
        other.used = self.used.copy()
        return other
