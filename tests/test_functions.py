"""FunctionSpec refuses what no plan could use, and names the argument."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import InvalidArgumentError
from dilu_core.functions import FunctionSpec
from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples

SAMPLES = ProfileSamples([1, 2, 4], [500, 500, 500], [10.0, 12.0, 16.0])
WITH_MEMORY = ProfileSamples([1, 2], [500, 500], [10.0, 12.0], memory_mib=[1000.0, 1100.0])


def _spec(**changes: Any) -> FunctionSpec:
    fields: dict[str, Any] = {"name": "f", "kind": "inference", "samples": SAMPLES, "slo_ms": 100.0, "memory_mib": 1024}
    return FunctionSpec(**{**fields, **changes})


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("name", {"name": ""}),
        ("name", {"name": 3}),
        ("kind", {"kind": "batch"}),
        ("samples", {"samples": [1, 2, 3]}),
        ("slo_ms", {"slo_ms": None}),
        ("slo_ms", {"slo_ms": 0}),
        ("slo_ms", {"slo_ms": float("nan")}),
        ("slo_ms", {"slo_ms": "100"}),
        ("load_rps", {"load_rps": -1.0}),
        ("load_rps", {"load_rps": float("inf")}),
        ("memory_mib", {"memory_mib": None}),
        ("memory_mib", {"memory_mib": -1}),
        ("memory_mib", {"memory_mib": 1.5}),
        ("gpus", {"gpus": 2}),
        ("instances", {"instances": -1}),
        ("max_instances", {"min_instances": 3, "max_instances": 2}),
        ("cold_start_s", {"cold_start_s": -1}),
        ("splittable", {"splittable": 1}),
        ("affinity", {"affinity": "bert"}),
        ("gpu_types", {"gpu_types": ("A100", "A100")}),
        ("grid", {"grid": [1, 2]}),
        ("grid", {"kind": "training", "slo_ms": None, "grid": QuotaGrid((1, 2), (1000,))}),
        ("instances", {"instances": 5, "max_instances": 2}),
        ("instances", {"instances": 1, "min_instances": 2}),
        ("slo_ms", {"slo_ms": 10**400}),
        ("slo_ms", {"kind": "training"}),
        ("load_rps", {"kind": "training", "slo_ms": None, "load_rps": 5}),
        ("splittable", {"kind": "training", "slo_ms": None, "splittable": True}),
        ("throughput_fraction", {"kind": "training", "slo_ms": None, "throughput_fraction": 1.5}),
        ("gpus", {"kind": "training", "slo_ms": None, "gpus": 0}),
    ],
)
def test_bad_arguments_are_named(argument: str, changes: dict[str, Any]) -> None:
    """Each bad field raises an error whose `argument` is that field."""
    with pytest.raises(InvalidArgumentError) as caught:
        _spec(**changes)
    assert caught.value.argument.split("[")[0] == argument
    assert str(caught.value).startswith(argument)


PREFILL = ProfileSamples([128, 512, 1024], [500, 500, 500], [30.0, 100.0, 200.0])
PHASES: dict[str, Any] = {
    "kind": "llm-inference", "slo_ms": None, "prefill_samples": PREFILL, "ttft_slo_ms": 800.0, "tpot_slo_ms": 50.0,
    "prompt_tokens": 500, "output_tokens": 101,
}  # fmt: skip


def test_an_llm_has_one_objective_or_the_pair() -> None:
    """With phases the request's objective is the first token and all the others; without, `slo_ms` as it stands."""
    pair = _spec(**PHASES)
    assert pair.phases is not None
    assert pair.phases.promised_tokens == 500
    assert pair.request_slo_ms == 800.0 + 100 * 50.0
    longer = _spec(**PHASES, ttft_prompt_tokens=1000).phases
    assert longer is not None
    assert longer.promised_tokens == 1000
    one = _spec(kind="llm-inference")
    assert one.phases is None
    assert one.request_slo_ms == 100.0


@pytest.mark.parametrize("missing", ["prefill_samples", "ttft_slo_ms", "tpot_slo_ms", "prompt_tokens", "output_tokens"])
def test_half_a_set_of_phases_names_what_is_missing(missing: str) -> None:
    """Four of the five are an error about the fifth."""
    with pytest.raises(InvalidArgumentError, match=f"^{missing} of 'f' is missing; .* is given") as caught:
        _spec(**{**PHASES, missing: None})
    assert caught.value.argument == missing


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("slo_ms", {"slo_ms": 100.0}),
        ("prefill_samples", {"prefill_samples": [1, 2]}),
        ("prefill_samples", {"kind": "inference"}),
        ("prefill_samples", {"kind": "training"}),
        ("ttft_slo_ms", {"ttft_slo_ms": 0.0}),
        ("tpot_slo_ms", {"tpot_slo_ms": "50"}),
        ("prompt_tokens", {"prompt_tokens": 0}),
        ("output_tokens", {"output_tokens": 1}),
        ("output_tokens", {"output_tokens": 1.5}),
        ("ttft_prompt_tokens", {"ttft_prompt_tokens": 400}),
    ],
)
def test_bad_phases_are_named(argument: str, changes: dict[str, Any]) -> None:
    """Each bad field of the pair raises an error whose `argument` is that field."""
    with pytest.raises(InvalidArgumentError) as caught:
        _spec(**{**PHASES, **changes})
    assert caught.value.argument == argument


def test_a_lone_longest_prompt_needs_the_rest() -> None:
    """`ttft_prompt_tokens` alone is half a set too."""
    with pytest.raises(InvalidArgumentError, match=r"^prefill_samples of 'f' is missing; ttft_prompt_tokens is given"):
        _spec(kind="llm-inference", slo_ms=None, ttft_prompt_tokens=5)


def test_both_phases_run_on_one_gpu() -> None:
    """Profiles of two GPU types cannot make one instance."""
    elsewhere = ProfileSamples([128], [500], [30.0], gpu_type="H100")
    here = ProfileSamples([1], [500], [10.0], gpu_type="A100")
    with pytest.raises(InvalidArgumentError, match=r"^prefill_samples of 'f' come from H100, its samples from A100"):
        _spec(**{**PHASES, "samples": here, "prefill_samples": elsewhere})


def test_memory_may_come_from_the_samples() -> None:
    """Without `memory_mib` the samples' own column is enough."""
    assert _spec(samples=WITH_MEMORY, memory_mib=None).memory_mib is None


@given(name=st.text(min_size=1).filter(str.strip), load=st.floats(0, 1e9), slo=st.floats(1e-3, 1e9))
def test_any_name_load_and_slo_in_range_pass(name: str, load: float, slo: float) -> None:
    """Unicode names and every finite load and SLO are accepted unchanged."""
    spec = _spec(name=name, load_rps=load, slo_ms=slo)
    assert (spec.name, spec.load_rps, spec.slo_ms) == (name, load, slo)
