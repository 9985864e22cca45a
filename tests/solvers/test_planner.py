"""plan(): quotas keep their budget by the table itself, instances carry the load, and every odd input has an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Node, Oversubscription
from dilu_core.errors import InvalidArgumentError
from dilu_core.functions import FunctionSpec
from dilu_core.performance import RooflineModel
from dilu_core.placement import verify_placement
from dilu_core.plans import Plan
from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.configuration import cells_over, default_grid, read_table
from dilu_core.solvers.planner import plan
from dilu_core.workload import read_workload

A100 = GpuType("A100", 40960)
CLUSTER = Cluster.homogeneous(2, 4, A100)
ROOT = Path(__file__).resolve().parents[2]


def _samples(
    compute_ms: float = 1.0, *, gpu_type: str = "", memory: bool = False, noise: float = 0.0
) -> ProfileSamples:
    """A full table of a known roofline: batches 1..16, shares 100..1000."""
    model = RooflineModel(launch_ms=3.0, host_ms=0.05, fixed_ms=0.5, compute_ms=compute_ms)
    batch, share = (axis.ravel() for axis in np.meshgrid([1, 2, 4, 8, 16], range(100, 1001, 100), indexing="ij"))
    wobble = np.exp(noise * np.random.default_rng(0).standard_normal(batch.size))
    return ProfileSamples(
        batch,
        share,
        model.latency_ms(batch, share) * wobble,
        memory_mib=800.0 + 50.0 * batch if memory else None,
        gpu_type=gpu_type,
    )


def _serving(name: str = "f", **changes: Any) -> FunctionSpec:
    fields: dict[str, Any] = {
        "name": name, "kind": "inference", "samples": _samples(),
        "slo_ms": 100.0, "load_rps": 500.0, "memory_mib": 4000,
    }  # fmt: skip
    return FunctionSpec(**{**fields, **changes})


def _training(name: str = "t", **changes: Any) -> FunctionSpec:
    samples = _samples().select(_samples().batch == 16)
    fields: dict[str, Any] = {"name": name, "kind": "training", "samples": samples, "memory_mib": 9000, "gpus": 2}
    return FunctionSpec(**{**fields, **changes})


def _plan(*functions: FunctionSpec, cluster: Cluster = CLUSTER, **options: Any) -> Plan:
    return plan(functions, cluster, **{"time_limit_s": 2.0, **options})


def _assert_sound(made: Plan) -> None:
    """What holds for every plan, by code that shares nothing with the planner."""
    assert verify_placement(made.problem, made.placement) == ()
    assert made.lower_bound <= made.gpus_used
    placed_or_not = {*made.placement.names, *made.unplaced}
    assert placed_or_not == {name for each in made.functions for name in each.instances}
    for each in made.functions:
        if each.config is None:
            assert each.detail
            assert each.instances == ()
        elif each.budget_ms is not None:
            assert each.measured_ms is None or each.measured_ms <= each.budget_ms
    assert Plan.from_json(made.to_json()) == made
    assert made.summary()


def test_the_whole_path() -> None:
    """Two functions and a training gang: budgets kept, load carried, fewer GPUs than whole ones, all verified."""
    functions = _serving("a", load_rps=90.0), _serving("b", samples=_samples(2.0), load_rps=40.0), _training()
    made = _plan(*functions, sizing="load", limit_factor=1.5)
    _assert_sound(made)
    assert made.complete
    a, b, t = made.functions
    for each, load in ((a, 90.0), (b, 40.0)):
        assert each.config is not None
        assert each.capacity_rps >= load > each.capacity_rps - each.config.throughput_rps
        assert each.config.upper_ms is not None
        assert each.config.upper_ms <= 50.0
        assert made.policies[each.name].capacity_rps == each.config.throughput_rps
        assert each.limit_rps is not None
        assert each.limit_rps >= each.config.throughput_rps
    assert t.config is not None
    assert len(made.placement.slots("t#0")) == 2
    assert set(made.policies) == {"a", "b"}
    assert set(made.quotas) == {"a", "b", "t"}
    assert made.gpus_used < made.whole_gpu_gpus


def test_same_seed_same_plan() -> None:
    """Planning twice gives equal plans."""
    functions = (_serving("a"), _serving("b"), _training())
    assert _plan(*functions) == _plan(*functions)


def test_measurements_overrule_the_model() -> None:
    """A cell that the table shows over its budget is not chosen, however well the fit thinks of it."""
    samples = _samples()
    chosen = _plan(_serving()).quotas["f"]
    spoilt = samples.latency_ms.copy()
    cell = (samples.batch == chosen.batch) & (samples.sm_milli == chosen.request_milli)
    spoilt[cell] = 51.0
    made = _plan(_serving(samples=ProfileSamples(samples.batch, samples.sm_milli, spoilt)), quantile=None)
    again = made.quotas["f"]
    assert (again.batch, again.request_milli) != (chosen.batch, chosen.request_milli)
    _assert_sound(made)


def test_repeated_batches_are_not_believed() -> None:
    """A greatest batch whose rows copy the one before it is left out, with a warning."""
    samples = _samples(memory=True)
    copied = samples.latency_ms.copy()
    copied[samples.batch == 16] = copied[samples.batch == 8]
    spec = _serving(samples=ProfileSamples(samples.batch, samples.sm_milli, copied), slo_ms=400.0)
    each = _plan(spec).functions[0]
    assert each.config is not None
    assert each.config.batch <= 8
    assert any("Batch 16 repeats" in warning for warning in each.warnings)


def test_training_does_not_believe_repeated_batches() -> None:
    """The batch of a training step never has rows that copy a smaller one; a grid of one batch chooses another."""
    samples = _samples()
    copied = samples.latency_ms.copy()
    copied[samples.batch == 16] = copied[samples.batch == 8]
    spoilt = ProfileSamples(samples.batch, samples.sm_milli, copied)
    each = _plan(_training(samples=spoilt)).functions[0]
    assert each.config is not None
    assert each.config.batch == 8
    assert any("Batch 16 repeats" in warning for warning in each.warnings)
    grid = QuotaGrid((4,), tuple(range(100, 1001, 100)))
    assert _plan(_training(samples=samples, grid=grid)).quotas["t"].batch == 4


def test_a_profile_from_elsewhere_is_remarked() -> None:
    """A profile of a GPU type that the cluster lacks is used, with a warning."""
    each = _plan(_serving(samples=_samples(gpu_type="V100"))).functions[0]
    assert any("Profiled on V100" in warning for warning in each.warnings)


def test_limits_follow_the_factor() -> None:
    """No limit exceeds its factor times the request, and without a factor the limit is where throughput saturates."""
    tight, free = (_plan(_serving(load_rps=50.0), limit_factor=factor).quotas["f"] for factor in (1.0, None))
    assert tight.limit_milli == tight.request_milli
    assert free.limit_milli >= 2 * free.request_milli


@pytest.mark.parametrize("load", [400.0, 900.0, 1300.0, 1600.0, 2500.0])
@pytest.mark.parametrize("sizing", ["efficacy", "load"])
def test_sharing_never_loses_to_whole_gpus(load: float, sizing: str) -> None:
    """Requests of half a GPU whose limits leave no room for each other are given whole GPUs where that takes fewer."""
    batch, share = (axis.ravel() for axis in np.meshgrid([1, 2, 4, 8, 16, 32], [100, 300, 500, 1000], indexing="ij"))
    model = RooflineModel(5.0, 0.1, 1.0, 2.0, 0.2, 3.0)
    samples = ProfileSamples(batch, share, model.latency_ms(batch, share))
    big = _serving("big", samples=samples, slo_ms=200.0, load_rps=load, memory_mib=1000)
    made = _plan(big, _serving("small", load_rps=20.0), sizing=sizing)
    _assert_sound(made)
    assert made.complete
    assert made.gpus_used <= made.whole_gpu_gpus


def test_an_impossible_slo_is_a_result() -> None:
    """A function that nothing can serve is reported with its reason, and the others are planned as if alone."""
    made = _plan(_serving("fast", slo_ms=0.001), _serving("slow"))
    _assert_sound(made)
    assert not made.complete
    assert made.functions[0].config is None
    assert "fast" not in made.policies
    assert made.placement == _plan(_serving("slow")).placement
    assert "fast" in made.summary()


def test_no_load_means_no_instance_but_a_policy() -> None:
    """Zero load books nothing; the policy can still start from zero."""
    made = _plan(_serving(load_rps=0.0))
    assert made.functions[0].instances == ()
    assert (made.gpus_used, made.lower_bound, made.gap) == (0, 0, 0.0)
    assert made.policies["f"].min_instances == 0
    assert made.policies["f"].max_instances >= CLUSTER.gpus
    _assert_sound(made)


def test_nothing_on_nothing() -> None:
    """No functions, and no nodes, are an empty plan; instances without a cluster are unplaced with a reason."""
    _assert_sound(_plan())
    assert _plan(cluster=Cluster(())).gpus_used == 0
    homeless = _plan(_serving(), cluster=Cluster(()))
    _assert_sound(homeless)
    assert len(homeless.unplaced) == len(homeless.functions[0].instances) > 0


def test_bounds_on_instances() -> None:
    """min_instances and an explicit count are kept, and max_instances says what it leaves uncarried."""
    assert len(_plan(_serving(load_rps=1.0, min_instances=3)).functions[0].instances) == 3
    assert len(_plan(_serving(instances=2)).functions[0].instances) == 2
    capped = _plan(_serving(load_rps=5000.0, max_instances=2)).functions[0]
    assert len(capped.instances) == 2
    assert "carry" in capped.detail
    assert not _plan(_serving(load_rps=5000.0, max_instances=2)).complete
    asked = _plan(_serving(load_rps=5000.0, instances=1))
    assert not asked.complete
    assert "not carried    f: 1 instances carry" in asked.summary()
    assert len(_plan(_training(instances=3)).functions[0].instances) == 3


def test_headroom_adds_capacity() -> None:
    """Headroom of a half carries one and a half times the load."""
    each = _plan(_serving(load_rps=500.0), headroom=0.5).functions[0]
    assert each.capacity_rps >= 750.0


def test_sizing_by_load_books_less_for_little_load() -> None:
    """For a load far below one instance of the most efficient configuration, sizing by load books less share."""
    spec = _serving(load_rps=5.0, samples=_samples(8.0), slo_ms=400.0)
    efficient, fitted = (_plan(spec, sizing=sizing) for sizing in ("efficacy", "load"))
    booked = [sum(i.request_milli for i in made.problem.instances) for made in (efficient, fitted)]
    assert booked[1] <= booked[0]
    _assert_sound(fitted)


def test_memory_is_fitted_where_not_given() -> None:
    """With a memory column and no figure, the instance books what the column says at its batch, never less."""
    each = _plan(_serving(samples=_samples(memory=True), memory_mib=None)).functions[0]
    assert each.config is not None
    assert each.memory_mib is not None
    assert 800 + 50 * each.config.batch <= each.memory_mib <= 1.05 * (800 + 50 * each.config.batch)


def test_a_profile_binds_its_gpu_type() -> None:
    """On a mixed cluster an instance goes only where its profile was measured."""
    mixed = Cluster((Node("old", GpuType("T4", 16384), 8), Node("new", A100, 4)))
    made = _plan(_serving(samples=_samples(gpu_type="A100")), cluster=mixed)
    assert {slot.node for name in made.placement.names for slot in made.placement.slots(name)} == {"new"}
    anywhere = _plan(_serving(samples=_samples(gpu_type="H100")), cluster=mixed)
    assert all(instance.gpu_types is None for instance in anywhere.problem.instances)


def test_current_placement_is_kept_within_the_migrations_allowed() -> None:
    """Planning again from the plan's own placement with no migrations moves nothing."""
    first = _plan(_serving("a"), _serving("b"))
    again = _plan(_serving("a"), _serving("b"), current=first.placement, max_migrations=0)
    assert again.placement == first.placement


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("quantile", {"quantile": 1.0}),
        ("quantile", {"quantile": "high"}),
        ("exec_fraction", {"exec_fraction": 0.0}),
        ("sizing", {"sizing": "best"}),
        ("headroom", {"headroom": -0.1}),
        ("limit_factor", {"limit_factor": 0.5}),
        ("sm_step_milli", {"sm_step_milli": 0}),
        ("cluster", {"cluster": "all of them"}),
        ("time_limit_s", {"time_limit_s": -1.0}),
        ("oversubscription", {"oversubscription": 1.5}),
        ("price_per_gpu_hour", {"price_per_gpu_hour": float("nan")}),
        ("price_per_gpu_hour", {"price_per_gpu_hour": -1}),
        ("backend", {"backend": "tpu"}),
        ("headroom", {"headroom": 1e308}),
        ("limit_factor", {"limit_factor": 1e308}),
    ],
)
def test_bad_options_are_named(argument: str, options: dict[str, Any]) -> None:
    """Each bad option raises an error that names it."""
    with pytest.raises(InvalidArgumentError) as caught:
        _plan(_serving(), **options)
    assert caught.value.argument == argument


def test_bad_functions_are_named() -> None:
    """Duplicate names, things that are no FunctionSpec and absurd loads are refused."""
    with pytest.raises(InvalidArgumentError, match="functions holds 'f', which would need"):
        _plan(_serving(load_rps=1e15))
    with pytest.raises(InvalidArgumentError, match=r"functions\[1\] repeats the name"):
        _plan(_serving("a"), _serving("a"))
    with pytest.raises(InvalidArgumentError, match=r"functions\[0\]"):
        plan(["a"], CLUSTER)  # type: ignore[list-item]


@settings(max_examples=25)
@given(
    loads=st.lists(st.floats(0, 2000), min_size=1, max_size=4),
    slo=st.floats(5, 500),
    compute=st.floats(0.1, 20),
    limit=st.integers(1000, 2000),
    step=st.sampled_from([50, 100, 250]),
)
def test_every_plan_is_sound(loads: list[float], slo: float, compute: float, limit: int, step: int) -> None:
    """Whatever the load, SLO, model and caps: verified placement, kept budgets, all instances accounted for."""
    samples = _samples(compute, noise=0.05)
    functions = [_serving(f"f{i}", load_rps=load, samples=samples, slo_ms=slo) for i, load in enumerate(loads)]
    caps = Oversubscription(limit_milli=limit)
    _assert_sound(_plan(*functions, oversubscription=caps, sm_step_milli=step, time_limit_s=0.0))


@given(batch=st.sampled_from([1, 2, 4, 8, 16]), share=st.integers(1, 1000))
def test_the_table_is_read_between_its_neighbours(batch: int, share: int) -> None:
    """A value read from the table is one measured, lies between two neighbours, or does not exist."""
    samples = _samples(noise=0.1)
    value, evidence = read_table(samples, batch, share)
    row = samples.select(samples.batch == batch)
    if share < 100:
        assert (value, evidence) == (None, "model")
    elif share % 100 == 0:
        assert (value, evidence) == (float(row.latency_ms[row.sm_milli == share][0]), "measured")
    else:
        sides = [float(row.latency_ms[row.sm_milli == s][0]) for s in (share // 100 * 100, share // 100 * 100 + 100)]
        assert evidence == "interpolated"
        assert value is not None
        assert min(sides) * (1 - 1e-12) <= value <= max(sides) * (1 + 1e-12)


def test_default_grid_extrapolates_nothing() -> None:
    """Batches are the measured ones; shares start at the least measured and always include the whole GPU."""
    grid = default_grid(ProfileSamples([1, 8, 8], [300, 300, 750], [9.0, 30.0, 15.0]), 200)
    assert grid == QuotaGrid((1, 8), (300, 400, 600, 750, 800, 1000))


def test_blocked_cells_are_those_the_table_shows_over() -> None:
    """At a budget between two measured latencies, exactly the slower cells are blocked."""
    samples = ProfileSamples([1, 1, 1], [200, 400, 800], [30.0, 20.0, 10.0]).merged()
    grid = QuotaGrid((1,), (100, 200, 300, 400, 800, 1000))
    assert cells_over(samples, grid, 22.0) == [(1, 200), (1, 300)]


def test_the_measured_workload(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five functions of the Dilu table and two training jobs: within budget by the table, fewer than whole GPUs."""
    monkeypatch.setenv("DILU_DATA", str(data_dir.resolve()))
    workload = read_workload(ROOT / "bench" / "workloads" / "dilu_a100.toml")
    made = plan(workload.functions, workload.cluster, **workload.options)
    _assert_sound(made)
    assert made.complete
    assert 4 < made.gpus_used < made.whole_gpu_gpus
    assert all(each.evidence == "measured" for each in made.functions if each.kind != "training")
