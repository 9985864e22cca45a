"""A GPU budget goes where it saves most, keeps every minimum it can, and is provably close to the optimum."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core.coscaling.budget import BudgetAsk, instance_value, share_budget
from dilu_core.errors import InvalidArgumentError


def ask(name: str = "a", **changes: Any) -> BudgetAsk:
    fields = {"planned": 0, "wanted": 5, "minimum": 0, "request_milli": 300, "load_rps": 50.0}
    return BudgetAsk(name, **{**fields, "capacity_rps": 10.0, "burst_capacity_rps": 10.0, **changes})


@st.composite
def asks(draw: Any, most: int = 4, same_size: bool = False) -> list[BudgetAsk]:
    size = draw(st.sampled_from([200, 300, 1000]))
    found = []
    for i in range(draw(st.integers(1, 3))):
        capacity = draw(st.sampled_from([5.0, 10.0, 12.5]))
        found.append(
            BudgetAsk(
                f"f{i}",
                planned=draw(st.integers(0, most)),
                wanted=draw(st.integers(0, most)),
                minimum=draw(st.integers(0, 2 if most < 10 else most)),
                request_milli=size if same_size else draw(st.sampled_from([100, 250, 300, 400, 1000])),
                load_rps=draw(st.one_of(st.none(), st.floats(0, 80))),
                capacity_rps=capacity,
                burst_capacity_rps=capacity * draw(st.sampled_from([1.0, 1.5, 2.0])),
                weight=draw(st.sampled_from([0.5, 1.0, 3.0])),
            )
        )
    return found


def worth(one: BudgetAsk, count: int) -> float:
    """The value of `count` instances above the minimum, straight from the formula in the module."""
    load = one.planned * one.capacity_rps if one.load_rps is None else one.load_rps

    def served(n: int) -> float:
        return 0.5 * min(load, n * one.capacity_rps) + 0.5 * min(load, n * one.burst_capacity_rps)

    def between(first: int, last: int) -> float:
        return max(0.0, served(last) - served(min(first, last)))

    existing = min(count, one.planned)
    return one.weight * (1.25 * between(one.minimum, existing) + between(max(one.minimum, existing), count))


def optimum(found: list[BudgetAsk], budget: int) -> float:
    """The greatest value of any division that keeps the minima, by trying all."""
    best = -math.inf
    for counts in itertools.product(*(range(one.minimum, one.most + 1) for one in found)):
        if sum(n * one.request_milli for n, one in zip(counts, found, strict=True)) <= budget:
            best = max(best, sum(worth(one, n) for n, one in zip(counts, found, strict=True)))
    return best


@given(asks(), st.integers(0, 6000))
def test_the_budget_and_the_wishes_are_kept(found: list[BudgetAsk], budget: int) -> None:
    """Never more than the budget, never more than wanted, never less than the minimum where all minima fit."""
    shares = share_budget(found, budget)
    assert shares.used_milli == sum(shares[one.name] * one.request_milli for one in found) <= budget
    assert shares.minima_fit == (sum(one.minimum * one.request_milli for one in found) <= budget)
    for one in found:
        got = shares.shares[one.name]
        assert got.instances <= one.most
        assert (got.clipped_by == "budget") == (got.instances < one.most)
        assert got.reason
        if shares.minima_fit:
            assert got.instances >= one.minimum
        else:
            assert got.instances <= one.minimum
            assert got.instances == one.minimum == one.most or "minima exceed" in got.reason


@given(asks(), st.integers(0, 6000))
def test_it_is_the_optimum_but_for_the_first_refused_instance(found: list[BudgetAsk], budget: int) -> None:
    """The value is at most one instance's worth below the exhaustive optimum, and the bound is not below that."""
    shares = share_budget(found, budget)
    if not shares.minima_fit:
        return
    best = optimum(found, budget)
    assert shares.value == pytest.approx(sum(worth(one, shares[one.name]) for one in found))
    assert shares.value <= best + 1e-9
    assert best <= shares.bound + 1e-9
    refused = [instance_value(one, shares[one.name] + 1) for one in found if shares[one.name] < one.most]
    dearest = max((instance_value(one, n) for one in found for n in range(1, one.most + 1)), default=0.0)
    assert shares.bound - shares.value <= (dearest if refused else 0.0) + 1e-9
    assert best - shares.value <= dearest + 1e-9


def one_by_one(found: list[BudgetAsk], budget: int, trust: float, keep: float) -> tuple[dict[str, int], float, float]:
    """Instances, value and bound by the rule of the docstring, an instance at a time."""
    left = budget - sum(one.minimum * one.request_milli for one in found)
    cut = left < 0
    given = {one.name: 0 if cut else one.minimum for one in found}
    left, value, bound = budget if cut else left, 0.0, None

    def key(one: BudgetAsk) -> tuple[float, bool, float, str]:
        count = given[one.name] + 1
        if cut:
            return count * one.request_milli / one.weight, False, 0.0, one.name
        value = instance_value(one, count, burst_trust=trust, keep=keep)
        return -value / one.request_milli, count > one.planned, count / one.most, one.name

    asking = list(found)
    while asking := [one for one in asking if given[one.name] < (one.minimum if cut else one.most)]:
        one = min(asking, key=key)
        more = 0.0 if cut else instance_value(one, given[one.name] + 1, burst_trust=trust, keep=keep)
        if one.request_milli > left:
            asking.remove(one)
            bound = value + more * left / one.request_milli if bound is None and not cut else bound
            continue
        given[one.name], left, value = given[one.name] + 1, left - one.request_milli, value + more
    return given, value, value if bound is None else bound


@settings(max_examples=150)
@given(
    st.sampled_from([3, 40, 200]).flatmap(lambda most: asks(most)),
    st.sampled_from([0.2, 0.7, 0.95, 1.2]),
    st.sampled_from([0, 1, 777, 10_000]),
    st.sampled_from([(0.5, 1.25), (0.0, 1.0), (1.0, 3.0)]),
)
def test_it_is_what_giving_one_by_one_comes_to(
    found: list[BudgetAsk], part: float, more: int, settings_: tuple[float, float]
) -> None:
    """Whatever is met at once, the division is that of the queue, to the instance, and so are value and bound."""
    budget = int(part * sum(one.most * one.request_milli for one in found)) + more
    given, value, bound = one_by_one(found, budget, *settings_)
    shares = share_budget(found, budget, burst_trust=settings_[0], keep=settings_[1])
    assert {one.name: shares[one.name] for one in found} == given
    assert (shares.value, shares.bound) == (pytest.approx(value), pytest.approx(bound))
    assert shares.bound >= shares.value


def test_a_wish_of_any_size_is_divided() -> None:
    """A trillion instances take as long as a thousand: of one function, of alike, after a refusal, of minima."""
    many, unit = 2**40, {"load_rps": None, "request_milli": 1}
    assert share_budget([ask(wanted=many)], 300 * 10**12)["a"] == 10**12
    shares = share_budget([ask(name, wanted=many) for name in "ab"], 300 * (10**12 + 1))
    assert (shares["a"], shares["b"]) == (10**12 // 2 + 1, 10**12 // 2)
    dear = ask("dear", wanted=3, request_milli=2 * many, weight=1e15)
    shares = share_budget([dear, ask("cheap", wanted=many * 4, **unit)], 5 * many)
    assert (shares["dear"], shares["cheap"], shares.used_milli) == (2, many, 5 * many)
    shares = share_budget([ask(name, minimum=many, **unit) for name in "ab"], many + 1)
    assert (shares["a"], shares["b"], shares.minima_fit) == (many // 2 + 1, many // 2, False)


@given(asks(same_size=True), st.integers(0, 6000))
def test_it_is_the_optimum_where_all_instances_are_of_one_size(found: list[BudgetAsk], budget: int) -> None:
    """Greedy is exact there."""
    shares = share_budget(found, budget)
    if shares.minima_fit:
        assert shares.value == pytest.approx(optimum(found, budget))


@given(asks(), st.integers(0, 6000), st.randoms())
def test_the_order_of_asks_does_not_matter(found: list[BudgetAsk], budget: int, random: Any) -> None:
    """Ties are settled by what is asked and by name."""
    shuffled = list(found)
    random.shuffle(shuffled)
    first, second = share_budget(found, budget), share_budget(shuffled, budget)
    assert {one.name: first[one.name] for one in found} == {one.name: second[one.name] for one in found}


@given(asks(), st.integers(0, 6000), st.integers(0, 2000))
def test_a_greater_budget_is_never_worth_less_to_the_bound(found: list[BudgetAsk], budget: int, more: int) -> None:
    """The bound grows with the budget, and a budget for all wishes grants all of them."""
    smaller, greater = share_budget(found, budget), share_budget(found, budget + more)
    if smaller.minima_fit:
        assert greater.bound >= smaller.bound - 1e-9
    everything = share_budget(found, sum(one.most * one.request_milli for one in found))
    assert all(everything.shares[one.name].clipped_by is None for one in found)
    assert everything.value == pytest.approx(everything.bound)


@given(asks(most=6))
def test_every_further_instance_is_worth_no_more_than_the_one_before(found: list[BudgetAsk]) -> None:
    """The value is concave, which the guarantee rests on."""
    for one in found:
        values = [instance_value(one, n) for n in range(1, 12)]
        assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))


def test_it_goes_where_it_saves_most():
    """The function with more requests per milli-GPU at stake gets its wish first; weight turns that round."""
    dear, cheap = ask("dear", request_milli=600), ask("cheap", request_milli=300)
    shares = share_budget([dear, cheap], 1800)
    assert (shares["cheap"], shares["dear"]) == (5, 0)
    assert shares.shares["dear"].clipped_by == "budget"
    assert "worth more elsewhere" in shares.shares["dear"].reason
    shares = share_budget([replace(dear, weight=3.0), cheap], 1800)
    assert (shares["cheap"], shares["dear"]) == (0, 3)


def test_equals_share_evenly_and_by_name():
    """Five instances for two like functions that want five each are three and two."""
    shares = share_budget([ask("b"), ask("a")], budget_gpus=1.5)
    assert (shares["a"], shares["b"]) == (3, 2)


def test_what_exists_stays_unless_another_is_clearly_better():
    """Small differences move no instance, great ones do."""
    here, there = ask("z", planned=5), ask("a")
    assert share_budget([here, there], 1500)["z"] == 5
    assert share_budget([here, replace(there, weight=1.2)], 1500)["z"] == 5
    assert share_budget([here, replace(there, weight=1.3)], 1500)["z"] == 0
    assert share_budget([here, replace(there, weight=1.2)], 1500, keep=1.0)["z"] == 0


def test_the_last_instances_of_one_are_worth_less_than_the_first_of_another():
    """Where bursting may cover the rest, five existing instances of one give two up to a function that has none."""
    shares = share_budget([ask("z", planned=5, burst_capacity_rps=20.0), ask("a", burst_capacity_rps=20.0)], 1500)
    assert (shares["z"], shares["a"]) == (3, 2)


def test_an_unknown_load_is_not_zero():
    """What exists is taken to be busy; it is not given away to a function of which the load is known."""
    shares = share_budget([ask("dark", planned=3, wanted=3, load_rps=None), ask("lit", load_rps=50.0)], 1500)
    assert shares["dark"] == 3


def test_minima_beyond_the_budget_are_cut_by_weight():
    """Four instances fit of six: evenly for equals, in proportion for weights, and the answer says so."""
    two = [ask("a", minimum=3), ask("b", minimum=3)]
    shares = share_budget(two, 1200)
    assert (shares["a"], shares["b"], shares.minima_fit) == (2, 2, False)
    assert "minima exceed the budget of 1200" in shares.shares["a"].reason
    assert (shares.shares["a"].clipped_by, shares.value, shares.bound) == ("budget", 0.0, 0.0)
    shares = share_budget([two[0], replace(two[1], weight=3.0)], 1200)
    assert (shares["a"], shares["b"]) == (1, 3)


def test_a_minimum_above_the_wish_is_kept_and_named():
    """Who wants one but must have two has two."""
    share = share_budget([ask(wanted=1, minimum=2)], 5000).shares["a"]
    assert (share.instances, share.clipped_by) == (2, None)
    assert "its minimum above the 1 wanted" in share.reason
    held = share_budget([ask(minimum=2)], 600).shares["a"]
    assert "(this is the minimum)" in held.reason


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: share_budget([ask()]), "budget_milli"),
        (lambda: share_budget([ask()], 1, budget_gpus=1.0), "budget_milli"),
        (lambda: share_budget([ask()], -1), "budget_milli"),
        (lambda: share_budget([ask()], budget_gpus=math.nan), "budget_gpus"),
        (lambda: share_budget([ask(), ask()], 1), r"asks\[1\] repeats"),
        (lambda: share_budget([1], 1), r"asks\[0\]"),  # type: ignore[list-item]
        (lambda: share_budget([], 1, keep=0.9), "keep"),
        (lambda: share_budget([], 1, burst_trust=1.1), "burst_trust"),
        (lambda: ask(""), "name"),
        (lambda: ask(wanted=-1), "wanted"),
        (lambda: ask(request_milli=0), "request_milli"),
        (lambda: ask(load_rps=math.inf), "load_rps"),
        (lambda: ask(capacity_rps=0.0), "capacity_rps"),
        (lambda: ask(burst_capacity_rps=9.0), "burst_capacity_rps"),
        (lambda: ask(weight=0.0), "weight"),
    ],
)
def test_misuse_is_refused_by_name(make: Any, named: str) -> None:
    """Every argument out of its bounds is an InvalidArgumentError that names it."""
    with pytest.raises(InvalidArgumentError, match=named):
        make()
