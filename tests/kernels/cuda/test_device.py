"""What the probe finds where there is no driver, no device, no CuPy or an old GPU, through a fake driver and CuPy."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from dilu_core.kernels.backend import BackendUnavailableError
from dilu_core.kernels.cuda import device


class _Driver:
    """A libcuda that answers `status` to cuInit and shows `devices`."""

    def __init__(self, status: int = 0, devices: int = 1) -> None:
        self._status, self._devices = status, devices

    def cuInit(self, _flags: int) -> int:  # noqa: N802
        return self._status

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self._devices  # type: ignore[arg-type]
        return 0

    def cuGetErrorName(self, status: int, name: object) -> int:  # noqa: N802
        ctypes.cast(name, ctypes.POINTER(ctypes.c_char_p))[0] = b"CUDA_ERROR_%d" % status  # type: ignore[arg-type]
        return 0


class _CUDARuntimeError(RuntimeError):
    pass


def _cupy(major: int = 9, error: str = "") -> ModuleType:
    """A CuPy that sees one GPU of compute capability (major, 0), or fails with `error`."""

    def properties(_device: int) -> dict[str, object]:
        if error:
            raise _CUDARuntimeError(error)
        return {
            "name": b"NVIDIA H100",
            "major": major,
            "minor": 0,
            "multiProcessorCount": 132,
            "totalGlobalMem": 80 << 30,
        }

    runtime = SimpleNamespace(
        CUDARuntimeError=_CUDARuntimeError,
        getDevice=lambda: 0,
        getDeviceProperties=properties,
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 12090,
    )
    module = ModuleType("cupy")
    module.cuda = SimpleNamespace(runtime=runtime)  # type: ignore[attr-defined]
    module.__version__ = "14.2.0"  # type: ignore[attr-defined]
    return module


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_probes", {})


def _with(monkeypatch: pytest.MonkeyPatch, driver: _Driver | None, cupy: ModuleType | None = None) -> None:
    def load(name: str) -> _Driver:
        if driver is None:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(device.ctypes, "CDLL", load)
    monkeypatch.setitem(sys.modules, "cupy", cupy)  # None makes `import cupy` an ImportError


@pytest.mark.parametrize(
    ("driver", "cupy", "found"),
    [
        (None, _cupy(), r"no NVIDIA driver was found \(.*libcuda"),
        (_Driver(status=100), _cupy(), "does not start .*error 100, CUDA_ERROR_100"),
        (_Driver(devices=0), _cupy(), "shows no device"),
        (_Driver(), None, r"CuPy cannot be imported .* pip install 'dilu_core\[cuda13\]'"),
        (_Driver(), _cupy(error="driver too old"), "CuPy 14.2.0 cannot use the device: driver too old"),
        (_Driver(), _cupy(major=6), r"NVIDIA H100 has compute capability \(6, 0\); 7.0 or newer"),
    ],
)
def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, driver: _Driver | None, cupy: ModuleType | None, found: str
) -> None:
    """The first thing missing, from the driver up, is what the refusal names."""
    _with(monkeypatch, driver, cupy)
    assert device.probe().device is None
    with pytest.raises(BackendUnavailableError, match=found):
        device.require_device()


def test_no_device_visible_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU hidden by CUDA_VISIBLE_DEVICES is a usual mistake: the message shows the variable."""
    _with(monkeypatch, _Driver(devices=0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in device.probe().found


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, compute capability, multiprocessors, memory and versions come from the runtime."""
    _with(monkeypatch, _Driver(), _cupy())
    assert device.require_device() == device.Device("NVIDIA H100", (9, 0), 132, 80 << 30, "13.0", "12.9", "14.2.0")
    assert "H100" in device.probe().found


def test_the_answer_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look per process; a forked child, whose CUDA context would be broken, looks again."""
    _with(monkeypatch, None)
    first = device.probe()
    _with(monkeypatch, _Driver(), _cupy())
    assert device.probe() is first
    monkeypatch.setattr(device.os, "getpid", lambda: -1)
    assert device.probe().device is not None


def test_cupy_is_not_imported_without_a_driver() -> None:
    """The probe of a process without a driver never loads CuPy, and importing the launchers' modules neither."""
    code = (
        "import ctypes, sys\n"
        "def refuse(name, *rest, **more): raise OSError('no driver')\n"
        "ctypes.CDLL = refuse\n"
        "from dilu_core.kernels.cuda import chunks, device, modules, selftest\n"
        "print(device.probe().device, 'cupy' in sys.modules, 'numba.cuda' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "False", "False"]
