"""LlmPhases: what a user says about an LLM function whose prefill and decode phases are planned apart."""

from __future__ import annotations

from dataclasses import dataclass

from dilu_core import _checks as checks
from dilu_core.samples import ProfileSamples


@dataclass(frozen=True, kw_only=True)
class LlmPhases:
    """The prefill profile, the two objectives and the requests; `FunctionSpec.phases` holds it where all are given.

    `prefill_samples` are times to first token over the tokens of one prompt (in the batch column) and share;
    `prompt_tokens` and `output_tokens` those of the mean request, and `ttft_prompt_tokens` the longest prompt that
    must keep `ttft_slo_ms` (`None`: `prompt_tokens`). Raises `InvalidArgumentError` naming the argument.
    """

    prefill_samples: ProfileSamples
    ttft_slo_ms: float
    tpot_slo_ms: float
    prompt_tokens: int
    output_tokens: int
    ttft_prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        if not isinstance(self.prefill_samples, ProfileSamples):
            checks.fail(
                "prefill_samples", f"is {self.prefill_samples!r:.80}; expected ProfileSamples (see read_profiles)."
            )
        for name in ("ttft_slo_ms", "tpot_slo_ms"):
            put(self, name, checks.finite(name, getattr(self, name), above=0.0))
        put(self, "prompt_tokens", checks.integer("prompt_tokens", self.prompt_tokens, at_least=1))
        put(self, "output_tokens", checks.integer("output_tokens", self.output_tokens, at_least=2))
        if self.ttft_prompt_tokens is not None:
            longest = checks.integer("ttft_prompt_tokens", self.ttft_prompt_tokens, at_least=self.prompt_tokens)
            put(self, "ttft_prompt_tokens", longest)

    @property
    def promised_tokens(self) -> int:
        """The longest prompt that must keep `ttft_slo_ms`."""
        return self.prompt_tokens if self.ttft_prompt_tokens is None else self.ttft_prompt_tokens

    @property
    def request_slo_ms(self) -> float:
        """What both objectives amount to for the mean request: its first token, and all the others."""
        return self.ttft_slo_ms + (self.output_tokens - 1) * self.tpot_slo_ms
