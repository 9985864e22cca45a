"""What the instances of a function carry, promised and seen: load over capacity, and the requests that wait."""

from __future__ import annotations

from typing import NamedTuple

from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.state import LEAST_DELIVERED, HorizontalState

_STANDING = 0.02  # a queue that changes by less than this part of the arrivals stands still


class Fleet(NamedTuple):
    """The present: instances by state, arrivals, and requests in the system where that is known."""

    ready: int
    starting: int
    arrivals_rps: float
    in_flight: float | None

    @property
    def planned(self) -> int:
        """Instances that serve or will."""
        return self.ready + self.starting

    @property
    def anything(self) -> bool:
        """Whether a request came or is in the system."""
        return self.arrivals_rps > 0.0 or bool(self.in_flight)


def trusted_lean(params: HorizontalParams, spare_milli: float | None, delivered: float | None) -> float:
    """The load over capacity that an instance is trusted with: between 1 and limit / request, or what it delivered."""
    return _lean(params, spare_milli, delivered, params.spare_trust)


def full_lean(params: HorizontalParams, spare_milli: float | None, delivered: float | None) -> float:
    """The load over capacity that an instance carries with all of its spare share, or, not known, as trusted."""
    return _lean(params, spare_milli, delivered, 1.0)


def _lean(params: HorizontalParams, spare_milli: float | None, delivered: float | None, trust: float) -> float:
    lean = params.lean if spare_milli is None else 1.0 + trust * spare_milli / params.request_milli
    lean = min(lean, params.burst)
    return lean if delivered is None else min(lean, delivered)


def seen_delivery(params: HorizontalParams, before: HorizontalState, fleet: Fleet, elapsed_s: float) -> float | None:
    """What a ready instance serves over its capacity, as seen while requests waited; `None` if never seen.

    A queue that did not run dry in the last `elapsed_s` measures the service rate: arrivals less the growth of the
    queue. It mends a capacity that was promised too high, or a burst share that is not there. Starting instances do
    not blur it, and it counts only while the number of ready ones stands still.
    """
    usual = _usual_in_flight(params, fleet)
    if fleet.in_flight is None or before.in_flight is None or usual is None:
        return before.delivered
    if fleet.ready == 0 or fleet.ready != before.ready or min(before.in_flight, fleet.in_flight) <= usual:
        return before.delivered
    growth = (fleet.in_flight - before.in_flight) / elapsed_s
    if abs(growth) <= _STANDING * fleet.arrivals_rps:
        return before.delivered  # what stands still may be slow service as well as a queue: no evidence of a rate
    rate = fleet.arrivals_rps - growth
    seen = min(max(rate / (fleet.ready * params.capacity_rps), LEAST_DELIVERED), params.burst)
    if before.delivered is None:
        return seen
    return before.delivered + (seen - before.delivered) * min(1.0, elapsed_s / params.short_s)


def shown_load(
    params: HorizontalParams, before: HorizontalState, fleet: Fleet, elapsed_s: float, delivered: float | None
) -> float | None:
    """The load over capacity that a ready instance has shown to carry; `None` if nothing ever measured it.

    It starts at the promise, 1, rises to any load that came in without queueing up, and is what was measured where a
    queue measured it: where `delivered` differs from that of `before`. Scale-in trusts no more than this, because a
    burst that is not there shows only when the instances are gone.
    """
    if fleet.in_flight is None or before.in_flight is None or _usual_in_flight(params, fleet) is None:
        return before.shown
    if fleet.ready == 0 or fleet.ready != before.ready:
        return before.shown
    if delivered is not None and delivered != before.delivered:
        return delivered
    queued_rps = max(0.0, fleet.in_flight - before.in_flight) / elapsed_s
    carried = min((fleet.arrivals_rps - queued_rps) / (fleet.ready * params.capacity_rps), params.burst)
    return max(1.0 if before.shown is None else before.shown, carried)


def backlog_rps(params: HorizontalParams, fleet: Fleet | None) -> float:
    """The extra rate that clears the backlog in `clear_s`; 0 where it is not known or new instances are starting."""
    if fleet is None or fleet.in_flight is None or fleet.starting > 0:
        return 0.0
    usual = _usual_in_flight(params, fleet)
    return 0.0 if usual is None else max(0.0, fleet.in_flight - usual) / params.clear_s


def _usual_in_flight(params: HorizontalParams, fleet: Fleet) -> float | None:
    """Requests in the system while all is well, and one per instance: Little's law at the SLO or the base latency.

    The greater counts: a base latency above the SLO breaks the SLO, but with no request waiting.
    """
    if params.slo_ms is None and params.base_latency_ms is None:
        return None
    latency_ms = max(params.slo_ms or 0.0, params.base_latency_ms or 0.0)
    return fleet.arrivals_rps * latency_ms / 1000.0 + fleet.ready
