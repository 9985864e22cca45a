"""FunctionSpec: what the user says about one deep-learning function before anything is planned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dilu_core import _checks as checks
from dilu_core.cluster import INSTANCE_KINDS, InstanceKind
from dilu_core.latency_prior import LatencyPrior
from dilu_core.llm_phases import LlmPhases
from dilu_core.performance import RooflineModel
from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples


@dataclass(frozen=True, kw_only=True)
class FunctionSpec:
    """One function: its kind, its profile, what it promises and what it must carry.

    Parameters
    ----------
    name
        Any Unicode name, unique within a plan. Its instances are called `name#0`, `name#1`, ...
    kind
        "inference", "llm-inference" or "training".
    samples
        The profile: latency of one batch (for training, of one step) over batch size and SM share.
    slo_ms
        Latency objective of a request, inference only. A batch may execute for `exec_fraction * slo_ms` of it.
    prefill_samples, ttft_slo_ms, tpot_slo_ms, prompt_tokens, output_tokens
        Of an `llm-inference` function, all five together instead of `slo_ms`: its two phases apart, as `LlmFit`
        describes. `samples` is then the decode phase, one step over concurrent sequences and share, and
        `prefill_samples` the time to first token of one prompt over its tokens (in the batch column) and share. The
        objectives are the time to first token, of which `exec_fraction` is for the step in progress and the prompt
        itself, and the mean time per further token. `prompt_tokens` and `output_tokens` are those of the mean request.
        `load_rps` still counts requests.
    ttft_prompt_tokens
        The prompt whose first token must keep `ttft_slo_ms`, such as the 95th percentile; `None`: `prompt_tokens`.
    load_rps
        Requests per second that the plan must carry, inference only. Zero means: no instance now, policy ready.
    memory_mib
        GPU memory of one instance (of each GPU of a gang). `None` fits it from the samples' memory column; of an LLM
        that is the decode phase, whose memory grows by the cache of each sequence, and what its prompt takes on top
        where `prefill_samples` have the column.
    gpus
        GPUs of a training gang, all on one node.
    instances
        Jobs of a training function; for inference a count that replaces the one derived from the load.
    throughput_fraction
        Training only: the part of whole-GPU throughput that the request must give, in (0, 1].
    splittable
        Whether the memory of one instance may be divided over GPUs of one node (`llm-inference`).
    min_instances, max_instances
        Bounds on the instance count, now and at run time. `None`: as many as the load needs now, and twice that later.
    cold_start_s
        Seconds from launch to ready.
    affinity, anti_affinity, gpu_types
        Functions to sit beside (soft), functions never to share a GPU with (hard), GPU types allowed (`None`: all).
    grid
        Batches (for training one, that of a step) and shares to choose from; `None` takes the measured batches and
        shares in steps of the plan.
    prior
        What is believed of the latency surface beforehand, as `fit_latency` takes it: with a prior learnt from other
        functions on the same GPU type fewer samples do. Not for the two phases of an LLM, which have two surfaces.

    Raises
    ------
    InvalidArgumentError
        Naming the first argument that breaks these rules.
    """

    name: str
    kind: InstanceKind
    samples: ProfileSamples
    slo_ms: float | None = None
    load_rps: float = 0.0
    memory_mib: int | None = None
    gpus: int = 1
    instances: int | None = None
    throughput_fraction: float = 0.8
    splittable: bool = False
    min_instances: int = 0
    max_instances: int | None = None
    cold_start_s: float = 10.0
    affinity: tuple[str, ...] = ()
    anti_affinity: tuple[str, ...] = ()
    gpu_types: tuple[str, ...] | None = None
    grid: QuotaGrid | None = None
    prior: LatencyPrior | RooflineModel | None = None
    prefill_samples: ProfileSamples | None = None
    ttft_slo_ms: float | None = None
    tpot_slo_ms: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    ttft_prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        checks.text("name", self.name)
        checks.choice("kind", self.kind, INSTANCE_KINDS)
        if not isinstance(self.samples, ProfileSamples):
            checks.fail("samples", f"is {self.samples!r:.80}; expected ProfileSamples (see read_profiles).")
        if self.grid is not None and not isinstance(self.grid, QuotaGrid):
            checks.fail("grid", f"is {self.grid!r:.80}; expected a QuotaGrid or None.")
        if self.prior is not None and not isinstance(self.prior, LatencyPrior | RooflineModel):
            checks.fail("prior", f"is {self.prior!r:.80}; expected a LatencyPrior, a RooflineModel or None.")
        checks.flag("splittable", self.splittable)
        if self.is_training:
            self._check_training()
        else:
            self._check_inference()
        if self.memory_mib is not None:
            put(self, "memory_mib", checks.integer("memory_mib", self.memory_mib, at_least=0))
        elif self.samples.memory_mib is None or np.isnan(self.samples.memory_mib).all():
            checks.fail(
                "memory_mib", f"of {self.name!r} is missing, and its samples have no memory column to fit it from."
            )
        if self.instances is not None:
            put(self, "instances", checks.integer("instances", self.instances, at_least=0))
        put(self, "min_instances", checks.integer("min_instances", self.min_instances, at_least=0))
        if self.max_instances is not None:
            least = max(1, self.min_instances)
            put(self, "max_instances", checks.integer("max_instances", self.max_instances, at_least=least))
        put(self, "cold_start_s", checks.finite("cold_start_s", self.cold_start_s, at_least=0.0))
        put(self, "affinity", checks.names("affinity", self.affinity))
        put(self, "anti_affinity", checks.names("anti_affinity", self.anti_affinity))
        self._check_counts()
        if self.gpu_types is not None:
            put(self, "gpu_types", checks.names("gpu_types", self.gpu_types))

    def _check_counts(self) -> None:
        least, most, asked = self.min_instances, self.max_instances, self.instances
        if asked is not None and not (least <= asked and (most is None or asked <= most)):
            span = f"at least {least}" if most is None else f"within {least} and {most}"
            checks.fail("instances", f"is {asked}; expected {span}, its own min_instances and max_instances.")

    @property
    def is_training(self) -> bool:
        return self.kind == "training"

    @cached_property
    def phases(self) -> LlmPhases | None:
        """The prefill and decode phases and their objectives, where those are given instead of `slo_ms`."""
        given = {name: getattr(self, name) for name in _PHASES}
        if any(value is None for value in given.values()):
            return None
        return LlmPhases(**given, ttft_prompt_tokens=self.ttft_prompt_tokens)

    @property
    def request_slo_ms(self) -> float | None:
        """The latency objective of a whole request: `slo_ms`, or what TTFT and TPOT amount to."""
        return self.slo_ms if self.phases is None else self.phases.request_slo_ms

    def _check_training(self) -> None:
        for name in (*_PHASES, "ttft_prompt_tokens"):
            if getattr(self, name) is not None:
                checks.fail(name, f"is given for training function {self.name!r}; only llm-inference has phases.")
        if self.slo_ms is not None:
            checks.fail("slo_ms", f"is {self.slo_ms!r} for training function {self.name!r}; only inference has an SLO.")
        if self.load_rps:
            checks.fail(
                "load_rps", f"is {self.load_rps!r} for training function {self.name!r}; say `instances` instead."
            )
        if self.splittable:
            checks.fail("splittable", f"is set for training function {self.name!r}; a gang uses `gpus` instead.")
        fraction = checks.finite("throughput_fraction", self.throughput_fraction, above=0.0, at_most=1.0)
        object.__setattr__(self, "throughput_fraction", fraction)
        object.__setattr__(self, "gpus", checks.integer("gpus", self.gpus, at_least=1))
        if self.grid is not None and len(self.grid.batches) != 1:
            checks.fail(
                "grid", f"has {len(self.grid.batches)} batches; a training function has one, that of its steps."
            )

    def _check_inference(self) -> None:
        put = object.__setattr__
        given = [name for name in (*_PHASES, "ttft_prompt_tokens") if getattr(self, name) is not None]
        if given:
            self._check_phases(given)
        elif self.slo_ms is None:
            instead = " (or ttft_slo_ms and tpot_slo_ms)" if self.kind == "llm-inference" else ""
            checks.fail("slo_ms", f"of {self.kind} function {self.name!r} is missing; expected milliseconds{instead}.")
        else:
            put(self, "slo_ms", checks.finite("slo_ms", self.slo_ms, above=0.0))
        object.__setattr__(self, "load_rps", checks.finite("load_rps", self.load_rps, at_least=0.0))
        put(self, "gpus", checks.integer("gpus", self.gpus, at_least=1))
        if self.gpus != 1:
            checks.fail("gpus", f"is {self.gpus!r} for {self.kind} function {self.name!r}; only training takes a gang.")

    def _check_phases(self, given: list[str]) -> None:
        if self.kind != "llm-inference":
            checks.fail(given[0], f"is given for {self.kind} function {self.name!r}; only llm-inference has phases.")
        if self.slo_ms is not None:
            checks.fail("slo_ms", f"of {self.name!r} is given beside {given[0]}; an LLM has one objective or the pair.")
        for name in _PHASES:
            if getattr(self, name) is None:
                checks.fail(name, f"of {self.name!r} is missing; {given[0]} is given, and needs {', '.join(_PHASES)}.")
        phases = self.phases
        assert phases is not None
        if self.prior is not None:
            checks.fail("prior", f"is given for the two phases of {self.name!r}; it is the prior of one surface.")
        for name in given:
            object.__setattr__(self, name, getattr(phases, name))
        theirs, ours = phases.prefill_samples.gpu_type, self.samples.gpu_type
        if theirs and ours and theirs != ours:
            checks.fail(
                "prefill_samples", f"of {self.name!r} come from {theirs}, its samples from {ours}; both share a GPU."
            )


_PHASES = ("prefill_samples", "ttft_slo_ms", "tpot_slo_ms", "prompt_tokens", "output_tokens")
