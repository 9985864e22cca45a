"""Part of a GPU's SMs for one stream: green contexts within a process, MPS active-thread percentage for a process.

A green context takes SMs in whole groups (8 on compute capability 9.0). What was granted is read back from the driver,
and only that counts: nobody asks for 25 % here and writes 25 % down.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WANTED = (0.06, 0.12, 0.18, 0.24, 0.36, 0.48, 0.60, 0.72, 0.85, 0.97)
"""Fractions of the SMs to ask for, besides all; multiples of 8 near them on 132 SMs."""
GROUP = 8
PIPES, LOGS, PERCENTAGE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


@dataclass(frozen=True)
class Lane:
    """A stream whose kernels run on `sms` SMs. `keeps` holds what must outlive it."""

    sms: int
    stream: Any
    keeps: tuple[Any, ...] = ()


def wanted_sms(device_sms: int, group: int = GROUP) -> list[int]:
    """SM counts to ask for, ascending, without the whole device: whole groups nearest the WANTED fractions."""
    counts = {max(group, group * round(fraction * device_sms / group)) for fraction in WANTED}
    return sorted(count for count in counts if count < device_sms)


def whole_lane(device_sms: int) -> Lane:
    """All SMs that this process sees."""
    import torch

    return Lane(device_sms, torch.cuda.Stream())


def green_lanes(counts: Sequence[int]) -> tuple[list[Lane], list[str]]:
    """One lane for each SM count that the driver grants, and what went wrong with the others.

    By cuda-bindings, which read back the count; where these are missing, by torch.cuda.green_contexts, which rounds as
    the driver does.
    """
    lanes: dict[int, Lane] = {}
    problems: list[str] = []
    for count in counts:
        for make in (_bound_lane, _torch_lane):
            try:
                lane = make(count)
            except Exception as error:
                problems.append(f"{count} SMs by {make.__name__}: {type(error).__name__}: {error}")
            else:
                lanes.setdefault(lane.sms, lane)
                break
    return [lanes[count] for count in sorted(lanes)], problems


def _bound_lane(count: int) -> Lane:
    import torch

    driver = importlib.import_module("cuda.bindings.driver")

    def call(name: str, *arguments: Any) -> Any:
        status, *values = getattr(driver, name)(*arguments)
        if int(status) != 0:
            raise RuntimeError(f"{name} returned {status}")
        return values[0] if len(values) == 1 else values

    kind = driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
    device = call("cuDeviceGet", torch.cuda.current_device())
    whole = call("cuDeviceGetDevResource", device, kind)
    parts, _, _ = call("cuDevSmResourceSplitByCount", 1, whole, 0, count)
    description = call("cuDevResourceGenerateDesc", [parts[0]], 1)
    flag = driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
    context = call("cuGreenCtxCreate", description, device, flag)
    stream = call("cuGreenCtxStreamCreate", context, driver.CUstream_flags.CU_STREAM_NON_BLOCKING, 0)
    granted = int(call("cuGreenCtxGetDevResource", context, kind).sm.smCount)
    return Lane(granted, torch.cuda.ExternalStream(int(stream)), (context, stream, parts))


def _torch_lane(count: int) -> Lane:
    import torch
    from torch.cuda.green_contexts import GreenContext

    context = GreenContext.create(num_sms=count, device_id=torch.cuda.current_device())
    return Lane(-(-count // GROUP) * GROUP, context.Stream(), (context,))


def check_shares(lanes: Sequence[Lane], *, size: int = 8192, captured: bool = False) -> list[dict[str, float]]:
    """Whether the limit bites: a bf16 matrix product on each lane, which should take device SMs / SMs times as long.

    `captured` replays it from a CUDA graph. Returns for each lane `sms`, `ms`, `slowdown` against the lane of most SMs
    and `expected`.
    """
    import torch

    from profiling_gpu.timing import CudaClock, measure

    left = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(left)
    torch.cuda.synchronize()

    def product() -> None:
        torch.matmul(left, right, out=out)

    times: list[tuple[int, float]] = []
    for lane in sorted(lanes, key=lambda lane: -lane.sms):
        run = graph_of(product, lane.stream).replay if captured else product
        timing = measure(run, CudaClock(lane.stream), target_s=0.02, warm_ups=2)
        times.append((lane.sms, timing.least_ms))
    most, quickest = times[0]
    return [{"sms": sms, "ms": ms, "slowdown": ms / quickest, "expected": most / sms} for sms, ms in times]


def bites(checks: Sequence[dict[str, float]]) -> bool:
    """Whether every lane of at most half the SMs was slowed by at least 0.7 times its due."""
    small = [row for row in checks if row["expected"] >= 2]
    return bool(small) and all(row["slowdown"] >= 0.7 * row["expected"] for row in small)


def graph_of(step: Any, stream: Any) -> Any:
    """A CUDA graph of `step` captured on `stream`: its kernels keep the SMs of the stream they were captured on."""
    import torch

    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        step()  # what is made on first use, such as the workspace of this stream
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()
    torch.cuda.synchronize()
    return graph


@contextmanager
def mps_daemon() -> Iterator[dict[str, str]]:
    """An MPS control daemon of our own for the time of the block; yields the environment of its clients.

    It has its own pipe directory, changes no setting of the GPU, and is told to quit at the end. Raises RuntimeError
    where it does not start.
    """
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        raise RuntimeError("nvidia-cuda-mps-control is not on the PATH")
    with tempfile.TemporaryDirectory(prefix="mps") as folder:
        own = {**os.environ, PIPES: folder, LOGS: folder}
        started = subprocess.run([control, "-d"], env=own, capture_output=True, text=True, timeout=20, check=False)
        if started.returncode != 0:
            raise RuntimeError(f"{control} -d: {started.stdout}{started.stderr}".strip())
        try:
            yield own
        finally:
            subprocess.run(
                [control], input="quit -t 5\n", env=own, capture_output=True, text=True, timeout=30, check=False
            )


def client_environment(own: dict[str, str], percentage: int) -> dict[str, str]:
    """What a process needs to run on `percentage` of the SMs under the daemon of `own`."""
    return {**own, PERCENTAGE: str(percentage)}
