"""Workloads for the cluster replay: served models, LLMs and training jobs that come and go, by seed.

Latency over batch and share comes from fits of measured tables: with the measured data (DILU_DATA or ../shared/data)
the five functions profiled on an A100 for the Dilu paper, with two training jobs from `generated_training.csv` (a
roofline formula, not measured); without it the example inside the package, measured on one H100. Memory, SLOs and
loads are ours. The shape of a load is a stretch of a recorded trace where there are any, or generated: waves, bursts
over a floor, or rare spikes; requests are Poisson around it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from dilu_core.cluster import Cluster, GpuType
from dilu_core.llm_fit import LlmFit
from dilu_core.performance import LatencyModel
from dilu_core.profile_files import read_profiles
from dilu_core.quota import QuotaGrid
from dilu_core.solvers.cluster_quotas import whole_gpu
from dilu_core.solvers.cluster_workload import ClusterFunction
from dilu_core.solvers.configuration import default_grid, without_repeats
from dilu_core.solvers.fitting import fit_latency
from dilu_core.traces import ArrivalTrace, read_trace

HERE = Path(__file__).resolve().parent
STEP_MILLI = 50


@dataclass(frozen=True)
class Profile:
    """A model to serve or train: its latency, the choices of quota, memory and SLO."""

    name: str
    kind: str
    model: LatencyModel
    grid: QuotaGrid
    memory_mib: int
    slo_ms: float | None = None


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


A100 = {  # name -> (SLO in ms, MiB); memory in half precision with the runtime
    "bert_base": ("inference", 200.0, 3072),
    "resnet152": ("inference", 200.0, 4096),
    "roberta_large": ("inference", 300.0, 5120),
    "gpt2_large": ("inference", 400.0, 8192),
    "llama2": ("llm-inference", 200.0, 18432),
    "resnet152-training": ("training", None, 20480),
    "bert-base-training": ("training", None, 16384),
}
H100 = {
    "resnet50": ("inference", 60.0, 2048),
    "resnet152": ("inference", 100.0, 4096),
    "bert-base": ("inference", 80.0, 3072),
    "roberta-large": ("inference", 160.0, 5120),
    "gpt2-large": ("inference", 300.0, 8192),
    "bert-base-training": ("training", None, 16384),
}


def setting() -> Setting:
    """The measured data where they are, else the example."""
    data = Path(os.environ.get("DILU_DATA", HERE.parents[1] / "shared" / "data"))
    table = data / "profiles" / "dilu_a100.csv"
    if table.is_file():
        tables = read_profiles(table) | read_profiles(HERE / "workloads" / "generated_training.csv")
        recorded = tuple(read_trace(path) for path in sorted((data / "traces").glob("*.txt")))
        profiles = tuple(_profile(name, tables[name], *row) for name, row in A100.items())
        source = f"{table.name} (A100, measured), generated_training.csv (formula), {len(recorded)} recorded traces"
        return Setting(GpuType("A100-40GB", 40960), profiles, recorded, source)
    tables = read_profiles(str(files("dilu_core.example") / "profiles.csv"))
    profiles = tuple(_profile(name, tables[name], *row) for name, row in H100.items())
    llm = LlmFit(
        fit_latency(tables["llama2-7b-prefill"]), fit_latency(tables["llama2-7b-decode"]),
        prompt_tokens=448, output_tokens=128,
    )  # fmt: skip
    grid = default_grid(tables["llama2-7b-decode"], STEP_MILLI)
    profiles += (Profile("llama2-7b", "llm-inference", llm, grid, 24576, 16000.0),)
    return Setting(GpuType("H100-80GB", 81079), profiles, (), "the packaged example (H100, measured), generated traces")


def _profile(name: str, table, kind: str, slo_ms: float | None, memory_mib: int) -> Profile:
    samples, _ = without_repeats(table)
    grid = default_grid(samples, STEP_MILLI)
    if kind == "training":
        grid = QuotaGrid(grid.batches[-1:], grid.sm_milli)
    return Profile(name, kind, fit_latency(samples).roofline, grid, memory_mib, slo_ms)


def workload(
    where: Setting, count: int, duration_s: float, seed: int, loads: tuple[float, float]
) -> list[ClusterFunction]:
    """`count` functions: 60 % inference, 20 % LLMs, 20 % training; gangs of 1, 2 or 4, a third of LLMs too large.

    A function's load peaks between the two `loads`, in parts of what a whole GPU serves, drawn log-uniformly.

    They arrive in the first half and stay for a third of the time or longer. A large LLM takes 1.3 GPUs of memory, and
    may be split.
    """
    draw = np.random.default_rng([seed, count])
    by_kind = {kind: [each for each in where.profiles if each.kind == kind]
               for kind in ("inference", "llm-inference", "training")}  # fmt: skip
    found = []
    for number in range(count):
        kind = str(draw.choice(["inference", "llm-inference", "training"], p=[0.6, 0.2, 0.2]))
        profile = by_kind[kind][int(draw.integers(len(by_kind[kind])))]
        arrives = float(np.floor(draw.uniform(0.0, duration_s / 2.0)))
        leaves = float(np.ceil(min(duration_s, arrives + draw.uniform(duration_s / 3.0, duration_s))))
        common = {
            "name": f"{profile.name}/{number}", "kind": kind, "model": profile.model, "grid": profile.grid,
            "arrives_s": arrives, "leaves_s": leaves,
        }  # fmt: skip
        if kind == "training":
            gpus = int(draw.choice([1, 2, 4], p=[0.5, 0.3, 0.2]))
            found.append(ClusterFunction(**common, memory_mib=profile.memory_mib, gpus=gpus))
            continue
        large = kind == "llm-inference" and draw.random() < 1.0 / 3.0
        memory = int(1.3 * where.gpu_type.memory_mib) if large else profile.memory_mib
        function = ClusterFunction(
            **common, memory_mib=memory, slo_ms=profile.slo_ms, splittable=large, trace=ArrivalTrace([0.0])
        )
        peak = whole_gpu(function)[0].throughput_rps * float(np.exp(draw.uniform(*np.log(loads))))
        trace = _shape(where, leaves - arrives, draw).scaled(peak)
        found.append(
            ClusterFunction(
                **common, memory_mib=memory, slo_ms=profile.slo_ms, splittable=large,
                trace=_random_arrivals(trace, draw),
            )
        )  # fmt: skip
    return found


def _shape(where: Setting, seconds: float, draw: np.random.Generator) -> ArrivalTrace:
    """Load over time with a 99th percentile of 1."""
    count = int(seconds)
    clock = np.arange(count)
    form = int(draw.integers(3 + len(where.recorded)))
    if form >= 3:
        whole = where.recorded[form - 3].rates_rps
        rates = np.roll(whole, -int(draw.integers(whole.size)))
        rates = np.resize(rates, count)
        smooth = np.convolve(rates, np.full(5, 0.2), "same")
        return ArrivalTrace(np.maximum(smooth / max(float(np.percentile(smooth, 99)), 1e-9), 0.0))
    if form == 0:
        wave = 0.55 + 0.45 * np.sin(2.0 * np.pi * (clock / draw.uniform(120.0, 600.0) + draw.random()))
    else:
        floor, often, long = (0.3, 120.0, 40.0) if form == 1 else (0.02, 150.0, 15.0)
        wave = np.full(count, floor)
        at = draw.exponential(often)
        while at < count:
            wave[int(at) : int(at + draw.exponential(long)) + 1] = draw.uniform(0.5, 1.0)
            at += long + draw.exponential(often)
    return ArrivalTrace(wave / max(float(np.percentile(wave, 99)), 1e-9))


def _random_arrivals(trace: ArrivalTrace, draw: np.random.Generator) -> ArrivalTrace:
    """Poisson counts per second around the rates."""
    return ArrivalTrace(draw.poisson(trace.rates_rps).astype(np.float64))
