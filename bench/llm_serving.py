"""A simulated continuous-batching server beside the formulas that plan for it.

    python bench/llm_serving.py

The server (`solvers.llm_oracle`) runs the example's LLM function, whose surfaces were measured on an H100, at the
configurations that `search_llm_quota` chooses for several pairs of SLOs. Two mixes of requests: all equal, and
unequal (prompts log-normal, answers geometric, with the same means). First every slot is kept busy: throughput and
TPOT against the prediction. Then requests arrive at random at a part of that throughput: the part of requests whose
first token comes after the SLO, and the part whose own mean time per token is over it. Nothing here ran on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dilu_core.llm_fit import LlmFit
from dilu_core.quota import QuotaConfig
from dilu_core.solvers.llm_fitting import fit_llm
from dilu_core.solvers.llm_oracle import ServedRequests, serve_requests
from dilu_core.solvers.llm_quota import search_llm_quota
from dilu_core.workload import read_workload

EXAMPLE = Path(__file__).resolve().parents[1] / "dilu_core" / "example" / "workload.toml"
SLOS = ((1500.0, 60.0), (500.0, 40.0), (2000.0, 100.0), (800.0, 25.0))  # TTFT, TPOT in ms
LOADS = (0.5, 0.7, 0.8, 0.9)  # parts of the capacity at the request
REQUESTS = 8000

Requests = tuple[NDArray[np.int64], NDArray[np.int64]]


def main() -> None:
    """Print a block of lines per pair of SLOs."""
    (spec,) = (each for each in read_workload(EXAMPLE).functions if each.phases is not None)
    phases = spec.phases
    assert phases is not None
    fit = fit_llm(
        phases.prefill_samples,
        spec.samples,
        prompt_tokens=phases.prompt_tokens,
        output_tokens=phases.output_tokens,
        ttft_prompt_tokens=phases.ttft_prompt_tokens,
    )
    for ttft_slo_ms, tpot_slo_ms in SLOS:
        config = search_llm_quota(fit, ttft_slo_ms=ttft_slo_ms, tpot_slo_ms=tpot_slo_ms).best
        assert config is not None
        print(
            f"TTFT {ttft_slo_ms:g} ms, TPOT {tpot_slo_ms:g} ms: {config.batch} sequences at share "
            f"{config.request_milli}; predicted {config.throughput_rps:.2f} requests/s, TPOT "
            f"{float(fit.tpot_ms(config.batch, config.request_milli)):.1f} ms"
        )
        for mix, requests in mixes(fit):
            busy = serve(fit, config, np.zeros(REQUESTS), requests)
            steady = slice(REQUESTS // 10, REQUESTS - REQUESTS // 10)
            order = np.sort(busy.last_ms)[steady]
            rate = 1000.0 * (order.size - 1) / (order[-1] - order[0])
            of_all = token_mean(busy, np.arange(REQUESTS)[steady])
            print(
                f"  {mix:8s} slots busy: {rate:.2f} requests/s ({rate / config.throughput_rps - 1:+.1%}), TPOT "
                f"{of_all:.1f} ms over tokens, {busy.tpot_ms.max():.1f} ms in the worst request"
            )
            for load in LOADS:
                gaps = np.random.default_rng(2).exponential(1000.0 / (load * config.throughput_rps), REQUESTS)
                served = serve(fit, config, np.cumsum(gaps), requests)
                promised = requests[0] <= fit.promised_tokens
                late = float((served.ttft_ms[promised] > ttft_slo_ms).mean())
                slow = float((served.tpot_ms > tpot_slo_ms).mean())
                mean = token_mean(served, np.arange(REQUESTS))
                print(
                    f"           load {load:.0%}: first token late {late:6.2%}; TPOT {mean:5.1f} ms over tokens, "
                    f"{slow:6.2%} of requests over the SLO"
                )


def mixes(fit: LlmFit) -> Iterator[tuple[str, Requests]]:
    """Equal requests, and unequal ones of the same means."""
    yield "equal", (np.full(REQUESTS, fit.prompt_tokens), np.full(REQUESTS, fit.output_tokens))
    random, sigma = np.random.default_rng(1), 0.6
    prompts = random.lognormal(np.log(fit.prompt_tokens) - sigma**2 / 2, sigma, REQUESTS)
    answers = 1 + random.geometric(1.0 / fit.decode_steps, REQUESTS)
    yield "unequal", (np.maximum(np.rint(prompts), 1).astype(np.int64), answers.astype(np.int64))


def serve(fit: LlmFit, config: QuotaConfig, arrival_ms: NDArray[np.float64], requests: Requests) -> ServedRequests:
    """One instance at its request, the surfaces of `fit` being the truth."""

    @cache
    def prefill_ms(tokens: int) -> float:
        return float(fit.prefill.latency_ms(tokens, config.request_milli))

    @cache
    def decode_ms(sequences: int) -> float:
        return float(fit.decode.latency_ms(sequences, config.request_milli))

    prompts, answers = requests
    return serve_requests(arrival_ms, prompts, answers, slots=config.batch, prefill_ms=prefill_ms, decode_ms=decode_ms)


def token_mean(served: ServedRequests, rows: NDArray[np.intp]) -> float:
    """Mean time per further token over all tokens of the requests in `rows`."""
    steps = served.output_tokens[rows] - 1
    return float((served.tpot_ms[rows] * steps).sum() / steps.sum())


if __name__ == "__main__":
    main()
