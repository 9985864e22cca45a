"""The formulas of LlmFit against a continuous-batching server simulated step by step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dilu_core.llm_fit import LlmFit
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.llm_fitting import fit_llm
from dilu_core.solvers.llm_oracle import ServedRequests, serve_requests
from dilu_core.solvers.llm_quota import search_llm_quota

FIT = fit_llm(
    ProfileSamples([128, 512, 2048] * 2, [300] * 3 + [1000] * 3, [51.0, 170.0, 664.0, 16.0, 51.0, 199.0]),
    ProfileSamples([1, 8, 32] * 2, [300] * 3 + [1000] * 3, [13.3, 15.1, 22.4, 8.9, 9.0, 10.3]),
    prompt_tokens=448,
    output_tokens=128,
    ttft_prompt_tokens=1024,
)


def surfaces(fit: LlmFit, share: int) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """Prefill and decode times at one share, the fit being the truth."""
    prefill = {tokens: float(fit.prefill.latency_ms(tokens, share)) for tokens in range(1, 4097)}
    decode = {batch: float(fit.decode.latency_ms(batch, share)) for batch in range(1, 65)}
    return prefill.__getitem__, decode.__getitem__


def serve(
    share: int, slots: int, arrivals: NDArray[np.float64], prompts: NDArray[np.int64], outputs: NDArray[np.int64]
) -> ServedRequests:
    prefill_ms, decode_ms = surfaces(FIT, share)
    return serve_requests(arrivals, prompts, outputs, slots=slots, prefill_ms=prefill_ms, decode_ms=decode_ms)


def unequal(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Log-normal prompts and geometric answers with the means of FIT, none beyond 4096 tokens."""
    random = np.random.default_rng(seed)
    prompts = np.rint(random.lognormal(np.log(448) - 0.18, 0.6, count)).clip(1, 4096)
    return prompts.astype(np.int64), 1 + random.geometric(1 / 127, count)


def test_a_hand_calculated_run() -> None:
    """Two slots, three requests: prefills stall the other sequence, and the third waits for a slot."""
    served = serve_requests(
        [0.0, 5.0, 6.0], [100, 200, 100], [3, 2, 2], slots=2,
        prefill_ms=lambda tokens: tokens / 10, decode_ms=lambda sequences: 1.0 + sequences,
    )  # fmt: skip
    # 0-10 prefill of the first; 10-30 of the second; 30-33 both decode, the second is done; 33-43 prefill of the third;
    # 43-46 both decode, and both are done.
    assert served.first_ms.tolist() == [10.0, 30.0, 43.0]
    assert served.last_ms.tolist() == [46.0, 33.0, 46.0]
    assert served.ttft_ms.tolist() == [10.0, 25.0, 37.0]
    assert served.tpot_ms.tolist() == [18.0, 3.0, 3.0]
    assert served.in_slot_ms.tolist() == [46.0, 23.0, 13.0]


@pytest.mark.parametrize(("slots", "share"), [(1, 300), (4, 300), (16, 600), (32, 1000)])
def test_equal_requests_in_staggered_slots_take_exactly_what_is_predicted(slots: int, share: int) -> None:
    """Once slots are staggered evenly and busy, latency, TPOT and throughput are those of the formulas."""
    steps = FIT.decode_steps
    first = np.maximum(2, 1 + np.rint(steps * np.arange(1, slots + 1) / slots)).astype(np.int64)  # staggers the slots
    outputs = np.concatenate([first, np.full(20 * slots, steps + 1)])
    served = serve(share, slots, np.zeros(outputs.size), np.full(outputs.size, 448), outputs)
    steady = slice(2 * slots, -slots)
    np.testing.assert_allclose(served.in_slot_ms[steady], float(FIT.latency_ms(slots, share)), rtol=1e-9)
    np.testing.assert_allclose(served.tpot_ms[steady], float(FIT.tpot_ms(slots, share)), rtol=1e-9)
    ends = np.sort(served.last_ms)[2 * slots : -slots]
    rate = 1000 * (ends.size // slots - 1) * slots / (ends[(ends.size // slots - 1) * slots] - ends[0])
    assert rate == pytest.approx(float(FIT.throughput_rps(slots, share)), rel=1e-9)


@settings(max_examples=20)
@given(st.integers(1, 32), st.sampled_from([300, 500, 1000]), st.floats(0.1, 3.0), st.integers(0, 10**6))
def test_no_equal_request_has_a_greater_tpot(slots: int, share: int, load: float, seed: int) -> None:
    """However equal requests arrive, below or above capacity, the predicted TPOT bounds that of each of them."""
    gap_ms = 1000 / (load * float(FIT.throughput_rps(slots, share)))
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(gap_ms, 200))
    served = serve(share, slots, arrivals, np.full(200, 448), np.full(200, 128))
    assert served.tpot_ms.max() <= float(FIT.tpot_ms(slots, share)) * (1 + 1e-9)


@pytest.mark.parametrize(("slots", "share"), [(4, 300), (16, 600), (32, 1000)])
@pytest.mark.parametrize("seed", [0, 1])
def test_unequal_requests_take_it_on_average(slots: int, share: int, seed: int) -> None:
    """With busy slots and unequal requests, throughput and TPOT over all tokens are within 3 % of the prediction."""
    count = 6000
    prompts, outputs = unequal(count, seed)
    served = serve(share, slots, np.zeros(count), prompts, outputs)
    done = np.sort(served.last_ms)[count // 10 : -count // 10]
    assert 1000 * (done.size - 1) / (done[-1] - done[0]) == pytest.approx(
        float(FIT.throughput_rps(slots, share)), rel=0.03
    )
    rows = slice(count // 10, -count // 10)
    steps = outputs[rows] - 1
    over_tokens = float((served.tpot_ms[rows] * steps).sum() / steps.sum())
    assert over_tokens == pytest.approx(float(FIT.tpot_ms(slots, share)), rel=0.03)


@pytest.mark.parametrize(("ttft_slo_ms", "tpot_slo_ms"), [(1500.0, 60.0), (500.0, 40.0), (800.0, 25.0)])
def test_a_found_configuration_keeps_its_promises_at_seven_tenths(ttft_slo_ms: float, tpot_slo_ms: float) -> None:
    """Requests arriving at random at 70 % of capacity: 95 % of the promised first tokens in time, TPOT kept by all."""
    config = search_llm_quota(FIT, ttft_slo_ms=ttft_slo_ms, tpot_slo_ms=tpot_slo_ms).best
    assert config is not None
    count = 6000
    gap_ms = 1000 / (0.7 * config.throughput_rps)
    arrivals = np.cumsum(np.random.default_rng(0).exponential(gap_ms, count))
    for prompts, outputs in ((np.full(count, 448), np.full(count, 128)), unequal(count, 1)):
        served = serve(config.request_milli, config.batch, arrivals, prompts, outputs)
        promised = served.ttft_ms[prompts <= 1024]
        assert float((promised <= ttft_slo_ms).mean()) >= 0.95
        steps = outputs - 1
        assert float((served.tpot_ms * steps).sum() / steps.sum()) <= tpot_slo_ms
        if len(set(outputs)) == 1:
            assert served.tpot_ms.max() <= tpot_slo_ms
