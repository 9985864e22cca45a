"""The scalar step of the horizontal policy decides what `CoScaler` decides, observation by observation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.hold import stretches_held
from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation
from dilu_core.kernels import policy_columns as scalar
from dilu_core.kernels.policy_step import policy_step
from dilu_core.solvers.policy_replay import parameter_rows

counts = st.integers(0, 6)
rates = st.one_of(st.sampled_from([0.0, 5.0, 10.0, 20.0, 47.0]), st.floats(0, 200))


forecasts = st.fixed_dictionaries(
    {
        "predict": st.sampled_from(["off", "trend", "season", "both", "both"]),
        "least_confidence": st.sampled_from([0.1, 0.6]),
        "pre_warm_s": st.sampled_from([0.0, 1.5]),
        "period_s": st.sampled_from([None, None, 31.0, 900.0]),
        "late_weight": st.sampled_from([0.0, 0.7, 5.0, 40.0]),
    }
)


@st.composite
def some_params(draw):
    """Parameters of both rules, with every optional figure known or not."""
    request = draw(st.sampled_from([100, 300]))
    window = draw(st.one_of(st.integers(1, 40), st.just(240)))
    lazy_samples = draw(st.integers(1, 12))
    least = draw(st.integers(0, 2))
    return HorizontalParams(
        draw(st.sampled_from([3.0, 10.0])),
        request,
        request * draw(st.integers(1, 3)),
        slo_ms=draw(st.sampled_from([None, 200.0, 800.0])),
        base_latency_ms=draw(st.sampled_from([None, 50.0, 300.0])),
        min_instances=least,
        max_instances=draw(st.integers(max(1, least), 9)),
        rule=draw(st.sampled_from(["co-scaling", "co-scaling", "lazy"])),
        lean=draw(st.floats(1, 2)),
        spare_trust=draw(st.floats(0, 1)),
        short_s=draw(st.integers(1, min(5, window))),
        clear_s=draw(st.floats(0.5, 20)),
        window_s=window,
        scale_in_load=draw(st.floats(0.3, 1)),
        scale_in_cooldown_s=draw(st.sampled_from([0.0, 3.0])),
        lazy_samples=lazy_samples,
        lazy_out=draw(st.integers(1, lazy_samples)),
        lazy_in=draw(st.integers(1, lazy_samples)),
        zero_delay_s=draw(st.sampled_from([0.0, 4.0])),
        stale_after_s=draw(st.sampled_from([0.5, 8.0, 600.0])),
        cold_start_s=draw(st.sampled_from([0.0, 7.0])),
        max_step_out=draw(st.sampled_from([None, None, 2])),
        max_step_in=draw(st.sampled_from([None, None, 1])),
        scale_out_cooldown_s=draw(st.sampled_from([0.0, 0.0, 4.0])),
        from_zero_delay_s=draw(st.sampled_from([0.0, 0.0, 2.0])),
        **draw(forecasts),
    )


observations = st.lists(
    st.tuples(
        st.sampled_from([1.0, 1.0, 1.0, 0.3, 2.5, 7.0, 20.0, 0.0, -1.0, math.nan]),
        st.one_of(rates, rates, st.none()),
        st.one_of(counts, counts, counts, st.none()),
        st.one_of(st.just(0), counts, st.none()),
        st.one_of(st.none(), st.floats(0, 300), st.floats(0, 300)),
        st.one_of(st.none(), st.floats(0, 600)),
        st.one_of(st.none(), st.floats(0, 2000)),
    ),
    min_size=1,
    max_size=30,
)


def number(value):
    return math.nan if value is None else float(value)


class Both:
    """The policy and its scalar step, told the same; every answer and memory is compared."""

    def __init__(self, params):
        self.params, self.policy = params, CoScaler(params)
        self.state, self.row = self.policy.initial_state(), parameter_rows([params], 1.0)[0]
        self.memory, self.samples, self.peaks = np.empty(scalar.STATE), np.empty(60), np.empty(scalar.MOST_PEAKS)
        self.forecast, self.season = np.empty(scalar.FORECAST), np.full(2 * scalar.LAGS, np.nan)
        scalar.forget(self.memory)
        scalar.forget_forecast(self.forecast)

    def step(self, *told):
        decision, self.state = self.policy.decide(self.state, Observation(*told))
        arrays = self.memory, self.samples, self.peaks, self.forecast, self.season
        target, change, reason, bound = policy_step(self.row, *arrays, *(number(each) for each in told))
        assert (target, change) == (-1 if decision.instances is None else decision.instances, decision.change)
        assert (scalar.REASONS[reason], scalar.BOUNDS[bound]) == (decision.reason.value, decision.clipped_by)
        remembered(self.state, self.memory, self.samples, self.params)
        expected(self.state.forecast, self.forecast)
        if self.state.forecast.seen % 16 == 0:
            columns(self.state.forecast, self.forecast, self.season)
        return decision


@settings(max_examples=150)
@given(some_params(), observations, st.booleans())
def test_the_scalar_step_is_the_policy(params, rows, follows):
    """Same instances, change, reason and memory after every observation, known or not, under either rule."""
    both, now, planned = Both(params), 0.0, None
    for elapsed, arrivals, ready, starting, in_flight, spare, p95 in rows:
        now = now + elapsed if math.isfinite(elapsed) else now
        if follows and planned is not None:
            ready, starting = planned, 0
        told = None if math.isnan(elapsed) else now, arrivals, ready, starting, in_flight, spare, p95
        planned = both.step(*told).instances


@settings(max_examples=10, deadline=None)
@given(
    some_params(),
    st.lists(rates, min_size=3, max_size=40),
    st.floats(0, 0.2),
    st.integers(0, 2**32 - 1),
    st.sampled_from([5.0, 6.5, 11.0]),
)
def test_the_scalar_forecast_is_the_policys(params, pattern, noise, seed, pace):
    """Through hundreds of buckets of a load that returns, with noise, gaps and lost stretches: the same, to the bit."""
    both, random, planned = Both(replace(params, stale_after_s=300.0)), np.random.default_rng(seed), 1
    for k in range(320):
        rate = pattern[k % len(pattern)] * random.uniform(1.0 - noise, 1.0 + noise)
        lost = random.uniform() < 0.03
        now = k * pace + (random.uniform(0.0, 40.0) if k > 250 else 0.0)
        planned = both.step(now, None if lost else float(rate), planned, 0, None, 100.0, None).instances


def expected(forecast, entries):
    """The scalar forecast holds what the policy's holds."""
    for entry, name in (
        (scalar.AGE_S, "age_s"),
        (scalar.BUCKET_RPS, "running_rps"),
        (scalar.SEEN, "seen"),
        (scalar.LEVEL_RPS, "level_rps"),
        (scalar.TREND_RPS, "trend_rps"),
        (scalar.STAY_ERROR, "stay_error"),
        (scalar.WORST_ERROR, "worst_error"),
        (scalar.TREND_ERROR, "trend_error"),
        (scalar.LAG, "lag"),
        (scalar.CONFIDENCE, "confidence"),
        (scalar.TREND_CONFIDENCE, "trend_confidence"),
        (scalar.SOON_RPS, "soon_rps"),
        (scalar.AHEAD_RPS, "ahead_rps"),
        (scalar.BEHIND_RPS, "behind_rps"),
        (scalar.DRIFT_RPS, "drift_rps"),
        (scalar.VOUCHED, "vouched"),
    ):
        np.testing.assert_equal(entries[entry], number(getattr(forecast, name)), err_msg=name)
    assert entries[scalar.PENDING] == len(forecast.pending_rps)
    windows, hold = scalar.WINDOWS, forecast.hold
    for entry, name in (
        (scalar.LOAD_SUM, "load_rps"),
        (scalar.BUCKETS, "buckets"),
        (scalar.WINDOW, "window"),
        (scalar.NEXT_WINDOW, "next_window"),
    ):
        np.testing.assert_equal(entries[entry], getattr(hold, name), err_msg=name)
    for entry, each in ((scalar.HELD_RPS, hold.held_rps), (scalar.KEPT_RPS, hold.kept_rps)):
        assert entries[entry : entry + windows].tolist() == list(each or (0.0,) * windows)
    assert entries[scalar.MISSED_RPS :].tolist() == list(hold.missed_rps or (0.0,) * windows)


def columns(forecast, entries, season):
    """The same for the history and for the errors, except those of a known period, which stand elsewhere."""
    newest, count = int(entries[scalar.NEWEST]), len(forecast.history_rps)
    assert [season[(newest - k) % scalar.LAGS] for k in range(count)] == list(forecast.history_rps[::-1])
    if len(forecast.errors) > 1:
        assert season[scalar.LAGS :][: len(forecast.errors)].tolist() == list(forecast.errors[::-1])


def remembered(state, memory, samples, params):
    """The scalar state holds what the policy's state holds; sums of seconds may round otherwise."""
    kept = params.lazy_samples if params.rule == "lazy" else params.short_s
    oldest, count = int(memory[scalar.OLDEST]), int(memory[scalar.SAMPLES])
    assert [samples[(oldest + k) % kept] for k in range(count)] == list(state.samples_rps)
    assert memory[scalar.PEAKS] == len(state.peaks)
    held = state.peaks[-1 - stretches_held(params, state.forecast.hold) :]
    np.testing.assert_allclose(memory[scalar.HELD], max(held, default=0.0), rtol=1e-12)
    for entry, name in (
        (scalar.TIME_S, "time_s"),
        (scalar.PARTIAL_S, "partial_s"),
        (scalar.PARTIAL_REQUESTS, "partial_requests"),
        (scalar.FILLED_S, "peak_filled_s"),
        (scalar.KNOWN_S, "known_s"),
        (scalar.QUIET_S, "quiet_s"),
        (scalar.SINCE_CHANGE_S, "since_change_s"),
        (scalar.SPARE_MILLI, "spare_milli"),
        (scalar.DELIVERED, "delivered"),
        (scalar.SHOWN, "shown"),
        (scalar.IN_FLIGHT, "in_flight"),
        (scalar.READY, "ready"),
        (scalar.WANTED_S, "wanted_s"),
    ):
        np.testing.assert_equal(memory[entry], number(getattr(state, name)), err_msg=name)
