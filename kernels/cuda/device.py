"""What GPU there is: looked for once per process, without ever loading CuPy where there is no driver.

The driver is asked first, through `ctypes`: a process without one then never enters a CUDA library that would try to
start it. The answer is a value, so that a refusal can say what was found.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Any

from dilu_core.kernels.backend import BackendUnavailableError

MINIMUM_COMPUTE_CAPABILITY = (7, 0)
"""Volta: the first with independent thread scheduling, which the warp primitives with masks assume."""

_INSTALL = "pip install 'dilu_core[cuda13]' (or cuda12 for a CUDA 12 driver)"


@dataclass(frozen=True)
class Device:
    """The GPU that kernels run on. `driver` and `runtime` are CUDA versions ("13.0"), `cupy` the package's version."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory_bytes: int
    driver: str
    runtime: str
    cupy: str


@dataclass(frozen=True)
class Probe:
    """The `device` that was found (`None`: none can be used) and a clause of what was `found`."""

    device: Device | None
    found: str


_probes: dict[int, Probe] = {}


def probe() -> Probe:
    """The GPU of this process: looked for at the first call, remembered after.

    Remembered per process id, because a CUDA context does not survive a fork: a forked child looks again.
    """
    process = os.getpid()
    if process not in _probes:
        _probes[process] = _look()
    return _probes[process]


def require_device() -> Device:
    """The device of `probe`; raises `BackendUnavailableError` with what was found where there is none."""
    found = probe()
    if found.device is None:
        raise BackendUnavailableError(found.found)
    return found.device


def _look() -> Probe:
    """Driver, then devices, then CuPy: the first that is missing is what was found."""
    missing = _missing_from_driver()
    if missing:
        return Probe(None, missing)
    try:
        import cupy
    except ImportError as error:
        return Probe(None, f"a CUDA driver and device were found, but CuPy cannot be imported ({error}); {_INSTALL}.")
    try:
        device = _described(cupy)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return Probe(None, f"CuPy {cupy.__version__} cannot use the device: {error}.")
    if device.compute_capability < MINIMUM_COMPUTE_CAPABILITY:
        return Probe(None, f"{device.name} has compute capability {device.compute_capability}; 7.0 or newer is needed.")
    return Probe(device, f"{device.name}, driver CUDA {device.driver}, CuPy {device.cupy}")


def _missing_from_driver() -> str:
    """What the driver lacks, or "" where it starts and shows a device."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        return f"no NVIDIA driver was found ({error})."
    status = int(driver.cuInit(0))
    if status != 0:
        return f"the NVIDIA driver does not start (cuInit: error {status}, {_error_name(driver, status)})."
    count = ctypes.c_int(0)
    status = int(driver.cuDeviceGetCount(ctypes.byref(count)))
    if status != 0 or count.value == 0:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = "" if visible is None else f" CUDA_VISIBLE_DEVICES is {visible!r}."
        return f"the NVIDIA driver shows no device.{hint}"
    return ""


def _error_name(driver: ctypes.CDLL, status: int) -> str:
    """The driver's own name of an error, such as CUDA_ERROR_NO_DEVICE."""
    name = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(name))
    return name.value.decode() if name.value else "unknown"


def _described(cupy: Any) -> Device:
    runtime = cupy.cuda.runtime
    properties = runtime.getDeviceProperties(runtime.getDevice())
    return Device(
        name=properties["name"].decode(),
        compute_capability=(int(properties["major"]), int(properties["minor"])),
        multiprocessors=int(properties["multiProcessorCount"]),
        memory_bytes=int(properties["totalGlobalMem"]),
        driver=_version(runtime.driverGetVersion()),
        runtime=_version(runtime.runtimeGetVersion()),
        cupy=str(cupy.__version__),
    )


def _version(number: int) -> str:
    """13000 -> "13.0", as the CUDA runtime encodes its versions."""
    return f"{number // 1000}.{number % 1000 // 10}"
