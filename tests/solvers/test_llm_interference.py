"""LLM functions with two objectives beside neighbours: the margin is kept for both."""

from __future__ import annotations

from dilu_core.cluster import Cluster, GpuType
from dilu_core.functions import FunctionSpec
from dilu_core.performance import RooflineModel
from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.planner import plan


def _table(model: RooflineModel, batches: tuple[int, ...]) -> ProfileSamples:
    cells = [(batch, share) for batch in batches for share in range(100, 1001, 100)]
    batch, share = zip(*cells, strict=True)
    return ProfileSamples(batch, share, model.latency_ms(batch, share))


def test_both_objectives_have_room_for_neighbours() -> None:
    """With the pooled interference the chosen cell has more room to both budgets than its bounds alone need."""
    spec = FunctionSpec(
        name="llm", kind="llm-inference", samples=_table(RooflineModel(8.7, 0.006, 3.5, 0.095, 0.15), (1, 4, 16, 32)),
        prefill_samples=_table(RooflineModel(10.0, 0.001, 3.0, 0.095), (128, 512, 2048)), ttft_slo_ms=2400.0,
        tpot_slo_ms=26.0, prompt_tokens=512, output_tokens=129, load_rps=8.0, memory_mib=8000,
        grid=QuotaGrid((1, 2, 4), tuple(range(100, 501, 10))),
    )  # fmt: skip
    cluster = Cluster.homogeneous(2, 4, GpuType("A100", 40960))
    alone, beside = (plan([spec], cluster, time_limit_s=1.0, interference=how) for how in (None, "default"))
    rooms = []
    for made in (alone, beside):
        tokens = made.functions[0].tokens
        assert tokens is not None
        rooms.append(max((c.upper_ms or 0.0) / c.budget_ms for c in (tokens.ttft, tokens.tpot)))
    assert rooms[1] < rooms[0] <= 1 + 1e-9
    assert beside.slowdowns
    assert max(beside.slowdowns.values()) * rooms[1] <= 1 + 1e-9
