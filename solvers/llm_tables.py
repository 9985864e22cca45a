"""What the measured tables of an LLM's two phases themselves say of its latencies.

Between two measured prompt lengths the prefill table is read by interpolation of log latency over log tokens, which
lies above any curve that is convex there, as prefill is: attention grows faster than in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dilu_core.evidence import Evidence, weakest
from dilu_core.llm_fit import LlmFit
from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.configuration import read_table

Reading = tuple[float | None, Evidence]
"""A latency in ms and what stands behind it, or `(None, "model")` where the tables say nothing."""


@dataclass(frozen=True)
class PhaseTables:
    """The formulas of `fit` over measurements: `prefill` and `decode` hold one row per cell, ascending."""

    fit: LlmFit
    prefill: ProfileSamples
    decode: ProfileSamples

    def latency_ms(self, batch: int, sm_milli: int) -> Reading:
        """Time of a request in its slot."""
        tpot_ms, evidence = self.tpot_ms(batch, sm_milli)
        prefill_ms, _ = read_prompt(self.prefill, self.fit.prompt_tokens, sm_milli)
        if tpot_ms is None or prefill_ms is None:
            return None, "model"
        return prefill_ms + self.fit.decode_steps * tpot_ms, evidence

    def ttft_ms(self, batch: int, sm_milli: int) -> Reading:
        """Time to first token of the promised prompt."""
        decode_ms, of_decode = read_table(self.decode, batch, sm_milli)
        prefill_ms, of_prefill = read_prompt(self.prefill, self.fit.promised_tokens, sm_milli)
        if decode_ms is None or prefill_ms is None:
            return None, "model"
        return decode_ms + prefill_ms, weakest(of_decode, of_prefill)

    def tpot_ms(self, batch: int, sm_milli: int) -> Reading:
        """Mean time per further token."""
        decode_ms, of_decode = read_table(self.decode, batch, sm_milli)
        prefill_ms, of_prefill = read_prompt(self.prefill, self.fit.prompt_tokens, sm_milli)
        if decode_ms is None or prefill_ms is None:
            return None, "model"
        return float(self.fit.tpot_of(batch, decode_ms, prefill_ms)), weakest(of_decode, of_prefill)

    def cells_over(self, grid: QuotaGrid, ttft_budget_ms: float, tpot_budget_ms: float) -> list[tuple[int, int]]:
        """Cells of `grid` that the tables show over a budget. A phase without a reading there counts as nothing."""
        over = []
        for share in grid.sm_milli:
            first_ms = read_prompt(self.prefill, self.fit.promised_tokens, share)[0] or 0.0
            typical_ms = read_prompt(self.prefill, self.fit.prompt_tokens, share)[0] or 0.0
            for batch in grid.batches:
                decode_ms = read_table(self.decode, batch, share)[0] or 0.0
                tpot_ms = float(self.fit.tpot_of(batch, decode_ms, typical_ms))
                if first_ms + decode_ms > ttft_budget_ms or tpot_ms > tpot_budget_ms:
                    over.append((batch, share))
        return over


def read_prompt(samples: ProfileSamples, tokens: int, sm_milli: int) -> Reading:
    """Time to first token in ms that the prefill table itself gives, and how; `(None, "model")` where nothing.

    `samples` holds one row per cell. Like `read_table`, and between the two neighbouring prompt lengths interpolated.
    """
    lengths = np.unique(samples.batch)
    at = int(np.searchsorted(lengths, tokens))
    if at < lengths.size and lengths[at] == tokens:
        return read_table(samples, tokens, sm_milli)
    if not 0 < at < lengths.size:
        return None, "model"
    sides = int(lengths[at - 1]), int(lengths[at])
    (low_ms, _), (high_ms, _) = (read_table(samples, side, sm_milli) for side in sides)
    if low_ms is None or high_ms is None:
        return None, "model"
    return float(np.exp(np.interp(np.log(tokens), np.log(sides), np.log((low_ms, high_ms))))), "interpolated"
