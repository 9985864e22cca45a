"""TrialSearch: its contract, the properties every strategy keeps, and the published traps."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError, StateError
from dilu_core.performance import MemoryModel, RooflineModel
from dilu_core.quota import LimitRule, QuotaConfig, QuotaGrid
from dilu_core.result import Limit, TerminationReason
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.prior_learning import learn_prior
from dilu_core.solvers.trials.search import TrialSearch
from dilu_core.trials import Trial

GRID = QuotaGrid((1, 2, 4, 8, 16, 32), tuple(range(100, 1001, 100)))
MODEL = RooflineModel(8.0, 0.2, 1.5, 1.2, 0.4, 3.0)
Table = dict[tuple[int, int], float]


def table_of(model: RooflineModel, grid: QuotaGrid, wiggle: float = 0.0, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    return {
        (b, s): float(model.latency_ms(b, s)) * math.exp(wiggle * rng.standard_normal())
        for b in grid.batches
        for s in grid.sm_milli
    }


def drive(search: TrialSearch, table: Table, most: int = 1000) -> list[Trial]:
    """Ask and tell until the search has no more to ask; the trials in order."""
    asked: list[Trial] = []
    while (trial := search.ask()) is not None:
        assert len(asked) < most, "the search does not end"
        asked.append(trial)
        search.tell(trial, table[trial.batch, trial.sm_milli])
    return asked


def optimum(table: Table, budget: float) -> float | None:
    """Greatest efficacy within the budget, by looking at every cell."""
    within = [1e6 * b / (t * s) for (b, s), t in table.items() if t <= budget]
    return max(within, default=None)


rooflines = st.tuples(
    st.floats(-1, 3), st.floats(-4, 1), st.floats(-2, 3), st.floats(-2, 2), st.floats(-4, 1), st.floats(-0.5, 2)
).map(lambda logs: RooflineModel(*np.exp(logs).tolist()))
grids = st.builds(
    lambda batches, shares: QuotaGrid(tuple(batches), tuple(shares)),
    st.sets(st.integers(1, 64), min_size=1, max_size=5),
    st.sets(st.integers(1, 1000), min_size=1, max_size=6),
)


@st.composite
def monotone_tables(draw: st.DrawFn) -> tuple[QuotaGrid, Table]:
    """Sums of random power terms within the bounds: monotone, and of no form that the fit knows."""
    grid = draw(grids)
    term = st.tuples(st.floats(0.1, 10), st.floats(0, 1), st.floats(0, 1))
    terms = draw(st.lists(term, min_size=1, max_size=4))
    table = {
        (b, s): math.fsum(a * b**rise * (1000 / s) ** fall for a, rise, fall in terms)
        for b in grid.batches
        for s in grid.sm_milli
    }
    return grid, table


def test_the_answer_is_a_measured_cell_within_the_budget_and_near_the_optimum() -> None:
    """On a roofline the guided search finds the optimum of 60 cells within a dozen trials."""
    table = table_of(MODEL, GRID)
    search = TrialSearch(GRID, slo_ms=120)
    asked = drive(search, table)
    best = search.best
    assert best is not None
    assert best.latency_ms == table[best.batch, best.request_milli] <= 60.0
    assert Trial(best.batch, best.request_milli) in asked
    assert best.efficacy == pytest.approx(optimum(table, 60.0))
    assert len(set(asked)) <= 12
    assert best.request_milli <= best.limit_milli <= 2 * best.request_milli
    assert search.termination.reason in (TerminationReason.OPTIMAL, TerminationReason.FEASIBLE)
    assert search.done


@given(table=monotone_tables(), factor=st.floats(0.5, 20))
def test_a_search_without_tolerance_equals_looking_at_every_cell(table: tuple[QuotaGrid, Table], factor: float) -> None:
    """With tolerance 0 the bounds decide alone: OPTIMAL is the exhaustive optimum, INFEASIBLE that there is none."""
    grid, cells = table
    budget = min(cells.values()) * factor
    search = TrialSearch(grid, slo_ms=2 * budget, guard=0, tolerance=0)
    drive(search, cells, len(grid))
    expected = optimum(cells, search.budget_ms or 0.0)
    if expected is None:
        assert search.best is None
        assert search.termination.reason is TerminationReason.INFEASIBLE
    else:
        assert search.termination.reason is TerminationReason.OPTIMAL
        assert search.best is not None
        assert search.best.efficacy == pytest.approx(expected, rel=1e-8)


@given(table=monotone_tables(), factor=st.floats(1.0, 20), tolerance=st.sampled_from([0.005, 0.02, 0.1]))
def test_a_certified_answer_is_within_the_stated_tolerance(
    table: tuple[QuotaGrid, Table], factor: float, tolerance: float
) -> None:
    """Where OPTIMAL is claimed on a monotone table, no cell beats the answer by more than the tolerance."""
    grid, cells = table
    budget = min(cells.values()) * factor
    search = TrialSearch(grid, slo_ms=2 * budget, tolerance=tolerance)
    drive(search, cells, 4 * len(grid))
    if search.termination.reason is TerminationReason.OPTIMAL:
        expected = optimum(cells, search.budget_ms or 0.0)
        assert search.best is not None
        assert expected is not None
        assert search.best.efficacy * (1 + tolerance) * (1 + 1e-9) >= expected


@given(
    model=rooflines,
    grid=grids,
    wiggle=st.sampled_from([0.0, 0.03, 0.5]),
    factor=st.floats(0.3, 20),
    strategy=st.sampled_from(["guided", "hybrid-growth"]),
    seed=st.integers(0, 1000),
)
def test_trials_stay_on_the_grid_and_end(
    model: RooflineModel, grid: QuotaGrid, wiggle: float, factor: float, strategy: str, seed: int
) -> None:
    """At most every cell is asked for once, repeats only of measured cells near the budget, answers within it."""
    table = table_of(model, grid, wiggle, seed)
    search = TrialSearch(grid, slo_ms=2 * min(table.values()) * factor, strategy=strategy)
    asked = drive(search, table, len(grid) + 8)
    assert {(trial.batch, trial.sm_milli) for trial in asked} <= table.keys()
    budget = search.budget_ms or 0.0
    repeated = {trial for trial in asked if asked.count(trial) > 1}
    assert all(abs(math.log(table[t.batch, t.sm_milli] / budget)) < 0.07 for t in repeated)
    best = search.best
    if best is not None:
        assert best.latency_ms == pytest.approx(table[best.batch, best.request_milli])
        assert best.latency_ms <= budget * (1 + 1e-9)
    if search.termination.reason is TerminationReason.INFEASIBLE:
        assert best is None


@given(model=rooflines, factor=st.floats(1.0, 10), seed=st.integers(0, 100))
def test_a_search_without_guard_never_repeats_a_cell(model: RooflineModel, factor: float, seed: int) -> None:
    """guard 0 takes measurements at their word."""
    table = table_of(model, GRID, 0.03, seed)
    asked = drive(TrialSearch(GRID, slo_ms=2 * min(table.values()) * factor, guard=0), table)
    assert len(asked) == len(set(asked))


@given(
    model=rooflines,
    factor=st.floats(0.8, 10),
    cut=st.integers(0, 8),
    strategy=st.sampled_from(["guided", "hybrid-growth"]),
    parallel=st.integers(1, 3),
)
@settings(max_examples=30)
def test_a_search_read_back_from_json_goes_on_identically(
    model: RooflineModel, factor: float, cut: int, strategy: str, parallel: int
) -> None:
    """Interrupted at any moment, with trials outstanding, it asks for the same and ends the same."""
    table = table_of(model, GRID, 0.03)
    search = TrialSearch(
        GRID, slo_ms=2 * min(table.values()) * factor, strategy=strategy, prior=MODEL, blocked=[(1, 100)], max_trials=40
    )
    for _ in range(cut):
        trials = search.ask(parallel)
        for trial in trials[:-1] or trials:
            search.tell(trial, table[trial.batch, trial.sm_milli], gpu_s=1.5, memory_mib=100.0)
    again = TrialSearch.from_dict(json.loads(json.dumps(search.to_dict())))
    assert again.to_dict() == search.to_dict()
    assert again.outstanding == search.outstanding
    for each in (search, again):
        for trial in each.outstanding:
            each.tell(trial, table[trial.batch, trial.sm_milli])
    assert drive(again, table) == drive(search, table)
    assert again.best == search.best
    assert again.termination == search.termination


@given(model=rooflines, factor=st.floats(0.8, 10), order=st.permutations(range(4)))
def test_the_order_in_which_parallel_trials_come_back_changes_nothing(
    model: RooflineModel, factor: float, order: list[int]
) -> None:
    """Four trials at a time, told in any order, lead to the same questions and the same answer."""
    table = table_of(model, GRID, 0.03)
    plain, mixed = (TrialSearch(GRID, slo_ms=2 * min(table.values()) * factor) for _ in range(2))
    while trials := plain.ask(4):
        assert mixed.ask(4) == trials
        assert len(set(trials)) == len(trials)
        for trial in trials:
            plain.tell(trial, table[trial.batch, trial.sm_milli])
        for i in order:
            if i < len(trials):
                mixed.tell(trials[i], table[trials[i].batch, trials[i].sm_milli])
    assert mixed.done
    assert mixed.best == plain.best
    assert mixed.termination == plain.termination


def test_parallel_trials_are_distinct_and_bounded_by_what_is_worth_asking() -> None:
    """`ask(n)` spreads over the grid at first, and gives fewer than n rather than a trial without use."""
    table = table_of(MODEL, GRID)
    search = TrialSearch(GRID, slo_ms=120)
    first = search.ask(5)
    assert len(set(first)) == 5
    assert search.ask(0) == ()
    for trial in first:
        search.tell(trial, table[trial.batch, trial.sm_milli])
    drive(search, table)
    assert search.ask(5) == ()
    assert search.ask() is None


def test_a_withdrawn_trial_is_asked_again_and_cost_nothing() -> None:
    """A lost machine is no failed trial: nothing is excluded, the budget is whole."""
    search = TrialSearch(GRID, slo_ms=120, max_trials=1)
    trial = search.ask()
    assert trial is not None
    assert search.ask() is None
    search.withdraw(trial)
    assert search.ask() == trial
    search.withdraw(trial)
    with pytest.raises(StateError, match="outstanding"):
        search.withdraw(trial)
    assert search.trials == ()


def test_an_infeasible_slo_ends_with_a_certificate() -> None:
    """The published search loops here; the smallest batch on the whole GPU, measured over the budget, proves it."""
    table = table_of(MODEL, GRID)
    for strategy in ("guided", "hybrid-growth"):
        search = TrialSearch(GRID, slo_ms=15, strategy=strategy)
        asked = drive(search, table)
        assert search.best is None
        assert search.termination.reason is TerminationReason.INFEASIBLE
        assert Trial(1, 1000) in asked
        assert "7.5 ms" in search.termination.detail
    assert len(set(drive(TrialSearch(GRID, slo_ms=15), table))) <= 4
    assert len(drive(TrialSearch(GRID, slo_ms=1), table)) <= 2, "far off, a bound in proportion is enough"


def test_the_answer_is_repeated_until_noise_cannot_turn_it() -> None:
    """A cell 2 % below the budget is measured again; where repeats scatter over the budget it is not the answer."""
    grid = QuotaGrid((4,), (500,))
    trial = Trial(4, 500)
    search = TrialSearch(grid, slo_ms=200)
    search.tell(trial, 98.0)
    assert search.best is None, "within the guard, and measured once"
    for latency in (98.0, 98.0):
        assert search.ask() == trial
        search.tell(trial, latency)
    assert search.ask() is None, "three equal measurements leave no doubt"
    assert isinstance(search.best, QuotaConfig)
    noisy = TrialSearch(grid, slo_ms=200)
    rng = np.random.default_rng(1)
    count = 0
    while noisy.ask() == trial:
        noisy.tell(trial, 99.5 * math.exp(0.03 * rng.standard_normal()))
        count += 1
    assert 2 <= count <= 8
    assert noisy.best is None
    assert noisy.termination.reason is not TerminationReason.OPTIMAL


def test_repeated_measurements_count_as_their_median() -> None:
    """One wild repeat does not move the answer."""
    search = TrialSearch(QuotaGrid((4,), (500,)), slo_ms=1000)
    for latency in (50.0, 51.0, 400.0):
        search.tell(Trial(4, 500), latency)
    assert search.best is not None
    assert search.best.latency_ms == 51.0


@pytest.mark.parametrize("garbage", [None, math.nan, math.inf, -math.inf, 0.0, -1.0, 9999.0, -3.5, 1e-300, 1e300])
def test_a_failed_trial_is_never_feasible(garbage: float | None) -> None:
    """Failure codes are misses, although 0 ms would be a fine latency and 9999 ms within this budget."""
    search = TrialSearch(GRID, slo_ms=1e6)
    trial = search.ask()
    assert trial is not None
    search.tell(trial, garbage)
    assert search.best is None
    assert search.trials[0].latency_ms is None
    assert search.ask() != trial


def test_a_true_latency_of_9999_ms_passes_where_no_codes_are_set() -> None:
    """`failure_codes=()` takes every positive number as a latency."""
    search = TrialSearch(GRID, slo_ms=1e6, failure_codes=())
    search.tell(Trial(4, 500), 9999.0)
    assert search.best is not None


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-5, 1e-3, 1.0, 1e3, 1e10]))
@settings(max_examples=30)
def test_garbage_latencies_end_the_search_without_an_error(seed: int, scale: float) -> None:
    """Latencies over many decades, without any order, with failures between."""
    rng = np.random.default_rng(seed)
    grid = QuotaGrid((1, 4, 16), (100, 400, 1000))
    search = TrialSearch(grid, slo_ms=2 * scale)
    count = 0
    while (trial := search.ask()) is not None:
        count += 1
        assert count <= 9 * 8
        kind = rng.integers(0, 4)
        search.tell(trial, [None, scale, scale * math.exp(rng.normal(0, 10)), math.nan][kind])
    assert search.termination.reason in set(TerminationReason) - {TerminationReason.CONVERGED}


def test_a_search_where_every_trial_fails_ends() -> None:
    """Nothing found, nothing proven, no error, no samples."""
    search = TrialSearch(GRID, slo_ms=100)
    while (trial := search.ask()) is not None:
        search.tell(trial, None)
    assert search.termination.reason is TerminationReason.NO_SOLUTION_FOUND
    assert search.samples is None
    assert search.fit is None
    assert search.best is None


def test_running_out_of_memory_excludes_greater_batches_on_every_share() -> None:
    """Memory never falls with the batch: after a kill at 8, neither 8 nor 16 nor 32 is asked for again."""
    table = table_of(MODEL, GRID)
    search = TrialSearch(GRID, slo_ms=400)
    search.tell(Trial(8, 500), None, out_of_memory=True)
    asked = drive(search, table)
    assert max(trial.batch for trial in asked) == 4
    other = TrialSearch(GRID, slo_ms=400)
    other.tell(Trial(8, 500), None)
    assert not any(t.batch >= 8 and t.sm_milli <= 500 for t in drive(other, table))
    assert other.best is not None
    assert other.best.batch >= 8, "an unexplained failure says nothing of more share"


def test_measured_memory_excludes_greater_batches() -> None:
    """Each measured memory bounds every greater batch from below; a cell over the limit is no answer."""
    table = table_of(MODEL, GRID)
    search = TrialSearch(GRID, slo_ms=400, memory_limit_mib=5000)
    while (trial := search.ask()) is not None:
        search.tell(trial, table[trial.batch, trial.sm_milli], memory_mib=1000 + 400 * trial.batch)
    assert search.best is not None
    assert search.best.batch == 8
    over = [record.trial.batch for record in search.trials if record.memory_mib and record.memory_mib > 5000]
    assert len(over) <= 1, "one batch over the limit was enough to know"


def test_a_memory_model_excludes_without_a_trial() -> None:
    """Batches that the model puts over the limit are never asked for."""
    search = TrialSearch(GRID, slo_ms=400, memory_limit_mib=5000, memory_model=MemoryModel(1000, 400))
    assert max(trial.batch for trial in drive(search, table_of(MODEL, GRID))) == 8


def test_blocked_cells_are_neither_asked_nor_returned() -> None:
    """Blocking the optimum moves the answer elsewhere, though it was measured before."""
    table = table_of(MODEL, GRID)
    free = TrialSearch(GRID, slo_ms=120)
    drive(free, table)
    assert free.best is not None
    cell = (free.best.batch, free.best.request_milli)
    search = TrialSearch(GRID, slo_ms=120, blocked=[cell, (3, 77)])
    search.tell(Trial(*cell), table[cell])
    assert Trial(*cell) not in drive(search, table)
    assert search.best is not None
    assert (search.best.batch, search.best.request_milli) != cell


def test_earlier_measurements_on_and_off_the_grid_save_trials() -> None:
    """Told samples are free, guide the fit, and may be the answer only where they lie on the grid."""
    table = table_of(MODEL, GRID)
    cold = drive(TrialSearch(GRID, slo_ms=120), table)
    batch, share = np.array([1, 2, 3, 6, 12, 24, 32, 8]), np.array([150, 250, 350, 650, 850, 950, 100, 500])
    search = TrialSearch(GRID, slo_ms=120, max_trials=20)
    search.tell_samples(ProfileSamples(batch, share, MODEL.latency_ms(batch, share)))
    warm = drive(search, table)
    assert len(warm) < len(cold)
    assert search.best is not None
    assert (search.best.batch, search.best.request_milli) in table
    assert search.best.efficacy == pytest.approx(optimum(table, 60.0))
    assert sum(record.asked for record in search.trials) == len(warm)


def test_a_search_ends_with_its_budget_of_trials_and_says_so() -> None:
    """Outstanding trials count, measurements nobody asked for do not."""
    table = table_of(MODEL, GRID)
    search = TrialSearch(GRID, slo_ms=120, max_trials=3)
    search.tell(Trial(32, 100), table[32, 100])
    assert len(search.ask(10)) == 3
    assert search.ask() is None
    assert not search.done
    for trial in search.outstanding:
        search.tell(trial, table[trial.batch, trial.sm_milli])
    assert search.done
    assert search.termination.limit is Limit.TRIALS
    assert search.termination.reason is TerminationReason.FEASIBLE
    none = TrialSearch(GRID, slo_ms=120, max_trials=0)
    assert none.ask() is None
    assert none.termination.reason is TerminationReason.NO_SOLUTION_FOUND
    assert none.termination.limit is Limit.TRIALS


def test_a_search_ends_with_its_gpu_seconds() -> None:
    """Three trials of 40 s pass a budget of 100 s."""
    table = table_of(MODEL, GRID)
    search = TrialSearch(GRID, slo_ms=120, max_gpu_s=100)
    while (trial := search.ask()) is not None:
        search.tell(trial, table[trial.batch, trial.sm_milli], gpu_s=40)
    assert len(search.trials) == 3
    assert search.termination.limit is Limit.TIME


def test_a_feasible_end_says_what_remains_uncertain() -> None:
    """The detail counts the cells in question, with odds, size and the likeliest cell; the seed moves odds only."""
    table = table_of(MODEL, GRID, 0.02)
    search, other = (TrialSearch(GRID, slo_ms=300, seed=seed) for seed in (0, 1))
    assert drive(search, table) == drive(other, table)
    assert search.termination.reason is TerminationReason.FEASIBLE
    for part in ("could still be better", "probability", "likeliest is batch"):
        assert part in search.termination.detail


def test_a_fine_grid_does_not_take_trials_for_ever() -> None:
    """On 3,200 cells, most of them as good as their neighbours, the search ends early, near the optimum."""
    grid = QuotaGrid(tuple(range(1, 65)), tuple(range(20, 1001, 20)))
    table = table_of(MODEL, grid)
    search = TrialSearch(grid, slo_ms=200)
    assert len(drive(search, table)) <= 40
    assert search.best is not None
    assert search.best.efficacy == pytest.approx(optimum(table, 100.0), rel=0.01)


def test_a_looser_slo_never_gives_a_worse_answer_when_every_cell_is_decided() -> None:
    """The published search may; one without tolerance may not."""
    table = table_of(RooflineModel(20.0, 0.0, 2.0, 3.0, 0.0, 5.0), GRID)
    found = []
    for slo in np.geomspace(50, 1000, 15):
        search = TrialSearch(GRID, slo_ms=float(slo), guard=0, tolerance=0)
        drive(search, table)
        found.append(0.0 if search.best is None else search.best.efficacy)
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_ties_go_to_less_share_then_the_smaller_batch() -> None:
    """Perfectly scalable work has the same efficacy everywhere."""
    grid = QuotaGrid((1, 2), (250, 500))
    search = TrialSearch(grid, slo_ms=100)
    for b in grid.batches:
        for s in grid.sm_milli:
            search.tell(Trial(b, s), 2.0 * b * 1000 / s)
    best = search.best
    assert best is not None
    assert (best.batch, best.request_milli) == (1, 250)


def test_the_limit_follows_the_rule() -> None:
    """Limit equals request where the rule says so, and is capped at twice the request by default."""
    table = table_of(MODEL, GRID)
    for rule, most in ((LimitRule(request_factor=1), 1.0), (None, 2.0)):
        search = TrialSearch(GRID, slo_ms=120, limit_rule=rule)
        drive(search, table)
        assert search.best is not None
        assert search.best.request_milli <= search.best.limit_milli <= most * search.best.request_milli


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("grid", {"grid": [1, 2]}),
        ("slo_ms", {"slo_ms": 0}),
        ("slo_ms", {"slo_ms": None}),
        ("exec_fraction", {"exec_fraction": 1.5}),
        ("guard", {"guard": -0.1}),
        ("strategy", {"strategy": "random"}),
        ("seed", {"seed": 1.5}),
        ("prior", {"prior": "mine"}),
        ("tolerance", {"tolerance": -1}),
        ("max_trials", {"max_trials": -1}),
        ("max_gpu_s", {"max_gpu_s": math.nan}),
        ("memory_limit_mib", {"memory_limit_mib": 0}),
        ("memory_model", {"memory_model": 3}),
        ("memory_model", {"memory_model": MemoryModel(1)}),
        ("blocked[0]", {"blocked": [3]}),
        ("blocked[0].sm_milli", {"blocked": [(1, 0)]}),
        ("fraction", {"fraction": 0}),
        ("limit_rule", {"limit_rule": 2}),
        ("failure_codes[0]", {"failure_codes": ["x"]}),
        ("slo_ms", {"strategy": "bisection"}),
        ("grid", {"strategy": "bisection", "slo_ms": None}),
        ("grid", {"strategy": "bisection", "slo_ms": None, "grid": QuotaGrid((8,), (100, 500))}),
    ],
)
def test_bad_settings_name_the_argument(argument: str, changes: dict[str, Any]) -> None:
    """Refused at the door."""
    arguments = {"grid": GRID, "slo_ms": 100, **changes}
    with pytest.raises(InvalidArgumentError) as caught:
        TrialSearch(arguments.pop("grid"), **arguments)
    assert caught.value.argument == argument


def test_bad_tells_name_the_argument_and_change_nothing() -> None:
    """A refused tell leaves the search as it was."""
    search = TrialSearch(GRID, slo_ms=100)
    trial = search.ask()
    assert trial is not None
    before = search.to_dict()
    bad: list[tuple[str, Any, dict[str, Any]]] = [
        ("trial", (4, 100), {"latency_ms": 1.0}),
        ("latency_ms", trial, {"latency_ms": "fast"}),
        ("latency_ms", trial, {"latency_ms": True}),
        ("memory_mib", trial, {"latency_ms": 1.0, "memory_mib": -1}),
        ("gpu_s", trial, {"latency_ms": 1.0, "gpu_s": math.nan}),
        ("out_of_memory", trial, {"latency_ms": 1.0, "out_of_memory": "yes"}),
    ]
    for argument, told, keywords in bad:
        with pytest.raises(InvalidArgumentError) as caught:
            search.tell(told, **keywords)
        assert caught.value.argument == argument
    with pytest.raises(InvalidArgumentError, match="samples"):
        search.tell_samples([1, 2])  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="count"):
        search.ask(-1)
    assert search.to_dict() == before


@pytest.mark.parametrize(
    ("argument", "spoil"),
    [
        ("trial_search.version", lambda d: d.update(version=9)),
        ("trial_search.settings", lambda d: d.pop("settings")),
        ("settings.grid", lambda d: d["settings"].pop("grid")),
        ("settings.guard", lambda d: d["settings"].update(guard=7)),
        ("settings.limit_rule", lambda d: d["settings"].update(limit_rule=7)),
        ("trial_search.records[0].batch", lambda d: d["records"][0].update(batch=0)),
        ("trial_search.records[0].latency_ms", lambda d: d["records"][0].pop("latency_ms")),
        ("trial_search.outstanding", lambda d: d.update(outstanding=3)),
        ("trial_search.outstanding[0]", lambda d: d.update(outstanding=[[1, 2, 3]])),
        ("trial_search.outstanding[0].sm_milli", lambda d: d.update(outstanding=[[1, 0]])),
        ("trial_search.outstanding[0]", lambda d: d.update(outstanding=[[3, 77]])),
    ],
)
def test_a_spoilt_document_is_refused_by_name(argument: str, spoil: Any) -> None:
    """`from_dict` says what is missing or wrong, and where."""
    search = TrialSearch(GRID, slo_ms=100)
    search.tell(Trial(4, 500), 10.0)
    document = json.loads(json.dumps(search.to_dict()))
    spoil(document)
    with pytest.raises(InvalidArgumentError) as caught:
        TrialSearch.from_dict(document)
    assert caught.value.argument == argument


def test_a_learnt_prior_is_kept() -> None:
    """A search with a learnt prior goes on with it after a round trip through JSON."""
    tables = [ProfileSamples([1, 4, 16, 16], [200, 500, 200, 1000], [9.0, 12.0, 60.0 + i, 20.0]) for i in range(3)]
    search = TrialSearch(GRID, slo_ms=100, prior=learn_prior(tables))
    first = search.ask()
    assert first is not None
    search.tell(first, 30.0)
    again = TrialSearch.from_dict(json.loads(json.dumps(search.to_dict())))
    assert again.to_dict() == search.to_dict()
    assert again.ask() == search.ask()
