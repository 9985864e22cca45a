"""The packaged example is exactly what its generator writes, and says so."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from dilu_core.workload import read_workload

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "dilu_core" / "example"


def test_the_table_is_the_generators() -> None:
    """Running the generator reproduces the packaged table byte for byte."""
    spec = importlib.util.spec_from_file_location("make_example_profiles", ROOT / "bench" / "make_example_profiles.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = generator
    spec.loader.exec_module(generator)
    assert (EXAMPLE / "profiles.csv").read_text(encoding="utf-8") == generator.table()


def test_every_place_says_it_is_generated() -> None:
    """The table, its workload and its README all say that nothing was measured."""
    for name in ("profiles.csv", "workload.toml", "README.md"):
        text = (EXAMPLE / name).read_text(encoding="utf-8").lower()
        assert "generated" in text
        assert "measured" in text


def test_the_table_is_physical() -> None:
    """Latency never falls with the batch, never rises with the share, and memory fits the GPU."""
    workload = read_workload(EXAMPLE / "workload.toml")
    prefills = [function.phases.prefill_samples for function in workload.functions if function.phases is not None]
    assert prefills
    for samples in [function.samples for function in workload.functions] + prefills:
        assert samples.memory_mib is not None
        assert samples.memory_mib.max() < 40960
        for batch in np.unique(samples.batch):
            row = samples.select(samples.batch == batch)
            assert (np.diff(row.latency_ms[np.argsort(row.sm_milli)]) <= 0).all()
        for share in np.unique(samples.sm_milli):
            column = samples.select(samples.sm_milli == share)
            assert (np.diff(column.latency_ms[np.argsort(column.batch)]) >= 0).all()
