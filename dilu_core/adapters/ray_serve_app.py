"""One Ray Serve policy for all deployments of an application, under a total budget of GPU shares.

Serve takes a policy of an application from its config file or `ServeApplicationSchema`, not from `serve.run`:

    applications:
      - name: shop
        import_path: shop:app
        autoscaling_policy:
          policy_function: dilu_core.adapters.ray_serve:ServeAppPolicy
          policy_kwargs: {...}   # of `application_policy`

Bounds and delays stay those of each deployment's own `autoscaling_config`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from dilu_core import _checks as check
from dilu_core.adapters.ray_serve_policy import ServePolicy, bounded_replicas, held, in_words
from dilu_core.coscaling.budget import BudgetAsk, share_budget
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.units import FULL_GPU_MILLI

T = TypeVar("T")

_LOG = logging.getLogger("ray.serve")


def application_policy(
    deployments: Mapping[str, HorizontalParams], *, budget_milli: int | None = None, **arguments: object
) -> dict[str, Any]:
    """The value for `autoscaling_policy` of an application whose deployments, by name, have those parameters.

    Instances cost their request, and all together at most `budget_milli` (`None`: no limit); `arguments` are those of
    `ServePolicy` (`stage`, `period_s`, `remember`), the same for all. Raises `InvalidArgumentError` for any that
    cannot work in Serve's controller.
    """
    check.instances_of("deployments", list(_by_name(deployments).values()), HorizontalParams)
    if budget_milli is not None:
        budget_milli = check.integer("budget_milli", budget_milli, at_least=1)
    keywords = {
        "deployments": {name: {"params": params.to_dict(), **arguments} for name, params in deployments.items()},
        "budget_milli": budget_milli,
    }
    fault = ServeAppPolicy(**keywords).fault  # type: ignore[arg-type]
    if fault is not None:
        check.fail("arguments", f"make no policy in Serve's controller: {fault}.")
    return {
        "policy_function": "dilu_core.adapters.ray_serve:ServeAppPolicy",
        "policy_kwargs": keywords,
    }


class ServeAppPolicy:
    """A `ServePolicy` for every deployment of an application, and a budget that all of them share.

    `deployments` maps their names to arguments of `ServePolicy`, and to `gpu_milli`, what one instance costs (by
    default the request of `params`, else a whole GPU). A deployment that is not named keeps its size, outside the
    budget. Never raises; `fault` says what is wrong: a deployment whose policy cannot be made holds its present target,
    and where any other argument is wrong, all of them do.
    """

    def __init__(
        self,
        deployments: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        budget_milli: int | None = None,
        **unknown: object,
    ) -> None:
        self.fault: str | None = None
        self._policies: dict[str, ServePolicy] = {}
        self._cost_milli: dict[str, int] = {}
        self._budget_milli: int | None = None
        try:
            for name in unknown:
                check.fail(name, "is no argument of ServeAppPolicy.")
            if budget_milli is not None:
                self._budget_milli = check.integer("budget_milli", budget_milli, at_least=1)
            policies = {}
            for name, arguments in _by_name(deployments).items():
                keywords = dict(arguments)
                request = (keywords.get("params") or {}).get("request_milli", FULL_GPU_MILLI)
                self._cost_milli[name] = check.share_milli("gpu_milli", keywords.pop("gpu_milli", request))
                policies[name] = ServePolicy(**keywords)
                self.fault = self.fault or policies[name].fault
            self._policies = policies
        except Exception as error:  # raised here, it would stall every application of the cluster
            self.fault = in_words(error)
            _LOG.error("dilu_core holds its application at its present size: %s", self.fault)

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
        """The number of replicas of every deployment, and their states, by the keys of `contexts`."""
        if not isinstance(contexts, Mapping):
            return {}, {}
        try:
            return self._decide(contexts)
        except Exception as error:  # as above
            _LOG.exception("dilu_core holds the application at its present size")
            answers = {key: held(context, in_words(error)) for key, context in contexts.items()}
            return {key: each[0] for key, each in answers.items()}, {key: each[1] for key, each in answers.items()}

    def _decide(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
        replicas = {key: bounded_replicas(context, None) for key, context in contexts.items()}
        states: dict[Any, dict[str, Any]] = {key: {} for key in contexts}
        ours = {key: context for key, context in contexts.items() if context.deployment_name in self._policies}
        for key, context in ours.items():
            replicas[key], states[key] = self._policies[context.deployment_name](context)
        if self._budget_milli is not None:
            wanted = {context.deployment_name: replicas[key] for key, context in ours.items()}
            least = {context.deployment_name: bounded_replicas(context, 0) for context in ours.values()}
            shares = within_budget(wanted, least, self._cost_milli, self._budget_milli)
            replicas |= {key: shares[context.deployment_name] for key, context in ours.items()}
        return replicas, states


def _by_name(deployments: Mapping[str, T] | None) -> Mapping[str, T]:
    if not isinstance(deployments, Mapping):
        check.fail("deployments", f"is {deployments!r:.80}; expected a mapping by the names of deployments.")
    check.names("deployments", deployments)
    return deployments


def within_budget(
    wanted: Mapping[str, int], least: Mapping[str, int], cost_milli: Mapping[str, int], budget_milli: int
) -> dict[str, int]:
    """Replicas of each deployment at a total cost within the budget: all that are wanted, where that fits.

    The division is `share_budget`'s, with instances that are all worth what they cost: a deployment whose policy is
    not ours to know says what it wants, not what it is worth. So everyone has its least, and the next instance goes to
    whoever has the smallest part of its wish (the divisor method of Jefferson). Where even the least does not fit, it
    is given all the same: the bounds of a deployment outrank the budget.
    """
    asks = [
        BudgetAsk(
            name,
            planned=0,
            wanted=count,
            minimum=min(count, least[name]),
            request_milli=cost_milli[name],
            load_rps=float(count),
            capacity_rps=1.0,
            burst_capacity_rps=1.0,
            weight=float(cost_milli[name]),
        )
        for name, count in wanted.items()
    ]
    minima_milli = sum(ask.minimum * ask.request_milli for ask in asks)
    shares = share_budget(asks, max(budget_milli, minima_milli))
    return {name: shares[name] for name in wanted}
