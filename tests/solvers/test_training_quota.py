"""search_training_quota: the least shares that reach the fractions asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.performance import RooflineModel
from dilu_core.quota import QuotaGrid
from dilu_core.result import TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_training
from dilu_core.solvers.training_quota import search_training_quota
from dilu_core.training_model import TrainingModel

trainings = st.builds(
    lambda logs, batch: TrainingModel(RooflineModel(*np.exp(logs).tolist()), batch),
    st.tuples(
        st.floats(-1, 3), st.floats(-4, 1), st.floats(-2, 3), st.floats(-2, 2), st.floats(-4, 1), st.floats(0, 2)
    ),
    st.integers(1, 256),
)


@given(trainings, st.sets(st.integers(1, 1000), min_size=1, max_size=12), st.floats(0.01, 1.0))
def test_request_and_limit_are_the_least_shares_that_suffice(
    model: TrainingModel, shares: set[int], fraction: float
) -> None:
    """By a walk over the shares, from the definition."""
    grid = QuotaGrid((1,), tuple(shares))
    result = search_training_quota(model, fraction=fraction, grid=grid)
    full = float(model.throughput_sps(1000))

    def least(part: float) -> int | None:
        return min((s for s in shares if float(model.throughput_sps(s)) * (1 + 1e-9) >= part * full), default=None)

    request = least(fraction)
    assert result.evaluated + result.pruned == len(grid)
    if request is None:
        assert result.best is None
        assert result.termination.reason is TerminationReason.INFEASIBLE
        return
    assert result.best is not None
    assert result.best.request_milli == request
    assert result.best.limit_milli == max(request, least(0.98) or 1000)
    assert result.best.batch == model.batch
    assert result.best.throughput_rps == pytest.approx(float(model.throughput_sps(request)))
    assert result.pareto[0] == result.best
    throughputs = [config.throughput_rps for config in result.pareto]
    assert throughputs == sorted(set(throughputs))


def test_half_the_work_that_scales() -> None:
    """Pure compute needs 80 % of the GPU for 80 % of the throughput, launch-bound training almost nothing."""
    compute = search_training_quota(TrainingModel(RooflineModel(0, 0, 0, 1.0), 8)).best
    launch = search_training_quota(TrainingModel(RooflineModel(50.0, 0, 0, 1e-6), 8)).best
    assert compute is not None
    assert (compute.request_milli, compute.limit_milli) == (800, 980)
    assert launch is not None
    assert launch.request_milli == launch.limit_milli == 10


def test_fits_choose_from_the_least_measured_share_on() -> None:
    """Without a grid a fit is not asked about shares below any it has seen."""
    samples = ProfileSamples([16] * 3, [300, 600, 1000], [50.0, 50.0, 50.0])
    best = search_training_quota(fit_training(samples)).best
    assert best is not None
    assert best.request_milli == 300


def test_a_grid_too_small_is_infeasible_with_the_reason() -> None:
    """A quarter of a GPU cannot give 80 % of a compute-bound job."""
    result = search_training_quota(TrainingModel(RooflineModel(0, 0, 0, 1.0), 8), grid=QuotaGrid((1,), (100, 250)))
    assert result.best is None
    assert "share 250, the grid's greatest, gives 25.0% of full throughput, not 80.0%" in result.termination.detail


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"fit": 3}, "fit"),
        ({"fraction": 0}, "fraction"),
        ({"fraction": 1.2}, "fraction"),
        ({"limit_fraction": float("nan")}, "limit_fraction"),
        ({"grid": [1]}, "grid"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], argument: str) -> None:
    """The error names the argument."""
    arguments = {"fit": TrainingModel(RooflineModel(1.0, 0, 0, 1.0), 8)} | changes
    with pytest.raises(InvalidArgumentError) as caught:
        search_training_quota(arguments.pop("fit"), **arguments)  # type: ignore[arg-type]
    assert caught.value.argument == argument
