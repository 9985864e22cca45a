"""The rules of the systems in a cluster replay: their quotas keep the budget, and they scale as their papers say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason
from dilu_core.errors import InvalidArgumentError
from dilu_core.performance import RooflineModel
from dilu_core.quota import QuotaConfig, QuotaGrid
from dilu_core.solvers import cluster_quotas as quotas
from dilu_core.solvers.cluster_scaling import (
    ResidualScaler,
    UniformScaler,
    efficient_then_ideal,
    first_of,
    largest_filled_batch,
)
from dilu_core.solvers.cluster_systems import CLUSTER_SYSTEMS, OURS, Replan
from dilu_core.solvers.cluster_workload import ClusterFunction
from dilu_core.traces import ArrivalTrace

GRID = QuotaGrid((1, 2, 4, 8, 16), tuple(range(100, 1001, 100)))
RULES = (
    quotas.whole_gpu, quotas.most_efficient, quotas.hybrid_growth, quotas.static_at_limit, quotas.static_at_request,
    quotas.one_per_batch, quotas.throughput_front,
)  # fmt: skip
STATIC = (quotas.whole_gpu, quotas.static_at_limit, quotas.static_at_request, quotas.one_per_batch,
          quotas.throughput_front)  # fmt: skip

times = st.floats(0.01, 5.0)
models = st.builds(RooflineModel, times, times, times, times, times, st.floats(1.0, 6.0))


def function(model, slo_ms=200.0):
    return ClusterFunction(
        name="f", kind="inference", model=model, grid=GRID, memory_mib=1, slo_ms=slo_ms, trace=ArrivalTrace([1.0])
    )


def config(batch, request, rps):
    """A configuration with this throughput."""
    return QuotaConfig(batch, request, request, 1000.0 * batch / rps, rps, rps * 1000.0 / request)


def seen(time_s, rps):
    return Observation(time_s, rps, 1, 0)


@given(models, st.floats(2.0, 500.0))
def test_every_menu_keeps_the_budget(model, slo_ms):
    """Whatever the model: batches execute within half of the SLO at the request; none is found only where none exists.

    Static systems have one share, the others burst; predictions are those of the model.
    """
    asked = function(model, slo_ms)
    feasible = float(model.latency_ms(1, 1000)) <= asked.budget_ms * (1.0 - 1e-9)
    for rule in RULES:
        menu = rule(asked)
        assert menu or not feasible
        assert len(set(menu)) == len(menu)
        for each in menu:
            assert each.latency_ms <= asked.budget_ms * (1.0 + 1e-6)
            assert each.latency_ms == pytest.approx(float(model.latency_ms(each.batch, each.request_milli)))
            assert each.limit_milli >= each.request_milli
            assert rule not in STATIC or each.limit_milli == each.request_milli


@given(models)
def test_the_exact_search_is_never_less_efficient_than_hybrid_growth(model):
    """Ours has the greatest throughput per share of every rule's first choice on the published grid."""
    asked = function(model)
    best = quotas.most_efficient(asked)
    for rule in (quotas.hybrid_growth, quotas.whole_gpu):
        for each in rule(asked):
            assert best[0].efficacy >= each.efficacy * (1.0 - 1e-9)


def test_hybrid_growth_by_hand():
    """On 1 ms per sample of a whole GPU: batch 8 takes 80 ms at a tenth; 16 would take 160 and 80 at two tenths.

    That is as efficient, so it is taken; the grid ends there.
    """
    (found,) = quotas.hybrid_growth(function(RooflineModel(0.0, 0.0, 0.0, 1.0)))
    assert (found.batch, found.request_milli, found.limit_milli) == (16, 200, 400)


def test_training_quotas_by_hand():
    """70 % and 98 % of a linear speed; all systems but Exclusive and MPS-l book the request."""
    job = ClusterFunction(
        name="t", kind="training", model=RooflineModel(0.0, 0.0, 0.0, 1.0), grid=QuotaGrid((8,), GRID.sm_milli),
        memory_mib=1,
    )  # fmt: skip
    shares = {rule: (rule(job)[0].request_milli, rule(job)[0].limit_milli) for rule in RULES}
    assert shares[quotas.whole_gpu] == shares[quotas.static_at_limit] == (1000, 1000)
    assert shares[quotas.most_efficient] == shares[quotas.hybrid_growth] == (700, 1000)
    for rule in (quotas.static_at_request, quotas.one_per_batch, quotas.throughput_front):
        assert shares[rule] == (700, 700)


MENU = (config(16, 600, 160.0), config(8, 300, 100.0), config(2, 100, 50.0))


@given(st.floats(0.0, 2000.0), st.sampled_from(["first", "infless", "fast"]))
def test_residual_load_is_filled_as_one_instance_at_a_time(rps, rule):
    """The counts are those of the plain loop: choose, add, subtract, until nothing is left."""
    menu = (MENU[2], MENU[1], MENU[0]) if rule == "fast" else MENU
    pick = {"first": first_of, "infless": largest_filled_batch(400.0), "fast": efficient_then_ideal}[rule]
    counts, left = [0] * 3, rps / 0.8
    while left > 1e-9 * max(left, 1.0):
        chosen = pick(menu, left)
        counts[chosen] += 1
        left -= menu[chosen].throughput_rps
    if not any(counts):
        counts[pick(menu, 0.0)] = 1
    assert ResidualScaler(menu, pick).initial(rps) == counts


def test_the_largest_batch_that_fills_in_time():
    """INFless by hand: batch / (slo - execution) is 16 / 0.3 = 53, 8 / 0.32 = 25 and 2 / 0.36 = 5.6 per second."""
    pick = largest_filled_batch(400.0)
    assert [pick(MENU, rps) for rps in (60.0, 54.0, 53.0, 25.0, 24.0, 1.0)] == [0, 0, 1, 1, 2, 2]


def test_the_most_efficient_then_the_ideal():
    """FaST-GShare by hand: 50 per 0.1 GPU is best; a residual below that gets the least that serves it."""
    menu = (config(2, 100, 50.0), config(1, 50, 20.0), config(8, 300, 100.0))
    assert [efficient_then_ideal(menu, rps) for rps in (400.0, 50.0, 49.0, 20.0, 1.0)] == [0, 0, 0, 1, 1]


def test_a_reactive_scaler_keeps_what_a_peak_needed_for_a_minute():
    """Out at once to 80 % use, in a minute after the peak, the least efficient first, and never to nothing."""
    scaler = ResidualScaler((config(1, 100, 10.0),), first_of)
    assert scaler.initial(8.0) == [1]
    assert scaler.change(seen(1.0, 8.0), [1]) == [0]
    assert scaler.change(seen(2.0, 30.0), [1]) == [3]
    assert [scaler.change(seen(float(t), 1.0), [4]) for t in range(3, 62)] == [[0]] * 59
    assert scaler.change(seen(62.0, 1.0), [4]) == [-3]
    assert scaler.change(seen(63.0, 0.0), [1]) == [0]


@given(st.lists(st.floats(0.0, 900.0), min_size=1, max_size=100), st.sampled_from(["first", "infless", "fast"]))
def test_a_reactive_scaler_always_covers_the_last_second(loads, rule):
    """After each change at least one instance is left, and capacity times 0.8 carries the load."""
    menu = (MENU[2], MENU[1], MENU[0]) if rule == "fast" else MENU
    pick = {"first": first_of, "infless": largest_filled_batch(400.0), "fast": efficient_then_ideal}[rule]
    scaler = ResidualScaler(menu, pick)
    planned = scaler.initial(loads[0])
    for second, rps in enumerate(loads):
        planned = [a + b for a, b in zip(planned, scaler.change(seen(float(second), rps), planned), strict=True)]
        assert min(planned) >= 0
        assert sum(planned) >= 1
        capacity = sum(count * each.throughput_rps for count, each in zip(planned, menu, strict=True))
        assert 0.8 * capacity >= rps * (1.0 - 1e-6)


def test_a_uniform_scaler_gives_up_no_more_than_there_is():
    """A policy may ask for anything; the first configuration alone is used."""

    class Wild:
        def initial_state(self):
            return None

        def decide(self, state, observation):
            return ScalingDecision(0, -9, ScalingReason.SPARE_CAPACITY), state

    scaler = UniformScaler(MENU, Wild())
    assert scaler.initial(161.0) == [2, 0, 0]
    assert scaler.change(seen(1.0, 1.0), [2, 0, 0]) == [-2, 0, 0]


@pytest.mark.parametrize(
    ("argument", "value"),
    [("name", " "), ("sharing", "none"), ("removal", "oldest"), ("quotas", 1), ("scaler", None),
     ("oversubscription", 1500), ("weights", (1.0, 0.0)), ("weights", (1.0, 0.0, -1.0)), ("beside_gangs", False),
     ("replan", 60.0)],
)  # fmt: skip
def test_a_system_is_checked_at_the_door(argument, value):
    """The error names the field (spreading needs functions to be named, so `apart` is at fault for the last)."""
    with pytest.raises(InvalidArgumentError) as error:
        replace(OURS, **{argument: value})
    assert error.value.argument.startswith("apart" if argument == "beside_gangs" else argument)


@pytest.mark.parametrize(("argument", "value"), [("every_s", 0.0), ("most_moves", -1), ("horizon_s", float("nan"))])
def test_replanning_is_checked_at_the_door(argument, value):
    """The error names the field."""
    with pytest.raises(InvalidArgumentError, match=f"^{argument}"):
        Replan(**{argument: value})


def test_systems_have_distinct_names():
    """A table needs them."""
    assert len({each.name for each in CLUSTER_SYSTEMS}) == len(CLUSTER_SYSTEMS)
