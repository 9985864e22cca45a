"""Replay the recorded event logs with and without periodic re-planning: GPU-seconds, migrations, violations.

python bench/replan_events.py [SIZE ...]     # default: 800 3200

One integral of GPUs in use over the log's time per policy, from the first event to the last:

    published    the published best fit (no re-planning)
    online       ClusterState without re-planning
    bound        the bound of place() on what is alive, at up to 40 instants spread over the log (800 only)
    replan k/P   ClusterState, at most k migrations every P seconds of log time

A move takes as long as its memory at 1 GiB/s and a cold start of 5 s; until then the GPU it leaves counts as in use
("with moves"). Capacities are checked after every event, move and admission by code that reads only what was decided.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from itertools import pairwise
from pathlib import Path

from placement_data import LOG_CLUSTER, Event, PlainBestFit, data_dir_or_exit, read_events

from dilu_core.cluster import Instance
from dilu_core.placement import PlacementProblem
from dilu_core.solvers.placement.migration_plan import MigrationPlan
from dilu_core.solvers.placement.move_cost import MoveCost
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.place import place

COST = MoveCost(bandwidth_mib_s=1024, cold_start_s=5)
HORIZON_S = 600.0
POLICIES = ((5, 30.0), (5, 60.0), (12, 60.0))
INSTANTS = 40
HEADER = "policy            GPU-s  vs published  vs online  with moves  vs bound  moves  violations  s/plan  max s"


class Watch:
    """What every GPU holds, from decisions and plans alone; counts GPUs over capacity."""

    def __init__(self) -> None:
        self.load: dict[tuple[str, int], list[int]] = {}
        self.booked: dict[str, tuple[Instance, tuple]] = {}
        self.violations = 0

    def book(self, instance: Instance, slots: tuple, sign: int = 1) -> None:
        """Add what the slots hold, or take it away, and look at every GPU concerned."""
        split = instance.gpus == 1 and len(slots) > 1
        limit = instance.request_milli if split else instance.limit_milli
        if sum(slot.memory_mib for slot in slots) != instance.total_memory_mib or len({s.node for s in slots}) != 1:
            self.violations += 1
        for slot in slots:
            load = self.load.setdefault((slot.node, slot.gpu), [0, 0, 0, 0])
            for i, want in enumerate((instance.request_milli, limit, slot.memory_mib, 1)):
                load[i] += sign * want
            self.violations += load[0] > 1000 or load[1] > 1500 or load[2] > 40960
            if load[3] == 0:
                del self.load[slot.node, slot.gpu]

    def start(self, instance: Instance, slots: tuple) -> None:
        """An instance was placed."""
        self.booked[instance.name] = (instance, slots)
        self.book(instance, slots)

    def leave(self, name: str) -> None:
        """An instance left."""
        instance, slots = self.booked.pop(name)
        self.book(instance, slots, -1)

    def move(self, plan: MigrationPlan) -> None:
        """Each move of a plan in turn: the target is taken while the source is still held."""
        for move in plan.moves:
            instance, slots = self.booked[move.name]
            self.violations += slots != move.source
            kept = {(slot.node, slot.gpu) for slot in move.source} & {(slot.node, slot.gpu) for slot in move.target}
            if kept:  # on a GPU in both it holds the greater amount: here moves of single workers, of equal amounts
                self.leave(move.name)
                self.start(instance, move.target)
                continue
            self.book(instance, move.target)
            self.book(instance, slots, -1)
            self.booked[move.name] = (instance, move.target)


def read_times(folder: Path, size: int) -> list[float]:
    """Seconds of each event."""
    lines = (folder / "placement" / f"dilu_events_{size}.jsonl").read_text(encoding="utf-8").splitlines()
    return [datetime.datetime.fromisoformat(json.loads(line)["time"]).timestamp() for line in lines]


def published(events: list[Event], times: list[float]) -> float:
    """GPU-seconds of the published best fit."""
    fit, total = PlainBestFit(1000, 4), 0.0
    for i, event in enumerate(events):
        total += fit.gpus_used * (times[i] - times[max(i - 1, 0)])
        if isinstance(event, Instance):
            fit.start(event)
        else:
            fit.remove(event)
    return total


def replay(events: list[Event], times: list[float], most: int, period_s: float) -> dict[str, float]:
    """GPU-seconds and what it took."""
    state, watch = ClusterState(LOG_CLUSTER), Watch()
    total = moving = solving = slowest = 0.0
    migrations, now, due = 0, times[0], times[0] + period_s
    for event, at in zip(events, times, strict=True):
        while most and due <= at:
            total += state.gpus_used * (due - now)
            now, due = due, due + period_s
            started = time.perf_counter()
            plan = state.replan(max_migrations=most, time_limit_s=5, cost=COST, horizon_s=HORIZON_S)
            taken = time.perf_counter() - started
            solving, slowest = solving + taken, max(slowest, taken)
            watch.move(plan)
            state.apply(plan)
            migrations += plan.migrations
            if plan.moves:  # in parallel: until the longest is done, the GPUs freed are still held
                instances = [watch.booked[move.name][0] for move in plan.moves]
                moving += plan.gpus_freed * max(COST.seconds(each) for each in instances)
        total += state.gpus_used * (at - now)
        now = at
        if isinstance(event, Instance):
            watch.start(event, state.place(event).slots)
        else:
            state.remove(event)
            watch.leave(event)
        assert state.gpus_used == len(watch.load)
    return {"gpu_s": total, "moving": moving, "migrations": migrations, "violations": watch.violations,
            "solving": solving, "slowest": slowest}  # fmt: skip


def instant_bound(events: list[Event], times: list[float]) -> float:
    """GPU-seconds no policy can do without: the proven bound on what is alive, at some instants, summed up."""
    marks = {round(i * (len(events) - 1) / INSTANTS) for i in range(INSTANTS + 1)}
    alive: dict[str, Instance] = {}
    bounds: list[tuple[float, int]] = []
    for i, event in enumerate(events):
        if isinstance(event, Instance):
            alive[event.name] = event
        else:
            alive.pop(event)
        if i in marks:
            result = place(PlacementProblem(LOG_CLUSTER, tuple(alive.values())), time_limit_s=3)
            bounds.append((times[i], result.lower_bound))
    return sum(
        (a + b) / 2 * (t - s) for (s, a), (t, b) in pairwise(bounds)
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    sizes = [int(size) for size in sys.argv[1:]] or [800, 3200]
    folder = data_dir_or_exit()
    for size in sizes:
        events, times = read_events(folder, size), read_times(folder, size)
        span = times[-1] - times[0]
        mended = published(events, times)
        base = replay(events, times, 0, 60.0)
        bound = instant_bound(events, times) if size <= 800 else 0.0
        print(f"\nlog {size}: {len(events)} events in {span:.0f} s; {base['violations']} violations online")
        print(HEADER)
        print(f"published     {mended:9.0f}")
        print(f"online        {base['gpu_s']:9.0f} {base['gpu_s'] / mended - 1:12.2%}"
              + (f" {'':21} {base['gpu_s'] / bound - 1:9.2%}" if bound else ""))  # fmt: skip
        if bound:
            print(f"bound         {bound:9.0f} {bound / mended - 1:12.2%} {bound / base['gpu_s'] - 1:10.2%}")
        for most, period in POLICIES:
            got = replay(events, times, most, period)
            plans = max(1.0, span // period)
            near = f"{got['gpu_s'] / bound - 1:9.2%}" if bound else " " * 9
            print(
                f"replan {most}/{period:.0f}s  {got['gpu_s']:9.0f} {got['gpu_s'] / mended - 1:12.2%}"
                f" {got['gpu_s'] / base['gpu_s'] - 1:10.2%} {(got['gpu_s'] + got['moving']) / base['gpu_s'] - 1:11.2%}"
                f" {near} {got['migrations']:6.0f} {got['violations']:11.0f} {got['solving'] / plans:7.2f}"
                f" {got['slowest']:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
