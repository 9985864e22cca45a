"""Functions under one budget: what is planned stays within it, and whoever fits it alone is left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.coscaling.budgeted import BudgetedScaler, BudgetedState
from dilu_core.coscaling.horizontal import CoScaler, HorizontalParams
from dilu_core.coscaling.policy import Observation, ScalingDecision, ScalingReason
from dilu_core.coscaling.staged import StagedPolicy
from dilu_core.errors import InvalidArgumentError
from dilu_core.simulated_host import SimulatedHost


def params(**changes: Any) -> HorizontalParams:
    return HorizontalParams(10.0, 300, 600, **{"window_s": 20, "scale_in_cooldown_s": 5.0, **changes})


def scaler(names: str = "ab", budget_milli: int = 3000, **changes: Any) -> BudgetedScaler:
    return BudgetedScaler({name: CoScaler(params(**changes)) for name in names}, budget_milli)


def seen(time_s: float, load: float | None, ready: int | None = 1, starting: int | None = 0) -> Observation:
    return Observation(time_s, load, ready, starting)


class Hosts:
    """A host in memory for each function, and their decisions carried out together."""

    def __init__(self, budgeted: BudgetedScaler, ready: dict[str, int]) -> None:
        self.budgeted, self.states = budgeted, budgeted.initial_states()
        self.hosts = {name: SimulatedHost(ready=count) for name, count in ready.items()}
        self.changes: dict[str, list[int]] = {name: [] for name in ready}

    def step(self, **loads: float | None) -> dict[str, ScalingDecision]:
        for name, host in self.hosts.items():
            host.offer(loads.get(name))
            host.advance(1.0)
        observed = {name: host.observe() for name, host in self.hosts.items()}
        decisions, self.states = self.budgeted.decide(self.states, observed)
        for name, decision in decisions.items():
            self.hosts[name].apply(decision)
            if decision.change:
                self.changes[name].append(decision.change)
        return decisions

    @property
    def planned(self) -> dict[str, int]:
        return {name: host.planned for name, host in self.hosts.items()}


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5), st.integers(0, 2)), max_size=30))
def test_an_ample_budget_changes_nothing(rows: list[tuple[float, int, int]]) -> None:
    """With room for the maximum of all, decisions and states are those of the policies alone."""
    alone, together = CoScaler(params()), scaler(budget_milli=2 * 100 * 300)
    state, states = alone.initial_state(), together.initial_states()
    for second, (load, ready, starting) in enumerate(rows):
        observed = seen(float(second), load, ready, starting)
        decision, state = alone.decide(state, observed)
        decisions, states = together.decide(states, {"a": observed, "b": observed})
        assert decisions == {"a": decision, "b": decision}
        assert {name: one.inner for name, one in states.items()} == {"a": state, "b": state}


@given(
    st.integers(0, 4000),
    st.lists(st.tuples(st.floats(0, 200), st.floats(0, 200), st.floats(0, 200)), min_size=1, max_size=25),
)
def test_what_is_planned_stays_within_the_budget(budget: int, rows: list[tuple[float, float, float]]) -> None:
    """From nothing, over any loads, the reservations of all functions never exceed the budget."""
    hosts = Hosts(scaler("abc", budget, min_instances=0), {"a": 0, "b": 0, "c": 0})
    for row in rows:
        decisions = hosts.step(**dict(zip("abc", row, strict=True)))
        assert sum(hosts.planned.values()) * 300 <= budget
        for decision in decisions.values():
            assert decision.clipped_by in (None, "budget", "max_instances")


def test_the_budget_clips_and_says_so():
    """Two functions that need nine each share ten evenly; the reason stays the policy's, the bound is named."""
    hosts = Hosts(scaler(budget_milli=3000), {"a": 1, "b": 1})
    for _ in range(2):
        hosts.step(a=100.0, b=100.0)
    decisions = hosts.step(a=100.0, b=100.0)
    assert hosts.planned == {"a": 5, "b": 5}
    assert {one.clipped_by for one in decisions.values()} == {"budget"}
    assert "alone: the load needs" in decisions["a"].detail
    assert decisions["a"].reason is ScalingReason.LOAD


def test_constant_loads_beyond_the_budget_never_turn_round():
    """Ten minutes of three loads that do not fit: each function moves one way and stands."""
    hosts = Hosts(scaler("abc", 3100), {"a": 1, "b": 4, "c": 2})
    for _ in range(600):
        hosts.step(a=50.0, b=50.0, c=43.0)
    for changes in hosts.changes.values():
        assert not (any(change > 0 for change in changes) and any(change < 0 for change in changes))
    assert sum(hosts.planned.values()) == 10


def test_a_smaller_budget_takes_the_least_valuable_away():
    """Nine instances under a budget of six: the function without load goes to its minimum first."""
    states = scaler(budget_milli=1800).initial_states()
    observed = {"a": seen(1.0, 50.0, ready=5), "b": seen(1.0, 5.0, ready=4)}
    decisions, _ = scaler(budget_milli=1800).decide(states, observed)
    assert (decisions["a"].change, decisions["b"].change) == (0, -3)
    assert (decisions["b"].reason, decisions["b"].clipped_by) == (ScalingReason.ABOVE_MAXIMUM, "budget")


@pytest.mark.parametrize("lost", ["arrivals_rps", "time_s", "ready"])
def test_a_function_of_which_nothing_is_known_keeps_its_instances(lost: str):
    """Its instances stay, are taken off the budget first, and nobody else may plan with them."""
    hosts = Hosts(scaler(budget_milli=3000), {"a": 5, "b": 1})
    hosts.step(a=50.0, b=9.0)
    dark = seen(2.0, 50.0, ready=5)
    dark = Observation(*[None if name == lost else getattr(dark, name) for name in dark.__slots__])
    decisions, states = hosts.budgeted.decide(hosts.states, {"a": dark, "b": seen(2.0, 200.0)})
    assert decisions["a"].change == 0
    assert decisions["b"].instances == 5
    assert states["a"].planned == 5
    assert hosts.budgeted.decide(hosts.states, {"b": seen(2.0, 200.0)})[0]["b"].instances == 5


def test_a_failing_policy_and_a_watching_one_lose_nothing():
    """A budget cut spares functions whose policy may not act or does not know."""

    class Broken:
        params = params()

        def initial_state(self) -> Any:
            return {}

        def decide(self, state: Any, observation: Observation) -> Any:
            raise ValueError("no")

    more = CoScaler(params())
    policies = {
        "failing": StagedPolicy(Broken(), "enforce"),
        "fallback": StagedPolicy(Broken(), "enforce", fallback=more, fallback_after=1),
        "watching": StagedPolicy(more, "observe"),
        "free": more,
    }
    budgeted = BudgetedScaler(policies, 3300)
    observed = {name: seen(1.0, 5.0, ready=3) for name in policies}
    decisions, _ = budgeted.decide(budgeted.initial_states(), observed)
    assert {name: one.change for name, one in decisions.items()} == {
        "failing": 0,
        "fallback": 0,
        "watching": 0,
        "free": -1,
    }


def test_a_count_that_is_not_known_is_never_changed():
    """Even a policy that insists cannot launch into the unknown."""

    class Insisting:
        params = params()

        def initial_state(self) -> Any:
            return {}

        def decide(self, state: Any, observation: Observation) -> Any:
            return ScalingDecision(9, 4, ScalingReason.LOAD), state

    budgeted = BudgetedScaler({"a": Insisting()}, 9000)
    decisions, _ = budgeted.decide(budgeted.initial_states(), {"a": seen(1.0, 5.0, ready=None)})
    assert (decisions["a"].instances, decisions["a"].change) == (None, 0)


def test_gangs_and_weights_count():
    """A gang of two takes its request twice; the heavier function comes first."""
    policies = {name: CoScaler(params(min_instances=0)) for name in "ab"}
    budgeted = BudgetedScaler(policies, budget_gpus=3, gpus={"b": 2}, weights={"b": 5.0})
    decisions, _ = budgeted.decide(
        budgeted.initial_states(), {"a": seen(1.0, 36.0, ready=0), "b": seen(1.0, 36.0, ready=0)}
    )
    assert (decisions["a"].instances, decisions["b"].instances) == (3, 3)
    light = BudgetedScaler(policies, budget_gpus=3, gpus={"b": 2})
    decisions, _ = light.decide(light.initial_states(), {name: seen(1.0, 90.0, ready=0) for name in "ab"})
    assert (decisions["a"].instances, decisions["b"].instances) == (6, 2)  # the last of a are worth less than b's first


@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(0, 200)), st.floats(0, 200)), min_size=1, max_size=20))
def test_a_restart_mid_run_changes_no_decision(rows: list[tuple[float | None, float]]) -> None:
    """The states through JSON text after every step lead to the same decisions; the order of names does not matter."""
    budgeted = BudgetedScaler({"a": StagedPolicy(CoScaler(params()), "enforce"), "b": CoScaler(params())}, 2000)
    kept = restored = budgeted.initial_states()
    ready = {"a": 1, "b": 1}
    for second, row in enumerate(rows):
        text = json.dumps({name: one.to_dict() for name, one in restored.items()}, allow_nan=False)
        restored = dict(reversed(budgeted.restore_states(json.loads(text)).items()))
        observed = {name: seen(float(second), load, ready[name]) for name, load in zip("ab", row, strict=True)}
        first, kept = budgeted.decide(kept, observed)
        second_time, restored = budgeted.decide(restored, dict(reversed(observed.items())))
        assert first == second_time
        assert kept == restored
        ready = {name: ready[name] + one.change for name, one in first.items()}


def anything(value: Any) -> Any:
    """`value`, hidden from type checkers that would refuse the misuse under test."""
    return value


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda odd: BudgetedScaler(odd, 1), "policies"),
        (lambda odd: BudgetedScaler({"a": odd}, 1), r"policies\['a'\]"),
        (lambda odd: BudgetedScaler({"": CoScaler(params())}, 1), r"policies\[0\]"),
        (lambda odd: scaler(budget_milli=-1), "budget_milli"),
        (lambda odd: BudgetedScaler({"a": StagedPolicy(Dumb())}, 1), r"params\['a'\]"),
        (lambda odd: BudgetedScaler({"a": CoScaler(params())}, 1, params={"b": params()}), "params has no policy"),
        (lambda odd: BudgetedScaler({"a": CoScaler(params())}, 1, weights={"a": 0.0}), r"weights\['a'\]"),
        (lambda odd: BudgetedScaler({"a": CoScaler(params())}, 1, gpus={"a": 0}), r"gpus\['a'\]"),
        (lambda odd: BudgetedScaler({"a": CoScaler(params())}, 1, gpus=odd), "gpus is"),
        (lambda odd: BudgetedScaler({"a": CoScaler(params())}, 1, weights=anything([1.0])), "weights is"),
        (lambda odd: BudgetedScaler({"a": CoScaler(params())}, 1, params=anything(params())), "params is"),
        (lambda odd: BudgetedScaler({"a": CoScaler(params())}, 1, weights=anything({odd: 1, "b": 1})), "weights has"),
        (lambda odd: BudgetedScaler({"a": anything(CoScaler)}, 1), r"policies\['a'\] is .*It is a class"),
        (lambda odd: BudgetedScaler({"a": CoScaler(params())}, 1, params={"a": odd}), r"params\['a'\]"),
        (lambda odd: scaler("a").decide({"a": anything(None)}, {}), r"states\['a'\] is None"),
        (lambda odd: scaler("a").decide({"a": anything(GOOD)}, {}), r"states\['a'\] is"),
        (lambda odd: scaler("a").decide(anything(None), {}), "states is None"),
        (lambda odd: scaler("a").decide(scaler("a").initial_states(), anything(None)), "observations is None"),
        (lambda odd: scaler("a").restore_states({"a": anything(None)}), r"data\['a'\]"),
        (lambda odd: BudgetedScaler({"a": CoScaler(params())}, 1, keep=0.5), "keep"),
        (lambda odd: scaler().decide({}, {}), "states has no policy for .* lacks"),
        (lambda odd: scaler().decide(odd, {}), "states is"),
        (lambda odd: scaler().decide(scaler().initial_states(), {"c": seen(1.0, 1.0)}), "observations has no policy"),
        (lambda odd: scaler().restore_states({"a": {}, "b": {}}), r"data\['a'\]"),
        (lambda odd: scaler("a").restore_states({"a": {**GOOD, "planned": -1}}), r"data\['a'\].planned"),
    ],
)
def test_misuse_is_refused_by_name(make: Any, named: str) -> None:
    """Whatever is mixed up is an InvalidArgumentError that names it."""
    with pytest.raises(InvalidArgumentError, match=named):
        make(object())


class Dumb:
    """A policy that nobody described."""

    def initial_state(self) -> Any:
        return {}

    def decide(self, state: Any, observation: Observation) -> Any:
        raise NotImplementedError


GOOD = BudgetedState(CoScaler(params()).initial_state()).to_dict()


def test_it_says_what_it_is():
    """Names and budget stand in the repr; the params of a foreign policy can be given."""
    assert repr(scaler()) == "BudgetedScaler(['a', 'b'], 3000)"
    assert BudgetedScaler({"a": Dumb()}, 1, params={"a": params()}).params["a"] == params()
