"""Make a table measured by `profile_gpu.py` the packaged example: its profiles, its workload and where they come from.

    python bench/adopt_gpu_profiles.py MEASURED.csv              # say what would be written
    python bench/adopt_gpu_profiles.py MEASURED.csv --write      # into dilu_core/example

`MEASURED.json` beside the table, which the profiler wrote, names the machine. Functions of the workload that were not
measured are left out, and said to be.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dilu_core import read_profiles

COLUMNS = ("function", "gpu_type", "batch", "sm_milli", "latency_ms", "memory_mib", "note", "p95_ms")
_NODES, _GPUS = 4, 4


@dataclass(frozen=True)
class Served:
    """A function of the workload: its name, the tables it needs, and its lines of TOML."""

    name: str
    tables: tuple[str, ...]
    lines: tuple[str, ...]


def _inference(name: str, slo_ms: int, load_rps: int) -> Served:
    return Served(name, (name,), ('kind = "inference"', f"slo_ms = {slo_ms}", f"load_rps = {load_rps}"))


def _training(name: str) -> Served:
    return Served(name, (name,), ('kind = "training"', "gpus = 2"))


_LEAST_CELLS = 5
"""A function with fewer was cut short, and tells too little to be an example."""

WORKLOAD = (
    _inference("resnet50", 20, 3000),
    _inference("resnet152", 50, 2000),
    _inference("bert-base", 30, 3000),
    _inference("roberta-large", 80, 900),
    _inference("gpt2-large", 150, 400),
    Served(
        "llama2-7b",
        ("llama2-7b-decode", "llama2-7b-prefill"),
        (
            'kind = "llm-inference"',
            'profile = "llama2-7b-decode"           # one decode step at a context of 512 tokens',
            'prefill_profile = "llama2-7b-prefill"  # time to first token over the tokens of a prompt',
            "prompt_tokens = 448                    # half-way through its answer the mean request is at 512",
            "output_tokens = 128",
            "ttft_prompt_tokens = 1024",
            "ttft_slo_ms = 1500",
            "tpot_slo_ms = 60",
            "load_rps = 12",
            "splittable = true",
        ),
    ),
    _training("resnet50-training"),
    _training("bert-base-training"),
)
"""Loads and SLOs are ours."""


def table(measured: Path, machine: Mapping[str, Any]) -> str:
    """The measured rows in the example's columns, sorted, under two lines that say where they come from."""
    lines = measured.read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    counts = Counter(row["function"] for row in rows)
    rows = [row for row in rows if counts[row["function"]] >= _LEAST_CELLS]
    order = list(dict.fromkeys(row["function"] for row in rows))
    rows.sort(key=lambda row: (order.index(row["function"]), int(row["batch"]), int(row["sm_milli"])))
    out = io.StringIO()
    out.write(
        f"# Measured by bench/profile_gpu.py on {machine['device']}, {machine['date']}; driver {machine['driver']},\n"
    )
    out.write(f"# CUDA {machine['cuda']}, torch {machine['torch']}. See README.md in this folder.\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([row[name] for name in COLUMNS])
    return out.getvalue()


def workload(gpu_type: str, machine: Mapping[str, Any], functions: Sequence[Served]) -> str:
    """The TOML of a workload of `functions` on sixteen GPUs of the measured type."""
    blocks = [
        f"# Served models and training jobs on sixteen {gpu_type}.\n"
        f"# The profile table was measured on one: see README.md in this folder. Loads and SLOs are ours.\n"
        'profiles = ["profiles.csv"]\n'
        "price_per_gpu_hour = 2.0\n",
        "[plan]\n"
        'sizing = "load"                      # no more share than the load needs\n'
        "headroom = 0.43                      # at most 70 % of capacity, so that first tokens need not wait long\n"
        "quantile = 0.95\n"
        "sm_step_milli = 50\n",
        f"[gpu_types.{gpu_type}]\nmemory_mib = {machine['memory_mib']}\n",
        f'[[nodes]]\nname = "node"\ncount = {_NODES}\ngpu_type = "{gpu_type}"\ngpus = {_GPUS}\n',
    ]
    blocks += ["\n".join(("[[functions]]", f'name = "{each.name}"', *each.lines, "")) for each in functions]
    return "\n".join(blocks)


def readme(facts: Mapping[str, Any], cells: Mapping[str, int]) -> str:
    """Where the numbers come from, in the words of the machine's own record."""
    machine = facts["runs"][-1]
    counts = ", ".join(f"{name} {count}" for name, count in cells.items())
    checks = machine.get("share_check", [])
    shown = "; ".join(f"{row['sms']} SMs {row['slowdown']:.2f}x ({row['expected']:.2f}x)" for row in checks[1:])
    return f"""# Where the example's numbers come from

`profiles.csv` was **measured** on one {machine["device"]} ({facts["device_sms"]} SMs, {machine["memory_mib"]:,} MiB) on
{machine["date"]} by `bench/profile_gpu.py`, with driver {machine["driver"]}, CUDA {machine["cuda"]}, torch
{machine["torch"]}, torchvision {machine["torchvision"]}, transformers {machine["transformers"]}.

- **Models** are built from their configuration with random weights. Inference runs in bfloat16 on resident inputs:
  images of 224 x 224, sequences of 128 tokens. A training step is forward, loss, backward and optimizer in bfloat16
  autocast at batch 32 (SGD with momentum for ResNet-50, AdamW for BERT).
- **SM shares** are {machine["method"]}. These come in whole groups of SMs, so shares are odd: `sm_milli` is what was
  granted, not what was asked for. A matrix product of 8192^3 took, against all SMs (in brackets: in proportion):
  {shown or "not checked"}.
- **Time**: `latency_ms` is the median of 3 to 60 runs between CUDA events with a synchronisation after each, `p95_ms`
  the 95th percentile. Rows noted `cuda-graph` are replayed from a graph, rows noted `eager` issued by Python.
- **Memory** is what one instance alone holds: CUDA context ({facts["context_mib"]:.0f} MiB), weights, inputs, caches,
  and the peak of a run.

`llama2-7b` has two surfaces. In the rows of `llama2-7b-decode` the batch is the number of concurrent sequences and the
latency one decode step at a context of 512 tokens; in those of `llama2-7b-prefill` the batch column holds the tokens of
one prompt, and the latency is the time to its first token.

Cells: {counts}. One card, one day, nothing beside it: interference between neighbours is not in these numbers, and
loads and SLOs in `workload.toml` are ours. Replace the table by a profile of your own functions:
`bench/profile_gpu.py`, or any CSV with columns `function,batch,sm_milli,latency_ms`, optionally `memory_mib`,
`gpu_type`, `note`.
"""


def files(measured: Path) -> tuple[dict[str, str], list[str]]:
    """Name -> text of the example's three files, and the workload's functions that had to be left out."""
    facts = json.loads(measured.with_suffix(".json").read_text(encoding="utf-8"))
    machine = facts["runs"][-1]
    profiles = {name: samples for name, samples in read_profiles(measured).items() if len(samples) >= _LEAST_CELLS}
    kept = [each for each in WORKLOAD if all(name in profiles for name in each.tables)]
    gpu_type = next(iter(profiles.values())).gpu_type
    texts = {
        "profiles.csv": table(measured, machine),
        "workload.toml": workload(gpu_type, machine, kept),
        "README.md": readme(facts, {name: len(samples) for name, samples in profiles.items()}),
    }
    return texts, [each.name for each in WORKLOAD if each not in kept]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("measured", type=Path, help="CSV that profile_gpu.py wrote, with its JSON beside it")
    parser.add_argument("--write", action="store_true", help="write the files")
    example = Path(__file__).resolve().parents[1] / "dilu_core" / "example"
    parser.add_argument("--into", type=Path, default=example, help="folder; default dilu_core/example")
    options = parser.parse_args(arguments)
    texts, missing = files(options.measured)
    for name, text in texts.items():
        if options.write:
            (options.into / name).write_text(text, encoding="utf-8")
        print(f"{'wrote' if options.write else 'would write'} {options.into / name}: {len(text.splitlines())} lines")
    if missing:
        print(f"left out, as not measured: {', '.join(missing)}")


if __name__ == "__main__":
    main()
