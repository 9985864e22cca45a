"""A kernel whose answer is not the CPU's is not used, and the refusal says how it differed."""

from __future__ import annotations

import importlib

import pytest

from dilu_core.kernels.backend import BackendUnavailableError
from dilu_core.kernels.cuda import selftest
from dilu_core.kernels.cuda.selftest import ensure_tested, self_test


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, no kernel tested yet, and launchers that need not exist."""
    monkeypatch.setattr(selftest, "_tests", {})
    monkeypatch.setattr(selftest, "_failures", {})
    monkeypatch.setattr(selftest, "require_device", lambda: None)
    monkeypatch.setattr(importlib, "import_module", lambda _name: None)


def test_a_kernel_is_tested_once() -> None:
    """The first use runs the test, later uses remember it."""
    runs = []
    self_test("joint")(lambda: runs.append(1))
    ensure_tested("joint")
    ensure_tested("joint")
    assert runs == [1]


def test_a_failure_is_remembered_and_told() -> None:
    """A mismatch, or any error on the device, refuses the kernel with its words, every time."""
    runs = []

    @self_test("sweep")
    def _differs() -> None:
        runs.append(1)
        raise AssertionError("value 3 instead of 4")

    for _ in range(2):
        with pytest.raises(
            BackendUnavailableError, match=r"self-test of the CUDA kernel 'sweep' failed .*3 instead of 4"
        ):
            ensure_tested("sweep")
    assert runs == [1]


def test_a_kernel_without_a_test_is_not_used() -> None:
    """A launcher that registered no test is refused."""
    with pytest.raises(BackendUnavailableError, match="'fits'"):
        ensure_tested("fits")


def test_a_launcher_that_cannot_be_imported_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that a launcher needs and does not find is what was found."""

    def missing(_name: str) -> None:
        raise ImportError("no numba-cuda")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(BackendUnavailableError, match="ImportError: no numba-cuda"):
        ensure_tested("fits")


def test_no_device_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no GPU, that is the reason, and no launcher is imported."""

    def missing() -> None:
        raise BackendUnavailableError("no NVIDIA driver was found.")

    monkeypatch.setattr(selftest, "require_device", missing)
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"imported {name}"))
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver"):
        ensure_tested("joint")
