"""Workloads for the cluster replay: served models, LLMs and training jobs that come and go, by seed.

Latency over batch and share comes from fits of measured tables: with the measured data (DILU_DATA or ../shared/data)
the five functions profiled on an A100 for the Dilu paper, and three training jobs, two from `generated_training.csv` (a
roofline formula, not measured) and one as measured on an H100; without it the example inside the package, measured on
one H100. The mix of kinds, their memory and their gangs are those of the published event logs; SLOs and loads are ours.
The shape of a load is a stretch of a recorded trace where there are any, or generated: waves, bursts over a floor, or
rare spikes; requests are Poisson around it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dilu_core.cluster import Cluster, GpuType
from dilu_core.instances import InstanceKind
from dilu_core.llm_fit import LlmFit
from dilu_core.performance import LatencyModel
from dilu_core.profile_files import read_profiles
from dilu_core.quota import QuotaGrid
from dilu_core.samples import ProfileSamples
from dilu_core.solvers.cluster_quotas import whole_gpu
from dilu_core.solvers.cluster_workload import ClusterFunction
from dilu_core.solvers.configuration import default_grid, without_repeats
from dilu_core.solvers.fitting import fit_latency
from dilu_core.traces import ArrivalTrace, read_trace

Rows = dict[str, tuple[InstanceKind, float | None]]
"""Kind and SLO in ms by function."""

KINDS: tuple[InstanceKind, ...] = ("inference", "llm-inference", "training")
PARTS = (0.6, 0.2, 0.2)
MEMORY_GIB = {"inference": (3, 10), "llm-inference": (20, 30), "training": (25, 40)}
"""As in the published event logs: the parts of the kinds, and their memory per GPU."""

HERE = Path(__file__).resolve().parent
STEP_MILLI = 50


@dataclass(frozen=True)
class Profile:
    """A model to serve or train: its latency, the choices of quota, memory and SLO."""

    name: str
    kind: InstanceKind
    model: LatencyModel
    grid: QuotaGrid
    slo_ms: float | None = None


@dataclass(frozen=True)
class Mix:
    """How many functions come in `duration_s` seconds, how large gangs are, and between which parts of what a whole GPU
    serves a function's load peaks (log-uniformly)."""

    functions: int
    duration_s: float
    gangs: tuple[int, ...]
    loads: tuple[float, float]


@dataclass(frozen=True)
class Setting:
    """Profiles on a type of GPU, and recorded traces."""

    gpu_type: GpuType
    profiles: tuple[Profile, ...]
    recorded: tuple[ArrivalTrace, ...]
    source: str

    def cluster(self, nodes: int, gpus: int = 4) -> Cluster:
        """Equal nodes of this GPU."""
        return Cluster.homogeneous(nodes, gpus, self.gpu_type)


A100: Rows = {
    "bert_base": ("inference", 200.0),
    "resnet152": ("inference", 200.0),
    "roberta_large": ("inference", 300.0),
    "gpt2_large": ("inference", 400.0),
    "llama2": ("llm-inference", 200.0),
    "resnet152-training": ("training", None),
    "bert-base-training": ("training", None),
    "bert-base-training (H100)": ("training", None),
}
H100: Rows = {
    "resnet50": ("inference", 60.0),
    "resnet152": ("inference", 100.0),
    "bert-base": ("inference", 80.0),
    "roberta-large": ("inference", 160.0),
    "gpt2-large": ("inference", 300.0),
    "bert-base-training": ("training", None),
}


def setting() -> Setting:
    """The measured data where they are, else the example."""
    data = Path(os.environ.get("DILU_DATA", HERE.parents[1] / "shared" / "data"))
    table = data / "profiles" / "dilu_a100.csv"
    if table.is_file():
        training = {"bert-base-training (H100)": _example()["bert-base-training"]}
        tables = read_profiles(table) | read_profiles(HERE / "workloads" / "generated_training.csv") | training
        recorded = tuple(read_trace(path) for path in sorted((data / "traces").glob("*.txt")))
        profiles = tuple(_profile(name, tables[name], *row) for name, row in A100.items())
        source = (
            f"{table.name} (A100, measured); training from generated_training.csv (formula) and measured on an H100; "
            f"{len(recorded)} recorded traces and generated ones"
        )
        return Setting(GpuType("A100-40GB", 40960), profiles, recorded, source)
    tables = _example()
    profiles = tuple(_profile(name, tables[name], *row) for name, row in H100.items())
    llm = LlmFit(
        fit_latency(tables["llama2-7b-prefill"]), fit_latency(tables["llama2-7b-decode"]),
        prompt_tokens=448, output_tokens=128,
    )  # fmt: skip
    grid = default_grid(tables["llama2-7b-decode"], STEP_MILLI)
    profiles += (Profile("llama2-7b", "llm-inference", llm, grid, 16000.0),)
    return Setting(GpuType("H100-80GB", 81079), profiles, (), "the packaged example (H100, measured), generated traces")


def _example() -> dict[str, ProfileSamples]:
    return read_profiles(str(files("dilu_core.example") / "profiles.csv"))


def _profile(name: str, table: ProfileSamples, kind: InstanceKind, slo_ms: float | None) -> Profile:
    samples, _ = without_repeats(table)
    grid = default_grid(samples, STEP_MILLI)
    if kind == "training":
        grid = QuotaGrid(grid.batches[-1:], grid.sm_milli)
    return Profile(name, kind, fit_latency(samples).roofline, grid, slo_ms)


def workload(where: Setting, mix: Mix, seed: int) -> list[ClusterFunction]:
    """Functions by the parts, gangs and memory of the published event logs, all LLMs splittable.

    They arrive in the first half of the time and stay for a third of it or longer.
    """
    draw = np.random.default_rng([seed, mix.functions])
    by_kind = {kind: [each for each in where.profiles if each.kind == kind] for kind in KINDS}
    found = []
    for number in range(mix.functions):
        kind = KINDS[int(draw.choice(3, p=PARTS))]
        profile = by_kind[kind][int(draw.integers(len(by_kind[kind])))]
        arrives = float(np.floor(draw.uniform(0.0, mix.duration_s / 2.0)))
        leaves = float(np.ceil(min(mix.duration_s, arrives + draw.uniform(mix.duration_s / 3.0, mix.duration_s))))
        least, most = MEMORY_GIB[kind]
        function = ClusterFunction(
            name=f"{profile.name}/{number}",
            kind=kind,
            model=profile.model,
            grid=profile.grid,
            memory_mib=1024 * int(draw.integers(least, most + 1)),
            slo_ms=profile.slo_ms,
            trace=None if kind == "training" else ArrivalTrace([0.0]),
            gpus=int(draw.choice(mix.gangs)) if kind == "training" else 1,
            splittable=kind == "llm-inference",
            arrives_s=arrives,
            leaves_s=leaves,
        )
        if kind != "training":
            peak = whole_gpu(function)[0].throughput_rps * float(np.exp(draw.uniform(*np.log(mix.loads))))
            trace = _random_arrivals(_shape(where, leaves - arrives, draw).scaled(peak), draw)
            function = replace(function, trace=trace)
        found.append(function)
    return found


def _shape(where: Setting, seconds: float, draw: np.random.Generator) -> ArrivalTrace:
    """Load over time whose 99th percentile is 1, or less where its peak would be above 2."""
    count = int(seconds)
    clock = np.arange(count)
    form = int(draw.integers(3 + len(where.recorded)))
    if form >= 3:
        whole = where.recorded[form - 3].rates_rps
        rates = np.roll(whole, -int(draw.integers(whole.size)))
        rates = np.resize(rates, count)
        smooth = np.convolve(rates, np.full(5, 0.2), "same")
        return _scaled(smooth)
    if form == 0:
        wave = 0.55 + 0.45 * np.sin(2.0 * np.pi * (clock / draw.uniform(120.0, 600.0) + draw.random()))
    else:
        floor, often, long = (0.3, 120.0, 40.0) if form == 1 else (0.02, 150.0, 15.0)
        wave = np.full(count, floor)
        at = draw.exponential(often)
        while at < count:
            wave[int(at) : int(at + draw.exponential(long)) + 1] = draw.uniform(0.5, 1.0)
            at += long + draw.exponential(often)
    return _scaled(wave)


def _scaled(rates: NDArray[np.float64]) -> ArrivalTrace:
    level = max(float(np.percentile(rates, 99)), 0.5 * float(rates.max()))
    return ArrivalTrace(rates / level if level > 0.0 else rates)


def _random_arrivals(trace: ArrivalTrace, draw: np.random.Generator) -> ArrivalTrace:
    """Poisson counts per second around the rates."""
    return ArrivalTrace(draw.poisson(trace.rates_rps).astype(np.float64))
