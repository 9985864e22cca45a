"""The same load on real Ray Serve, scaled by Serve's default policy and by ours, one after the other in one run.

    PYTHONPATH=. python bench/ray_serve.py      # nine minutes; needs `pip install '.[ray]'`, no GPU

Every application has the same replicas - one request at a time, 200 ms each, 3 s to start beside Ray's own - and gets
the same requests at the same moments: a step and a burst, of a pattern ten times faster than a working day's. Compared:
Serve's defaults as documented (upscale after 30 s, downscale after 600 s, look-back 30 s), the same with every time
divided by ten as the load is, and `CoScaler` through `dilu_core.adapters.ray_serve`: window and cool-down are those of
its defaults divided by ten, and the start of a replica is measured first; and the same, holding a peak for as long as
Serve's shortened defaults hold on to replicas. Each runs alone, because replicas that start take a core for seconds.

Printed for each: replica-seconds (starting ones included) and their part of the fixed peak, requests above the SLO (not
answered in time counts as late), 95th percentile of latency, replicas started, changes of direction, and the seconds
from the step until as many replicas run as it needs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import math
import os
import random
import statistics
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from dilu_core import HorizontalParams
from dilu_core.adapters.ray_serve import ReplicaMetrics, autoscaling_config

SERVICE_S = 0.2
LOADING_S = 3.0
SLO_MS = 1000.0
MOST = 4
PATTERN = ((15.0, 2.0), (40.0, 10.0), (35.0, 2.0), (6.0, 16.0), (25.0, 2.0))
"""(seconds, requests per second), one after the other."""
STEP_S = PATTERN[0][0]
STEP_NEEDS = math.ceil(PATTERN[1][1] * SERVICE_S / 0.8)
DRAIN_S = 10.0
PARAMS = HorizontalParams(
    capacity_rps=0.8 / SERVICE_S,  # at this load a queue of one server stays short
    request_milli=500,
    limit_milli=500,  # a sleeping replica has no share to burst into
    slo_ms=SLO_MS,
    base_latency_ms=1000.0 * SERVICE_S,
    max_instances=MOST,
    clear_s=2.0,
    window_s=18,
    scale_in_cooldown_s=3.0,
)
OURS = {"dilu_core": PARAMS, "dilu_core, holding a minute": replace(PARAMS, window_s=60)}
BOUNDS = {"min_replicas": 1, "max_replicas": MOST}
SYSTEMS: dict[str, dict[str, Any]] = {
    "Serve default": BOUNDS,
    "Serve default, times / 10": {
        **BOUNDS,
        "upscale_delay_s": 3.0,
        "downscale_delay_s": 60.0,
        "metrics_interval_s": 1.0,
        "look_back_period_s": 3.0,
    },
}


def arrivals(seed: int) -> list[float]:
    """Moments of a Poisson process with the rates of `PATTERN`, in s."""
    draw, moments, begin = random.Random(seed), [], 0.0
    for seconds, rate_rps in PATTERN:
        moment = begin + draw.expovariate(rate_rps)
        while moment < begin + seconds:
            moments.append(moment)
            moment += draw.expovariate(rate_rps)
        begin += seconds
    return moments


def application(config: dict[str, Any]) -> Any:
    """Replicas that take 200 ms a request, one at a time."""
    from ray import serve

    class Model:
        def __init__(self) -> None:
            self.metrics = ReplicaMetrics()
            self.server = asyncio.Lock()
            time.sleep(LOADING_S)

        async def __call__(self) -> None:
            with self.metrics.request():
                async with self.server:
                    await asyncio.sleep(SERVICE_S)

        def record_autoscaling_stats(self) -> dict[str, float]:
            return self.metrics.stats()

    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.01}, "graceful_shutdown_wait_loop_s": 0.1}
    return serve.deployment(Model, name="Model", autoscaling_config=config, **options).bind()


async def offered(handle: Any, moments: list[float], begin: float) -> list[float]:
    """Latency in ms of the request at every moment; infinite where no answer came in time to be counted."""

    async def request(moment: float) -> float:
        await asyncio.sleep(begin + moment - time.monotonic())
        await handle.remote()
        return 1000.0 * (time.monotonic() - begin - moment)

    tasks = [asyncio.ensure_future(request(moment)) for moment in moments]
    await asyncio.wait(tasks, timeout=begin + duration_s() + DRAIN_S - time.monotonic())
    answered = [task.result() if task.done() and task.exception() is None else math.inf for task in tasks]
    for task in tasks:
        task.cancel()
    return answered


async def counted(names: list[str], begin: float) -> dict[str, list[tuple[float, int, int]]]:
    """Of every application (moment in s, replicas starting, replicas running), about twice a second."""
    from ray import serve

    seen: dict[str, list[tuple[float, int, int]]] = {name: [] for name in names}
    while time.monotonic() < begin + duration_s():
        status = await asyncio.to_thread(serve.status)
        for name in names:
            states = status.applications[name].deployments["Model"].replica_states
            seen[name].append((time.monotonic() - begin, states.get("STARTING", 0), states.get("RUNNING", 0)))
        await asyncio.sleep(0.5)
    return seen


def duration_s() -> float:
    return sum(seconds for seconds, _ in PATTERN)


def summary(latencies: list[float], seen: list[tuple[float, int, int]]) -> str:
    """One line of the table."""
    planned = [starting + running for _, starting, running in seen]
    stamps = [moment for moment, _, _ in seen] + [duration_s()]
    replica_s = sum(count * (after - at) for count, at, after in zip(planned, stamps[:-1], stamps[1:], strict=True))
    steps = [after - before for before, after in itertools.pairwise(planned) if after != before]
    turns = sum(first * second < 0 for first, second in itertools.pairwise(steps))
    ready = next(
        (moment - STEP_S for moment, _, running in seen if moment >= STEP_S and running >= STEP_NEEDS), math.inf
    )
    late = sum(latency > SLO_MS for latency in latencies) / len(latencies)
    p95 = (
        statistics.quantiles(latencies, n=20, method="inclusive")[-1]
        if all(map(math.isfinite, latencies))
        else math.inf
    )
    started = sum(max(0, step) for step in steps)
    fixed = replica_s / (MOST * duration_s())
    return f"{replica_s:9.0f} {fixed:9.2f} {100 * late:7.1f} {p95:8.0f} {started:8d} {turns:6d} {ready:8.1f}"


async def measured(name: str, handle: Any, moments: list[float]) -> str:
    """The line of one application."""
    begin = time.monotonic() + 1.0
    watching = asyncio.ensure_future(counted([name], begin))
    latencies = await offered(handle, moments, begin)
    return summary(latencies, (await watching)[name])


def started(name: str, config: dict[str, Any]) -> tuple[Any, float]:
    """The handle of a new application, and how long it took to serve, in s."""
    from ray import serve

    begin = time.monotonic()
    handle = serve.run(application(config), name=name, route_prefix=None)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # after Serve has set it: a queue is no news here
    return handle, time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    root = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_SERVE_LOG_TO_STDERR": "0"}
    warnings.simplefilter("ignore", DeprecationWarning)  # Serve's own, for metrics_interval_s
    import ray
    from ray import serve

    # as many processes may start at once as there are cores in Ray's eyes
    ray.init(num_cpus=2 * MOST, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        for _ in range(2):  # the first one waits for Serve itself
            _, start_s = started("warm-up", BOUNDS)
            serve.delete("warm-up")
        moments = arrivals(seed)
        pattern = ", ".join(f"{seconds:g} s at {rate:g}" for seconds, rate in PATTERN)
        print(f"Ray {ray.__version__}; {len(moments)} requests (per second: {pattern}), SLO {SLO_MS:g} ms, seed {seed}")
        load, cores = os.getloadavg()[0], os.cpu_count()
        print(f"{cores} cores, {load:.1f} processes waiting or running; a replica serves after {start_s:.1f} s")
        print(f"{'':28s} replica-s  of fixed  late %   p95 ms  started  turns  ready s")
        ours = {
            name: autoscaling_config(replace(params, cold_start_s=start_s), remember=False)
            for name, params in OURS.items()
        }
        for name, config in (SYSTEMS | ours).items():
            handle, _ = started(name, config)
            print(f"{name:28s} {asyncio.run(measured(name, handle, moments))}", flush=True)
            serve.delete(name)
        print(
            f"of fixed: part of {MOST} replicas all the time; ready s: from the step to {STEP_NEEDS} running replicas"
        )
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
