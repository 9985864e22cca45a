"""Load correlation: known answers, what it must not be fooled by, and the online estimate against the definition."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.correlation import LoadCorrelation
from dilu_core.correlation_estimator import CorrelationEstimator
from dilu_core.errors import InvalidArgumentError
from dilu_core.traces import ArrivalTrace

CLOCK = np.arange(3 * 288) * 300.0  # three days in periods of five minutes


def _daily(phase: float, seed: int, level: float = 10.0) -> ArrivalTrace:
    noise = np.random.default_rng(seed).uniform(0.8, 1.2, CLOCK.size)
    return ArrivalTrace(level * (1 + 0.8 * np.sin(2 * np.pi * (CLOCK / 86400 + phase))) * noise, period_s=300.0)


def test_in_phase_scores_high_and_anti_phase_below_zero() -> None:
    """Functions that peak in the same hours score near 1 whatever their size, and those half a day apart negative."""
    found = LoadCorrelation.of({"a": _daily(0, 1), "b": _daily(0, 2, level=900.0), "c": _daily(0.5, 3)})
    assert found.score("a", "b") > 0.7
    assert found.score("a", "c") < -0.3
    assert found.score("a", "b") == found.score("b", "a")
    assert found.score("a", "a") == pytest.approx(CLOCK.size / (CLOCK.size + 20))
    assert found.burst_overlap("a", "b") > 0.9 > 0.1 > found.burst_overlap("a", "c")
    assert found.spare_share("a", "b") < 0.4 < 0.7 < found.spare_share("a", "c")


def test_a_case_worked_out_by_hand() -> None:
    """Four periods, thresholds of 1: bursts (1, 0, 3, 0) and (1, 0, 1, 2), no shrinkage."""
    traces = {"f": ArrivalTrace([2, 0, 4, 1]), "g": ArrivalTrace([2, 1, 2, 3])}
    found = LoadCorrelation.of(traces, thresholds_rps={"f": 1.0, "g": 1.0}, shrinkage=0.0)
    assert found.score("f", "g") == pytest.approx(np.corrcoef([1, 0, 3, 0], [1, 0, 1, 2])[0, 1])
    assert found.burst_overlap("f", "g") == 1.0
    assert found.burst_overlap("g", "f") == pytest.approx(2 / 4)
    assert found.spare_share("f", "g") == pytest.approx(1 - (1 * 2 + 3 * 2) / (4 * 3))


def test_likeness_of_quiet_times_does_not_count() -> None:
    """Two loads that move in step but for one burst each, at different times, score below 0."""
    quiet = np.tile([1.0, 2.0], 50)
    f, g = quiet.copy(), quiet.copy()
    f[10:14] += 50
    g[60:64] += 50
    calm = (f < 50) & (g < 50)
    assert np.corrcoef(f[calm], g[calm])[0, 1] > 0.99
    assert LoadCorrelation.of({"f": ArrivalTrace(f), "g": ArrivalTrace(g)}).score("f", "g") < 0


def test_few_periods_say_little() -> None:
    """The same likeness over ten periods scores a third of what it would with certainty, and one period scores 0."""
    few = ArrivalTrace([1, 5, 1, 7, 1, 1, 4, 2, 1, 9])
    assert LoadCorrelation.of({"f": few, "g": few}).score("f", "g") == pytest.approx(10 / 30)
    once = ArrivalTrace([3.0])
    assert LoadCorrelation.of({"f": once, "g": once}).score("f", "g") == 0.0


@pytest.mark.parametrize("rate", [0.0, 0.1, 1e-300, 1e15])
def test_a_constant_load_scores_zero(rate: float) -> None:
    """A load that never changes has no burst, rounding or not: score 0, no overlap, and all is as spare as it gets."""
    found = LoadCorrelation.of({"k": ArrivalTrace(np.full(CLOCK.size, rate), period_s=300.0), "a": _daily(0, 1)})
    assert found.score("k", "a") == found.score("k", "k") == found.burst_overlap("k", "a") == 0.0
    assert found.spare_share("k", "a") == 1.0


def test_lengths_and_periods_may_differ() -> None:
    """Only the time both cover is compared, in the longest period; what no period fills is left out."""
    fine = ArrivalTrace(np.repeat(_daily(0, 1).rates_rps, 5)[:-3], period_s=60.0)
    whole, part = _daily(0, 2), _daily(0, 2).slice(0.0, 86400.0)
    found = LoadCorrelation.of({"fine": fine, "whole": whole, "part": part, "short": ArrivalTrace([9.0])})
    assert found.score("fine", "whole") > 0.7
    assert found.score("whole", "part") == pytest.approx(288 / 308, abs=0.02)  # the means differ a little
    assert found.score("short", "whole") == 0.0
    assert found.spare_share("short", "whole") == 1.0


def test_functions_nobody_knows_are_neutral() -> None:
    """Unknown functions, the nameless one among them, neither attract nor repel."""
    found = LoadCorrelation.of({"a": _daily(0, 1)})
    assert found.score("a", "x") == found.score("", "a") == found.burst_overlap("a", "x") == 0.0
    assert found.spare_share("x", "a") == 1.0
    assert LoadCorrelation.of({}).matrix.shape == (0, 0)


rates = st.floats(0.0, 1e15) | st.sampled_from([0.0, 1.0, 1e-320, 1e-200])


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(rates, min_size=1, max_size=12)), st.floats(0.3, 4.0))
def test_measures_stay_within_bounds_and_survive_json(columns: dict[str, list[float]], period_s: float) -> None:
    """Whatever the rates, scores are symmetric and in -1..1, the other two in 0..1, and JSON gives the same bits."""
    found = LoadCorrelation.of({name: ArrivalTrace(rate) for name, rate in columns.items()}, period_s=period_s)
    assert (np.abs(found.matrix) <= 1.0).all()
    assert (found.matrix == found.matrix.T).all()
    assert LoadCorrelation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert not found.matrix.flags.writeable


def _by_definition(
    history: list[tuple[float, dict[str, float]]], half_life_s: float, f: str, g: str
) -> tuple[float, float, float]:
    """Correlation, overlap and spare share of two functions from the docstrings' words, weighed at the end."""
    end = history[-1][0]
    rows = []
    seen: dict[str, list[tuple[float, float]]] = {}
    for time_s, arrivals in history:
        burst = {}
        for name, rate in arrivals.items():
            past = seen.setdefault(name, [])
            weights = np.array([0.5 ** ((time_s - then) / half_life_s) for then, _ in past])
            mean = float(weights @ [each for _, each in past] / weights.sum()) if past else rate
            burst[name] = rate - mean if rate - mean > 1e-9 * mean else 0.0
            past.append((time_s, rate))
        if f in arrivals and g in arrivals:
            rows.append((0.5 ** ((end - time_s) / half_life_s), burst[f], burst[g], arrivals[g]))
    w, a, b, x = np.array(rows).T
    peak = max(rate * 0.5 ** ((end - then) / half_life_s) for then, rate in seen[g])
    cov = np.cov(a, b, aweights=w, ddof=0)
    score = cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]) * w.sum() / (w.sum() + 20)
    return score, (w * a)[b > 0].sum() / (w @ a), 1 - (w * a) @ x / ((w @ a) * peak)


def test_the_estimator_computes_the_definition() -> None:
    """Learnt period by period with gaps and a latecomer, the measures are the weighted ones of the whole history."""
    draw = np.random.default_rng(5)
    history: list[tuple[float, dict[str, float]]] = []
    time_s = 0.0
    for i in range(120):
        time_s += float(draw.choice([60.0, 60.0, 300.0]))
        base = float(draw.uniform(0, 10))
        arrivals = {"f": base + float(draw.uniform(0, 3)), "g": base + float(draw.uniform(0, 8))}
        if i % 7 == 3:
            del arrivals["f"]
        if i > 40:
            arrivals["late"] = float(draw.uniform(0, 5)) + (0 if i % 2 else base)
        history.append((time_s, arrivals))
    estimator = CorrelationEstimator(half_life_s=3600.0)
    for at, arrivals in history:
        estimator.observe(at, arrivals)
    found = estimator.correlation()
    for f, g in (("f", "g"), ("g", "f"), ("late", "f"), ("g", "late")):
        score, overlap, spare = _by_definition(history, 3600.0, f, g)
        assert found.score(f, g) == pytest.approx(score)
        assert found.burst_overlap(f, g) == pytest.approx(overlap)
        assert found.spare_share(f, g) == pytest.approx(max(0.0, spare))


def test_old_habits_are_forgotten() -> None:
    """Functions that used to burst together and now take turns score below 0 after some half-lives."""
    estimator = CorrelationEstimator(half_life_s=100.0, shrinkage=1.0)
    for i in range(300):
        burst = 9.0 * (i % 4 == 0)
        estimator.observe(float(i), {"f": 1 + burst, "g": 1 + burst})
    assert estimator.correlation().score("f", "g") > 0.9
    for i in range(300, 1300):
        estimator.observe(float(i), {"f": 1 + 9.0 * (i % 4 == 0), "g": 1 + 9.0 * (i % 4 == 2)})
    assert estimator.correlation().score("f", "g") < -0.2


observation = st.tuples(st.floats(-10, 1e9), st.dictionaries(st.sampled_from("abcd"), rates, max_size=3))


@given(st.lists(observation, max_size=15), st.integers(0, 15))
def test_a_restored_estimator_goes_on_bit_for_bit(history: list[tuple[float, dict[str, float]]], cut: int) -> None:
    """Writing and reading in the middle changes nothing that follows, for any rates and any order of times."""
    unbroken = CorrelationEstimator(half_life_s=1000.0, most_functions=3)
    resumed = CorrelationEstimator.from_dict(unbroken.to_dict())
    for i, (time_s, arrivals) in enumerate(history):
        if i == cut:
            resumed = CorrelationEstimator.from_dict(json.loads(json.dumps(resumed.to_dict())))
        for each in (unbroken, resumed):
            each.observe(time_s, arrivals)
    assert resumed.to_dict() == unbroken.to_dict()
    assert resumed.correlation() == unbroken.correlation()
    assert len(unbroken.functions) <= 3


def test_the_function_seen_longest_ago_makes_room() -> None:
    """With room for two, the third drops the one not seen for longest, and what is known of the others stays."""
    estimator = CorrelationEstimator(most_functions=2)
    for i in range(30):
        estimator.observe(i * 60.0, {"a": 1 + 5.0 * (i % 3 == 0), "b": 1 + 5.0 * (i % 3 == 0)})
    before = estimator.correlation().score("b", "b")
    estimator.observe(1800.0, {"b": 1.0})
    estimator.observe(1860.0, {"c": 1.0})
    assert estimator.functions == ("b", "c")
    assert estimator.correlation().score("b", "b") == pytest.approx(before, abs=0.02)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: LoadCorrelation.of([1]), "traces is"),  # type: ignore[arg-type]
        (lambda: LoadCorrelation.of({"a": 1}), r"traces\['a'\]"),  # type: ignore[dict-item]
        (lambda: LoadCorrelation.of({}, period_s=0.0), "period_s"),
        (lambda: LoadCorrelation.of({"a": _daily(0, 1)}, thresholds_rps={"a": float("nan")}), "thresholds_rps"),
        (lambda: LoadCorrelation(("a",), np.full((1, 1), 2.0), np.ones((1, 1)), np.ones((1, 1))), "matrix has numbers"),
        (
            lambda: LoadCorrelation(("a", "b"), np.array([[1, 0.5], [0, 1]]), np.ones((2, 2)), np.ones((2, 2))),
            "not symmetric",
        ),
        (lambda: CorrelationEstimator(half_life_s=0.0), "half_life_s"),
        (lambda: CorrelationEstimator().observe(0.0, {"a": -1.0}), r"arrivals_rps\['a'\]"),
        (lambda: CorrelationEstimator().observe(float("inf"), {}), "time_s"),
        (lambda: CorrelationEstimator(most_functions=1).observe(0.0, {"a": 1.0, "b": 1.0}), "most_functions"),
        (lambda: CorrelationEstimator.from_dict(CorrelationEstimator().to_dict() | {"sums": 3}), "estimator.sums"),
    ],
)
def test_bad_arguments_are_named(action: Any, message: str) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidArgumentError, match=message):
        action()
