"""The choice of back end: explicit, by environment, by measured work, or refused with what was found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dilu_core.errors import BackendUnavailableError, InvalidArgumentError
from dilu_core.kernels import backend as choice
from dilu_core.kernels.backend import CUDA_PATHS, CudaPath, resolve_backend
from dilu_core.kernels.cuda import selftest
from dilu_core.solvers.backends import resolved


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DILU_BACKEND", raising=False)


def _machine(monkeypatch: pytest.MonkeyPatch, found: str) -> list[str]:
    """A machine that refuses every kernel with `found` (runs them where it is ""); the kernels asked for so far."""
    asked: list[str] = []

    def ensure_tested(kernel: str) -> None:
        asked.append(kernel)
        if found:
            raise BackendUnavailableError(found)

    monkeypatch.setattr(selftest, "ensure_tested", ensure_tested)
    return asked


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel with a CUDA path that wins from 1000 units of work on."""
    monkeypatch.setattr(choice, "CUDA_PATHS", {**CUDA_PATHS, "joint": CudaPath("problems", 1000.0)})
    return "joint"


def test_kernels_without_a_cuda_path_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" and "cpu" are the same back end where there is nothing to choose, and no GPU is looked for."""
    asked = _machine(monkeypatch, "")
    assert resolve_backend("auto") == resolve_backend("cpu") == resolve_backend("auto", "placing", 1e30) == "cpu"
    assert asked == []


def test_auto_takes_cuda_only_where_it_was_measured_to_win(monkeypatch: pytest.MonkeyPatch, measured: str) -> None:
    """Below the threshold the CPU runs and no GPU is looked for; from it on CUDA does."""
    asked = _machine(monkeypatch, "")
    assert resolve_backend("auto", measured, 999) == "cpu"
    assert asked == []
    assert resolve_backend("auto", measured, 1000) == "cuda"
    assert asked == [measured]


def test_an_unmeasured_kernel_is_never_taken_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinite threshold means "not measured": only "cuda" by name takes it."""
    _machine(monkeypatch, "")
    monkeypatch.setattr(choice, "CUDA_PATHS", {"joint": CudaPath("problems")})
    assert resolve_backend("auto", "joint", 1e30) == "cpu"
    assert resolve_backend("cuda", "joint") == "cuda"


def test_auto_falls_back_where_no_gpu_can_run(monkeypatch: pytest.MonkeyPatch, measured: str) -> None:
    """No driver, or a failed self-test: "auto" runs on the CPU."""
    _machine(monkeypatch, "no NVIDIA driver was found.")
    assert resolve_backend("auto", measured, 1e9) == "cpu"


def test_cuda_is_an_error_that_says_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for "cuda" by name where it cannot run is never answered by the CPU in silence."""
    _machine(monkeypatch, "no NVIDIA driver was found.")
    with pytest.raises(BackendUnavailableError, match=r"^backend is 'cuda', but no NVIDIA driver was found\.$"):
        resolve_backend("cuda", "joint")
    with pytest.raises(BackendUnavailableError, match=r"backend is 'cuda', but .*CPU kernels only.*joint"):
        resolve_backend("cuda")


def test_environment_decides_auto_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """DILU_BACKEND overrides "auto" and nothing else, and its errors name it."""
    _machine(monkeypatch, "no device.")
    monkeypatch.setenv("DILU_BACKEND", "cuda")
    assert resolve_backend("cpu", "joint") == "cpu"
    with pytest.raises(BackendUnavailableError, match=r"DILU_BACKEND is 'cuda', but no device\."):
        resolve_backend("auto", "joint")
    monkeypatch.setenv("DILU_BACKEND", "tpu")
    with pytest.raises(ValueError, match="DILU_BACKEND is 'tpu'"):
        resolve_backend("auto")


def test_a_solver_says_whose_choice_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, or the environment that stands in for it."""
    with pytest.raises(InvalidArgumentError, match=r"^backend is 'gpu'; expected one of auto, cpu, cuda\.$"):
        resolved("gpu", "joint")
    monkeypatch.setenv("DILU_BACKEND", "tpu")
    with pytest.raises(InvalidArgumentError, match=r"^backend is 'auto', and DILU_BACKEND is 'tpu'; expected one of"):
        resolved("auto")


def test_environment_forces_either_side(monkeypatch: pytest.MonkeyPatch, measured: str) -> None:
    """DILU_BACKEND=cpu keeps large work off the GPU; =cuda puts small work on it, where there is a CUDA path."""
    _machine(monkeypatch, "")
    monkeypatch.setenv("DILU_BACKEND", "cpu")
    assert resolve_backend("auto", measured, 1e9) == "cpu"
    monkeypatch.setenv("DILU_BACKEND", "cuda")
    assert resolve_backend("auto", measured, 1) == "cuda"
    assert resolve_backend("auto") == "cpu"


@pytest.mark.parametrize("call", [lambda: resolve_backend("gpu"), lambda: resolve_backend("gpu", "joint")])
def test_unknown_names_are_refused(call: Callable[[], str]) -> None:
    """A name that is no back end is an error that lists the choices."""
    with pytest.raises(ValueError, match="backend is 'gpu'; expected one of auto, cpu, cuda"):
        call()


def test_every_threshold_says_what_it_counts() -> None:
    """The table names units, and thresholds are positive."""
    assert all(path.unit and path.threshold > 0 for path in CUDA_PATHS.values())
