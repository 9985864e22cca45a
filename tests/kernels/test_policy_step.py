"""The scalar step of the horizontal policy decides what `CoScaler` decides, observation by observation."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation
from dilu_core.kernels import policy_step as scalar
from dilu_core.solvers.policy_replay import parameter_rows

counts = st.integers(0, 6)
rates = st.one_of(st.sampled_from([0.0, 5.0, 10.0, 20.0, 47.0]), st.floats(0, 200))


@st.composite
def some_params(draw):
    """Parameters of both rules, with every optional figure known or not."""
    request = draw(st.sampled_from([100, 300]))
    window = draw(st.integers(1, 40))
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


@settings(max_examples=150)
@given(some_params(), observations, st.booleans())
def test_the_scalar_step_is_the_policy(params, rows, follows):
    """Same instances, change, reason and memory after every observation, known or not, under either rule."""
    policy, state = CoScaler(params), CoScaler(params).initial_state()
    row = parameter_rows([params], 1.0)[0]
    memory, samples, peaks = np.empty(scalar.STATE), np.empty(60), np.empty(scalar.MOST_PEAKS)
    scalar.forget(memory)
    now, planned = 0.0, None
    for elapsed, arrivals, ready, starting, in_flight, spare, p95 in rows:
        now = now + elapsed if math.isfinite(elapsed) else now
        if follows and planned is not None:
            ready, starting = planned, 0
        seen = Observation(None if math.isnan(elapsed) else now, arrivals, ready, starting, in_flight, spare, p95)
        decision, state = policy.decide(state, seen)
        told = (number(seen.time_s), *(number(each) for each in (arrivals, ready, starting, in_flight, spare, p95)))
        target, change, reason = scalar.policy_step(row, memory, samples, peaks, *told)
        planned = decision.instances
        assert (target, change) == (-1 if planned is None else planned, decision.change)
        assert scalar.REASONS[reason] == decision.reason.value
        remembered(state, memory, samples, params)


def remembered(state, memory, samples, params):
    """The scalar state holds what the policy's state holds; sums of seconds may round otherwise."""
    kept = params.lazy_samples if params.rule == "lazy" else params.short_s
    oldest, count = int(memory[scalar.OLDEST]), int(memory[scalar.SAMPLES])
    assert [samples[(oldest + k) % kept] for k in range(count)] == list(state.samples_rps)
    assert memory[scalar.PEAKS] == len(state.peaks)
    np.testing.assert_allclose(memory[scalar.HELD], max(state.peaks, default=0.0), rtol=1e-12)
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
    ):
        np.testing.assert_equal(memory[entry], number(getattr(state, name)), err_msg=name)
