"""The fluid replays agree with a discrete-event simulation of single requests, as far as a fluid can.

What must be equal: instances, cold starts, turn-rounds and reserved GPU-seconds, where the policy is told the same (a
decision that hangs on a single request in flight may come one control period apart).
What may differ: a fluid request waits for its own service at most, so that latencies differ by up to one execution and
one step; and a burst borrows what it needs, where an instance that serves single requests borrows all it can while one
waits. What differs without bound: a trace of mean rates holds none of the randomness of single requests. At 95 % of
what four instances serve without bursting, Poisson arrivals wait hundreds of milliseconds where mean rates wait none.
Their counts per step hold it (`ArrivalTrace.poisson`), and a replay of those agrees again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.errors import InvalidArgumentError
from dilu_core.solvers.replay import replay
from dilu_core.solvers.replay_oracle import arrival_times, oracle_replay, oracle_shared_replay
from dilu_core.solvers.shared_replay import replay_shared
from dilu_core.solvers.shared_tenants import ReplayTenant
from dilu_core.traces import ArrivalTrace
from tests.scripted_policy import Script

PARAMS = HorizontalParams(10.0, 300, 600, slo_ms=300.0, base_latency_ms=100.0)
STEP_MS, EXECUTION_MS = 100.0, 100.0
CLOSE_MS = STEP_MS + EXECUTION_MS


def counted(trace, seed, step_s=0.1):
    """The single requests of `arrival_times` as a trace of counts per step."""
    steps = round(trace.duration_s / step_s)
    at = (arrival_times(trace, "poisson", seed) / step_s).astype(int)
    return ArrivalTrace(np.bincount(at, minlength=steps)[:steps] / step_s, period_s=step_s)


def agree(fluid, events, *, late=0.02, borrowed=0.06, postponed=0, latency=0.0):
    """Equal in what is counted, close in what is measured; `postponed` launches may come a control period apart."""
    assert fluid.reserved_gpu_seconds == pytest.approx(events.reserved_gpu_seconds, abs=0.3 * postponed + 1e-6)
    for name in ("cold_starts", "direction_flips", "peak_instances"):
        assert getattr(fluid, name) == getattr(events, name), name
    assert fluid.requests == pytest.approx(events.requests, abs=1.0)
    assert fluid.borrowed_gpu_seconds == pytest.approx(events.borrowed_gpu_seconds, rel=borrowed, abs=0.5)
    assert fluid.violation_rate == pytest.approx(events.violation_rate, abs=late)
    for name in ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms"):
        assert getattr(fluid, name) == pytest.approx(getattr(events, name), rel=latency, abs=CLOSE_MS), name


def test_the_reference_itself_solves_a_queue_by_hand():
    """Requests every 50 ms from 25 ms on, served in 100 ms each: the k-th (from 0) waits 50 k ms."""
    trace = ArrivalTrace([20.0] * 4)
    result = oracle_replay(trace, Script(), PARAMS, spare_milli=0.0, initial_instances=1)
    assert result.latencies_ms.tolist() == pytest.approx([100.0 + 50.0 * k for k in range(80)])
    assert result.backlog_left == 80 - 40
    assert result.gpu_seconds == pytest.approx(4 * 0.3)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_the_reference_itself_knows_the_queue_of_textbooks(load):
    """Poisson arrivals before one server of constant time: mean wait load / (2 (1 - load)) services (Pollaczek)."""
    trace = ArrivalTrace.constant(load * 10.0, duration_s=900.0)
    result = oracle_replay(trace, Script(), PARAMS, spare_milli=0.0, initial_instances=1, spacing="poisson", seed=5)
    wait_ms = load / (2.0 * (1.0 - load)) * 100.0
    assert result.latencies_ms.mean() - 100.0 == pytest.approx(wait_ms, rel=0.2)


LOADS = {
    "light": [8.0] * 40,
    "critical": [19.0] * 40,
    "burst": [12.0] * 25 + [60.0] * 25 + [12.0] * 40,
    "overload": [18.0] * 20 + [70.0] * 20,
}


@pytest.mark.parametrize("rule", ["co-scaling", "lazy"])
@pytest.mark.parametrize("spare", [0.0, None])
@pytest.mark.parametrize("load", LOADS)
def test_evenly_spaced_requests_are_replayed_to_the_letter(load, spare, rule):
    """With the policy in the loop: the decisions are the same, and every figure is within one request's time."""
    params = HorizontalParams(10.0, 300, 600, slo_ms=300.0, base_latency_ms=100.0, rule=rule)
    options = {"spare_milli": spare, "initial_instances": 2}
    trace = ArrivalTrace(LOADS[load])
    fluid = replay(trace, CoScaler(params), params, **options)
    agree(fluid, oracle_replay(trace, CoScaler(params), params, **options), postponed=1)


@pytest.mark.parametrize("load", ["burst", "overload"])
def test_random_requests_are_replayed_from_their_counts(load):
    """Told the same counts, the policy decides the same; figures stay within one execution and one step."""
    trace = ArrivalTrace(LOADS[load])
    fluid = replay(counted(trace, 7), CoScaler(PARAMS), PARAMS, initial_instances=2)
    events = oracle_replay(trace, CoScaler(PARAMS), PARAMS, initial_instances=2, spacing="poisson", seed=7)
    agree(fluid, events, borrowed=0.1, postponed=1)


def test_mean_rates_do_not_know_how_single_requests_queue():
    """At 95 % without bursting: mean rates wait for nothing, single ones for long; their counts per step know it."""
    trace, options = ArrivalTrace.constant(38.0, duration_s=100.0), {"spare_milli": 0.0, "initial_instances": 4}
    smooth = replay(trace, Script(), PARAMS, **options)
    events = oracle_replay(trace, Script(), PARAMS, **options, spacing="poisson", seed=3)
    assert smooth.latency_p95_ms == pytest.approx(100.0)
    assert events.latency_p95_ms > 500.0
    agree(replay(counted(trace, 3), Script(), PARAMS, **options), events)


def test_batches_serve_what_their_rate_says():
    """Batches of 8 that take 200 ms, under an overload that fills them: latencies within a batch and a half.

    What the reference borrows while batches are not full, the fluid does not.
    """
    params = HorizontalParams(40.0, 300, 600, slo_ms=600.0, base_latency_ms=200.0)
    trace = ArrivalTrace([60.0] * 10 + [130.0] * 15 + [60.0] * 10)
    fluid = replay(trace, Script(), params, initial_instances=1)
    events = oracle_replay(trace, Script(), params, initial_instances=1, batch=8)
    assert fluid.latency_p95_ms == pytest.approx(events.latency_p95_ms, abs=300.0)
    assert fluid.violation_rate == pytest.approx(events.violation_rate, abs=0.05)
    assert fluid.borrowed_gpu_seconds == pytest.approx(events.borrowed_gpu_seconds, rel=0.2)


def test_a_saturating_burst_serves_the_same():
    """Where the burst brings half of its share, the queue of an overload is the same in both."""
    rates = [share / 30.0 if share < 300 else 10.0 + (share - 300) / 60.0 for share in range(601)]
    trace = ArrivalTrace([14.0] * 10 + [25.0] * 10 + [4.0] * 20)
    options = {"rate_rps": rates, "initial_instances": 1, "spare_milli": [300.0] * 20 + [150.0] * 20}
    agree(replay(trace, Script(), PARAMS, **options), oracle_replay(trace, Script(), PARAMS, **options), borrowed=0.12)


@settings(max_examples=12)
@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=12),
    st.lists(st.integers(-2, 2), max_size=10),
    st.sampled_from([0.0, 2.0, 3.5]),
    st.sampled_from([0.0, 120.0, None]),
)
def test_any_fleet_costs_the_same(load, changes, cold_start_s, spare):
    """Whatever a script launches and gives up, both pay for the same instance-seconds and count the same starts."""
    params = HorizontalParams(10.0, 300, 600, slo_ms=300.0, base_latency_ms=100.0, cold_start_s=cold_start_s)
    trace = ArrivalTrace(np.repeat(load, 2).astype(float))
    options = {"spare_milli": spare, "initial_instances": 1}
    fluid = replay(trace, Script(*changes), params, **options)
    events = oracle_replay(trace, Script(*changes), params, **options)
    assert fluid.reserved_gpu_seconds == pytest.approx(events.reserved_gpu_seconds)
    assert (fluid.cold_starts, fluid.direction_flips) == (events.cold_starts, events.direction_flips)
    assert fluid.backlog_left == pytest.approx(events.backlog_left, abs=2.0 * fluid.peak_instances + 2.0)


def tenants(shift):
    """Two functions that burst, `shift` seconds apart, beside training on every GPU."""
    burst = ArrivalTrace([8.0] * 20 + [30.0] * 20 + [8.0] * 30)
    return [
        ReplayTenant("a", PARAMS, burst, CoScaler(PARAMS)),
        ReplayTenant("b", PARAMS, burst.shifted(shift), CoScaler(PARAMS)),
        ReplayTenant("t", HorizontalParams(50.0, 100, 1000), kind="training", instances=2),
    ]


@pytest.mark.parametrize("sharing", ["work-conserving", "time-slices", "hard-caps"])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_neighbours_on_shared_gpus_are_replayed_to_the_letter(sharing, shift):
    """In phase or not: the same launches, refusals included, the same training, and latencies within a request's time.

    Under hard caps an instance that executes fills its cap, and so borrows more than the fluid; and which of several
    servers takes the next request then decides who slows whom, which a queue of ten seconds adds up to one second.
    """
    options = {"postponed": 1} if sharing != "hard-caps" else {"postponed": 1, "borrowed": 1.0, "latency": 0.15}
    fluid = replay_shared(tenants(shift), gpus=2, sharing=sharing)
    events = oracle_shared_replay(tenants(shift), gpus=2, sharing=sharing)
    for name in "ab":
        if sharing == "hard-caps":
            assert fluid.functions[name].borrowed_gpu_seconds <= events[name].borrowed_gpu_seconds + 0.1
        agree(fluid.functions[name], events[name], **options)
    assert fluid.training["t"].samples == pytest.approx(events["t"].samples, rel=0.005)
    assert fluid.training["t"].borrowed_gpu_seconds == pytest.approx(events["t"].borrowed_gpu_seconds, rel=0.005)


def test_random_neighbours_are_replayed_from_their_counts():
    """Poisson arrivals of both functions, counted per step: the same launches, training within 1 %."""
    everyone = tenants(30.0)
    drawn = [
        each if each.trace is None else replace(each, trace=counted(each.trace, 11 + number))
        for number, each in enumerate(everyone)
    ]
    fluid = replay_shared(drawn, gpus=2)
    events = oracle_shared_replay(everyone, gpus=2, spacing="poisson", seed=11)
    for name in "ab":
        agree(fluid.functions[name], events[name], late=0.03, borrowed=0.3, postponed=1)
    assert fluid.training["t"].samples == pytest.approx(events["t"].samples, rel=0.01)


def test_a_gang_that_trains_beside_a_burst_is_replayed():
    """Workers that wait for the slowest lose what the busiest GPU takes; both say how much."""
    trace = ArrivalTrace([4.0] * 20 + [18.0] * 20)

    def both():
        gang = HorizontalParams(50.0, 300, 1000)
        return [
            ReplayTenant("a", PARAMS, trace, Script(), instances=1),
            ReplayTenant("t", gang, kind="training", instances=2, gang=True),
        ]

    fluid, events = replay_shared(both(), gpus=2), oracle_shared_replay(both(), gpus=2)
    assert fluid.training["t"].samples == pytest.approx(events["t"].samples, rel=0.03)


def test_arrivals_follow_the_trace():
    """Evenly spaced ones to the request, random ones in the mean, each reproducible from its seed."""
    trace = ArrivalTrace([0.0, 10.0, 40.0, 0.0], period_s=10.0)
    even = arrival_times(trace, "even", 0)
    assert even.size == 500
    assert np.histogram(even, [0, 10, 20, 30, 40])[0].tolist() == [0, 100, 400, 0]
    first, again, other = (arrival_times(trace, "poisson", seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:50], other[:50])
    assert abs(first.size - 500) < 100
    assert (np.diff(first) >= 0.0).all()
    with pytest.raises(InvalidArgumentError, match="spacing"):
        arrival_times(trace, "odd", 0)
