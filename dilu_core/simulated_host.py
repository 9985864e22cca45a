"""A host that exists in memory: its clock moves when told to, its launches take a cold start."""

from __future__ import annotations

from dilu_core._checks import fail, finite, integer, shown
from dilu_core.coscaling.policy import Observation, ScalingDecision


class SimulatedHost:
    """One function's fleet under a load that is always served: for tests of policies, and a model for adapters.

    It has no queue: requests in flight are load x `latency_s`. Launches serve `cold_start_s` later; instances that
    start are removed before those that serve. Not a replay: that is `dilu_core.replay`.
    """

    def __init__(
        self, *, ready: int = 1, cold_start_s: float = 10.0, latency_s: float = 0.05, start_time_s: float = 0.0
    ) -> None:
        self.ready = integer("ready", ready, at_least=0)
        self.cold_start_s = finite("cold_start_s", cold_start_s, at_least=0.0)
        self.latency_s = finite("latency_s", latency_s, at_least=0.0)
        self.now_s = finite("start_time_s", start_time_s)
        self._due_s: list[float] = []
        self._load_rps: float | None = 0.0
        self._seen_s, self._arrived = self.now_s, 0.0
        self._mean_rps: float | None = None
        self._heard = True

    @property
    def starting(self) -> int:
        """Instances launched that do not serve yet."""
        return len(self._due_s)

    @property
    def planned(self) -> int:
        """Instances that serve or will."""
        return self.ready + self.starting

    def offer(self, load_rps: float | None) -> None:
        """The load from now on; `None`: the sensor of arrivals is silent."""
        self._load_rps = None if load_rps is None else finite("load_rps", load_rps, at_least=0.0)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        seconds = finite("seconds", seconds, at_least=0.0)
        self.now_s += seconds
        self._heard = self._heard and self._load_rps is not None
        self._arrived += (self._load_rps or 0.0) * seconds
        self.ready += sum(at <= self.now_s for at in self._due_s)
        self._due_s = [at for at in self._due_s if at > self.now_s]

    def observe(self) -> Observation:
        """The counts, and mean arrivals since the last observation; not known if the sensor was silent in between."""
        if self.now_s > self._seen_s:
            self._mean_rps = self._arrived / (self.now_s - self._seen_s) if self._heard else None
            self._seen_s, self._arrived, self._heard = self.now_s, 0.0, True
        in_flight = None if self._load_rps is None else self._load_rps * self.latency_s
        return Observation(self.now_s, self._mean_rps, self.ready, self.starting, in_flight)

    def apply(self, decision: ScalingDecision) -> None:
        """Carry `decision` out. Its target counts, so that a decision delivered twice is carried out once."""
        if not isinstance(decision, ScalingDecision):
            fail("decision", f"is {shown(decision, 80)}; expected a ScalingDecision.")
        if decision.change == 0:
            return
        target = self.planned + decision.change if decision.instances is None else decision.instances
        change = max(0, target) - self.planned
        self._due_s += [self.now_s + self.cold_start_s] * max(0, change)
        for _ in range(-change):
            if self._due_s:
                self._due_s.pop()
            else:
                self.ready -= 1
