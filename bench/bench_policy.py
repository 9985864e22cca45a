"""Time of one decision: co-scaling beside the lazy rule and Knative's, the vertical policy compiled beside plain."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation, Policy
from dilu_core.coscaling.tokens import TokenState, token_counts
from dilu_core.coscaling.vertical import KINDS, GpuInstance, GpuObservation, VerticalScaler, VerticalState
from dilu_core.solvers.batch_vertical import BatchVerticalScaler, SharedGpus

sys.path.insert(0, str(Path(__file__).parent))
from scaling_baselines import KnativeRps

Integers = NDArray[np.int64]

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


def shared_gpu(instances: int, contended: bool) -> GpuObservation:
    """All active, each wanting another share, cycles as they were; or all wanting their limit, with cycles tripled."""
    request = max(1, 600 // instances)
    return GpuObservation(
        tuple(
            GpuInstance(
                f"i{i}",
                KINDS[i % 3],
                request,
                min(1000, 3 * request),
                None if contended else float(request + i % (2 * request)),
                30.0 if contended else 10.0,
            )
            for i in range(instances)
        )
    )


class Plain:
    """A number of equal GPUs, decided one by one: the reference in plain Python."""

    def __init__(self, gpus: int, instances: int, contended: bool, headroom: bool) -> None:
        self.scaler, self.headroom = VerticalScaler(), headroom
        _, state = self.scaler.decide(self.scaler.initial_state(), shared_gpu(instances, False))
        self.states = [state] * gpus
        self.seen = shared_gpu(instances, contended)

    def period(self) -> list[int]:
        shares: list[int] = []
        for state in self.states:
            grants, _ = self.scaler.decide(state, self.seen)
            shares.extend(grants.values())
            if self.headroom:
                grants.headroom  # noqa: B018
        return shares


class Compiled:
    """The same GPUs in one call; headroom is always part of it."""

    def __init__(self, gpus: int, instances: int, contended: bool) -> None:
        self.scaler = BatchVerticalScaler()
        rows = shared_gpu(instances, contended).instances * gpus
        self.shared = SharedGpus(
            np.repeat(np.arange(gpus), instances),
            [one.kind for one in rows],
            [one.request_milli for one in rows],
            [one.limit_milli for one in rows],
        )
        calm = np.full(len(rows), 10.0)
        _, self.state = self.scaler.decide(self.scaler.initial_state(), self.shared, None, calm)
        self.demand = np.array([one.demand_milli for one in rows], float)
        self.cycle = np.array([one.cycle_ms for one in rows], float)

    def period(self) -> Integers:
        grants, _ = self.scaler.decide(self.state, self.shared, self.demand, self.cycle)
        return grants.milli


WAYS = ["plain", "plain, with headroom", "compiled"]


def ways(way: str, gpus: int, instances: int, contended: bool) -> Plain | Compiled:
    if way == "compiled":
        return Compiled(gpus, instances, contended)
    return Plain(gpus, instances, contended, headroom="headroom" in way)


@pytest.mark.parametrize("instances", [10, 100])
@pytest.mark.parametrize("contended", [False, True], ids=["calm", "contended"])
@pytest.mark.parametrize("way", WAYS)
def test_vertical_period(benchmark: Any, instances: int, contended: bool, way: str) -> None:
    """One GPU; the grants of all ways are equal."""
    benchmark.group = f"vertical: a period of one GPU, {instances} instances"
    found = benchmark(ways(way, 1, instances, contended).period)
    assert list(found) == Plain(1, instances, contended, False).period()


@pytest.mark.parametrize("contended", [False, True], ids=["calm", "contended"])
@pytest.mark.parametrize("way", WAYS)
def test_vertical_period_of_a_cluster(benchmark: Any, contended: bool, way: str) -> None:
    """A thousand GPUs of ten instances: a node agent needs one of them, a replay of a cluster all."""
    benchmark.group = "vertical: a period of 1,000 GPUs, 10 instances each"
    everyone = ways(way, 1000, 10, contended)
    found = benchmark.pedantic(everyone.period, rounds=5 if way != "compiled" else 100, warmup_rounds=1)
    benchmark.extra_info["us per GPU"] = round(benchmark.stats["min"] * 1e3, 2)
    assert list(found) == Plain(1, 10, contended, False).period() * 1000


@pytest.mark.benchmark(group="vertical: emission for one GPU, 100 instances")
def test_tokens(benchmark: Any) -> None:
    """Grants to whole tokens, remainders carried."""
    grants, _ = VerticalScaler().decide(VerticalState(), shared_gpu(100, True))
    benchmark(token_counts, grants, TokenState(), period_ms=5.0, tokens_per_ms=333.3)
