"""Fit, search, place and co-scale GPU quotas for deep-learning functions.

Every public name stands here and loads its module on first use, so that `import dilu_core` costs what numpy costs.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dilu_core.alternatives import alternative_configurations
    from dilu_core.arrival_mix import TaskMix
    from dilu_core.calibration import Calibration
    from dilu_core.cluster import Cluster, GpuType, Node, Oversubscription
    from dilu_core.correlation import LoadCorrelation
    from dilu_core.correlation_estimator import CorrelationEstimator
    from dilu_core.coscaling.audit import AuditLog
    from dilu_core.coscaling.budget import BudgetAsk, BudgetShare, BudgetShares, share_budget
    from dilu_core.coscaling.budgeted import BudgetedScaler, BudgetedState
    from dilu_core.coscaling.gpu import GpuInstance, GpuObservation
    from dilu_core.coscaling.grants import spare_milli
    from dilu_core.coscaling.horizontal import CoScaler
    from dilu_core.coscaling.params import HorizontalParams
    from dilu_core.coscaling.policy import Observation, Policy, ScalingDecision, ScalingReason
    from dilu_core.coscaling.reports import ObserveReport, ShadowReport
    from dilu_core.coscaling.staged import StagedPolicy, StagedState
    from dilu_core.coscaling.state import HorizontalState
    from dilu_core.coscaling.tokens import TokenState, core_percentages, mps_percentages, token_counts
    from dilu_core.coscaling.vertical import Grants, VerticalMode, VerticalParams, VerticalScaler, VerticalState
    from dilu_core.coscaling_plots import plot_fragmentation_over_time, plot_policies, plot_replay, plot_tuning
    from dilu_core.cost import CostReport
    from dilu_core.errors import (
        BackendUnavailableError,
        DeviceMemoryError,
        DiluError,
        FileFormatError,
        InvalidArgumentError,
        StateError,
    )
    from dilu_core.fragmentation import fragmentation
    from dilu_core.fragmentation_report import FragmentationChange, FragmentationReport
    from dilu_core.functions import FunctionSpec
    from dilu_core.gpu_scaling import GPU_PEAKS, GpuPeaks, GpuScale, gpu_scale, transfer_prior
    from dilu_core.instances import Configuration, Instance
    from dilu_core.interference import InterferenceModel, Tenant
    from dilu_core.interference_samples import InterferenceSamples, read_interference
    from dilu_core.joint import JointProblem, JointSearchResult
    from dilu_core.latency_fit import LatencyFit, TrainingFit
    from dilu_core.latency_plots import plot_latency
    from dilu_core.latency_prior import LatencyPrior
    from dilu_core.latency_surface import MonotoneSurface
    from dilu_core.llm_fit import LlmFit
    from dilu_core.mig import MigGeometry, MigProfile, MigSlice
    from dilu_core.mix_estimator import MixEstimator
    from dilu_core.performance import LatencyModel, MemoryModel, RooflineModel
    from dilu_core.placement import PlacementProblem, verify_placement
    from dilu_core.placement_plots import plot_fragmentation, plot_placement, plot_progress
    from dilu_core.plans import FunctionPlan, Plan
    from dilu_core.plotting import plot_plan
    from dilu_core.profile_files import read_profiles
    from dilu_core.profiling import profile_function
    from dilu_core.progress import ProgressLog
    from dilu_core.quota import LimitRule, Quota, QuotaConfig, QuotaGrid, QuotaSearchResult
    from dilu_core.result import Limit, SolveStats, Termination, TerminationReason
    from dilu_core.samples import ProfileSamples
    from dilu_core.sampling_design import first_cells
    from dilu_core.slots import Placement, Slot
    from dilu_core.solvers.batch_coscaling import BatchCoScaler, BatchDecision, BatchState
    from dilu_core.solvers.batch_vertical import BatchGrants, BatchVerticalScaler, SharedGpus, spare_by_function
    from dilu_core.solvers.batch_vertical_state import BatchVerticalState
    from dilu_core.solvers.calibrating import calibrate
    from dilu_core.solvers.cluster_measures import ClusterReplayResult, ClusterTimeline, FunctionOutcome
    from dilu_core.solvers.cluster_replay import ClusterMoment, replay_cluster
    from dilu_core.solvers.cluster_systems import CLUSTER_SYSTEMS, ClusterSystem, Replan
    from dilu_core.solvers.cluster_workload import ClusterFunction
    from dilu_core.solvers.fitting import fit_latency, fit_latency_many, fit_training
    from dilu_core.solvers.interference_fit import InterferenceFit, InterferencePrior, fit_interference
    from dilu_core.solvers.joint_search import search_joint, search_joint_many
    from dilu_core.solvers.llm_fitting import fit_llm
    from dilu_core.solvers.llm_quota import search_llm_quota
    from dilu_core.solvers.memory_fit import fit_memory
    from dilu_core.solvers.placement.decisions import HostReservation
    from dilu_core.solvers.placement.migration_plan import Admission, MigrationPlan, Move
    from dilu_core.solvers.placement.move_cost import MoveCost
    from dilu_core.solvers.placement.objective import Objective
    from dilu_core.solvers.placement.online import ClusterState, PlacementDecision
    from dilu_core.solvers.placement.place import PlacementResult, place
    from dilu_core.solvers.placement.ranking import GpuRanking, rank_gpus
    from dilu_core.solvers.placement.what_if import WhatIf
    from dilu_core.solvers.planner import plan
    from dilu_core.solvers.policy_replay import ReplayFigures, replay_many
    from dilu_core.solvers.prior_learning import learn_prior
    from dilu_core.solvers.quota_search import search_quota, search_quota_many, search_training_quota
    from dilu_core.solvers.quota_sweep import QuotaFronts, QuotaSweep, Scenario, sweep_quota
    from dilu_core.solvers.replay import ReplayResult, ReplayTimeline, replay
    from dilu_core.solvers.replay_oracle import OracleReplay, oracle_replay, oracle_shared_replay
    from dilu_core.solvers.shared_replay import replay_shared
    from dilu_core.solvers.shared_results import SharedReplayResult, TrainingReplay
    from dilu_core.solvers.shared_tenants import ReplayTenant, batch_tables
    from dilu_core.solvers.trials.drive import run_trials
    from dilu_core.solvers.trials.search import TrialSearch
    from dilu_core.solvers.tuning import tune
    from dilu_core.solvers.warm_up import warm_up
    from dilu_core.token_latency import LatencyCheck, TokenLatency
    from dilu_core.traces import ArrivalTrace, read_trace
    from dilu_core.training_model import TrainingModel
    from dilu_core.trial_plots import plot_trials
    from dilu_core.trials import Trial, TrialRecord, TrialResult
    from dilu_core.tuning_space import HeldOut, TuningResult, TuningSpace
    from dilu_core.upper_bound import UpperBound
    from dilu_core.verification import Violation, ViolationCode
    from dilu_core.workload import Workload, read_workload

__version__ = "0.1.0"

__all__ = [
    "CLUSTER_SYSTEMS",
    "GPU_PEAKS",
    "Admission",
    "ArrivalTrace",
    "AuditLog",
    "BackendUnavailableError",
    "BatchCoScaler",
    "BatchDecision",
    "BatchGrants",
    "BatchState",
    "BatchVerticalScaler",
    "BatchVerticalState",
    "BudgetAsk",
    "BudgetShare",
    "BudgetShares",
    "BudgetedScaler",
    "BudgetedState",
    "Calibration",
    "Cluster",
    "ClusterFunction",
    "ClusterMoment",
    "ClusterReplayResult",
    "ClusterState",
    "ClusterSystem",
    "ClusterTimeline",
    "CoScaler",
    "Configuration",
    "CorrelationEstimator",
    "CostReport",
    "DeviceMemoryError",
    "DiluError",
    "FileFormatError",
    "FragmentationChange",
    "FragmentationReport",
    "FunctionOutcome",
    "FunctionPlan",
    "FunctionSpec",
    "GpuInstance",
    "GpuObservation",
    "GpuPeaks",
    "GpuRanking",
    "GpuScale",
    "GpuType",
    "Grants",
    "HeldOut",
    "HorizontalParams",
    "HorizontalState",
    "HostReservation",
    "Instance",
    "InterferenceFit",
    "InterferenceModel",
    "InterferencePrior",
    "InterferenceSamples",
    "InvalidArgumentError",
    "JointProblem",
    "JointSearchResult",
    "LatencyCheck",
    "LatencyFit",
    "LatencyModel",
    "LatencyPrior",
    "Limit",
    "LimitRule",
    "LlmFit",
    "LoadCorrelation",
    "MemoryModel",
    "MigGeometry",
    "MigProfile",
    "MigSlice",
    "MigrationPlan",
    "MixEstimator",
    "MonotoneSurface",
    "Move",
    "MoveCost",
    "Node",
    "Objective",
    "Observation",
    "ObserveReport",
    "OracleReplay",
    "Oversubscription",
    "Placement",
    "PlacementDecision",
    "PlacementProblem",
    "PlacementResult",
    "Plan",
    "Policy",
    "ProfileSamples",
    "ProgressLog",
    "Quota",
    "QuotaConfig",
    "QuotaFronts",
    "QuotaGrid",
    "QuotaSearchResult",
    "QuotaSweep",
    "Replan",
    "ReplayFigures",
    "ReplayResult",
    "ReplayTenant",
    "ReplayTimeline",
    "RooflineModel",
    "ScalingDecision",
    "ScalingReason",
    "Scenario",
    "ShadowReport",
    "SharedGpus",
    "SharedReplayResult",
    "Slot",
    "SolveStats",
    "StagedPolicy",
    "StagedState",
    "StateError",
    "TaskMix",
    "Tenant",
    "Termination",
    "TerminationReason",
    "TokenLatency",
    "TokenState",
    "TrainingFit",
    "TrainingModel",
    "TrainingReplay",
    "Trial",
    "TrialRecord",
    "TrialResult",
    "TrialSearch",
    "TuningResult",
    "TuningSpace",
    "UpperBound",
    "VerticalMode",
    "VerticalParams",
    "VerticalScaler",
    "VerticalState",
    "Violation",
    "ViolationCode",
    "WhatIf",
    "Workload",
    "alternative_configurations",
    "batch_tables",
    "calibrate",
    "core_percentages",
    "first_cells",
    "fit_interference",
    "fit_latency",
    "fit_latency_many",
    "fit_llm",
    "fit_memory",
    "fit_training",
    "fragmentation",
    "gpu_scale",
    "learn_prior",
    "mps_percentages",
    "oracle_replay",
    "oracle_shared_replay",
    "place",
    "plan",
    "plot_fragmentation",
    "plot_fragmentation_over_time",
    "plot_latency",
    "plot_placement",
    "plot_plan",
    "plot_policies",
    "plot_progress",
    "plot_replay",
    "plot_trials",
    "plot_tuning",
    "profile_function",
    "rank_gpus",
    "read_interference",
    "read_profiles",
    "read_trace",
    "read_workload",
    "replay",
    "replay_cluster",
    "replay_many",
    "replay_shared",
    "run_trials",
    "search_joint",
    "search_joint_many",
    "search_llm_quota",
    "search_quota",
    "search_quota_many",
    "search_training_quota",
    "share_budget",
    "spare_by_function",
    "spare_milli",
    "sweep_quota",
    "token_counts",
    "transfer_prior",
    "tune",
    "verify_placement",
    "warm_up",
]

_NAMES_OF = {
    "dilu_core.alternatives": ("alternative_configurations",),
    "dilu_core.arrival_mix": ("TaskMix",),
    "dilu_core.calibration": ("Calibration",),
    "dilu_core.cluster": ("Cluster", "GpuType", "Node", "Oversubscription"),
    "dilu_core.correlation": ("LoadCorrelation",),
    "dilu_core.correlation_estimator": ("CorrelationEstimator",),
    "dilu_core.coscaling.audit": ("AuditLog",),
    "dilu_core.coscaling.budget": ("BudgetAsk", "BudgetShare", "BudgetShares", "share_budget"),
    "dilu_core.coscaling.budgeted": ("BudgetedScaler", "BudgetedState"),
    "dilu_core.coscaling.gpu": ("GpuInstance", "GpuObservation"),
    "dilu_core.coscaling.grants": ("spare_milli",),
    "dilu_core.coscaling.horizontal": ("CoScaler",),
    "dilu_core.coscaling.params": ("HorizontalParams",),
    "dilu_core.coscaling.policy": ("Observation", "Policy", "ScalingDecision", "ScalingReason"),
    "dilu_core.coscaling.reports": ("ObserveReport", "ShadowReport"),
    "dilu_core.coscaling.staged": ("StagedPolicy", "StagedState"),
    "dilu_core.coscaling.state": ("HorizontalState",),
    "dilu_core.coscaling.tokens": ("TokenState", "core_percentages", "mps_percentages", "token_counts"),
    "dilu_core.coscaling.vertical": ("Grants", "VerticalMode", "VerticalParams", "VerticalScaler", "VerticalState"),
    "dilu_core.coscaling_plots": ("plot_fragmentation_over_time", "plot_policies", "plot_replay", "plot_tuning"),
    "dilu_core.cost": ("CostReport",),
    "dilu_core.errors": (
        "BackendUnavailableError",
        "DeviceMemoryError",
        "DiluError",
        "FileFormatError",
        "InvalidArgumentError",
        "StateError",
    ),
    "dilu_core.fragmentation": ("fragmentation",),
    "dilu_core.fragmentation_report": ("FragmentationChange", "FragmentationReport"),
    "dilu_core.functions": ("FunctionSpec",),
    "dilu_core.gpu_scaling": ("GPU_PEAKS", "GpuPeaks", "GpuScale", "gpu_scale", "transfer_prior"),
    "dilu_core.instances": ("Configuration", "Instance"),
    "dilu_core.interference": ("InterferenceModel", "Tenant"),
    "dilu_core.interference_samples": ("InterferenceSamples", "read_interference"),
    "dilu_core.joint": ("JointProblem", "JointSearchResult"),
    "dilu_core.latency_fit": ("LatencyFit", "TrainingFit"),
    "dilu_core.latency_plots": ("plot_latency",),
    "dilu_core.latency_prior": ("LatencyPrior",),
    "dilu_core.latency_surface": ("MonotoneSurface",),
    "dilu_core.llm_fit": ("LlmFit",),
    "dilu_core.mig": ("MigGeometry", "MigProfile", "MigSlice"),
    "dilu_core.mix_estimator": ("MixEstimator",),
    "dilu_core.performance": ("LatencyModel", "MemoryModel", "RooflineModel"),
    "dilu_core.placement": ("PlacementProblem", "verify_placement"),
    "dilu_core.placement_plots": ("plot_fragmentation", "plot_placement", "plot_progress"),
    "dilu_core.plans": ("FunctionPlan", "Plan"),
    "dilu_core.plotting": ("plot_plan",),
    "dilu_core.profile_files": ("read_profiles",),
    "dilu_core.profiling": ("profile_function",),
    "dilu_core.progress": ("ProgressLog",),
    "dilu_core.quota": ("LimitRule", "Quota", "QuotaConfig", "QuotaGrid", "QuotaSearchResult"),
    "dilu_core.result": ("Limit", "SolveStats", "Termination", "TerminationReason"),
    "dilu_core.samples": ("ProfileSamples",),
    "dilu_core.sampling_design": ("first_cells",),
    "dilu_core.slots": ("Placement", "Slot"),
    "dilu_core.solvers.batch_coscaling": ("BatchCoScaler", "BatchDecision", "BatchState"),
    "dilu_core.solvers.batch_vertical": ("BatchGrants", "BatchVerticalScaler", "SharedGpus", "spare_by_function"),
    "dilu_core.solvers.batch_vertical_state": ("BatchVerticalState",),
    "dilu_core.solvers.calibrating": ("calibrate",),
    "dilu_core.solvers.cluster_measures": ("ClusterReplayResult", "ClusterTimeline", "FunctionOutcome"),
    "dilu_core.solvers.cluster_replay": ("ClusterMoment", "replay_cluster"),
    "dilu_core.solvers.cluster_systems": ("CLUSTER_SYSTEMS", "ClusterSystem", "Replan"),
    "dilu_core.solvers.cluster_workload": ("ClusterFunction",),
    "dilu_core.solvers.fitting": ("fit_latency", "fit_latency_many", "fit_training"),
    "dilu_core.solvers.interference_fit": ("InterferenceFit", "InterferencePrior", "fit_interference"),
    "dilu_core.solvers.joint_search": ("search_joint", "search_joint_many"),
    "dilu_core.solvers.llm_fitting": ("fit_llm",),
    "dilu_core.solvers.llm_quota": ("search_llm_quota",),
    "dilu_core.solvers.memory_fit": ("fit_memory",),
    "dilu_core.solvers.placement.decisions": ("HostReservation",),
    "dilu_core.solvers.placement.migration_plan": ("Admission", "MigrationPlan", "Move"),
    "dilu_core.solvers.placement.move_cost": ("MoveCost",),
    "dilu_core.solvers.placement.objective": ("Objective",),
    "dilu_core.solvers.placement.online": ("ClusterState", "PlacementDecision"),
    "dilu_core.solvers.placement.place": ("PlacementResult", "place"),
    "dilu_core.solvers.placement.ranking": ("GpuRanking", "rank_gpus"),
    "dilu_core.solvers.placement.what_if": ("WhatIf",),
    "dilu_core.solvers.planner": ("plan",),
    "dilu_core.solvers.policy_replay": ("ReplayFigures", "replay_many"),
    "dilu_core.solvers.prior_learning": ("learn_prior",),
    "dilu_core.solvers.quota_search": ("search_quota", "search_quota_many", "search_training_quota"),
    "dilu_core.solvers.quota_sweep": ("QuotaFronts", "QuotaSweep", "Scenario", "sweep_quota"),
    "dilu_core.solvers.replay": ("ReplayResult", "ReplayTimeline", "replay"),
    "dilu_core.solvers.replay_oracle": ("OracleReplay", "oracle_replay", "oracle_shared_replay"),
    "dilu_core.solvers.shared_replay": ("replay_shared",),
    "dilu_core.solvers.shared_results": ("SharedReplayResult", "TrainingReplay"),
    "dilu_core.solvers.shared_tenants": ("ReplayTenant", "batch_tables"),
    "dilu_core.solvers.trials.drive": ("run_trials",),
    "dilu_core.solvers.trials.search": ("TrialSearch",),
    "dilu_core.solvers.tuning": ("tune",),
    "dilu_core.solvers.warm_up": ("warm_up",),
    "dilu_core.token_latency": ("LatencyCheck", "TokenLatency"),
    "dilu_core.traces": ("ArrivalTrace", "read_trace"),
    "dilu_core.training_model": ("TrainingModel",),
    "dilu_core.trial_plots": ("plot_trials",),
    "dilu_core.trials": ("Trial", "TrialRecord", "TrialResult"),
    "dilu_core.tuning_space": ("HeldOut", "TuningResult", "TuningSpace"),
    "dilu_core.upper_bound": ("UpperBound",),
    "dilu_core.verification": ("Violation", "ViolationCode"),
    "dilu_core.workload": ("Workload", "read_workload"),
}
_HOME_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dilu_core' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package, whose public names win over submodules of the same name.

    Importing `dilu_core.fragmentation` binds the module to that name here, which would hide the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
