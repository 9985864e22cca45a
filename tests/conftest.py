"""Shared fixtures: where the measured data lies, and hypothesis profiles that stay quick on two cores.

Profile "dilu" draws new examples in every run; "landing" (`--hypothesis-profile=landing`) always draws the same.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "dilu", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("landing", settings.get_profile("dilu"), derandomize=True)
settings.load_profile("dilu")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs_gpu: runs on a GPU; skipped with what was found where there is none")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test marked `needs_gpu` where there is none, with what was found."""
    if item.get_closest_marker("needs_gpu") is not None:
        from dilu_core.kernels.cuda.device import probe

        if probe().device is None:
            pytest.skip(f"no GPU: {probe().found}")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.needs_gpu)])
def backend(request: pytest.FixtureRequest) -> str:
    """Each back end by name: one test body for all of them; "cuda" skips with a reason where there is no GPU."""
    return str(request.param)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of measured data, from DILU_DATA or ../shared/data beside the checkout; skips where neither is."""
    candidates = [os.environ.get("DILU_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"]
    for candidate in candidates:
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    pytest.skip("no measured data: neither DILU_DATA nor ../shared/data beside the checkout is a folder")
