"""Fit the two phases of an LLM function: one latency surface each."""

from __future__ import annotations

from dilu_core import _checks as check
from dilu_core.llm_fit import LlmFit
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency


def fit_llm(
    prefill_samples: ProfileSamples,
    decode_samples: ProfileSamples,
    *,
    prompt_tokens: int,
    output_tokens: int,
    ttft_prompt_tokens: int | None = None,
) -> LlmFit:
    """The prefill and decode surfaces that explain the samples best, for requests of the shape given.

    Parameters
    ----------
    prefill_samples
        Time to first token of one prompt alone: the batch column holds its tokens. Prompts should be measured up to
        the longest that matters, as attention makes long ones grow faster than the model can.
    decode_samples
        Time of one decode step: the batch column holds the concurrent sequences, at the context of the middle of an
        answer.
    prompt_tokens, output_tokens, ttft_prompt_tokens
        See `LlmFit`.

    Raises
    ------
    InvalidArgumentError
        Naming the argument.
    """
    for name, samples in (("prefill_samples", prefill_samples), ("decode_samples", decode_samples)):
        if not isinstance(samples, ProfileSamples):
            check.fail(name, f"is {samples!r:.80}; expected ProfileSamples.")
    return LlmFit(
        fit_latency(prefill_samples), fit_latency(decode_samples), prompt_tokens, output_tokens, ttft_prompt_tokens
    )
