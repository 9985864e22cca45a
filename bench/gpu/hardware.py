"""The machine that figures were taken on, and what its GPU could do at most."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from case import Operation
from timing import on_device

# Results per clock and multiprocessor, by compute capability: CUDA C++ Programming Guide, "Throughput of native
# arithmetic instructions" (additions, multiplications and fused multiply-adds count one each).
RESULTS_PER_CLOCK: dict[tuple[int, int], dict[Operation, int]] = {
    (7, 0): {"fp32": 64, "fp64": 32, "int32": 64},
    (7, 5): {"fp32": 64, "fp64": 2, "int32": 64},
    (8, 0): {"fp32": 64, "fp64": 32, "int32": 64},
    (8, 6): {"fp32": 128, "fp64": 2, "int32": 64},
    (8, 9): {"fp32": 128, "fp64": 2, "int32": 64},
    (9, 0): {"fp32": 128, "fp64": 64, "int32": 64},
    (10, 0): {"fp32": 128, "fp64": 64, "int32": 64},
}

_CLOCK_KHZ, _MEMORY_CLOCK_KHZ, _BUS_BITS = (
    13,
    36,
    37,
)  # cudaDeviceAttr: ClockRate, MemoryClockRate, GlobalMemoryBusWidth
_COPIED_BYTES = 1 << 29


@dataclass(frozen=True)
class Limits:
    """What the GPU can do at most: operations per second by type (empty for an unknown GPU), and bytes per second: by
    its data sheet (clock x bus width), and as a plain copy on the device reaches."""

    operations_per_s: dict[str, float]
    bytes_per_s: float
    copied_bytes_per_s: float

    def seconds(self, operation: Operation, operations: float, bytes_moved: float) -> float | None:
        """The least time that so much work takes on this GPU: its arithmetic and its memory traffic side by side."""
        peak = self.operations_per_s.get(operation)
        if peak is None:
            return None
        return max(operations / peak, bytes_moved / self.bytes_per_s)


def limits() -> Limits:
    """The limits of the current device."""
    import cupy

    runtime = cupy.cuda.runtime
    index = runtime.getDevice()
    properties = runtime.getDeviceProperties(index)
    attribute = runtime.deviceGetAttribute
    clock_hz = 1e3 * attribute(_CLOCK_KHZ, index) * properties["multiProcessorCount"]
    per_clock = RESULTS_PER_CLOCK.get((properties["major"], properties["minor"]), {})
    source = cupy.zeros(_COPIED_BYTES, cupy.uint8)
    target = cupy.empty_like(source)
    copied = on_device(lambda: cupy.copyto(target, source), most=10)
    return Limits(
        operations_per_s={name: count * clock_hz for name, count in per_clock.items()},
        bytes_per_s=2e3 * attribute(_MEMORY_CLOCK_KHZ, index) * attribute(_BUS_BITS, index) / 8,
        copied_bytes_per_s=2 * _COPIED_BYTES / copied.min_s,
    )


def machine() -> dict[str, Any]:
    """Processor, cores and the versions that matter, as a JSON-able value."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("numpy", "numba", "numba-cuda", "cupy-cuda13x", "cupy-cuda12x")},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
