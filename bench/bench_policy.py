"""Time of one decision: co-scaling beside the lazy rule and Knative's, and the vertical policy by instances per GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation, Policy
from dilu_core.coscaling.vertical import KINDS, GpuInstance, GpuObservation, VerticalScaler

sys.path.insert(0, str(Path(__file__).parent))
from scaling_baselines import KnativeRps

STEPS = 1000


def params(rule: str = "co-scaling") -> HorizontalParams:
    return HorizontalParams(10.0, 300, 600, slo_ms=200.0, base_latency_ms=50.0, rule=rule)


@pytest.mark.benchmark(group="horizontal: 1000 decisions")
@pytest.mark.parametrize(
    "policy",
    [CoScaler(params()), CoScaler(params("lazy")), KnativeRps(params())],
    ids=["co-scaling", "lazy (published rule)", "knative-rps"],
)
def test_decisions(benchmark: Any, policy: Policy[Any]) -> None:
    """A thousand seconds of a sawtooth load at a fleet that follows."""
    seen = [Observation(float(i), 20.0 + i % 60, 2 + (i % 60) // 20, 0, 3.0, 100.0) for i in range(STEPS)]

    def run() -> None:
        state = policy.initial_state()
        for observation in seen:
            _, state = policy.decide(state, observation)

    benchmark(run)


@pytest.mark.benchmark(group="vertical: one period of one GPU")
@pytest.mark.parametrize("instances", [2, 10, 100])
@pytest.mark.parametrize("contended", [False, True], ids=["calm", "contended"])
def test_vertical_period(benchmark: Any, instances: int, contended: bool) -> None:
    """All instances active, each wanting a different share; the baseline of this group is its smallest GPU."""
    request = max(1, 600 // instances)
    seen = GpuObservation(
        tuple(
            GpuInstance(f"i{i}", KINDS[i % 3], request, min(1000, 3 * request), request + i, 10.0 + i % 7)
            for i in range(instances)
        )
    )
    scaler = VerticalScaler()
    _, state = scaler.decide(scaler.initial_state(), seen)
    if contended:
        seen = GpuObservation(
            tuple(
                GpuInstance(one.name, one.kind, one.request_milli, one.limit_milli, None, 30.0)
                for one in seen.instances
            )
        )
    benchmark(scaler.decide, state, seen)
