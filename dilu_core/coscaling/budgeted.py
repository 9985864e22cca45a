"""Many functions under one GPU budget: each policy says what it wants, the budget says what it gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from dilu_core import _checks as check
from dilu_core.coscaling.budget import BudgetAsk, BudgetShares, share_budget, whole_budget
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.policy import Observation, Policy, ScalingDecision, ScalingReason, expect, expect_policy
from dilu_core.coscaling.reading import Reading, burst_rps, read

_VERSION = 1

MOVES_NOTHING = frozenset(
    {
        ScalingReason.CLOCK,
        ScalingReason.LEARNING,
        ScalingReason.NO_DATA,
        ScalingReason.OBSERVE_ONLY,
        ScalingReason.POLICY_FAILED,
        ScalingReason.SHADOWED,
    }
)
"""Reasons of a policy that does not know, or may not act: the budget then takes no instance away either."""


class BudgetedState(NamedTuple):
    """One function's memory: its policy's state, and the instances it was last known to have."""

    inner: Any
    planned: int | None = None

    def to_dict(self) -> dict[str, object]:
        """A JSON-able value, if the policy's state has `to_dict` or is JSON-able itself."""
        inner = self.inner.to_dict() if hasattr(self.inner, "to_dict") else self.inner
        return {"version": _VERSION, "inner": inner, "planned": self.planned}


class BudgetedScaler:
    """Horizontal policies by name, decided together so that what they plan stays within one budget.

    Every policy decides on its own observation. What they want is then shared by marginal value (`share_budget`): a
    decision passes unchanged if the budget allows it, and otherwise asks for less, with `clipped_by="budget"`. A budget
    that has become too small takes instances away ("above-maximum"), the least valuable first; but where a function's
    policy does not know or may not act (`MOVES_NOTHING`), its instances stay and are taken off the budget first. A
    function whose count is not known is taken to have as many as when it was last known.

    `params` describes the functions; by default each policy's own. `weights` are the worth of one request, 1 unless
    given; `burst_trust` and `keep` are those of `share_budget`. A gang takes `request_milli` on each GPU: give it in
    `gpus` (GPUs per instance, 1 unless given).
    """

    def __init__(
        self,
        policies: Mapping[str, Policy[Any]],
        budget_milli: int | None = None,
        *,
        budget_gpus: float | None = None,
        params: Mapping[str, HorizontalParams] | None = None,
        weights: Mapping[str, float] | None = None,
        gpus: Mapping[str, int] | None = None,
        burst_trust: float = 0.5,
        keep: float = 1.25,
    ) -> None:
        if not isinstance(policies, Mapping):
            check.fail("policies", f"is {check.shown(policies, 80)}; expected policies by name.")
        self.policies = dict(policies)
        check.names("policies", self.policies)
        self.budget_milli = whole_budget(budget_milli, budget_gpus)
        self.burst_trust = check.finite("burst_trust", burst_trust, at_least=0.0, at_most=1.0)
        self.keep = check.finite("keep", keep, at_least=1.0)
        described = self._given("params", params)
        self.params = {name: _described(name, policy, described.get(name)) for name, policy in self.policies.items()}
        weighed = self._given("weights", weights)
        self.weights = {
            name: check.finite(f"weights[{name!r}]", weighed.get(name, 1.0), above=0.0) for name in self.policies
        }
        counted = self._given("gpus", gpus)
        self.gpus = {name: check.integer(f"gpus[{name!r}]", counted.get(name, 1), at_least=1) for name in self.policies}

    def _given(self, argument: str, by_name: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """What was given by name, of functions that exist."""
        if by_name is None:
            return {}
        self._expect(argument, by_name, all_of_them=False)
        return by_name

    def __repr__(self) -> str:
        return f"BudgetedScaler({sorted(self.policies)}, {self.budget_milli})"

    def initial_states(self) -> dict[str, BudgetedState]:
        """Each policy's, by name."""
        return {name: BudgetedState(policy.initial_state()) for name, policy in self.policies.items()}

    def restore_states(self, data: Mapping[str, Mapping[str, Any]]) -> dict[str, BudgetedState]:
        """The states of which each value's `to_dict` was taken. Raises `InvalidArgumentError` for anything else."""
        self._expect("data", data)
        found = {}
        for name, policy in self.policies.items():
            where = f"data[{name!r}]"
            document = check.document(where, data[name], version=_VERSION)
            inner, planned = check.item(where, document, "inner"), check.item(where, document, "planned")
            initial = policy.initial_state()
            read_back = getattr(policy, "restore_state", None) or getattr(type(initial), "from_dict", None)
            count = None if planned is None else check.integer(f"{where}.planned", planned, at_least=0)
            found[name] = BudgetedState(inner if read_back is None else read_back(inner), count)
        return found

    def decide(
        self, states: Mapping[str, BudgetedState], observations: Mapping[str, Observation]
    ) -> tuple[dict[str, ScalingDecision], dict[str, BudgetedState]]:
        """Decisions and new states by name; pure, and independent of the order of names.

        A function without an observation is one of which nothing is known. Raises `InvalidArgumentError` for states
        that are not those of these functions; an exception of a policy is passed on (wrap it in `StagedPolicy`).
        """
        self._expect("states", states)
        for name, state in states.items():
            expect(f"states[{name!r}]", state, BudgetedState)
        self._expect("observations", observations, all_of_them=False)
        nothing = Observation(None, None, None, None)
        proposed: dict[str, ScalingDecision] = {}
        after: dict[str, BudgetedState] = {}
        readings: dict[str, Reading] = {}
        for name, policy in self.policies.items():
            observation = observations.get(name, nothing)
            readings[name] = read(observation)
            proposed[name], inner = policy.decide(states[name].inner, observation)
            known = readings[name].planned
            after[name] = BudgetedState(inner, states[name].planned if known is None else known)
        shares, pinned = self._shares(proposed, after, readings)
        decisions = {}
        for name, decision in proposed.items():
            planned = readings[name].planned
            if planned is None:
                decisions[name] = replace(decision, instances=None, change=0)  # whatever it wants: there is no telling
                continue
            decisions[name] = decision if name in pinned else _within(decision, shares, name, planned)
            after[name] = after[name]._replace(planned=planned + decisions[name].change)
        return decisions, after

    def _shares(
        self,
        proposed: Mapping[str, ScalingDecision],
        after: Mapping[str, BudgetedState],
        readings: Mapping[str, Reading],
    ) -> tuple[BudgetShares, set[str]]:
        """What those who may move get, and the names of those who may not."""
        reserved, asks, pinned = 0, [], set()
        for name, decision in proposed.items():
            params, reading = self.params[name], readings[name]
            request = params.request_milli * self.gpus[name]
            if reading.planned is None or (decision.change == 0 and decision.reason in MOVES_NOTHING):
                pinned.add(name)
                count = after[name].planned
                reserved += request * (params.min_instances if count is None else count)
                continue
            wanted = max(0, reading.planned + decision.change)
            failing = decision.reason is ScalingReason.FALLBACK  # nothing is removed while a policy fails
            asks.append(
                BudgetAsk(
                    name,
                    planned=reading.planned,
                    wanted=wanted,
                    minimum=min(reading.planned if failing else params.min_instances, wanted),
                    request_milli=request,
                    load_rps=reading.arrivals_rps,
                    capacity_rps=params.capacity_rps,
                    burst_capacity_rps=burst_rps(params, reading.spare_milli),
                    weight=self.weights[name],
                )
            )
        left = max(0, self.budget_milli - reserved)
        return share_budget(asks, left, burst_trust=self.burst_trust, keep=self.keep), pinned

    def _expect(self, argument: str, given: object, *, all_of_them: bool = True) -> None:
        if not isinstance(given, Mapping):
            check.fail(argument, f"is {check.shown(given, 80)}; expected a mapping by function name.")
        strange = sorted(str(name) for name in given.keys() - self.policies.keys())
        missing = sorted(self.policies.keys() - given.keys()) if all_of_them else []
        if strange or missing:
            check.fail(argument, f"has no policy for {strange} and lacks {missing}.")


def _within(decision: ScalingDecision, shares: BudgetShares, name: str, planned: int) -> ScalingDecision:
    """The decision, asking for no more than its share."""
    share = shares.shares[name]
    if share.clipped_by is None:
        return decision
    change = share.instances - planned
    reason = ScalingReason.ABOVE_MAXIMUM if change < min(0, decision.change) else decision.reason
    detail = f"{share.reason}; alone: {decision.detail}"
    return replace(
        decision, instances=share.instances, change=change, reason=reason, detail=detail, clipped_by=share.clipped_by
    )


def _described(name: str, policy: Any, given: HorizontalParams | None) -> HorizontalParams:
    expect_policy(f"policies[{name!r}]", policy)
    found = given if given is not None else getattr(policy, "params", None)
    if not isinstance(found, HorizontalParams):
        check.fail(
            f"params[{name!r}]",
            f"is {check.shown(found, 80)}; expected HorizontalParams, as the policy has none itself.",
        )
    return found
