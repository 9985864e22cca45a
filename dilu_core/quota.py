"""Quotas: what a function asks for (request), may burst to (limit), and the grid of choices a search looks over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dilu_core import _checks as check
from dilu_core.result import SolveStats, Termination
from dilu_core.samples import ProfileSamples
from dilu_core.units import FULL_GPU_MILLI

_VERSION = 1


@dataclass(frozen=True)
class Quota:
    """A guaranteed share `request_milli` and the most it may burst to, `limit_milli`: 1 <= request <= limit <= 1000.

    Raises `InvalidArgumentError` naming the argument outside these bounds.
    """

    request_milli: int
    limit_milli: int

    def __post_init__(self) -> None:
        request = check.share_milli("request_milli", self.request_milli)
        limit = check.share_milli("limit_milli", self.limit_milli)
        if request > limit:
            check.fail(
                "request_milli",
                f"is {request}, above limit_milli = {limit}; the guaranteed share cannot exceed what it may burst to.",
            )
        object.__setattr__(self, "request_milli", request)
        object.__setattr__(self, "limit_milli", limit)


@dataclass(frozen=True)
class QuotaConfig:
    """One configuration <batch, request, limit> with what the model predicts for it at its request.

    `latency_ms` is the mean latency of a batch, `upper_ms` the bound that decided feasibility (`None` where the mean
    did), `throughput_rps = 1000 batch / latency_ms` and `efficacy = throughput_rps / (request_milli / 1000)`. For a
    training function the batch is a step's samples, and throughput counts samples per second.
    """

    batch: int
    request_milli: int
    limit_milli: int
    latency_ms: float
    throughput_rps: float
    efficacy: float
    upper_ms: float | None = None

    def __post_init__(self) -> None:
        quota = Quota(self.request_milli, self.limit_milli)
        object.__setattr__(self, "batch", check.integer("batch", self.batch, at_least=1))
        object.__setattr__(self, "request_milli", quota.request_milli)
        object.__setattr__(self, "limit_milli", quota.limit_milli)
        for name in ("latency_ms", "throughput_rps", "efficacy"):
            object.__setattr__(self, name, check.finite(name, getattr(self, name), above=0))
        if self.upper_ms is not None:
            object.__setattr__(self, "upper_ms", check.finite("upper_ms", self.upper_ms, above=0))

    @property
    def quota(self) -> Quota:
        """Request and limit alone."""
        return Quota(self.request_milli, self.limit_milli)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QuotaConfig:
        """The configuration `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        required = ("batch", "request_milli", "limit_milli", "latency_ms", "throughput_rps", "efficacy")
        document = check.document("quota_config", data, version=_VERSION)
        return check.build("quota_config", document, cls, required=required, optional=("upper_ms",))


@dataclass(frozen=True)
class LimitRule:
    """How the limit follows from the request.

    The limit is the smallest share at which throughput reaches `throughput_fraction` of what a whole GPU gives at that
    batch, but at most `request_factor` times the request (`None`: no such cap), at most a whole GPU, and never below
    the request. `LimitRule(request_factor=1)` makes limit and request one.
    """

    throughput_fraction: float = 0.98
    request_factor: float | None = 2.0

    def __post_init__(self) -> None:
        fraction = check.finite("throughput_fraction", self.throughput_fraction, above=0, at_most=1)
        object.__setattr__(self, "throughput_fraction", fraction)
        if self.request_factor is not None:
            factor = check.finite("request_factor", self.request_factor, at_least=1)
            object.__setattr__(self, "request_factor", factor)

    def limit_milli(self, request_milli: int, saturating_milli: int) -> int:
        """The limit over a request, given the share at which throughput saturates. Caps round down."""
        limit = min(saturating_milli, FULL_GPU_MILLI)
        if self.request_factor is not None:
            limit = int(min(limit, self.request_factor * request_milli))
        return max(limit, request_milli)


@dataclass(frozen=True)
class QuotaGrid:
    """The batches and shares a search may choose from: every pair of the two, kept as ascending distinct integers.

    Raises `InvalidArgumentError` for an empty axis, a value that occurs twice, a batch below 1 or a share outside
    1..1000.
    """

    batches: tuple[int, ...]
    sm_milli: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "batches", _axis("batches", self.batches, None))
        object.__setattr__(self, "sm_milli", _axis("sm_milli", self.sm_milli, FULL_GPU_MILLI))

    def __len__(self) -> int:
        """Number of grid points."""
        return len(self.batches) * len(self.sm_milli)

    @classmethod
    def regular(cls, max_batch: int = 32, step_milli: int = 50, *, least_milli: int = 1) -> QuotaGrid:
        """Batches 1, 2, 4, ... up to `max_batch` (itself included), shares every `step_milli` up to a whole GPU.

        Shares below `least_milli` are left out; the whole GPU always belongs.
        """
        greatest = check.integer("max_batch", max_batch, at_least=1)
        step = check.share_milli("step_milli", step_milli)
        least = check.share_milli("least_milli", least_milli)
        batches = {1 << power for power in range(greatest.bit_length())} | {greatest}
        shares = {share for share in range(step, FULL_GPU_MILLI + 1, step) if share >= least} | {FULL_GPU_MILLI}
        return cls(tuple(sorted(batches)), tuple(sorted(shares)))

    @classmethod
    def covering(cls, samples: ProfileSamples, step_milli: int = 10) -> QuotaGrid:
        """The choices that the samples speak for, so that nothing is extrapolated.

        Every measured batch and share, and between the least and the greatest of them the powers of two and the
        multiples of `step_milli`.
        """
        if not isinstance(samples, ProfileSamples):
            check.fail("samples", f"is {samples!r:.80}; expected ProfileSamples.")
        step = check.share_milli("step_milli", step_milli)
        low_batch, high_batch = int(samples.batch.min()), int(samples.batch.max())
        low_share, high_share = int(samples.sm_milli.min()), int(samples.sm_milli.max())
        powers = {1 << power for power in range(high_batch.bit_length()) if 1 << power >= low_batch}
        steps = {share for share in range(step, high_share + 1, step) if share >= low_share}
        return cls(
            tuple(sorted(powers | set(samples.batch.tolist()))), tuple(sorted(steps | set(samples.sm_milli.tolist())))
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": _VERSION, "batches": list(self.batches), "sm_milli": list(self.sm_milli)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QuotaGrid:
        """The grid `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("quota_grid", data, version=_VERSION)
        return check.build("quota_grid", document, cls, required=("batches", "sm_milli"))


@dataclass(frozen=True)
class QuotaSearchResult:
    """What a quota search found.

    `best` has the greatest throughput efficacy (`None`: nothing is feasible). `pareto` holds, by ascending request,
    the feasible configurations of greater throughput than any feasible one with the same or a smaller request (equal
    throughput: the smaller batch). `evaluated` grid points were looked at and `pruned` were decided without; together
    they are the grid.
    """

    best: QuotaConfig | None
    pareto: tuple[QuotaConfig, ...]
    evaluated: int
    pruned: int
    termination: Termination
    stats: SolveStats


def _axis(argument: str, values: object, greatest: int | None) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        check.fail(argument, f"is {values!r}; expected a sequence of integers.")
    found = [check.integer(f"{argument}[{i}]", v, at_least=1, at_most=greatest) for i, v in enumerate(values)]
    if not found:
        check.fail(argument, "is empty; expected at least one value.")
    if len(set(found)) < len(found):
        twice = next(value for i, value in enumerate(found) if value in found[:i])
        check.fail(argument, f"holds {twice} twice; grid values must be distinct.")
    return tuple(sorted(found))
