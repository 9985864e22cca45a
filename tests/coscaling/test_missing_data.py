"""No data, late data and odd clocks have the answers that the table in `dilu_core.coscaling.policy` documents."""

from __future__ import annotations

from typing import Any

import pytest

from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation, ScalingReason

NOT_KNOWN: list[Any] = [None, float("nan"), float("inf"), -float("inf"), "12", b"12", [], object(), 1e300]
FORGETTING = {"in_flight": None}

PARAMS = HorizontalParams(10.0, 300, 600, slo_ms=200.0, base_latency_ms=50.0, stale_after_s=60.0)
SCALER = CoScaler(PARAMS)


def warm() -> Any:
    """The state after 200 s of a load of two instances, observed every second until t = 200."""
    state = SCALER.initial_state()
    for second in range(1, 201):
        _, state = SCALER.decide(state, seen(time_s=float(second)))
    return state


def seen(**changes: Any) -> Observation:
    """What comes a second later if all is well; the changes are what is not."""
    fields = {"time_s": 201.0, "arrivals_rps": 20.0, "ready": 2, "starting": 0, "in_flight": 1.0, "spare_milli": 100.0}
    return Observation(**{**fields, "latency_p95_ms": 60.0, **changes})


def kept_but(state: Any, **changes: Any) -> Any:
    """The memory of `state` with these fields changed."""
    return state._replace(**changes)


def but_forecast(state: Any) -> Any:
    """The memory without that of a forecast, whose clock goes on through gaps."""
    return {name: value for name, value in state._asdict().items() if name != "forecast"}


@pytest.mark.parametrize("load", [0.0, 20.0, 500.0])
@pytest.mark.parametrize("odd", NOT_KNOWN[:-1])
def test_without_a_clock_nothing_moves_and_nothing_is_remembered(odd: Any, load: float) -> None:
    """`time_s` not known: no change, "clock", memory untouched."""
    state = warm()
    decision, after = SCALER.decide(state, seen(time_s=odd, arrivals_rps=load))
    assert (decision.instances, decision.change, decision.reason) == (2, 0, ScalingReason.CLOCK)
    assert after == state


@pytest.mark.parametrize("load", [0.0, 500.0])
def test_a_clock_that_stands_still_moves_nothing(load: float) -> None:
    """No change, "clock", memory untouched."""
    state = warm()
    decision, after = SCALER.decide(state, seen(time_s=200.0, arrivals_rps=load))
    assert (decision.change, decision.reason) == (0, ScalingReason.CLOCK)
    assert after == state


@pytest.mark.parametrize("back_s", [1e-9, 1.0, 59.0, 61.0, 1e9])
@pytest.mark.parametrize("load", [0.0, 500.0])
def test_a_clock_that_went_back_is_set(back_s: float, load: float) -> None:
    """No change, "clock"; the clock is set, the queue forgotten, everything else kept."""
    state = warm()
    decision, after = SCALER.decide(state, seen(time_s=200.0 - back_s, arrivals_rps=load))
    assert (decision.change, decision.reason) == (0, ScalingReason.CLOCK)
    assert after == kept_but(state, time_s=200.0 - back_s, **FORGETTING)


@pytest.mark.parametrize("gap_s", [2.0, 30.0, 60.0])
def test_late_data_speak_for_the_whole_gap(gap_s: float) -> None:
    """Late by at most `stale_after_s`: a decision on the mean rate of the gap, which counts as known seconds."""
    state = warm()
    decision, after = SCALER.decide(state, seen(time_s=200.0 + gap_s, arrivals_rps=500.0))
    assert decision.change > 0
    assert after.time_s == 200.0 + gap_s
    assert after.samples_rps == (500.0, 500.0)
    quiet, idle = SCALER.decide(state, seen(time_s=200.0 + gap_s, arrivals_rps=0.0, in_flight=0.0))
    assert quiet.change <= 0
    assert idle.quiet_s == gap_s


@pytest.mark.parametrize("gap_s", [60.1, 3600.0, 1e15])
@pytest.mark.parametrize("load", [0.0, 500.0])
def test_a_jump_ahead_forgets(gap_s: float, load: float) -> None:
    """Late by more than `stale_after_s`: no change, "learning"; the clock alone is kept."""
    decision, after = SCALER.decide(warm(), seen(time_s=200.0 + gap_s, arrivals_rps=load))
    assert (decision.change, decision.reason) == (0, ScalingReason.LEARNING)
    assert after == kept_but(SCALER.initial_state(), time_s=200.0 + gap_s)


@pytest.mark.parametrize("time_s", [-1e9, 0.0, 1e9])
def test_the_first_observation_is_decided_on(time_s: float) -> None:
    """Whatever the clock shows, as if its arrivals had lasted for one second."""
    decision, after = SCALER.decide(SCALER.initial_state(), seen(time_s=time_s, arrivals_rps=500.0))
    assert decision.change > 0
    assert after.samples_rps == (500.0,)


@pytest.mark.parametrize("odd", [*NOT_KNOWN, -1.0])
@pytest.mark.parametrize("first", [False, True])
def test_unknown_arrivals_move_nothing(odd: Any, first: bool) -> None:
    """No change, "no-data"; the clock goes on, the queue is forgotten; neither load nor idleness is counted."""
    state = SCALER.initial_state() if first else warm()
    decision, after = SCALER.decide(state, seen(arrivals_rps=odd))
    assert (decision.instances, decision.change, decision.reason) == (2, 0, ScalingReason.NO_DATA)
    assert "arrivals_rps" in decision.detail
    passed = None if state.since_change_s is None else state.since_change_s + 1.0
    assert but_forecast(after) == but_forecast(kept_but(state, time_s=201.0, since_change_s=passed, **FORGETTING))


@pytest.mark.parametrize("odd", [*NOT_KNOWN, -1, 1.5])
@pytest.mark.parametrize("count", ["ready", "starting"])
def test_unknown_counts_move_nothing_but_arrivals_are_remembered(count: str, odd: Any) -> None:
    """No change, "no-data", target not known; the load is remembered and acted on once the count is known."""
    decision, after = SCALER.decide(warm(), seen(arrivals_rps=500.0, **{count: odd}))
    assert (decision.instances, decision.change, decision.reason) == (None, 0, ScalingReason.NO_DATA)
    assert count in decision.detail
    assert after.samples_rps[-1] == 500.0
    assert (after.in_flight, after.ready) == (None, None)
    next_one, _ = SCALER.decide(after, seen(time_s=202.0, arrivals_rps=20.0))
    assert next_one.change > 0


@pytest.mark.parametrize("odd", [*NOT_KNOWN, -1.0])
def test_an_unknown_queue_leaves_the_arrivals_to_decide(odd: Any) -> None:
    """`in_flight` not known: the same decision as with an empty queue, and the queue is forgotten."""
    for load in (20.0, 500.0):
        known, _ = SCALER.decide(warm(), seen(arrivals_rps=load))
        decision, after = SCALER.decide(warm(), seen(arrivals_rps=load, in_flight=odd))
        assert (decision.change, decision.reason) == (known.change, known.reason)
        assert after.in_flight is None


@pytest.mark.parametrize("odd", [*NOT_KNOWN, -1.0])
def test_an_unknown_spare_share_is_trusted_as_far_as_lean(odd: Any) -> None:
    """`spare_milli` not known: an instance is trusted with `lean` x capacity, and the smoothed share forgotten."""
    state = SCALER.initial_state()
    _, state = SCALER.decide(state, seen(time_s=0.0, arrivals_rps=0.0, spare_milli=300.0))
    decision, after = SCALER.decide(state, seen(time_s=60.0, arrivals_rps=119.0, spare_milli=odd))
    assert decision.instances == 10  # 119 / (10 x 1.2)
    assert after.spare_milli is None


@pytest.mark.parametrize("odd", [*NOT_KNOWN, -1.0])
def test_an_unknown_latency_bars_no_scale_in(odd: Any) -> None:
    """A latency above its objective forbids scale-in; one that is not known does not."""
    state = warm()
    idle = {"time_s": 260.0, "arrivals_rps": 1.0, "in_flight": 0.1, "ready": 8}
    barred, _ = SCALER.decide(state, seen(**idle, latency_p95_ms=500.0))
    allowed, _ = SCALER.decide(state, seen(**idle, latency_p95_ms=odd))
    assert (barred.change, barred.reason) == (0, ScalingReason.HOLDING)
    assert (allowed.change < 0, allowed.reason) == (True, ScalingReason.SPARE_CAPACITY)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"time_s": None, "arrivals_rps": None, "ready": None}, ScalingReason.CLOCK),
        ({"time_s": 150.0, "arrivals_rps": None}, ScalingReason.CLOCK),
        ({"time_s": 1e6, "arrivals_rps": None, "ready": None}, ScalingReason.LEARNING),
        ({"arrivals_rps": None, "ready": None}, ScalingReason.NO_DATA),
    ],
)
def test_the_clock_speaks_first(changes: dict[str, Any], reason: ScalingReason) -> None:
    """Where several things are missing, the clock gives the answer, then the arrivals, then the counts."""
    decision, _ = SCALER.decide(warm(), seen(**changes))
    assert (decision.change, decision.reason) == (0, reason)
    if reason is ScalingReason.NO_DATA:
        assert "arrivals_rps" in decision.detail
