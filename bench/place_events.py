"""Replay the recorded event logs through `ClusterState` and pack each log's peak with `place`: GPUs and time.

python bench/place_events.py [SECONDS]     # time limit of place(), default 10
"""

from __future__ import annotations

import statistics
import sys
import time

from placement_data import LOG_CLUSTER, LOG_SIZES, Event, data_dir_or_exit, read_events

from dilu_core.cluster import Instance
from dilu_core.placement import PlacementProblem, verify_placement
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.place import place

ASKED = {100: 82, 400: 263, 800: 500, 3200: 1326}


class Watch:
    """Checks capacities after every event, from the decisions alone, one event at a time."""

    def __init__(self) -> None:
        self.load: dict[tuple[str, int], list[int]] = {}
        self.booked: dict[str, list[tuple[tuple[str, int], tuple[int, int, int]]]] = {}
        self.violations = 0

    def started(self, instance: Instance, slots: tuple) -> None:
        """Book what a decision says."""
        split = instance.gpus == 1 and len(slots) > 1
        limit = instance.request_milli if split else instance.limit_milli
        rows = [((s.node, s.gpu), (instance.request_milli, limit, s.memory_mib)) for s in slots]
        self.booked[instance.name] = rows
        for gpu, demand in rows:
            load = self.load.setdefault(gpu, [0, 0, 0])
            for i, want in enumerate(demand):
                load[i] += want
            self.violations += load[0] > 1000 or load[1] > 1500 or load[2] > 40960

    def left(self, name: str) -> None:
        """Cross out what an instance had."""
        for gpu, demand in self.booked.pop(name):
            load = self.load[gpu]
            for i, want in enumerate(demand):
                load[i] -= want
            if not any(load):
                del self.load[gpu]


def replay(events: list[Event]) -> tuple[int, tuple[Instance, ...], int, list[float]]:
    """Peak GPUs, the instances then alive, violations, and microseconds of each event."""
    state, watch = ClusterState(LOG_CLUSTER), Watch()
    peak, live, micros = 0, (), []
    for event in events:
        started = time.perf_counter()
        if isinstance(event, Instance):
            decision = state.place(event)
        else:
            state.remove(event)
        micros.append((time.perf_counter() - started) * 1e6)
        if isinstance(event, Instance):
            watch.started(event, decision.slots)
        else:
            watch.left(event)
        assert state.gpus_used == len(watch.load)
        if state.gpus_used > peak:
            peak, live = state.gpus_used, state.instances
    return peak, live, watch.violations, micros


def main() -> None:
    """Print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    folder = data_dir_or_exit()
    replay(read_events(folder, 100))  # compiles
    print("   log  asked  online  violations  mean us  p99 us | place  bound    gap  seconds  proof")
    for size in LOG_SIZES:
        peak, live, violations, micros = replay(read_events(folder, size))
        mean, p99 = statistics.fmean(micros), statistics.quantiles(micros, n=100)[98]
        problem = PlacementProblem(LOG_CLUSTER, live)
        result = place(problem, time_limit_s=seconds)
        assert not verify_placement(problem, result.placement, require_all=True)
        print(
            f"{size:6} {ASKED[size]:6} {peak:7} {violations:11} {mean:8.1f} {p99:7.1f} | {result.gpus_used:5}"
            f" {result.lower_bound:6} {result.gap:6.1%} {result.stats.seconds:8.1f}  {result.bound_proof}",
            flush=True,
        )


if __name__ == "__main__":
    main()
