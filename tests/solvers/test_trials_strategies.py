"""Known answers of the published strategies, and what the monotone bounds and the evidence say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.performance import RooflineModel
from dilu_core.quota import QuotaGrid
from dilu_core.result import TerminationReason
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.trials.bounds import dominated_ms, largest_violation, monotone_bounds
from dilu_core.solvers.trials.evidence import gather
from dilu_core.solvers.trials.search import TrialSearch
from dilu_core.solvers.trials.surrogate import ROUGHNESS, Surrogate
from dilu_core.trials import Trial, TrialRecord, TrialSettings

GRID = QuotaGrid((1, 2, 4, 8), tuple(range(100, 1001, 100)))
TENTHS = tuple(range(50, 1001, 50))


def path_of(search: TrialSearch, latency: dict[tuple[int, int], float] | RooflineModel) -> list[tuple[int, int]]:
    """The trials in order."""
    path: list[tuple[int, int]] = []
    while (trial := search.ask()) is not None:
        assert len(path) < 500
        path.append((trial.batch, trial.sm_milli))
        measured = (
            float(latency.latency_ms(trial.batch, trial.sm_milli))
            if isinstance(latency, RooflineModel)
            else latency[trial.batch, trial.sm_milli]
        )
        search.tell(trial, measured)
    return path


def scalable(grid: QuotaGrid, floor: float = 0.0) -> dict[tuple[int, int], float]:
    """2 ms of a whole GPU per sample, over a floor that no share shortens."""
    return {(b, s): floor + 2.0 * b * 1000 / s for b in grid.batches for s in grid.sm_milli}


def test_growth_walks_as_published() -> None:
    """Budget 12 ms over a floor of 5: 2000 / s <= 7 first at 300; batch 2 needs a step more and does not fit; stop."""
    search = TrialSearch(GRID, slo_ms=24, strategy="hybrid-growth", guard=0)
    assert path_of(search, scalable(GRID, 5.0)) == [(1, 100), (1, 200), (1, 300), (2, 300), (2, 400)]
    assert search.best is not None
    assert (search.best.batch, search.best.request_milli) == (1, 300)
    assert search.termination.reason is TerminationReason.FEASIBLE


def test_growth_takes_one_more_step_of_share_for_a_batch() -> None:
    """Batch 2 misses on 100 and meets on 200; batch 4 fits there too, and 8 on 300."""
    latency = dict.fromkeys(scalable(GRID), 50.0)
    latency.update({(2, 100): 101.0, (8, 200): 101.0})
    search = TrialSearch(GRID, slo_ms=200, strategy="hybrid-growth")
    assert path_of(search, latency) == [(1, 100), (2, 100), (2, 200), (4, 200), (8, 200), (8, 300)]
    assert search.best is not None
    assert (search.best.batch, search.best.request_milli) == (8, 300)


def test_growth_returns_the_best_point_where_efficacy_falls() -> None:
    """The published search returns its last point, whatever that one is worth."""
    latency = scalable(GRID)
    latency.update({(2, 100): 30.0, (4, 100): 90.0})
    search = TrialSearch(GRID, slo_ms=200, strategy="hybrid-growth")
    assert path_of(search, latency) == [(1, 100), (2, 100), (4, 100)]
    assert search.best is not None
    assert search.best.batch == 2
    assert "fell" in search.termination.detail


def test_growth_ends_on_an_infeasible_slo_and_doubles_on_any_grid() -> None:
    """No loop at the greatest share, and no step to a batch that the grid lacks."""
    search = TrialSearch(GRID, slo_ms=1, strategy="hybrid-growth")
    assert path_of(search, scalable(GRID)) == [(1, s) for s in GRID.sm_milli]
    assert search.termination.reason is TerminationReason.INFEASIBLE
    odd = QuotaGrid((1, 3, 5, 12, 13), (100,))
    flat = {(b, 100): 10.0 for b in odd.batches}
    assert path_of(TrialSearch(odd, slo_ms=200, strategy="hybrid-growth"), flat) == [
        (1, 100),
        (3, 100),
        (12, 100),
        (13, 100),
    ]


def test_growth_is_blind_off_its_path_and_a_guided_search_is_not() -> None:
    """A launch-bound function is best at a great batch on little share, which growth misses after a fall."""
    grid = QuotaGrid((1, 2, 4, 8, 16), (100, 200, 400, 1000))
    model = RooflineModel(10.0, 0.0, 1.0, 0.1)
    table = {(b, s): float(model.latency_ms(b, s)) for b in grid.batches for s in grid.sm_milli}
    table[2, 100] = 2.5 * table[1, 100]
    growth, guided = (TrialSearch(grid, slo_ms=80, strategy=name) for name in ("hybrid-growth", "guided"))
    path_of(growth, table)
    path_of(guided, table)
    assert growth.best is not None
    assert guided.best is not None
    assert guided.best.efficacy > growth.best.efficacy


@pytest.mark.parametrize(("least", "fraction"), [(50, 0.8), (300, 0.8), (550, 0.9), (950, 0.98), (1000, 1.0)])
def test_bisection_finds_the_least_share_anywhere(least: int, fraction: float) -> None:
    """Below a half, where the published search never looks, and at 950 and 1000, where it loops."""
    grid = QuotaGrid((32,), TENTHS)
    times = {(32, s): 100.0 if s >= least else 100.0 / fraction * 1.3 for s in TENTHS}
    search = TrialSearch(grid, slo_ms=None, strategy="bisection", fraction=fraction, guard=0)
    path = path_of(search, times)
    assert path[0] == (32, 1000)
    assert len(path) == len(set(path)) <= 1 + math.ceil(math.log2(len(TENTHS))) + 1
    assert search.best is not None
    assert search.best.request_milli == least
    assert search.termination.reason is TerminationReason.OPTIMAL


@given(fraction=st.floats(0.05, 1.0), launch=st.floats(0, 50), compute=st.floats(0.05, 5))
def test_bisection_equals_looking_at_every_share(fraction: float, launch: float, compute: float) -> None:
    """On any roofline."""
    model = RooflineModel(launch, 0.0, 1.0, compute)
    search = TrialSearch(QuotaGrid((16,), TENTHS), slo_ms=None, strategy="bisection", fraction=fraction, guard=0)
    path_of(search, model)
    step = model.latency_ms(16, np.array(TENTHS))
    enough = step <= step[-1] / fraction * (1 + 1e-9)
    assert search.best is not None
    assert search.best.request_milli == TENTHS[int(np.argmax(enough))]
    assert search.best.limit_milli >= search.best.request_milli


def test_bisection_without_a_whole_gpu_has_no_answer() -> None:
    """Throughput is a fraction of something that failed."""
    search = TrialSearch(QuotaGrid((32,), TENTHS), slo_ms=None, strategy="bisection")
    first = search.ask()
    assert first is not None
    assert first == Trial(32, 1000)
    assert search.ask() is None, "the rest depends on it"
    assert not search.done
    search.tell(first, None)
    assert search.ask() is None
    assert search.best is None
    assert search.termination.reason is TerminationReason.NO_SOLUTION_FOUND


powers = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4)


@given(terms=powers, seed=st.integers(0, 1000))
def test_bounds_hold_for_everything_monotone_within_proportion(
    terms: list[tuple[float, float, float]], seed: int
) -> None:
    """lower <= t <= upper at every cell, equal at the measured ones, and no violation."""
    rng = np.random.default_rng(seed)
    batch, share = rng.integers(1, 65, 30).astype(float), rng.integers(1, 1001, 30).astype(float)
    latency = np.sum([a * batch**rise * (1000 / share) ** fall for a, rise, fall in terms], axis=0)
    lower, upper = monotone_bounds(batch[:5], share[:5], latency[:5], batch, share)
    assert (lower <= latency * (1 + 1e-9)).all()
    assert (latency <= upper * (1 + 1e-9)).all()
    assert lower[:5] == pytest.approx(latency[:5])
    assert upper[:5] == pytest.approx(latency[:5])
    assert largest_violation(batch, share, latency) < 1e-9
    assert (dominated_ms(batch[:5], share[:5], latency[:5], batch, share) <= latency * (1 + 1e-9)).all()


def test_the_largest_violation_is_the_known_one() -> None:
    """12 ms on half the share where 10 ms would do is no violation; 8 ms with twice the batch is one of a fifth."""
    columns = np.array([1.0, 1.0]), np.array([500.0, 1000.0]), np.array([12.0, 10.0])
    assert largest_violation(*columns) == 0.0
    columns = np.array([1.0, 2.0]), np.array([500.0, 500.0]), np.array([10.0, 8.0])
    assert largest_violation(*columns) == pytest.approx(0.2)


def test_the_surrogate_passes_near_its_samples_and_is_sure_of_them() -> None:
    """At a measured cell the spread is about the roughness; far from all it is several times that."""
    search = TrialSearch(GRID, slo_ms=100)
    model = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.0)
    for b, s in ((1, 1000), (2, 500), (4, 300), (8, 900), (4, 1000)):
        search.tell(Trial(b, s), float(model.latency_ms(b, s)) * (1.1 if (b, s) == (4, 300) else 1.0))
    evidence = gather(search.settings, search.trials)
    assert evidence.seen is not None
    surrogate = Surrogate(fit_latency(evidence.seen))
    mean, spread = surrogate.at(evidence.batch, evidence.sm_milli)
    seen = evidence.measured
    assert np.abs(mean[seen] - np.log(evidence.latency_ms[seen])).max() < 0.03
    assert spread[seen].min() < 3 * ROUGHNESS < spread.max()
    draws = surrogate.draws(evidence.batch, evidence.sm_milli, 4000, seed=1)
    assert draws.mean(axis=0) == pytest.approx(mean, abs=0.02)
    assert draws.std(axis=0) == pytest.approx(spread, rel=0.1)


def test_noise_is_the_pooled_scatter_of_repeats() -> None:
    """Two cells, measured twice and thrice: three degrees of freedom."""
    settings = TrialSettings(GRID, 100)
    records = [TrialRecord(Trial(1, 100), t) for t in (10.0, 11.0)] + [
        TrialRecord(Trial(2, 100), t) for t in (20.0, 20.0, 21.0)
    ]
    evidence = gather(settings, records)
    a, b = np.log([10.0, 11.0]), np.log([20.0, 20.0, 21.0])
    expected = math.sqrt((a.var() * 2 + b.var() * 3) / 3)
    assert evidence.freedom == 3
    assert evidence.noise == pytest.approx(expected)
    mixed = gather(settings, records[::-1])
    assert mixed.noise == evidence.noise
    assert np.array_equal(mixed.latency_ms, evidence.latency_ms, equal_nan=True)


def test_the_chance_to_meet_the_budget_is_a_half_on_it_and_settles_with_repeats() -> None:
    """By the guard as noise: two standard deviations are settled, and repeats shorten the way."""
    settings = TrialSettings(QuotaGrid((1,), (100, 200, 300)), 200, guard=0.03)
    at = {100: [100.0], 200: [100.0 * math.exp(-0.059)], 300: [100.0 * math.exp(-0.061)]}
    evidence = gather(settings, [TrialRecord(Trial(1, s), t) for s, times in at.items() for t in times])
    assert evidence.chance == pytest.approx([0.5, 0.975, 0.979], abs=0.002)
    assert evidence.settled.tolist() == [False, False, True]
    assert evidence.trusted.tolist() == [False, True, True]
    again = gather(settings, [TrialRecord(Trial(1, 200), t) for t in (97.0, 97.1, 96.9, 97.0)])
    assert again.settled.tolist() == [False, True, False]


def test_two_gpus_are_used_while_the_budget_is_unknown_only_where_the_rule_allows() -> None:
    """Published rules are sequential: a second GPU gets nothing, not a trial of no use."""
    for strategy in ("hybrid-growth", "guided"):
        search = TrialSearch(GRID, slo_ms=100, strategy=strategy)
        assert len(search.ask(2)) == (1 if strategy == "hybrid-growth" else 2)


def test_a_failure_that_a_success_refutes_excludes_nothing() -> None:
    """One trial fails once; a cell that needs as much has run, so the best answer is still found."""
    grid = QuotaGrid.regular(16, 100)
    table = {(b, s): 3.0 + 5.0 * b * 100 / s for b in grid.batches for s in grid.sm_milli}
    search, asked = TrialSearch(grid, slo_ms=100), 0
    while (trial := search.ask()) is not None:
        search.tell(trial, None if asked == 1 else table[trial.batch, trial.sm_milli])
        asked += 1
    assert search.best is not None
    assert search.best.efficacy == pytest.approx(max(1e6 * b / (t * s) for (b, s), t in table.items() if t <= 50))


def test_a_cell_that_keeps_failing_is_given_up() -> None:
    """Although smaller cells on less share ran, it is tried twice and no more."""
    grid = QuotaGrid((1, 2, 4), (200, 500, 1000))
    search, tries = TrialSearch(grid, slo_ms=1000, tolerance=0.0), 0
    while (trial := search.ask()) is not None:
        broken = (trial.batch, trial.sm_milli) == (2, 500)
        tries += broken
        search.tell(trial, None if broken else 1.0 + 10.0 * trial.batch * 1000 / trial.sm_milli)
    assert tries <= 2
    assert search.termination.reason is not TerminationReason.NO_SOLUTION_FOUND


@pytest.mark.parametrize("seed", range(4))
def test_measurements_that_refute_the_bounds_prove_nothing(seed: int) -> None:
    """On a table without any order there is no certificate, neither of an optimum nor of its absence."""
    rng = np.random.default_rng(seed)
    grid = QuotaGrid.regular(16, 100)
    table = {(b, s): 10.0 ** rng.uniform(-3, 3) for b in grid.batches for s in grid.sm_milli}
    search = TrialSearch(grid, slo_ms=100)
    told = []
    while (trial := search.ask()) is not None:
        told.append(table[trial.batch, trial.sm_milli])
        search.tell(trial, told[-1])
    assert search.termination.reason is not TerminationReason.OPTIMAL
    assert len(told) < 4 or search.termination.reason is not TerminationReason.INFEASIBLE or min(told) > 50
