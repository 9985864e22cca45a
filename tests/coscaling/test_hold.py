"""Peaks are held for as long as the past says that it pays: against sums taken anew, and by what a policy then does."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.forecast import Forecast, followed, passed
from dilu_core.coscaling.hold import Carried, Hold, stretches_held, window_held_s
from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams, HorizontalState
from dilu_core.coscaling.params import HELD_STRETCHES, LAGS
from dilu_core.coscaling.policy import Observation
from dilu_core.errors import InvalidArgumentError
from dilu_core.solvers.replay import replay
from dilu_core.traces import ArrivalTrace

PARAMS = HorizontalParams(10.0, 300, 600, window_s=240, late_weight=2.0, predict="off", slo_ms=300.0)
LONGEST = len(HELD_STRETCHES) - 1
CARRIED = Carried(1.2, 1.5)


def after(params: HorizontalParams, bucket_rps: list[float], carried: Carried = CARRIED) -> Hold:
    """What is known of the windows after buckets of one load each."""
    seconds = [rate for rate in bucket_rps for _ in range(params.bucket_s)]
    return followed(params, Forecast(), seconds, carried).hold


def losses_anew(params: HorizontalParams, loads: list[float], carried: Carried) -> list[float]:
    """The loss of each window by its definition: every bucket once more, weighted by its age."""
    fade = 1.0 - 1.0 / 128.0
    weights = [fade ** (len(loads) - 1 - t) for t in range(1, len(loads))]
    peak = max(loads[-129:])
    found = []
    for stretches in (1, 2, 3, 6, 12):
        window_s = min(params.window_s, stretches * -(-params.window_s // 12))
        width = min(-(-window_s // params.bucket_s), 128)
        met = [max(loads[max(0, t - width, t - 128) : t]) for t in range(1, len(loads))]
        held = [load / carried.lean for load in met]
        launched = [0.0] + [max(0.0, now - before) for before, now in pairwise(held)]
        late = [
            load if load > each * carried.full * (1 + 1e-9) else 0.0 for load, each in zip(loads[1:], held, strict=True)
        ]
        first = 0.0 if stretches == 12 else peak * (1.0 - sum(weights) / 128.0)
        kept = sum(w * (h + more) for w, h, more in zip(weights, held, launched, strict=True))
        missed = first + sum(w * each for w, each in zip(weights, late, strict=True))
        load = sum(w * each for w, each in zip(weights, loads[1:], strict=True))
        found.append(kept / (sum(weights) * peak) + (params.late_weight * missed / load if load > 0.0 else 0.0))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.floats(0, 200), st.just(0.0), st.just(50.0)), min_size=2, max_size=180),
    st.sampled_from([36, 60, 240, 600]),
    st.sampled_from([0.3, 2.0, 30.0]),
    st.sampled_from([Carried(1.0, 1.0), Carried(1.2, 1.5), Carried(1.5, 2.0)]),
)
def test_the_window_is_the_longest_of_those_that_lose_least(loads, window_s, weight, carried) -> None:
    """The sums that fade with every bucket say what all buckets say when they are gone through anew."""
    params = replace(PARAMS, window_s=window_s, late_weight=weight)
    hold = after(params, loads, carried)
    if max(loads[-129:]) == 0.0:
        assert hold.next_window == LONGEST or max(loads) > 0.0
        return
    losses = losses_anew(params, loads, carried)
    allowed = 1.05 * min(losses)
    assert losses[hold.next_window] <= allowed * (1 + 1e-9)
    assert all(loss > allowed * (1 - 1e-9) for loss in losses[hold.next_window + 1 :])


def test_the_choice_counts_from_the_next_bucket_on() -> None:
    """The window in force is the one that was chosen without the newest bucket."""
    loads = [100.0, *(20.0 + 2.0 * k for k in range(120))]
    holds = [after(PARAMS, loads[:count]) for count in range(2, len(loads))]
    assert [each.window for each in holds[1:]] == [each.next_window for each in holds[:-1]]
    assert len({each.window for each in holds}) > 1


def test_a_load_that_moves_slowly_is_held_shortly_and_only_once_that_is_known() -> None:
    """A sine of half an hour never jumps, so holding it pays for nothing; at first the whole window is held."""
    loads = [60.0 + 40.0 * float(np.sin(2 * np.pi * t / 180)) for t in range(360)]
    windows = [after(PARAMS, loads[:count]).next_window for count in (2, 10, 360)]
    assert windows[0] == LONGEST
    assert windows[-1] <= 2  # a minute at most


@pytest.mark.parametrize(("weight", "held_s"), [(0.02, 20), (5.0, 240)])
def test_bursts_that_return_are_held_for_if_lateness_is_worth_it(weight: float, held_s: int) -> None:
    """Bursts every three minutes, met only by who remembers the last one: it depends on the price of being late."""
    loads = [100.0 if t % 18 == 0 else 10.0 for t in range(400)]
    params = replace(PARAMS, late_weight=weight)
    assert window_held_s(params, after(params, loads)) == held_s


def test_without_a_weight_the_window_is_as_given() -> None:
    """Nothing is weighed, and nothing that was weighed before counts."""
    fixed = replace(PARAMS, late_weight=0.0)
    assert after(fixed, [10.0, 100.0] * 50) == Hold()
    assert stretches_held(fixed, Hold(window=0)) == HELD_STRETCHES[LONGEST]
    assert window_held_s(fixed, Hold(window=0)) == 240
    assert window_held_s(PARAMS, Hold(window=0)) == 20


def test_a_bucket_with_a_gap_weighs_no_window() -> None:
    """Of a load that is known in part nobody can say whether it would have been met."""
    forecast = followed(PARAMS, Forecast(), [30.0] * 40, CARRIED)
    broken = followed(PARAMS, forecast, [90.0] * 5, CARRIED)
    assert passed(PARAMS, broken, 5.0).hold == forecast.hold
    assert followed(PARAMS, broken, [90.0] * 5, CARRIED).hold != forecast.hold


def test_what_a_trusted_period_expects_counts_as_met() -> None:
    """Bursts that a forecast launches ahead of need no window that reaches back to the last one."""
    loads = [100.0 if t % 18 == 0 else 10.0 for t in range(400)]
    params = replace(PARAMS, late_weight=5.0, predict="season")
    assert window_held_s(params, after(params, loads)) < 240


def test_a_window_of_a_second_and_a_long_cold_start_are_no_special_case() -> None:
    """Windows shorter than a bucket reach one bucket back, and none reaches beyond what is remembered."""
    tiny = replace(PARAMS, window_s=1, short_s=1)
    assert tiny.held_buckets == (1, 1, 1, 1, 1)
    assert after(tiny, [5.0, 80.0] * 40).next_window == LONGEST  # all the same: the longest
    vast = replace(PARAMS, window_s=86_400)
    assert vast.held_buckets[-1] == LAGS
    slow = replace(PARAMS, cold_start_s=600.0)
    assert slow.held_buckets == (1, 1, 1, 1, 1)


def sine(seconds: int) -> ArrivalTrace:
    """A load that moves slowly."""
    rates = 40.0 + 30.0 * np.sin(np.arange(seconds) / 90.0)
    return ArrivalTrace(np.random.default_rng(3).poisson(rates).astype(float), name="sine")


def test_a_learnt_window_saves_without_being_late() -> None:
    """On a slow sine: a tenth fewer GPU-seconds than with the whole window, and next to nothing late."""
    trace = sine(3600)
    figures = {}
    for weight in (0.0, 2.0):
        params = replace(PARAMS, late_weight=weight, base_latency_ms=100.0)
        result = replay(trace, CoScaler(params), params, spare_milli=200.0)
        figures[weight] = result.gpu_seconds, result.violation_rate
    assert figures[2.0][0] < 0.9 * figures[0.0][0]
    assert figures[2.0][1] < 0.005


def test_constant_load_never_turns_round_with_a_learnt_window() -> None:
    """Poisson arrivals at a rate of several instances, under the defaults: nothing is launched after a removal."""
    for rate in (33.0, 71.0, 120.0):
        trace = ArrivalTrace(np.random.default_rng(int(rate)).poisson(rate, 2400).astype(float), name="constant")
        params = HorizontalParams(10.0, 300, 600, slo_ms=300.0, base_latency_ms=100.0)
        assert replay(trace, CoScaler(params), params, spare_milli=250.0).direction_flips == 0


def test_the_memory_travels_as_json() -> None:
    """To the last digit, as part of the policy's state; an earlier version's state begins to learn anew."""
    scaler = CoScaler(replace(PARAMS, predict="season"))
    state = scaler.initial_state()
    for second in range(500):
        _, state = scaler.decide(state, Observation(float(second), 30.0 + second % 70, 4, 0, spare_milli=100.0))
    assert state.forecast.hold.held_rps
    data = json.loads(json.dumps(state.to_dict(), allow_nan=False))
    assert HorizontalState.from_dict(data) == state
    forecast = {key: value for key, value in data["forecast"].items() if key != "hold"}
    earlier = HorizontalState.from_dict({**data, "version": 2, "forecast": forecast})
    assert earlier == state._replace(forecast=state.forecast._replace(hold=Hold()))
    known = {key: value for key, value in PARAMS.to_dict().items() if key != "late_weight"}
    assert HorizontalParams.from_dict({**known, "version": 2}).late_weight == 0.0
    assert HorizontalParams.from_dict(known).late_weight == HorizontalParams(1.0, 1, 1).late_weight


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"held_rps": [1.0]}, r"held_rps'\] is \[1.0\]; expected a list of 5 numbers"),
        ({"held_rps": [1.0] * 5}, "columns of different lengths"),
        ({"kept_rps": 3}, "kept_rps"),
        ({"missed_rps": [1.0, 1.0, -1.0, 1.0, 1.0]}, r"missed_rps'\]\[2\]"),
        ({"load_rps": -1.0}, "load_rps"),
        ({"buckets": 1000.0}, "buckets"),
        ({"window": 5}, "window"),
        ({"next_window": 1.5}, "next_window"),
        ({"speed": 1.0}, "hold"),
    ],
)
def test_corrupt_memories_are_refused_by_name(changes, named) -> None:
    """What no to_dict wrote is an InvalidArgumentError."""
    with pytest.raises(InvalidArgumentError, match=named):
        Forecast.from_dict({**Forecast().to_dict(), "hold": {**Hold().to_dict(), **changes}})


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "much", None, True])
def test_a_weight_that_is_none_is_refused_by_name(weight) -> None:
    """Every parameter out of its bounds is an InvalidArgumentError that names it."""
    with pytest.raises(InvalidArgumentError, match="late_weight"):
        replace(PARAMS, late_weight=weight)


def test_a_policy_that_forecasts_nothing_forgets_what_was_forecast() -> None:
    """A state from before goes on with parameters that look at neither the past nor the future beyond the window."""
    forecasting = CoScaler(replace(PARAMS, predict="season"))
    state = forecasting.initial_state()
    for second in range(1800):
        load = 300.0 if second % 300 < 40 else 20.0
        _, state = forecasting.decide(state, Observation(float(second), load, 30, 0))
    assert state.forecast.history_rps
    plain = CoScaler(replace(PARAMS, predict="off", late_weight=0.0))
    _, state = plain.decide(state, Observation(1800.0, 20.0, 30, 0))
    assert state.forecast == Forecast()
    _, state = plain.decide(state, Observation(1801.0, None, 30, 0))
    assert state.forecast == Forecast()


def test_the_age_of_a_longer_bucket_closes_one_of_the_new_ones() -> None:
    """After a restart with a shorter cold start, no bucket of a second is entered."""
    slow = replace(PARAMS, cold_start_s=600.0)
    forecast = followed(slow, Forecast(), [20.0] * 590, CARRIED)
    assert followed(PARAMS, forecast, [20.0] * 20, CARRIED).seen == 2  # not one a second


def test_the_greatest_sums_are_read_back() -> None:
    """Loads at the edge of what a policy believes, for longer than anything is remembered."""
    forecast = followed(PARAMS, Forecast(), [9e11] * 10 * 400, Carried(0.1, 0.1))
    assert Forecast.from_dict(json.loads(json.dumps(forecast.to_dict()))) == forecast
