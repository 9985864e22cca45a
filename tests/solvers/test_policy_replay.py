"""Many replays at once give what `replay` gives one by one, on every back end."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.errors import InvalidArgumentError
from dilu_core.solvers.policy_replay import replay_many
from dilu_core.solvers.replay import replay
from dilu_core.traces import ArrivalTrace


def bursty(seed: int, seconds: int) -> ArrivalTrace:
    """A noisy load with bursts and silence, in no round numbers."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.choice([0.0, 5.0, 20.0, 60.0, 150.0], seconds // 10 + 1), 10)[:seconds]
    return ArrivalTrace(level * rng.uniform(0.5, 1.5, seconds))


@st.composite
def parameter_sets(draw):
    lazy_samples = draw(st.integers(2, 20))
    window = draw(st.integers(3, 40))
    request = draw(st.sampled_from([100, 300]))
    return HorizontalParams(
        draw(st.floats(3, 20)),
        request,
        request * draw(st.integers(1, 3)),
        slo_ms=draw(st.sampled_from([None, 137.0, 803.0, 5011.0])),
        base_latency_ms=draw(st.sampled_from([None, 51.0, 207.0])),
        cold_start_s=draw(st.sampled_from([0.0, 0.25, 3.0, 11.0, 1e9])),
        min_instances=draw(st.integers(0, 2)),
        max_instances=draw(st.integers(2, 30)),
        rule=draw(st.sampled_from(["co-scaling", "co-scaling", "lazy"])),
        lean=draw(st.floats(1, 2)),
        short_s=draw(st.integers(1, 3)),
        window_s=window,
        scale_in_load=draw(st.floats(0.5, 1)),
        scale_in_cooldown_s=draw(st.sampled_from([0.0, 7.0])),
        lazy_samples=lazy_samples,
        lazy_out=draw(st.integers(1, lazy_samples)),
        lazy_in=draw(st.integers(1, lazy_samples)),
        zero_delay_s=draw(st.sampled_from([0.0, 5.0])),
        stale_after_s=draw(st.sampled_from([1.5, 600.0])),
        predict=draw(st.sampled_from(["off", "season", "both"])),
        least_confidence=draw(st.sampled_from([0.05, 0.5])),
    )


def agree(figures, t, k, one):
    """The figures of pair (t, k) are those of a single replay."""
    assert figures.cold_starts[t, k] == one.cold_starts
    assert figures.direction_flips[t, k] == one.direction_flips
    for name in ("gpu_seconds", "reserved_gpu_seconds", "borrowed_gpu_seconds", "violation_rate"):
        np.testing.assert_allclose(
            getattr(figures, name)[t, k], getattr(one, name), rtol=1e-9, atol=1e-9, equal_nan=True, err_msg=name
        )


@settings(max_examples=50)
@given(
    st.lists(parameter_sets(), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(2, 90)), min_size=1, max_size=2),
    st.sampled_from([(0.1, 1.0), (1.0, 1.0), (0.5, 3.0), (0.25, 0.25)]),
    st.sampled_from([None, 0, 4]),
    st.sampled_from(["free", "constant", "varying"]),
    st.booleans(),
)
def test_many_replays_are_single_replays(sets, seeds, pace, initial, neighbours, saturating):
    """Every figure of every pair, for both rules, any pace, any neighbours and saturating rates."""
    traces = [bursty(*seed) for seed in seeds]
    spare = [
        {"free": None, "constant": 77.7, "varying": np.random.default_rng(t).uniform(0, 500, trace.rates_rps.size)}[
            neighbours
        ]
        for t, trace in enumerate(traces)
    ]
    rate = (lambda share: 20.0 * share / (share + 200.0)) if saturating else None
    options = {"rate_rps": rate, "initial_instances": initial, "step_s": pace[0], "control_s": pace[1]}
    figures = replay_many(traces, sets, spare_milli=None if neighbours == "free" else spare, backend="cpu", **options)
    assert figures.stats.counts["replays"] == len(sets) * len(traces)
    for t, trace in enumerate(traces):
        for k, params in enumerate(sets):
            agree(figures, t, k, replay(trace, CoScaler(params), params, spare_milli=spare[t], **options))


def test_every_back_end_replays_alike(backend: str) -> None:
    """Two traces under forty parameter sets of both rules."""
    traces = [bursty(1, 400), bursty(2, 250)]
    sets = [
        HorizontalParams(
            9.7,
            300,
            600,
            slo_ms=503.0,
            base_latency_ms=101.0,
            window_s=window,
            lean=lean,
            rule=rule,
            min_instances=least,
        )
        for window in (11, 60)
        for lean in np.linspace(1.0, 1.7, 5).tolist()
        for rule in ("co-scaling", "lazy")
        for least in (0, 1)
    ]
    spare = [None, np.random.default_rng(0).uniform(0, 400, 250)]
    figures = replay_many(traces, sets, spare_milli=spare, backend=backend)
    assert figures.stats.backend == backend
    for t, trace in enumerate(traces):
        for k in range(0, len(sets), 7):
            agree(figures, t, k, replay(trace, CoScaler(sets[k]), sets[k], spare_milli=spare[t]))


def test_more_work_than_one_task_is_cut_without_a_trace() -> None:
    """Pairs spread over threads give the same figures as alone."""
    trace, params = bursty(3, 300), HorizontalParams(9.7, 300, 600, slo_ms=300.0, base_latency_ms=90.0)
    alone = replay_many(trace, params)
    company = replay_many([trace] * 3, [params] * 500)
    assert np.all(company.gpu_seconds == alone.gpu_seconds[0, 0])
    assert np.all(company.violation_rate == alone.violation_rate[0, 0])
    for each in (company, pickle.loads(pickle.dumps(company))):
        assert not each.gpu_seconds.flags.writeable
        assert not each.direction_flips.flags.writeable


def test_without_an_slo_or_requests_nothing_is_said_of_lateness() -> None:
    """NaN, not zero."""
    silent, busy = ArrivalTrace([0.0] * 5), ArrivalTrace([9.0] * 5)
    with_slo, without = HorizontalParams(10.0, 300, 600, slo_ms=100.0), HorizontalParams(10.0, 300, 600)
    rates = replay_many([silent, busy], [with_slo, without]).violation_rate
    assert np.isnan(rates).tolist() == [[True, True], [False, True]]
    assert rates[1, 0] == 0.0


def test_bad_arguments_are_named() -> None:
    """Each message begins with the argument at fault."""
    trace, params = bursty(0, 20), HorizontalParams(10.0, 300, 600)
    other = HorizontalParams(10.0, 300, 500)
    for message, call in {
        "traces": lambda: replay_many([], params),
        "params_list": lambda: replay_many(trace, []),
        r"params_list\[0\]": lambda: replay_many(trace, [3]),  # type: ignore[list-item]
        "spare_milli": lambda: replay_many(trace, params, spare_milli=[1.0, 2.0]),
        r"spare_milli\[0\]\[1\]": lambda: replay_many(trace, params, spare_milli=[[1.0, math.nan]]),
        "rate_rps": lambda: replay_many(trace, [params, other], rate_rps=[0.0] * 601),
        "initial_instances": lambda: replay_many(trace, params, initial_instances=2**31),
        "backend": lambda: replay_many(trace, params, backend="tpu"),
        "control_s": lambda: replay_many(trace, params, step_s=0.3, control_s=1.0),
    }.items():
        with pytest.raises(InvalidArgumentError, match=f"^{message}"):
            call()
