"""What a policy remembers: its entry in Serve's policy state, and snapshots of that which outlive Serve's memory.

Serve keeps the state of a policy in its controller and forgets it whenever the deployment is deployed anew or the
controller restarts. Snapshots go to the key-value store of the Ray cluster, which lives as long as the cluster. It is
there in every process that has joined the cluster, and its absence is no error: then nothing is remembered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ENTRY_KEY = "dilu_core"
"""Our entry in Serve's policy state; Serve puts keys of its own beside it."""
ENTRY_VERSION = 1
_NAMESPACE = b"dilu_core"


def serve_policy_state(policy_state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of the policy state that Serve keeps, our entry (`state`, `decided_s`, `decision`, ...).

    `None` where there is none, or none that this version of the library can have written.
    """
    return _whole(policy_state.get(ENTRY_KEY)) if isinstance(policy_state, Mapping) else None


def _whole(entry: object) -> dict[str, Any] | None:
    """A copy of `entry` if it has every part that one has; what the parts hold is for their readers to judge."""
    if not isinstance(entry, Mapping) or entry.get("version") != ENTRY_VERSION:
        return None
    parts = ("state", "decided_s", "queued", "target", "wanted")
    return dict(entry) if isinstance(entry.get("decision"), Mapping) and all(part in entry for part in parts) else None


def save_snapshot(app_name: str, deployment_name: str, entry: Mapping[str, object]) -> bool:
    """Remember `entry`, a JSON-able value, for the deployment; whether that worked."""
    store = _store()
    if store is None:
        return False
    store._internal_kv_put(_key(app_name, deployment_name), json.dumps(entry).encode(), True, namespace=_NAMESPACE)
    return True


def snapshot(app_name: str, deployment_name: str) -> dict[str, Any] | None:
    """What the deployment's policy remembered last: `state` (for `initial_state`), `decided_s` and `decision`.

    From any process that has joined the cluster; `None` without a cluster, or where nothing was remembered that this
    version of the library can read.
    """
    store = _store()
    found = None if store is None else store._internal_kv_get(_key(app_name, deployment_name), namespace=_NAMESPACE)
    try:
        return None if found is None else _whole(json.loads(found))
    except (ValueError, RecursionError):  # not what `save_snapshot` wrote
        return None


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
