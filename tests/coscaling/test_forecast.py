"""Forecasts are made where the past has earned them trust, launch ahead of a peak, and are dropped when they fail."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.forecast import Forecast, followed, passed
from dilu_core.coscaling.hold import Carried
from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams, HorizontalState
from dilu_core.coscaling.params import LAGS
from dilu_core.coscaling.policy import Observation, ScalingReason
from dilu_core.errors import InvalidArgumentError

PARAMS = HorizontalParams(
    10.0, 300, 600, cold_start_s=5.0, window_s=30, scale_in_cooldown_s=0.0, predict="season", least_confidence=0.5
)


def square(second: float, period: int = 120, busy: int = 30) -> float:
    return 90.0 if second % period < busy else 6.0


def run(scaler, load, seconds, *, ready=1, start=0, state=None):
    """Decisions by second, with instances that serve at once: what is ready at a second is what was decided before."""
    state, decisions = scaler.initial_state() if state is None else state, []
    for second in range(start, start + seconds):
        decision, state = scaler.decide(state, Observation(float(second), load(second), ready, 0))
        ready = decision.instances
        decisions.append(decision)
    return decisions, state


def test_a_learnt_period_launches_ahead_of_its_peak() -> None:
    """Two rounds of a square wave teach it; the third peak is met by all the instances it needs, seconds before."""
    decisions, _ = run(CoScaler(PARAMS), square, 600)
    ahead = [second for second, each in enumerate(decisions) if each.reason is ScalingReason.PREDICTED]
    assert ahead
    assert min(ahead) > 240
    for peak in (360, 480):
        assert any(5 <= peak - second <= 15 for second in ahead)  # a cold start, and a bucket more
        assert decisions[peak - 1].instances == 8  # 90 / 12, before any of those 90 came
    assert "period of 120 s, confidence 0." in decisions[ahead[-1]].detail
    assert decisions[ahead[-1]].inputs.arrivals_rps == 6.0


def test_without_forecasts_nothing_is_launched_ahead() -> None:
    """The same wave with `predict="off"` finds one instance at every peak."""
    decisions, _ = run(CoScaler(replace(PARAMS, predict="off")), square, 600)
    assert [decisions[peak - 1].instances for peak in (360, 480)] == [1, 1]
    assert ScalingReason.PREDICTED not in {each.reason for each in decisions}


def test_a_sure_period_lets_instances_go_before_the_window_is_over() -> None:
    """With a window as long as the lull, only who knows the period scales in: right after the peak."""
    params = replace(PARAMS, window_s=60)
    decisions, _ = run(CoScaler(params), square, 1200)
    released = [second for second, each in enumerate(decisions) if each.change < 0]
    early = [second % 120 for second in released if second > 700]
    assert early
    assert max(early) < 50  # the peak is over at 30, its window at 90
    assert "next 20 s: a period of 120 s" in decisions[released[-1]].detail


def test_a_spare_share_that_comes_and_goes_is_no_reason_to_let_go() -> None:
    """A peak that returns too soon to let go before, with a neighbour's leavings that jump: hardly a turn-round."""
    params = replace(PARAMS, window_s=180, scale_in_cooldown_s=30.0, cold_start_s=30.0)
    random, scaler = np.random.default_rng(1), CoScaler(params)
    state, ready, changes = scaler.initial_state(), 4, 0
    for second in range(1800):
        load = 40.0 + 30.0 * np.sin(second / 29.0) ** 2
        spare = float(random.uniform(0, 400))
        decision, state = scaler.decide(state, Observation(float(second), load, ready, 0, spare_milli=spare))
        ready = decision.instances or 0
        changes += second > 600 and decision.change != 0
    assert changes <= 4


def test_a_period_that_stops_is_forgotten() -> None:
    """After three missed peaks nothing is launched for the next, and its confidence is gone."""
    scaler = CoScaler(PARAMS)
    _, state = run(scaler, square, 720)
    assert state.forecast.lag == 24
    decisions, state = run(scaler, lambda second: 6.0, 720, start=720, state=state)
    assert any(each.reason is ScalingReason.PREDICTED for each in decisions[:200])
    assert all(each.change <= 0 for each in decisions[400:])
    assert state.forecast.lag == 0


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_not_taken_for_a_period(seed) -> None:
    """An hour of Poisson arrivals with random bursts and a random walk: no launch ahead at the default confidence."""
    random = np.random.default_rng(seed)
    walk = np.exp(np.cumsum(random.normal(0, 0.02, 3600)))
    loads = random.poisson(30.0 * walk / walk.mean()).astype(float).tolist()
    decisions, _ = run(CoScaler(replace(PARAMS, predict="season")), lambda second: loads[second], 3600, ready=3)
    assert sum(each.reason is ScalingReason.PREDICTED for each in decisions) <= 1


def test_a_known_period_counts_from_its_second_round_on() -> None:
    """Told the period, one round is enough; told a wrong one, the policy soon knows better."""
    known = CoScaler(replace(PARAMS, period_s=120.0))
    decisions, _ = run(known, square, 250)
    assert decisions[239].instances == 8
    wrong = CoScaler(replace(PARAMS, period_s=75.0))
    decisions, state = run(wrong, square, 1800)
    assert state.forecast.lag == 0
    assert all(each.reason is not ScalingReason.PREDICTED for each in decisions[1000:])


def test_a_long_known_period_fits_the_memory() -> None:
    """A day's period is kept in buckets of eleven minutes: the memory does not grow."""
    params = replace(PARAMS, period_s=86_400.0)
    assert params.bucket_s * LAGS >= 86_400
    assert params.lags == (128, 128)


def test_a_gap_in_the_data_leaves_the_phase_alone() -> None:
    """Half a minute without data in a lull: the next peak is met all the same."""
    scaler = CoScaler(PARAMS)
    decisions, state = run(scaler, square, 540)
    for second in range(540, 570):
        _, state = scaler.decide(state, Observation(float(second), None, 1, 0))
    decisions, state = run(scaler, square, 30, start=570, state=state)
    assert decisions[-1].instances == 8


def test_a_long_silence_begins_anew() -> None:
    """More unknown time than the memory spans leaves no memory."""
    forecast = followed(PARAMS, Forecast(), [3.0] * 60, Carried(1.0, 2.0))
    assert forecast.seen == 12
    assert passed(PARAMS, forecast, 30.0).history_rps == (3.0,) * 18
    assert passed(PARAMS, forecast, 1e9) == Forecast()


def test_a_trend_launches_before_the_load_is_there() -> None:
    """On a long ramp the damped trend stays ahead of the load and says so."""
    params = replace(PARAMS, predict="trend")
    decisions, _ = run(CoScaler(params), lambda second: 10.0 + 0.5 * second, 400)
    plain, _ = run(CoScaler(replace(params, predict="off")), lambda second: 10.0 + 0.5 * second, 400)
    assert any("a trend of +" in each.detail and each.change > 0 for each in decisions)
    assert all(mine.instances >= theirs.instances for mine, theirs in zip(decisions, plain, strict=True))
    assert sum(mine.instances > theirs.instances for mine, theirs in zip(decisions, plain, strict=True)) > 40


def test_a_function_at_zero_is_warmed_before_its_next_peak() -> None:
    """With a lull longer than the delay to zero, the instance of the next peak is there before its first request."""
    params = replace(PARAMS, min_instances=0, zero_delay_s=20.0)
    decisions, _ = run(CoScaler(params), lambda second: 40.0 if second % 120 < 30 else 0.0, 900)
    counts = [each.instances for each in decisions]
    assert 0 in counts[700:840]
    assert counts[839] == 4  # 40 / 12
    assert decisions[counts.index(0)].reason is ScalingReason.TO_ZERO
    held = [each for each in decisions[800:840] if each.reason is ScalingReason.TO_ZERO]
    assert not held  # what was launched ahead is not given up for want of requests


loads = st.lists(st.floats(0, 120), min_size=4, max_size=24)


@settings(max_examples=30, deadline=None)
@given(loads, st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1.0, 1.3, 2.0, 7.5]), st.integers(1, 9))
def test_more_of_the_same_load_never_means_fewer_instances(pattern, seed, factor, ready) -> None:
    """A load scaled up, before the same fleet: every answer at least as large, forecasts and releases included."""
    noise = np.random.default_rng(seed).uniform(0.9, 1.1, 400)
    scaler = CoScaler(replace(PARAMS, predict="both", least_confidence=0.2))
    less, more = scaler.initial_state(), scaler.initial_state()
    for second in range(400):
        load = float(pattern[second // 5 % len(pattern)] * noise[second])
        few, less = scaler.decide(less, Observation(float(second), load, ready, 0))
        many, more = scaler.decide(more, Observation(float(second), load * factor, ready, 0))
        assert (many.instances or 0) >= (few.instances or 0)


@settings(max_examples=30, deadline=None)
@given(loads, st.floats(0, 120), st.floats(0, 120), st.integers(0, 9), st.integers(200, 400))
def test_more_load_now_never_means_fewer_instances(pattern, load, more, ready, seconds) -> None:
    """After any past, a greater rate in this observation never lowers the answer."""
    scaler = CoScaler(replace(PARAMS, predict="both", least_confidence=0.2, min_instances=0, zero_delay_s=0.0))
    _, state = run(scaler, lambda second: pattern[second // 5 % len(pattern)], seconds)
    answers = [
        scaler.decide(state, Observation(float(seconds), rate, ready, 0))[0].instances or 0
        for rate in (load, load + more)
    ]
    assert answers[0] <= answers[1]


@settings(max_examples=15, deadline=None)
@given(loads, st.sampled_from([-3600.0, 86_400.0, 2.0**30]), st.sampled_from([0.25, 8.0]))
def test_when_it_happens_and_in_what_unit_changes_nothing(pattern, shift, unit) -> None:
    """The same load at another time, or in another unit before instances measured in it: the same answers."""
    scaler = CoScaler(replace(PARAMS, predict="both"))
    other = CoScaler(replace(scaler.params, capacity_rps=10.0 * unit))
    here, _ = run(scaler, lambda second: pattern[second // 5 % len(pattern)], 400)
    there, _ = run(scaler, lambda second: pattern[int(second - shift) // 5 % len(pattern)], 400, start=int(shift))
    scaled, _ = run(other, lambda second: unit * pattern[second // 5 % len(pattern)], 400)
    assert here == there
    assert [each.instances for each in here] == [each.instances for each in scaled]


@settings(max_examples=15, deadline=None)
@given(loads, st.integers(1, 399))
def test_a_restart_between_buckets_changes_no_forecast(pattern, at) -> None:
    """The memory travels as JSON text, to the last digit, and does not grow."""
    scaler = CoScaler(replace(PARAMS, predict="both", least_confidence=0.2))
    kept, _ = run(scaler, lambda second: pattern[second // 5 % len(pattern)], 400)
    decisions, state = run(scaler, lambda second: pattern[second // 5 % len(pattern)], at)
    text = json.dumps(state.to_dict(), allow_nan=False)
    restored = HorizontalState.from_dict(json.loads(text))
    assert restored == state
    assert len(text) < 8000
    instances = decisions[-1].instances
    rest, _ = run(
        scaler, lambda second: pattern[second // 5 % len(pattern)], 400 - at, ready=instances, start=at, state=restored
    )
    assert decisions + rest == kept


def test_a_state_of_version_1_goes_on_without_forecasts() -> None:
    """What an earlier version wrote is restored; its forecasts begin anew, its policy forecasts nothing."""
    _, state = run(CoScaler(replace(PARAMS, predict="off", late_weight=0.0)), square, 100)
    data = state.to_dict()
    old = {key: value for key, value in data.items() if key not in ("wanted_s", "forecast")}
    assert HorizontalState.from_dict({**old, "version": 1}) == state
    known = {key: value for key, value in PARAMS.to_dict().items() if key != "predict"}
    assert HorizontalParams.from_dict({**known, "version": 1}).predict == "off"
    assert HorizontalParams.from_dict(PARAMS.to_dict()) == PARAMS


def test_a_state_of_other_parameters_is_survived() -> None:
    """A memory of other buckets, or of one known period, forecasts nothing until it has learnt anew."""
    _, state = run(CoScaler(PARAMS), square, 600)
    for params in (replace(PARAMS, period_s=300.0), replace(PARAMS, predict="off"), replace(PARAMS, cold_start_s=60.0)):
        decisions, _ = run(CoScaler(params), square, 300, state=state, start=600)
        assert len(decisions) == 300


def anything(value: Any) -> Any:
    """`value`, hidden from type checkers that would refuse the misuse under test."""
    return value


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"history_rps": [1.0] * (LAGS + 1)}, "history_rps"),
        ({"history_rps": [-1.0]}, r"history_rps'\]\[0\]"),
        ({"errors": "none"}, "errors"),
        ({"lag": 3}, "lag"),
        ({"seen": 1.5}, "seen"),
        ({"level_rps": None}, r"level_rps'\] is None"),
        ({"seen": 2 * LAGS + 1}, "seen"),
        *(({name: [1e200]}, rf"{name}'\]\[0\]") for name in ("history_rps", "pending_rps", "errors")),
        *(({name: 1e200}, name) for name in Forecast._fields if name not in ("history_rps", "pending_rps", "errors")),
        *(({name: -1e200}, name) for name in ("age_s", "running_rps", "level_rps", "trend_rps", "stay_error")),
        ({"speed": 1.0}, "forecast"),
    ],
)
def test_corrupt_memories_are_refused_by_name(changes, named) -> None:
    """What no to_dict wrote is an InvalidArgumentError."""
    with pytest.raises(InvalidArgumentError, match=named):
        Forecast.from_dict({**Forecast().to_dict(), **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"predict": "always"}, "predict"),
        ({"predict": True}, "predict"),
        ({"least_confidence": 0.0}, "least_confidence"),
        ({"pre_warm_s": -1.0}, "pre_warm_s"),
        ({"period_s": 14.0}, "period_s is 14; expected at least 15 s"),
        ({"max_step_out": 0}, "max_step_out"),
        ({"max_step_in": 1.5}, "max_step_in"),
        ({"scale_out_cooldown_s": -1.0}, "scale_out_cooldown_s"),
        ({"from_zero_delay_s": "soon"}, "from_zero_delay_s"),
    ],
)
def test_bad_parameters_are_refused_by_name(changes, named) -> None:
    """Every parameter out of its bounds is an InvalidArgumentError that names it."""
    with pytest.raises(InvalidArgumentError, match=named):
        replace(PARAMS, **anything(changes))
