"""The fluid queue neither loses nor invents requests, and uses the least share that serves them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.kernels.cpu.replay import advance_queue, share_for_rate


@st.composite
def rate_tables(draw):
    """Non-decreasing rates by share from 0, with flat stretches."""
    steps = draw(st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=40))
    return np.concatenate(([0.0], np.cumsum(steps)))


@given(rate_tables(), st.floats(0, 60), st.data())
def test_the_share_found_is_the_least_that_serves(rates, wanted, data):
    """Interpolated at the share found, the table gives the wanted rate; a scan finds no smaller share."""
    most = data.draw(st.integers(1, rates.size - 1))
    share = share_for_rate(rates, wanted, most)
    assert 0.0 <= share <= most
    if wanted > rates[most]:
        assert share == most
        return
    assert np.interp(share, np.arange(rates.size), rates) == pytest.approx(wanted)
    assert share <= np.flatnonzero(rates >= wanted)[0]


@given(
    st.lists(st.floats(0, 50), min_size=1, max_size=30),
    rate_tables(),
    st.integers(0, 4),
    st.floats(0, 100),
    st.sampled_from([0.1, 1.0]),
)
def test_requests_are_conserved_and_served_as_fast_as_allowed(arrivals, rates, ready, backlog, step_s):
    """Per step: what came is served or waits, service keeps to its rate, and nothing waits while service is idle."""
    came, steps = np.array(arrivals), len(arrivals)
    most = np.full(steps, rates.size - 1, dtype=np.int64)
    after, used = np.zeros(steps), np.zeros(steps)
    last = advance_queue(came, most, rates, step_s, ready, 0, steps, backlog, after, used)
    assert last == after[-1]
    before = np.concatenate(([backlog], after[:-1]))
    served = before + came - after
    fastest = rates[-1] * ready * step_s
    assert (served >= -1e-9).all()
    assert (served <= fastest + 1e-6).all()
    assert ((after < 1e-9) | (served >= fastest - 1e-6)).all()
    delivered = np.interp(used, np.arange(rates.size), rates) * ready * step_s
    assert delivered == pytest.approx(served, abs=1e-6)


def test_a_queue_cut_in_two_calls_is_the_same_queue():
    """Running steps 0-5 and 5-9 in two calls gives what one call gives."""
    came, rates = np.array([5.0, 0, 9, 1, 0, 7, 7, 0, 1]), np.arange(11.0)
    most = np.full(9, 10, dtype=np.int64)
    whole, parted = (np.zeros(9), np.zeros(9)), (np.zeros(9), np.zeros(9))
    advance_queue(came, most, rates, 0.2, 2, 0, 9, 0.0, *whole)
    middle = advance_queue(came, most, rates, 0.2, 2, 0, 5, 0.0, *parted)
    advance_queue(came, most, rates, 0.2, 2, 5, 9, middle, *parted)
    assert np.array_equal(whole, parted)
