"""Performance models: the array twins of the scalar formulas, their slopes, refusals and round trips."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.kernels import formulas
from dilu_core.performance import LatencyModel, MemoryModel, RooflineModel
from dilu_core.training_model import TrainingModel

times = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))
models = (
    st.tuples(times, times, times, times, times, st.floats(0.3, 30.0))
    .filter(lambda values: any(values[:5]))
    .map(lambda values: RooflineModel(*values))
)
points = st.lists(st.tuples(st.integers(1, 4096), st.integers(1, 1000)), min_size=1, max_size=20)


@given(models, points)
def test_arrays_agree_with_the_scalar_formula(model: RooflineModel, cells: list[tuple[int, int]]) -> None:
    """latency_ms and log_gradient give at every point what formulas.roofline_* give."""
    batch, share = np.array(cells).T
    latency, gradient = model.latency_ms(batch, share), model.log_gradient(batch, share)
    for i, (b, s) in enumerate(cells):
        scalar = formulas.roofline_log_gradient(*model.parameters, b, s / 1000)
        assert latency[i] == pytest.approx(formulas.roofline_ms(*model.parameters, b, s / 1000), rel=1e-12)
        assert math.log(latency[i]) == pytest.approx(scalar[0], abs=1e-9)
        assert gradient[i] == pytest.approx(scalar[1:], abs=1e-9)


@given(models, st.integers(1, 4096), st.integers(1, 1000), st.integers(1, 4096), st.integers(1, 1000))
def test_latency_is_monotone_with_bounded_slopes(model: RooflineModel, b: int, s: int, more: int, less: int) -> None:
    """More batch or less share never helps, and never costs more than in proportion."""
    base = float(model.latency_ms(b, s))
    bigger = float(model.latency_ms(b + more, s))
    assert base * (1 - 1e-9) <= bigger <= base * (b + more) / b * (1 + 1e-9)
    smaller = min(s, less)
    tighter = float(model.latency_ms(b, smaller))
    assert base * (1 - 1e-9) <= tighter <= base * s / smaller * (1 + 1e-9)


def test_inputs_broadcast_to_their_common_shape() -> None:
    """Scalars give a scalar, columns against rows a grid."""
    model = RooflineModel(5.0, 0.1, 1.0, 2.0)
    assert model.latency_ms(1, 100).shape == ()
    assert model.latency_ms([[1], [2]], [100, 200, 300]).shape == (2, 3)
    assert model.log_gradient([[1], [2]], [100, 200, 300]).shape == (2, 3, 6)
    assert isinstance(model, LatencyModel)


@pytest.mark.parametrize(
    ("batch", "share", "argument"),
    [
        (0, 100, "batch"),
        (-1, 100, "batch"),
        (float("nan"), 100, "batch"),
        ("many", 100, "batch"),
        (1, 0, "sm_milli"),
        (1, 1001, "sm_milli"),
        (1, float("nan"), "sm_milli"),
        ([1, 2, 3], [100, 200], "sm_milli"),
    ],
)
def test_points_off_the_map_are_refused(batch: object, share: object, argument: str) -> None:
    """The error names the argument at fault."""
    with pytest.raises(InvalidArgumentError) as caught:
        RooflineModel(5.0, 0.1, 1.0, 2.0).latency_ms(batch, share)  # type: ignore[arg-type]
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("values", "argument"),
    [
        ((-1.0, 0, 0, 0), "launch_ms"),
        ((1.0, float("nan"), 0, 0), "host_ms"),
        ((1.0, 0, float("inf"), 0), "fixed_ms"),
        ((1.0, 0, 0, "x"), "compute_ms"),
        ((1.0, 0, 0, 0, -2.0), "bandwidth_ms"),
        ((1.0, 0, 0, 0, 0, 0.0), "sharpness"),
        ((0, 0, 0, 0), "launch_ms"),
    ],
)
def test_impossible_parameters_are_refused(values: tuple[object, ...], argument: str) -> None:
    """Negative, infinite or all-zero times and a sharpness of zero name themselves."""
    with pytest.raises(InvalidArgumentError) as caught:
        RooflineModel(*values)  # type: ignore[arg-type]
    assert caught.value.argument == argument


@given(models, st.integers(1, 512))
def test_models_survive_json_and_pickle(model: RooflineModel, batch: int) -> None:
    """A round trip is the identity."""
    training = TrainingModel(model, batch)
    memory = MemoryModel(model.launch_ms, model.host_ms)
    assert RooflineModel.from_dict(json.loads(json.dumps(model.to_dict()))) == model
    assert TrainingModel.from_dict(json.loads(json.dumps(training.to_dict()))) == training
    assert MemoryModel.from_dict(json.loads(json.dumps(memory.to_dict()))) == memory
    assert pickle.loads(pickle.dumps((model, training, memory))) == (model, training, memory)


@pytest.mark.parametrize("kind", [RooflineModel, TrainingModel, MemoryModel])
@pytest.mark.parametrize("broken", [None, {}, {"version": 1}, {"version": 1, "form": "spline"}, {"version": 2}])
def test_corrupt_documents_name_what_is_wrong(kind: type, broken: object) -> None:
    """Missing keys and foreign versions are InvalidArgumentError, nothing else."""
    with pytest.raises(InvalidArgumentError):
        kind.from_dict(broken)


@given(models, st.integers(1, 512), st.integers(1, 999))
def test_training_throughput_never_falls_with_share(model: RooflineModel, batch: int, share: int) -> None:
    """Samples a second are batch over step time, and more share does not slow training."""
    training = TrainingModel(model, batch)
    assert float(training.throughput_sps(share)) == pytest.approx(1000 * batch / float(training.step_ms(share)))
    assert float(training.throughput_sps(share + 1)) >= float(training.throughput_sps(share)) * (1 - 1e-9)


def test_memory_rounds_up_and_is_never_zero() -> None:
    """Demands round up, float noise does not."""
    assert MemoryModel(1000.0, 10.2).memory_mib(1) == 1011
    assert MemoryModel(0.59 * 1000, 0.0).memory_mib(7) == 590
    assert MemoryModel(0.0, 0.0).memory_mib(1) == 1
    with pytest.raises(InvalidArgumentError, match="batch"):
        MemoryModel(1.0).memory_mib(0)
    with pytest.raises(InvalidArgumentError, match="base_mib"):
        MemoryModel(-1.0)
    with pytest.raises(InvalidArgumentError, match="step"):
        TrainingModel("model", 1)  # type: ignore[arg-type]
