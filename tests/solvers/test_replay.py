"""A replay agrees with a packet-by-packet simulation that shares no code with it, and with queues solved by hand."""

from __future__ import annotations

import math
import warnings
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation
from dilu_core.coscaling.staged import StagedPolicy
from dilu_core.errors import InvalidArgumentError
from dilu_core.result import TerminationReason
from dilu_core.solvers.replay import replay
from dilu_core.solvers.replay_measures import waits_s
from dilu_core.traces import ArrivalTrace
from tests.scripted_policy import Script


def params(**changes):
    return HorizontalParams(10.0, 300, 600, **{"slo_ms": 500.0, "base_latency_ms": 100.0, **changes})


def packet_replay(trace, policy, p, spare, initial):
    """One packet of requests per 0.1 s, a list of instances with their ready times, loops and nothing else."""
    step, queue, packets = 0.1, deque(), []
    ready_at = [0.0] * initial
    state, reserved, borrowed, launched, flips, last = policy.initial_state(), 0.0, 0.0, 0, 0, 0
    arrived = 0.0
    seconds = len(trace.rates_rps)
    for tick in range(seconds * 10):
        now = tick * step
        second = tick // 10
        ready = sum(at <= now + 1e-9 for at in ready_at)
        if tick and tick % 10 == 0:
            share = min(p.limit_milli, p.request_milli + int(spare[second - 1]))
            waiting = sum(packet[1] for packet in queue)
            served = min(arrived, ready * p.capacity_rps * share / p.request_milli)
            seen = Observation(
                now, arrived, ready, len(ready_at) - ready, waiting + served * p.base_latency_ms / 1000, share - 300.0
            )
            decision, state = policy.decide(state, seen)
            change = max(decision.change, -len(ready_at))  # what does not exist cannot be removed
            for _ in range(change):
                ready_at.append(now + p.cold_start_s)
                launched += 1
            for _ in range(-change):
                ready_at.remove(max(ready_at))
            if change:
                flips += (change > 0) != (last > 0) and last != 0
                last = change
            arrived = 0.0
            ready = sum(at <= now + 1e-9 for at in ready_at)
        reserved += len(ready_at) * 0.3 * step
        mass = float(trace.rates_rps[second]) * step
        arrived += mass
        if mass:
            packet = [now, mass, mass, None]  # when, left, size, when its middle left
            queue.append(packet)
            packets.append(packet)
        share = min(p.limit_milli, p.request_milli + int(spare[second]))
        budget = whole = ready * p.capacity_rps * share / p.request_milli * step
        in_queue = sum(packet[1] for packet in queue)
        speed = max(in_queue, 1e-300) if in_queue <= whole else whole  # served evenly over the step
        done = 0.0
        while queue and budget > 1e-12:
            packet = queue[0]
            part = min(budget, packet[1])
            past_middle = packet[1] - packet[2] / 2
            if packet[3] is None and part >= past_middle - 1e-12:
                packet[3] = now + step * (done + past_middle) / speed
            packet[1] -= part
            budget -= part
            done += part
            if packet[1] <= 1e-12:
                queue.popleft()
            else:
                break
        if ready:
            borrowed += max(0.0, done / (ready * p.capacity_rps * step) - 1.0) * 0.3 * ready * step
    weights = np.array([packet[2] for packet in packets])
    left = np.array([math.inf if packet[3] is None else packet[3] for packet in packets])
    latency = np.maximum(left - np.array([packet[0] for packet in packets]) - step / 2, 0) * 1000 + p.base_latency_ms
    # those who never left wait at least for the end of the trace
    late = weights[latency > p.slo_ms].sum() / max(weights.sum(), 1e-300)
    return reserved, borrowed, late, launched, flips, sum(packet[1] for packet in queue), latency


rates = st.lists(st.integers(0, 60), min_size=2, max_size=40)


@settings(max_examples=40)
@given(rates, st.lists(st.integers(-2, 3), max_size=8), st.sampled_from([0.0, 2.0, 7.0]), st.integers(0, 4), st.data())
def test_a_scripted_replay_agrees_with_packets(load, changes, cold_start_s, initial, data):
    """Cost, waiting, cold starts and flips equal those of the packet simulation, whatever the fleet does."""
    trace = ArrivalTrace(np.repeat(load, 3).astype(float))
    spare = data.draw(st.lists(st.integers(0, 400), min_size=3 * len(load), max_size=3 * len(load)))
    p = params(cold_start_s=cold_start_s)
    result = replay(trace, Script(*changes), p, spare_milli=spare, initial_instances=initial)
    reserved, borrowed, _, launched, flips, left, latency = packet_replay(trace, Script(*changes), p, spare, initial)
    assert result.reserved_gpu_seconds == pytest.approx(reserved)
    assert result.borrowed_gpu_seconds == pytest.approx(borrowed, abs=1e-6)
    assert result.cold_starts == launched
    assert result.direction_flips == flips
    assert result.backlog_left == pytest.approx(left, abs=1e-6)
    served = np.isfinite(latency)
    if served.all() and latency.size:
        weights = np.repeat(np.repeat(load, 3), 10)
        weights = weights[weights > 0].astype(float)
        mean = float((latency * weights).sum() / weights.sum())
        columns = result.timeline
        came = columns.arrivals > 0
        ours = float((columns.latency_ms[came] * columns.arrivals[came]).sum() / columns.arrivals.sum())
        assert ours == pytest.approx(mean, rel=1e-6, abs=1e-3)


@settings(max_examples=25)
@given(rates, st.sampled_from(["co-scaling", "lazy"]), st.integers(0, 400))
def test_a_replay_of_the_real_policies_agrees_with_packets(load, rule, spare):
    """With the policy in the loop, both simulations end at the same costs, cold starts and late requests."""
    trace = ArrivalTrace(np.repeat(load, 5).astype(float))
    p = params(rule=rule)
    result = replay(trace, CoScaler(p), p, spare_milli=spare, initial_instances=1)
    spares = [spare] * len(trace.rates_rps)
    reserved, borrowed, late, launched, flips, _, latency = packet_replay(trace, CoScaler(p), p, spares, 1)
    assert result.reserved_gpu_seconds == pytest.approx(reserved)
    assert result.borrowed_gpu_seconds == pytest.approx(borrowed, abs=1e-6)
    assert (result.cold_starts, result.direction_flips) == (launched, flips)
    near_the_edge = latency.size and np.abs(latency - 500.0).min() < 1e-3
    if np.isfinite(latency).all() and latency.size and not near_the_edge:
        assert result.violation_rate == pytest.approx(late, abs=1e-9)


@settings(max_examples=30)
@given(rates, st.sampled_from([0.05, 0.1, 0.5]), st.sampled_from([0.0, 2.5, 10.0]), st.integers(0, 3))
def test_requests_are_conserved(load, step_s, cold_start_s, initial):
    """In every period arrivals = served + growth of the backlog, and nothing is served faster than the limit allows."""
    p = params(cold_start_s=cold_start_s)
    result = replay(ArrivalTrace(load), CoScaler(p), p, initial_instances=initial, step_s=step_s)
    columns = result.timeline
    growth = np.diff(columns.backlog, prepend=0.0)
    assert columns.arrivals == pytest.approx(columns.served + growth)
    assert columns.arrivals.sum() == pytest.approx(result.requests) == pytest.approx(sum(load))
    assert columns.backlog[-1] == pytest.approx(result.backlog_left)
    assert (columns.served <= columns.ready * 20.0 + 1e-6).all()
    assert (columns.used_milli <= 600).all()
    assert (columns.ready <= columns.instances).all()
    assert result.gpu_seconds == result.reserved_gpu_seconds + result.borrowed_gpu_seconds


def test_a_queue_solved_by_hand():
    """One instance of 10 rps that cannot burst, 20 rps for 10 s, then silence: the last request waits 10 s.

    Waits grow linearly from 0 to 10 s over the arrivals, so 4 % wait less than the 0.4 s that the SLO leaves.
    """
    trace = ArrivalTrace([20.0] * 10 + [0.0] * 20)
    result = replay(trace, Script(), params(), spare_milli=0.0, initial_instances=1)
    assert result.latency_p50_ms == pytest.approx(5100.0, abs=60)
    assert result.latency_p99_ms == pytest.approx(10_000.0, abs=60)
    assert result.violation_rate == pytest.approx(0.96, abs=0.011)
    assert result.timeline.backlog.max() == pytest.approx(100.0)
    assert result.gpu_seconds == pytest.approx(0.3 * 30)
    assert result.timeline.latency_ms[0] == pytest.approx(600.0, abs=60)
    assert math.isnan(result.timeline.latency_ms[-1])


def test_bursting_clears_the_same_queue():
    """With its limit free the same instance serves 20 rps: nobody waits, and 3 GPU-seconds are borrowed."""
    trace = ArrivalTrace([20.0] * 10 + [0.0] * 20)
    result = replay(trace, Script(), params(), initial_instances=1)
    assert result.violation_rate == 0.0
    assert result.borrowed_gpu_seconds == pytest.approx(3.0)
    assert result.timeline.used_milli[0] == pytest.approx(600.0)


def test_a_saturating_rate_curve_limits_the_burst():
    """Where more share serves no more, the queue grows; a function and its table say the same."""
    trace = ArrivalTrace([20.0] * 10)

    def saturating(share):
        return min(share, 450) / 30.0

    table = [saturating(share) for share in range(601)]
    first = replay(trace, Script(), params(), rate_rps=saturating, initial_instances=1)
    second = replay(trace, Script(), params(), rate_rps=table, initial_instances=1)
    assert first.backlog_left == second.backlog_left == pytest.approx(50.0)
    assert first.timeline.used_milli[0] == 600.0


def test_an_instance_costs_from_launch_and_serves_after_the_cold_start():
    """Launched at second 1 with 2.5 s of cold start: paid from 1 s, serving from 3.5 s."""
    result = replay(ArrivalTrace([10.0] * 6), Script(2), params(cold_start_s=2.5), spare_milli=0.0, initial_instances=0)
    assert result.timeline.instances.tolist() == [0, 2, 2, 2, 2, 2]
    assert result.timeline.ready.tolist() == [0, 0, 0, 2, 2, 2]
    assert result.timeline.served.tolist() == pytest.approx([0, 0, 0, 10, 20, 20])
    assert result.reserved_gpu_seconds == pytest.approx(2 * 5 * 0.3)
    assert result.cold_starts == 2
    assert result.peak_instances == 2


def test_scale_in_gives_up_starting_instances_first_and_never_below_none():
    """Of one ready and two starting, three go in the order youngest first; a fourth does not exist."""
    script = Script(2, -1, -5)
    result = replay(ArrivalTrace([1.0] * 6), script, params(), initial_instances=1)
    assert [(seen.ready, seen.starting) for seen in script.seen] == [(1, 0), (1, 2), (1, 1), (0, 0), (0, 0)]
    assert result.direction_flips == 1


def test_nothing_served_at_all_is_an_infinite_wait():
    """Without any instance every request waits for ever, and all of them break the SLO."""
    result = replay(ArrivalTrace([1.0] * 5), Script(), params(min_instances=0), initial_instances=0)
    assert result.violation_rate == 1.0
    assert result.latency_p50_ms == math.inf
    assert result.backlog_left == 5.0


def test_no_requests_and_no_slo_are_defined():
    """Without requests, or without an SLO, the violation rate is NaN; the rest stays finite."""
    none = replay(ArrivalTrace([0.0] * 20), CoScaler(params()), params())
    assert math.isnan(none.violation_rate)
    assert math.isnan(none.latency_p95_ms)
    assert none.gpu_seconds == pytest.approx(6.0)
    free = HorizontalParams(10.0, 300, 600)
    result = replay(ArrivalTrace([5.0] * 20), CoScaler(free), free)
    assert math.isnan(result.violation_rate)
    assert result.latency_p99_ms == 0.0


def test_the_policy_sees_what_a_controller_would_see():
    """Mean arrivals since the last call, counts, requests in the system, and the share that neighbours left."""
    script = Script()
    replay(ArrivalTrace([4.0, 20.0, 0.0]), script, params(), spare_milli=[150.0, 0.0, 500.0], initial_instances=1)
    first, second = script.seen
    assert (first.time_s, first.ready, first.starting) == (1.0, 1, 0)
    assert first.arrivals_rps == pytest.approx(4.0)
    assert first.in_flight == pytest.approx(0.4)
    assert first.spare_milli == pytest.approx(150.0)
    assert second.in_flight == pytest.approx(10.0 + 1.0)
    assert second.spare_milli == pytest.approx(0.0)


@pytest.mark.parametrize("stage", ["observe", "shadow", "enforce"])
def test_staged_policies_can_be_replayed(stage):
    """Before enforcement the instance count stays; enforcement changes nothing about the replay itself."""
    trace, p = ArrivalTrace([10.0] * 30 + [90.0] * 60), params()
    bare = replay(trace, CoScaler(p), p)
    staged = replay(trace, StagedPolicy(CoScaler(p), stage), p)
    if stage == "enforce":
        assert staged.gpu_seconds == bare.gpu_seconds
        assert staged.cold_starts == bare.cold_starts > 0
    else:
        assert staged.cold_starts == 0
        assert set(staged.timeline.instances.tolist()) == {1}


def test_replays_are_reproducible_and_leave_their_input_alone():
    """Twice the same replay gives the same columns, which cannot be written."""
    trace, p = ArrivalTrace([3.0, 50.0, 20.0] * 20, period_s=2.0), params()
    first, second = replay(trace, CoScaler(p), p), replay(trace, CoScaler(p), p)
    assert first.gpu_seconds == second.gpu_seconds
    assert np.array_equal(first.timeline.latency_ms, second.timeline.latency_ms, equal_nan=True)
    assert first.timeline.time_s.size == 120
    assert first.termination.reason is TerminationReason.FEASIBLE
    assert first.stats.counts == {"decisions": 119, "steps": 1200}
    with pytest.raises(ValueError, match="read-only"):
        first.timeline.backlog[0] = 1.0


@pytest.mark.parametrize("rule", ["co-scaling", "lazy"])
@pytest.mark.parametrize("load", [0.7, 1.0, 1.2, 2.0, 2.4, 3.3, 5.0])
@pytest.mark.parametrize("spare", [0.0, 100.0, None])
def test_an_hour_of_constant_load_in_a_closed_loop_never_turns_round(rule, load, spare):
    """Cold starts, backlogs and all, a constant load moves the count one way only, then not at all."""
    p = params(rule=rule)
    result = replay(ArrivalTrace.constant(load * 10.0, duration_s=3600), CoScaler(p), p, spare_milli=spare, step_s=0.5)
    assert result.direction_flips == 0
    assert len(set(result.timeline.instances[600:].tolist())) == 1


BURSTS = [lambda x: min(1.0, x), lambda x: min(x, 1.0 + 0.3 * (x - 1.0)), math.sqrt, lambda x: x]
"""What an instance serves over its capacity, by its share over its request."""


@settings(max_examples=30)
@example(5.5, BURSTS[0], None, 400, None)
@given(
    st.floats(0.2, 9.0),
    st.sampled_from(BURSTS),
    st.sampled_from([None, 0.0, 100.0, 300.0]),
    st.sampled_from([200, 250, 400]),
    st.sampled_from([None, 1, 12]),
)
def test_constant_load_never_turns_round_whatever_a_burst_brings(load, curve, spare, limit, initial):
    """Whether more share serves more, a little more or nothing more, scale-in leaves those whom the load needs."""
    p = HorizontalParams(20.0, 200, limit, slo_ms=200.0, base_latency_ms=50.0)
    rates = [20.0 * curve(share / 200.0) for share in range(limit + 1)]
    trace = ArrivalTrace.constant(load * 20.0, duration_s=900)
    result = replay(trace, CoScaler(p), p, rate_rps=rates, spare_milli=spare, initial_instances=initial, step_s=0.5)
    assert result.direction_flips == 0


def test_scale_in_does_not_count_on_a_burst_that_serves_nothing():
    """At 92 % of the promise and a curve that saturates at the request, six instances stay and nobody waits."""
    p = HorizontalParams(20.0, 200, 500, slo_ms=200.0, base_latency_ms=50.0)
    flat = [20.0 * min(1.0, share / 200.0) for share in range(501)]
    result = replay(ArrivalTrace.constant(110.0, duration_s=3600), CoScaler(p), p, rate_rps=flat)
    assert set(result.timeline.instances.tolist()) == {6}
    assert result.violation_rate == 0.0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"step_s": 0.0}, "step_s"),
        ({"step_s": 0.3}, "control_s"),
        ({"step_s": 1e-320}, "step_s"),
        ({"control_s": 1e300}, "control_s"),
        ({"control_s": -1.0}, "control_s"),
        ({"step_s": 1e-9, "control_s": 1e-8}, "step_s"),
        ({"initial_instances": -1}, "initial_instances"),
        ({"spare_milli": -1.0}, "spare_milli is -1"),
        ({"spare_milli": [1.0, math.nan, 1.0]}, r"spare_milli\[1\]"),
        ({"spare_milli": [1.0, 2.0]}, "spare_milli has 2 values"),
        ({"spare_milli": "much"}, "spare_milli"),
        ({"rate_rps": [0.0, 1.0]}, "rate_rps has 2 entries"),
        ({"rate_rps": [1.0] * 601}, "rate_rps must start with 0"),
        ({"rate_rps": lambda share: -share}, "rate_rps must"),
        ({"rate_rps": lambda share: math.nan}, "rate_rps must"),
    ],
)
def test_misuse_is_refused_by_name(options, named):
    """Arguments that do not fit are named."""
    with pytest.raises(InvalidArgumentError, match=named):
        replay(ArrivalTrace([1.0, 2.0, 3.0]), Script(), params(), **options)


@pytest.mark.parametrize("change", [math.nan, None, "3", 1.5, 10**12, True])
def test_a_policy_that_answers_nonsense_is_named(change):
    """A change that is no count is the policy's fault, and the error says so; StagedPolicy survives it."""
    trace = ArrivalTrace([1.0, 2.0, 3.0])
    with pytest.raises(InvalidArgumentError, match="policy answered a change"):
        replay(trace, Script(change), params())
    assert replay(trace, StagedPolicy(Script(change), "enforce"), params()).cold_starts == 0


def test_a_policy_that_answers_nothing_is_named():
    """So is an answer that is no pair of decision and state."""

    class Silent:
        def initial_state(self):
            return 0

        def decide(self, state, observation) -> Any:
            return None

    with pytest.raises(InvalidArgumentError, match="policy answered None"):
        replay(ArrivalTrace([1.0, 2.0]), Silent(), params())


def test_a_billion_launches_take_no_memory():
    """Launches are kept as counts: a billion instances start, half go again, the rest serve."""
    script = Script(10**9, -(10**9) // 2)
    p = params(cold_start_s=2.0, max_instances=10**9)
    result = replay(ArrivalTrace([1.0] * 6), script, p, initial_instances=1)
    assert result.cold_starts == 10**9
    assert result.timeline.instances.tolist() == [1, 10**9 + 1] + [10**9 // 2 + 1] * 4
    assert result.timeline.ready.tolist() == [1, 1, 1] + [10**9 // 2 + 1] * 3


def test_a_cold_start_without_end_never_serves():
    """An instance whose cold start outlasts any clock is paid for and never ready."""
    result = replay(ArrivalTrace([1.0] * 5), Script(1), params(cold_start_s=1.7e308), initial_instances=1)
    assert result.timeline.ready.tolist() == [1] * 5
    assert result.peak_instances == 2


def test_the_shortest_periods_are_survived():
    """A trace of next to no time is replayed in one step."""
    result = replay(ArrivalTrace([1.0] * 5, period_s=1e-320), Script(), params())
    assert result.timeline.time_s.tolist() == [0.0]


def test_a_flood_that_nothing_serves_waits_for_ever_without_a_warning():
    """What never leaves has no rate to be divided by."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        waits, _ = waits_s(np.array([1e15, 0.0, 1e15]), np.array([1e15, 1e15, 2e15]), 0.1)
    assert waits.tolist() == [math.inf, 0.0, math.inf]


def test_what_is_no_trace_policy_or_parameters_is_named():
    """The three things a replay needs are checked before any work."""
    trace = ArrivalTrace([1.0])
    for arguments, named in [
        (([1.0], Script(), params()), "trace"),
        ((trace, 3, params()), "policy is 3"),
        ((trace, Script, params()), "policy is the class Script; expected an object"),
    ]:
        with pytest.raises(InvalidArgumentError, match=named):
            replay(*arguments)
    no_params: Any = {}
    with pytest.raises(InvalidArgumentError, match="params"):
        replay(trace, Script(), no_params)


def test_the_defaults_beat_a_fixed_fleet_on_recorded_traces(data_dir):
    """On every recorded trace the default policy costs under two thirds of a fleet for the peak, with few late."""
    from dilu_core.traces import read_trace

    for path in sorted((data_dir / "traces").glob("*.txt")):
        trace = read_trace(path)
        capacity = trace.peak_rps(3) / 8
        p = HorizontalParams(capacity, 300, 600, slo_ms=1000.0, base_latency_ms=200.0)
        result = replay(trace, CoScaler(p), p, spare_milli=150.0)
        fixed = math.ceil(trace.peak_rps() / capacity) * 0.3 * trace.duration_s
        assert result.gpu_seconds < 0.67 * fixed
        assert result.violation_rate < 0.15
