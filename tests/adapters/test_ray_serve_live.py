"""Our policies in a real Ray Serve: applications that scale out and in, to zero and from it, and outlive a bad policy.

One small cluster serves all tests. Nothing waits longer than it must, and everything may wait long on a busy machine.
"""

from __future__ import annotations

import asyncio
import os
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install '.[ray]'")

import ray  # pyright: ignore[reportMissingImports]
from ray import serve  # pyright: ignore[reportMissingImports]

from dilu_core import HorizontalParams, HorizontalState
from dilu_core.adapters.ray_serve import (
    ReplicaMetrics,
    application_policy,
    autoscaling_config,
    snapshot,
)

pytestmark = pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
QUICKLY = {"graceful_shutdown_wait_loop_s": 0.1, "ray_actor_options": {"num_cpus": 0.05}}
PARAMS = HorizontalParams(
    capacity_rps=10.0,
    request_milli=300,
    limit_milli=600,
    cold_start_s=2.0,
    max_instances=3,
    lean=1.0,
    short_s=1,
    window_s=5,
    scale_in_cooldown_s=1.0,
)
PLUGINS = '''
    """What Serve imports in its own processes: a policy that fails, and an application of two deployments."""

    from ray import serve

    from dilu_core import HorizontalParams
    from dilu_core.adapters.ray_serve import ReplicaMetrics, autoscaling_config


    class Raising:
        def initial_state(self):
            return {"asked": 0}

        def decide(self, state, observation):
            raise ZeroDivisionError("the policy of the test")


    class Model:
        def __init__(self, other=None):
            self.metrics = ReplicaMetrics()
            self.other = other

        async def __call__(self):
            with self.metrics.request():
                return "answered"

        def record_autoscaling_stats(self):
            return self.metrics.stats()


    PARAMS = HorizontalParams(capacity_rps=1.0, request_milli=400, limit_milli=400, max_instances=9)


    def deployment(name):
        config = autoscaling_config(PARAMS, metrics_interval_s=0.5)
        return serve.deployment(
            Model,
            name=name,
            autoscaling_config=config,
            graceful_shutdown_wait_loop_s=0.1,
            ray_actor_options={"num_cpus": 0.05},
        )


    app = deployment("First").bind(deployment("Second").bind())
'''


def start_cluster(attempts: int = 3) -> None:
    """Ray gives its node 30 s to start and no setting changes that: a crowded machine needs another attempt."""
    for left in reversed(range(attempts)):
        try:
            ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
            return
        except Exception:
            ray.shutdown()
            if not left:
                raise


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster with Serve, whose processes can import this package and the module `serve_plugins`."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "serve_plugins.py").write_text(textwrap.dedent(PLUGINS), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        path = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.syspath_prepend(str(folder))
        try:
            start_cluster()
            serve.start(proxy_location="Disabled")
            yield
        finally:
            serve.shutdown()
            ray.shutdown()


def application(params: HorizontalParams, **arguments: Any) -> Any:
    """An application of one deployment that answers after 20 ms, and measures itself."""

    class Model:
        def __init__(self) -> None:
            self.metrics = ReplicaMetrics(spare_milli=lambda: 150.0)

        async def __call__(self) -> str:
            with self.metrics.request():
                await asyncio.sleep(0.02)
            return "answered"

        def record_autoscaling_stats(self) -> dict[str, float]:
            return self.metrics.stats()

    config = autoscaling_config(params, metrics_interval_s=0.5, period_s=0.5, **arguments)
    make: Any = serve.deployment
    return make(Model, name="Model", max_ongoing_requests=100, autoscaling_config=config, **QUICKLY).bind()


def running(app_name: str, deployment_name: str = "Model") -> int:
    """Replicas that serve now."""
    states: dict[Any, int] = serve.status().applications[app_name].deployments[deployment_name].replica_states
    return states.get("RUNNING", 0)


def decision(app_name: str) -> dict[str, Any]:
    """The latest decision that the policy remembered."""
    found = snapshot(app_name, "Model")
    return {} if found is None else found["decision"]


async def answered(handle: Any) -> str:
    return str(await handle.remote())


async def until(happened: Callable[[], bool], what: str, handle: Any = None, rate_rps: float = 0.0) -> None:
    """Offer requests at `rate_rps` until something has happened; all of them are answered."""
    deadline, pending, sent = time.monotonic() + PATIENCE_S, [], time.monotonic()
    while not happened():
        assert time.monotonic() < deadline, f"after {PATIENCE_S:g} s still not: {what}"
        pause = time.monotonic() + 0.25
        while time.monotonic() < pause:
            if rate_rps and time.monotonic() >= sent:
                pending.append(asyncio.ensure_future(answered(handle)))
                sent += 1.0 / rate_rps
            await asyncio.sleep(0.01)
    assert all(answer == "answered" for answer in await asyncio.gather(*pending))


def test_out_under_load_in_afterwards_beside_a_policy_that_raises(plugins: None) -> None:
    """Load makes three replicas of one, and its end one again, though the policy of another application raises."""
    other, handle = serve.run_many(
        [
            serve.RunTarget(application(PARAMS, policy="serve_plugins:Raising"), name="broken", route_prefix=None),
            serve.RunTarget(application(PARAMS), name="busy", route_prefix=None),
        ]
    )

    async def scenario() -> None:
        await until(lambda: running("busy") == 3, "three replicas under load", handle, rate_rps=25.0)
        unknown = decision("busy")["audit"]["unknown"]
        assert not {"arrivals_rps", "in_flight", "spare_milli", "latency_p95_ms"} & set(unknown)
        await until(lambda: running("busy") == 1, "one replica without load")
        await until(lambda: decision("broken").get("reason") == "policy-failed", "the failure on record")
        assert await other.remote() == "answered"

    asyncio.run(scenario())
    assert running("broken") == 1
    assert "ZeroDivisionError: the policy of the test" in decision("broken")["detail"]
    serve.delete("broken")
    serve.delete("busy")


def test_state_is_handed_over_and_survives_a_redeploy(plugins: None) -> None:
    """What `initial_state` brings in is still there after the deployment was deployed anew without it."""
    handed_over = HorizontalState(shown=1.375)
    serve.run(application(PARAMS, initial_state=handed_over.to_dict()), name="kept", route_prefix=None)

    def decided_since(moment_s: float) -> bool:
        found = snapshot("kept", "Model")
        return (
            found is not None
            and found["decided_s"] > moment_s
            and found["state"]["inner"]["shown"] == handed_over.shown
        )

    asyncio.run(until(lambda: decided_since(0.0), "a decision on the state handed over"))
    serve.run(application(PARAMS), name="kept", route_prefix=None)
    deployed_s = time.time()
    asyncio.run(until(lambda: decided_since(deployed_s), "a decision on the same state after the second deployment"))
    serve.delete("kept")


def test_to_zero_and_from_zero(plugins: None) -> None:
    """Without requests nothing runs; one request starts an instance and is answered; then nothing runs again."""
    params = replace(PARAMS, min_instances=0, zero_delay_s=1.0)
    handle = serve.run(application(params), name="rare", route_prefix=None)

    async def scenario() -> None:
        assert running("rare") == 0
        assert await answered(handle) == "answered"
        await until(lambda: running("rare") == 0, "no replica without requests")

    asyncio.run(scenario())
    serve.delete("rare")


def test_one_policy_for_an_application_keeps_to_its_budget(plugins: None) -> None:
    """Load on one of two deployments raises it as far as the other's least number leaves budget, and no further."""
    import serve_plugins  # pyright: ignore[reportMissingImports]
    from ray.serve.context import _get_global_client  # pyright: ignore[reportMissingImports]
    from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema  # pyright: ignore[reportMissingImports]

    policy = application_policy({"First": serve_plugins.PARAMS, "Second": serve_plugins.PARAMS}, budget_milli=1200)
    config = ServeApplicationSchema(
        name="pair", route_prefix=None, import_path="serve_plugins:app", autoscaling_policy=policy
    )
    client: Any = _get_global_client()
    client.deploy_apps(ServeDeploySchema(applications=[config]), _blocking=True)
    handle = serve.get_app_handle("pair")

    async def scenario() -> None:
        await until(lambda: running("pair", "First") == 2, "two of three instances", handle, rate_rps=6.0)

    asyncio.run(scenario())
    found = snapshot("pair", "First")
    assert found is not None
    assert found["wanted"] > 2
    assert running("pair", "Second") == 1
