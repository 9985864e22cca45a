"""LatencyFit as a value: the bound's shape, its calibration table, leverage, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.calibration import shipped_calibration
from dilu_core.errors import InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.performance import RooflineModel
from dilu_core.samples import ProfileSamples

MODEL = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.0)
IDENTITY = tuple(tuple(float(i == j) for j in range(6)) for i in range(6))


def build(precision: object = IDENTITY, **changes: object) -> LatencyFit:
    samples = ProfileSamples([1, 4, 16], [200, 500, 1000], MODEL.latency_ms([1, 4, 16], [200, 500, 1000]))
    fields = {"roofline": MODEL, "samples": samples, "family": "bandwidth", "precision": precision} | changes
    return LatencyFit(**fields)  # type: ignore[arg-type]


@given(st.floats(1e-6, 1 - 1e-6), st.floats(1e-6, 1 - 1e-6), st.integers(1, 256), st.integers(1, 1000))
def test_the_bound_rises_with_the_quantile(a: float, b: float, batch: int, share: int) -> None:
    """A greater probability needs a greater bound, and from one half on it is never below the mean."""
    fit = build()
    low, high = (float(fit.upper_ms(batch, share, q)) for q in sorted((a, b)))
    assert low <= high
    assert max(a, b) < 0.5 or high >= float(fit.latency_ms(batch, share))


def test_the_bound_is_wider_where_the_samples_say_less() -> None:
    """Tenfold knowledge of every parameter narrows it; its inputs broadcast."""
    vague, firm = build(), build(tuple(tuple(100.0 * value for value in row) for row in IDENTITY))
    assert (vague.leverage(8, [100, 1000]) > firm.leverage(8, [100, 1000])).all()
    assert (vague.upper_ms(8, [100, 1000]) > firm.upper_ms(8, [100, 1000])).all()
    assert vague.upper_ms([[1], [2]], [100, 200, 300]).shape == (2, 3)


def test_leverage_is_the_quadratic_form_it_states() -> None:
    """With unit covariance it is the squared gradient over the noise variance."""
    gradient = MODEL.log_gradient(8, 300)
    assert float(build().leverage(8, 300)) == pytest.approx(float((gradient**2).sum()) / 0.05**2)


def test_exact_samples_leave_the_assumed_noise_as_scatter() -> None:
    """Without residuals the scatter lies between zero and the assumed noise."""
    assert 0.0 < build().scatter <= 0.05


@pytest.mark.parametrize("quantile", [0, 1, -0.1, 1.5, float("nan"), "p95", None, True])
def test_quantiles_outside_the_open_unit_interval_are_refused(quantile: object) -> None:
    """The error names quantile."""
    with pytest.raises(InvalidArgumentError) as caught:
        build().upper_ms(1, 100, quantile)  # type: ignore[arg-type]
    assert caught.value.argument == "quantile"


@given(st.floats(1e-9, 1 - 1e-9), st.floats(1e-9, 1 - 1e-9))
def test_calibrated_levels_rise(a: float, b: float) -> None:
    """The table interpolates and extrapolates without a step back."""
    low, high = sorted((a, b))
    assert shipped_calibration().level(low) <= shipped_calibration().level(high)


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"roofline": "fast"}, "roofline"),
        ({"family": "spline"}, "family"),
        ({"deviation": 0.1}, "deviation"),
        ({"with_residual": 1}, "with_residual"),
        ({"calibration": 0.95}, "calibration"),
        ({"precision": "x"}, "precision"),
        ({"precision": [[1.0]]}, "precision"),
        ({"precision": [[float("nan")] * 6] * 6}, "precision"),
        ({"precision": [[-1.0 * (i == j) for j in range(6)] for i in range(6)]}, "precision"),
    ],
)
def test_impossible_fits_are_refused(changes: dict[str, object], argument: str) -> None:
    """The error names the field."""
    with pytest.raises(InvalidArgumentError) as caught:
        build(**changes)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "key", ["version", "roofline", "samples", "family", "precision", "with_residual", "termination"]
)
@pytest.mark.parametrize("value", ["absent", None, {}, [], "nonsense", 17])
def test_corrupt_documents_are_refused(key: str, value: object) -> None:
    """Whichever part is missing or wrong, the answer is InvalidArgumentError."""
    document = copy.deepcopy(build().to_dict())
    if value == "absent":
        del document[key]
    else:
        document[key] = value
    with pytest.raises(InvalidArgumentError):
        LatencyFit.from_dict(document)


def test_derived_arrays_are_read_only() -> None:
    """Covariance and residuals refuse writes."""
    fit = build()
    for array in (fit.covariance, fit.residuals):
        assert not array.flags.writeable
    np.testing.assert_allclose(fit.residuals, 0.0, atol=1e-12)
