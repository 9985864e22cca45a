"""Plan: what `dilu_core.plan` answers, as a value that can be printed, priced, stored and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dilu_core import _checks as checks
from dilu_core.cluster import INSTANCE_KINDS, InstanceKind
from dilu_core.coscaling.horizontal import HorizontalParams
from dilu_core.cost import CostReport
from dilu_core.errors import InvalidArgumentError
from dilu_core.evidence import EVIDENCE, Evidence
from dilu_core.fragmentation import FragmentationReport, fragmentation
from dilu_core.placement import Placement, PlacementProblem, verify_placement
from dilu_core.plan_tables import summary_of
from dilu_core.quota import QuotaConfig
from dilu_core.result import SolveStats, Termination
from dilu_core.token_latency import TokenLatency

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FunctionPlan:
    """What was decided for one function.

    `config` is `None` where nothing feasible exists; `detail` then says why. Latency and throughput are predictions of
    the fitted model at the request; `limit_rps` is the throughput of one instance at its limit. For training, rates
    count samples per second. `measured_ms` is what the profile itself says of the configuration (`evidence` tells how)
    and `budget_ms` what a batch may take; `warnings` say what is odd in the profile. `instances` names its instances,
    placed or not; `whole_gpu_gpus` is the number of GPUs it would take if each instance had its GPUs alone.

    An LLM function with objectives for TTFT and TPOT has `tokens`, which says how it keeps them. Its batch is the
    number of concurrent sequences, its latency the time of a request in its slot while all slots are busy, `slo_ms` and
    `budget_ms` what the two objectives amount to for a typical request, and rates count requests.
    """

    name: str
    kind: InstanceKind
    config: QuotaConfig | None
    detail: str
    slo_ms: float | None = None
    budget_ms: float | None = None
    measured_ms: float | None = None
    evidence: Evidence = "model"
    limit_rps: float | None = None
    load_rps: float = 0.0
    memory_mib: int | None = None
    gpus: int = 1
    instances: tuple[str, ...] = ()
    whole_gpu_gpus: int = 0
    warnings: tuple[str, ...] = ()
    tokens: TokenLatency | None = None

    def __post_init__(self) -> None:
        checks.text("name", self.name)
        checks.choice("kind", self.kind, INSTANCE_KINDS)
        checks.choice("evidence", self.evidence, EVIDENCE)
        checks.text("detail", self.detail, empty=True)
        for key in ("slo_ms", "budget_ms", "measured_ms", "limit_rps"):
            if getattr(self, key) is not None:
                checks.finite(key, getattr(self, key), above=0.0)
        checks.finite("load_rps", self.load_rps, at_least=0.0)
        if self.memory_mib is not None:
            checks.integer("memory_mib", self.memory_mib, at_least=0)
        checks.integer("gpus", self.gpus, at_least=1)
        checks.integer("whole_gpu_gpus", self.whole_gpu_gpus, at_least=0)
        object.__setattr__(self, "instances", checks.names("instances", self.instances))
        object.__setattr__(self, "warnings", checks.names("warnings", self.warnings))
        if self.tokens is not None and not isinstance(self.tokens, TokenLatency):
            checks.fail("tokens", f"is {self.tokens!r:.80}; expected a TokenLatency or None.")

    @property
    def capacity_rps(self) -> float:
        """Throughput of all its instances at their requests."""
        return 0.0 if self.config is None else self.config.throughput_rps * len(self.instances)

    @property
    def carries_load(self) -> bool:
        """Whether its instances, once placed, carry the load at their requests; for training, whether there are any."""
        if self.kind == "training":
            return bool(self.instances)
        return self.capacity_rps >= self.load_rps * (1.0 - 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        scalars = {key: getattr(self, key) for key in _FUNCTION_KEYS}
        config = None if self.config is None else self.config.to_dict()
        return {
            "version": _VERSION,
            **scalars,
            "instances": list(self.instances),
            "warnings": list(self.warnings),
            "config": config,
            "tokens": None if self.tokens is None else self.tokens.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FunctionPlan:
        """The value `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        entry = checks.document("function", data, version=_VERSION)
        raw = checks.item("function", entry, "config")
        tokens = entry.get("tokens")  # plans of version 0.1.0 have none
        values = {
            **entry,
            "config": None if raw is None else QuotaConfig.from_dict(raw),
            "tokens": None if tokens is None else TokenLatency.from_dict(tokens),
        }
        required = (*_FUNCTION_KEYS, "instances", "warnings", "config", "tokens")
        return checks.build("function", values, cls, required=required)


_FUNCTION_KEYS = (
    "name",
    "kind",
    "detail",
    "slo_ms",
    "budget_ms",
    "measured_ms",
    "evidence",
    "limit_rps",
    "load_rps",
    "memory_mib",
    "gpus",
    "whole_gpu_gpus",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Quotas, placement and run-time policies for a set of functions on a cluster.

    Attributes
    ----------
    functions
        One `FunctionPlan` per function, in the order given.
    problem, placement
        The placement problem that followed from them, and where its instances sit.
    unplaced
        Instance name -> why it found no place.
    lower_bound, bound_proof, gap
        A proven lower bound on the GPUs needed, the name of its proof, and (used - bound) / bound.
    policies
        Function name -> parameters of its horizontal policy (inference only).
    termination, stats
        How the placement ended, and what the whole plan cost to compute.
    price_per_gpu_hour
        Carried along for the summary, where given.
    slowdowns
        Instance name -> by what factor its neighbours on the GPU may slow it, for every instance placed; empty where
        the plan was made without an `InterferenceModel`.
    """

    functions: tuple[FunctionPlan, ...]
    problem: PlacementProblem
    placement: Placement
    unplaced: Mapping[str, str]
    lower_bound: int
    bound_proof: str
    gap: float
    policies: Mapping[str, HorizontalParams]
    termination: Termination
    stats: SolveStats = field(compare=False)
    price_per_gpu_hour: float | None = None
    slowdowns: Mapping[str, float] = field(default_factory=dict)

    @property
    def quotas(self) -> dict[str, QuotaConfig]:
        """Function name -> its configuration, for every function that has a feasible one."""
        return {each.name: each.config for each in self.functions if each.config is not None}

    @property
    def gpus_used(self) -> int:
        return self.placement.gpus_used

    @property
    def whole_gpu_gpus(self) -> int:
        """GPUs needed for the same functions and load if every instance had its GPUs alone."""
        return sum(each.whole_gpu_gpus for each in self.functions)

    @property
    def complete(self) -> bool:
        """Whether every function has a configuration that carries its load, and every instance a place."""
        return not self.unplaced and all(each.config is not None and each.carries_load for each in self.functions)

    @cached_property
    def fragmentation(self) -> FragmentationReport:
        """What the active GPUs hold free."""
        return fragmentation(self.problem, self.placement)

    def cost(self, price_per_gpu_hour: float) -> CostReport:
        """Cost of the plan beside whole-GPU allocation, at a price per GPU and hour."""
        return CostReport(self.gpus_used, self.whole_gpu_gpus, price_per_gpu_hour)

    def summary(self) -> str:
        """The plan as tables for a person: quotas, placement, and what it amounts to."""
        return summary_of(self)

    def to_json(self, *, indent: int | None = None) -> str:
        """The plan as JSON text; `from_json` reads it back to an equal plan."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote. Raises `InvalidArgumentError`, naming what is corrupt, missing or wrong."""
        if not isinstance(text, str | bytes):
            checks.fail("text", f"is {type(text).__name__}; expected JSON text.")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidArgumentError("text", f"is not valid JSON: {error}") from error
        return cls.from_dict(data)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "version": _VERSION,
            "functions": [each.to_dict() for each in self.functions],
            "problem": self.problem.to_dict(),
            "placement": self.placement.to_dict(),
            "unplaced": dict(self.unplaced),
            "gpus_used": self.gpus_used,
            "lower_bound": self.lower_bound,
            "bound_proof": self.bound_proof,
            "gap": self.gap,
            "policies": {name: params.to_dict() for name, params in self.policies.items()},
            "termination": self.termination.to_dict(),
            "stats": {"seconds": self.stats.seconds, "backend": self.stats.backend, "counts": dict(self.stats.counts)},
            "price_per_gpu_hour": self.price_per_gpu_hour,
            "slowdowns": dict(self.slowdowns),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = checks.document("plan", data, version=_VERSION)
        policies = _mapping(document, "policies")
        price = document.get("price_per_gpu_hour")
        problem = PlacementProblem.from_dict(checks.item("plan", document, "problem"))
        placement = Placement.from_dict(checks.item("plan", document, "placement"))
        made = cls(
            functions=tuple(
                FunctionPlan.from_dict(entry) for _, entry in checks.entries("plan", document, "functions")
            ),
            problem=problem,
            placement=placement,
            unplaced={
                name: checks.text(f"plan.unplaced[{name!r}]", why)
                for name, why in _mapping(document, "unplaced").items()
            },
            lower_bound=checks.integer("plan.lower_bound", checks.item("plan", document, "lower_bound"), at_least=0),
            bound_proof=checks.text("plan.bound_proof", checks.item("plan", document, "bound_proof"), empty=True),
            gap=checks.finite("plan.gap", checks.item("plan", document, "gap"), at_least=0.0),
            policies={name: HorizontalParams.from_dict(entry) for name, entry in policies.items()},
            termination=Termination.from_dict(
                checks.item("plan", document, "termination"), argument="plan.termination"
            ),
            stats=_stats(_mapping(document, "stats")),
            price_per_gpu_hour=None if price is None else checks.finite("plan.price_per_gpu_hour", price, at_least=0.0),
            slowdowns={
                name: checks.finite(f"plan.slowdowns[{name!r}]", factor, at_least=1.0)
                for name, factor in _mapping({"slowdowns": {}, **document}, "slowdowns").items()
            },
        )
        made._check_parts()
        return made

    def _check_parts(self) -> None:
        """Refuse parts that do not belong together, as a damaged document has them."""
        broken = verify_placement(self.problem, self.placement)
        if broken:
            checks.fail("plan.placement", f"does not fit the plan's problem: {broken[0].message}")
        checks.distinct("plan.functions", [each.name for each in self.functions])
        booked = [instance.name for instance in self.problem.instances]
        if booked != [name for each in self.functions for name in each.instances]:
            checks.fail("plan.functions", "and plan.problem do not have the same instances.")
        if sorted(booked) != sorted((*self.placement.names, *self.unplaced)):
            checks.fail("plan.placement", "and plan.unplaced do not make up the instances of plan.problem.")
        if self.slowdowns and set(self.slowdowns) != set(self.placement.names):
            checks.fail("plan.slowdowns", "are not those of the instances of plan.placement.")
        served = {each.name for each in self.functions if each.config is not None and each.kind != "training"}
        if self.policies.keys() != served:
            checks.fail("plan.policies", f"has {sorted(self.policies)}; expected {sorted(served)}.")
        if self.lower_bound > self.gpus_used or (self.gpus_used > 0 and self.lower_bound == 0):
            checks.fail("plan.lower_bound", f"is {self.lower_bound} for {self.gpus_used} GPUs used.")
        gap = (self.gpus_used - self.lower_bound) / self.lower_bound if self.lower_bound else 0.0
        if abs(self.gap - gap) > 1e-9:
            checks.fail("plan.gap", f"is {self.gap}; expected {gap}, which follows from GPUs and bound.")


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = checks.item("plan", document, key)
    if not isinstance(found, Mapping):
        checks.fail(f"plan.{key}", f"is {found!r:.80}; expected a mapping.")
    return found


def _stats(entry: Mapping[str, Any]) -> SolveStats:
    where = "plan.stats"
    counts = checks.item(where, entry, "counts")
    if not isinstance(counts, Mapping):
        checks.fail(f"{where}.counts", f"is {counts!r:.80}; expected a mapping.")
    return SolveStats(
        checks.finite(f"{where}.seconds", checks.item(where, entry, "seconds"), at_least=0.0),
        checks.text(f"{where}.backend", checks.item(where, entry, "backend")),
        {name: checks.integer(f"{where}.counts[{name!r}]", count, at_least=0) for name, count in counts.items()},
    )
