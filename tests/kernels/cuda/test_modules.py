"""Sources are compiled once per device, and a source that the compiler refuses is a back end that cannot run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from dilu_core.kernels.backend import BackendUnavailableError
from dilu_core.kernels.cuda import modules


class _CompileError(Exception):
    pass


class _RawModule:
    """CuPy's, as far as it is used: remembers what it was made of, refuses sources that say so."""

    made: list[_RawModule]

    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        self.code, self.options = code, options
        self.made.append(self)

    def compile(self) -> None:
        if "refuse" in self.code:
            raise _CompileError("error: identifier is undefined")

    def get_function(self, name: str) -> str:
        return f"kernel {name}"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A machine with a GPU, CuPy and a folder of sources; `.current` is the current device's index."""
    state = SimpleNamespace(folder=tmp_path, current=0, made=[])
    _RawModule.made = state.made
    cupy = ModuleType("cupy")
    cupy.RawModule = _RawModule  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=SimpleNamespace(getDevice=lambda: state.current),
        compiler=SimpleNamespace(CompileException=_CompileError),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(modules, "FOLDER", tmp_path)
    monkeypatch.setattr(modules, "_modules", {})
    monkeypatch.setattr(modules, "require_device", lambda: None)
    (tmp_path / "good.cu").write_text("good")
    (tmp_path / "bad.cu").write_text("refuse")
    return state


def test_a_source_is_compiled_once_per_device(gpu: SimpleNamespace) -> None:
    """The second call is the first one's module; another device compiles its own."""
    first = modules.module("good")
    assert first.function("search") == "kernel search"
    assert first.compile_s >= 0
    assert modules.module("good") is first
    gpu.current = 1
    assert modules.module("good") is not first
    assert [each.code for each in gpu.made] == ["good", "good"]


def test_rounding_is_the_cpus(gpu: SimpleNamespace) -> None:
    """No kernel is compiled with fused multiply-add, which numba's CPU code does not use either."""
    modules.module("good")
    assert {"--fmad=false", "--std=c++17", "-lineinfo"} <= set(gpu.made[0].options)


def test_a_changed_header_is_compiled_again(gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy keeps compiled code by the text of the source and the options: a header's text is in the options."""
    (gpu.folder / "shared.cuh").write_text("one")
    modules.module("good")
    monkeypatch.setattr(modules, "_modules", {})
    (gpu.folder / "shared.cuh").write_text("two")
    modules.module("good")
    assert gpu.made[0].options != gpu.made[1].options


def test_a_refused_source_is_a_back_end_that_cannot_run(gpu: SimpleNamespace) -> None:
    """The error names the source and holds the compiler's words."""
    with pytest.raises(BackendUnavailableError, match=r"bad\.cu does not compile here: error: identifier"):
        modules.module("bad")


def test_no_gpu_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a device the refusal is the probe's."""

    def missing() -> None:
        raise BackendUnavailableError("no NVIDIA driver was found.")

    monkeypatch.setattr(modules, "require_device", missing)
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver"):
        modules.module("no such source")
