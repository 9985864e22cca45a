"""Interference as values: the model's promises, the samples' columns, and what their files must hold."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.errors import FileFormatError, InvalidArgumentError
from dilu_core.interference import InterferenceModel, Tenant, excess_quantile, gpu_use, stall
from dilu_core.interference_samples import InterferenceSamples, read_interference
from dilu_core.performance import RooflineModel

HEADER = "function,batch,sm_milli,co_function,co_batch,co_sm_milli,latency_ms,co_latency_ms\n"
MODEL = InterferenceModel(
    ("a", "b"),
    ((-3.0, -2.0, -2.5), (-3.5, -3.0, -3.2), (-3.1, -2.9, -3.0)),
    ((0.3, 0.2, 0.4), (0.2, 0.3, 0.4), (0.4, 0.4, 0.5)),
    stall_weight=3.0,
    use_weight=2.0,
)
fractions = st.floats(0, 1)
names = st.sampled_from(["a", "b", "elsewhere"])
tenants = st.builds(Tenant, names, fractions, fractions, fractions)


def samples(**changes: Any) -> InterferenceSamples:
    columns: dict[str, Any] = {
        "function": ["a", "a"], "batch": [1, 2], "sm_milli": [400, 500], "co_function": ["b", "c"],
        "co_batch": [4, 8], "co_sm_milli": [600, 500], "latency_ms": [5.0, 7.0], "co_latency_ms": [9.0, math.nan],
    }  # fmt: skip
    return InterferenceSamples(**{**columns, **changes})


def write(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_formula() -> None:
    """c(A, B) (1 + k stall) busy (1 + u use), summed over neighbours; unknown names are any other function."""
    victim = Tenant("a", stall=0.5)
    neighbours = [Tenant("b", use=0.25, busy=0.8), Tenant("new", use=1.0)]
    expected = 1 + math.exp(-2.0) * 2.5 * 0.8 * 1.5 + math.exp(-2.5) * 2.5 * 3.0
    assert MODEL.slowdown(victim, neighbours) == pytest.approx(expected)
    level = excess_quantile(0.9)
    bound = 1 + math.exp(-2.0 + 0.2 * level) * 2.5 * 0.8 * 1.5 + math.exp(-2.5 + 0.4 * level) * 2.5 * 3.0
    assert MODEL.upper_slowdown(victim, neighbours, 0.9) == pytest.approx(bound)


@given(victim=tenants, quantile=st.floats(0.001, 0.999))
def test_alone_is_exactly_one(victim: Tenant, quantile: float) -> None:
    """Without neighbours, or with idle ones only, nothing is slowed, to the last bit."""
    for model in (MODEL, InterferenceModel.default()):
        assert model.slowdown(victim, []) == 1.0
        assert model.upper_slowdown(victim, [Tenant("b", busy=0.0)] * 3, quantile) == 1.0


@given(victim=tenants, beside=st.lists(tenants, max_size=4), more=tenants, q=st.floats(0.5, 0.99))
def test_slowdown_rises_with_every_load(victim: Tenant, beside: list[Tenant], more: Tenant, q: float) -> None:
    """A further neighbour, or more use or busyness of one, never speeds anything up; the bound is above the mean."""
    for model in (MODEL, InterferenceModel.default()):
        fewer, with_more = model.slowdown(victim, beside), model.slowdown(victim, [*beside, more])
        assert 1.0 <= fewer <= with_more
        heavier = Tenant(more.function, more.stall, (1 + more.use) / 2, (1 + more.busy) / 2)
        assert with_more <= model.slowdown(victim, [*beside, heavier]) * (1 + 1e-12)
        assert model.upper_slowdown(victim, beside, q) >= fewer * (1 - 1e-12)
        assert model.upper_slowdown(victim, beside, q) <= model.upper_slowdown(victim, beside, (1 + q) / 2) + 1e-12


@given(
    st.builds(
        RooflineModel,
        st.floats(0.01, 100), st.floats(0, 10), st.floats(0, 10), st.floats(0, 10), st.floats(0, 10),
        st.floats(0.5, 6),
    ),
    st.integers(1, 512),
)  # fmt: skip
def test_features_are_fractions_and_use_rises_with_share(model: RooflineModel, batch: int) -> None:
    """Stall and use lie in [0, 1]; use never falls with the share, and without memory traffic is at most the share."""
    shares = np.arange(50, 1001, 50)
    waits, use = stall(model, batch, shares), gpu_use(model, batch, shares)
    assert ((waits >= 0) & (waits <= 1) & (use >= 0) & (use <= 1)).all()
    assert (np.diff(use) >= -1e-12).all()
    if model.bandwidth_ms == 0:
        assert (use <= shares / 1000 + 1e-12).all()


def test_known_features() -> None:
    """Launches stall and use nothing; computing uses the share; host time does neither."""
    launches, computes = RooflineModel(5.0, 0.0, 0.0, 0.0), RooflineModel(0.0, 0.0, 0.0, 2.0)
    host = RooflineModel(0.0, 3.0, 0.0, 0.0)
    found = [(t.stall, t.use) for t in (Tenant.of("f", model, 4, 300) for model in (launches, computes, host))]
    assert found == [(1.0, 0.0), (0.0, pytest.approx(0.3)), (0.0, 0.0)]


def test_a_model_survives_its_document() -> None:
    """to_dict and from_dict are inverse, and damage is named."""
    for model in (MODEL, InterferenceModel.default()):
        assert InterferenceModel.from_dict(model.to_dict()) == model
    with pytest.raises(InvalidArgumentError, match=r"interference_model.spread\[0\]\[1\] is -1"):
        InterferenceModel.from_dict({**MODEL.to_dict(), "spread": [[0, -1, 0]] + [[0, 0, 0]] * 2})
    with pytest.raises(InvalidArgumentError, match="use_weight is missing"):
        InterferenceModel.from_dict({k: v for k, v in MODEL.to_dict().items() if k != "use_weight"})


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("functions", {"functions": "ab"}),
        ("functions[1]", {"functions": ("a", "a")}),
        ("log_scale", {"log_scale": ((0.0,),)}),
        ("log_scale", {"log_scale": "wide"}),
        ("log_scale[0][0]", {"log_scale": ((math.nan, 0, 0),) * 3}),
        ("spread[0][0]", {"spread": ((math.inf, 0, 0),) * 3}),
        ("log_scale", {"log_scale": ((10**400, 0, 0),) * 3}),
        ("stall_weight", {"stall_weight": -0.1}),
        ("stall_weight", {"stall_weight": 10**400}),
        ("use_weight", {"use_weight": math.inf}),
    ],
)
def test_bad_models_are_named(argument: str, changes: dict[str, Any]) -> None:
    """Each bad field raises an error that names it."""
    with pytest.raises(InvalidArgumentError) as caught:
        InterferenceModel(**{**{k: v for k, v in MODEL.to_dict().items() if k != "version"}, **changes})
    assert caught.value.argument == argument


def test_bad_calls_are_named() -> None:
    """Fractions beyond 1, impossible quantiles and things that are no tenants are refused by name."""
    for argument, call in (
        ("use", lambda: Tenant("a", use=1.5)),
        ("stall", lambda: MODEL.excess("a", -0.1, "b", 0.5)),
        ("use", lambda: MODEL.excess("a", 0.1, "b", [0.5, math.nan])),
        ("stall", lambda: MODEL.excess("a", "x", "b", 0.5)),
        ("busy", lambda: MODEL.excess("a", 0.1, "b", 0.5, busy=10**400)),
        ("use", lambda: MODEL.excess("a", 0.1, "b", [[0.5], [0.5, 0.5]])),  # type: ignore[arg-type]
        ("use", lambda: MODEL.excess("a", [0.1, 0.2], "b", [0.5] * 3)),
        ("busy", lambda: MODEL.excess("a", [0.1, 0.2], "b", 0.5, busy=[0.5] * 3)),
        ("quantile", lambda: MODEL.upper_slowdown(Tenant("a"), [], 1.0)),
        ("tenant", lambda: MODEL.slowdown("a", [])),  # type: ignore[arg-type]
        ("neighbours[0]", lambda: MODEL.slowdown(Tenant("a"), ["b"])),  # type: ignore[list-item]
        ("model", lambda: Tenant.of("a", "roofline", 1, 100)),  # type: ignore[arg-type]
        ("sm_milli", lambda: Tenant.of("a", RooflineModel(1, 0, 0, 0), 1, 0)),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            call()
        assert caught.value.argument == argument


def test_fractions_broadcast() -> None:
    """Whole numbers, columns and rows combine as numpy's do, each cell as on its own."""
    stalls, uses = np.array([[0.0], [0.5]]), [0.0, 0.25, 1.0]
    table = MODEL.excess("a", stalls, "b", uses, busy=1)
    alone = [[float(MODEL.excess("a", float(s), "b", u)) for u in uses] for s in stalls[:, 0]]
    assert table == pytest.approx(np.array(alone))


def test_documents_name_numbers_beyond_every_float() -> None:
    """JSON integers have no end; one that no float holds is refused by the name of its field."""
    for field, value in (("spread", [[10**400] * 3] * 3), ("use_weight", 10**400)):
        with pytest.raises(InvalidArgumentError) as caught:
            InterferenceModel.from_dict({**MODEL.to_dict(), field: value})
        assert caught.value.argument == f"interference_model.{field}"


def test_quantiles_rise() -> None:
    """The calibrated quantile is increasing, from the tails on beyond the table."""
    levels = [excess_quantile(q) for q in np.linspace(0.001, 0.999, 200)]
    assert (np.diff(levels) >= 0).all()
    assert levels[0] < 0 < levels[-1]


def test_both_directions_are_measurements() -> None:
    """A row with both latencies is two measurements, a row without the neighbour's is one."""
    rows = samples().directed()
    assert rows.function == ("a", "a", "b")
    assert rows.co_function == ("b", "c", "a")
    assert (rows.batch.tolist(), rows.co_sm_milli.tolist()) == ([1, 2, 4], [600, 500, 400])
    assert rows.latency_ms.tolist() == [5.0, 7.0, 9.0]
    assert rows.directed() == rows


def test_samples_survive_documents_pickles_and_selection() -> None:
    """Round trips are the identity, columns stay read-only, and picking all rows changes nothing."""
    whole = samples()
    assert InterferenceSamples.from_dict(whole.to_dict()) == whole
    again = pickle.loads(pickle.dumps(whole))
    assert again == whole
    assert not again.latency_ms.flags.writeable
    assert whole.select([0, 1]) == whole
    assert whole.select(np.array([False, True])).function == ("a",)
    assert len(InterferenceSamples((), [], [], (), [], [], [])) == 0


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("function[0]", {"function": ["", "a"]}),
        ("function", {"function": "ab"}),
        ("batch[1]", {"batch": [1, 0]}),
        ("co_sm_milli[0]", {"co_sm_milli": [1001, 5]}),
        ("latency_ms[1]", {"latency_ms": [1.0, math.nan]}),
        ("co_latency_ms[0]", {"co_latency_ms": [0.0, 1.0]}),
        ("co_batch", {"co_batch": [1]}),
        ("dropped", {"dropped": -1}),
    ],
)
def test_bad_samples_are_named(argument: str, changes: dict[str, Any]) -> None:
    """Each bad column raises an error that names it and the row."""
    with pytest.raises(InvalidArgumentError) as caught:
        samples(**changes)
    assert caught.value.argument == argument


def test_published_headers_are_read(tmp_path: Path) -> None:
    """Models, fractions of a GPU with float noise, and failures of either side."""
    text = (
        "gpu,model,batch,sm_share,co_model,co_batch,co_sm_share,latency_ms,co_latency_ms\n"
        "V,a,1,0.8,b,2,0.19999999999999996,5,6\nV,a,1,0.5,b,2,0.5,-1,6\nV,a,1,0.5,b,2,0.5,5,9999\n"
    )
    found = read_interference(write(tmp_path, text))
    assert found.co_sm_milli.tolist() == [200, 500]
    assert found.gpu_type == "V"
    assert found.dropped == 1
    assert found.co_latency_ms is not None
    assert np.isnan(found.co_latency_ms).tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER, "no measurement in it"),
        ("function,batch\n", "pairs.csv:1: no column co_function, co_batch, latency_ms"),
        ("model," + HEADER, "column function stands twice"),
        (HEADER + "a,1,100,b,1,900\n", "pairs.csv:2: 6 fields under a header of 8"),
        (HEADER + "a,1,100,,1,900,5,6\n", "co_function is empty"),
        (HEADER + "a,1,0.1,b,1,900,5,6\n", "sm_milli is '0.1'; expected a whole number"),
        (HEADER + "a,1,100,b,one,900,5,6\n", "co_batch is 'one'; expected a number"),
        (HEADER + "a,1,100,b,1,900,-1,6\n", "no measurement in it (1 failed)"),
        (HEADER.replace("co_sm_milli", "co_share") + "a,1,100,b,1,900,5,6\n", "one of the columns co_sm_milli and"),
        (HEADER.replace("co_sm_milli", "co_sm_share") + "a,1,100,b,1,900,5,6\n", "co_sm_share is '900'; expected a fr"),
        (HEADER.replace("co_sm_milli", "co_sm_share") + "a,1,100,b,1,1e-14,5,6\n", "co_sm_share is '1e-14'"),
        (HEADER.replace("co_sm_milli", "co_sm_share") + "a,1,100,b,1,,5,6\n", "co_sm_share is ''"),
        ("gpu," + HEADER + "V,a,1,100,b,1,900,5,6\nA,a,1,100,b,1,900,5,6\n", "pairs.csv:3: measured on 'A'"),
    ],
)
def test_bad_files_get_one_sentence_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    """Path, line and what was expected, in one line."""
    with pytest.raises(FileFormatError) as caught:
        read_interference(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_gpu_type_can_be_chosen(tmp_path: Path) -> None:
    """Rows of other types are left aside, and a type that is not there says so."""
    path = write(tmp_path, "gpu," + HEADER + "V,a,1,100,b,1,900,5,6\nA,a,1,100,b,1,900,7,6\n")
    assert read_interference(path, gpu_type="A").latency_ms.tolist() == [7.0]
    with pytest.raises(FileFormatError, match="no measurement with gpu_type='H100'"):
        read_interference(path, gpu_type="H100")


def test_the_published_pairs_are_read_whole(data_dir: Path) -> None:
    """Every row of the measured table is there, with shares that add up to a GPU."""
    found = read_interference(data_dir / "interference" / "igniter_v100_pairs.csv")
    assert len(found) == 750
    assert (found.sm_milli + found.co_sm_milli == 1000).all()
    assert len(found.directed()) == 1500
