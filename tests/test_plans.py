"""Plan as a value: text, price, JSON there and back, and an answer to every corrupt document."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.cluster import Cluster, GpuType, Instance
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.errors import InvalidArgumentError
from dilu_core.gpu_bookings import gpu_bookings
from dilu_core.placement import PlacementProblem
from dilu_core.plan_tables import text_table
from dilu_core.plans import FunctionPlan, Plan
from dilu_core.plotting import plot_plan
from dilu_core.quota import QuotaConfig
from dilu_core.result import Limit, SolveStats, Termination, TerminationReason
from dilu_core.slots import Placement, Slot
from dilu_core.token_latency import LatencyCheck, TokenLatency


def _plan() -> Plan:
    """A gang, a split LLM and one function with a wide name, written down by hand; one instance found no place."""
    cluster = Cluster.homogeneous(1, 3, GpuType("A100", 40960))
    instances = (
        Instance("語#0", "inference", 300, 600, 1024, function="語"),
        Instance("語#1", "inference", 300, 600, 1024, function="語"),
        Instance("gang#0", "training", 500, 700, 10240, gpus=2, function="gang"),
        Instance("llm#0", "llm-inference", 200, 400, 50000, splittable=True, function="llm"),
    )
    placement = Placement(
        {
            "語#0": (Slot("node-0", 2, 1024),),
            "gang#0": (Slot("node-0", 0, 10240), Slot("node-0", 1, 10240)),
            "llm#0": (Slot("node-0", 0, 30000), Slot("node-0", 2, 20000)),
        }
    )
    config = QuotaConfig(8, 300, 600, 20.0, 400.0, 4000 / 3, 25.0)
    functions = (
        FunctionPlan(
            name="語", kind="inference", config=config, detail="", slo_ms=60.0, budget_ms=30.0, measured_ms=21.0,
            evidence="interpolated", limit_rps=700.0, load_rps=800.0, memory_mib=1024, instances=("語#0", "語#1"),
            whole_gpu_gpus=3,
        ),
        FunctionPlan(
            name="gang", kind="training", config=QuotaConfig(32, 500, 700, 50.0, 640.0, 1280.0), detail="one job",
            limit_rps=900.0, memory_mib=10240, gpus=2, instances=("gang#0",), whole_gpu_gpus=2, warnings=("noisy",),
        ),
        FunctionPlan(
            name="llm", kind="llm-inference", config=QuotaConfig(1, 200, 400, 9.0, 111.0, 555.0), detail="",
            slo_ms=50.0, budget_ms=25.0, limit_rps=150.0, load_rps=100.0, memory_mib=50000, instances=("llm#0",),
            whole_gpu_gpus=2, tokens=TokenLatency(
                prompt_tokens=500, output_tokens=101, ttft_prompt_tokens=900,
                ttft=LatencyCheck(slo_ms=800.0, budget_ms=400.0, latency_ms=321.0, upper_ms=345.6),
                tpot=LatencyCheck(
                    slo_ms=43.0, budget_ms=43.0, latency_ms=33.3, upper_ms=34.4, measured_ms=33.5,
                    evidence="interpolated",
                ),
            ),
        ),
        FunctionPlan(name="late", kind="inference", config=None, detail="nothing is fast enough", slo_ms=0.1),
    )  # fmt: skip
    return Plan(
        functions=functions,
        problem=PlacementProblem(cluster, instances),
        placement=placement,
        unplaced={"語#1": "no GPU has 300 milli of request left"},
        lower_bound=2,
        bound_proof="SM request total",
        gap=0.5,
        policies={"語": HorizontalParams(400.0, 300, 600, slo_ms=60.0), "llm": HorizontalParams(111.0, 200, 400)},
        termination=Termination(TerminationReason.FEASIBLE, Limit.TIME, "cut short"),
        stats=SolveStats(0.25, "cpu", {"neighbourhoods": 3}),
        price_per_gpu_hour=2.0,
    )


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, child in children for deeper in _paths(child, (*path, key)))]


DOCUMENT = json.loads(_plan().to_json())


def test_derived_figures() -> None:
    """GPUs, quotas, cost and completeness follow from the parts."""
    made = _plan()
    assert (made.gpus_used, made.whole_gpu_gpus, made.complete) == (3, 7, False)
    assert set(made.quotas) == {"語", "gang", "llm"}
    assert made.cost(2.0).saving_per_hour == 8.0
    assert made.functions[0].capacity_rps == 800.0
    assert made.functions[3].capacity_rps == 0.0


def test_a_split_instance_books_its_request_as_limit() -> None:
    """On each part the split LLM counts 200 of request and 200 of limit; the gang books both in full twice."""
    first, second, third = gpu_bookings(_plan().problem, _plan().placement)
    assert (first.request_milli, first.limit_milli, first.booked_mib) == (700, 900, 40240)
    assert (second.request_milli, second.limit_milli, second.booked_mib) == (500, 700, 10240)
    assert (third.request_milli, third.limit_milli, third.booked_mib) == (500, 800, 21024)
    assert [each.part for each in first.bookings if each.name == "llm#0"] == [1]


def test_summary_says_everything_a_person_asks() -> None:
    """Quotas, GPUs, bound with proof, gap, fragmentation, cost, and why something is missing."""
    text = _plan().summary()
    for expected in (
        "30 %", "60 %", "~21.0", "gang#0 (1/2)", "llm#0 (2/2)", "39.3/40.0 GiB", "3 of 3", "at least 2",
        "SM request total", "gap 50.0%", "57% fewer", "43.3% of SM request", "6.00 per hour against 14.00",
        "not planned    late: nothing is fast enough", "not placed     語#1: no GPU has", "note           gang: noisy",
    ):  # fmt: skip
        assert expected in text


def test_an_llm_has_a_table_of_its_objectives() -> None:
    """TTFT at the promised prompt and TPOT at the typical one, each with mean, bound, table, budget and objective."""
    rows = [line.split() for line in _plan().summary().splitlines()]
    assert ["llm", "TTFT", "900", "101", "1", "321.0", "345.6", "-", "400.0", "800.0"] in rows
    assert ["llm", "TPOT", "500", "101", "1", "33.3", "34.4", "~33.5", "43.0", "43.0"] in rows


def test_a_plan_without_phases_is_read_and_has_no_such_table() -> None:
    """A stored plan from before there were phases is still a plan."""
    document = copy.deepcopy(DOCUMENT)
    for entry in document["functions"]:
        del entry["tokens"]
    made = Plan.from_dict(document)
    assert all(each.tokens is None for each in made.functions)
    assert "Tokens" not in made.summary()


@pytest.mark.parametrize(
    ("argument", "damage"),
    [
        ("tokens.version", {"version": 7}),
        ("tokens.prompt_tokens", {"prompt_tokens": 0}),
        ("tokens.output_tokens", {"output_tokens": 1}),
        ("tokens.ttft", {"ttft": [1]}),
        ("tokens.tpot.slo_ms", {"tpot": {**DOCUMENT["functions"][2]["tokens"]["tpot"], "slo_ms": 0}}),
        ("tokens.tpot.evidence", {"tpot": {**DOCUMENT["functions"][2]["tokens"]["tpot"], "evidence": "hearsay"}}),
        ("tokens.ttft.upper_ms", {"ttft": {"slo_ms": 1.0, "budget_ms": 1.0, "latency_ms": None}}),
    ],
)
def test_damaged_objectives_are_named(argument: str, damage: dict[str, Any]) -> None:
    """What is wrong in the objectives of an LLM is named down to the field."""
    with pytest.raises(InvalidArgumentError) as caught:
        TokenLatency.from_dict({**DOCUMENT["functions"][2]["tokens"], **damage})
    assert caught.value.argument == argument


def test_objectives_are_checks() -> None:
    """A number is no objective, and a plan takes no other value for its tokens."""
    good = _plan().functions[2].tokens
    assert good is not None
    with pytest.raises(InvalidArgumentError, match=r"^tpot is 5"):
        TokenLatency(prompt_tokens=5, output_tokens=5, ttft_prompt_tokens=5, ttft=good.ttft, tpot=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"^tokens is 'fast'"):
        FunctionPlan(name="f", kind="llm-inference", config=None, detail="", tokens="fast")  # type: ignore[arg-type]


def test_wide_names_keep_columns_straight() -> None:
    """A wide character takes two columns and a combining mark none."""
    rows = text_table(("name", "n"), [("語語", "1"), ("e\u0301", "22"), ("plain", "3")]).splitlines()
    assert [row.rstrip()[-1] for row in rows[2:]] == ["1", "2", "3"]
    assert rows[2].index("1") == rows[4].index("3") - 2


def test_json_round_trip() -> None:
    """Text there and back is the same plan, compact or indented."""
    made = _plan()
    assert Plan.from_json(made.to_json()) == made
    assert Plan.from_json(made.to_json(indent=2)) == made
    assert "語" in made.to_json()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"plan"', "{}", '{"version": 1}', '{"version": 99}'])
def test_corrupt_text_is_refused(text: str) -> None:
    """Broken or foreign JSON is an error that names what is wrong, not a traceback from inside."""
    with pytest.raises(InvalidArgumentError, match=r"text|plan"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("argument", "damage"),
    [
        ("plan.placement", {"placement": {"version": 1, "slots": {}}}),
        ("plan.functions", {"functions": []}),
        ("plan.lower_bound", {"lower_bound": 0}),
        ("plan.lower_bound", {"lower_bound": 4}),
        ("plan.gap", {"gap": 0.25}),
        ("plan.policies", {"policies": {}}),
        ("plan.placement", {"unplaced": {}}),
        ("plan.stats.counts", {"stats": {"seconds": 1.0, "backend": "cpu", "counts": None}}),
        ("plan.stats.seconds", {"stats": {"seconds": float("nan"), "backend": "cpu", "counts": {}}}),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(argument: str, damage: dict[str, Any]) -> None:
    """A document whose parts are each well-formed but contradict each other names the part."""
    with pytest.raises(InvalidArgumentError) as caught:
        Plan.from_dict({**DOCUMENT, **damage})
    assert caught.value.argument == argument


def test_endless_nesting_is_refused() -> None:
    """JSON nested beyond recursion is an error about the text."""
    with pytest.raises(InvalidArgumentError, match="text is not valid JSON"):
        Plan.from_json("[" * 100_000)


def test_not_even_text() -> None:
    """Something that is no text is refused by its type."""
    with pytest.raises(InvalidArgumentError, match="text is dict; expected JSON text"):
        Plan.from_json({})  # type: ignore[arg-type]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just([{}]),
)


@given(path=st.sampled_from(_paths(DOCUMENT)[1:]), junk=JUNK, delete=st.booleans())
def test_any_damage_is_answered(path: tuple[Any, ...], junk: Any, delete: bool) -> None:
    """Replacing or deleting any part of a stored plan gives a plan that prints, or an InvalidArgumentError."""
    damaged = copy.deepcopy(DOCUMENT)
    parent = damaged
    for key in path[:-1]:
        parent = parent[key]
    if delete:
        del parent[path[-1]]
    else:
        parent[path[-1]] = junk
    with contextlib.suppress(InvalidArgumentError):
        assert Plan.from_dict(damaged).summary()


def test_the_picture_has_a_row_per_gpu() -> None:
    """Every active GPU has a row with its name, and the axis shows the cap on limits."""
    shares, memory = plot_plan(_plan()).axes
    assert [label.get_text() for label in shares.get_yticklabels()] == ["node-0/0", "node-0/1", "node-0/2"]
    assert shares.get_xlim()[1] > 150
    assert memory.get_xlim()[1] >= 40


def test_an_empty_plan_has_a_summary_and_a_picture() -> None:
    """Nothing planned on nothing is still printed and drawn."""
    empty = Plan(
        functions=(),
        problem=PlacementProblem(Cluster(()), ()),
        placement=Placement(),
        unplaced={},
        lower_bound=0,
        bound_proof="",
        gap=0.0,
        policies={},
        termination=Termination(TerminationReason.OPTIMAL),
        stats=SolveStats(0.0),
    )
    assert "no functions" in empty.summary()
    assert plot_plan(empty).axes
    assert Plan.from_json(empty.to_json()) == empty
