"""Time of one decision for each of 10,000 functions: the batch, and beside it the same policies one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation
from dilu_core.solvers.batch_coscaling import BatchCoScaler

FUNCTIONS, SECONDS = 10_000, 60


def params(predict: str) -> list[HorizontalParams]:
    """Functions of seven sizes."""
    return [
        HorizontalParams(10.0 + i % 7, 300, 600, slo_ms=200.0, base_latency_ms=50.0, predict=predict)
        for i in range(FUNCTIONS)
    ]


def loads() -> list[Any]:
    """A minute of sines, each function at its own phase."""
    return [30.0 + 20.0 * np.sin(second / 9.0 + np.arange(FUNCTIONS)) for second in range(SECONDS)]


@pytest.mark.benchmark(group="horizontal: 10,000 functions, one decision each (of a minute of them)")
@pytest.mark.parametrize("in_place", [False, True], ids=["state kept", "state used up"])
@pytest.mark.parametrize("predict", ["off", "season", "both"])
def test_batch(benchmark: Any, predict: str, in_place: bool) -> None:
    """Every round is one call, a second later than the last; in one of ten a forecast is made for everybody."""
    batch, told = BatchCoScaler(params(predict)), loads()
    memory = {"state": batch.initial_state(), "second": 0}
    ready = np.full(FUNCTIONS, 3.0)

    def one_call() -> None:
        second = memory["second"]
        load = told[second % SECONDS]
        found, memory["state"] = batch.decide(
            memory["state"], float(second), load, ready, 0.0, 0.05 * load, 100.0, in_place=in_place
        )
        memory["second"] = second + 1
        assert found.instances.size == FUNCTIONS

    benchmark.pedantic(one_call, rounds=200, warmup_rounds=5)


@pytest.mark.benchmark(group="horizontal: 10,000 functions, one decision each (of a minute of them)")
def test_one_by_one(benchmark: Any) -> None:
    """The baseline: `CoScaler` for one in ten of the functions."""
    scalers = [CoScaler(each) for each in params("both")[::10]]
    states = [scaler.initial_state() for scaler in scalers]
    seen = [Observation(1.0, float(load), 3, 0, 0.05 * float(load), 100.0) for load in loads()[0][::10]]

    def one_round() -> None:
        for scaler, state, observation in zip(scalers, states, seen, strict=True):
            scaler.decide(state, observation)

    benchmark.pedantic(one_round, rounds=5)
