"""TokenLatency: how a planned LLM function keeps its time to first token (TTFT) and per output token (TPOT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dilu_core import _checks as checks
from dilu_core.evidence import EVIDENCE, Evidence

_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class LatencyCheck:
    """One objective, the part of it that may be used, and what a configuration is expected to take of that.

    `latency_ms` is the mean prediction and `upper_ms` the bound that decided (`None`: the mean did); `measured_ms` is
    what the profile itself says, and `evidence` how. All three are `None` where nothing feasible exists.
    """

    slo_ms: float
    budget_ms: float
    latency_ms: float | None = None
    upper_ms: float | None = None
    measured_ms: float | None = None
    evidence: Evidence = "model"

    def __post_init__(self) -> None:
        for name in ("slo_ms", "budget_ms"):
            object.__setattr__(self, name, checks.finite(name, getattr(self, name), above=0.0))
        for name in ("latency_ms", "upper_ms", "measured_ms"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, checks.finite(name, getattr(self, name), above=0.0))
        checks.choice("evidence", self.evidence, EVIDENCE)


@dataclass(frozen=True, kw_only=True)
class TokenLatency:
    """The typical request, the prompt whose first token is promised, and both objectives; see `LlmFit` for the model.

    Raises `InvalidArgumentError` naming the argument.
    """

    prompt_tokens: int
    output_tokens: int
    ttft_prompt_tokens: int
    ttft: LatencyCheck
    tpot: LatencyCheck

    def __post_init__(self) -> None:
        for name, least in (("prompt_tokens", 1), ("output_tokens", 2), ("ttft_prompt_tokens", 1)):
            object.__setattr__(self, name, checks.integer(name, getattr(self, name), at_least=least))
        for name in ("ttft", "tpot"):
            if not isinstance(getattr(self, name), LatencyCheck):
                checks.fail(name, f"is {getattr(self, name)!r:.80}; expected a LatencyCheck.")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {"version": _VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TokenLatency:
        """The value `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = checks.document("tokens", data, version=_VERSION)
        objectives = {name: _objective(f"tokens.{name}", checks.item("tokens", document, name)) for name in _OBJECTIVES}
        required = ("prompt_tokens", "output_tokens", "ttft_prompt_tokens", *_OBJECTIVES)
        return checks.build("tokens", {**document, **objectives}, cls, required=required)


_OBJECTIVES = ("ttft", "tpot")


def _objective(where: str, entry: object) -> LatencyCheck:
    if not isinstance(entry, Mapping):
        checks.fail(where, f"is {entry!r:.80}; expected a mapping.")
    required = ("slo_ms", "budget_ms", "latency_ms", "upper_ms", "measured_ms", "evidence")
    return checks.build(where, entry, LatencyCheck, required=required)
