"""LlmFit: the formulas of continuous batching, over two fitted surfaces, as a value."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.latency_fit import LatencyFit
from dilu_core.llm_fit import LlmFit
from dilu_core.performance import LatencyModel, RooflineModel
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.llm_fitting import fit_llm

PREFILL = RooflineModel(launch_ms=12.0, host_ms=0.001, fixed_ms=5.0, compute_ms=0.1)
DECODE = RooflineModel(launch_ms=9.0, host_ms=0.02, fixed_ms=3.5, compute_ms=0.1, bandwidth_ms=0.15)
PROMPTS, SEQUENCES, SHARES = (128, 256, 512, 1024, 2048), (1, 2, 4, 8, 16, 32), tuple(range(100, 1001, 100))


def table(model: RooflineModel, batches: tuple[int, ...], noise: float = 0.0, seed: int = 0) -> ProfileSamples:
    """A full table of a known roofline."""
    batch, share = (axis.ravel() for axis in np.meshgrid(batches, SHARES, indexing="ij"))
    wobble = np.exp(noise * np.random.default_rng(seed).standard_normal(batch.size))
    return ProfileSamples(batch, share, model.latency_ms(batch, share) * wobble)


def llm(**changes: Any) -> LlmFit:
    fields: dict[str, Any] = {"prompt_tokens": 500, "output_tokens": 101, "ttft_prompt_tokens": 1500}
    return fit_llm(table(PREFILL, PROMPTS), table(DECODE, SEQUENCES), **{**fields, **changes})


FIT = llm()


@given(st.integers(1, 32), st.integers(100, 1000))
def test_the_formulas_in_plain_numbers(sequences: int, share: int) -> None:
    """Latency, TPOT, TTFT and throughput follow from one decode step and one prefill, for means and bounds alike."""
    for bound in (None, 0.9):
        if bound is None:
            step, typical, promised = (
                float(fit.latency_ms(at, share))
                for fit, at in ((FIT.decode, sequences), (FIT.prefill, 500), (FIT.prefill, 1500))
            )
            latency, tpot, ttft = (f(sequences, share) for f in (FIT.latency_ms, FIT.tpot_ms, FIT.ttft_ms))
        else:
            step, typical, promised = (
                float(fit.upper_ms(at, share, bound))
                for fit, at in ((FIT.decode, sequences), (FIT.prefill, 500), (FIT.prefill, 1500))
            )
            latency = FIT.upper_ms(sequences, share, bound)
            tpot, ttft = FIT.tpot_upper_ms(sequences, share, bound), FIT.ttft_upper_ms(sequences, share, bound)
        assert float(latency) == pytest.approx(100 * step + sequences * typical)
        assert float(tpot) == pytest.approx(step + (sequences - 1) * typical / 100)
        assert float(ttft) == pytest.approx(promised + step)
        assert float(latency) == pytest.approx(typical + 100 * float(tpot))
    assert float(FIT.throughput_rps(sequences, share)) == pytest.approx(
        1000 * sequences / float(FIT.latency_ms(sequences, share))
    )


def test_one_sequence_is_never_stalled() -> None:
    """A lone sequence takes one prefill and its decode steps; its TPOT is the step."""
    np.testing.assert_allclose(FIT.tpot_ms(1, SHARES), FIT.decode.latency_ms(1, SHARES))


@given(st.floats(1, 64), st.floats(1, 64), st.floats(50, 1000), st.floats(50, 1000))
def test_the_latency_is_a_latency_model(small: float, great: float, low: float, high: float) -> None:
    """It rises with the sequences and falls with the share, neither faster than in proportion."""
    small, great = sorted((small, great))
    low, high = sorted((low, high))
    more_sequences = float(FIT.latency_ms(great, low) / FIT.latency_ms(small, low))
    more_share = float(FIT.latency_ms(small, low) / FIT.latency_ms(small, high))
    assert 1 - 1e-9 <= more_sequences <= great / small * (1 + 1e-9)
    assert 1 - 1e-9 <= more_share <= high / low * (1 + 1e-9)
    assert isinstance(FIT, LatencyModel)


def test_arguments_broadcast() -> None:
    """Every method answers in the common shape of its arguments, for scalars too."""
    batches = np.array(SEQUENCES)[:, None]
    for method in (FIT.latency_ms, FIT.tpot_ms, FIT.ttft_ms, FIT.throughput_rps):
        assert method(batches, SHARES).shape == (6, 10)
        assert method(4, 500).shape == ()
    for bounded in (FIT.upper_ms, FIT.tpot_upper_ms, FIT.ttft_upper_ms):
        assert bounded(batches, SHARES, 0.9).shape == (6, 10)
        assert (bounded(batches, SHARES, 0.99) >= bounded(batches, SHARES, 0.9)).all()


def test_the_promised_prompt_is_the_typical_one_unless_said() -> None:
    """Without `ttft_prompt_tokens` the first token of the typical prompt counts."""
    same, longer = llm(ttft_prompt_tokens=None), llm(ttft_prompt_tokens=500)
    assert float(same.ttft_ms(4, 300)) == float(longer.ttft_ms(4, 300)) < float(FIT.ttft_ms(4, 300))


@pytest.mark.parametrize("together", [True, False])
def test_the_sum_of_bounds_bounds_the_sum(together: bool) -> None:
    """Log-normal errors of both surfaces, the same or independent: the sum of their quantiles covers the sum."""
    random = np.random.default_rng(3)
    of_decode = random.standard_normal(200_000)
    of_prefill = of_decode if together else random.standard_normal(200_000)
    step, prefill, level = 20.0, 120.0, 1.6448536269514722  # the 95 % point of a normal error
    actual = FIT.tpot_of(8, step * np.exp(0.1 * of_decode), prefill * np.exp(0.1 * of_prefill))
    bound = float(FIT.tpot_of(8, step * np.exp(0.1 * level), prefill * np.exp(0.1 * level)))
    covered = float((actual <= bound).mean())
    assert covered == pytest.approx(0.95, abs=0.003) if together else covered > 0.96


def test_what_is_odd_names_its_phase() -> None:
    """Sentences about a phase are led by its name, and a prompt beyond the measured ones has its own."""
    odd = fit_llm(table(PREFILL, (512,)), table(DECODE, (1, 2)), prompt_tokens=600, output_tokens=50).diagnostics()
    assert any(each.startswith("prefill (batch: prompt tokens): Only 1 batch size") for each in odd)
    assert any(each.startswith("decode (batch: sequences): Only 2 batch sizes") for each in odd)
    assert any("longest prompt measured has 512 tokens, 600 are asked for" in each for each in odd)
    assert not any("longest prompt" in each for each in FIT.diagnostics())


def test_json_round_trip() -> None:
    """Text there and back is an equal fit; a damaged one names what is wrong."""
    text = json.dumps(FIT.to_dict())
    assert LlmFit.from_dict(json.loads(text)) == FIT
    for damage, argument in (
        ({"version": 2}, "llm_fit.version"),
        ({"output_tokens": 1}, "llm_fit.output_tokens"),
        ({"prefill": None}, "latency_fit"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            LlmFit.from_dict({**json.loads(text), **damage})
        assert caught.value.argument.startswith(argument)
    with pytest.raises(InvalidArgumentError, match=r"llm_fit\.decode is missing"):
        LlmFit.from_dict({key: value for key, value in json.loads(text).items() if key != "decode"})


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("prompt_tokens", {"prompt_tokens": 0}),
        ("prompt_tokens", {"prompt_tokens": 1.5}),
        ("output_tokens", {"output_tokens": 1}),
        ("ttft_prompt_tokens", {"ttft_prompt_tokens": 499}),
    ],
)
def test_bad_requests_are_named(argument: str, changes: dict[str, Any]) -> None:
    """A prompt of no tokens, an answer without a second token, a promise for less than the typical prompt."""
    with pytest.raises(InvalidArgumentError) as caught:
        llm(**changes)
    assert caught.value.argument == argument


def test_bad_samples_and_fits_are_named() -> None:
    """Something that is no profile or no fit is refused by the name of its argument."""
    good = table(DECODE, SEQUENCES)
    with pytest.raises(InvalidArgumentError, match=r"^prefill_samples is"):
        fit_llm([1, 2], good, prompt_tokens=5, output_tokens=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"^decode_samples is"):
        fit_llm(good, None, prompt_tokens=5, output_tokens=5)  # type: ignore[arg-type]
    fit: LatencyFit = fit_latency(good)
    with pytest.raises(InvalidArgumentError, match=r"^decode is"):
        LlmFit(fit, DECODE, 5, 5)  # type: ignore[arg-type]
