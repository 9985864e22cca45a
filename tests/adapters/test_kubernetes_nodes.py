"""Kubernetes nodes read from labels, from HAMi's annotation, or as the caller says."""

from __future__ import annotations

from typing import Any

import pytest

from dilu_core.adapters.kubernetes import node_from_kubernetes
from dilu_core.cluster import GpuType, Node
from dilu_core.errors import InvalidArgumentError
from dilu_core.mig import A100_40GB

LABELS = {
    "nvidia.com/gpu.product": "A100-SXM4-40GB-SHARED",
    "nvidia.com/gpu.count": "2",
    "nvidia.com/gpu.memory": "40536",
}


def _node(labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": "n", "labels": labels or {}, "annotations": annotations or {}},
        "status": {"allocatable": {"cpu": "31850m", "memory": "263856Ki", "nvidia.com/gpu": "20"}},
    }


def test_labels_of_gpu_feature_discovery_count_physical_gpus() -> None:
    """Sharing multiplies the resource and marks the product; neither is a GPU more."""
    kind = GpuType("A100-SXM4-40GB", 40_536)
    assert node_from_kubernetes(_node(LABELS)) == Node("n", kind, 2, cpu_milli=31_850, memory_mib=257)
    partitioned = node_from_kubernetes(_node(LABELS), mig=A100_40GB)
    assert partitioned is not None
    assert partitioned.gpu_type.mig == A100_40GB


def test_hami_registers_gpus_in_an_annotation() -> None:
    """The example of HAMi's protocol.md, and one GPU that is not healthy."""
    text = (
        "GPU-00552014,10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,0,true,0,hami-core:"
        "GPU-0fc3eda5,10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,0,true,1,hami-core:"
        "GPU-bad,10,32768,100,NVIDIA-Tesla V100-PCIE-32GB,0,false,2,hami-core:"
    )
    read = node_from_kubernetes(_node(annotations={"hami.io/node-nvidia-register": text}))
    assert read is not None
    assert (read.gpu_type, read.gpus) == (GpuType("NVIDIA-Tesla V100-PCIE-32GB", 32_768), 2)


def test_a_node_without_gpus_is_none_and_the_caller_may_overrule() -> None:
    """`gpu_type` and `gpus` stand for what labels do not say."""
    assert node_from_kubernetes({"metadata": {"name": "cpu"}}) is None
    kind = GpuType("X", 1)
    assert node_from_kubernetes({"metadata": {"name": "n"}}, gpu_type=kind, gpus=3) == Node("n", kind, 3)
    overruled = node_from_kubernetes(_node(LABELS), gpus=1)
    assert overruled is not None
    assert overruled.gpus == 1


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (_node(), "lack nvidia.com/gpu.product"),
        (_node({"nvidia.com/gpu.product": "A100-SXM4-40GB-MIG-1g.5gb"}), "describes partitions"),
        (_node({"nvidia.com/gpu.product": "A100"}), r"nvidia.com/gpu.count is missing"),
        (_node(annotations={"hami.io/node-nvidia-register": "GPU-1,10:"}), "seven or more fields"),
        ({"metadata": {}}, r"node.metadata.name"),
        ({**_node(LABELS), "status": {"allocatable": {"cpu": "-5"}}}, "node.status.allocatable.cpu is '-5'"),
    ],
)
def test_what_cannot_be_read_is_named(node: dict[str, Any], message: str) -> None:
    """The error names the label, annotation or field."""
    with pytest.raises(InvalidArgumentError, match=message):
        node_from_kubernetes(node)


def test_a_gpu_type_that_is_none_is_named() -> None:
    """Also where the GPUs are to be partitioned."""
    with pytest.raises(InvalidArgumentError, match="gpu_type is 'A100'"):
        node_from_kubernetes(_node(LABELS), gpu_type="A100", mig=A100_40GB)  # type: ignore[arg-type]
