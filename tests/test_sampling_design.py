"""Which cells to measure: first near the corners, then where a posterior computed anew is least certain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dilu_core.errors import InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.latency_residual import AMPLITUDE, BATCH_LENGTH, SHARE_LENGTH
from dilu_core.performance import RooflineModel
from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples
from dilu_core.sampling_design import first_cells
from dilu_core.solvers.fitting import fit_latency

TRUE = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.5)
GRID = QuotaGrid((1, 2, 4, 8, 16, 32), (100, 200, 400, 700, 1000))
Cells = list[tuple[int, int]]


def cells_of(grid: QuotaGrid) -> Cells:
    return [(batch, share) for batch in grid.batches for share in grid.sm_milli]


def fit_of(cells: Cells, seed: int = 0) -> LatencyFit:
    batch, share = np.array(cells).T
    noise = np.random.default_rng(seed).normal(0, 0.03, len(cells))
    return fit_latency(ProfileSamples(batch, share, TRUE.latency_ms(batch, share) * np.exp(noise)))


designs = st.tuples(st.integers(0, 10**6), st.integers(1, 14)).map(
    lambda drawn: fit_of(
        [cells_of(GRID)[i] for i in np.random.default_rng(drawn[0]).integers(0, 30, drawn[1])], drawn[0]
    )
)


def posterior_variance(fit: LatencyFit, cells: Cells, chosen: Cells) -> NDArray[np.float64]:
    """Variance of log latency at `cells` once the measured cells and `chosen` are known, by one inverse of all of it:
    a linear model of the fit's covariance plus a smooth process, which the samples have told of already."""
    seen = [(int(batch), int(share)) for batch, share in fit.samples.cells()]
    every = np.array(seen + chosen + cells, dtype=np.float64)
    places = np.log(every) / (BATCH_LENGTH, SHARE_LENGTH)
    smooth = (AMPLITUDE * fit.scatter) ** 2 * np.exp(-0.5 * ((places[:, None] - places[None]) ** 2).sum(axis=2))
    known = slice(0, len(seen))
    rest = slice(len(seen), None)
    noise = fit.scatter**2
    among = smooth[known, known] + noise * np.eye(len(seen))
    after = smooth[rest, rest] - smooth[rest, known] @ np.linalg.inv(among) @ smooth[known, rest]
    gradient = fit.roofline.log_gradient(every[rest, 0], every[rest, 1])
    after = after + gradient @ fit.covariance @ gradient.T
    first, last = slice(0, len(chosen)), slice(len(chosen), None)
    told = after[last, first] @ np.linalg.inv(after[first, first] + noise * np.eye(len(chosen))) @ after[first, last]
    return np.asarray(np.diag(after[last, last] - told))


@settings(max_examples=30)
@given(designs)
def test_each_cell_is_the_least_certain_given_those_before_it(fit: LatencyFit) -> None:
    """By brute force over the grid: the first is the argmax of the posterior variance, the second that once the first
    is known, and so on."""
    found = fit.measure_next(GRID, count=5)
    measured = {(int(batch), int(share)) for batch, share in fit.samples.cells()}
    for position, cell in enumerate(found):
        fresh = [each for each in cells_of(GRID) if each not in measured and each not in found[:position]]
        variance = posterior_variance(fit, fresh, list(found[:position]))
        assert variance[fresh.index(cell)] >= variance.max() * (1 - 1e-6)


@given(designs, st.integers(0, 40))
def test_cells_are_fresh_distinct_and_of_the_grid(fit: LatencyFit, count: int) -> None:
    """Never a measured cell, never one twice, never one off the grid; as many as asked for, or all that are left; the
    same answer again."""
    found = fit.measure_next(GRID, count=count)
    measured = {(int(batch), int(share)) for batch, share in fit.samples.cells()}
    assert len(found) == len(set(found)) == min(count, 30 - len(measured))
    assert set(found) <= set(cells_of(GRID)) - measured
    assert all(type(number) is int for cell in found for number in cell)
    assert fit.measure_next(GRID, count=count) == found
    assert fit.measure_next(GRID, count=count // 2) == found[: count // 2]


def test_an_order_of_rows_changes_nothing() -> None:
    """A permutation of the samples asks for the same cells."""
    fit = fit_of([(1, 1000), (32, 100), (4, 400), (8, 700), (2, 100), (16, 400), (32, 1000)])
    shuffled = fit_latency(fit.samples.select([3, 0, 6, 1, 5, 2, 4]))
    assert shuffled.measure_next(GRID, count=6) == fit.measure_next(GRID, count=6)


@pytest.mark.parametrize("start", [[(4, 400)], [(1, 1000), (1, 100)], [(1, 1000), (32, 100), (4, 400), (8, 700)]])
def test_what_was_asked_for_makes_the_surface_more_certain(start: Cells) -> None:
    """Measuring 3 asked cells and fitting again lowers the mean leverage over the grid, further than 3 cells beside
    those measured do."""
    batch, share = np.array(cells_of(GRID)).T
    before = fit_of(start)
    asked = fit_of(start + list(before.measure_next(GRID, count=3)))
    beside = fit_of(start + [(b, min(s + 10 * k, 1000)) for k, (b, s) in enumerate((start * 3)[:3], 1)])
    assert asked.leverage(batch, share).mean() < 0.5 * before.leverage(batch, share).mean()
    assert asked.leverage(batch, share).mean() < beside.leverage(batch, share).mean()


def test_without_a_grid_powers_of_two_and_tenths_are_asked() -> None:
    """Up to the greatest measured batch, which a grid given may exceed."""
    fit = fit_of([(1, 1000), (24, 100)])
    found = fit.measure_next(count=1000)
    assert {batch for batch, _ in found} == {1, 2, 4, 8, 16, 24}
    assert {share for _, share in found} == set(range(100, 1001, 100))
    assert fit_of([(1, 1000)]).measure_next(count=100)[-1][0] <= 4
    assert fit.measure_next(QuotaGrid((512,), (50,))) == ((512, 50),)
    assert fit.measure_next(QuotaGrid((24,), (100,)), count=3) == ()
    assert fit.measure_next(count=0) == ()


def test_a_fine_grid_is_no_matter_of_memory() -> None:
    """13,000 cells; their covariance matrix would take more than a gigabyte."""
    grid = QuotaGrid.regular(4096, 1)
    found = fit_of([(1, 1000), (32, 100), (4, 400)]).measure_next(grid, count=4)
    assert len(set(found)) == 4


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"grid": "coarse"}, "grid"),
        ({"grid": (1, 2)}, "grid"),
        ({"count": -1}, "count"),
        ({"count": 1.5}, "count"),
        ({"count": None}, "count"),
        ({"count": True}, "count"),
    ],
)
def test_what_cannot_be_asked_is_named(arguments: dict[str, object], name: str) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidArgumentError) as caught:
        fit_of([(4, 400)]).measure_next(**arguments)  # type: ignore[arg-type]
    assert caught.value.argument == name


@pytest.mark.parametrize(
    ("cells", "identified"),
    [
        ([(4, 400)], False),
        ([(1, 100), (1, 500), (1, 1000), (2, 100), (2, 1000)], False),
        ([(1, 500), (4, 500), (16, 500), (2, 500), (8, 500)], False),
        ([(1, 100), (4, 500), (16, 1000), (1, 100), (1, 100)], False),
        ([(1, 100), (4, 500), (16, 1000), (1, 1000), (16, 100)], True),
        (cells_of(GRID), True),
    ],
)
def test_diagnostics_name_the_cells_where_the_model_is_not_identified(cells: Cells, identified: bool) -> None:
    """And only there: the same three that `measure_next` names."""
    fit = fit_of(cells)
    assert fit.identified is identified
    told = [sentence for sentence in fit.diagnostics() if "Most would be learnt from" in sentence]
    assert len(told) == (not identified)
    for batch, share in fit.measure_next(count=3):
        assert all(f"batch {batch} at share {share}" in sentence for sentence in told)


grids = st.tuples(
    st.sets(st.integers(1, 4096), min_size=1, max_size=8), st.sets(st.integers(1, 1000), min_size=1, max_size=12)
).map(lambda axes: QuotaGrid(tuple(sorted(axes[0])), tuple(sorted(axes[1]))))


@given(grids, st.integers(1, 4))
def test_first_cells_are_distinct_cells_of_any_grid(grid: QuotaGrid, count: int) -> None:
    """As many as asked for where the grid has that many corners; the longer answer begins with the shorter."""
    found = first_cells(grid, count)
    corners = min(len(grid.batches), 2) * min(len(grid.sm_milli), 2)
    assert len(found) == len(set(found)) == min(count, len(set(first_cells(grid))))
    assert len(found) <= corners
    assert set(found) <= set(cells_of(grid))
    assert found == first_cells(grid)[:count]


def test_first_cells_stand_in_from_the_corners_and_differ_most_first() -> None:
    """The small batch at much share, then the great batch at little; a grid of one line or one cell has fewer."""
    assert first_cells(QuotaGrid((1, 32), (100, 1000))) == ((1, 1000), (32, 100), (1, 100), (32, 1000))
    assert first_cells(GRID) == ((2, 700), (16, 100), (2, 100), (16, 700))
    fine = first_cells(QuotaGrid.regular(1024, 1))
    assert fine == ((2, 501), (512, 2), (2, 2), (512, 501))
    assert first_cells(QuotaGrid((7,), (300,))) == ((7, 300),)
    assert first_cells(QuotaGrid((7,), (300, 900))) == ((7, 900), (7, 300))
    assert first_cells(QuotaGrid((7, 70), (300,))) == ((7, 300), (70, 300))


def test_the_profile_begun_by_first_cells_is_identified_after_five() -> None:
    """Four first cells and the next one over a plain grid pin the model down."""
    start = list(first_cells(GRID))
    assert fit_of(start + list(fit_of(start).measure_next(GRID))).identified


@pytest.mark.parametrize(
    ("grid", "count", "name"),
    [("coarse", 4, "grid"), (None, 4, "grid"), (GRID, 0, "count"), (GRID, 5, "count"), (GRID, 2.5, "count")],
)
def test_first_cells_name_what_they_refuse(grid: object, count: object, name: str) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidArgumentError) as caught:
        first_cells(grid, count)  # type: ignore[arg-type]
    assert caught.value.argument == name
