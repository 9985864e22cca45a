"""warm_up(): compile every CPU kernel ahead of the first decision."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from dilu_core.cluster import Cluster, GpuType, Instance, Node
from dilu_core.correlation import LoadCorrelation
from dilu_core.coscaling.horizontal import CoScaler
from dilu_core.coscaling.params import HorizontalParams
from dilu_core.fragmentation import fragmentation
from dilu_core.joint import JointProblem
from dilu_core.kernels.cpu.dominance import dearest_dominated
from dilu_core.latency_surface import MonotoneSurface
from dilu_core.mig import A100_40GB
from dilu_core.placement import PlacementProblem
from dilu_core.result import SolveStats
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.batch_coscaling import BatchCoScaler
from dilu_core.solvers.batch_vertical import BatchVerticalScaler, SharedGpus
from dilu_core.solvers.fitting import fit_latency_many
from dilu_core.solvers.joint_search import search_joint, search_joint_many
from dilu_core.solvers.placement.column_generation import column_bound
from dilu_core.solvers.placement.construct import construct, first_fit, ledger_of
from dilu_core.solvers.placement.diving import dive
from dilu_core.solvers.placement.local_search import squeeze
from dilu_core.solvers.placement.objective import Objective
from dilu_core.solvers.placement.online import ClusterState
from dilu_core.solvers.placement.place import place
from dilu_core.solvers.placement.ranking import rank_gpus
from dilu_core.solvers.policy_replay import replay_many
from dilu_core.solvers.quota_search import search_quota
from dilu_core.solvers.quota_sweep import sweep_quota
from dilu_core.solvers.replay import replay
from dilu_core.solvers.shared_replay import replay_shared
from dilu_core.solvers.shared_tenants import ReplayTenant
from dilu_core.traces import ArrivalTrace


def _warm_up_online(gpu: GpuType, instances: tuple[Instance, ...]) -> None:
    """Place by either rule, on whole GPUs and on slices, with a refusal, a what-if and loads that rise together."""
    sliced = GpuType("sliced", 40960, mig=A100_40GB)
    whole = Cluster.homogeneous(1, 4, gpu)
    both = Cluster((Node("w", gpu, 4), Node("s", sliced, 1)))
    asked = tuple(replace(instance, name=f"asked {instance.name}") for instance in instances)
    loads = LoadCorrelation.of({name: ArrivalTrace(np.array([1.0, 2.0, 1.0])) for name in ("f", "g")})
    for state in (
        ClusterState(whole),
        ClusterState(both),
        ClusterState(whole, correlation=loads),
        ClusterState(whole, rule="fragmentation-gradient"),
        ClusterState(both, rule="fragmentation-gradient"),
    ):
        for instance in instances:
            state.place(instance)
        state.remove("one")
        for name in ("apart", "beside"):
            state.place(Instance(name, "inference", 300, 600, 100, function="f", anti_affinity=("f",)))
        state.place(Instance("other", "inference", 300, 600, 100, function="g"))
        state.place(Instance("wide", "training", 1000, 1000, 1000, gpus=4))
        state.reserve_host("host", cpu_milli=1, memory_mib=1)
        state.what_if(asked).scores  # noqa: B018
        rank_gpus(state, asked, backend="cpu")
        state.replan(max_migrations=2, time_limit_s=0.2)
        state.replan(max_migrations=2, time_limit_s=0.2, pending=[replace(asked[1], gpus=4)])


def _warm_up_exchange(gpu: GpuType) -> None:
    """Two gangs wait for room among as many running instances as moves are sought by exchange for."""
    state = ClusterState(Cluster.homogeneous(13, 4, gpu))
    for k in range(200):
        state.place(Instance(f"{k}", "inference", 250, 250, 100))
    waiting = [Instance(name, "training", 500, 500, 100, gpus=4) for name in ("x", "y")]
    state.replan(max_migrations=2, time_limit_s=0.1, pending=waiting)


def warm_up() -> SolveStats:
    """Solve one tiny problem of each kind, so that every kernel is compiled (or loaded from the cache on disk).

    Takes minutes of one core the first time after an installation, and seconds in later processes. Returns the time it
    took.
    """
    started = time.perf_counter()
    fit = fit_latency_many([ProfileSamples(*np.array([[1, 2, 4], [500, 500, 1000], [10, 12, 9]]))], backend="cpu")[0]
    search_quota(fit, slo_ms=100.0)
    surface = MonotoneSurface([1, 2], [500, 1000], [[10, 9], [12, 10]])
    sweep_quota([fit, surface], slo_ms=100.0, quantiles=None, backend="cpu").fronts()
    gpu = GpuType("warm-up", 1000)
    instances = (
        Instance("one", "inference", 300, 600, 100),
        Instance("gang", "training", 300, 600, 100, gpus=2),
        Instance("split", "llm-inference", 300, 300, 1500, splittable=True),
    )
    cluster = Cluster.homogeneous(1, 4, gpu)
    place(PlacementProblem(cluster, instances), time_limit_s=0.0)
    _warm_up_online(gpu, instances)
    _warm_up_exchange(gpu)
    apart = (Instance("a", "inference", 600, 600, 1), Instance("b", "inference", 600, 600, 1))
    problem = PlacementProblem(cluster, apart)
    built = construct(problem, apart, Objective(), stay={}, current={}, deadline=0.0)
    first_fit(ledger_of(problem, {}), apart)
    squeeze(built.ledger, target=1, deadline=time.perf_counter() + 1.0, seed=0)
    soon = time.perf_counter() + 60.0  # it ends by itself, but compiles on the way
    fragmentation(problem, built.ledger.placement())
    mixed = [Instance(f"{k}", "inference", 170 + 37 * k % 400, 600, 30 + 11 * k % 300) for k in range(40)]
    dive(column_bound(Cluster.homogeneous(10, 4, gpu), problem.oversubscription, mixed, deadline=soon), deadline=soon)
    none = np.zeros(1, np.int64)  # a dive of so small a problem does not come to this one
    dearest_dominated(0, none, none, np.zeros((1, 3), np.int64), none, np.ones((1, 1), np.bool_))
    joint = JointProblem(np.array([[2, 1]]), np.array([[[2, 2, 2], [1, 1, 1]]]), np.array([2, 2, 2]))
    search_joint(joint, backend="cpu")
    search_joint_many([joint] * 16, backend="cpu")
    params = HorizontalParams(10.0, 300, 600, slo_ms=100.0, base_latency_ms=50.0)
    replay(ArrivalTrace(np.array([1.0, 20.0])), CoScaler(params), params)
    replay_many(ArrivalTrace(np.array([1.0, 20.0])), params, backend="cpu")
    vertical = BatchVerticalScaler()
    vertical.decide(vertical.initial_state(), SharedGpus([0], ["slo"], [300], [600]))
    replay_shared([ReplayTenant("one", params, ArrivalTrace(np.array([1.0, 20.0])), CoScaler(params))], gpus=1)
    batch = BatchCoScaler([params])
    batch.decide(batch.initial_state(), 0.0, 1.0, 1, 0)
    return SolveStats(time.perf_counter() - started, "cpu")
