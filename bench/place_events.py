"""Replay the recorded event logs event by event, ours beside plain rules; pack each log's peak with `place`.

python bench/place_events.py [SECONDS]     # time limit of place(), default 10; 0 leaves the peaks out

The cluster has 4,000 GPUs. GPU-seconds are GPUs in use, integrated over the log's time. After every event the GPUs that
it touched are checked by code that reads decisions alone. Times are of the second replay, with everything compiled;
beside ours stand those of each event's least time in five replays, which leave out most of what else the machine does.
"""

from __future__ import annotations

import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from event_peers import WEIGHTS, Packer
from placement_data import LOG_CLUSTER, LOG_SIZES, Event, data_dir_or_exit, read_events

from dilu_core.cluster import Instance
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.place import place

NODES, PER_NODE = 1000, 4
CAPS = (1000, 1500, 40960)
ASKED = {100: 82, 400: 263, 800: 500, 3200: 1326}
MICROSECONDS = 1e6
REPLAYS = 5


class Watch:
    """What every GPU holds, from decisions alone; counts broken rules."""

    def __init__(self) -> None:
        self.load: dict[int, list[int]] = {}
        self.booked: dict[str, list[tuple[int, tuple[int, int, int]]]] = {}
        self.violations = 0

    def started(self, instance: Instance, rows: list[tuple[int, int]]) -> None:
        """Book what a decision says: GPU and memory of every part."""
        split = instance.gpus == 1 and len(rows) > 1
        limit = instance.request_milli if split else instance.limit_milli
        memory = sorted(part for _, part in rows)
        self.violations += len({row // PER_NODE for row, _ in rows}) != 1
        self.violations += len({row for row, _ in rows}) != len(rows)
        if split:
            whole = instance.splittable and min(memory) > 0 and sum(memory) == instance.total_memory_mib
            self.violations += not whole
        else:
            self.violations += memory != sorted(instance.memory_per_gpu_mib)
        self.booked[instance.name] = [(row, (instance.request_milli, limit, part)) for row, part in rows]
        for row, demand in self.booked[instance.name]:
            load = self.load.setdefault(row, [0, 0, 0])
            for i, want in enumerate(demand):
                load[i] += want
            self.violations += any(held > cap for held, cap in zip(load, CAPS, strict=True))

    def left(self, name: str) -> None:
        """Cross out what an instance had."""
        for row, demand in self.booked.pop(name):
            load = self.load[row]
            for i, want in enumerate(demand):
                load[i] -= want
            if not any(load):
                del self.load[row]


class Replayed(NamedTuple):
    """What a replay came to: peak of GPUs and who was there then, GPU-seconds, splits, microseconds of each event."""

    peak: int
    at_peak: tuple[Instance, ...]
    gpu_s: float
    splits: int
    violations: int
    micros: list[float]


def quantiles(micros: Iterable[float]) -> str:
    """Median and 99th percentile of times."""
    cuts = statistics.quantiles(micros, n=100)
    return f"{cuts[49]:8.1f} {cuts[98]:8.1f}"


Place = Callable[[Instance], list[tuple[int, int]]]
Remove = Callable[[str], object]


def replay(events: list[Event], times: list[float], start: Callable[[Instance], object], remove: Remove,
           rows_of: Callable[[object], list[tuple[int, int]]]) -> Replayed:  # fmt: skip
    """Run the events; `rows_of` reads GPUs and memory from what `start` answered, outside the time taken."""
    watch, alive = Watch(), dict[str, Instance]()
    peak, at_peak, gpu_s, splits = 0, tuple[Instance, ...](), 0.0, 0
    micros, now = [], times[0]
    for event, at in zip(events, times, strict=True):
        gpu_s += len(watch.load) * (at - now)
        now = at
        if isinstance(event, Instance):
            started = time.perf_counter()
            decision = start(event)
            micros.append((time.perf_counter() - started) * MICROSECONDS)
            rows = rows_of(decision)
            splits += event.gpus == 1 and len(rows) > 1
            watch.started(event, rows)
            alive[event.name] = event
        else:
            started = time.perf_counter()
            remove(event)
            micros.append((time.perf_counter() - started) * MICROSECONDS)
            watch.left(event)
            del alive[event]
        if len(watch.load) > peak:
            peak, at_peak = len(watch.load), tuple(alive.values())
    return Replayed(peak, at_peak, gpu_s, splits, watch.violations, micros)


def ours(events: list[Event], times: list[float]) -> Replayed:
    """`ClusterState`, counting its own GPUs beside the watch."""
    state = ClusterState(LOG_CLUSTER)
    first = {node.name: PER_NODE * i for i, node in enumerate(LOG_CLUSTER.nodes)}
    found = replay(
        events, times, state.place, state.remove,
        lambda decision: [(first[slot.node] + slot.gpu, slot.memory_mib) for slot in decision.slots],  # type: ignore[attr-defined]
    )  # fmt: skip
    assert state.gpus_used == len({slot for slots in state.placement().values() for slot in slots_of(slots)})
    return found


def slots_of(slots: Iterable[object]) -> Iterable[tuple[str, int]]:
    """GPUs of slots."""
    return ((slot.node, slot.gpu) for slot in slots)  # type: ignore[attr-defined]


def peer(rule: str, events: list[Event], times: list[float]) -> Replayed:
    """A plain rule."""
    packer = Packer(rule, NODES, PER_NODE)
    return replay(events, times, packer.place, packer.remove, lambda rows: rows)  # type: ignore[arg-type, return-value]


def read_times(folder: Path, size: int) -> list[float]:
    """Seconds of each event."""
    lines = (folder / "placement" / f"dilu_events_{size}.jsonl").read_text(encoding="utf-8").splitlines()
    return [datetime.datetime.fromisoformat(json.loads(line)["time"]).timestamp() for line in lines]


def show(name: str, found: Replayed, reference: float) -> None:
    """A row of the table."""
    print(
        f"  {name:18} {found.peak:5} {found.gpu_s:12,.0f} {found.gpu_s / reference - 1:+9.2%} {found.splits:7}"
        f" {found.violations:11} {quantiles(found.micros)}",
        flush=True,
    )


def main() -> None:
    """Print the tables."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    folder = data_dir_or_exit()
    ours(read_events(folder, 100), read_times(folder, 100))  # compiles
    for size in LOG_SIZES:
        events, times = read_events(folder, size), read_times(folder, size)
        ours(events, times)
        peers = {rule: peer(rule, events, times) for rule in WEIGHTS}
        reference = peers["published, mended"].gpu_s
        found = ours(events, times)
        print(f"log {size}: {len(events)} events; peak asked for {ASKED[size]}")
        print("  rule                peak        GPU-s  vs mended  splits  violations   p50 us   p99 us")
        show("ours", found, reference)
        least = map(min, zip(*(ours(events, times).micros for _ in range(REPLAYS)), strict=True))
        print(f"  ours, least time of {REPLAYS} replays {quantiles(least):>62}", flush=True)
        for rule, result in peers.items():
            show(rule, result, reference)
        if seconds > 0:
            problem = PlacementProblem(LOG_CLUSTER, found.at_peak)
            result = place(problem, time_limit_s=seconds)
            assert not verify_placement(problem, result.placement, require_all=True)
            print(
                f"  peak by place(): {result.gpus_used} GPUs, bound {result.lower_bound} ({result.bound_proof}), gap"
                f" {result.gap:.1%}, {result.stats.seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
