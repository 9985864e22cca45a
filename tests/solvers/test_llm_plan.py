"""plan() of LLM functions with two phases: both objectives kept by the tables, and every part of the plan filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType
from dilu_core.functions import FunctionSpec
from dilu_core.performance import RooflineModel
from dilu_core.placement import verify_placement
from dilu_core.plans import FunctionPlan, Plan
from dilu_core.plotting import plot_plan
from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.llm_fitting import fit_llm
from dilu_core.solvers.llm_tables import PhaseTables, read_prompt
from dilu_core.solvers.planner import plan
from dilu_core.workload import read_workload

CLUSTER = Cluster.homogeneous(2, 4, GpuType("A100", 40960))
PREFILL = RooflineModel(launch_ms=10.0, host_ms=0.001, fixed_ms=3.0, compute_ms=0.095)
DECODE = RooflineModel(launch_ms=8.7, host_ms=0.006, fixed_ms=3.5, compute_ms=0.095, bandwidth_ms=0.15)
EXAMPLE = Path(__file__).resolve().parents[2] / "dilu_core" / "example" / "workload.toml"


def _table(model: RooflineModel, batches: tuple[int, ...], per_batch_mib: float | None = None) -> ProfileSamples:
    batch, share = (axis.ravel() for axis in np.meshgrid(batches, range(100, 1001, 100), indexing="ij"))
    memory = None if per_batch_mib is None else 13000.0 + per_batch_mib * batch
    return ProfileSamples(batch, share, model.latency_ms(batch, share), memory_mib=memory)


PREFILL_TABLE = _table(PREFILL, (128, 256, 512, 1024, 2048))
DECODE_TABLE = _table(DECODE, (1, 2, 4, 8, 16, 32))


def _llm(name: str = "llm", **changes: Any) -> FunctionSpec:
    fields: dict[str, Any] = {
        "name": name, "kind": "llm-inference", "samples": DECODE_TABLE, "prefill_samples": PREFILL_TABLE,
        "ttft_slo_ms": 1000.0, "tpot_slo_ms": 50.0, "prompt_tokens": 512, "output_tokens": 129, "load_rps": 5.0,
        "memory_mib": 15000,
    }  # fmt: skip
    return FunctionSpec(**{**fields, **changes})


def _plan(*functions: FunctionSpec, **options: Any) -> Plan:
    return plan(functions, CLUSTER, **{"time_limit_s": 1.0, **options})


def _only(made: Plan) -> FunctionPlan:
    (each,) = made.functions
    return each


def _read(samples: ProfileSamples, batch: int, share: int) -> float | None:
    rows = (samples.batch == batch) & (samples.sm_milli == share)
    return float(samples.latency_ms[rows][0]) if rows.any() else None


def _assert_sound(made: Plan, specs: list[FunctionSpec]) -> None:
    """What holds for every plan of LLMs, by the tables and in plain numbers."""
    assert verify_placement(made.problem, made.placement) == ()
    assert Plan.from_json(made.to_json()) == made
    assert made.summary()
    for each, spec in zip(made.functions, specs, strict=True):
        assert each.tokens is not None
        assert spec.phases is not None
        steps = spec.phases.output_tokens - 1
        assert each.slo_ms == pytest.approx(spec.phases.ttft_slo_ms + steps * spec.phases.tpot_slo_ms)
        if each.config is None:
            assert "TTFT" in each.detail or "TPOT" in each.detail
            continue
        for check in (each.tokens.ttft, each.tokens.tpot):
            for taken in (check.upper_ms, check.measured_ms):
                assert taken is None or taken <= check.budget_ms * (1 + 1e-9)
        batch, share = each.config.batch, each.config.request_milli
        step = _read(spec.samples, batch, share)
        typical = _read(spec.phases.prefill_samples, spec.phases.prompt_tokens, share)
        promised = _read(spec.phases.prefill_samples, spec.phases.promised_tokens, share)
        if step is not None and promised is not None:
            assert promised + step <= 0.5 * spec.phases.ttft_slo_ms * (1 + 1e-9)
        if step is not None and typical is not None:
            assert step + (batch - 1) * typical / steps <= spec.phases.tpot_slo_ms * (1 + 1e-9)
        assert each.config.throughput_rps == pytest.approx(1000 * batch / each.config.latency_ms)


def test_the_whole_path() -> None:
    """Load in requests, instances that carry it, both objectives kept, and a policy that knows a whole request."""
    spec = _llm(load_rps=10.0)
    made = _plan(spec)
    _assert_sound(made, [spec])
    assert made.complete
    each = _only(made)
    assert each.config is not None
    assert each.capacity_rps >= 10.0 > each.capacity_rps - each.config.throughput_rps
    policy = made.policies["llm"]
    assert policy.capacity_rps == each.config.throughput_rps
    assert policy.slo_ms == 1000.0 + 128 * 50.0
    assert policy.base_latency_ms == each.config.latency_ms
    assert each.config.latency_ms < 1000.0 + 128 * 50.0
    assert each.limit_rps is not None
    assert each.limit_rps >= each.config.throughput_rps
    assert each.budget_ms == 500.0 + 128 * 50.0
    assert plot_plan(made).axes


def test_no_share_below_either_profile_is_chosen() -> None:
    """Where prefill was only measured from 600 up, nothing below is extrapolated."""
    wide = PREFILL_TABLE.select(PREFILL_TABLE.sm_milli >= 600)
    config = _only(_plan(_llm(prefill_samples=wide))).config
    assert config is not None
    assert config.request_milli >= 600
    free = _only(_plan(_llm())).config
    assert free is not None
    assert free.request_milli < 600


def test_one_objective_is_still_a_batch() -> None:
    """Without phases an LLM is planned as before: latency of a batch against its share of the SLO."""
    spec = FunctionSpec(
        name="llm", kind="llm-inference", samples=DECODE_TABLE, slo_ms=80.0, load_rps=500.0, memory_mib=15000
    )
    each = _only(_plan(spec))
    assert each.tokens is None
    assert each.budget_ms == 40.0
    assert each.config is not None
    assert each.config.latency_ms == pytest.approx(
        float(DECODE.latency_ms(each.config.batch, each.config.request_milli)), rel=0.05
    )


def test_each_objective_can_be_out_of_reach() -> None:
    """An SLO that nothing meets is a result that names it, with the objectives still on record."""
    for spec, named in ((_llm(ttft_slo_ms=20.0), "TTFT"), (_llm(tpot_slo_ms=2.0), "TPOT")):
        made = _plan(spec)
        _assert_sound(made, [spec])
        each = _only(made)
        assert each.config is None
        assert f"nothing meets the {named} budget" in each.detail
        assert "llm" not in made.policies


def test_a_longer_promise_takes_more() -> None:
    """The first token of a longer prompt needs a greater share."""
    shares = []
    for tokens in (512, 2048):
        config = _only(_plan(_llm(ttft_prompt_tokens=tokens, ttft_slo_ms=700.0, tpot_slo_ms=100.0))).config
        assert config is not None
        shares.append(config.request_milli)
    assert shares[0] < shares[1]


@pytest.mark.parametrize("phase", ["samples", "prefill_samples"])
def test_measurements_overrule_the_model(phase: str) -> None:
    """A cell that either table shows over an objective is not chosen, however well the fits think of it."""
    chosen = _plan(_llm()).quotas["llm"]
    table = DECODE_TABLE if phase == "samples" else PREFILL_TABLE
    spoilt = table.latency_ms.copy()
    at = chosen.batch if phase == "samples" else 512
    spoilt[(table.batch == at) & (table.sm_milli == chosen.request_milli)] *= 20.0
    changed: dict[str, Any] = {phase: ProfileSamples(table.batch, table.sm_milli, spoilt)}
    spec = _llm(**changed)
    made = _plan(spec, quantile=None)
    again = made.quotas["llm"]
    assert (again.batch, again.request_milli) != (chosen.batch, chosen.request_milli)
    _assert_sound(made, [spec])


def test_memory_grows_with_the_sequences_and_the_prompt() -> None:
    """Weights, a cache for each sequence, and what the promised prompt takes on top where that was measured."""
    decode, prefill = _table(DECODE, (1, 4, 16), 256.0), _table(PREFILL, (256, 512, 1024, 2048), 0.5)
    plain = _only(_plan(_llm(samples=decode, memory_mib=None)))
    assert plain.config is not None
    assert plain.memory_mib == 13000 + 256 * plain.config.batch
    both = _only(_plan(_llm(samples=decode, prefill_samples=prefill, memory_mib=None, ttft_prompt_tokens=1024)))
    assert both.config is not None
    assert both.memory_mib == pytest.approx(13000 + 256 * both.config.batch + 512, abs=2)
    assert _only(_plan(_llm(samples=decode, prefill_samples=prefill))).memory_mib == 15000


def test_warnings_name_their_phase() -> None:
    """What is odd in either profile reaches the plan, led by the phase it is about."""
    copied = DECODE_TABLE.latency_ms.copy()
    copied[DECODE_TABLE.batch == 32] = copied[DECODE_TABLE.batch == 16]
    few = PREFILL_TABLE.select(np.isin(PREFILL_TABLE.batch, (256, 512)))
    warnings = _only(_plan(_llm(prefill_samples=few, ttft_prompt_tokens=900))).warnings
    assert any(each.startswith("prefill (batch: prompt tokens): Only 2 batch sizes") for each in warnings)
    assert any("longest prompt measured has 512 tokens, 900 are asked for" in each for each in warnings)
    steeper = _table(RooflineModel(2.0, 0.0, 1.0, 2.0), (1, 2, 4, 8, 16, 32))
    stuck = steeper.latency_ms.copy()
    stuck[steeper.batch == 32] = stuck[steeper.batch == 16]
    repeating = ProfileSamples(steeper.batch, steeper.sm_milli, stuck)
    spec = _llm(samples=repeating, tpot_slo_ms=400.0)
    each = _only(_plan(spec))
    assert any(text.startswith("decode (batch: sequences): Batch 32 repeats") for text in each.warnings)
    assert each.config is not None
    assert each.config.batch <= 16


def test_a_crowded_llm_is_remarked() -> None:
    """Near capacity the wait for a slot may use up the TTFT; enough headroom, and nothing is said."""
    tight, wide = (_only(_plan(_llm(load_rps=20.0), sizing="load", headroom=h)) for h in (0.0, 0.45))
    assert any("of their capacity" in text for text in tight.warnings)
    assert not any("of their capacity" in text for text in wide.warnings)
    assert not any("of their capacity" in text for text in _only(_plan(_llm(load_rps=0.0))).warnings)


@settings(max_examples=20)
@given(
    st.floats(50, 5000), st.floats(5, 500), st.integers(1, 3000), st.integers(2, 600), st.floats(0, 50),
    st.sampled_from(["efficacy", "load"]), st.sampled_from([None, 0.95]),
)  # fmt: skip
def test_every_plan_is_sound(
    ttft: float, tpot: float, prompt: int, output: int, load: float, sizing: str, quantile: float | None
) -> None:
    """Whatever the objectives, requests and load: verified placement, both objectives kept, all accounted for."""
    random = np.random.default_rng(prompt)
    noisy = [
        ProfileSamples(each.batch, each.sm_milli, each.latency_ms * np.exp(0.05 * random.standard_normal(len(each))))
        for each in (PREFILL_TABLE, DECODE_TABLE)
    ]
    spec = _llm(
        prefill_samples=noisy[0], samples=noisy[1], ttft_slo_ms=ttft, tpot_slo_ms=tpot, prompt_tokens=prompt,
        output_tokens=output, load_rps=load,
    )  # fmt: skip
    _assert_sound(_plan(spec, sizing=sizing, quantile=quantile, time_limit_s=0.0), [spec])


@given(st.integers(64, 4096), st.sampled_from(range(100, 1001, 50)))
def test_the_prefill_table_is_read_between_its_prompts(tokens: int, share: int) -> None:
    """A reading is measured, lies between two measured prompts and at most 5 % above the truth, or does not exist."""
    value, evidence = read_prompt(PREFILL_TABLE.merged(), tokens, share)
    if not 128 <= tokens <= 2048:
        assert (value, evidence) == (None, "model")
        return
    assert value is not None
    truth = float(PREFILL.latency_ms(tokens, share))
    assert truth * (1 - 1e-9) <= value <= 1.05 * truth
    assert (evidence == "measured") == (tokens in (128, 256, 512, 1024, 2048) and share % 100 == 0)


def test_a_phase_without_a_reading_counts_as_nothing() -> None:
    """Cells are over where what the tables do show is too much alone; the rest is left to the model."""
    prefill = ProfileSamples([100, 100], [500, 1000], [90.0, 60.0])
    decode = ProfileSamples([1, 2, 1, 2], [400, 400, 1000, 1000], [30.0, 55.0, 10.0, 20.0])
    fit = fit_llm(prefill, decode, prompt_tokens=100, output_tokens=11)
    tables = PhaseTables(fit, prefill.merged(), decode.merged())
    grid = QuotaGrid((1, 2), (400, 500, 1000))
    # At 400 only decode was measured, at 500 prefill with decode in between, at 1000 both.
    assert tables.cells_over(grid, 75.0, 50.0) == [(2, 400), (1, 500), (2, 500), (2, 1000)]
    assert tables.cells_over(grid, 1000.0, 25.0) == [(1, 400), (2, 400), (2, 500), (2, 1000)]


def test_the_example() -> None:
    """The packaged LLM keeps both objectives by its own tables at no more than 70 % of its capacity."""
    workload = read_workload(EXAMPLE)
    (spec,) = (each for each in workload.functions if each.phases is not None)
    made = plan([spec], workload.cluster, **{**workload.options, "time_limit_s": 1.0})
    _assert_sound(made, [spec])
    each = _only(made)
    assert made.complete
    assert each.evidence != "model"
    assert each.warnings == ()
    assert each.load_rps <= 0.7 * each.capacity_rps
