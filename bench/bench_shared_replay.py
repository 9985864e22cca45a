"""Speed of the replays: steps a second of one core, for the policy compiled in, shared GPUs, and single requests.

    python bench/bench_shared_replay.py [ROUNDS]

Every row is measured ROUNDS times (5) and shows the least and the median, in steps (or instance-steps: one instance in
one step) per second of processor time, so that threads and neighbours on the machine do not count. The baselines of the
same run are the same queue in plain Python, and the discrete-event reference on the same load.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.kernels.cpu.gpu_division import HARD_CAPS, TIME_SLICES, WORK_CONSERVING
from dilu_core.kernels.cpu.replay import advance_queue
from dilu_core.kernels.cpu.shared_gpus import SharedInstances, advance_shared
from dilu_core.solvers.policy_replay import replay_many
from dilu_core.solvers.replay import replay
from dilu_core.solvers.replay_oracle import oracle_shared_replay
from dilu_core.solvers.shared_replay import replay_shared
from dilu_core.solvers.shared_tenants import ReplayTenant
from dilu_core.traces import ArrivalTrace

PARAMS = HorizontalParams(10.0, 300, 600, slo_ms=300.0, base_latency_ms=100.0)
HOUR = ArrivalTrace(50.0 + 30.0 * np.sin(np.arange(3600) / 300.0))
RULES = {"work-conserving": WORK_CONSERVING, "hard caps": HARD_CAPS, "time slices": TIME_SLICES}


def main() -> int:
    """Print one line per way of replaying."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{'':84s}{'least':>12s}{'median':>12s}   per core-second")
    sets = [PARAMS] * 50
    measured(
        "replay_many, an hour, 50 sets: steps", rounds, 50 * 36_000, lambda: replay_many(HOUR, sets, backend="cpu")
    )
    coarse = {"backend": "cpu", "step_s": 1.0}
    measured("  steps of a second, a decision in each", rounds, 50 * 3600, lambda: replay_many(HOUR, sets, **coarse))
    measured(
        "replay, an hour, the policy in Python: steps", rounds, 36_000, lambda: replay(HOUR, CoScaler(PARAMS), PARAMS)
    )
    measured("  its queue alone, compiled", rounds, 36_000, queue(compiled=True))
    measured("  its queue alone, plain Python (baseline)", 2, 36_000, queue(compiled=False))
    for functions, each, gpus in ((3, 8, 8), (100, 3, 100)):
        for name, sharing in RULES.items():
            label = f"engine, {functions} x {each} instances on {gpus} GPUs, {name}: instance-steps"
            steps = 300
            measured(label, rounds, functions * each * steps, engine(functions, each, gpus, steps, sharing))
    minutes = 5
    load = ArrivalTrace(15.0 + 10.0 * np.sin(np.arange(60 * minutes) / 30.0))
    instance_steps = 9 * 600 * minutes
    measured("replay_shared, 3 tenants on 8 GPUs: instance-steps", rounds, instance_steps, shared(load, replay_shared))
    measured("  single requests (baseline)", 1, instance_steps, shared(load, oracle_shared_replay))
    return 0


def measured(label: str, rounds: int, steps: int, run: Callable[[], object]) -> None:
    """Run once to compile, then `rounds` times; print steps per second of processor time."""
    run()
    speeds = []
    for _ in range(rounds):
        started = time.process_time()
        run()
        speeds.append(steps / max(time.process_time() - started, 1e-9))
    print(f"{label:84s}{min(speeds):12.3g}{statistics.median(speeds):12.3g}", flush=True)


def queue(*, compiled: bool) -> Callable[[], object]:
    """The fluid queue of `replay` with four instances throughout."""
    arrivals = HOUR.resampled(0.1).rates_rps * 0.1
    most, rates = np.full(arrivals.size, 600, dtype=np.int64), np.arange(601.0) / 30.0
    after, used = np.zeros(arrivals.size), np.zeros(arrivals.size)
    advance: Any = advance_queue if compiled else getattr(advance_queue, "py_func", advance_queue)
    return lambda: advance(arrivals, most, rates, 0.1, 4, 0, arrivals.size, 0.0, after, used)


def engine(functions: int, each: int, gpus: int, steps: int, sharing: int) -> Callable[[], object]:
    """Functions spread at random over GPUs, every fifth a training job, at loads around their limits."""
    random, count = np.random.default_rng(0), functions * each
    function_of = np.repeat(np.arange(functions), each)
    training = (np.arange(functions) % 5 == 4).astype(np.int64)
    rates = np.tile(200.0 * np.arange(1001) / (np.arange(1001) + 300.0), (functions, 1))
    arrivals = random.uniform(0.0, 8.0 * each, (functions, steps)) * (1 - training)[:, None]
    rows = SharedInstances(
        function_of,
        random.permutation(count) % gpus,
        np.full(count, 300),
        np.full(count, 600),
        training[function_of],
        np.full(count, -1),
        np.ones(count, dtype=np.int64),
    )
    execution = 1000.0 / np.maximum(rates, 1e-3)

    def run() -> None:
        out = (np.zeros(functions), np.zeros(functions), np.zeros(arrivals.shape), np.zeros(arrivals.shape))
        seen = (np.zeros(count), np.zeros(count), np.zeros(count))
        advance_shared(0, steps, 0.1, sharing, gpus, arrivals, rates, execution, training, rows, *out, *seen)

    return run


def shared(load: ArrivalTrace, replayed: Callable[..., object]) -> Callable[[], object]:
    """Three functions, their loads a third of the time apart."""

    def run() -> object:
        third = load.duration_s / 3.0
        everyone = [ReplayTenant(f"f{k}", PARAMS, load.shifted(k * third), CoScaler(PARAMS)) for k in range(3)]
        return replayed(everyone, gpus=8)

    return run


if __name__ == "__main__":
    sys.exit(main())
