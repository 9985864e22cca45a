"""LlmFit: the two phases of an LLM request as two fitted surfaces, and what continuous batching makes of them.

The prefill surface P(q, s) is the time to process one prompt of q tokens on share s, which ends with its first token.
The decode surface D(b, s) is one decode step of b concurrent sequences, which gives each of them one token more.

An instance serves b sequences by continuous (iteration-level) batching: a request takes the next free slot, its prompt
is processed alone while the others wait, and then it takes part in every decode step until it has n = output_tokens - 1
tokens more. In steady state with all slots busy, n decode steps go by while b requests come and go, each with one
prefill, so that

    latency      n D(b, s) + b P(q, s)               a request in its slot, from the start of its prefill to its end
    TPOT         D(b, s) + (b - 1) P(q, s) / n       its part after the first token, per token
    TTFT         P(q', s) + D(b, s)                  without a queue: the step in progress, then its own prompt
    throughput   1000 b / latency                    requests per second

with q the typical prompt and q' the one whose first token is promised. With requests of equal length no request has a
greater mean TPOT than this, however the slots are staggered; with unequal lengths it is the mean over all tokens, with
n and q as means, and a short answer that meets a prompt or two may have far more. Single gaps between tokens may be as
long as a prefill.

If both surfaces rise in their batch and fall in the share no faster than in proportion, so does the latency: it is a
LatencyModel, and its throughput never falls with b or s.

Assumed: prefill and decode share the instance (no disaggregation), prompts are processed whole and one at a time, and
the decode surface was measured at the context of the middle of an answer. Chunked prefill shortens the longest gap, not
the mean.

Sources: iteration-level scheduling, Yu et al., "Orca", OSDI 2022. The two phases, their interference and the two SLOs,
Zhong et al., "DistServe", OSDI 2024, and Patel et al., "Splitwise", ISCA 2024 (arXiv:2311.18677).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dilu_core import _checks as check
from dilu_core.latency_fit import LatencyFit

PREFILL, DECODE = "prefill (batch: prompt tokens)", "decode (batch: sequences)"
"""What leads a sentence about one of the phases."""

_VERSION = 1


@dataclass(frozen=True)
class LlmFit:
    """Fitted prefill and decode surfaces for requests of a typical shape; see the module for the formulas.

    Parameters
    ----------
    prefill
        Time to first token over prompt length (its batch: tokens of one prompt) and share.
    decode
        One decode step over concurrent sequences (its batch) and share.
    prompt_tokens, output_tokens
        The typical (mean) request. The first output token comes from the prefill, so there must be at least 2.
    ttft_prompt_tokens
        The prompt whose first token is promised, such as a high percentile; `None`: the typical one. Never shorter.

    The bounds `*_upper_ms` add the bounds of the two surfaces. That is exact where their errors move together, and
    conservative where they are independent or jointly normal; whatever their dependence, the sum stays below its bound
    with probability at least 2 quantile - 1.

    All methods broadcast `batch` against `sm_milli` and answer in their common shape. Raises `InvalidArgumentError`
    naming the argument.
    """

    prefill: LatencyFit
    decode: LatencyFit
    prompt_tokens: int
    output_tokens: int
    ttft_prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("prefill", "decode"):
            if not isinstance(getattr(self, name), LatencyFit):
                check.fail(name, f"is {getattr(self, name)!r:.80}; expected a LatencyFit.")
        put(self, "prompt_tokens", check.integer("prompt_tokens", self.prompt_tokens, at_least=1))
        put(self, "output_tokens", check.integer("output_tokens", self.output_tokens, at_least=2))
        if self.ttft_prompt_tokens is not None:
            longest = check.integer("ttft_prompt_tokens", self.ttft_prompt_tokens, at_least=self.prompt_tokens)
            put(self, "ttft_prompt_tokens", longest)

    @property
    def decode_steps(self) -> int:
        """n, the decode steps of one request: its output tokens but the first."""
        return self.output_tokens - 1

    @property
    def promised_tokens(self) -> int:
        """q', the prompt whose first token is promised."""
        return self.prompt_tokens if self.ttft_prompt_tokens is None else self.ttft_prompt_tokens

    def latency_ms(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Mean time of a request in its slot in ms, `batch` slots being busy."""
        decode, prefill = self.decode.latency_ms(batch, sm_milli), self._prefill_ms(sm_milli)
        return self._latency(batch, decode, prefill)

    def upper_ms(self, batch: ArrayLike, sm_milli: ArrayLike, quantile: float = 0.95) -> NDArray[np.float64]:
        """The bound on `latency_ms`."""
        decode, prefill = self.decode.upper_ms(batch, sm_milli, quantile), self._prefill_upper_ms(sm_milli, quantile)
        return self._latency(batch, decode, prefill)

    def tpot_ms(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Mean time per output token in ms, with the stalls for other prompts."""
        decode, prefill = self.decode.latency_ms(batch, sm_milli), self._prefill_ms(sm_milli)
        return self.tpot_of(batch, decode, prefill)

    def tpot_upper_ms(self, batch: ArrayLike, sm_milli: ArrayLike, quantile: float = 0.95) -> NDArray[np.float64]:
        """The bound on `tpot_ms`."""
        decode, prefill = self.decode.upper_ms(batch, sm_milli, quantile), self._prefill_upper_ms(sm_milli, quantile)
        return self.tpot_of(batch, decode, prefill)

    def ttft_ms(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Mean time to first token in ms of the promised prompt, where a slot is free and no other prompt waits."""
        return np.asarray(self._first_prefill_ms(sm_milli) + self.decode.latency_ms(batch, sm_milli))

    def ttft_upper_ms(self, batch: ArrayLike, sm_milli: ArrayLike, quantile: float = 0.95) -> NDArray[np.float64]:
        """The bound on `ttft_ms`."""
        prefill = self.prefill.upper_ms(self.promised_tokens, sm_milli, quantile)
        return np.asarray(prefill + self.decode.upper_ms(batch, sm_milli, quantile))

    def throughput_rps(self, batch: ArrayLike, sm_milli: ArrayLike) -> NDArray[np.float64]:
        """Requests per second of an instance whose `batch` slots are busy; never falls with either argument."""
        return np.asarray(1000.0 * np.asarray(batch, dtype=np.float64) / self.latency_ms(batch, sm_milli))

    def tpot_of(self, batch: ArrayLike, decode_ms: ArrayLike, prefill_ms: ArrayLike) -> NDArray[np.float64]:
        """TPOT in ms that follows from one decode step of `batch` sequences and one prefill, however they are known."""
        others = np.asarray(batch, dtype=np.float64) - 1.0
        return np.asarray(np.asarray(decode_ms) + others * np.asarray(prefill_ms) / self.decode_steps)

    def diagnostics(self) -> tuple[str, ...]:
        """What is odd in the samples of either phase, each sentence led by its phase."""
        said = [f"{PREFILL}: {sentence}" for sentence in self.prefill.diagnostics()]
        longest = int(self.prefill.samples.batch.max())
        if self.promised_tokens > longest:
            said.append(
                f"{PREFILL}: The longest prompt measured has {longest} tokens, {self.promised_tokens} are asked for; "
                "the model grows at most in proportion there, attention faster. Measure longer prompts."
            )
        return (*said, *(f"{DECODE}: {sentence}" for sentence in self.decode.diagnostics()))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able value that `from_dict` reads back."""
        return {
            "version": _VERSION,
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict(),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "ttft_prompt_tokens": self.ttft_prompt_tokens,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LlmFit:
        """The fit `to_dict` wrote; `InvalidArgumentError` names what is missing or wrong."""
        document = check.document("llm_fit", data, version=_VERSION)
        phases = {name: LatencyFit.from_dict(check.item("llm_fit", document, name)) for name in ("prefill", "decode")}
        required = ("prefill", "decode", "prompt_tokens", "output_tokens", "ttft_prompt_tokens")
        return check.build("llm_fit", {**document, **phases}, cls, required=required)

    def _prefill_ms(self, sm_milli: ArrayLike) -> NDArray[np.float64]:
        return self.prefill.latency_ms(self.prompt_tokens, sm_milli)

    def _prefill_upper_ms(self, sm_milli: ArrayLike, quantile: float) -> NDArray[np.float64]:
        return self.prefill.upper_ms(self.prompt_tokens, sm_milli, quantile)

    def _first_prefill_ms(self, sm_milli: ArrayLike) -> NDArray[np.float64]:
        return self.prefill.latency_ms(self.promised_tokens, sm_milli)

    def _latency(
        self, batch: ArrayLike, decode_ms: NDArray[np.float64], prefill_ms: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return np.asarray(self.decode_steps * decode_ms + np.asarray(batch, dtype=np.float64) * prefill_ms)
