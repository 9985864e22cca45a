"""Replays of functions that share GPUs: alone they are `replay`, together they conserve, and neighbours cost what they
take."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.errors import InvalidArgumentError
from dilu_core.performance import RooflineModel
from dilu_core.solvers.replay import replay
from dilu_core.solvers.shared_replay import SHARING, replay_shared
from dilu_core.solvers.shared_tenants import ReplayTenant, batch_tables
from dilu_core.traces import ArrivalTrace
from tests.scripted_policy import Script

PARAMS = HorizontalParams(10.0, 300, 600, slo_ms=300.0, base_latency_ms=100.0)
TRAINING = HorizontalParams(50.0, 100, 1000)
FIGURES = (
    *("gpu_seconds", "borrowed_gpu_seconds", "violation_rate", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms"),
    *("cold_starts", "direction_flips", "peak_instances", "requests", "backlog_left"),
)


def trainer(instances=1, **options):
    return ReplayTenant("train", TRAINING, kind="training", instances=instances, **options)


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 90), min_size=2, max_size=40),
    st.sampled_from(["co-scaling", "lazy"]),
    st.sampled_from([0.0, 2.5, 10.0]),
    st.integers(1, 4),
)
def test_alone_with_plenty_of_gpus_it_is_the_plain_replay(load, rule, cold_start_s, initial):
    """A function with a GPU for each instance, one of them ready, gives every figure and column of `replay`."""
    params = HorizontalParams(
        10.0, 300, 600, slo_ms=300.0, base_latency_ms=100.0, rule=rule, cold_start_s=cold_start_s, max_instances=20
    )
    trace = ArrivalTrace(np.repeat(load, 3).astype(float))
    plain = replay(trace, CoScaler(params), params, initial_instances=initial)
    tenant = ReplayTenant("f", params, trace, CoScaler(params), instances=initial)
    shared = replay_shared([tenant], gpus=20).functions["f"]
    for name in FIGURES:
        assert getattr(shared, name) == pytest.approx(getattr(plain, name), nan_ok=True, abs=1e-6), name
    for name in ("arrivals", "served", "instances", "ready", "backlog", "used_milli", "latency_ms"):
        ours, theirs = getattr(shared.timeline, name), getattr(plain.timeline, name)
        assert ours == pytest.approx(theirs, nan_ok=True, abs=1e-6), name


loads = st.lists(st.integers(0, 70), min_size=4, max_size=20)


@settings(max_examples=25)
@given(loads, st.integers(0, 8), st.integers(1, 3), st.sampled_from(sorted(SHARING)))
def test_together_they_conserve(load, shift, gpus, sharing):
    """Requests come, leave or wait; no GPU is used or booked beyond what it has; the cost is the sum of its parts."""
    trace = ArrivalTrace(np.repeat(load, 2).astype(float))
    tenants = [
        trainer(gpus),
        ReplayTenant("a", PARAMS, trace, CoScaler(PARAMS), instances=1),
        ReplayTenant("b", PARAMS, trace.shifted(shift), CoScaler(PARAMS), instances=1),
    ]
    result = replay_shared(tenants, gpus=gpus, sharing=sharing)
    for each in result.functions.values():
        columns = each.timeline
        assert columns.arrivals == pytest.approx(columns.served + np.diff(columns.backlog, prepend=0.0))
        assert columns.arrivals.sum() == pytest.approx(sum(load) * 2)
        assert (columns.used_milli <= 600.0 + 1e-9).all()
    assert (result.gpu_used_milli <= 1000.0 + 1e-6).all()
    assert (result.gpu_booked_milli <= 1000).all()
    everyone = [*result.functions.values(), *result.training.values()]
    assert result.gpu_seconds == pytest.approx(sum(e.reserved_gpu_seconds + e.borrowed_gpu_seconds for e in everyone))
    train = result.training["train"]
    assert train.samples == pytest.approx(train.rates_rps.sum())
    assert -1e-9 <= train.loss <= 1.0
    if sharing == "work-conserving":  # where training waits for nothing but work, every GPU is used up
        assert result.gpu_used_milli == pytest.approx(np.full(result.gpu_used_milli.shape, 1000.0))


def test_training_loses_what_its_neighbour_takes():
    """Alone 100 samples/s per GPU; a neighbour with a constant load of 600 milli-GPU takes 60 % of one GPU of two."""
    trace = ArrivalTrace.constant(20.0, duration_s=20.0)
    tenants = [
        ReplayTenant("a", PARAMS, trace, Script(), instances=1),
        ReplayTenant("train", PARAMS, kind="training", instances=2),
    ]
    tenants[1] = ReplayTenant("train", HorizontalParams(10.0, 100, 1000), kind="training", instances=2)
    train = replay_shared(tenants, gpus=2).training["train"]
    assert train.alone_rps == pytest.approx(200.0)
    assert train.throughput_rps == pytest.approx(100.0 + 40.0)
    assert train.loss == pytest.approx(0.3)
    assert train.gpu_seconds == pytest.approx((1.0 + 0.4) * 20.0)
    tenants[1] = ReplayTenant("train", HorizontalParams(10.0, 100, 1000), kind="training", instances=2, gang=True)
    gang = replay_shared(tenants, gpus=2).training["train"]
    assert gang.throughput_rps == pytest.approx(2 * 40.0)
    assert gang.loss == pytest.approx(0.6)


def test_policies_are_told_what_could_really_be_borrowed():
    """Idle neighbours leave a burst whole; one that bursts as well takes its half of what is left."""
    load = [5.0] * 3 + [60.0] * 3
    one, other = Script(), Script()
    tenants = [
        ReplayTenant("a", PARAMS, ArrivalTrace(load), one, instances=1),
        ReplayTenant("b", PARAMS, ArrivalTrace(load), other, instances=1),
    ]
    replay_shared(tenants, gpus=1)
    assert [seen.spare_milli for seen in one.seen] == pytest.approx([300.0] * 3 + [200.0] * 2)
    assert [seen.spare_milli for seen in other.seen] == [seen.spare_milli for seen in one.seen]
    assert one.seen[0].arrivals_rps == pytest.approx(5.0)
    assert one.seen[0].in_flight == pytest.approx(0.5)
    assert (one.seen[0].time_s, one.seen[0].ready, one.seen[0].starting) == (1.0, 1, 0)


def test_what_nobody_measured_is_not_known():
    """Without a ready instance the spare share is not known, which is not zero."""
    script = Script(1)
    params = HorizontalParams(10.0, 300, 600, cold_start_s=2.0, min_instances=0)
    replay_shared([ReplayTenant("a", params, ArrivalTrace([1.0] * 5), script, instances=0)], gpus=1)
    assert [seen.spare_milli for seen in script.seen] == [None, None, None, 300.0]


def test_launches_spread_and_are_refused_where_nothing_fits():
    """Five launches on three GPUs, one of them half booked by training: two, two and one; the sixth is refused."""
    train = ReplayTenant("train", HorizontalParams(1.0, 500, 500), kind="training", instances=1)
    tenants = [ReplayTenant("a", PARAMS, ArrivalTrace([1.0] * 4), Script(7, -8), instances=1), train]
    result = replay_shared(tenants, gpus=3, seating={"a": [0, 1]})
    assert result.gpu_booked_milli[1].tolist() == [800, 900, 0]
    assert result.functions["a"].cold_starts == 3
    assert result.functions["a"].timeline.instances.tolist() == [1, 4, 0, 0]
    assert dict(result.refused) == {"a": 4, "train": 0}


def test_execution_times_follow_the_granted_share():
    """Latency is the wait plus the batch at the share granted: slower at the request than at the limit."""
    model = RooflineModel(launch_ms=5.0, host_ms=0.0, fixed_ms=0.0, compute_ms=10.0)
    rates, times = batch_tables(model, 4, 600)
    assert rates.shape == times.shape == (601,)
    assert rates[0] == 0.0
    assert times[300] == pytest.approx(float(model.latency_ms(4, 300)))
    assert rates[300] == pytest.approx(4000.0 / times[300])
    params = HorizontalParams(float(rates[300]), 300, 600)
    latencies = []
    for load in (0.5 * rates[300], 0.999 * rates[600]):
        trace = ArrivalTrace.constant(float(load), duration_s=5.0)
        tenant = ReplayTenant("a", params, trace, Script(), instances=1, rate_rps=rates, execution_ms=times)
        latencies.append(replay_shared([tenant], gpus=1).functions["a"].latency_p50_ms)
    assert latencies[0] == pytest.approx(times[300])
    assert latencies[1] == pytest.approx(times[600], rel=0.01)
    called = ReplayTenant("a", params, trace, Script(), rate_rps=lambda s: rates[s], execution_ms=lambda s: times[s])
    assert np.array_equal(called.executions[1:], tenant.executions[1:])
    assert np.array_equal(called.rates, tenant.rates)


def test_bursts_in_phase_are_late_where_shifted_ones_are_not():
    """Three functions on each GPU: what they can lend each other depends on when they burst."""
    burst = ArrivalTrace([15.0] * 40 + [36.0] * 20 + [15.0] * 60)
    late = {}
    for shift in (0.0, 40.0):
        tenants = [ReplayTenant(f"f{k}", PARAMS, burst.shifted(k * shift), Script(), instances=2) for k in range(3)]
        result = replay_shared(tenants, gpus=2)
        late[shift] = np.mean([each.violation_rate for each in result.functions.values()])
    assert late[40.0] == 0.0
    assert late[0.0] > 0.2


def test_replays_are_reproducible_and_read_only():
    """Twice the same replay gives the same columns, which cannot be written."""
    trace = ArrivalTrace([3.0, 50.0, 20.0] * 10, period_s=2.0)

    def once():
        return replay_shared([ReplayTenant("a", PARAMS, trace, CoScaler(PARAMS)), trainer()], gpus=2)

    first, second = once(), once()
    assert first.gpu_seconds == second.gpu_seconds
    assert np.array_equal(first.gpu_used_milli, second.gpu_used_milli)
    assert first.stats.counts == {"decisions": 59, "steps": 600}
    for column in (first.gpu_used_milli, first.training["train"].rates_rps, first.functions["a"].timeline.backlog):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1.0


TRACE = ArrivalTrace([1.0, 2.0, 3.0])
BASE = SimpleNamespace(a=ReplayTenant("a", PARAMS, TRACE, Script()), train=trainer())


@pytest.mark.parametrize(
    ("tenants", "options", "named"),
    [
        ([], {}, "tenants"),
        ([BASE.train], {}, "no inference tenant"),
        ([BASE.a, BASE.a], {}, r"tenants\[1\]"),
        ([BASE.a, 3], {}, r"tenants\[1\]"),
        ([BASE.a], {"gpus": 0}, "gpus"),
        ([BASE.a], {"sharing": "fair"}, "sharing"),
        ([BASE.a], {"seating": {"b": [0]}}, "seating names 'b'"),
        ([BASE.a], {"seating": {"a": [2]}}, r"seating\['a'\]\[0\]"),
        ([BASE.a], {"seating": [0]}, "seating"),
        ([BASE.a], {"seating": {"a": 0}}, r"seating\['a'\] is 0"),
        ([BASE.a], {"seating": {"a": []}}, r"seating\['a'\] is empty"),
        ([BASE.a], {"step_s": 0.3}, "control_s"),
        ([BASE.a, ReplayTenant("b", PARAMS, ArrivalTrace([1.0]), Script())], {}, r"tenants\[1\].trace"),
        ([ReplayTenant("a", PARAMS, TRACE, Script(), instances=4)], {"gpus": 1}, "gpus is 1; only 3 of the first 4"),
        ([ReplayTenant("a", PARAMS, TRACE, Script(math.nan))], {}, r"tenants\[0\].policy answered a change"),
    ],
)
def test_misuse_is_refused_by_name(tenants, options, named):
    """Arguments that do not fit are named."""
    with pytest.raises(InvalidArgumentError, match=named):
        replay_shared(tenants, **{"gpus": 2, **options})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": ""}, "name"),
        ({"kind": "serving"}, "kind"),
        ({"trace": None}, "trace"),
        ({"policy": None}, "policy"),
        ({"kind": "training"}, "trace"),
        ({"kind": "training", "trace": None, "policy": None, "params": 3}, "params"),
        ({"kind": "training", "trace": None, "policy": None, "instances": 0}, "instances"),
        ({"gang": True}, "gang"),
        ({"instances": -1}, "instances"),
        ({"rate_rps": [0.0, 1.0]}, "rate_rps"),
        ({"execution_ms": [0.0, 1.0]}, "execution_ms has 2"),
        ({"execution_ms": lambda share: -share}, "execution_ms must"),
    ],
)
def test_tenants_that_make_no_sense_are_refused(options, named):
    """So are tenants."""
    values: dict[str, Any] = {"name": "a", "params": PARAMS, "trace": TRACE, "policy": Script(), **options}
    with pytest.raises(InvalidArgumentError, match=named):
        ReplayTenant(**values)


def test_tables_of_what_is_no_model_are_refused():
    """Batches are whole, shares are shares, and a model predicts latencies."""
    model: Any = RooflineModel(5.0, 0.0, 0.0, 10.0)
    for arguments, named in [((3, 4, 600), "model"), ((model, 0, 600), "batch"), ((model, 4, 1001), "limit_milli")]:
        with pytest.raises(InvalidArgumentError, match=named):
            batch_tables(*arguments)
