"""The machine that a table was measured on, in words and versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from typing import Any

_TYPES = {
    "H100 80GB HBM3": "H100-SXM5-80GB",
    "H200": "H200-SXM-141GB",
    "A100-SXM4-40GB": "A100-SXM4-40GB",
    "A100-SXM4-80GB": "A100-SXM4-80GB",
}
_CLOCKS = "clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active"


def gpu_type(device: str) -> str:
    """The name in `dilu_core.GPU_PEAKS` for a device as CUDA names it, or that name without NVIDIA and spaces."""
    for ending, name in _TYPES.items():
        if device.endswith(ending):
            return name
    return device.removeprefix("NVIDIA ").replace(" ", "-")


def description() -> dict[str, Any]:
    """Device, SMs, memory, driver and versions; what cannot be found out is left out or says why."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": properties.name,
        "sms": properties.multi_processor_count,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_mib": properties.total_memory // 2**20,
        "driver": _smi("driver_version"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "clocks_before": clocks(),
    }
    for package in ("torch", "torchvision", "transformers", "cuda-bindings"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def clocks() -> str:
    """What nvidia-smi reads of clocks, power, temperature and reasons to throttle."""
    return _smi(_CLOCKS)


def _smi(query: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    return (done.stdout or done.stderr).strip().splitlines()[0] if (done.stdout or done.stderr).strip() else "unknown"
