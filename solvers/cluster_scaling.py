"""How each system of a cluster replay scales: from what was seen of a function to instances added or given up.

A scaler belongs to one function and remembers what it has seen. Its answer counts instances by configuration of the
menu (`dilu_core.solvers.cluster_quotas`), so that instances of one function may differ.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dilu_core.coscaling.policy import Observation, Policy
from dilu_core.quota import QuotaConfig
from dilu_core.solvers.cluster_quotas import Menu

Pick = Callable[[Menu, float], int]
"""From a menu and requests per second that nobody serves, the configuration of the next instance."""

KEEP_ALIVE_S = 60.0
"""Seconds for which reactive systems keep what a peak needed."""

UTILISATION = 0.8
"""Part of their capacity for which reactive systems plan instances. On workloads of `bench/cluster_replay.py` (seeds 0
to 2) full load had up to twice the late requests for 5 % fewer GPUs, and loads smoothed over 3 or 10 s did worse."""

_NOISE = 1e-9  # relative; a load of exactly n instances needs n


class Scaler(Protocol):
    """The horizontal side of one function."""

    def initial(self, arrivals_rps: float) -> list[int]:
        """Instances by configuration to deploy for this load, at least one in all."""
        ...

    def change(self, seen: Observation, planned: Sequence[int]) -> list[int]:
        """Instances by configuration to add (> 0) or give up (< 0); `planned` are those there, starting or waiting."""
        ...


class UniformScaler:
    """Every instance runs in the first configuration, and a `Policy` says how many there are."""

    def __init__(self, menu: Menu, policy: Policy[Any]) -> None:
        self.menu = menu
        self.policy = policy
        self._state = policy.initial_state()

    def initial(self, arrivals_rps: float) -> list[int]:
        """As many as the load needs at the request."""
        return [_instances(arrivals_rps, self.menu[0])] + [0] * (len(self.menu) - 1)

    def change(self, seen: Observation, planned: Sequence[int]) -> list[int]:
        """What the policy decides."""
        decision, self._state = self.policy.decide(self._state, seen)
        return [max(decision.change, -planned[0])] + [0] * (len(self.menu) - 1)


class ResidualScaler:
    """Reactive: the load of the last period beyond what the instances serve gets new instances, chosen by `pick`.

    Instances are planned for `utilisation` of their capacity: the load counts over that. They go, the least efficient
    first, while the others would serve the peak of the last `keep_alive_s` seconds; one always stays. Instances that
    start count as serving.
    """

    def __init__(
        self, menu: Menu, pick: Pick, *, utilisation: float = UTILISATION, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        self.menu = menu
        self.pick = pick
        self.utilisation = utilisation
        self._keep_alive_s = keep_alive_s
        self._seen: deque[tuple[float, float]] = deque()  # (time, load), loads falling: the peaks of the window
        self._expendable = sorted(range(len(menu)), key=lambda k: menu[k].efficacy)

    def initial(self, arrivals_rps: float) -> list[int]:
        """What the load gets where nothing is there."""
        counts = [0] * len(self.menu)
        self._fill(arrivals_rps / self.utilisation, counts)
        if not any(counts):
            counts[self.pick(self.menu, 0.0)] = 1
        return counts

    def change(self, seen: Observation, planned: Sequence[int]) -> list[int]:
        """Out at once, in once the peak is over."""
        assert seen.time_s is not None
        assert seen.arrivals_rps is not None
        load = seen.arrivals_rps / self.utilisation
        peak = self._peak(seen.time_s, load)
        counts = [0] * len(self.menu)
        capacity = self._capacity(planned)
        if load > capacity * (1.0 + _NOISE):
            self._fill(load - capacity, counts)
            return counts
        left = sum(planned)
        for k in self._expendable:
            rps = self.menu[k].throughput_rps
            while left > 1 and planned[k] + counts[k] > 0 and peak <= (capacity - rps) * (1.0 + _NOISE):
                counts[k] -= 1
                left -= 1
                capacity -= rps
        return counts

    def _capacity(self, counts: Sequence[int]) -> float:
        return sum(count * config.throughput_rps for count, config in zip(counts, self.menu, strict=True))

    def _fill(self, residual: float, counts: list[int]) -> None:
        """Add instances until the residual is served."""
        least = _NOISE * max(residual, 1.0)
        while residual > least:
            k = self.pick(self.menu, residual)
            same = self.menu[k].throughput_rps
            # as many as do not change the choice: a choice depends on the residual only through what it still fills
            repeated = max(1, math.floor(residual / same) - 1)
            counts[k] += repeated
            residual -= repeated * same

    def _peak(self, now: float, load: float) -> float:
        seen = self._seen
        while seen and seen[-1][1] <= load:
            seen.pop()
        seen.append((now, load))
        while seen[0][0] <= now - self._keep_alive_s:
            seen.popleft()
        return seen[0][1]


def first_of(menu: Menu, residual_rps: float) -> int:
    """Always the first configuration."""
    return 0


def largest_filled_batch(slo_ms: float) -> Pick:
    """INFless: the largest batch that the residual fills in time, `r_low = batch / (slo - execution) <= residual`.

    (Yang et al., ASPLOS 2022, doi 10.1145/3503222.3507709, sections 3.2 and 3.4.) The smallest where it fills none.
    """

    def pick(menu: Menu, residual_rps: float) -> int:
        for k, each in enumerate(menu):
            if 1000.0 * each.batch / (slo_ms - each.latency_ms) <= residual_rps:
                return k
        return len(menu) - 1

    return pick


def efficient_then_ideal(menu: Menu, residual_rps: float) -> int:
    """FaST-GShare: the most efficient configuration while the residual fills it, then the least that serves the rest.

    (Gu et al., ICPP 2023, doi 10.1145/3605573.3605638, section 3.4, its heuristic scaling.)
    """
    if residual_rps >= menu[0].throughput_rps:
        return 0
    enough = [k for k, each in enumerate(menu) if each.throughput_rps >= residual_rps * (1.0 - _NOISE)]
    return min(enough, key=lambda k: (menu[k].throughput_rps, menu[k].request_milli), default=0)


def _instances(arrivals_rps: float, config: QuotaConfig) -> int:
    return max(1, math.ceil(arrivals_rps / config.throughput_rps * (1.0 - _NOISE)))
