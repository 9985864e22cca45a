"""The choice of back end: explicit, by environment, or refused with a reason."""

from __future__ import annotations

import pytest

from dilu_core.errors import BackendUnavailableError
from dilu_core.kernels.backend import resolve_backend


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DILU_BACKEND", raising=False)


def test_auto_and_cpu_run_on_the_cpu() -> None:
    """With CPU kernels only, "auto" and "cpu" are the same back end."""
    assert resolve_backend("auto") == resolve_backend("cpu") == "cpu"


def test_cuda_is_an_error_that_says_what_was_found() -> None:
    """Asking for "cuda" by name where it cannot run is never answered by the CPU in silence."""
    with pytest.raises(BackendUnavailableError, match=r"backend is 'cuda', but .*CPU kernels only"):
        resolve_backend("cuda")


def test_environment_decides_auto_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """DILU_BACKEND overrides "auto" and nothing else, and its errors name it."""
    monkeypatch.setenv("DILU_BACKEND", "cuda")
    assert resolve_backend("cpu") == "cpu"
    with pytest.raises(BackendUnavailableError, match="DILU_BACKEND"):
        resolve_backend("auto")
    monkeypatch.setenv("DILU_BACKEND", "tpu")
    with pytest.raises(ValueError, match="DILU_BACKEND is 'tpu'"):
        resolve_backend("auto")


def test_unknown_names_are_refused() -> None:
    """A name that is no back end is an error that lists the choices."""
    with pytest.raises(ValueError, match="backend is 'gpu'; expected one of auto, cpu, cuda"):
        resolve_backend("gpu")
