"""Where a policy's memory outlives Serve's: snapshots in the key-value store of the Ray cluster.

Serve keeps the state of a policy in its controller and forgets it whenever the deployment is deployed anew or the
controller restarts. The store lives as long as the cluster. It is there in every process that has joined the cluster,
and its absence is no error: then nothing is remembered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_NAMESPACE = b"dilu_core"


def save_snapshot(app_name: str, deployment_name: str, entry: Mapping[str, object]) -> bool:
    """Remember `entry`, a JSON-able value, for the deployment; whether that worked."""
    store = _store()
    if store is None:
        return False
    store._internal_kv_put(_key(app_name, deployment_name), json.dumps(entry).encode(), True, namespace=_NAMESPACE)
    return True


def snapshot(app_name: str, deployment_name: str) -> dict[str, Any] | None:
    """What the deployment's policy remembered last: `state` (for `initial_state`), `decided_s` and `decision`.

    From any process that has joined the cluster; `None` without a cluster, or where nothing was remembered.
    """
    store = _store()
    found = None if store is None else store._internal_kv_get(_key(app_name, deployment_name), namespace=_NAMESPACE)
    entry = None if found is None else json.loads(found)
    return entry if isinstance(entry, dict) else None


def forget_snapshot(app_name: str, deployment_name: str) -> None:
    """Remember nothing of the deployment any more."""
    store = _store()
    if store is not None:
        store._internal_kv_del(_key(app_name, deployment_name), namespace=_NAMESPACE)


def _key(app_name: str, deployment_name: str) -> bytes:
    return json.dumps([app_name, deployment_name]).encode()


def _store() -> Any:
    """Ray's store, or `None` where Ray is not installed or this process has joined no cluster."""
    try:
        from ray.experimental import internal_kv  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    store: Any = internal_kv
    return store if store._internal_kv_initialized() else None
