"""What stages tell people: what watching taught, and what shadowed decisions would have meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dilu_core._checks import fail, shown
from dilu_core.coscaling.audit import plain
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.reading import FIELDS
from dilu_core.coscaling.shadow import ShadowCounts
from dilu_core.coscaling.watch import Watch
from dilu_core.fragmentation_report import FragmentationReport
from dilu_core.units import FULL_GPU_MILLI


@dataclass(frozen=True)
class ObserveReport:
    """Data quality and headroom over everything observed; figures that need parameters or data are `None` without.

    `utilisation` is requests over what the ready instances carry at their request, `burst_utilisation` over what they
    carry while bursting. `short_at_request` and `short_at_burst` are parts of the `judged` observations, 0..1.
    `known` is the part of observations in which a sensor reported something believable, by field.
    """

    observations: int
    judged: int
    late: int
    clock_faults: int
    seconds: float
    known: Mapping[str, float]
    mean_rps: float | None
    peak_rps: float | None
    mean_instances: float | None
    utilisation: float | None
    burst_utilisation: float | None
    short_at_request: float | None
    short_at_burst: float | None
    least_room_rps: float | None
    mean_spare_milli: float | None
    fragmentation: FragmentationReport | None = None

    @classmethod
    def of(
        cls,
        watch: Watch,
        unknown: Mapping[str, int],
        params: HorizontalParams | None,
        fragmentation: FragmentationReport | None = None,
    ) -> ObserveReport:
        """The report on what was counted."""
        if fragmentation is not None and not isinstance(fragmentation, FragmentationReport):
            fail("fragmentation", f"is {shown(fragmentation, 80)}; expected a FragmentationReport or None.")
        judged = watch.judged or None
        known_params = judged if params is not None else None
        carried = 0.0 if params is None else watch.ready_s * params.capacity_rps
        return cls(
            watch.observations,
            watch.judged,
            watch.late,
            watch.clock_faults,
            watch.seconds,
            {name: 1.0 - unknown.get(name, 0) / watch.observations for name in FIELDS} if watch.observations else {},
            _over(watch.requests, watch.seconds),
            watch.peak_rps if judged else None,
            _over(watch.planned_s, watch.seconds),
            _over(watch.requests, carried),
            _over(watch.requests, watch.burst_rps_s),
            _over(watch.short_at_request, known_params),
            _over(watch.short_at_burst, known_params),
            watch.least_room_rps,
            _over(watch.spare_s, watch.spare_known_s),
            fragmentation,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value."""
        found = {name: plain(value) for name, value in vars(self).items() if name != "fragmentation"}
        return {"version": 1, **found, "fragmentation": self.fragmentation and self.fragmentation.to_dict()}

    def __str__(self) -> str:
        gaps = [f"{name} {part:.0%}" for name, part in self.known.items() if part < 1.0]
        lines = [
            f"observed {self.observations} times, {self.judged} of them judged ({self.seconds:.0f} s); "
            f"{self.late} late, {self.clock_faults} clock faults",
            f"  known      {', '.join(gaps) or 'every field, every time'}",
            f"  load       {_text(self.mean_rps, '.1f')} rps, at most {_text(self.peak_rps, '.1f')}, "
            f"on {_text(self.mean_instances, '.1f')} instances",
            f"  headroom   {_text(self.utilisation, '.0%')} of the capacity at request, "
            f"{_text(self.burst_utilisation, '.0%')} while bursting; at worst {_text(self.least_room_rps, '.1f')} rps",
            f"  short      {_text(self.short_at_request, '.1%')} of the observations at request, "
            f"{_text(self.short_at_burst, '.1%')} while bursting",
            f"  spare      {_text(self.mean_spare_milli, '.0f')} milli-GPU per instance",
        ]
        return "\n".join(lines if self.fragmentation is None else [*lines, str(self.fragmentation)])


@dataclass(frozen=True)
class ShadowReport:
    """What the policy would have done beside what was done, over the `counts.judged` observations.

    GPU-seconds are those reserved, instance-seconds x request; `None` without parameters. The estimate of the risk is
    a fluid one, without queues: an observation is short where its mean load exceeds what the ready instances carry.
    """

    counts: ShadowCounts
    failed: int
    params: HorizontalParams | None

    @property
    def gpu_seconds(self) -> float | None:
        """What the shadowed fleet would have reserved."""
        return self._gpu_seconds(self.counts.planned_s)

    @property
    def actual_gpu_seconds(self) -> float | None:
        """What the real fleet reserved."""
        return self._gpu_seconds(self.counts.actual_planned_s)

    @property
    def saved_gpu_seconds(self) -> float | None:
        """The estimated saving; negative where the policy would have reserved more."""
        return self._gpu_seconds(self.counts.actual_planned_s - self.counts.planned_s)

    @property
    def risk_at_request(self) -> float | None:
        """The part of the judged observations, 0..1, in which the shadowed fleet was short of load at its request."""
        return _over(self.counts.short_at_request, self.counts.judged if self.params is not None else None)

    @property
    def risk_at_burst(self) -> float | None:
        """The same while bursting to the limit, or to the spare share where that was known."""
        return _over(self.counts.short_at_burst, self.counts.judged if self.params is not None else None)

    def _gpu_seconds(self, instance_s: float) -> float | None:
        return None if self.params is None else instance_s * self.params.request_milli / FULL_GPU_MILLI

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value."""
        return {
            "version": 1,
            **self.counts._asdict(),
            "failed": self.failed,
            "gpu_seconds": self.gpu_seconds,
            "actual_gpu_seconds": self.actual_gpu_seconds,
            "saved_gpu_seconds": self.saved_gpu_seconds,
            "risk_at_request": self.risk_at_request,
            "risk_at_burst": self.risk_at_burst,
        }

    def __str__(self) -> str:
        counts, judged = self.counts, self.counts.judged
        real = [counts.actual_short_at_request, counts.actual_short_at_burst]
        was = ["not known" if self.params is None or not judged else f"{each / judged:.1%}" for each in real]
        return "\n".join(
            [
                f"shadowed {judged} times ({counts.seconds:.0f} s); the policy failed {self.failed} times",
                f"  saving     {_text(self.saved_gpu_seconds, '.0f')} GPU-seconds: "
                f"{_text(self.gpu_seconds, '.0f')} instead of {_text(self.actual_gpu_seconds, '.0f')}",
                f"  risk       short of load at request in {_text(self.risk_at_request, '.1%')} (was {was[0]}), "
                f"while bursting {_text(self.risk_at_burst, '.1%')} (was {was[1]})",
                f"  requests   {counts.late_requests:.0f} of {counts.requests:.0f} beyond the burst capacity "
                f"(was {counts.actual_late_requests:.0f})",
                f"  actions    {counts.launches} launches, {counts.removals} removals, {counts.turns} turns",
            ]
        )


def _over(amount: float, whole: float | None) -> float | None:
    return amount / whole if whole else None


def _text(value: float | None, form: str) -> str:
    return "not known" if value is None else format(value, form)
