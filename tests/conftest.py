"""Shared fixtures: where the measured data lies, and hypothesis profiles that stay quick on two cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "dilu", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("dilu")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of measured data, from DILU_DATA or ../shared/data beside the checkout; skips where neither is."""
    candidates = [os.environ.get("DILU_DATA"), Path(__file__).resolve().parents[2] / "shared" / "data"]
    for candidate in candidates:
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    pytest.skip("no measured data: neither DILU_DATA nor ../shared/data beside the checkout is a folder")
