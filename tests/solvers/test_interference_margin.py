"""Planning with interference: the margin covers every neighbour that fits, and what was placed is told truly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Oversubscription
from dilu_core.errors import FileFormatError, InvalidArgumentError
from dilu_core.functions import FunctionSpec
from dilu_core.interference import InterferenceModel, Tenant
from dilu_core.performance import RooflineModel
from dilu_core.plans import Plan
from dilu_core.quota import QuotaConfig, QuotaGrid
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.fitting import fit_latency
from dilu_core.solvers.interference_margin import _heaviest, sharing_margins, with_slowdown_warnings
from dilu_core.solvers.planner import plan
from dilu_core.workload import read_workload

CLUSTER = Cluster.homogeneous(2, 4, GpuType("A100", 40960))
CAPS = Oversubscription()


def _samples(compute_ms: float) -> ProfileSamples:
    model = RooflineModel(launch_ms=3.0, host_ms=0.05, fixed_ms=0.5, compute_ms=compute_ms, bandwidth_ms=0.3)
    batch, share = (axis.ravel() for axis in np.meshgrid([1, 2, 4, 8, 16], range(100, 1001, 100), indexing="ij"))
    return ProfileSamples(batch, share, model.latency_ms(batch, share))


def _serving(name: str, compute_ms: float = 1.0, **changes: Any) -> FunctionSpec:
    fields: dict[str, Any] = {
        "name": name, "kind": "inference", "samples": _samples(compute_ms),
        "slo_ms": 400.0, "load_rps": 150.0, "memory_mib": 2000,
    }  # fmt: skip
    return FunctionSpec(**{**fields, **changes})


def _model(strength: float = -3.4, spread: float = 0.3) -> InterferenceModel:
    return InterferenceModel((), ((strength,),), ((spread,),), 3.0, 2.0)


def _plan(*functions: FunctionSpec, **options: Any) -> Plan:
    return plan(functions, CLUSTER, **{"time_limit_s": 1.0, **options})


def _tenants(specs: tuple[FunctionSpec, ...], configs: dict[str, QuotaConfig]) -> dict[str, Tenant]:
    found = {}
    for spec in specs:
        model = fit_latency(spec.samples).roofline
        found[spec.name] = Tenant.of(spec.name, model, configs[spec.name].batch, configs[spec.name].request_milli)
    return found


def _crowds(configs: list[QuotaConfig], request: int, limit: int, start: int = 0) -> Iterator[list[int]]:
    """Every multiset of `configs`, by index, within the two capacities."""
    yield []
    for i in range(start, len(configs)):
        if configs[i].request_milli <= request and configs[i].limit_milli <= limit:
            left = request - configs[i].request_milli, limit - configs[i].limit_milli
            yield from ([i, *rest] for rest in _crowds(configs, *left, i))


def test_without_a_model_nothing_changes() -> None:
    """The default is None: same plan, no slowdowns."""
    functions = _serving("a"), _serving("b", 2.0)
    assert _plan(*functions) == _plan(*functions, interference=None)
    assert _plan(*functions).slowdowns == {}


def test_the_budget_holds_beside_every_crowd_that_fits() -> None:
    """Each bound times the slowdown beside any neighbours that the caps leave room for is within the budget."""
    specs = _serving("a"), _serving("b", 2.0), _serving("c", 4.0, slo_ms=800.0)
    model = _model()
    alone = _plan(*specs).quotas
    made = _plan(*specs, interference=model)
    beside = list(_tenants(specs, alone).values())
    configs = [alone[spec.name] for spec in specs]
    own = _tenants(specs, made.quotas)
    for each in made.functions:
        assert each.config is not None
        assert each.config.upper_ms is not None
        assert each.budget_ms is not None
        left = 1000 - each.config.request_milli, 1500 - each.config.limit_milli
        worst = max(
            model.upper_slowdown(own[each.name], [beside[i] for i in crowd]) for crowd in _crowds(configs, *left)
        )
        assert worst > 1.0
        assert each.config.upper_ms * worst <= each.budget_ms * (1 + 1e-9)
        assert each.measured_ms is not None
        assert each.measured_ms * worst <= each.budget_ms * (1 + 1e-9)


def test_slowdowns_are_those_of_the_neighbours_placed() -> None:
    """Every placed instance has the upper slowdown beside those on its GPU, recomputed from the slots."""
    specs = _serving("a"), _serving("b", 2.0), _serving("c", 4.0, slo_ms=800.0)
    model = _model()
    made = _plan(*specs, interference=model)
    tenants = _tenants(specs, made.quotas)
    assert set(made.slowdowns) == set(made.placement.names)
    function = {name: each.name for each in made.functions for name in each.instances}
    for name in made.placement.names:
        (slot,) = made.placement.slots(name)
        beside = [
            tenants[function[other]]
            for other in made.placement.names
            if other != name and made.placement.slots(other)[0].node == slot.node
            and made.placement.slots(other)[0].gpu == slot.gpu
        ]  # fmt: skip
        assert made.slowdowns[name] == pytest.approx(model.upper_slowdown(tenants[function[name]], beside))
    assert max(made.slowdowns.values()) > 1.0
    assert "neighbours may slow an instance by up to" in made.summary()


def test_a_whole_gpu_has_no_margin() -> None:
    """A function that can only take whole GPUs is configured as without a model, and slowed by nothing."""
    whole = _serving("a", grid=QuotaGrid((1, 2, 4, 8, 16), (1000,)), slo_ms=40.0)
    made = _plan(whole, interference=_model(strength=2.0))
    assert made.quotas == _plan(whole).quotas
    assert set(made.slowdowns.values()) == {1.0}


def test_functions_kept_apart_need_no_margin() -> None:
    """Anti-affinity, said by either side, takes a neighbour out of the reckoning."""
    strong = _model(strength=-1.0)
    pair = _serving("a", anti_affinity=("a",)), _serving("b", 2.0, anti_affinity=("a", "b"))
    assert _plan(*pair, interference=strong).quotas == _plan(*pair).quotas
    free = _serving("a"), _serving("b", 2.0)
    assert _plan(*free, interference=strong).quotas != _plan(*free).quotas


def test_solitude_is_the_refuge() -> None:
    """Where any neighbour would slow it out of all bounds, a function takes so much that none fits, and is served."""
    made = _plan(_serving("a"), _serving("b", 2.0), interference=_model(strength=6.0))
    assert made.complete
    assert set(made.slowdowns.values()) == {1.0}


@settings(max_examples=20)
@given(st.floats(-6, 2), st.floats(0, 1), st.sampled_from([None, 0.5, 0.95]))
def test_plans_with_interference_are_sound(strength: float, spread: float, quantile: float | None) -> None:
    """Whatever the model: every function is served, every placed instance told, and JSON gives back an equal plan."""
    made = _plan(
        _serving("a"), _serving("b", 2.0), interference=_model(strength, spread), quantile=quantile, time_limit_s=0.0
    )
    assert all(each.config is not None for each in made.functions)
    assert set(made.slowdowns) == set(made.placement.names)
    assert all(factor >= 1.0 for factor in made.slowdowns.values())
    assert Plan.from_json(made.to_json()) == made


def test_a_document_without_slowdowns_is_read() -> None:
    """Plans stored before there were any have none; damaged ones are refused by name."""
    document = _plan(_serving("a"), interference="default").to_dict()
    assert Plan.from_dict({k: v for k, v in document.items() if k != "slowdowns"}).slowdowns == {}
    for damage in ({"a#0": 0.5}, {"nobody#0": 1.5}, [1.0]):
        with pytest.raises(InvalidArgumentError, match=r"plan\.slowdowns"):
            Plan.from_dict({**document, "slowdowns": damage})


def test_a_bound_that_neighbours_push_over_the_budget_is_told() -> None:
    """The warning counts the instances and names the worst; within the budget there is none."""
    each = _plan(_serving("a", instances=2)).functions[0]
    assert each.config is not None
    assert each.config.upper_ms is not None
    assert each.budget_ms is not None
    over = 1.01 * each.budget_ms / each.config.upper_ms
    warned = with_slowdown_warnings(each, {"a#0": over, "a#1": 1.0})
    (warning,) = set(warned.warnings) - set(each.warnings)
    assert warning.startswith("1 of 2 instances may miss the budget of 200.0 ms beside their neighbours: a#0 by")
    assert with_slowdown_warnings(each, {"a#0": 1.0}) == each
    assert with_slowdown_warnings(replace(each, config=None), {"a#0": 9.0}).warnings == each.warnings


@given(
    items=st.lists(st.tuples(st.integers(1, 12), st.floats(0, 3)), max_size=3),
    capacity=st.integers(0, 24),
)
def test_the_heaviest_crowd_is_exact(items: list[tuple[int, float]], capacity: int) -> None:
    """The unbounded knapsack equals enumeration at every capacity."""
    found = _heaviest(np.array([value for _, value in items]), [weight for weight, _ in items], capacity)

    def most(left: int, start: int = 0) -> float:
        return max(
            (
                value + most(left - weight, i)
                for i, (weight, value) in enumerate(items[start:], start)
                if weight <= left
            ),
            default=0.0,
        )

    assert found == pytest.approx([most(room) for room in range(capacity + 1)])


def test_margins_fall_as_the_function_takes_more() -> None:
    """The more of a GPU a function takes, the less room its neighbours have."""
    specs = _serving("a"), _serving("b", 2.0)
    quotas = _plan(*specs).quotas
    configs = [quotas[spec.name] for spec in specs]
    for margin in sharing_margins(specs, configs, _tenants(specs, quotas), _model(), CAPS, 0.95):
        assert (np.diff(margin.heaviest) <= 0).all()
        assert margin.heaviest[-1] == 0.0
        assert margin.heaviest[0] > 0.0


@pytest.mark.parametrize("value", ["worst", 1.2, True, {"stall_weight": 1}])
def test_other_models_are_refused(value: object) -> None:
    """Anything but a model, its name or None is an error that names the argument."""
    with pytest.raises(InvalidArgumentError) as caught:
        _plan(_serving("a"), interference=value)
    assert caught.value.argument == "interference"


def test_a_workload_file_can_ask_for_it(tmp_path: Path) -> None:
    """`interference = "default"` in [plan] is the pooled model."""
    (tmp_path / "p.csv").write_text(
        "function,batch,sm_milli,latency_ms\n"
        + "".join(f"f,{b},{s},{5 + b * 1000 / s}\n" for b in (1, 4, 8) for s in (100, 500, 1000)),
        encoding="utf-8",
    )
    (tmp_path / "w.toml").write_text(
        'profiles = ["p.csv"]\n[plan]\ninterference = "default"\n[gpu_types.A]\nmemory_mib = 1000\n'
        '[[nodes]]\nname = "n"\ngpu_type = "A"\ngpus = 2\n'
        '[[functions]]\nname = "f"\nkind = "inference"\nslo_ms = 100\nload_rps = 10\nmemory_mib = 100\n',
        encoding="utf-8",
    )
    work = read_workload(tmp_path / "w.toml")
    assert work.options == {"interference": "default"}
    assert plan(work.functions, work.cluster, time_limit_s=0.0, **work.options).slowdowns == {"f#0": 1.0}
    (tmp_path / "w.toml").write_text("[plan]\ninterferences = 1\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"did you mean 'interference'"):
        read_workload(tmp_path / "w.toml")
