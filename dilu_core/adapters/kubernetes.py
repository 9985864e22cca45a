"""Kubernetes as plain dictionaries: nothing here imports its client, opens a connection or keeps a clock.

pod_resources(instance, scheme)                 what a pod asks for under HAMi, KAI-Scheduler, MIG or MPS
instance_from_pod(pod), node_from_kubernetes(node)      the way back
filter, prioritize, assigned, released          a scheduler extender over a ClusterState
external_metric_value(decision, ...)            what a HorizontalPodAutoscaler follows
"""

from __future__ import annotations

from dilu_core.adapters.external_metrics import (
    external_metric_list,
    external_metric_value,
    horizontal_pod_autoscaler,
)
from dilu_core.adapters.kubernetes_nodes import node_from_kubernetes
from dilu_core.adapters.kubernetes_pods import instance_from_pod, pod_name
from dilu_core.adapters.pod_resources import CORE_POLICIES, INSTANCE_ANNOTATION, SCHEMES, PodResources, pod_resources
from dilu_core.adapters.scheduler_extender import MOST_PRIORITY, assigned, filter, prioritize, released

__all__ = [
    "CORE_POLICIES", "INSTANCE_ANNOTATION", "MOST_PRIORITY", "SCHEMES", "PodResources", "assigned",
    "external_metric_list", "external_metric_value", "filter", "horizontal_pod_autoscaler", "instance_from_pod",
    "node_from_kubernetes", "pod_name", "pod_resources", "prioritize", "released",
]  # fmt: skip
