"""The headroom that grants report is what an instance would have got, and its mean is what horizontal scaling reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.coscaling.gpu import KINDS, GpuInstance, GpuObservation
from dilu_core.coscaling.grants import Grants, VerticalMode, spare_milli
from dilu_core.coscaling.vertical import VerticalScaler, VerticalState
from dilu_core.errors import InvalidArgumentError


def decide(*found):
    return VerticalScaler().decide(VerticalState(), GpuObservation(found))[0]


@st.composite
def gpus(draw):
    found = []
    for i in range(draw(st.integers(1, 7))):
        request = draw(st.integers(1, draw(st.sampled_from([100, 500]))))
        limit, demand = draw(st.integers(request, 1000)), draw(st.sampled_from([None, 0, 150, 300.5]))
        weight = draw(st.sampled_from([None, 1, 5]))
        found.append(GpuInstance(f"i{i}", draw(st.sampled_from(KINDS)), request, limit, demand, weight=weight))
    return tuple(found)


@given(gpus())
def test_headroom_is_what_wanting_the_limit_would_have_brought(found):
    """Deciding again with one instance wanting its limit grants its request and headroom, to the unit of rounding.

    Where that would oversell the GPU, the headroom is 0; best effort has none.
    """
    headroom = decide(*found).headroom
    assert list(headroom) == [one.name for one in found if one.kind != "best-effort"]
    for one in found:
        if one.kind == "best-effort":
            continue
        again = decide(*(replace(each, demand_milli=None) if each is one else each for each in found))
        brought = 0 if again.oversold else again[one.name] - one.request_milli
        assert headroom[one.name] in (brought, max(0, brought - 1))


def test_known_headroom():
    """Of 1000, serve (200) could go to its limit of 600 at the cost of training; chat (300, idle) is left 100 of 250.

    For chat would first take its request of 300 back, then share the remaining 200 by weights of 2 to 3 until train's
    request of 300 is all it has.
    """
    grants = decide(
        GpuInstance("serve", "slo", 200, 600, None),
        GpuInstance("chat", "llm-slo", 300, 550, 0),
        GpuInstance("train", "best-effort", 300, 900),
    )
    assert dict(grants) == {"serve": 600, "chat": 0, "train": 400}
    assert grants.headroom == {"serve": 400, "chat": 120}


def test_a_second_of_grants_becomes_the_spare_share():
    """The mean over periods and instances, of whichever GPU; instances that were not there do not count."""
    first = decide(GpuInstance("a", "slo", 200, 600), GpuInstance("t", "best-effort", 100, 900))
    second = decide(GpuInstance("b", "slo", 300, 500))
    assert spare_milli([first, first, second], ["a", "b", "gone"]) == (400 + 400 + 200) / 3
    assert spare_milli([first, second], ["b"]) == 200.0
    assert spare_milli([first], ["t"]) is None
    assert spare_milli([], ["a"]) is None
    assert Grants({"a": 1}, VerticalMode.RECOVERY, 1000, None, False, "").headroom == {}


def test_misuse_is_refused_by_name():
    """Periods that are none, a period that is no Grants, and a bare string for names."""
    wrong: Any = {"a": 3}
    nothing: Any = None
    with pytest.raises(InvalidArgumentError, match="periods is None"):
        spare_milli(nothing, ["a"])
    with pytest.raises(InvalidArgumentError, match=r"periods\[0\]"):
        spare_milli([wrong], ["a"])
    with pytest.raises(InvalidArgumentError, match="instances"):
        spare_milli([], "a")
