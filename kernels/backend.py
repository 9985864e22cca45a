"""Choice of back end: "auto", "cpu" or "cuda", resolved once per public call and recorded in its stats.

A kernel with a CUDA path is named after its module in `kernels/cuda`; `CUDA_PATHS` says from how much work on that path
was measured to win. Nothing here touches a driver until a kernel is asked for on the GPU.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Backend = Literal["auto", "cpu", "cuda"]

BACKENDS = ("auto", "cpu", "cuda")


class BackendUnavailableError(RuntimeError):
    """A back end was asked for by name and cannot run here; the message says what was found."""


class DeviceMemoryError(BackendUnavailableError):
    """The smallest piece of the work does not fit the GPU's free memory; the message says how many bytes it needs."""


@dataclass(frozen=True)
class CudaPath:
    """From `threshold` units of work ("auto" counts in `unit`) the CUDA path wins; infinite where not yet measured."""

    unit: str
    threshold: float = math.inf


@dataclass(frozen=True)
class RunRecord:
    """What a kernel ran on: returned by its launcher beside the arrays, copied into `SolveStats` by the solver.

    `device` is the GPU's name ("" on the CPU), `chunks` the pieces the work was cut into to fit the device's memory,
    `compile_s` the seconds this process spent on compiling the kernel (0 where it was compiled before).
    """

    backend: Literal["cpu", "cuda"] = "cpu"
    device: str = ""
    chunks: int = 1
    compile_s: float = 0.0


CUDA_PATHS: Mapping[str, CudaPath] = MappingProxyType(
    {
        "joint": CudaPath("configurations (problems x functions x configurations each)", 2_600_000),
        "sweep": CudaPath("grid points (functions x batches x shares x limits x scenarios)", 1e9),
        "what_if": CudaPath("triples (functions x GPUs x configurations)", 4e8),
        "fits": CudaPath("samples (functions x samples each)", 1_200_000),
        "replays": CudaPath("steps (parameter sets x traces x steps each)", 3.6e8),
    }
)
"""Sizes at which an H100, copies included, was measured to beat 16 cores by 5 to 32 times (bench/results).

Below them it often wins too, but the first call of a process also compiles: a second in CuPy, some 15 in numba-cuda.
"""


def resolve_backend(backend: str, kernel: str = "", work: float = 0.0) -> Literal["cpu", "cuda"]:
    """The back end that will run `kernel` (a name in `CUDA_PATHS`, "" where it has CPU kernels only) on `work` units.

    `"auto"` takes CUDA where `work` reaches the kernel's threshold, a GPU is found, and the kernel's self-test agrees
    with the CPU. The environment variable DILU_BACKEND, where set, stands in for `"auto"`; its `"cuda"` is for a whole
    program, so kernels without a CUDA path still run on the CPU. Raises `ValueError` for an unknown name and
    `BackendUnavailableError`, saying what was found, where `"cuda"` cannot run.
    """
    by_environment = backend == "auto" and bool(os.environ.get("DILU_BACKEND"))
    asked_by = "DILU_BACKEND" if by_environment else "backend"
    asked = os.environ["DILU_BACKEND"] if by_environment else backend
    if asked not in BACKENDS:
        raise ValueError(f"{asked_by} is {asked!r}; expected one of {', '.join(BACKENDS)}.")
    path = CUDA_PATHS.get(kernel)
    if asked == "cuda":
        if path is not None:
            _refuse_unless_ready(kernel, asked_by)
            return "cuda"
        if not by_environment:
            raise BackendUnavailableError(
                "backend is 'cuda', but this call has CPU kernels only; use 'auto' or 'cpu'. "
                f"CUDA paths: {', '.join(CUDA_PATHS)}."
            )
        return "cpu"
    if asked == "auto" and path is not None and work >= path.threshold and _is_ready(kernel):
        return "cuda"
    return "cpu"


def _refuse_unless_ready(kernel: str, asked_by: str) -> None:
    """Probe, compile and test `kernel`; raises `BackendUnavailableError` naming who asked and what was found."""
    from dilu_core.kernels.cuda.selftest import ensure_tested

    try:
        ensure_tested(kernel)
    except BackendUnavailableError as error:
        raise type(error)(f"{asked_by} is 'cuda', but {error}") from error


def _is_ready(kernel: str) -> bool:
    """Whether `kernel` can run on a GPU here: found, compiled, and in agreement with the CPU."""
    try:
        _refuse_unless_ready(kernel, "backend")
    except BackendUnavailableError:
        return False
    return True
