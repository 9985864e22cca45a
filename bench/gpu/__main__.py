"""Validates every CUDA kernel against the CPU, then times both and writes JSON.

    PYTHONPATH=. python bench/gpu --out FILE.json [--small] [--only joint,sweep] [--budget-s 480] [--again] [--cpu]

FILE is written after each case; a case that is in it (same sizes, same device, validated) is skipped unless --again, so
a run that was cut off goes on where it stopped. No case starts once the budget is spent. Without a GPU the command says
what was found, and times the CPU alone where --cpu is given. Exit status: 1 where a kernel is wrong or fails, 2 where
there is no GPU and no --cpu, or an option is wrong, 3 where the budget ended before the cases did.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -m bench.gpu

from case import Case
from hardware import Limits, limits, machine
from measuring import measured
from timing import launch_cost

from dilu_core.kernels.backend import BackendUnavailableError
from dilu_core.kernels.cuda.device import probe

NAMES = ("joint", "sweep", "what_if", "fits", "replays")

Loader = Callable[[bool], Case]


def main(argv: Sequence[str] | None = None, loaders: Mapping[str, Loader] | None = None) -> int:
    """Runs the cases that `argv` asks for; `loaders` stands in for the modules of this folder (in tests)."""
    options = _options(argv)
    started = time.perf_counter()
    found = probe()
    say(f"GPU: {found.found}")
    if found.device is None and not options.cpu:
        say("no GPU: nothing measured; --cpu times the CPU side alone.")
        return 2
    device = None if found.device is None else asdict(found.device)
    try:
        report = _read(options.out, {**machine(), "device": device}, options.small)
    except (OSError, ValueError) as error:
        say(f"--out {options.out} holds no report of this command ({error}); name another file.")
        return 2
    hardware = _hardware(report) if device else None
    status = 0
    for name in options.only:
        if not options.again and _is_done(report["cases"].get(name), device is not None):
            say(f"{name}: in {options.out.name} already")
            continue
        left_s = options.budget_s - (time.perf_counter() - started)
        if left_s <= 0:
            say(f"{name}: not run, the budget of {options.budget_s:g} s is spent; run the command again to go on")
            status = status or 3
            continue
        try:
            row = measured((loaders or {name: _loader(name)})[name](options.small), hardware, min(60.0, left_s), say)
        except Exception as error:  # one kernel that fails must not keep the others from being measured
            row = {"wrong": f"{type(error).__name__}: {error}"}
            say(f"{name}: FAILED\n{traceback.format_exc()}")
        report["cases"][name] = row
        status = 1 if "wrong" in row else status
        _write(options.out, report)
    say(f"written: {options.out} after {time.perf_counter() - started:.0f} s")
    return status


def say(line: str) -> None:
    """A line that is there even if the run is cut off after it."""
    print(line, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/gpu", description="Validates and times the CUDA kernels; writes JSON.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, written after each case and resumed")
    parser.add_argument("--small", action="store_true", help="small problems: a quick check that everything runs")
    parser.add_argument("--only", type=_names, default=NAMES, help=f"comma-separated cases of {','.join(NAMES)}")
    parser.add_argument("--budget-s", type=float, default=480.0, help="start no case after so many seconds")
    parser.add_argument("--again", action="store_true", help="measure cases that are in the file already")
    parser.add_argument("--cpu", action="store_true", help="without a GPU, time the CPU side alone")
    return parser.parse_args(argv)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r} names {unknown or 'nothing'}; expected some of {', '.join(NAMES)}")
    return names


def _loader(name: str) -> Loader:
    loader: Loader = importlib.import_module(name).case
    return loader


def _hardware(report: dict[str, Any]) -> Limits:
    """The device's limits and launch cost, measured now and put into the report."""
    found = limits()
    report["limits"] = asdict(found)
    report["launch"] = {name: asdict(times) for name, times in launch_cost().items()}
    device_us, host_us = (1e6 * report["launch"][side]["median_s"] for side in ("device", "host"))
    say(f"empty kernel: {device_us:.1f} us on the device, {host_us:.1f} us for the host")
    say(f"memory, TB/s: {found.bytes_per_s / 1e12:.2f} by data sheet, {found.copied_bytes_per_s / 1e12:.2f} by copying")
    return found


def _is_done(row: Mapping[str, Any] | None, on_gpu: bool) -> bool:
    return row is not None and "wrong" not in row and ("gpu" in row or not on_gpu)


def _read(path: Path, where: Mapping[str, Any], small: bool) -> dict[str, Any]:
    """The report in the file where it is of this machine and size, else a new one; `ValueError` where it is none."""
    new = {"machine": dict(where), "small": small, "cases": {}}
    if not path.exists():
        return new
    old = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(old, dict) or not isinstance(old.get("cases"), dict):
        raise ValueError("no cases in it")
    if (old.get("machine"), old.get("small")) == (json.loads(json.dumps(where)), small):
        return old
    say(f"{path.name} is of another machine or size; it is started anew.")
    return new


def _write(path: Path, report: Mapping[str, Any]) -> None:
    """All or nothing: a run that is cut off never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BackendUnavailableError as error:
        sys.exit(f"bench/gpu: {error}")
