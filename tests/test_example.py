"""The packaged example is measured, says where, and behaves as measurements of a GPU do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dilu_core import read_profiles
from dilu_core.workload import read_workload

EXAMPLE = Path(__file__).resolve().parents[1] / "dilu_core" / "example"
SMS, GROUP, MEMORY_MIB = 132, 8, 81920  # an H100's SMs, and those that a green context takes at once


def test_every_place_says_that_it_is_measured() -> None:
    """The table, its workload and its README all say so, and the README names device and driver."""
    for name in ("profiles.csv", "workload.toml", "README.md"):
        text = (EXAMPLE / name).read_text(encoding="utf-8").lower()
        assert "measured" in text
        assert "generated" not in text
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    for fact in ("H100", "driver", "torch", "sm_milli"):
        assert fact in readme


def test_shares_are_those_that_were_granted() -> None:
    """Every share is a whole group of SMs, or all of them, in thousandths."""
    granted = {round(1000 * count / SMS) for count in (*range(GROUP, SMS, GROUP), SMS)}
    for samples in read_profiles(EXAMPLE / "profiles.csv").values():
        assert set(samples.sm_milli.tolist()) <= granted
        assert samples.dropped == 0


def test_the_table_is_physical() -> None:
    """Latency falls with the share and rises with the batch, but for noise, and memory fits the GPU."""
    broken, pairs = 0, 0
    for samples in read_profiles(EXAMPLE / "profiles.csv").values():
        assert samples.memory_mib is not None
        assert np.nanmax(samples.memory_mib) < MEMORY_MIB
        for batch in np.unique(samples.batch):
            row = samples.select(samples.batch == batch)
            steps = np.diff(np.log(row.latency_ms[np.argsort(row.sm_milli)]))
            broken, pairs = broken + int((steps > np.log(1.05)).sum()), pairs + steps.size
        for share in np.unique(samples.sm_milli):
            column = samples.select(samples.sm_milli == share)
            steps = np.diff(np.log(column.latency_ms[np.argsort(column.batch)]))
            broken, pairs = broken + int((steps < -np.log(1.05)).sum()), pairs + steps.size
    assert broken <= 0.1 * pairs


def test_every_function_of_the_workload_has_its_rows() -> None:
    """The workload reads, and its GPU type is the measured one."""
    workload = read_workload(EXAMPLE / "workload.toml")
    types = {node.gpu_type.name for node in workload.cluster.nodes}
    assert {samples.gpu_type for samples in read_profiles(EXAMPLE / "profiles.csv").values()} == types
    assert {function.kind for function in workload.functions} == {"inference", "llm-inference", "training"}
