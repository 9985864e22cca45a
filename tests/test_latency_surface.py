"""MonotoneSurface: the laws everywhere, the envelope by brute force, interpolation by hand, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dilu_core.errors import InvalidArgumentError
from dilu_core.latency_surface import MonotoneSurface
from dilu_core.performance import LatencyModel

Table = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
FIELDS = {"batch": [1, 2], "sm_milli": [500, 1000], "latency_ms_at_knots": [[2.0, 1.0], [3.0, 1.5]]}


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Any positive table over one to five knots either way, from 1e-6 to 1e9 ms."""
    gaps = st.lists(st.floats(1e-3, 4.0), min_size=1, max_size=5)
    batch = np.exp(np.cumsum(draw(gaps)) - 2.0)
    shares = np.cumsum(draw(gaps))
    share = np.minimum(1000.0 * np.exp(shares - shares[-1]), 1000.0)
    count = batch.size * share.size
    logs = draw(st.lists(st.floats(-13.8, 20.7), min_size=count, max_size=count))
    return batch, share, np.exp(np.array(logs)).reshape(batch.size, share.size)


def lawful_table(batch: NDArray[np.float64], share: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """A table that grows by some slope in [0, 1] from each knot to the next: one roofline times another."""
    rng = np.random.default_rng(seed)
    steps = np.append(0.0, rng.random(batch.size - 1) * np.diff(np.log(batch))).cumsum()
    falls = np.append(0.0, rng.random(share.size - 1) * np.diff(np.log(share))).cumsum()
    return np.exp(rng.normal(0, 5) + steps[:, None] - falls)


def assert_lawful(model: LatencyModel, batch: NDArray[np.float64], share: NDArray[np.float64]) -> None:
    """Between ascending points the logs grow by 0 to 1 times what the log batch does, and fall so with the share."""
    latency = model.latency_ms(batch[:, None], share)
    assert np.isfinite(latency).all()
    assert (latency > 0).all()
    logs = np.log(latency)
    growth, fall = np.diff(logs, axis=0), -np.diff(logs, axis=1)
    assert (growth >= -1e-8).all()
    assert (growth <= np.diff(np.log(batch))[:, None] + 1e-8).all()
    assert (fall >= -1e-8).all()
    assert (fall <= np.diff(np.log(share)) + 1e-8).all()


def at_between_and_beyond(knots: NDArray[np.float64], greatest: float) -> NDArray[np.float64]:
    """The knots, points between them, and points far beyond either end as far as `greatest`."""
    between = [knots[:-1] ** (1 - place) * knots[1:] ** place for place in (0.1, 0.5, 0.97)]
    beyond = np.clip([knots[0] / 1e3, knots[0] / 1.7, knots[-1] * 1.7, knots[-1] * 1e6, greatest], None, greatest)
    return np.unique(np.concatenate([knots, *between, beyond]))


@given(tables())
def test_the_laws_hold_at_between_and_beyond_the_knots_of_any_table(table: Table) -> None:
    """However a table jumps, the surface that encloses it rises in the batch and falls in the share, slopes in
    [0, 1]."""
    surface = MonotoneSurface.enclosing(*table)
    assert_lawful(surface, at_between_and_beyond(surface.batch, 1e12), at_between_and_beyond(surface.sm_milli, 1000.0))


@given(tables())
def test_enclosing_is_the_envelope_it_states(table: Table) -> None:
    """By brute force: the greatest latency at a smaller batch and greater share, then the least that proportional
    growth from any such cell allows."""
    batch, share, latency = table
    cells = [(i, j) for i in range(batch.size) for j in range(share.size)]
    lifted = {(i, j): max(latency[k, m] for k, m in cells if k <= i and m >= j) for i, j in cells}
    expected = np.empty_like(latency)
    for i, j in cells:
        expected[i, j] = min(
            lifted[k, m] * (batch[i] / batch[k]) * (share[m] / share[j]) for k, m in cells if k <= i and m >= j
        )
    surface = MonotoneSurface.enclosing(batch, share, latency)
    np.testing.assert_allclose(surface.latency_ms_at_knots, expected, rtol=1e-9)
    np.testing.assert_allclose(surface.latency_ms(batch[:, None], share), expected, rtol=1e-9)


@given(tables(), st.integers(0, 10**6))
def test_a_lawful_table_is_left_as_it_is(table: Table, seed: int) -> None:
    """Neither the knots nor the latencies change, and the plain constructor takes them."""
    batch, share, _ = table
    latency = lawful_table(batch, share, seed)
    surface = MonotoneSurface.enclosing(batch, share, latency)
    np.testing.assert_allclose(surface.latency_ms_at_knots, latency, rtol=1e-12)
    np.testing.assert_array_equal(surface.batch, batch)
    np.testing.assert_array_equal(surface.sm_milli, share)
    again = MonotoneSurface.enclosing(batch, share, surface.latency_ms_at_knots)
    np.testing.assert_allclose(again.latency_ms_at_knots, surface.latency_ms_at_knots, rtol=1e-12)
    MonotoneSurface(batch, share, latency)


def test_nothing_is_promised_that_the_table_contradicts() -> None:
    """Latency that rises by 31 % with more share, as measured tables have it, lifts the smaller shares."""
    table = np.array([[10.0, 9.0, 11.79], [20.0, 16.0, 15.0]])
    surface = MonotoneSurface.enclosing([1, 2], [200, 500, 1000], table)
    assert surface.latency_ms_at_knots.tolist() == [pytest.approx([11.79] * 3), pytest.approx([20.0, 16.0, 15.0])]


def test_interpolation_is_linear_in_logs() -> None:
    """Half way in log batch and log share stands the geometric mean of the four corners."""
    surface = MonotoneSurface([1, 4], [250, 1000], [[8.0, 4.0], [16.0, 8.0]])
    assert float(surface.latency_ms(2, 500)) == pytest.approx((8 * 4 * 16 * 8) ** 0.25)
    assert float(surface.latency_ms(1, 500)) == pytest.approx((8 * 4) ** 0.5)


def test_beyond_the_table_the_laws_alone_speak() -> None:
    """Twice the batch or half the share beyond the edge takes twice as long; the other way nothing is saved."""
    surface = MonotoneSurface([2, 4], [500, 800], [[8.0, 7.0], [9.0, 7.5]])
    assert surface.latency_ms([1, 0.001], 800).tolist() == pytest.approx([7.0, 7.0])
    assert surface.latency_ms([8, 4e6], 800).tolist() == pytest.approx([15.0, 7.5e6])
    assert surface.latency_ms(2, [1000, 250, 0.5]).tolist() == pytest.approx([7.0, 16.0, 8000.0])
    assert float(surface.latency_ms(8, 250)) == pytest.approx(36.0)


@pytest.mark.parametrize(("batch", "share"), [([3], [700]), ([3], [500, 700]), ([3, 6], [700])])
def test_one_knot_is_a_table(batch: list[int], share: list[int]) -> None:
    """A single batch, a single share or both: the table inside, the laws outside."""
    table = np.full((len(batch), len(share)), 5.0)
    surface = MonotoneSurface(batch, share, table)
    assert float(surface.latency_ms(3, 700)) == pytest.approx(5.0)
    assert float(surface.latency_ms(3, share[0] / 2)) == pytest.approx(10.0)
    assert float(surface.latency_ms(2 * batch[-1], 700)) == pytest.approx(10.0)
    assert_lawful(surface, np.geomspace(0.1, 1e6, 30), np.geomspace(1.0, 1000.0, 30))


def test_arguments_broadcast() -> None:
    """The answer has the common shape: scalars of numpy, arrays without dimensions, columns and empty arrays."""
    surface = MonotoneSurface(**FIELDS)  # type: ignore[arg-type]
    assert surface.latency_ms(np.int64(1), np.float32(500)).shape == ()
    assert surface.latency_ms(np.array(2), np.array(500)).shape == ()
    assert surface.latency_ms([[1], [2]], [100, 500, 1000]).shape == (2, 3)
    assert surface.latency_ms([], []).shape == (0,)
    assert isinstance(surface, LatencyModel)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", []),
        ("batch", [2, 1]),
        ("batch", [1, 1]),
        ("batch", [0, 1]),
        ("batch", [1, np.inf]),
        ("batch", [np.nan, 1]),
        ("batch", [[1, 2]]),
        ("batch", "12"),
        ("batch", None),
        ("sm_milli", [500, 1001]),
        ("sm_milli", [0, 500]),
        ("sm_milli", 500),
        ("latency_ms_at_knots", "fast"),
        ("latency_ms_at_knots", None),
        ("latency_ms_at_knots", [1.0, 2.0]),
        ("latency_ms_at_knots", [[2.0, 1.0]]),
        ("latency_ms_at_knots", [[2.0, 1.0], [3.0]]),
        ("latency_ms_at_knots", [["2", "1"], ["3", "1.5"]]),
        ("latency_ms_at_knots", [[2.0, 0.0], [3.0, 1.5]]),
        ("latency_ms_at_knots", [[2.0, np.nan], [3.0, 1.5]]),
        ("latency_ms_at_knots", [[2.0, np.inf], [3.0, 1.5]]),
        ("latency_ms_at_knots", [[2.0, 10**400], [3.0, 1.5]]),
        ("latency_ms_at_knots", np.ma.masked_array([[2.0, 1.0], [3.0, 1.5]], [[True, False], [False, False]])),
    ],
)
def test_what_is_no_table_is_refused_by_name(field: str, value: object) -> None:
    """The constructor and `enclosing` name the argument, without a warning of numpy before it."""
    with pytest.raises(InvalidArgumentError) as caught:
        MonotoneSurface(**(FIELDS | {field: value}))  # type: ignore[arg-type]
    assert caught.value.argument == field
    renamed = {name.removesuffix("_at_knots"): kept for name, kept in (FIELDS | {field: value}).items()}
    with pytest.raises(InvalidArgumentError) as caught:
        MonotoneSurface.enclosing(**renamed)  # type: ignore[arg-type]
    assert caught.value.argument == field.removesuffix("_at_knots")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([[2.0, 1.0], [1.9, 1.0]], "falls with the batch"),
        ([[2.0, 1.0], [4.1, 2.0]], "grows faster"),
        ([[1.0, 1.1], [1.5, 1.5]], "rises with the share"),
        ([[2.1, 1.0], [3.0, 1.5]], "falls faster"),
    ],
)
def test_a_table_that_breaks_a_law_is_refused(table: list[list[float]], words: str) -> None:
    """Each of the four laws is checked; `enclosing` takes the same table."""
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        MonotoneSurface([1, 2], [500, 1000], table)
    assert caught.value.argument == "latency_ms_at_knots"
    MonotoneSurface.enclosing([1, 2], [500, 1000], table)


@pytest.mark.parametrize(
    ("batch", "share", "name"),
    [(0, 100, "batch"), (np.nan, 100, "batch"), ("a", 100, "batch"), (1, 0, "sm_milli"), (1, 1001, "sm_milli")],
)
def test_points_off_the_map_are_refused(batch: object, share: object, name: str) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidArgumentError) as caught:
        MonotoneSurface(**FIELDS).latency_ms(batch, share)  # type: ignore[arg-type]
    assert caught.value.argument == name


@given(tables())
def test_surfaces_survive_json_and_pickle(table: Table) -> None:
    """A surface read back is equal, hashes alike and refuses writes."""
    surface = MonotoneSurface.enclosing(*table)
    read = MonotoneSurface.from_dict(json.loads(json.dumps(surface.to_dict())))
    for again in (read, pickle.loads(pickle.dumps(surface))):
        assert again == surface
        assert hash(again) == hash(surface)
        for array in (again.batch, again.sm_milli, again.latency_ms_at_knots):
            assert not array.flags.writeable
    assert surface != MonotoneSurface.enclosing(table[0], table[1], 2.0 * table[2])
    assert surface != "surface"


@pytest.mark.parametrize("key", ["version", "form", "batch", "sm_milli", "latency_ms_at_knots"])
@pytest.mark.parametrize("value", ["absent", None, {}, [], "nonsense", 17, [[]], [[1, 2]]])
def test_corrupt_documents_are_refused(key: str, value: object) -> None:
    """Whichever part is missing or wrong, the error names the model."""
    document = copy.deepcopy(MonotoneSurface(**FIELDS).to_dict())  # type: ignore[arg-type]
    if value == "absent":
        del document[key]
    else:
        document[key] = value
    with pytest.raises(InvalidArgumentError, match=r"model\." + key):
        MonotoneSurface.from_dict(document)
