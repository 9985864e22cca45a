"""What placement benchmarks measure on: recorded event logs, generated mixes, and plain baselines."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

from dilu_core.cluster import Cluster, GpuType, Instance
from dilu_core.units import demand_mib_from_gib, demand_milli

LOG_SIZES = (100, 400, 800, 3200)
A100 = GpuType("A100-40GB", 40 * 1024)
LOG_CLUSTER = Cluster.homogeneous(1000, 4, A100)

Event = Instance | str  # an instance that starts, or the name of one that leaves


def data_dir() -> Path | None:
    """The folder of measured data (DILU_DATA, or ../shared/data beside the checkout), if there is one."""
    for candidate in (os.environ.get("DILU_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    return None


def data_dir_or_exit() -> Path:
    """As `data_dir`, for scripts: says what is missing and ends."""
    found = data_dir()
    if found is None:
        sys.exit("no measured data: set DILU_DATA to the folder, or put it at ../shared/data beside the checkout")
    return found


def read_events(folder: Path, size: int) -> list[Event]:
    """The events of the log `dilu_events_{size}.jsonl`, demands rounded up to milli-GPU and MiB."""
    events: list[Event] = []
    for line in (folder / "placement" / f"dilu_events_{size}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["action"] != "start":
            events.append(row["name"])
            continue
        memory = tuple(demand_mib_from_gib(gib) for gib in row["memory_gb"])
        request, limit = demand_milli(row["sm_request"]), demand_milli(row["sm_limit"])
        splits = row["kind"] == "llm-inference"
        events.append(Instance(row["name"], row["kind"], request, limit, memory, gpus=row["gpus"], splittable=splits))
    return events


def most_live(events: list[Event]) -> tuple[Instance, ...]:
    """The instances alive when most are."""
    live: dict[str, Instance] = {}
    best: tuple[Instance, ...] = ()
    for event in events:
        if isinstance(event, Instance):
            live[event.name] = event
        else:
            live.pop(event, None)
        if len(live) > len(best):
            best = tuple(live.values())
    return best


def serving_mix(count: int, seed: int = 0) -> tuple[Instance, ...]:
    """75 % inference, 25 % LLM inference, none splittable: the mix on which optimizers differ most."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        if draw.random() < 0.75:
            memory, percent = draw.randint(3, 10), draw.randint(20, 40)
            limit = max(percent + 20, draw.randint(30, 60))
            found.append(Instance(f"i{i}", "inference", percent * 10, limit * 10, memory * 1024))
        else:
            memory, percent = draw.randint(20, 30), draw.randint(40, 60)
            limit = draw.randint(min(percent + 20, 80), max(80, percent + 20))
            found.append(Instance(f"i{i}", "llm-inference", percent * 10, limit * 10, memory * 1024))
    return tuple(found)


def first_fit_decreasing(instances: tuple[Instance, ...]) -> int:
    """GPUs that first fit needs for instances of one GPU each, by decreasing greatest share. Plain Python."""
    size = {each.name: max(each.request_milli / 1000, each.limit_milli / 1500, each.total_memory_mib / 40960)
            for each in instances}  # fmt: skip
    free: list[list[int]] = []
    for each in sorted(instances, key=lambda each: -size[each.name]):
        demand = (each.request_milli, each.limit_milli, each.total_memory_mib)
        for gpu in free:
            if all(room >= want for room, want in zip(gpu, demand, strict=True)):
                break
        else:
            gpu = [1000, 1500, 40960]
            free.append(gpu)
        for i, want in enumerate(demand):
            gpu[i] -= want
    return len(free)


class PlainBestFit:
    """Best fit as the published scheduler does it: one Python object per GPU, 0.6 of SM and 0.4 of memory left over.

    Gangs go to the first node with enough GPUs that have room, best fit within it; LLM instances are not split.
    """

    def __init__(self, nodes: int, gpus_per_node: int) -> None:
        self.free = [[1000, 1500, 40960, node] for node in range(nodes) for _ in range(gpus_per_node)]
        self.held = [0] * len(self.free)
        self.where: dict[str, list[tuple[int, int, int, int]]] = {}

    def _score(self, gpu: int, request: int, memory: int) -> tuple[bool, float]:
        room = self.free[gpu]
        return self.held[gpu] == 0, 0.6 * (room[0] - request) / 1000 + 0.4 * (room[2] - memory) / 40960

    def start(self, instance: Instance) -> None:
        """Place an instance."""
        request, limit, memory = instance.request_milli, instance.limit_milli, max(instance.memory_per_gpu_mib)
        fits = [
            gpu for gpu, room in enumerate(self.free) if room[0] >= request and room[1] >= limit and room[2] >= memory
        ]
        by_node: dict[int, list[int]] = {}
        for gpu in fits:
            by_node.setdefault(self.free[gpu][3], []).append(gpu)
        best = min(
            (sorted(gpus, key=lambda g: self._score(g, request, memory))[: instance.gpus]
             for gpus in by_node.values() if len(gpus) >= instance.gpus),
            key=lambda gpus: [self._score(g, request, memory) for g in gpus],
        )  # fmt: skip
        self.where[instance.name] = [(gpu, request, limit, memory) for gpu in best]
        for gpu, *demand in self.where[instance.name]:
            self.held[gpu] += 1
            for i, want in enumerate(demand):
                self.free[gpu][i] -= want

    def remove(self, name: str) -> None:
        """Take an instance away."""
        for gpu, *demand in self.where.pop(name):
            self.held[gpu] -= 1
            for i, want in enumerate(demand):
                self.free[gpu][i] += want

    @property
    def gpus_used(self) -> int:
        """Active GPUs."""
        return sum(1 for held in self.held if held)
