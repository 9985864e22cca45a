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

import heapq
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from dilu_core import _checks as check
from dilu_core.adapters.ray_serve_policy import ServePolicy, bounded_replicas
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.units import FULL_GPU_MILLI

_LOG = logging.getLogger("ray.serve")


def application_policy(
    deployments: Mapping[str, HorizontalParams], *, budget_milli: int | None = None, **arguments: object
) -> dict[str, Any]:
    """The value for `autoscaling_policy` of an application whose deployments, by name, have those parameters.

    Instances cost their request, and all together at most `budget_milli` (`None`: no limit); `arguments` are those of
    `ServePolicy` (`stage`, `period_s`, `remember`), the same for all. Raises `InvalidArgumentError` for any that
    cannot work in Serve's controller.
    """
    check.instances_of("deployments", list(deployments.values()), HorizontalParams)
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
    budget. Never raises; `fault` as there.
    """

    def __init__(self, deployments: Mapping[str, Mapping[str, Any]], *, budget_milli: int | None = None) -> None:
        self.fault: str | None = None
        self._budget_milli = budget_milli
        self._policies: dict[str, ServePolicy] = {}
        self._cost_milli: dict[str, int] = {}
        try:
            for name, arguments in deployments.items():
                keywords = dict(arguments)
                request = (keywords.get("params") or {}).get("request_milli", FULL_GPU_MILLI)
                self._cost_milli[name] = check.share_milli("gpu_milli", keywords.pop("gpu_milli", request))
                self._policies[name] = ServePolicy(**keywords)
                self.fault = self.fault or self._policies[name].fault
        except Exception as error:  # raised here, it would stall every application of the cluster
            self.fault = f"{type(error).__name__}: {error}"
            _LOG.error("dilu_core holds its application at its present size: %s", self.fault)

    def __call__(self, contexts: Mapping[Any, Any]) -> tuple[dict[Any, int], dict[Any, dict[str, Any]]]:
        """The number of replicas of every deployment, and their states, by the keys of `contexts`."""
        replicas = {key: bounded_replicas(context, None) for key, context in contexts.items()}
        states: dict[Any, dict[str, Any]] = {key: {} for key in contexts}
        try:
            keys = [key for key, context in contexts.items() if context.deployment_name in self._policies]
            for key in keys:
                replicas[key], states[key] = self._policies[contexts[key].deployment_name](contexts[key])
            if self._budget_milli is not None:
                replicas |= self._within_budget({key: contexts[key] for key in keys}, replicas)
        except Exception:  # as above
            _LOG.exception("dilu_core holds the application at its present size")
        return replicas, states

    def _within_budget(self, contexts: Mapping[Any, Any], wanted: Mapping[Any, int]) -> dict[Any, int]:
        shares = share_instances(
            [wanted[key] for key in contexts],
            [bounded_replicas(context, 0) for context in contexts.values()],
            [self._cost_milli[context.deployment_name] for context in contexts.values()],
            self._budget_milli or 0,
        )
        return dict(zip(contexts, shares, strict=True))


def share_instances(
    wanted: Sequence[int], least: Sequence[int], cost_milli: Sequence[int], budget_milli: int
) -> list[int]:
    """Instances for each function at a total cost within the budget: all that are wanted, where that fits.

    Otherwise everyone has its least, and the rest goes one by one to the function furthest from its wish, the greatest
    wanted / (given + 1) (the divisor method of Jefferson: the last instance given relieves where a request would find
    the most work per instance). The first stands where two are as far. Where even the least does not fit, it is given
    all the same: the bounds of a deployment outrank the budget.
    """
    if sum(count * cost for count, cost in zip(wanted, cost_milli, strict=True)) <= budget_milli:
        return list(wanted)
    given = [min(count, floor) for count, floor in zip(wanted, least, strict=True)]
    left = budget_milli - sum(count * cost for count, cost in zip(given, cost_milli, strict=True))
    waiting = [(-count / (given[i] + 1), i) for i, count in enumerate(wanted) if given[i] < count]
    heapq.heapify(waiting)
    while waiting:
        _, i = heapq.heappop(waiting)
        if cost_milli[i] > left:
            continue  # a cheaper function may still fit
        given[i] += 1
        left -= cost_milli[i]
        if given[i] < wanted[i]:
            heapq.heappush(waiting, (-wanted[i] / (given[i] + 1), i))
    return given
