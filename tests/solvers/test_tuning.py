"""tune() finds the front that brute force finds, keeps to its limits, and judges its choice on traces not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.errors import InvalidArgumentError
from dilu_core.result import TerminationReason
from dilu_core.solvers.replay import replay
from dilu_core.solvers.tuning import choose, pareto_front, tune
from dilu_core.traces import ArrivalTrace
from dilu_core.tuning_space import TuningSpace

BASE = HorizontalParams(9.7, 300, 600, slo_ms=503.0, base_latency_ms=101.0, max_instances=30)
CHOICES = {"lean": (1.0, 1.3, 1.7), "window_s": (20, 60), "scale_in_cooldown_s": (5.0,)}


def noisy(seed: int, seconds: int = 200) -> ArrivalTrace:
    rng = np.random.default_rng(seed)
    return ArrivalTrace(np.repeat(rng.uniform(5, 120, seconds // 20), 20) * rng.uniform(0.7, 1.3, seconds))


def test_figures_are_means_of_single_replays() -> None:
    """Cost, violations and cold starts of every candidate, from `replay` one by one on functions of two sizes."""
    traces, bases = [noisy(1), noisy(2)], [BASE, replace(BASE, capacity_rps=17.3)]
    result = tune(traces, TuningSpace(bases, CHOICES))
    assert len(result.candidates) == 6
    for k, candidate in enumerate(result.candidates):
        ones = [
            replay(trace, CoScaler(replace(base, **candidate)), replace(base, **candidate))
            for trace, base in zip(traces, bases, strict=True)
        ]
        least = [trace.requests / base.capacity_rps * 0.3 for trace, base in zip(traces, bases, strict=True)]
        costs = [one.gpu_seconds / need for one, need in zip(ones, least, strict=True)]
        assert result.gpu_cost[k] == pytest.approx(np.mean(costs))
        assert result.violation_rate[k] == pytest.approx(np.mean([one.violation_rate for one in ones]))
        assert result.cold_starts_per_h[k] == pytest.approx(np.mean([one.cold_starts for one in ones]) * 18.0)


rows = st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 4), min_size=1, max_size=12)


@settings(max_examples=80)
@given(rows, st.integers(0, 6), st.integers(0, 6))
def test_front_and_choice_by_brute_force(figures, most_violations, most_cold_starts):
    """On the front is who nobody calm beats; chosen is the cheapest within the limits."""
    means = np.array(figures)
    calm = [k for k in range(len(figures)) if figures[k][2] <= most_cold_starts]
    points = {figures[k][:2] for k in calm}
    undominated = {p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)}
    front = pareto_front(means, most_cold_starts)
    assert [figures[k][:2] for k in front] == sorted(undominated)
    best, feasible = choose(means, most_violations, most_cold_starts)
    good = [k for k in calm if figures[k][1] <= most_violations]
    assert feasible == bool(good)
    if good:
        assert best in good
        assert figures[best][0] == min(figures[k][0] for k in good)
    elif calm:
        assert figures[best][1] == min(figures[k][1] for k in calm)


def test_the_choice_is_judged_on_traces_not_seen() -> None:
    """Each trace is held out once; its figures are those of the candidate chosen on the others."""
    traces = [noisy(seed) for seed in range(4)]
    result = tune(traces, TuningSpace(BASE, CHOICES), most_cold_starts_per_h=1e9, folds=2)
    assert [held.traces for held in result.held_out] == [(0, 2), (1, 3)]
    for held in result.held_out:
        others = [traces[t] for t in range(4) if t not in held.traces]
        seen = tune(others, TuningSpace(BASE, CHOICES), most_cold_starts_per_h=1e9, folds=1)
        unseen = tune([traces[t] for t in held.traces], TuningSpace(BASE, CHOICES), folds=1)
        assert held.candidate == seen.best
        assert held.gpu_cost == pytest.approx(unseen.gpu_cost[seen.best])
        assert held.violation_rate == pytest.approx(unseen.violation_rate[seen.best])
        assert seen.held_out == ()


def test_limits_that_nobody_meets_are_a_result() -> None:
    """The least violations, and a termination that says so."""
    result = tune(noisy(5), TuningSpace(BASE, CHOICES), most_violations=0.0, most_cold_starts_per_h=0.0)
    assert not result.feasible
    assert result.termination.reason is TerminationReason.INFEASIBLE
    assert result.best_choice == result.candidates[result.best]
    assert result.violation_rate[result.best] == result.violation_rate.min()


def test_a_large_space_is_sampled_without_repetition() -> None:
    """Two hundred of 10^8 combinations, the same for the same seed; what the parameters refuse is left out."""
    wide = {
        name: [1.0 + k / 100 for k in range(100)] for name in ("lean", "clear_s", "zero_delay_s", "scale_in_cooldown_s")
    }
    space = TuningSpace(BASE, wide, most=200, seed=3)
    assert len({tuple(each.values()) for each in space.candidates}) == 200
    assert space.candidates == TuningSpace(BASE, wide, most=200, seed=3).candidates
    assert space.candidates != TuningSpace(BASE, wide, most=200, seed=4).candidates
    mixed = TuningSpace(BASE, {"window_s": (1, 30), "short_s": (2,)})
    assert mixed.candidates == ({"window_s": 30, "short_s": 2},)


def test_a_space_beyond_counting_is_drawn_from_everywhere() -> None:
    """Of 10^20 combinations each choice shows all of its range, the first as the last."""
    values = [1.0 + k / 100_000 for k in range(100_000)]
    names = ("lean", "clear_s", "zero_delay_s", "scale_in_cooldown_s")
    space = TuningSpace(BASE, dict.fromkeys(names, values), most=200)
    for name in names:
        drawn = [each[name] for each in space.candidates]
        assert np.histogram(drawn, bins=4, range=(1.0, 2.0))[0].min() > 25  # 50 expected


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 3))
def test_as_many_are_drawn_as_asked_for_where_there_are_more(most: int, choices: int, seed: int) -> None:
    """Of 3 to 81 combinations: all, or `most` of them, each once and in the order of the choices."""
    names = ("lean", "clear_s", "zero_delay_s", "scale_in_cooldown_s")[:choices]
    space = TuningSpace(BASE, dict.fromkeys(names, (1.0, 2.0, 3.0)), most=most, seed=seed)
    found = [tuple(each.values()) for each in space.candidates]
    assert found == sorted(set(found))
    assert len(found) == min(most, 3**choices)


def test_spaces_are_values() -> None:
    """Equal ones hash alike, and what was given to one may change afterwards."""
    given_choices = {"lean": [1.0, 1.3]}
    space = TuningSpace(BASE, given_choices)
    given_choices["lean"].append(0.1)
    given_choices["clear_s"] = [2.0]
    assert space == TuningSpace([BASE], {"lean": (1.0, 1.3)})
    assert hash(space) == hash(TuningSpace([BASE], {"lean": (1.0, 1.3)}))
    assert len(space.candidates) == 2


def test_bad_arguments_are_named() -> None:
    """Each message begins with the argument at fault."""
    trace, space = noisy(0), TuningSpace(BASE, CHOICES)
    for message, call in {
        "traces": lambda: tune([], space),
        r"traces\[0\]": lambda: tune(ArrivalTrace([0.0, 0.0]), space),
        "space": lambda: tune(trace, CHOICES),  # type: ignore[arg-type]
        "folds": lambda: tune(trace, space, folds=0),
        "spare_milli is 5": lambda: tune(trace, space, spare_milli=5),  # type: ignore[arg-type]
        "spare_milli is ": lambda: tune(trace, space, spare_milli=[1.0, 2.0]),
        r"spare_milli\[1\] is -1": lambda: tune([trace, trace], space, spare_milli=[None, -1.0]),
        "choices": lambda: TuningSpace(BASE, {}),
        "choices.*capacity_rps": lambda: TuningSpace(BASE, {"capacity_rps": (1.0,)}),
        r"choices\['lean'\]": lambda: TuningSpace(BASE, {"lean": 3.0}),  # type: ignore[dict-item]
        "choices has no": lambda: TuningSpace(BASE, {"lean": (0.5,)}).candidates,
        "most": lambda: TuningSpace(BASE, CHOICES, most=0),
    }.items():
        with pytest.raises(InvalidArgumentError, match=f"^{message}"):
            call()
    with pytest.raises(InvalidArgumentError, match="2 functions for 1 traces"):
        tune(trace, TuningSpace([BASE, BASE], CHOICES))
    with pytest.raises(InvalidArgumentError, match="slo_ms"):
        tune(trace, TuningSpace(replace(BASE, slo_ms=None), CHOICES))
