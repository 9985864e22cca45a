"""A cluster in plain dicts and loops, which shares nothing with the solvers: what may be booked, what is in the way.

A GPU is a dict of what is left of it (`request`, `limit`, `memory`), the slices taken, and its tenants by name. Broken
rules are AssertionErrors that say which. Slow on purpose; it is there to disagree with `ClusterState`.
"""

from __future__ import annotations

import copy
from typing import Any

from dilu_core.cluster import Cluster, Configuration, GpuType, Instance, Oversubscription
from dilu_core.mig import MigProfile
from dilu_core.slots import Slot

Gpu = dict[str, Any]


class NaiveCluster:
    """Nodes by name: their GPUs and what is left of their host; who sits where, and who holds host capacity."""

    def __init__(self, cluster: Cluster, caps: Oversubscription) -> None:
        self.cluster, self.caps = cluster, caps
        self.nodes: dict[str, dict[str, Any]] = {
            node.name: {
                "type": node.gpu_type,
                "cpu": float("inf") if node.cpu_milli is None else node.cpu_milli,
                "host_memory": float("inf") if node.memory_mib is None else node.memory_mib,
                "gpus": [
                    {
                        "request": caps.request_milli,
                        "limit": caps.limit_milli,
                        "memory": node.gpu_type.memory_mib,
                        "slices": set(),
                        "tenants": {},
                    }
                    for _ in range(node.gpus)
                ],
            }
            for node in cluster.nodes
        }
        self.home: dict[str, tuple[Instance, tuple[Slot, ...]]] = {}
        self.reserved: dict[str, tuple[str, int, int]] = {}

    @property
    def gpus_used(self) -> int:
        """GPUs with a tenant."""
        return sum(1 for node in self.nodes.values() for gpu in node["gpus"] if gpu["tenants"])

    def copy(self) -> NaiveCluster:
        """One of its own."""
        other = NaiveCluster(self.cluster, self.caps)
        for name, node in self.nodes.items():
            there = other.nodes[name]
            there["cpu"], there["host_memory"] = node["cpu"], node["host_memory"]
            there["gpus"] = [
                {**gpu, "slices": set(gpu["slices"]), "tenants": dict(gpu["tenants"])} for gpu in node["gpus"]
            ]
        other.home, other.reserved = copy.copy(self.home), copy.copy(self.reserved)
        return other

    def book(self, instance: Instance, slots: tuple[Slot, ...]) -> None:
        """Write an instance down, or say which rule that breaks."""
        assert instance.name not in {*self.home, *self.reserved}, "the name is taken"
        amounts = self._amounts(instance, slots)
        node = self.nodes[slots[0].node]
        for slot, (request, limit, memory) in zip(slots, amounts, strict=True):
            gpu = node["gpus"][slot.gpu]
            assert gpu["request"] >= request, f"request of {slot}"
            assert gpu["limit"] >= limit, f"limit of {slot}"
            assert gpu["memory"] >= memory, f"memory of {slot}"
            assert not _enemies(gpu, instance), f"anti-affinity on {slot}"
            taken = _slices(node, slot)
            assert not gpu["slices"] & taken, f"slices of {slot}"
            gpu["request"] -= request
            gpu["limit"] -= limit
            gpu["memory"] -= memory
            gpu["slices"] |= taken
            gpu["tenants"][instance.name] = instance
        self._take_host(slots[0].node, instance.cpu_milli, instance.host_memory_mib)
        self.home[instance.name] = instance, slots

    def cross_out(self, name: str) -> Instance:
        """Take an instance away."""
        instance, slots = self.home.pop(name)
        node = self.nodes[slots[0].node]
        for slot, (request, limit, memory) in zip(slots, self._amounts(instance, slots), strict=True):
            gpu = node["gpus"][slot.gpu]
            gpu["request"] += request
            gpu["limit"] += limit
            gpu["memory"] += memory
            gpu["slices"] -= _slices(node, slot)
            del gpu["tenants"][name]
        node["cpu"] += instance.cpu_milli
        node["host_memory"] += instance.host_memory_mib
        return instance

    def reserve(self, name: str, node: str, cpu: int, host_memory: int) -> None:
        """Hold CPU and memory of a node's host."""
        assert name not in {*self.home, *self.reserved}, "the name is taken"
        self._take_host(node, cpu, host_memory)
        self.reserved[name] = node, cpu, host_memory

    def unreserve(self, name: str) -> None:
        """Give it back."""
        node, cpu, host_memory = self.reserved.pop(name)
        self.nodes[node]["cpu"] += cpu
        self.nodes[node]["host_memory"] += host_memory

    def move(self, name: str, target: tuple[Slot, ...]) -> None:
        """Start an instance there before it is stopped here: it needs room for both, on a shared GPU the greater."""
        instance, source = self.home[name]
        held = {(s.node, s.gpu): a for s, a in zip(source, self._amounts(instance, source), strict=True)}
        node = self.nodes[target[0].node]
        for slot, wanted in zip(target, self._amounts(instance, target), strict=True):
            gpu = node["gpus"][slot.gpu]
            now = held.get((slot.node, slot.gpu), (0, 0, 0))
            for what, have, want in zip(("request", "limit", "memory"), now, wanted, strict=True):
                assert gpu[what] >= want - have, f"{what} of {slot} while {name} moves"
            assert not _enemies(gpu, instance), f"anti-affinity on {slot} while {name} moves"
            assert not gpu["slices"] & _slices(node, slot), f"slices of {slot} while {name} moves"
        assert node["cpu"] >= instance.cpu_milli, f"CPU of {slot.node} while {name} moves"
        assert node["host_memory"] >= instance.host_memory_mib, f"host memory of {slot.node} while {name} moves"
        self.cross_out(name)
        self.book(instance, target)

    def _take_host(self, node: str, cpu: int, host_memory: int) -> None:
        there = self.nodes[node]
        assert there["cpu"] >= cpu, f"CPU of {node}"
        assert there["host_memory"] >= host_memory, f"host memory of {node}"
        there["cpu"] -= cpu
        there["host_memory"] -= host_memory

    def _amounts(self, instance: Instance, slots: tuple[Slot, ...]) -> list[tuple[int, int, int]]:
        """Request, limit and memory on each slot, once the slots themselves make sense."""
        assert slots, "no slot"
        assert len({slot.node for slot in slots}) == 1, "several nodes"
        assert len({slot.gpu for slot in slots}) == len(slots), "a GPU twice"
        assert len({slot.configuration for slot in slots}) == 1, "several configurations"
        node, number = self.nodes[slots[0].node], slots[0].configuration
        kind = node["type"]
        assert instance.gpu_types is None or kind.name in instance.gpu_types, "wrong GPU type"
        demand: Instance | Configuration = instance if number == 0 else instance.alternatives[number - 1]
        memory = [slot.memory_mib for slot in slots]
        limit = demand.limit_milli
        if instance.gpus == 1 and len(slots) > 1:
            assert instance.splittable, "split"
            assert sum(memory) == demand.memory_mib, "parts that do not add up"
            assert min(memory) > 0, "a part without memory"
            limit = demand.request_milli
        else:
            assert sorted(memory) == sorted(_each(demand, instance.gpus)), "wrong memory"
        if kind.mig is None:
            assert all(slot.mig is None for slot in slots), "a partition of a whole GPU"
            return [(demand.request_milli, limit, mib) for mib in memory]
        assert len(slots) == 1, "several partitioned GPUs"
        assert slots[0].mig is not None, "no partition of a partitioned GPU"
        profile = kind.mig.profile(slots[0].mig.profile)
        assert slots[0].mig.start in profile.starts, "illegal start"
        assert profile.share_milli >= demand.request_milli, "a partition of too little share"
        assert profile.memory_mib >= memory[0], "a partition of too little memory"
        return [(demand.request_milli, min(limit, profile.share_milli), memory[0])]

    def has_place(self, instance: Instance, *, in_use: bool = False) -> bool:
        """Whether any place keeps every rule, in any configuration; with `in_use`, on GPUs that have tenants."""
        return any(
            self._fits_node(instance, each, node["type"], [g for g in node["gpus"] if g["tenants"] or not in_use])
            for node in self.nodes.values()
            if (instance.gpu_types is None or node["type"].name in instance.gpu_types)
            and node["cpu"] >= instance.cpu_milli
            and node["host_memory"] >= instance.host_memory_mib
            for each in (instance, *instance.alternatives)
        )

    def _fits_node(self, instance: Instance, demand: Instance | Configuration, kind: GpuType, on: list[Gpu]) -> bool:
        """Whether a configuration finds a place on these GPUs of a node."""
        gpus = [g for g in on if g["request"] >= demand.request_milli and not _enemies(g, instance)]
        sizes = sorted(_each(demand, instance.gpus), reverse=True)
        if kind.mig is not None:
            return instance.gpus == 1 and any(
                g["memory"] >= sizes[0] and _has_partition(kind, g, demand, sizes[0]) for g in gpus
            )
        whole = sorted((g["memory"] for g in gpus if g["limit"] >= demand.limit_milli), reverse=True)
        if len(whole) >= len(sizes) and all(a >= b for a, b in zip(whole, sizes, strict=False)):
            return True
        if not instance.splittable or sizes[0] < 2:
            return False
        parts = [g["memory"] for g in gpus if g["limit"] >= demand.request_milli and g["memory"] > 0]
        return len(parts) > 1 and sum(parts) >= sizes[0]

    def obstacles(self, instance: Instance) -> dict[str, set[str]]:
        """Resource -> the GPUs where it alone or among others keeps out a part of the first configuration.

        The part is the least of which there are more, with the greater ones, than GPUs for them on every node that has
        enough for the lesser ones.
        """
        wanted, nodes, found = _each(instance, instance.gpus), set(self.nodes), dict[str, set[str]]()
        for memory in sorted(set(wanted)):
            found, free = self._obstacles_of_part(instance, memory)
            nodes = {name for name in nodes if free.get(name, 0) >= sum(each >= memory for each in wanted)}
            if not nodes:
                break
        return found

    def _obstacles_of_part(self, instance: Instance, memory: int) -> tuple[dict[str, set[str]], dict[str, int]]:
        """Resource -> the GPUs where it keeps out a part of this memory; node -> how many GPUs of it nothing does."""
        found: dict[str, set[str]] = {}
        free: dict[str, int] = {}
        for name, node in self.nodes.items():
            kind = node["type"]
            if (instance.gpu_types is not None and kind.name not in instance.gpu_types) or (
                kind.mig and instance.gpus > 1
            ):
                continue
            for number, gpu in enumerate(node["gpus"]):
                short = {
                    "request": gpu["request"] < instance.request_milli,
                    "limit": kind.mig is None and gpu["limit"] < instance.limit_milli,
                    "memory": gpu["memory"] < memory,
                    "anti-affinity": bool(_enemies(gpu, instance)),
                    "host-cpu": node["cpu"] < instance.cpu_milli,
                    "host-memory": node["host_memory"] < instance.host_memory_mib,
                    "partition": kind.mig is not None and not _has_partition(kind, gpu, instance, memory),
                }
                for what, is_short in short.items():
                    if is_short:
                        found.setdefault(what, set()).add(f"{name}/{number}")
                free[name] = free.get(name, 0) + (not any(short.values()))
        return found, free


def _each(demand: Instance | Configuration, gpus: int) -> tuple[int, ...]:
    return (demand.memory_mib,) * gpus if isinstance(demand.memory_mib, int) else demand.memory_mib


def _enemies(gpu: Gpu, instance: Instance) -> list[str]:
    """Tenants other than itself that it refuses, or that refuse it."""
    return [
        name
        for name, tenant in gpu["tenants"].items()
        if name != instance.name
        and (
            (tenant.function and tenant.function in instance.anti_affinity)
            or (instance.function and instance.function in tenant.anti_affinity)
        )
    ]


def _slices(node: dict[str, Any], slot: Slot) -> set[int]:
    """The slices that a slot takes."""
    if slot.mig is None:
        return set()
    profile: MigProfile = node["type"].mig.profile(slot.mig.profile)
    return set(range(slot.mig.start, slot.mig.start + profile.slices))


def _has_partition(kind: GpuType, gpu: Gpu, demand: Instance | Configuration, memory: int) -> bool:
    return any(
        profile.share_milli >= demand.request_milli
        and profile.memory_mib >= memory
        and gpu["limit"] >= min(demand.limit_milli, profile.share_milli)
        and any(not gpu["slices"] & set(range(start, start + profile.slices)) for start in profile.starts)
        for profile in (kind.mig.profiles if kind.mig else ())
    )
