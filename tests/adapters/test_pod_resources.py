"""What pods ask for under each scheme, as the schemes' documentation has it, and the way back."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilu_core.adapters.kubernetes import INSTANCE_ANNOTATION, instance_from_pod, pod_name, pod_resources
from dilu_core.adapters.kubernetes_pods import host_demand
from dilu_core.adapters.quantities import demand_mib, offered_cpu_milli, parse_quantity, whole_quantity
from dilu_core.errors import InvalidArgumentError
from dilu_core.instances import Configuration, Instance
from dilu_core.mig import A100_40GB
from dilu_core.quota import Quota

F = Instance("f-0", "inference", 300, 600, 8000, function="f", cpu_milli=1500, host_memory_mib=2048)


def _pod(resources: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    container = {"name": "main", "resources": {"limits": resources}}
    return {"metadata": {"name": "p", "namespace": "ns", **metadata}, "spec": {"containers": [container]}}


def test_hami_books_and_caps_by_cores_and_memory() -> None:
    """The fields of HAMi's examples/nvidia/default_use.yaml; the host's part as ordinary requests."""
    made = pod_resources(F)
    assert made.limits == {"nvidia.com/gpu": "1", "nvidia.com/gpucores": "30", "nvidia.com/gpumem": "8000"}
    assert made.requests == {"cpu": "1500m", "memory": "2048Mi"}
    assert not made.env
    assert any("only while alone" in note for note in made.notes)
    forced = pod_resources(F, core_policy="force", memory_unit_mib=3)
    assert forced.env == {"GPU_CORE_UTILIZATION_POLICY": "force"}
    assert forced.limits["nvidia.com/gpumem"] == "2667"  # in units of memoryFactor, rounded up
    assert any("does not burst" in note for note in forced.notes)
    whole = pod_resources(Instance("g", "training", 995, 1000, (9000, 8000), gpus=2))
    assert whole.limits == {"nvidia.com/gpu": "2", "nvidia.com/gpucores": "100", "nvidia.com/gpumem": "9000"}
    assert any("exclusive" in note for note in whole.notes)
    assert any("most any of them needs" in note for note in whole.notes)


def test_kai_asks_for_memory_or_for_a_fraction_that_covers_both() -> None:
    """Annotations of KAI's docs/gpu-sharing: memory in MiB, or one number, which must cover request and memory."""
    by_memory = pod_resources(F, "kai", container="gpu", queue="team")
    assert by_memory.annotations["gpu-memory"] == "8000"
    assert by_memory.annotations["gpu-fraction-container-name"] == "gpu"
    assert (by_memory.labels, by_memory.scheduler_name) == ({"kai.scheduler/queue": "team"}, "kai-scheduler")
    assert pod_resources(F, "kai", gpu_memory_mib=40_960).annotations["gpu-fraction"] == "0.3"  # the request
    assert pod_resources(F, "kai", gpu_memory_mib=16_384).annotations["gpu-fraction"] == "0.489"  # the memory, up
    gang = pod_resources(Instance("g", "training", 500, 500, 100, gpus=2), "kai", gpu_memory_mib=1000)
    assert gang.annotations["gpu-fraction-num-devices"] == "2"
    whole = pod_resources(Instance("g", "training", 1000, 1000, 100, gpus=2), "kai", gpu_memory_mib=1000)
    assert whole.limits == {"nvidia.com/gpu": "2"}
    assert "gpu-fraction" not in whole.annotations


def test_mig_takes_the_smallest_profile_with_the_request() -> None:
    """300 milli need three of seven slices; what the partition takes from the limit is said."""
    made = pod_resources(F, "mig", geometry="A100-40GB")
    assert made.limits == {"nvidia.com/mig-3g.20gb": "1"}
    assert any("428 of the limit of 600" in note for note in made.notes)
    assert pod_resources(Quota(100, 140), "mig", memory_mib=6000, geometry=A100_40GB).limits == {
        "nvidia.com/mig-1g.10gb": "1"
    }


def test_mps_caps_at_the_limit_and_says_that_nothing_is_reserved() -> None:
    """The percentage is a limit, not a reservation; replicas of the device plugin cap it further."""
    made = pod_resources(Configuration(305, 618, 8000), "mps")
    assert made.env == {
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "61",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=8000M",
    }
    assert made.limits == {"nvidia.com/gpu": "1"}
    shared = pod_resources(Configuration(305, 618, 8000), "mps", mps_replicas=3, mps_resource="nvidia.com/gpu.shared")
    assert shared.env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "33"
    assert shared.limits == {"nvidia.com/gpu.shared": "1"}
    tight = pod_resources(Configuration(305, 309, 8000), "mps")
    assert tight.env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "31"  # never below the request


def test_additions_leave_the_pod_and_what_it_had() -> None:
    """The given pod is untouched; other containers, variables and annotations stay."""
    pod = {
        "metadata": {"name": "p", "annotations": {"a": "1"}},
        "spec": {
            "containers": [
                {"name": "side"},
                {"name": "gpu", "env": [{"name": "X", "value": "1"}, {"name": "GPU_CORE_UTILIZATION_POLICY"}]},
            ]
        },
    }
    before = json.dumps(pod)
    made = pod_resources(F, container="gpu", core_policy="disable").applied_to(pod)
    assert json.dumps(pod) == before
    side, gpu = made["spec"]["containers"]
    assert side == {"name": "side"}
    assert gpu["env"] == [{"name": "X", "value": "1"}, {"name": "GPU_CORE_UTILIZATION_POLICY", "value": "disable"}]
    assert made["metadata"]["annotations"]["a"] == "1"
    assert gpu["resources"]["limits"]["nvidia.com/gpucores"] == "30"
    with pytest.raises(InvalidArgumentError, match=r"pod has no container 'main'; found side, gpu"):
        pod_resources(F).applied_to(pod)


def test_parts_that_are_null_are_empty() -> None:
    """As YAML has it where a key has no value."""
    container = {"name": "main", "resources": None, "env": None}
    for pod in ({"metadata": None, "spec": None}, {"metadata": {"labels": None}, "spec": {"containers": [container]}}):
        made = pod_resources(F, core_policy="force").applied_to(pod)
        assert made["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpucores"] == "30"


@st.composite
def _instances(draw: st.DrawFn) -> Instance:
    request = draw(st.integers(1, 1000))
    return Instance(
        "whatever",
        draw(st.sampled_from(["inference", "llm-inference", "training"])),
        request,
        draw(st.integers(request, 1000)),
        draw(st.integers(0, 20_000)),
        function=draw(st.sampled_from(["", "f", "g/1"])),
        affinity=draw(st.sampled_from([(), ("h",)])),
        cpu_milli=draw(st.integers(0, 4000)),
        host_memory_mib=draw(st.integers(0, 10_000)),
    )


@given(_instances(), st.sampled_from(["hami", "kai", "mig", "mps"]))
def test_a_pod_made_here_reads_back_as_the_instance(instance: Instance, scheme: str) -> None:
    """Whatever the scheme loses, the instance is read back exactly, but for its name, which is the pod's."""
    made = pod_resources(instance, scheme, geometry="A100-40GB", gpu_memory_mib=40_960).applied_to()
    made["metadata"]["name"] = "pod"
    read = instance_from_pod(made)
    assert read is not None
    assert read.to_dict() == {**instance.to_dict(), "name": "default/pod"}
    assert host_demand(made) == (instance.cpu_milli, instance.host_memory_mib)


@given(_instances(), st.sampled_from(["hami", "mig", "mps"]))
def test_without_the_annotation_a_scheme_never_promises_less_than_the_request(instance: Instance, scheme: str) -> None:
    """Read from the resources alone, the booking covers the request, and the memory."""
    made = pod_resources(instance, scheme, geometry="A100-40GB").applied_to()
    del made["metadata"]["annotations"][INSTANCE_ANNOTATION]
    made["metadata"]["name"] = "pod"
    read = instance_from_pod(made, gpu_memory_mib=40_960)
    assert read is not None
    assert read.request_milli >= instance.request_milli
    assert read.total_memory_mib >= instance.total_memory_mib


@pytest.mark.parametrize(
    ("pod", "booked"),
    [
        (_pod({"nvidia.com/gpu": 2, "nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 30}), (300, 300, 3000, 2)),
        (_pod({"nvidia.com/gpumem-percentage": "50"}), (1, 1000, 5000, 1)),
        (_pod({"nvidia.com/gpu": "1"}), (1000, 1000, 10_000, 1)),
        (_pod({"nvidia.com/mig-1g.5gb.me": 1}), (142, 142, 5120, 1)),
        (_pod({"nvidia.com/mig-4g.96gb.gfx": 1, "nvidia.com/mig-1g.5gb": 0}), (571, 571, 98_304, 1)),
        (_pod({}, annotations={"gpu-fraction": "0.25"}), (250, 1000, 2500, 1)),
        (_pod({}, annotations={"gpu-memory": "700", "gpu-fraction-num-devices": "2"}), (1, 1000, 700, 2)),
        (_pod({"nvidia.com/gpu": "0"}), None),
        (_pod({"cpu": "2", "nvidia.com/hostdev": 1}), None),
    ],
)
def test_foreign_pods_are_understood_from_what_they_ask_for(pod: dict[str, Any], booked: object) -> None:
    """Request, limit, memory and GPUs of pods that others wrote, on GPUs of 10,000 MiB."""
    read = instance_from_pod(pod, gpu_memory_mib=10_000)
    assert booked == (read and (read.request_milli, read.limit_milli, read.memory_mib, read.gpus))
    assert pod_name(pod) == "ns/p"


def test_labels_name_kind_and_function() -> None:
    """Our labels come before the usual ones."""
    read = instance_from_pod(
        _pod({"nvidia.com/gpu": 1}, labels={"app": "a", "dilu-core/function": "f", "dilu-core/kind": "training"})
    )
    assert read is not None
    assert (read.function, read.kind) == ("f", "training")


def test_the_host_gives_the_greater_of_running_and_starting() -> None:
    """Sum over containers and sidecars, most of the initial ones, plus overhead."""

    def asks(cpu: str, memory: str, **more: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu, "memory": memory}}, **more}

    spec = {
        "containers": [asks("250m", "1Gi"), asks("1", "512Mi")],
        "initContainers": [asks("2", "100M"), asks("100m", "1Mi", restartPolicy="Always")],
        "overhead": {"cpu": "10m"},
    }
    assert host_demand({"spec": spec}) == (2010, 1537)


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), ("1500m", Fraction(3, 2)), ("16Gi", 16 * 2**30), ("1e3", 1000), (".5", Fraction(1, 2)), (2, 2)],
)
def test_quantities_are_exact(text: Any, number: Any) -> None:
    """Suffixes of the Kubernetes grammar."""
    assert parse_quantity("x", text) == number


def test_demands_round_up_and_offers_down() -> None:
    """A byte more than a MiB is two MiB asked for, and one offered."""
    assert demand_mib("x", str(2**20 + 1)) == 2
    assert offered_cpu_milli("x", "1999u") == 1


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: pod_resources(F, "gpushare"), "scheme is 'gpushare'"),
        (lambda: pod_resources(7), "config is 7"),  # type: ignore[arg-type]
        (lambda: pod_resources(Quota(1, 2)), "memory_mib is None"),
        (lambda: pod_resources(F, "mig"), "geometry is None"),
        (lambda: pod_resources(Quota(1, 2), "mig", memory_mib=50_000, geometry=A100_40GB), "geometry has no profile"),
        (lambda: pod_resources(F, "mps", mps_replicas=4), "mps_replicas is 4"),
        (lambda: pod_resources(Instance("g", "training", 5, 5, 1, gpus=2), "mps"), "config is a gang"),
        (lambda: pod_resources(Instance("g", "training", 5, 5, 1, gpus=2), "mig", geometry=A100_40GB), "a gang of 2"),
        (lambda: pod_resources(F, "kai", gpu_memory_mib=4000), "gpu_memory_mib is 4000"),
        (lambda: instance_from_pod({"metadata": {}}), r"pod.metadata.name is None"),
        (lambda: instance_from_pod(_pod({}, annotations={"gpu-fraction": "0.5"})), "gpu_memory_mib is None"),
        (lambda: instance_from_pod(_pod({"nvidia.com/gpu": "many"})), "nvidia.com/gpu is 'many'"),
        (lambda: instance_from_pod(_pod({"nvidia.com/mig-1g.5gb": 2})), "nvidia.com/mig-1g.5gb is 2"),
        (lambda: instance_from_pod(_pod({"nvidia.com/mig-0g.0gb": 1})), "nvidia.com/mig-0g.0gb names no MIG profile"),
        (lambda: instance_from_pod(_pod({"nvidia.com/mig-half": 1})), "nvidia.com/mig-half names no MIG profile"),
        (lambda: instance_from_pod(_pod({"nvidia.com/mig-1g.5gb": 1, "nvidia.com/mig-2g.10gb": 1})), "1 other profile"),
        (lambda: instance_from_pod(_pod({"nvidia.com/gpu": 1, "cpu": "-5"})), "cpu is '-5'"),
        (lambda: instance_from_pod(_pod({"nvidia.com/gpu": 1, "memory": "-1Gi"})), "memory is '-1Gi'"),
        (lambda: instance_from_pod(_pod({}, annotations={INSTANCE_ANNOTATION: "{"})), "expected JSON"),
        (lambda: instance_from_pod(_pod({}, annotations={INSTANCE_ANNOTATION: "[" * 100_000})), "expected JSON"),
        (lambda: instance_from_pod(_pod({}, annotations={INSTANCE_ANNOTATION: '{"a":' * 100_000})), "expected JSON"),
        (lambda: instance_from_pod(None), "pod is None|pod.metadata.name is None"),  # type: ignore[arg-type]
        (lambda: pod_resources(F).applied_to(5), "pod is 5"),  # type: ignore[arg-type]
        (lambda: pod_resources(F).applied_to({"metadata": 5}), "pod.metadata is 5"),
        (lambda: pod_resources(F).applied_to({"spec": {"containers": [5]}}), r"pod.spec.containers\[0\] is 5"),
        (lambda: instance_from_pod(_pod({}, labels={}, annotations={"gpu-fraction": "2"})), "gpu-fraction is '2'"),
        (lambda: instance_from_pod({"metadata": {"name": "p"}, "spec": {"containers": 3}}), "pod.spec.containers is 3"),
        (lambda: whole_quantity("x", "1.5"), "x is '1.5'"),
        (lambda: parse_quantity("x", "5Zi"), "x is '5Zi'"),
    ],
)
def test_what_cannot_be_is_named(action: Any, message: str) -> None:
    """The error names the argument or the field."""
    with pytest.raises(InvalidArgumentError, match=message):
        action()
