"""Trials on real hardware: what is measured next, what came back, and under which settings a search asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dilu_core import _checks as check
from dilu_core.performance import MemoryModel
from dilu_core.quota import LimitRule, QuotaConfig, QuotaGrid
from dilu_core.result import SolveStats, Termination
from dilu_core.samples import FAILURE_CODES, ProfileSamples
from dilu_core.units import FULL_GPU_MILLI

STRATEGIES = ("guided", "hybrid-growth", "bisection")
"""Model-guided; the hybrid growth search of the Dilu paper; bisection over the share, for training."""

SHORTEST_MS, LONGEST_MS = 1e-6, 1e12
"""A nanosecond and three decades: what lies outside is no latency of a batch."""

_VERSION = 1


@dataclass(frozen=True, order=True)
class Trial:
    """One configuration to measure: the latency of `batch` samples on `sm_milli` of a GPU."""

    batch: int
    sm_milli: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch", check.integer("batch", self.batch, at_least=1))
        object.__setattr__(self, "sm_milli", check.share_milli("sm_milli", self.sm_milli))


@dataclass(frozen=True)
class TrialRecord:
    """What one trial gave.

    `latency_ms` is `None` where it failed, `out_of_memory` says that memory was the cause, `memory_mib` and `gpu_s`
    (what the trial cost) are `None` where nobody said. `asked` tells trials of the search from measurements it was
    given.
    """

    trial: Trial
    latency_ms: float | None
    memory_mib: float | None = None
    gpu_s: float | None = None
    out_of_memory: bool = False
    asked: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.trial, Trial):
            check.fail("trial", f"is {self.trial!r:.80}; expected a Trial.")
        if self.latency_ms is not None:
            object.__setattr__(self, "latency_ms", check.finite("latency_ms", self.latency_ms, above=0))
        if self.memory_mib is not None:
            object.__setattr__(self, "memory_mib", check.finite("memory_mib", self.memory_mib, above=0))
        if self.gpu_s is not None:
            object.__setattr__(self, "gpu_s", check.finite("gpu_s", self.gpu_s, at_least=0))
        check.flag("out_of_memory", self.out_of_memory)
        check.flag("asked", self.asked)
        if self.out_of_memory and self.latency_ms is not None:
            check.fail("out_of_memory", "is True although a latency was measured; expected latency_ms to be None.")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        plain = asdict(self)
        return {**plain.pop("trial"), **plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, argument: str = "record") -> TrialRecord:
        """The record `to_dict` wrote; `InvalidArgumentError` names what of `argument` is missing or wrong."""
        trial = check.build(argument, data, Trial, required=("batch", "sm_milli"))
        optional = ("memory_mib", "gpu_s", "out_of_memory", "asked")
        return check.build(argument, {**data, "trial": trial}, cls, required=("trial", "latency_ms"), optional=optional)


@dataclass(frozen=True)
class TrialSettings:
    """Everything a search was told before its first trial; see `TrialSearch` for the meaning of each."""

    grid: QuotaGrid
    slo_ms: float | None
    exec_fraction: float = 0.5
    guard: float = 0.03
    strategy: str = "guided"
    seed: int = 0
    tolerance: float = 0.01
    max_trials: int | None = None
    max_gpu_s: float | None = None
    memory_limit_mib: float | None = None
    memory_model: MemoryModel | None = None
    blocked: frozenset[Trial] = frozenset()
    fraction: float = 0.8
    limit_rule: LimitRule | None = None
    failure_codes: tuple[float, ...] = field(default=FAILURE_CODES)

    def __post_init__(self) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        if not isinstance(self.grid, QuotaGrid):
            check.fail("grid", f"is {self.grid!r:.80}; expected a QuotaGrid.")
        check.choice("strategy", self.strategy, STRATEGIES)
        keep("exec_fraction", check.finite("exec_fraction", self.exec_fraction, above=0, at_most=1))
        keep("guard", check.finite("guard", self.guard, at_least=0, at_most=0.5))
        keep("seed", check.integer("seed", self.seed, at_least=0))
        keep("tolerance", check.finite("tolerance", self.tolerance, at_least=0, at_most=1))
        keep("fraction", check.finite("fraction", self.fraction, above=0, at_most=1))
        if self.max_trials is not None:
            keep("max_trials", check.integer("max_trials", self.max_trials, at_least=0))
        if self.max_gpu_s is not None:
            keep("max_gpu_s", check.finite("max_gpu_s", self.max_gpu_s, at_least=0))
        if self.memory_limit_mib is not None:
            keep("memory_limit_mib", check.finite("memory_limit_mib", self.memory_limit_mib, above=0))
        if self.memory_model is not None and not isinstance(self.memory_model, MemoryModel):
            check.fail("memory_model", f"is {self.memory_model!r:.80}; expected a MemoryModel or None.")
        if self.memory_model is not None and self.memory_limit_mib is None:
            check.fail("memory_model", "excludes nothing without a limit; give memory_limit_mib too.")
        keep("blocked", _trials("blocked", self.blocked))
        keep("failure_codes", _codes(self.failure_codes))
        if self.limit_rule is None:
            keep("limit_rule", LimitRule(request_factor=None) if self.training else LimitRule())
        elif not isinstance(self.limit_rule, LimitRule):
            check.fail("limit_rule", f"is {self.limit_rule!r:.80}; expected a LimitRule or None.")
        if self.training:
            self._check_training()
        else:
            keep("slo_ms", check.finite("slo_ms", self.slo_ms, at_least=SHORTEST_MS, at_most=LONGEST_MS))

    def _check_training(self) -> None:
        if self.slo_ms is not None:
            check.fail(
                "slo_ms", f"is {self.slo_ms!r}; strategy 'bisection' is for training, which has no SLO: use None."
            )
        if len(self.grid.batches) != 1:
            check.fail("grid", f"has {len(self.grid.batches)} batches; a training job has one: QuotaGrid((32,), ...).")
        if self.grid.sm_milli[-1] != FULL_GPU_MILLI:
            check.fail("grid", "lacks share 1000; training throughput is measured against a whole GPU.")

    @property
    def training(self) -> bool:
        """Whether the search is for the least share of a training job, not for throughput within an SLO."""
        return self.strategy == "bisection"

    @property
    def budget_ms(self) -> float | None:
        """What a batch may take, `exec_fraction * slo_ms`; `None` for training, whose budget is measured."""
        return None if self.slo_ms is None else self.exec_fraction * self.slo_ms

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        assert self.limit_rule is not None
        return {
            "version": _VERSION,
            **{name: getattr(self, name) for name in _PLAIN},
            "grid": self.grid.to_dict(),
            "memory_model": None if self.memory_model is None else self.memory_model.to_dict(),
            "blocked": [[each.batch, each.sm_milli] for each in sorted(self.blocked)],
            "limit_rule": asdict(self.limit_rule),
            "failure_codes": list(self.failure_codes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialSettings:
        """The settings `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = dict(check.document("settings", data, version=_VERSION))
        document["grid"] = QuotaGrid.from_dict(check.item("settings", document, "grid"))
        if document.get("memory_model") is not None:
            document["memory_model"] = MemoryModel.from_dict(document["memory_model"])
        rule = check.item("settings", document, "limit_rule")
        required = ("throughput_fraction", "request_factor")
        if not isinstance(rule, Mapping):
            check.fail("settings.limit_rule", f"is {rule!r:.80}; expected a mapping.")
        document["limit_rule"] = check.build("settings.limit_rule", rule, LimitRule, required=required)
        names = (*_PLAIN, "grid", "memory_model", "blocked", "limit_rule", "failure_codes")
        return check.build("settings", document, cls, required=names)


_PLAIN = (
    "slo_ms", "exec_fraction", "guard", "strategy", "seed", "tolerance", "max_trials", "max_gpu_s", "memory_limit_mib",
    "fraction",
)  # fmt: skip


@dataclass(frozen=True)
class TrialResult:
    """What a driven search found: the measured `best` (`None`: nothing trusted meets the budget), all its `samples`
    (`None`: every trial failed), and why it stopped."""

    best: QuotaConfig | None
    samples: ProfileSamples | None
    records: tuple[TrialRecord, ...]
    termination: Termination
    stats: SolveStats


def _trials(argument: str, value: object) -> frozenset[Trial]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        check.fail(argument, f"is {value!r:.80}; expected (batch, sm_milli) pairs.")
    found = set()
    for i, each in enumerate(value):
        if isinstance(each, Trial):
            found.add(each)
        else:
            found.add(trial_of_pair(f"{argument}[{i}]", each))
    return frozenset(found)


def trial_of_pair(argument: str, value: object) -> Trial:
    """`(batch, sm_milli)` as a trial; the error names the half at fault as a part of `argument`."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        check.fail(argument, f"is {value!r:.80}; expected a pair (batch, sm_milli).")
    pair = {"batch": value[0], "sm_milli": value[1]}
    return check.build(argument, pair, Trial, required=("batch", "sm_milli"))


def _codes(value: object) -> tuple[float, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        check.fail("failure_codes", f"is {value!r:.80}; expected a sequence of numbers.")
    return tuple(check.finite(f"failure_codes[{i}]", each) for i, each in enumerate(value))
