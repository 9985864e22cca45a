"""The scalar formulas against their definitions, finite differences and their own limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels import formulas

time_logs = st.floats(-6.0, 6.0)
logs = st.tuples(time_logs, time_logs, time_logs, time_logs, time_logs, st.floats(-0.7, 2.5))
Six = tuple[float, float, float, float, float, float]
batches = st.integers(1, 4096)
shares = st.integers(1, 1000).map(lambda milli: milli / 1000)


def test_roofline_at_hand_computed_points() -> None:
    """Launch 3, scaled work 4, p = 2 make 5; host time adds to it; a lone term is itself."""
    assert formulas.roofline_ms(3.0, 0.0, 2.0, 0.0, 0.0, 2.0, 1, 0.5) == pytest.approx(5.0)
    assert formulas.roofline_ms(3.0, 0.25, 2.0, 0.0, 0.0, 2.0, 4, 0.5) == pytest.approx(6.0)
    assert formulas.roofline_ms(0.0, 0.0, 0.0, 1.5, 0.0, 7.0, 8, 0.25) == pytest.approx(48.0)
    assert formulas.roofline_ms(0.0, 2.0, 0.0, 0.0, 0.0, 3.0, 8, 0.25) == pytest.approx(16.0)


@given(logs, batches, shares)
def test_roofline_is_the_formula_it_states(logs: Six, batch: int, share: float) -> None:
    """The scaled evaluation equals the plain power sum where that does not overflow."""
    launch, host, fixed, compute, bandwidth, sharpness = map(math.exp, logs)
    terms = (launch, (fixed + compute * batch) / share, bandwidth * batch)
    plain = host * batch + sum((x / max(terms)) ** sharpness for x in terms) ** (1 / sharpness) * max(terms)
    found = formulas.roofline_ms(launch, host, fixed, compute, bandwidth, sharpness, batch, share)
    assert found == pytest.approx(plain, rel=1e-12)


@given(st.floats(200.0, 300.0), st.floats(3.0, 50.0))
def test_extreme_times_neither_overflow_nor_vanish(exponent: float, sharpness: float) -> None:
    """Times of 1e300 and 1e-300 raised to the 50th power still give a finite positive latency."""
    huge, tiny = 10.0**exponent, 10.0**-exponent
    assert math.isfinite(formulas.roofline_ms(huge, 0.0, huge, 0.0, tiny, sharpness, 1, 0.5))
    assert formulas.roofline_ms(tiny, 0.0, tiny, tiny, tiny, sharpness, 1, 0.5) > 0.0


@given(logs, batches, shares)
def test_gradient_agrees_with_finite_differences(logs: Six, batch: int, share: float) -> None:
    """Every derivative by a log parameter is the central difference of log t."""

    def log_t(values: list[float]) -> float:
        launch, host, fixed, compute, bandwidth, sharpness = map(math.exp, values)
        return math.log(formulas.roofline_ms(launch, host, fixed, compute, bandwidth, sharpness, batch, share))

    launch, host, fixed, compute, bandwidth, sharpness = map(math.exp, logs)
    found = formulas.roofline_log_gradient(launch, host, fixed, compute, bandwidth, sharpness, batch, share)
    assert found[0] == pytest.approx(log_t(list(logs)), abs=1e-12)
    for k in range(6):
        step = 1e-5
        above, below = list(logs), list(logs)
        above[k] += step
        below[k] -= step
        assert found[k + 1] == pytest.approx((log_t(above) - log_t(below)) / (2 * step), abs=2e-6)


ABSENT = -1e9  # log of a time of zero


@given(logs, batches, shares, st.sets(st.integers(0, 4), max_size=4))
def test_terms_from_logs_are_the_gradient_from_times(logs: Six, batch: int, share: float, absent: set[int]) -> None:
    """`roofline_fit_terms` is `roofline_log_gradient`, whichever times are zero."""
    times = [0.0 if k in absent else math.exp(log) for k, log in enumerate(logs[:5])]
    in_logs = [ABSENT if k in absent else log for k, log in enumerate(logs[:5])]
    sharpness = math.exp(logs[5])
    expected = formulas.roofline_log_gradient(*times, sharpness, batch, share)  # type: ignore[call-arg]
    found = formulas.roofline_fit_terms(*in_logs, sharpness, math.log(batch), math.log(share))  # type: ignore[call-arg]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(logs, batches, shares)
def test_derivatives_from_logs_agree_with_finite_differences(logs: Six, batch: int, share: float) -> None:
    """Every derivative of `roofline_fit_terms` is the central difference of its first term."""

    def terms(values: list[float]) -> tuple[float, ...]:
        launch, host, fixed, compute, bandwidth, sharpness = values
        return formulas.roofline_fit_terms(
            launch, host, fixed, compute, bandwidth, math.exp(sharpness), math.log(batch), math.log(share)
        )

    found, step = terms(list(logs)), 1e-5
    for k in range(6):
        above, below = list(logs), list(logs)
        above[k] += step
        below[k] -= step
        assert found[k + 1] == pytest.approx((terms(above)[0] - terms(below)[0]) / (2 * step), abs=2e-6)


any_log = st.one_of(st.just(ABSENT), st.floats(-1e6, 1e6), st.floats(-700.0, 700.0))


@given(st.tuples(any_log, any_log, any_log, any_log, any_log), st.floats(1e-3, 1e4), st.floats(0, 40), shares)
def test_extreme_logs_neither_overflow_nor_vanish(
    times: tuple[float, float, float, float, float], sharpness: float, log_batch: float, share: float
) -> None:
    """Logs of a million either way and times of zero give finite terms; parts are shares of one, and the latency lies
    between its greatest term and what all of them could make of it."""
    launch, host, fixed, compute, bandwidth = times
    found = formulas.roofline_fit_terms(launch, host, fixed, compute, bandwidth, sharpness, log_batch, math.log(share))
    assert all(map(math.isfinite, found))
    assert all(-1e-12 <= part <= 1 + 1e-12 for part in found[1:6])
    assert sum(found[1:6]) == pytest.approx(1.0)
    scaled = max(fixed, compute + log_batch) - math.log(share)
    greatest = max(launch, scaled, bandwidth + log_batch, host + log_batch)
    room = 1e-9 * abs(greatest) + 1e-9
    assert greatest - room <= found[0] <= greatest + math.log(2) * 2 + math.log(3) / sharpness + room


@given(st.integers(0, 4), st.floats(-6, 6), batches, shares)
def test_one_time_alone_is_all_of_the_latency(which: int, log: float, batch: int, share: float) -> None:
    """With every other time zero the log latency is that term's, and so is the whole derivative; host time too."""
    times = [log if k == which else ABSENT for k in range(5)]
    found = formulas.roofline_fit_terms(*times, 3.0, math.log(batch), math.log(share))  # type: ignore[call-arg]
    per_batch = math.log(batch) if which in (1, 3, 4) else 0.0
    per_share = math.log(share) if which in (2, 3) else 0.0
    assert found[0] == pytest.approx(log + per_batch - per_share, abs=1e-12)
    assert found[1:] == pytest.approx([float(k == which) for k in range(5)] + [0.0], abs=1e-12)


@given(logs, batches, shares)
def test_least_share_inverts_the_roofline(logs: Six, batch: int, share: float) -> None:
    """At the share it names the latency is the one asked for; where it names none, no share suffices."""
    launch, host, fixed, compute, bandwidth, sharpness = map(math.exp, logs)
    values = (launch, host, fixed, compute, bandwidth, sharpness)
    latency = formulas.roofline_ms(*values, batch, share)
    found = formulas.roofline_least_share(*values, batch, latency)
    floor = formulas.roofline_ms(*values, batch, 1e300)
    if math.isfinite(found):
        assert formulas.roofline_ms(*values, batch, found) == pytest.approx(latency, rel=1e-6)
    else:
        assert latency == pytest.approx(floor, rel=1e-6)
    assert formulas.roofline_least_share(*values, batch, floor * 0.999) == math.inf


def test_gradient_of_absent_terms_is_zero() -> None:
    """A time of zero has no derivative, and host time alone takes all of it."""
    assert formulas.roofline_log_gradient(0.0, 2.0, 0.0, 0.0, 0.0, 3.0, 4, 0.5)[1:] == (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    only_compute = formulas.roofline_log_gradient(0.0, 0.0, 0.0, 1.0, 0.0, 3.0, 4, 0.5)
    assert only_compute[1:] == pytest.approx((0.0, 0.0, 0.0, 1.0, 0.0, 0.0))


@given(logs, batches, shares)
def test_slopes_stay_between_none_and_proportional(logs: Six, batch: int, share: float) -> None:
    """Doubling the batch multiplies latency by 1 to 2; halving the share likewise."""
    launch, host, fixed, compute, bandwidth, sharpness = map(math.exp, logs)
    values = (launch, host, fixed, compute, bandwidth, sharpness)
    at = formulas.roofline_ms(*values, batch, share)
    assert at * (1 - 1e-12) <= formulas.roofline_ms(*values, 2 * batch, share) <= 2 * at * (1 + 1e-12)
    assert at * (1 - 1e-12) <= formulas.roofline_ms(*values, batch, share / 2) <= 2 * at * (1 + 1e-12)


@given(st.floats(0, 1), st.floats(0, 1e6), st.floats(0.001, 1))
def test_error_spread_is_capped_and_floored(scatter: float, leverage: float, floor: float) -> None:
    """The spread lies between the floor and its value at the cap."""
    spread = formulas.error_spread(scatter, leverage, 64.0, floor)
    assert floor * (1 - 1e-12) <= spread <= math.hypot(8.0 * scatter, floor) * (1 + 1e-12)


def test_efficacy_is_throughput_per_whole_gpu() -> None:
    """8 requests in 40 ms on a quarter of a GPU: 200 a second, 800 per GPU."""
    assert formulas.throughput_rps(8, 40.0) == pytest.approx(200.0)
    assert formulas.efficacy(8, 40.0, 250) == pytest.approx(800.0)
