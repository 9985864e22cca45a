"""Our policies as Ray Serve's autoscaling policy of a deployment (Ray 2.55 or later).

    @serve.deployment(autoscaling_config=autoscaling_config(params), max_ongoing_requests=16)
    class Model:
        def __init__(self):
            self.metrics = ReplicaMetrics()

        async def __call__(self, request):
            with self.metrics.request():
                ...

        def record_autoscaling_stats(self):
            return self.metrics.stats()

Serve makes one object of the policy class in its controller, out of JSON keyword arguments, and calls that about ten
times a second with a context; so `dilu_core` must be installed where the controller runs.
A policy that raises there, or answers None for its state, stalls the scaling of every application; these never do: what
goes wrong holds the present target, and is told in the decision and in the controller's log.

At zero replicas with a request waiting Serve asks no policy, and starts one replica at once; our policy decides again
when it runs. Only an instance count of one goes to zero. Serve forgets a policy's state when the deployment is deployed
anew; `ServePolicy` then goes on from the snapshot it keeps in the Ray cluster (`snapshot`), else from `initial_state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dilu_core import _checks as check
from dilu_core.adapters.manifests import mapping
from dilu_core.adapters.ray_serve_app import ServeAppPolicy, application_policy
from dilu_core.adapters.ray_serve_memory import forget_snapshot, serve_policy_state, snapshot
from dilu_core.adapters.ray_serve_metrics import ReplicaMetrics
from dilu_core.adapters.ray_serve_policy import ServePolicy
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.coscaling.staged import STAGES

__all__ = [
    "ReplicaMetrics",
    "ServeAppPolicy",
    "ServePolicy",
    "application_policy",
    "autoscaling_config",
    "forget_snapshot",
    "serve_policy_state",
    "snapshot",
]


def autoscaling_config(
    params: HorizontalParams,
    *,
    stage: str = "enforce",
    policy: str | None = None,
    arguments: Mapping[str, object] | None = None,
    initial_state: Mapping[str, object] | None = None,
    period_s: float = 1.0,
    metrics_interval_s: float = 1.0,
    look_back_period_s: float | None = None,
    remember: bool = True,
    **others: object,
) -> dict[str, Any]:
    """The value for `autoscaling_config` of a deployment that `ServePolicy` scales; see there for the arguments.

    Under "enforce" Serve's own delays are 0, because the policy has its own, and its look-back is short, two metrics
    intervals, because a mean over 30 s hides a spike. In the other stages Serve's default policy acts, with its
    default delays and look-back. `others` go into the dictionary as they are (`initial_replicas`, ...).

    Raises `InvalidArgumentError` for arguments out of bounds, a policy that cannot be made, or a state it cannot
    restore: in Serve's controller it is too late to be told.
    """
    check.instances_of("params", [params], HorizontalParams)
    interval_s = check.finite("metrics_interval_s", metrics_interval_s, above=0.0)
    enforced = check.choice("stage", stage, STAGES) == "enforce"
    if look_back_period_s is None:
        look_back_period_s = 2.0 * interval_s if enforced else max(30.0, 2.0 * interval_s)
    look_back_s = check.finite("look_back_period_s", look_back_period_s, above=interval_s)
    keywords: dict[str, Any] = {
        "params": params.to_dict() if policy is None else None,
        "policy": policy,
        "arguments": None if arguments is None else dict(mapping("arguments", arguments)),
        "stage": stage,
        "initial_state": None if initial_state is None else dict(mapping("initial_state", initial_state)),
        "period_s": check.finite("period_s", period_s, above=0.0),
        "remember": check.flag("remember", remember),
    }
    fault = ServePolicy(**keywords).fault
    if fault is not None:
        check.fail("policy", f"cannot be made in Serve's controller: {fault}.")
    delays = {"upscale_delay_s": 0.0, "downscale_delay_s": 0.0, "downscale_to_zero_delay_s": 0.0}
    return {
        "min_replicas": params.min_instances,
        "max_replicas": params.max_instances,
        **(delays if enforced else {}),
        "metrics_interval_s": interval_s,
        "look_back_period_s": look_back_s,
        "policy": {
            "policy_function": "dilu_core.adapters.ray_serve:ServePolicy",
            "policy_kwargs": {name: value for name, value in keywords.items() if value is not None},
        },
        **others,
    }
