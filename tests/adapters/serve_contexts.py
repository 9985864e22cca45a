"""Contexts as Ray Serve's controller makes them, for tests without Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dilu_core.adapters.ray_serve_metrics import AGE_S, ARRIVALS
from dilu_core.coscaling.params import HorizontalParams

PARAMS = HorizontalParams(
    capacity_rps=10.0, request_milli=300, limit_milli=600, max_instances=20, lean=1.0, short_s=1, window_s=20
)


def series(*points: tuple[float, float]) -> list[Any]:
    """Serve's time series: objects with a time stamp and a value."""
    return [SimpleNamespace(timestamp=stamp, value=value) for stamp, value in points]


def context(**known: Any) -> Any:
    """What the adapters read of a context; a stand-in, for only Serve makes real ones."""
    found = {
        "app_name": "app",
        "deployment_name": "Model",
        "current_time": 100.0,
        "current_num_replicas": 1,
        "target_num_replicas": 1,
        "total_num_requests": 0.0,
        "total_queued_requests": 0.0,
        "raw_metrics": {},
        "policy_state": {},
        "capacity_adjusted_min_replicas": 0,
        "capacity_adjusted_max_replicas": 20,
        "config": SimpleNamespace(metrics_interval_s=1.0, look_back_period_s=2.0),
    }
    assert known.keys() <= found.keys()
    return SimpleNamespace(**(found | known))


def reported(now: float, rates: list[float]) -> dict[str, dict[str, list[Any]]]:
    """Old replicas that count arrivals at those rates, and were sampled in the last second."""
    totals = {f"r{i}": series((now - 1.0, 5000.0), (now, 5000.0 + rate)) for i, rate in enumerate(rates)}
    ages = {name: series((now - 1.0, 900.0), (now, 901.0)) for name in totals}
    return {ARRIVALS: totals, AGE_S: ages}
