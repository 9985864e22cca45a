"""A batch of policies decides what they decide one by one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation, ScalingReason
from dilu_core.errors import InvalidArgumentError
from dilu_core.kernels import policy_columns as at
from dilu_core.solvers.batch_coscaling import BatchCoScaler, BatchState
from dilu_core.testing import GARBAGE

SETS = [
    HorizontalParams(10.0, 300, 600, slo_ms=200.0, window_s=20, scale_in_cooldown_s=3.0, cold_start_s=2.0),
    HorizontalParams(7.0, 200, 600, min_instances=0, zero_delay_s=9.0, from_zero_delay_s=1.0, predict="season"),
    HorizontalParams(3.0, 300, 300, rule="lazy", lazy_samples=8, lazy_out=4, lazy_in=6, max_instances=5),
    HorizontalParams(10.0, 300, 600, base_latency_ms=80.0, period_s=60.0, max_step_out=1, max_step_in=1, window_s=9),
    HorizontalParams(25.0, 100, 400, predict="off", max_instances=4, short_s=4, window_s=30),
]

NAN = math.nan
odd = st.sampled_from([NAN, -1.0, math.inf, -math.inf, 1e13, 2.5])
rows = st.lists(
    st.tuples(
        st.sampled_from([1.0, 1.0, 1.0, 0.3, 5.0, 0.0, -1.0, NAN, math.inf, 700.0]),
        st.lists(st.one_of(st.floats(0, 90), st.just(0.0), odd), min_size=5, max_size=5),
        st.lists(st.one_of(st.integers(0, 5).map(float), st.none(), st.none(), odd), min_size=5, max_size=5),
        st.lists(st.one_of(st.sampled_from([0.0, 0.0, 2.0]), odd), min_size=5, max_size=5),
        st.one_of(st.none(), st.lists(st.one_of(st.floats(0, 60), odd), min_size=5, max_size=5)),
        st.one_of(st.none(), st.floats(0, 300), odd),
        st.one_of(st.none(), st.floats(0, 400), odd),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(rows, st.booleans(), st.integers(0, 24))
def test_a_batch_is_its_policies_one_by_one(told, in_place, restart):
    """Same answers for any observations, odd ones included; a state that travelled as JSON goes on the same."""
    batch, ones = BatchCoScaler(SETS), [CoScaler(params) for params in SETS]
    state, states, now = batch.initial_state(), [one.initial_state() for one in ones], 0.0
    planned = np.ones(5)
    for k, (elapsed, arrivals, ready, starting, in_flight, spare, p95) in enumerate(told):
        now = now + elapsed if math.isfinite(elapsed) else now
        time_s = now if math.isfinite(elapsed) else elapsed
        fleet = [planned[i] if each is None else each for i, each in enumerate(ready)]
        if k == restart:
            state = batch.restored(json.loads(json.dumps(state.to_dict(), allow_nan=False)))
        found, state = batch.decide(state, time_s, arrivals, fleet, starting, in_flight, spare, p95, in_place=in_place)
        for i, one in enumerate(ones):
            queue = None if in_flight is None else in_flight[i]
            seen = Observation(time_s, arrivals[i], fleet[i], starting[i], queue, spare, p95)  # type: ignore[arg-type]
            decision, states[i] = one.decide(states[i], seen)
            planned[i] = -1 if decision.instances is None else decision.instances
            assert (found.instances[i], found.change[i]) == (planned[i], decision.change)
            assert (found.reasons[i], found.clipped_by[i]) == (decision.reason, decision.clipped_by)


class Mute:
    """A reading that fails at whatever it is asked."""

    def __float__(self) -> float:
        raise RuntimeError("no")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no")

    __repr__ = __str__ = __float__  # type: ignore[assignment]


class Halves(IntEnum):
    ONE = 1


garbage = st.one_of(
    st.sampled_from(
        [*GARBAGE, True, False, "0", "", b"3", bytearray(b"3"), 10**400, -(10**400), 2**53 + 1, 2**31, 1e12]
    ),
    st.sampled_from(
        [Fraction(5, 2), Decimal("1e400"), Decimal(3), 1j, np.bool_(True), np.str_("1"), Mute(), Halves.ONE]
    ),
    st.sampled_from(
        [np.int8(3), np.uint64(2**63), np.float32(0.1), np.float16(2.5), np.longdouble("1e400"), [1.0], (2,)]
    ),
    st.sampled_from([np.datetime64(3, "s"), np.timedelta64(3, "s"), np.ma.masked, np.complex64(2), np.array(2.0)]),
    st.floats(),
    st.integers(-5, 5),
)
columns = st.lists(garbage, min_size=5, max_size=5)


@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore")  # of numpy, about values that it turns into floats against its better judgement
@given(st.lists(st.tuples(st.lists(columns, min_size=7, max_size=7), st.integers(0, 7)), min_size=1, max_size=3))
def test_a_batch_believes_what_its_policies_believe(told):
    """Whatever sensors report, in lists, in arrays or one for all: what one policy does not know, a batch does not."""
    batch, ones = BatchCoScaler(SETS), [CoScaler(params) for params in SETS]
    state, states = batch.initial_state(), [one.initial_state() for one in ones]
    for k, (readings, plain) in enumerate([([[5.0] * 5] * 7, 0), *told, ([[50.0] * 5] * 7, 0)]):
        readings = [[float(k)] * 5 if i == plain else column for i, column in enumerate(readings)]
        found, after = batch.decide(state, *readings)
        shared: Any = [objects(column) if i % 2 else tuple(column) for i, column in enumerate(readings)]
        assert decided(batch.decide(state, *shared)[0]) == decided(found)
        for i, one in enumerate(ones):
            told_one: list[Any] = [column[i] for column in readings]
            seen = Observation(*told_one)
            decision, states[i] = one.decide(states[i], seen)
            assert found.instances[i] == (-1 if decision.instances is None else decision.instances)
            assert (found.change[i], found.reasons[i]) == (decision.change, decision.reason)
        state = after


@pytest.mark.filterwarnings("ignore")
@given(garbage)
def test_one_reading_for_all_is_that_reading_five_times(odd):
    """A scalar stands for a column of itself, unless it is a column."""
    batch = BatchCoScaler(SETS)
    state = batch.initial_state()
    if not isinstance(odd, list | tuple | dict):
        assert decided(batch.decide(state, 1.0, odd, 2, 0)[0]) == decided(batch.decide(state, 1.0, [odd] * 5, 2, 0)[0])


@pytest.mark.parametrize(
    "column",
    [
        np.ma.masked_array([3.0] * 5, mask=True), np.array(["3"] * 5), np.array([True] * 5), np.array([3j] * 5),
        np.array([3] * 5, "m8[s]"), [True] * 5, ["3"] * 5, [10**400] * 5, [None] * 5, np.array([None] * 5), "3", None,
    ],
)  # fmt: skip
def test_columns_of_no_numbers_are_not_known(column: Any) -> None:
    """Masked entries, texts, booleans, complex numbers and dates say nothing, whatever numpy makes of them."""
    batch = BatchCoScaler(SETS)
    decision, _ = batch.decide(batch.initial_state(), 1.0, column, 2, 0)
    assert set(decision.reasons) == {ScalingReason.NO_DATA}


def objects(column: list[Any]) -> Any:
    """The column as an array of objects, nested ones left whole."""
    array = np.empty(len(column), dtype=object)
    for i, value in enumerate(column):
        array[i] = value
    return array


def decided(decision: Any) -> list[list[int]]:
    return [decision.instances.tolist(), decision.change.tolist(), decision.reason_codes.tolist()]


def test_through_hundreds_of_buckets_the_forecasts_stay_the_same() -> None:
    """A square wave of half an hour: launches ahead of it come in both, at the same seconds."""
    params = HorizontalParams(10.0, 300, 600, cold_start_s=5.0, window_s=30, scale_in_cooldown_s=0.0)
    batch, one = BatchCoScaler([params] * 2), CoScaler(params)
    state, alone, planned, reasons = batch.initial_state(), one.initial_state(), 1, set()
    for second in range(1500):
        load = 80.0 if second % 100 < 30 else 4.0
        decision, alone = one.decide(alone, Observation(float(second), load, planned, 0))
        found, state = batch.decide(state, float(second), load, planned, 0.0)
        assert found.instances.tolist() == [decision.instances] * 2
        planned = decision.instances or 0
        reasons |= {decision.reason}
    assert ScalingReason.PREDICTED in reasons


def test_a_state_is_a_value() -> None:
    """Deciding twice from one state gives the same twice, whether or not a bucket ends; `in_place` uses it up."""
    batch = BatchCoScaler(SETS)
    state = batch.initial_state()
    for second in range(40):
        before = json.dumps(state.to_dict())
        found, after = batch.decide(state, float(second), 20.0, 1, 0, 3.0)
        again, _ = batch.decide(state, float(second), 20.0, 1, 0, 3.0)
        assert json.dumps(state.to_dict()) == before
        assert found.instances.tolist() == again.instances.tolist()
        assert not found.change.flags.writeable
        state = after
    assert batch.decide(state, 41.0, 20.0, 1, 0, in_place=True)[1] is state


def anything(value: Any) -> Any:
    """`value`, hidden from type checkers that would refuse the misuse under test."""
    return value


def test_the_state_of_other_functions_is_refused() -> None:
    """Of the same shape, but with positions beyond the rings of these parameters: nothing is written anywhere."""
    lazy = HorizontalParams(10.0, 300, 600, rule="lazy", lazy_samples=400, lazy_out=400, lazy_in=400)
    other = HorizontalParams(10.0, 300, 600, predict="off", late_weight=0.0)
    batch, mirrored = BatchCoScaler([other, lazy]), BatchCoScaler([lazy, other])
    state = batch.initial_state()
    for second in range(1, 799):
        _, state = batch.decide(state, float(second), 5.0, 1, 0, in_place=True)
    with pytest.raises(InvalidArgumentError, match="state"):
        mirrored.decide(state, 799.0, 5.0, 1, 0)
    batch.decide(state, 799.0, 5.0, 1, 0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state._replace(state=state.state.tolist()),
        lambda state: state._replace(peaks=state.peaks.astype(np.float32)),
        lambda state: state._replace(season=np.asfortranarray(state.season)),
        lambda state: state._replace(state=np.full_like(state.state, NAN)),
        lambda state: state._replace(forecast=np.full_like(state.forecast, 1e9)),
        lambda state: tuple(state),
    ],
)
def test_states_that_no_batch_made_are_refused(spoil: Any) -> None:
    batch = BatchCoScaler(SETS)
    with pytest.raises(InvalidArgumentError, match="state"):
        batch.decide(spoil(batch.initial_state()), 1.0, 5.0, 1, 0)


def test_a_state_that_cannot_be_written_is_a_state() -> None:
    """As it comes from a mapped file: decided from, but not used up."""
    batch = BatchCoScaler(SETS)
    state = batch.initial_state()
    for column in state:
        column.flags.writeable = False
    for second in range(1, 40):
        decision, state = batch.decide(state, float(second), 20.0, 1, 0)
    frozen = BatchState(*(column.copy() for column in state))
    for column in frozen:
        column.flags.writeable = False
    again, _ = batch.decide(frozen, 40.0, 20.0, 1, 0)
    decision, _ = batch.decide(state, 40.0, 20.0, 1, 0)
    assert (again.instances == decision.instances).all()
    with pytest.raises(InvalidArgumentError, match="read-only"):
        batch.decide(frozen, 40.0, 20.0, 1, 0, in_place=True)


def test_bad_arguments_are_named() -> None:
    """Each message begins with the argument at fault."""
    batch = BatchCoScaler(SETS)
    state = batch.initial_state()
    data = state.to_dict()
    for message, call in {
        "params_list is empty": lambda: BatchCoScaler([]),
        r"params_list\[0\]": lambda: BatchCoScaler([anything(3)]),
        "state is": lambda: batch.decide(anything(None), 0.0, 1.0, 1, 0),
        "state is .*BatchState": lambda: batch.decide(BatchCoScaler(SETS[:2]).initial_state(), 0.0, 1.0, 1, 0),
        "arrivals_rps": lambda: batch.decide(state, 0.0, [1.0, 2.0], 1, 0),
        "arrivals_rps is": lambda: batch.decide(state, 0.0, np.ones((5, 5)), 1, 0),
        "ready": lambda: batch.decide(state, 0.0, 1.0, anything({"a": 1}), 0),
        "starting": lambda: batch.decide(state, 0.0, 1.0, 1, anything(iter([0] * 5))),
        "time_s": lambda: batch.decide(state, [], 1.0, 1, 0),
        "data is no": lambda: batch.restored({}),
        r"data\['peaks'\]": lambda: batch.restored({**data, "peaks": [[1.0]] * 4}),
        r"data\['season'\]": lambda: batch.restored({**data, "season": None}),
        r"data\['state'\]\[0\]": lambda: batch.restored({**data, "state": [[500.0] * at.STATE] * 5}),
    }.items():
        with pytest.raises(InvalidArgumentError, match=f"^{message}"):
            call()
    assert isinstance(batch.restored(data), BatchState)


@pytest.mark.parametrize(
    ("column", "entry", "value"),
    [
        ("state", at.SAMPLES, 60.0),  # more than this row's short mean spans, though another row's does
        ("state", at.OLDEST, 59.0),
        ("state", at.RUNNING, 12.5),
        ("state", at.HELD_OVER, 13.0),
        ("state", at.PARTIAL_REQUESTS, 1e300),
        ("state", at.HELD, -1.0),
        ("forecast", at.NEXT_WINDOW, 5.0),
        ("forecast", at.SOON_RPS, 1e300),
        ("forecast", at.DRIFT_RPS, 1e300),
        ("samples", 0, 1e16),
        ("peaks", 3, -1.0),
        ("season", 17, 1e300),
    ],
)
def test_corrupt_entries_are_refused_by_name(column: str, entry: int, value: float) -> None:
    """A position outside of its row's ring, or a rate that no policy remembers, is an InvalidArgumentError."""
    function = HorizontalParams(10.0, 300, 600, slo_ms=200.0)
    batch = BatchCoScaler([replace(function, short_s=1), replace(function, short_s=60)])
    data = batch.initial_state().to_dict()
    rows: Any = data[column]
    rows[0][entry] = value
    with pytest.raises(InvalidArgumentError, match=rf"^data\['{column}'\]\[0\]\[{entry}\]"):
        batch.restored(data)
