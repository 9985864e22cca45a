"""The workloads of the cluster replay's bench: reproducible, within the bounds they state, and replayed end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dilu_core.solvers.cluster_quotas import whole_gpu
from dilu_core.solvers.cluster_replay import replay_cluster
from dilu_core.solvers.cluster_systems import DILU, OURS
from tests.bench_modules import bench_module


@pytest.fixture(scope="module")
def bench() -> Any:
    """The module in bench/, which is no package."""
    return bench_module("cluster_workloads")


@pytest.fixture
def example(bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The setting where no measured data is at hand."""
    monkeypatch.setenv("DILU_DATA", str(tmp_path))
    return bench.setting()


def test_a_workload_keeps_its_word(bench: Any, example: Any) -> None:
    """Kinds, memory, gangs, stays and loads are those the mix and the module state; the same seed gives the same."""
    mix = bench.Mix(60, 200.0, (1, 2), (0.1, 1.5))
    made, again = (bench.workload(example, mix, 3) for _ in range(2))
    assert [each.name for each in made] == [each.name for each in again]
    assert {each.kind for each in made} == set(bench.KINDS)
    for one, other in zip(made, again, strict=True):
        least, most = bench.MEMORY_GIB[one.kind]
        assert least * 1024 <= one.memory_mib <= most * 1024
        assert one.arrives_s <= 100.0
        assert one.leaves_s is not None
        assert one.arrives_s + 200.0 / 3.0 <= one.leaves_s <= 200.0
        if one.kind == "training":
            assert one.gpus in (1, 2)
            continue
        assert one.trace is not None
        assert one.trace == other.trace
        full_rps = whole_gpu(one)[0].throughput_rps
        peak_rps = one.trace.peak_rps(5.0)
        assert peak_rps <= 2.0 * 1.5 * full_rps + 5.0 * np.sqrt(3.0 * full_rps)
    assert [each.name for each in bench.workload(example, mix, 4)] != [each.name for each in made]


def test_a_workload_runs_end_to_end(bench: Any, example: Any) -> None:
    """On the packaged example: everything finds a quota, training trains, most requests are in time."""
    functions = bench.workload(example, bench.Mix(8, 60.0, (1, 2), (0.03, 0.3)), 1)
    for system in (DILU, OURS):
        result = replay_cluster(functions, example.cluster(4), system, duration_s=60.0)
        assert result.unconfigured == ()
        assert result.violation_rate < 0.2
        assert 0.0 < result.gpus_mean <= 16.0
        assert result.training_speed > 0.5 or not any(each.kind == "training" for each in functions)
