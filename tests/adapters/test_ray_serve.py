"""The Ray Serve adapters without Ray: whatever a context holds, a number of replicas and a state in JSON come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilu_core import CoScaler, HorizontalState, InvalidArgumentError, Observation
from dilu_core.adapters import ray_serve_policy
from dilu_core.adapters.ray_serve import (
    ServeAppPolicy,
    ServePolicy,
    application_policy,
    autoscaling_config,
    serve_policy_state,
)
from dilu_core.adapters.ray_serve_app import within_budget
from dilu_core.adapters.ray_serve_metrics import ARRIVALS, IN_FLIGHT, LATENCY_P95_MS, SPARE_MILLI
from dilu_core.adapters.ray_serve_observation import observe, rate_rps
from tests.adapters.serve_contexts import PARAMS, context, reported, series


def seen(given_context: Any, **arguments: Any) -> Observation:
    return observe(given_context, **{"window_s": 1.0, "queued_before": None, "elapsed_s": None, **arguments})


class Loop:
    """Serve's side: calls the policy every 0.1 s, keeps its state, and carries its wishes out at once."""

    def __init__(self, policy: ServePolicy, replicas: int = 1) -> None:
        self.policy, self.replicas, self.now_s = policy, replicas, 100.0
        self.state: dict[str, Any] = {}

    def run(self, seconds: float, rate_rps: float | None) -> int:
        """The replicas after `seconds` at that load (`None`: no replica reports)."""
        for _ in range(round(10 * seconds)):
            self.now_s += 0.1
            rates = [] if rate_rps is None else [rate_rps / max(1, self.replicas)] * self.replicas
            wanted, self.state = self.policy(
                context(
                    current_time=self.now_s,
                    current_num_replicas=self.replicas,
                    target_num_replicas=self.replicas,
                    raw_metrics=reported(self.now_s, rates),
                    policy_state={**self.state, "__decision_counters": 0},
                )
            )
            assert type(wanted) is int
            self.replicas = wanted
            self.state = json.loads(json.dumps(self.state))  # Serve may keep it anywhere
        return self.replicas


def test_out_at_once_and_in_after_the_window() -> None:
    """The wrapped policy scales as it does anywhere else: out within seconds, in when its window has passed."""
    loop = Loop(ServePolicy(PARAMS.to_dict()))
    assert loop.run(5.0, 5.0) == 1
    assert loop.run(3.0, 95.0) == 10
    assert loop.run(10.0, 5.0) == 10
    assert loop.run(60.0, 5.0) == 1


def test_what_is_not_reported_is_not_zero() -> None:
    """Without reports nothing moves, in or out, for as long as it lasts."""
    loop = Loop(ServePolicy(PARAMS.to_dict()))
    loop.run(10.0, 45.0)
    assert loop.run(120.0, None) == 5
    assert serve_policy_state(loop.state)["decision"]["reason"] == "no-data"  # type: ignore[index]


def test_the_policy_decides_once_a_period() -> None:
    """Calls within a period keep to the decision and leave the state as it was."""
    policy = ServePolicy(PARAMS.to_dict(), period_s=1.0)
    _, state = policy(context(current_time=100.0))
    assert policy(context(current_time=100.9, policy_state=state))[1] == state
    assert serve_policy_state(policy(context(current_time=101.0, policy_state=state))[1])["decided_s"] == 101.0  # type: ignore[index]


def test_a_wish_stands_until_serve_grants_it() -> None:
    """Where Serve has delays of its own, the wish is repeated between decisions; where the target moved, it is void."""
    policy = ServePolicy(PARAMS.to_dict())
    state: dict[str, Any] = {}
    for now in (100.0, 101.0):
        wanted, state = policy(context(current_time=now, raw_metrics=reported(now, [45.0]), policy_state=state))
    assert wanted == 5
    assert policy(context(current_time=101.5, policy_state=state))[0] == 5
    assert policy(context(current_time=101.5, policy_state=state, target_num_replicas=3))[0] == 3


def test_bounds_of_the_deployment_hold() -> None:
    """Neither a policy nor a hold leaves Serve's capacity-adjusted bounds."""
    policy = ServePolicy(PARAMS.to_dict())
    _, state = policy(context(current_time=100.0))
    busy = reported(101.0, [200.0])
    assert (
        policy(context(current_time=101.0, raw_metrics=busy, policy_state=state, capacity_adjusted_max_replicas=4))[0]
        == 4
    )
    assert ServePolicy({"version": 1})(context(capacity_adjusted_min_replicas=3))[0] == 3


def test_state_goes_on_after_serve_has_forgotten_it() -> None:
    """A policy that begins with the state of another decides as that one would have."""
    old = Loop(ServePolicy(PARAMS.to_dict()))
    old.run(30.0, 45.0)
    entry = serve_policy_state(old.state)
    assert entry is not None
    new = Loop(ServePolicy(PARAMS.to_dict(), initial_state=entry["state"]), old.replicas)
    new.now_s = old.now_s
    assert new.run(15.0, 5.0) == old.run(15.0, 5.0) == 5
    assert new.run(25.0, 5.0) == old.run(25.0, 5.0) == 1


def test_the_snapshot_of_the_cluster_comes_before_the_initial_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the cluster remembers is newer than what was handed over; another policy's snapshot is no memory."""
    handed_over, kept = HorizontalState(shown=1.5), HorizontalState(shown=2.5)
    policy = ServePolicy(PARAMS.to_dict(), initial_state=handed_over.to_dict())
    for found, shown in (({"state": kept.to_dict()}, 2.5), ({"state": {"odd": 1}}, 1.5), (None, 1.5)):
        monkeypatch.setattr(ray_serve_policy, "snapshot", lambda app, deployment, found=found: found)
        entry = serve_policy_state(policy(context())[1])
        assert entry is not None
        assert HorizontalState.from_dict(entry["state"]["inner"]).shown == shown


class Failing:
    """A policy that raises, answers nonsense, or decides what nobody can carry out."""

    def __init__(self, answer: object = None) -> None:
        self.answer = answer

    def initial_state(self) -> dict[str, int]:
        return {"seen": 0}

    def decide(self, state: object, observation: Observation) -> Any:
        if self.answer is None:
            raise ZeroDivisionError("of the test")
        return self.answer


@pytest.mark.parametrize("arguments", [{}, {"answer": "none"}, {"answer": [1, 2]}])
def test_a_policy_that_fails_holds_the_present_target(arguments: dict[str, object]) -> None:
    """Whatever the wrapped policy does, the target stays, and the record says why."""
    policy = ServePolicy(policy=f"{__name__}:Failing", arguments=arguments)
    assert policy.fault is None
    replicas, state = policy(context(current_num_replicas=2, target_num_replicas=3))
    assert replicas == 3
    assert serve_policy_state(state)["decision"]["reason"] == "policy-failed"  # type: ignore[index]


def test_a_policy_that_cannot_be_made_holds_and_says_so() -> None:
    """In Serve's controller a constructor must not raise; where the configuration is written, it does."""
    policy = ServePolicy({"capacity_rps": -1.0})
    assert policy.fault is not None
    assert policy(context(target_num_replicas=7)) == (7, {})
    for arguments in ({"policy": "no.such.module:policy"}, {"initial_state": {"odd": 1}}, {"stage": "perhaps"}):
        with pytest.raises(InvalidArgumentError):
            autoscaling_config(PARAMS, **arguments)  # type: ignore[arg-type]


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(),
    st.text(max_size=3),
    st.just(object()),
    st.lists(st.floats(), max_size=2),
)


@settings(max_examples=100)
@given(
    fields=st.dictionaries(st.sampled_from(sorted(vars(context()))), anything, max_size=6),
    missing=st.sets(st.sampled_from(sorted(vars(context()))), max_size=4),
    entry=st.one_of(st.none(), st.dictionaries(st.sampled_from(["version", "state", "decided_s", "queued"]), anything)),
    samples=st.lists(st.tuples(anything, anything), max_size=3),
)
def test_no_context_makes_it_raise(fields: Any, missing: Any, entry: Any, samples: Any) -> None:
    """An int and a dictionary come back for any context at all, of policies of deployments and of applications."""
    odd = context(
        **{"raw_metrics": {ARRIVALS: {"r": series(*samples)}}, "policy_state": {"dilu_core": entry}, **fields}
    )
    for name in missing:
        delattr(odd, name)
    replicas, state = ServePolicy(PARAMS.to_dict(), remember=False)(odd)
    assert type(replicas) is int
    assert replicas >= 0
    assert isinstance(state, dict)
    together = ServeAppPolicy({"Model": {"params": PARAMS.to_dict(), "remember": False}}, budget_milli=900)
    counts, states = together({"id": odd})
    assert type(counts["id"]) is int
    assert isinstance(states["id"], dict)


def test_starting_replicas_are_those_missing_to_the_target() -> None:
    """Ready are the running ones that are to stay: neither those that leave, nor those still to come."""
    assert seen(context(current_num_replicas=2, target_num_replicas=5)).starting == 3
    leaving = seen(context(current_num_replicas=5, target_num_replicas=2))
    assert (leaving.ready, leaving.starting) == (2, 0)


def test_arrivals_count_what_waits_at_the_handles() -> None:
    """What replicas began, and the growth of the queue that none of them has seen."""
    reports = reported(100.0, [8.0, 12.0])
    waiting = context(current_num_replicas=2, raw_metrics=reports, total_queued_requests=30.0)
    assert seen(waiting).arrivals_rps == pytest.approx(20.0)
    assert seen(waiting, queued_before=10.0, elapsed_s=2.0).arrivals_rps == pytest.approx(30.0)
    assert seen(waiting, queued_before=200.0, elapsed_s=1.0).arrivals_rps == 0.0


def test_arrivals_are_unknown_until_half_of_the_replicas_report() -> None:
    """One report of three says nothing, two of three do, and an old one is none."""
    assert seen(context(current_num_replicas=3, raw_metrics=reported(100.0, [8.0]))).arrivals_rps is None
    assert seen(context(current_num_replicas=3, raw_metrics=reported(100.0, [8.0, 8.0]))).arrivals_rps == 16.0
    assert seen(context(current_time=111.0, raw_metrics=reported(100.0, [8.0]))).arrivals_rps is None
    assert seen(context(raw_metrics=None)).arrivals_rps is None


def test_no_replica_and_nothing_waiting_is_zero() -> None:
    """At zero replicas every request waits at a handle, so none there means that none came."""
    assert seen(context(current_num_replicas=0, target_num_replicas=0)).arrivals_rps == 0.0
    assert seen(context(current_num_replicas=0, total_num_requests=2.0)).arrivals_rps is None


def test_latency_spare_and_in_flight() -> None:
    """The greatest latency, the mean spare share, and the replicas' own count where Serve has none."""
    reports = {
        LATENCY_P95_MS: {"a": series((99.0, 40.0)), "b": series((98.0, 90.0), (99.5, 30.0))},
        SPARE_MILLI: {"a": series((99.0, 100.0)), "b": series((99.0, 200.0))},
        IN_FLIGHT: {"a": series((99.0, 3.0)), "b": series((99.0, 4.0))},
    }
    both = seen(context(raw_metrics=reports, total_num_requests=None))
    assert (both.latency_p95_ms, both.spare_milli, both.in_flight) == (40.0, 150.0, 7.0)
    assert seen(context(raw_metrics=reports, total_num_requests=2.5)).in_flight == 2.5


def test_a_new_replica_counts_from_its_birth() -> None:
    """One sample is enough of a replica whose birth is known to be recent, and too little of an old one."""
    assert rate_rps([(10.0, 6.0)], [(10.0, 0.5)], 1.0) == pytest.approx(12.0)
    assert rate_rps([(10.0, 6.0)], [(10.0, 50.0)], 1.0) is None
    assert rate_rps([(10.0, 6.0)], [], 1.0) is None
    assert rate_rps([(10.0, 6.0), (11.0, 2.0)], [], 1.0) is None  # a total that fell counts something else


@given(
    gaps=st.lists(st.floats(0.05, 2.0), min_size=2, max_size=12),
    rate=st.floats(0.0, 1e3),
    window=st.floats(0.1, 5.0),
    clock=st.floats(-1e6, 1e6),
)
def test_a_steady_rate_is_found_whatever_the_sampling(gaps: Any, rate: float, window: float, clock: float) -> None:
    """Neither the sampling times, nor the window, nor the clock of the node changes a steady rate."""
    stamps = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    totals = [(clock + stamp, 1000.0 + rate * stamp) for stamp in stamps]
    assert rate_rps(totals, [], window) == pytest.approx(rate, rel=1e-6, abs=1e-3)


def test_configuration_in_the_three_stages() -> None:
    """Ours decides without delays of Serve; while ours only watches, Serve's own policy keeps its defaults."""
    enforced = autoscaling_config(PARAMS, initial_replicas=2)
    assert {key: enforced[key] for key in ("min_replicas", "max_replicas", "initial_replicas")} == {
        "min_replicas": 1,
        "max_replicas": 20,
        "initial_replicas": 2,
    }
    assert [enforced[key] for key in ("upscale_delay_s", "downscale_delay_s", "downscale_to_zero_delay_s")] == [0.0] * 3
    assert enforced["look_back_period_s"] > enforced["metrics_interval_s"]
    assert "upscale_delay_s" not in autoscaling_config(PARAMS, stage="shadow")
    assert json.loads(json.dumps(enforced["policy"])) == enforced["policy"]
    policy = ServePolicy(**enforced["policy"]["policy_kwargs"])
    assert policy.fault is None


def test_shadowing_leaves_the_decision_to_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the stage "shadow" Serve's own policy decides, and the record holds what ours would have done."""
    monkeypatch.setattr(ray_serve_policy, "_serves_own", lambda given_context: 7)
    policy = ServePolicy(PARAMS.to_dict(), stage="shadow")
    state: dict[str, Any] = {}
    for now in (100.0, 101.0):
        replicas, state = policy(context(current_time=now, raw_metrics=reported(now, [45.0]), policy_state=state))
    assert replicas == 7
    entry = serve_policy_state(state)
    assert entry is not None
    assert entry["decision"]["audit"]["proposed"]["instances"] == 5


def test_an_application_policy_shares_its_budget() -> None:
    """Two deployments that want more than the budget get what it holds; a third that is not named keeps its size."""
    keywords = application_policy({"A": PARAMS, "B": PARAMS}, budget_milli=2400, remember=False)["policy_kwargs"]
    policy = ServeAppPolicy(**json.loads(json.dumps(keywords)))
    states: dict[str, dict[str, Any]] = {name: {} for name in "ABC"}
    for now in (100.0, 101.0):
        loads = {"A": 95.0, "B": 25.0, "C": 95.0}
        counts, states = policy(
            {
                name: context(
                    deployment_name=name,
                    current_time=now,
                    raw_metrics=reported(now, [load]),
                    policy_state=states[name],
                    capacity_adjusted_min_replicas=1,
                )
                for name, load in loads.items()
            }
        )
    assert counts == {"A": 6, "B": 2, "C": 1}


def divisor_method(wanted: list[int], least: list[int], cost: list[int], budget: int) -> list[int]:
    """Jefferson's, one by one: the next to the greatest wanted / (given + 1) that fits, the first among equals."""
    given_ = [min(w, floor) for w, floor in zip(wanted, least, strict=True)]
    left = budget - sum(g * c for g, c in zip(given_, cost, strict=True))
    while waiting := [i for i, w in enumerate(wanted) if given_[i] < w and cost[i] <= left]:
        i = min(waiting, key=lambda i: ((given_[i] + 1) / wanted[i], i))
        given_[i] += 1
        left -= cost[i]
    return given_


@given(
    functions=st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 3), st.sampled_from([100, 250, 300, 1000])), min_size=1, max_size=5
    ),
    budget=st.integers(0, 12_000),
)
def test_shares_keep_to_the_budget(functions: list[tuple[int, int, int]], budget: int) -> None:
    """No more than wanted, no less than the least, within the budget unless the least is not, and nothing left over."""
    wanted, least, cost = (list(column) for column in zip(*functions, strict=True))
    by_name = [dict(zip("ABCDE", column, strict=False)) for column in (wanted, least, cost)]
    given_ = list(within_budget(*by_name, budget).values())  # type: ignore[call-arg, arg-type]
    floors = [min(w, floor) for w, floor in zip(wanted, least, strict=True)]
    assert all(f <= g <= w for f, g, w in zip(floors, given_, wanted, strict=True))
    spent = sum(g * c for g, c in zip(given_, cost, strict=True))
    assert spent <= max(budget, sum(f * c for f, c in zip(floors, cost, strict=True)))
    assert not [c for g, w, c in zip(given_, wanted, cost, strict=True) if g < w and spent + c <= budget]
    assert given_ == divisor_method(wanted, least, cost, budget)


def test_the_same_policy_decides_alike_outside_serve() -> None:
    """The adapter adds nothing to a decision: a bare `CoScaler` on the same observations wants the same."""
    scaler, serving = CoScaler(PARAMS), ServePolicy(PARAMS.to_dict(), remember=False)
    state, held = scaler.initial_state(), {}
    replicas = 1
    for second in range(60):
        now, load = 100.0 + second, [5.0, 60.0, 25.0][second // 20]
        given_context = context(
            current_time=now,
            current_num_replicas=replicas,
            target_num_replicas=replicas,
            raw_metrics=reported(now, [load / replicas] * replicas),
            policy_state=held,
        )
        decision, state = scaler.decide(
            state, seen(given_context, queued_before=0.0 if second else None, elapsed_s=1.0)
        )
        replicas, held = serving(given_context)
        assert replicas == decision.instances
